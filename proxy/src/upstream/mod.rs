//! One upstream MCP server: finding it, dialling it, and keeping connections to it.
//!
//! Knows nothing of callers, routes or JSON-RPC. No redirect is followed anywhere: a redirect is an
//! answer like any other.

mod address;
mod bell;
mod connect;
mod link;
mod pool;
mod stream;
mod tls;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use process::metrics::Counter;

use crate::config::UpstreamPolicy;
use crate::config::value::Target;

pub use address::{NotAllowed, PRIVATE, check};
pub use connect::ConnectError;
pub(crate) use link::{Answer, Link, Parts, Unanswered};
pub(crate) use stream::Stream;
pub use tls::Trust;
use upload::Seen;
pub(crate) use upload::Upload;

/// What all upstreams of a proxy share.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) policy: UpstreamPolicy,
    pub(crate) trust: Option<Trust>,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_connections: usize,
}

/// An upstream MCP server and the idle connections to it. Lives as long as a route or a call uses it.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) target: Target,
    /// Connections opened so far.
    pub(crate) opened: Counter,
    rules: Arc<Rules>,
    idle: pool::Idle,
}

impl Upstream {
    pub(crate) fn new(target: Target, rules: Arc<Rules>) -> Self {
        Self {
            target,
            opened: Counter::default(),
            rules,
            idle: pool::Idle::default(),
        }
    }

    /// The connection that was used last, if one is idle.
    pub(crate) fn idle(&self) -> Option<Box<Link>> {
        self.idle.take()
    }

    /// A new connection.
    ///
    /// Dropping the future abandons the attempt.
    pub(crate) async fn dial(&self) -> Result<Box<Link>, ConnectError> {
        let stream = connect::connect(&self.target, &self.rules).await?;
        let link = Link::over(stream).await.map_err(ConnectError::Http)?;
        self.opened.increment();
        Ok(Box::new(link))
    }

    /// Whether it can be dialled now, by the same way as for a call. What is dialled is closed at once.
    pub(crate) async fn try_out(&self) -> Result<(), ConnectError> {
        connect::connect(&self.target, &self.rules).await.map(drop)
    }

    /// Takes back a connection whose call is over, if it can serve another.
    pub(crate) fn give_back(&self, link: Box<Link>) {
        self.idle.put(link, self.rules.idle_connections);
    }

    /// Closes connections that were idle for `ticks` calls of this, or that the upstream closed.
    pub(crate) fn sweep(&self, ticks: u32) {
        self.idle.sweep(ticks);
    }
}
