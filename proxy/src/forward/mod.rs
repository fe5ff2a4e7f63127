//! One request: from the caller to its upstream and back.
//!
//! Nothing is buffered: bodies pass both ways as they come, an event goes out as soon as it is in, and
//! no answer has a time limit. Whoever goes away takes the other side along: dropping a [`Forwarding`]
//! or the [`Body`] that it gave closes the upstream connection at once.

mod answer;
mod body;
mod call;
mod events;
mod head;
mod headers;
mod table;
#[cfg(test)]
mod tests;
mod upgrade;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use process::metrics::{Counter, Exposition};
use process::{Failure, Tasks};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, RouteSource};
use crate::route::RouteError;
use crate::upstream::{ConnectError, Rules, Trust};
use table::Tables;

pub use answer::{Blame, ForwardError, request_id_of};
pub use body::{Body, BodyError};
pub(crate) use headers::detach;

/// Idle upstream connections are looked at this often.
const SWEEP: Duration = Duration::from_secs(1);

/// Who calls: one for each connection, shared by its requests.
#[derive(Debug)]
pub struct Caller {
    /// Name of the tunnel that the connection came in for.
    pub tunnel: Arc<str>,
    /// `<tunnel-domain>` of it.
    pub tunnel_domain: Option<Arc<str>>,
    /// Address of the peer as far as the carrier knows it.
    pub peer: Option<SocketAddr>,
    /// Generation of the credential that ended inner TLS.
    pub generation: u64,
    /// SHA-256 of the client certificate, lower-case hexadecimal, where one was proven.
    pub client_certificate: Option<String>,
    /// Cancelled when time is up: calls without an answer get the error of `reply`, event streams
    /// end at their next event boundary.
    pub cut: CancellationToken,
}

/// A route whose upstream was dialled.
#[derive(Debug)]
pub(crate) struct Tried {
    /// `""`: of every tunnel.
    pub(crate) tunnel: Box<str>,
    pub(crate) route: String,
    /// `scheme://host:port`.
    pub(crate) upstream: String,
    pub(crate) outcome: Result<(), ConnectError>,
}

/// Forwards requests to upstream MCP servers. Clones share routes and connections.
#[derive(Clone, Debug)]
pub struct Forwarder(Arc<Shared>);

/// A request that is being answered. Small, and not bound to the [`Forwarder`]: it is moved about
/// before it is first polled.
#[must_use = "futures do nothing unless polled"]
pub struct Forwarding(Step);

enum Step {
    Refused(Option<Box<Response<Body>>>),
    Waiting(call::Answering),
}

impl Future for Forwarding {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Step::Refused(response) => {
                let response = response.take().expect("it is not polled after it is ready");
                Poll::Ready(Ok(*response))
            }
            Step::Waiting(answering) => answering.as_mut().poll(cx).map(Ok),
        }
    }
}

#[derive(Debug)]
struct Shared {
    tables: Tables,
    /// `tunnel_domain` of the configuration, for callers that bring none.
    domain: Option<Box<str>>,
    idle_comment: Duration,
    ids: headers::Ids,
    refused: Refused,
    tasks: Tasks,
}

/// Requests that reached no upstream's route.
#[derive(Debug, Default)]
struct Refused {
    malformed: Counter,
    not_served: Counter,
    no_route: Counter,
    policy_pending: Counter,
}

impl Forwarder {
    /// Makes a forwarder with the routes of `config`, if it has them, and starts to look after idle
    /// upstream connections on `tasks`.
    ///
    /// # Errors
    ///
    /// The configuration's certificate authorities or routes cannot be used; exit code 78.
    pub fn new(config: &Config, tasks: &Tasks) -> Result<Self, Failure> {
        let policy = config.upstream.clone();
        let wanted = policy.ca_file.is_some() || policy.include_system_cas;
        let trust = wanted.then(|| Trust::load(&policy)).transpose()?;
        let limits = &config.limits;
        let rules = Arc::new(Rules {
            policy,
            trust,
            connect_timeout: limits.connect_timeout,
            idle_connections: limits.upstream_idle_connections,
        });
        let this = Self(Arc::new(Shared {
            tables: Tables::new(rules),
            domain: config.tunnel_domain.as_deref().map(Box::from),
            idle_comment: limits.idle_comment,
            ids: headers::Ids::default(),
            refused: Refused::default(),
            tasks: tasks.clone(),
        }));
        if let RouteSource::File(routes) = &config.routes {
            this.replace(None, routes)
                .map_err(crate::config::ConfigError::from)?;
        }
        let ticks = limits.upstream_idle.as_nanos().div_ceil(SWEEP.as_nanos());
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        tasks.spawn(sweep(Arc::downgrade(&this.0), ticks, tasks.clone()));
        Ok(this)
    }

