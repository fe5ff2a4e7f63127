//! What running proxies say when they are asked: the reasons of their readiness, where they listen, how their upstreams are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::handshake::{Carrier, ShakeError, shake};
use crate::status::Status;

/// Where a proxy's health listener is unless told otherwise.
pub(super) const DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
/// It dials every upstream before it answers, and may wait for each as long as for a call.
const LIMIT: Duration = Duration::from_secs(60);
/// Longest answer that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// A proxy that was asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) addr: SocketAddr,
    pub(super) said: Result<Checkup, String>,
    pub(super) handshakes: Vec<Handshake>,
}

/// What a proxy says.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Checkup {
    /// Why it is not ready.
    pub(super) reasons: Vec<String>,
    pub(super) carriers: Vec<Listening>,
    pub(super) routes: Vec<Route>,
}

/// A carrier that listens.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Listening {
    pub(super) name: String,
    pub(super) addr: SocketAddr,
}

/// A route whose upstream was dialled.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Route {
    /// Empty: of every tunnel.
    pub(super) tunnel: String,
    #[serde(rename = "route")]
    pub(super) name: String,
    pub(super) upstream: String,
    pub(super) error: Option<String>,
    pub(super) next: Option<String>,
}

/// A handshake that was begun with a proxy.
#[derive(Debug)]
pub(super) struct Handshake {
    pub(super) tunnel: String,
    pub(super) carrier: String,
    pub(super) outcome: Result<(), ShakeError>,
}

/// Asks one, and begins a handshake for every tunnel of `status` over every carrier of it that listens.
pub(super) async fn ask(addr: SocketAddr, status: &Status, only: Option<&str>) -> Asked {
    let asked = tokio::time::timeout(LIMIT, checkup(addr)).await;
    let said = match asked {
        Ok(Ok(checkup)) => Ok(checkup),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    };
    let mut handshakes = Vec::new();
    let carriers = said.iter().flat_map(|said| &said.carriers);
    for listening in carriers {
        let carrier = match listening.name.as_str() {
            "tls" => Carrier::Tls,
            "websocket" => Carrier::WebSocket,
            _ => continue,
        };
        let tunnels = status.tunnels.iter();
        for (name, tunnel) in tunnels.filter(|(name, _)| only.is_none_or(|only| only == *name)) {
            let Some(ca) = &tunnel.ca else { continue };
            let host = format!("doctor.{}", tunnel.domain);
            let address = near(addr, listening.addr);
            handshakes.push(Handshake {
                tunnel: name.clone(),
                carrier: listening.name.clone(),
                outcome: shake(carrier, address, &host, &ca.pem).await,
            });
        }
    }
    Asked {
        addr,
        said,
        handshakes,
    }
}

async fn checkup(addr: SocketAddr) -> io::Result<Checkup> {
    let mut stream = TcpStream::connect(near(addr, addr)).await?;
    let request = format!("GET /v1/checkup HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split(' ').nth(1) != Some("200") {
        let line = head.lines().next().unwrap_or_default();
        let shown: String = line.chars().filter(|letter| !letter.is_control()).collect();
        return Err(io::Error::other(format!("it answers {shown:?}")));
    }
    serde_json::from_str(body).map_err(|_| io::Error::other("what answers is no keyward-proxy"))
}

/// A listener on every address is dialled where its neighbour was reached.
fn near(reached: SocketAddr, addr: SocketAddr) -> SocketAddr {
    let ip = match (addr.ip(), reached.ip()) {
        (ip, _) if !ip.is_unspecified() => ip,
        (_, reached) if !reached.is_unspecified() => reached,
        (IpAddr::V4(_), _) => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(_), _) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, addr.port())
}
