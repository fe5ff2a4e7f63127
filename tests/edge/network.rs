//! Networks of a test's own: namespaces for an edge, a proxy and an agent, cables between them, and what a bad network
//! does to packets. Nothing of it is in the namespace of the host, and all of it goes with what made it.
//!
//! Needs root, `ip` and `iptables` (tests/install.sh). Where namespaces cannot be made, the test fails.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::process::Command;

/// In 100.
const LOST: u32 = 5;

/// Where Debian has `ip`, `tc` and `iptables`, whoever starts the tests.
fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin")
}

fn tool(program: &str, words: &[&str]) -> Output {
    let mut command = std::process::Command::new(program);
    let output = command.env("PATH", path()).args(words).output();
    output.unwrap_or_else(|error| panic!("{program}, of tests/install.sh: {error}"))
}

fn ip(words: &[&str]) {
    let output = tool("ip", words);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words:?}: {said}");
}

/// A network namespace. Dropped, it is gone, with the cables that end in it.
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    fn new(role: &str) -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keyward-{}-{number}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        let this = Self { name };
        ip(&["-n", &this.name, "link", "set", "lo", "up"]);
        Arc::new(this)
    }

    /// A cable to `other`: the devices have the names of where they lead to.
    fn cable(&self, own: (&str, Ipv4Addr), other: &Self, theirs: (&str, Ipv4Addr)) {
        ip(&[
            "link",
            "add",
            own.0,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            theirs.0,
            "netns",
            &other.name,
        ]);
        for (place, (device, address)) in [(self, own), (other, theirs)] {
            let address = format!("{address}/30");
            ip(&["-n", &place.name, "addr", "add", &address, "dev", device]);
            ip(&["-n", &place.name, "link", "set", device, "up"]);
        }
    }

    /// Runs a program inside, with nothing of this one's environment but where programs are.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.env_clear().env("PATH", path());
        command.args(["netns", "exec", &self.name]).arg(program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    fn tool(&self, program: &str, words: &[&str]) -> Output {
        tool(
            "ip",
            &[&["netns", "exec", &self.name, program], words].concat(),
        )
    }

    fn iptables(&self, words: &[&str]) -> String {
        let output = self.tool("iptables", &[&["-w"], words].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "iptables {words:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What comes in (`INPUT`) or goes out (`OUTPUT`) is lost, and nobody is told.
    pub(super) fn drop_all(&self, chain: &str) {
        let device = if chain == "INPUT" { "-i" } else { "-o" };
        self.iptables(&["-A", chain, "!", device, "lo", "-j", "DROP"]);
    }

    /// Everything goes through again.
    pub(super) fn heal(&self) {
        self.iptables(&["-F"]);
    }

    /// Loses some of what it receives. Where the kernel can, what it sends is lost and late.
    pub(super) fn lose(&self, devices: &[&str]) -> Loss {
        let loss = format!("{LOST}%");
        for device in devices {
            let words = ["qdisc", "add", "dev", device, "root", "netem"];
            let faults = ["delay", "30ms", "10ms", "loss", &*loss];
            let output = self.tool("tc", &[&words[..], &faults].concat());
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.contains("qdisc kind is unknown"), "tc: {said}");
                let probability = (f64::from(LOST) / 100.0).to_string();
                let random = ["--mode", "random", "--probability", &*probability];
                let rule = ["-A", "INPUT", "!", "-i", "lo", "-m", "statistic"];
                self.iptables(&[&rule[..], &random, &["-j", "DROP"]].concat());
                return Loss::Input;
            }
        }
        Loss::Netem
    }

    /// How many packets were lost.
    pub(super) fn lost(&self, loss: Loss) -> u64 {
        let (text, at) = match loss {
            // "Sent 1234 bytes 12 pkt (dropped 3, overlimits 0 requeues 0)"
            Loss::Netem => {
                let output = self.tool("tc", &["-s", "qdisc", "show"]);
                (String::from_utf8(output.stdout).unwrap(), "dropped ")
            }
            // "[3:180] -A INPUT … -j DROP"
            Loss::Input => {
                let output = self.tool("iptables-save", &["-c", "-t", "filter"]);
                (String::from_utf8(output.stdout).unwrap(), "[")
            }
        };
        let lines = text.lines().filter(|line| match loss {
            Loss::Netem => line.contains(at),
            Loss::Input => line.contains("-A INPUT"),
        });
        let counts = lines.filter_map(|line| {
            let (_, rest) = line.split_once(at)?;
            let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next()?;
            digits.parse::<u64>().ok()
        });
        counts.sum()
    }

    /// Nothing goes in or out but on connections that are there, and to and from itself.
    pub(super) fn close(&self) {
        for [chain, device] in [["INPUT", "-i"], ["OUTPUT", "-o"]] {
            self.iptables(&["-P", chain, "DROP"]);
            self.iptables(&["-A", chain, device, "lo", "-j", "ACCEPT"]);
            let known = ["-m", "conntrack", "--ctstate", "ESTABLISHED"];
            self.iptables(&[&["-A", chain], &known[..], &["-j", "ACCEPT"]].concat());
        }
    }

    /// Lets through what a program's `--firewall` says that it needs, and no more.
    pub(super) fn open(&self, told: &str) {
        for line in told.lines() {
            let fields: Vec<_> = line.split('\t').collect();
            let [direction, protocol, host, port, why] = fields[..] else {
                panic!("not five fields: {line}");
            };
            if why.ends_with("this machine alone") {
                continue;
            }
            let chain = match direction {
                "in" => "INPUT",
                "out" => "OUTPUT",
                other => panic!("{other}: {line}"),
            };
            let mut rule = vec!["-A", chain, "-p", protocol];
            if host != "*" {
                rule.extend(["-d", host]);
            }
            if port != "*" {
                rule.extend(["--dport", port]);
            }
            rule.extend(["-m", "conntrack", "--ctstate", "NEW", "-j", "ACCEPT"]);
            self.iptables(&rule);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Also while a test panics, so that nothing in here may.
        let _ = tool("ip", &["netns", "del", &self.name]);
    }
}

/// How packets are lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// By the queue of each device, with a delay.
    Netem,
    /// By a rule for what comes in, because this kernel has no such queue.
    Input,
}