    /// Answers `request`, whatever happens. Dropping what is returned, or the body of the answer,
    /// cancels the call.
    pub fn forward(&self, request: Request<Incoming>, caller: Arc<Caller>) -> Forwarding {
        match self.0.receive(request, &caller) {
            Ok((request, call)) => {
                // Here, since a call may be begun twice: on a connection that turns out to be closed.
                call.entry.calls.increment();
                Forwarding(Step::Waiting(call::begin(&self.0, request, call, caller)))
            }
            Err(refused) => Forwarding(Step::Refused(Some(refused))),
        }
    }

    /// Puts new routes in force for one tunnel, or for all that have none of their own. Calls in
    /// flight go on.
    ///
    /// # Errors
    ///
    /// One of them cannot be used; then the earlier ones stay.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "the daemon's policy hands its routes over"
    )]
    pub fn set_routes(
        &self,
        tunnel: Option<&str>,
        routes: BTreeMap<String, control::Route>,
    ) -> Result<(), RouteError> {
        self.replace(tunnel, &routes)
    }

    /// Puts the routes of a tunnel's policy in force. A policy without any takes those before out of
    /// force: whoever has withdrawn them does not want them reached.
    ///
    /// # Errors
    ///
    /// As [`set_routes`](Self::set_routes).
    pub fn take_policy(
        &self,
        tunnel: &str,
        routes: Option<BTreeMap<String, control::Route>>,
    ) -> Result<(), RouteError> {
        if let Some(routes) = routes {
            return self.set_routes(Some(tunnel), routes);
        }
        self.0.tables.withdraw(tunnel);
        Ok(())
    }

    fn replace(
        &self,
        tunnel: Option<&str>,
        routes: &BTreeMap<String, control::Route>,
    ) -> Result<(), RouteError> {
        self.0.tables.replace(tunnel, routes)
    }

    /// Whether routes for `tunnel` are still to come: its requests are answered 503 meanwhile.
    pub fn policy_pending(&self, tunnel: &str) -> bool {
        self.0.tables.is_pending(tunnel)
    }

    /// Names of all routes in force, sorted, each once.
    pub fn route_names(&self) -> Vec<String> {
        let entries = self.0.tables.entries();
        let mut names: Vec<String> = entries
            .iter()
            .map(|(_, entry)| entry.name().to_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Dials the upstream of every route once, all at the same time, as a call would.
    pub(crate) async fn try_routes(&self) -> Vec<Tried> {
        let entries = self.0.tables.entries();
        let each = entries.into_iter().map(|(tunnel, entry)| async move {
            Tried {
                tunnel,
                upstream: entry.upstream.target.to_string(),
                route: entry.name().to_owned(),
                outcome: entry.upstream.try_out().await,
            }
        });
        futures_util::future::join_all(each).await
    }

    /// Adds what was forwarded so far.
    pub fn metrics(&self, page: &mut Exposition) {
        let entries = self.0.tables.entries();
        page.family(
            "keyward_proxy_requests_total",
            "counter",
            "Requests with a route.",
        );
        for (tunnel, entry) in &entries {
            let labels = [("tunnel", &**tunnel), ("route", entry.name())];
            page.sample("keyward_proxy_requests_total", &labels, entry.calls.get());
        }
        page.family(
            "keyward_proxy_upstream_failures_total",
            "counter",
            "Requests answered in the upstream's place.",
        );
        for (tunnel, entry) in &entries {
            let labels = [("tunnel", &**tunnel), ("route", entry.name())];
            page.sample(
                "keyward_proxy_upstream_failures_total",
                &labels,
                entry.failures.get(),
            );
        }
        page.family(
            "keyward_proxy_upstream_connections_total",
            "counter",
            "Connections opened to upstreams.",
        );
        for upstream in self.0.tables.upstreams() {
            let target = upstream.target.to_string();
            let labels = [("upstream", &*target)];
            page.sample(
                "keyward_proxy_upstream_connections_total",
                &labels,
                upstream.opened.get(),
            );
        }
        page.family(
            "keyward_proxy_refused_total",
            "counter",
            "Requests that got no route.",
        );
        let refused = &self.0.refused;
        for (reason, counter) in [
            ("malformed", &refused.malformed),
            ("not_served", &refused.not_served),
            ("no_route", &refused.no_route),
            ("policy_pending", &refused.policy_pending),
        ] {
            page.sample(
                "keyward_proxy_refused_total",
                &[("reason", reason)],
                counter.get(),
            );
        }
    }
}

async fn sweep(shared: std::sync::Weak<Shared>, ticks: u32, tasks: Tasks) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(SWEEP) => {}
            () = tasks.stopping() => return,
        }
        let Some(shared) = shared.upgrade() else {
            return;
        };
        for upstream in shared.tables.upstreams() {
            upstream.sweep(ticks);
        }
    }
}
