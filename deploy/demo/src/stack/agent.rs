//! `keyward-edge agent`, as a user of this machine runs it: a local name for the route, outer and inner TLS behind it.
//!
//! Its certificate comes from the daemon's client CA, and its CA file is the stack's trust file, which it takes up by itself when
//! the tunnel's CA rotates.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use pki::Fingerprint;
use serde_json::Value;
use tokio::time::Instant;

use super::edge::{AGENT, EDGE, Edge};
use super::{Paths, Pipes, Program, ROUTE, StackError, start};
use crate::client::Target;

/// Between two looks at a log.
const PACE: Duration = Duration::from_millis(5);

/// The agent, which runs when everything else does.
#[derive(Debug)]
pub struct Agent {
    /// The program.
    pub program: Program,
    address: SocketAddr,
}

impl Agent {
    /// Starts it, to call through `edge`.
    pub(super) async fn start(edge: &Edge, paths: &Paths) -> Result<Self, StackError> {
        let file = |name: &str| edge.folder.join(name).into_os_string();
        let words: [OsString; 17] = [
            "agent".into(),
            "--edge".into(),
            format!("https://{EDGE}:{}", edge.state.address.port()).into(),
            "--edge-address".into(),
            edge.state.address.to_string().into(),
            "--edge-ca".into(),
            file("edge-ca.crt"),
            "--tunnel-domain".into(),
            edge.domain().into(),
            "--cert".into(),
            file(&format!("{AGENT}.crt")),
            "--key".into(),
            file(&format!("{AGENT}.key")),
            "--ca".into(),
            paths.trust.clone().into_os_string(),
            "--listen".into(),
            "127.0.0.1:0".into(),
        ];
        let path = &edge.state.program;
        let mut program = Program::start("agent", path, &words, &paths.logs, Pipes::None)?;
        let over = Instant::now() + start::READY;
        loop {
            let line = last(&program.log, "agent serves");
            let listen = line.as_ref().and_then(|line| line.get("listen")?.as_str());
            if let Some(address) = listen.and_then(|listen| listen.parse().ok()) {
                return Ok(Self { program, address });
            }
            if let Some(ended) = program.ended() {
                return Err(StackError::Ended(ended));
            }
            if Instant::now() > over {
                return Err(program.not_ready("it does not serve").await);
            }
            tokio::time::sleep(PACE).await;
        }
    }

    /// The route, by the name that it has on this machine.
    pub(super) fn target(&self) -> Target {
        Target {
            address: self.address,
            host: format!("{ROUTE}.localhost:{}", self.address.port()),
        }
    }

    /// Waits until new connections are verified against `trust`, the text of its CA file.
    pub(super) async fn holds(&self, trust: &str, limit: Duration) -> Result<(), StackError> {
        let wanted = Fingerprint::of(trust.as_bytes()).to_string();
        let over = Instant::now() + limit;
        loop {
            let line = last(&self.program.log, "files taken");
            let held = line
                .as_ref()
                .and_then(|line| line.get("tunnel_ca_file")?.as_str());
            if held == Some(&*wanted) {
                return Ok(());
            }
            if let Some(ended) = self.program.ended() {
                return Err(StackError::Ended(ended));
            }
            if Instant::now() > over {
                return Err(StackError::NotReady {
                    program: self.program.name,
                    why: "it does not take up the tunnel's CA".into(),
                    tail: super::program::tail(&self.program.log),
                    log: self.program.log.clone(),
                });
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

/// The last line with this message.
fn last(log: &Path, message: &str) -> Option<Value> {
    let text = std::fs::read_to_string(log).ok()?;
    let line = text.lines().rev().find(|line| line.contains(message))?;
    serde_json::from_str(line).ok()
}
