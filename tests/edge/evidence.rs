//! What can be read of a program from outside: its files, and what is said on the wire. Its memory: `rig::memory`.
//!
//! Needs root, as CI has it: nobody else may read a hardened program's memory or every packet.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::rig::until;

/// Begins every canary, so that one search finds them all. What is searched for and what is found can
/// be told apart from every other text.
pub(super) const CANARY: &str = "canary-7c1e5a";

/// A word that nothing else has; `place` says where it was put.
pub(super) fn canary(place: &str) -> String {
    format!("{CANARY}-{place}.")
}

/// The places of all canaries in `bytes`.
pub(super) fn canaries(bytes: &[u8]) -> BTreeSet<String> {
    let found = occurrences(bytes, format!("{CANARY}-").as_bytes());
    let place = |at: usize| {
        let rest = bytes.get(at + CANARY.len() + 1..).unwrap_or_default();
        let rest = rest.iter().take(32).take_while(|byte| **byte != b'.');
        rest.map(|byte| char::from(*byte)).collect()
    };
    found.into_iter().map(place).collect()
}

/// Whether `part` is in `bytes`.
pub(super) fn holds(bytes: &[u8], part: &[u8]) -> bool {
    !occurrences(bytes, part).is_empty()
}

fn occurrences(bytes: &[u8], part: &[u8]) -> Vec<usize> {
    let first = part[0];
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
    let starts = starts.map(|(at, _)| at);
    starts.filter(|at| bytes[*at..].starts_with(part)).collect()
}

/// Every file below `folder`.
pub(super) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                // A database may delete a file of its own meanwhile.
                found.extend(std::fs::read(&path).ok().map(|bytes| (path, bytes)));
            }
        }
    }
    found
}

/// Ends a capture.
const LAST: &[u8] = b"the last that is said";

/// tcpdump on the loopback device.
pub(super) struct Capture {
    child: Child,
    file: PathBuf,
    said: PathBuf,
}

/// What one end said to another, in the order in which it was on the wire.
pub(super) struct Flow {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

impl Capture {
    /// Notes every packet that `filter` (pcap-filter(7)) takes, until [`finish`](Self::finish).
    pub(super) async fn start(folder: &Path, filter: &str) -> Self {
        let (file, said) = (folder.join("packets"), folder.join("tcpdump.log"));
        let path = format!(
            "{}:/usr/bin:/usr/sbin",
            std::env::var("PATH").unwrap_or_default()
        );
        let child = Command::new("tcpdump")
            .args([
                "-i", "lo", "-s", "0", "-B", "65536", "-U", "-Z", "root", "-w",
            ])
            .arg(&file)
            .arg(filter)
            .env("PATH", path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&said).unwrap())
            .kill_on_drop(true)
            .spawn()
            .expect("tcpdump is installed: tests/install.sh");
        let this = Self { child, file, said };
        until("the capture", async || {
            this.said().contains("listening on").then_some(())
        })
        .await;
        this
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap()
    }

    /// Everything that went by: not one packet was missed. What listens at `last` gets a few bytes that mean nothing,
    /// so that there is a last packet to wait for.
    pub(super) async fn finish(mut self, last: SocketAddr) -> Vec<Flow> {
        let mut stream = TcpStream::connect(last).await.unwrap();
        stream.write_all(LAST).await.unwrap();
        until("the last packet", async || {
            holds(&std::fs::read(&self.file).unwrap(), LAST).then_some(())
        })
        .await;
        let id = self.child.id().unwrap().try_into().unwrap();
        let id = rustix::process::Pid::from_raw(id).unwrap();
        rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
        self.child.wait().await.unwrap();
        let said = self.said();
        assert!(said.contains("\n0 packets dropped by kernel"), "{said}");
        flows(&std::fs::read(&self.file).unwrap())
    }
}

/// The file format of pcap-savefile(5), of a machine like this one, with Ethernet headers. Loopback loses
/// nothing and keeps the order; what is sent again is in it twice, which does no harm to a search.
fn flows(file: &[u8]) -> Vec<Flow> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_c3d4, 1), "another file format");
    let mut flows: BTreeMap<(SocketAddr, SocketAddr), Vec<u8>> = BTreeMap::new();
    let mut at = 24;
    while at < file.len() {
        let (captured, whole) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, whole, "a packet was cut");
        let packet = &file[at + 16..at + 16 + captured];
        at += 16 + captured;
        let internet = &packet[14..];
        assert_eq!(internet[0] >> 4, 4, "all of it is IPv4");
        let segment = &internet[usize::from(internet[0] & 15) * 4..];
        let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        let address = |at: usize| {
            let octets: [u8; 4] = internet[at..at + 4].try_into().unwrap();
            IpAddr::from(Ipv4Addr::from(octets))
        };
        let ends = (
            SocketAddr::new(address(12), port(0)),
            SocketAddr::new(address(16), port(2)),
        );
        let payload = &segment[usize::from(segment[12] >> 4) * 4..];
        flows.entry(ends).or_default().extend_from_slice(payload);
    }
    let flow = |((from, to), bytes)| Flow { from, to, bytes };
    flows.into_iter().map(flow).collect()
}

#[test]
fn every_canary_is_found_and_only_canaries() {
    let text = format!("x{}c{}{}", canary("a"), canary("b"), CANARY);
    let found = canaries(text.as_bytes());
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert!(canaries(b"nothing").is_empty());
}
