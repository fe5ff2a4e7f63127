//! What a firewall has to let through, as every program's `check --firewall` prints it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// Lines of direction, protocol, host, port and purpose, tabs between; host and port `*` are any.
#[derive(Clone, Debug, Default)]
pub struct Firewall {
    lines: BTreeSet<String>,
    named: bool,
}

impl Firewall {
    /// Others connect here.
    pub fn listen(&mut self, addr: SocketAddr, why: &str) {
        let host = match addr.ip() {
            ip if ip.is_unspecified() => "*".to_owned(),
            ip => ip.to_string(),
        };
        let near = if addr.ip().is_loopback() {
            ", this machine alone"
        } else {
            ""
        };
        let line = format!("in\ttcp\t{host}\t{}\t{why}{near}", addr.port());
        self.lines.insert(line);
    }

    /// This program connects there; a name, `*` among them, has to be resolved, too.
    pub fn dial(&mut self, host: &str, port: u16, why: &str) {
        self.named |= host.parse::<IpAddr>().is_err();
        self.lines
            .insert(format!("out\ttcp\t{host}\t{port}\t{why}"));
    }

    /// It connects to what only others know.
    pub fn dial_anything(&mut self, why: &str) {
        self.named = true;
        self.lines.insert(format!("out\ttcp\t*\t*\t{why}"));
    }
}

impl fmt::Display for Firewall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut lines = self.lines.clone();
        if self.named {
            for protocol in ["tcp", "udp"] {
                let why = "name resolution, by the system's resolvers";
                lines.insert(format!("out\t{protocol}\t*\t53\t{why}"));
            }
        }
        lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