/// An edge with a cable to a proxy and one to an agent.
pub(super) struct Network {
    pub(super) edge: Arc<Namespace>,
    pub(super) proxy: Arc<Namespace>,
    pub(super) agent: Arc<Namespace>,
}

impl Network {
    /// Where the edge is, for a proxy and for an agent. For tests of networks (RFC 2544), and the same in each test.
    pub(super) const EDGE_TO_PROXY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
    const PROXY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
    pub(super) const EDGE_TO_AGENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 5);
    pub(super) const AGENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 6);

    pub(super) fn new() -> Self {
        let [edge, proxy, agent] = ["edge", "proxy", "agent"].map(Namespace::new);
        edge.cable(
            ("proxy", Self::EDGE_TO_PROXY),
            &proxy,
            ("edge", Self::PROXY),
        );
        edge.cable(
            ("agent", Self::EDGE_TO_AGENT),
            &agent,
            ("edge", Self::AGENT),
        );
        Self { edge, proxy, agent }
    }

    fn names(&self) -> Vec<String> {
        let places = [&self.edge, &self.proxy, &self.agent];
        places.map(|place| place.name.clone()).into()
    }
}

fn said_by_ip(words: &[&str]) -> String {
    String::from_utf8(tool("ip", words).stdout).unwrap()
}

#[test]
fn a_network_is_outside_of_the_hosts_and_goes_with_a_test_that_panics() {
    let before = said_by_ip(&["-o", "link"]);
    let ended = std::panic::catch_unwind(|| {
        let network = Network::new();
        let names = network.names();
        let there = said_by_ip(&["netns", "list"]);
        assert!(names.iter().all(|name| there.contains(&**name)), "{there}");
        assert_eq!(
            said_by_ip(&["-o", "link"]),
            before,
            "no end of a cable is here"
        );
        // As a failed assertion does.
        std::panic::resume_unwind(Box::new(names));
    });
    let names = ended.unwrap_err().downcast::<Vec<String>>().unwrap();
    let there = said_by_ip(&["netns", "list"]);
    assert!(!names.iter().any(|name| there.contains(&**name)), "{there}");
    assert_eq!(said_by_ip(&["-o", "link"]), before);
}
