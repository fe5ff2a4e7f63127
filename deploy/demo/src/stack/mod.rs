//! The whole stack on loopback, each program a process of its own.
//!
//! `keyward`, `keyward-proxy` and `keyward-edge` run exactly as an operator runs them; the sample server and the connector double are this program under hidden words. Everything lives in
//! one temporary folder of mode 0700, and goes with the [`Stack`].

mod agent;
mod edge;
mod error;
mod files;
mod operator;
mod program;
mod rotate;
mod start;
mod state;
mod workload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use process::Tasks;
use serde_json::Value;
use tempfile::TempDir;

pub use agent::Agent;
pub use error::StackError;
pub use files::{Listeners, Paths};
pub use operator::{Operator, OperatorError, Rotation};
pub use program::{Ended, Pipes, Program, Programs};
pub use state::EdgeState;

use crate::client::Target;
use crate::trust::Trust;
use edge::Edge;

/// Name of the one tunnel.
pub const TUNNEL: &str = "main";
/// Name of the route to the MCP server.
pub const ROUTE: &str = "sample";

/// How long programs get to drain at the end.
const DRAIN: Duration = Duration::from_secs(10);

/// What a stack is started with.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// Where the programs are.
    pub programs: Programs,
    /// `<tunnel-domain>`.
    pub domain: String,
    /// The MCP server behind the route, `scheme://host:port`; `None`: a sample server is started.
    pub upstream: Option<String>,
    /// Further routes, full or bare host to upstream. `localhost` leads where the route leads.
    pub routes: Vec<(String, String)>,
    /// Names in the server certificate besides those of the domain.
    pub extra_names: Vec<String>,
    /// `upstream.allowed_ips` of the proxy.
    pub allowed_ips: Vec<String>,
    /// `upstream.tls.include_system_cas` of the proxy.
    pub system_cas: bool,
    /// `log_level` of both.
    pub log_level: String,
    /// Lines to add to `keyward.yaml`, indented to belong to the tunnel or not.
    pub daemon_yaml: String,
    /// Lines to add to the proxy's file.
    pub proxy_yaml: String,
    /// How long streams outlive the connector's SIGTERM.
    pub grace: Duration,
    /// With an edge that the proxy dials, and an agent that calls through it. The tunnel's domain is the edge's choice then, the
    /// daemon keeps CA, token and shared secret there, and every carrier wants a client certificate.
    pub edge: bool,
    /// How long verifiers may take to learn a CA that the edge lists, in whole seconds. Zero where they are given it ahead, as
    /// [`Stack::rotate`] does.
    pub settle: Duration,
}

impl StackOptions {
    /// A stack around a sample server.
    pub fn new(programs: Programs) -> Self {
        Self {
            programs,
            domain: "demo.tunnel.example".into(),
            upstream: None,
            routes: Vec::new(),
            extra_names: vec!["localhost".into()],
            allowed_ips: vec!["127.0.0.0/8".into(), "::1/128".into()],
            system_cas: false,
            log_level: "info".into(),
            daemon_yaml: String::new(),
            proxy_yaml: String::new(),
            grace: Duration::from_secs(30),
            edge: false,
            settle: Duration::ZERO,
        }
    }
}

/// A stack that stands. Dropped, its programs are killed and its folder is removed.
#[derive(Debug)]
pub struct Stack {
    /// The daemon.
    pub daemon: Program,
    /// The proxy.
    pub proxy: Program,
    /// The connector double.
    pub connector: Program,
    /// The sample server, unless the upstream is somebody's own.
    pub sample: Option<Program>,
    /// The edge, if there is one.
    pub edge: Option<Program>,
    /// Its state, by the command line of its operator.
    pub edge_state: Option<EdgeState>,
    /// The agent that calls through it.
    pub agent: Option<Agent>,
    /// Where the proxy listens.
    pub listeners: Listeners,
    /// Where the connector takes far peers.
    pub connector_address: SocketAddr,
    /// Where the connector answers `/ready`.
    pub connector_metrics: SocketAddr,
    /// `scheme://host:port` behind the route.
    pub upstream: String,
    /// Its files.
    pub paths: Paths,
    /// The daemon's operator socket.
    pub operator: Operator,
    options: StackOptions,
    trust: Arc<Trust>,
    rotating_ca: tokio::sync::Mutex<()>,
    // Last, so that the folder goes after the programs.
    folder: Option<TempDir>,
}

impl Stack {
    /// Starts everything and waits until it is ready.
    ///
    /// # Errors
    ///
    /// See [`StackError`]: which program, the end of its log. Its folder is kept then.
    pub async fn start(options: StackOptions, tasks: &Tasks) -> Result<Self, StackError> {
        let folder = tempfile::Builder::new()
            .prefix("keyward-demo-")
            .tempdir()
            .map_err(|error| StackError::Io {
                what: "make a temporary folder".into(),
                error,
            })?;
        let paths = Paths::make(folder.path())?;
        match Self::start_in(options, paths, tasks).await {
            Ok(mut stack) => {
                stack.folder = Some(folder);
                Ok(stack)
            }
            Err(error) => {
                // The error names a log in it.
                let _ = folder.keep();
                Err(error)
            }
        }
    }

