//! A tunnel that a daemon keeps at an edge, and calls through it: what `rotate` and `crash` put under load.
//!
//! It is the demo's stack, with proxy and edge as they are shipped on the measured core. All calls go by the edge and the proxy to
//! the MCP server, through inner mutual TLS, from callers who take the edge's address for the server's. Not by `keyward-edge
//! agent`: it keeps its connections, and what is kept sees no new certificate; without new connections nothing proves that a
//! CA works. The limits of a caller are raised, since all come from one address.

use std::sync::Arc;
use std::time::Duration;

use demo::client::{Revision, Target};
use demo::ledger::Ledger;
use demo::load::{Lane, Load, Plan, Rest, Server};
use demo::sample;
use demo::stack::{EdgeState, Programs, Rotation, Stack, StackOptions};
use process::{Failure, Tasks};
use serde_json::Value;

use crate::command::say;
use crate::figure::Findings;
use crate::machine::{MEASURED, output};
use crate::ours::shipped;
use crate::peers::text;

/// Every kind of rotation that there is.
pub(crate) const KINDS: [Rotation; 4] = [
    Rotation::ServerCertificate,
    Rotation::TunnelToken,
    Rotation::SharedSecret,
    Rotation::Ca,
];
/// Calls in flight in each of eight sessions.
const CALLERS: usize = 8;
/// Event streams in each.
const STREAMS: usize = 2;
/// What the sample server takes for every other call, on average, so that all callers always have one in flight and the
/// machine is not full of them.
const SLOW: Duration = Duration::from_millis(250);
/// Who may call: whoever is here, by server name, as much as they like. With client CAs it would be by CONNECT alone.
const ACCESS: &str =
    r#"{"cidrs":["127.0.0.0/8"],"limits":{"streams":100000,"connections_per_minute":10000000}}"#;
/// How often, instead of as often as the figures want: a run that brings no figure, and shows that the benchmark works.
const COUNT: &str = "KEYWARD_BENCH_COUNT";

/// The tunnel, and who keeps it.
pub(crate) struct Kept {
    pub(crate) stack: Stack,
    pub(crate) edge: EdgeState,
}

impl Kept {
    /// Starts everything. `settle`: how long verifiers have to learn a CA that the edge lists.
    pub(crate) async fn start(settle: Duration, tasks: &Tasks) -> Result<Self, Failure> {
        let mut programs = Programs::beside().map_err(|error| error.failure())?;
        programs.proxy = shipped("keyward-proxy")?;
        programs.edge = shipped("keyward-edge")?;
        let mut options = StackOptions::new(programs);
        options.edge = true;
        options.settle = settle;
        options.extra_names.clear();
        let stack = Stack::start(options, tasks).await;
        let stack = stack.map_err(|error| error.failure())?;
        let missing = || Failure::internal("the stack has no edge");
        let edge = stack.edge_state.clone().ok_or_else(missing)?;
        let access = stack.paths.root.join("access.json");
        let failed = |error| Failure::internal("no access list").caused_by(&error);
        std::fs::write(&access, ACCESS).map_err(failed)?;
        let words = ["access", "set", &edge.tunnel, text(&access)];
        edge.command(&words)
            .await
            .map_err(|error| error.failure())?;
        for program in [Some(&stack.proxy), stack.edge.as_ref()] {
            let id = program.and_then(demo::stack::Program::id);
            let id = id.ok_or_else(|| Failure::internal("proxy or edge ended"))?;
            output(&["taskset", "-a", "-c", "-p", MEASURED, &id.to_string()]).await?;
        }
        Ok(Self { stack, edge })
    }

    /// 64 calls and 16 event streams in flight.
    pub(crate) async fn load(&self, ledger: &Arc<Ledger>, tasks: &Tasks) -> Result<Load, Failure> {
        let named = Target {
            address: self.edge.address,
            host: self.stack.host(),
        };
        let revisions = [Revision::Sessions, Revision::Stateless];
        let named = [("edge", named)];
        let twice = [Lane::all(&named, &revisions), Lane::all(&named, &revisions)];
        let plan = Plan {
            lanes: twice.concat(),
            path: sample::PATH.to_owned(),
            server: Server::Sample,
            callers: CALLERS,
            rest: Rest::InFlight(SLOW),
            streams: STREAMS,
            // Three seconds, longer than most rotations.
            steps: 30,
            interval: Duration::from_millis(100),
        };
        let load = Load::start(&plan, self.stack.trust(), ledger, tasks).await;
        load.map_err(|(lane, error)| {
            Failure::internal(format!("no session over {}", lane.name())).caused_by(&error)
        })
    }

    /// How often the edge did this for the daemon, by its audit log.
    pub(crate) async fn audited(&self, action: &str) -> Result<u64, Failure> {
        let rows = self.edge.command(&["audit", "--limit", "100000"]).await;
        let rows = rows.map_err(|error| error.failure())?;
        let rows = rows.get("data").and_then(Value::as_array);
        let by_daemon = |row: &&Value| {
            let said = |name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default();
            said("action") == action
                && said("outcome") == "done"
                && said("actor").starts_with("rule:")
        };
        let count = rows.into_iter().flatten().filter(by_daemon).count();
        Ok(u64::try_from(count).unwrap_or(u64::MAX))
    }

    /// Ends the programs; whatever they have to complain of is an error. `keep`: their files stay.
    pub(crate) async fn stop(self, keep: bool) -> Result<(), Failure> {
        let root = self.stack.paths.root.clone();
        let complaints = self.stack.stop(keep).await;
        if keep {
            say(&format!("everything is kept in {}", root.display()));
        }
        if complaints.is_empty() {
            Ok(())
        } else {
            Err(Failure::internal(complaints.join(", ")))
        }
    }
}

/// How often this time, where `wanted` is what the figures want.
pub(crate) fn count(wanted: u32) -> Result<u32, Failure> {
    match std::env::var(COUNT) {
        Err(_) => Ok(wanted),
        Ok(text) => {
            let number = text
                .parse()
                .ok()
                .filter(|number| (1..=wanted).contains(number));
            number.ok_or_else(|| Failure::config(format!("{COUNT} is not from 1 to {wanted}")))
        }
    }
}

/// Brings a figure, unless this is a run that brings none.
pub(crate) fn bring(findings: &mut Findings, whole: bool, id: &str, count: u64) {
    say(&format!("{id} {count}"));
    if whole {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        findings.absolute(id, count);
    }
}
