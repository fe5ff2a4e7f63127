//! What the integration tests start and wait with.
//!
//! The parts themselves belong to the demo, so that both prove the same thing; here they are put
//! together for tests. Nothing here asserts: it gives errors, and the test says what they mean.

pub mod simulation;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use demo::{bridge, client, connector, ledger, load, sample, stack, trust};

use bridge::{Bridge, BridgeOptions};
use client::{CallError, Http, HttpVersion, Revision, Session, Target, Transport};
use process::{Failure, Tasks};
use stack::{Programs, Stack, StackOptions};

/// Any port of this machine alone.
pub const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How long a test waits for a state before it gives up.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A stack with the provider's side in front of it. Dropped, everything ends.
#[derive(Debug)]
pub struct Running {
    /// The programs.
    pub stack: Stack,
    /// The provider's side of the carrier `websocket`.
    pub bridge: Bridge,
    /// Owns the bridge and every connection of [`session`](Self::session).
    pub tasks: Tasks,
}

impl Running {
    /// Starts the programs beside the test, as `options` say.
    ///
    /// # Errors
    ///
    /// Which program did not become ready, with the end of its log.
    pub async fn start(options: StackOptions) -> Result<Self, Failure> {
        let tasks = Tasks::new();
        let stack = Stack::start(options, &tasks).await;
        let stack = stack.map_err(|error| error.failure())?;
        let bridge = BridgeOptions {
            listen: ANY,
            connector: stack.connector_address,
            host: stack.host(),
            path: "/".into(),
            ping: Duration::from_secs(1),
            varied: true,
        };
        let bridge = Bridge::start(bridge, &tasks).await;
        let bridge = bridge.map_err(|error| Failure::internal("no bridge").caused_by(&error))?;
        Ok(Self {
            stack,
            bridge,
            tasks,
        })
    }

    /// The carrier `websocket`, through bridge and connector.
    pub fn websocket(&self) -> Target {
        Target {
            address: self.bridge.address,
            host: self.stack.host(),
        }
    }

    /// `https://localhost:PORT/mcp` through the carrier `websocket`, for clients that speak TLS
    /// themselves. Their CA file is `stack.paths.trust`.
    pub fn websocket_url(&self) -> String {
        let port = self.bridge.address.port();
        format!("https://localhost:{port}{}", sample::PATH)
    }

    /// The same through the carrier `tls`.
    pub fn tls_url(&self) -> String {
        let port = self.stack.listeners.tls.port();
        format!("https://localhost:{port}{}", sample::PATH)
    }

    /// An MCP session with the sample server.
    ///
    /// # Errors
    ///
    /// The layer that failed.
    pub async fn session(
        &self,
        target: Target,
        version: HttpVersion,
        revision: Revision,
    ) -> Result<Session, CallError> {
        let http = Http::new(target, version, self.stack.trust(), &self.tasks)?;
        let transport = Transport::new(http, sample::PATH, std::sync::Arc::default());
        Session::begin(transport, revision).await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// A stack around the sample server, from the programs that cargo built beside this test.
///
/// # Errors
///
/// A program is not built.
pub fn options() -> Result<StackOptions, Failure> {
    let programs = Programs::beside().map_err(|error| error.failure())?;
    Ok(StackOptions::new(programs))
}

/// Waits until `holds`, at most [`LIMIT`].
///
/// # Errors
///
/// `what` did not come about.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), Failure> {
    let over = tokio::time::Instant::now() + LIMIT;
    while !holds().await {
        if tokio::time::Instant::now() > over {
            let limit = LIMIT.as_secs();
            return Err(Failure::internal(format!("{what}: not within {limit} s")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A program that `tests/install.sh` installed.
pub fn tool(name: &str) -> PathBuf {
    let cache = || {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        let cache = std::env::var_os("XDG_CACHE_HOME");
        let cache = cache.map_or_else(|| PathBuf::from(home).join(".cache"), PathBuf::from);
        cache.join("keyward-tests")
    };
    let tools = std::env::var_os("KEYWARD_TOOLS").map_or_else(cache, PathBuf::from);
    tools.join("bin").join(name)
}