    async fn start_in(
        mut options: StackOptions,
        paths: Paths,
        tasks: &Tasks,
    ) -> Result<Self, StackError> {
        let (sample, upstream) = if let Some(upstream) = &options.upstream {
            (None, upstream.clone())
        } else {
            let (sample, address) = start::sample(&options, &paths.logs).await?;
            (Some(sample), format!("http://{address}"))
        };
        let edge = if options.edge {
            let edge = Edge::start(&options, &paths).await?;
            edge.domain().clone_into(&mut options.domain);
            Some(edge)
        } else {
            None
        };
        let remote = edge.as_ref().map(|edge| edge.remote(&options));
        paths.write_daemon(&options, remote.as_ref())?;
        let operator = Operator::new(&paths.operator_socket, tasks);
        let daemon = start::daemon(&options, &paths, &operator).await?;
        let trust = Trust::new();
        if let Some(edge) = &edge {
            let status = operator.status().await?;
            edge.admit(&options, &paths, &status, &trust).await?;
        }
        let carrier = edge.as_ref().map(Edge::carrier).unwrap_or_default();
        let (proxy, listeners) = start::proxy(&options, &paths, &upstream, &carrier).await?;
        let (connector, connector_address, connector_metrics) =
            start::connector(&options, listeners.websocket, &paths.logs).await?;
        let mut this = Self {
            daemon,
            proxy,
            connector,
            sample,
            edge: None,
            edge_state: None,
            agent: None,
            listeners,
            connector_address,
            connector_metrics,
            upstream,
            paths,
            operator,
            options,
            trust,
            rotating_ca: tokio::sync::Mutex::new(()),
            folder: None,
        };
        this.follow(&this.operator.status().await?)?;
        if let Some(edge) = edge {
            this.agent = Some(Agent::start(&edge, &this.paths).await?);
            this.edge_state = Some(edge.state);
            this.edge = Some(edge.program);
        }
        Ok(this)
    }

    /// The public name of the route.
    pub fn host(&self) -> String {
        format!("{ROUTE}.{}", self.options.domain)
    }

    /// What clients of this stack trust; it follows the CA's rotations by [`rotate`](Self::rotate).
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// The carrier `tls`.
    pub fn tls(&self) -> Target {
        Target {
            address: self.listeners.tls,
            host: self.host(),
        }
    }

    /// The way by the agent, if there is one: the route's name on this machine, without TLS.
    pub fn agent(&self) -> Option<Target> {
        self.agent.as_ref().map(Agent::target)
    }

    /// Starts the daemon anew, after it ended, and does not wait for it.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start_daemon(&mut self) -> Result<(), StackError> {
        self.daemon = start::begin_daemon(&self.options, &self.paths)?;
        Ok(())
    }

    /// The generation that is published.
    ///
    /// # Errors
    ///
    /// The daemon does not answer.
    pub async fn generation(&self) -> Result<u64, StackError> {
        let status = self.operator.status().await?;
        let generation = tunnel(&status, "generation").and_then(Value::as_u64);
        Ok(generation.unwrap_or_default())
    }

    /// The first program that ended by itself.
    pub fn ended(&self) -> Option<Ended> {
        let programs = [&self.daemon, &self.proxy, &self.connector];
        let agent = self.agent.as_ref().map(|agent| &agent.program);
        let more = [self.sample.as_ref(), self.edge.as_ref(), agent];
        let mut programs = programs.into_iter().chain(more.into_iter().flatten());
        programs.find_map(Program::ended)
    }

    /// Stops every program, from the outside to the inside, and says which one did not end well.
    pub async fn stop(mut self, keep: bool) -> Vec<String> {
        let mut complaints = Vec::new();
        let programs = [
            self.agent.as_mut().map(|agent| &mut agent.program),
            Some(&mut self.connector),
            Some(&mut self.proxy),
            self.edge.as_mut(),
            Some(&mut self.daemon),
            self.sample.as_mut(),
        ];
        for program in programs.into_iter().flatten() {
            match program.stop(DRAIN).await {
                Some(status) if status.success() => {}
                Some(status) => complaints.push(format!("{} ended with {status}", program.name)),
                None => complaints.push(format!(
                    "{} did not drain within {} s",
                    program.name,
                    DRAIN.as_secs()
                )),
            }
        }
        if keep && let Some(folder) = self.folder.take() {
            let _ = folder.keep();
        }
        complaints
    }

    /// Trusts the CA certificates of `status`.
    fn follow(&self, status: &Value) -> Result<(), StackError> {
        let certificates: Vec<&str> = ["ca/pem", "standby_ca/pem"]
            .iter()
            .filter_map(|key| tunnel(status, key)?.as_str())
            .collect();
        let before = self.trust.pem();
        self.trust.hold(&certificates)?;
        let now = self.trust.pem();
        if now == before {
            return Ok(());
        }
        self.paths.write_trust(&now)
    }
}

impl Drop for Stack {
    /// The folder can only be removed when nobody writes into it any more.
    fn drop(&mut self) {
        let programs = [&mut self.daemon, &mut self.proxy, &mut self.connector];
        let agent = self.agent.as_mut().map(|agent| &mut agent.program);
        let more = [self.sample.as_mut(), self.edge.as_mut(), agent];
        for program in programs.into_iter().chain(more.into_iter().flatten()) {
            program.end();
        }
    }
}

fn tunnel<'a>(status: &'a Value, key: &str) -> Option<&'a Value> {
    status.pointer(&format!("/tunnels/{TUNNEL}/{key}"))
}
