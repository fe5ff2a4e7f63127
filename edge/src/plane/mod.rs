//! The control plane: the Tunnels API, token exchange, and what the edge says of itself, over HTTP.
//!
//! One path for every request: which endpoint it is, whether its source asks too often, who calls (one
//! way each: an access token for the Tunnels API, an assertion for the exchange, nobody for what is
//! public), whether its scope will do, then the body. Callers who are refused learn the status and no
//! more; why is in the audit log.
//!
//! What it does not do: it ends no TLS and accepts no connection (the relay does); it forwards nothing.

mod access;
mod answer;
mod authenticate;
mod body;
mod bundle;
mod certificate;
mod exchange;
mod limit;
mod list;
mod route;
mod secret;
mod share;
mod shared;
#[cfg(test)]
mod tests;
mod tunnel;

use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::header::EXPECT;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use process::{Clock, Tasks};

use crate::assertion::{KeyStore, Resolver};
use crate::pinned::Pinned;
use crate::state::{By, Identifier, State, random_identifier};
use answer::{Failed, Good};
use limit::RateLimits;
use route::{Endpoint, Route};
use shared::Shared;

pub use limit::{Rate, Rates};

/// How long a change waits for every edge to act on it before it is answered.
const ENFORCEMENT: Duration = Duration::from_secs(1);
const ENFORCEMENT_POLL: Duration = Duration::from_millis(50);

/// What is served, for programs.
const DOCUMENT: &str = include_str!("../../../docs/openapi.yaml");

/// Makes this edge act on the last change; resolves once it does.
pub type Apply = Arc<dyn Fn() -> Pinned<()> + Send + Sync>;

/// What the control plane works with.
#[derive(Clone)]
pub struct PlaneSettings {
    /// Where everything is.
    pub state: State,
    /// Whose time counts.
    pub clock: Arc<dyn Clock>,
    /// How issuers' names become addresses.
    pub resolver: Resolver,
    /// How this edge acts on a change.
    pub apply: Apply,
    /// CAs of the edge's front certificate, PEM; empty: a public one.
    pub edge_ca_certificates: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// The one organization that tokens may be asked for; `None`: whatever is asked for.
    pub organization: Option<String>,
    /// How often who may ask.
    pub rates: Rates,
    /// Owner of what goes on beside an answer.
    pub tasks: Tasks,
}

/// The control plane. Clones share it.
#[derive(Clone)]
pub struct Plane {
    settings: PlaneSettings,
    keys: KeyStore,
    limits: Arc<RateLimits>,
    shared: Arc<Shared>,
}

/// One request on its way through.
struct Call<'a> {
    plane: &'a Plane,
    by: By,
    route: Route,
}

impl Plane {
    /// Ready to answer.
    pub fn new(settings: PlaneSettings) -> Self {
        Self {
            keys: KeyStore::new(
                settings.resolver.clone(),
                settings.clock.clone(),
                settings.tasks.clone(),
            ),
            limits: Arc::new(RateLimits::new(settings.rates)),
            shared: Arc::default(),
            settings,
        }
    }

    /// Answers one request that came from `peer`. Dropped halfway, a change has happened or not, never
    /// in part.
    pub async fn answer<B>(&self, request: Request<B>, peer: SocketAddr) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::fmt::Display,
    {
        let request_id = random_identifier(Identifier::Request);
        let (parts, body) = request.into_parts();
        let mut body = pin!(body);
        let result = self.respond(&parts, body.as_mut(), peer, &request_id).await;
        // Whoever waits for `100 Continue` has not begun to send, and need not.
        if result.is_err() && !parts.headers.contains_key(EXPECT) {
            body::discard(body).await;
        }
        answer::response(result, &request_id)
    }

    async fn respond<B>(
        &self,
        parts: &Parts,
        body: Pin<&mut B>,
        peer: SocketAddr,
        request_id: &str,
    ) -> Result<Good, Failed>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: std::fmt::Display,
    {
        let source = peer.ip().to_canonical();
        let boot = self.settings.clock.boot();
        self.limits.request(source, boot)?;
        let route = route::find(&parts.method, &parts.uri)?;
        answer::check_version(&parts.headers)?;
        let mut by = By {
            actor: format!("source:{source}"),
            request_id: request_id.to_owned(),
            now: self.now(),
        };
        if route.endpoint == Endpoint::Exchange {
            self.limits.exchange(source, boot)?;
            let body = body::read(body, body::LONGEST).await?;
            return self.exchange(&by, source, &parts.headers, &body).await;
        }
        if !route.endpoint.is_public() {
            self.limits.authentication(source, boot)?;
            let grant = self.authenticate(&parts.headers, source, &by).await?;
            authenticate::authorize(&grant, &route)?;
            by.actor = format!("rule:{}:{}", grant.rule, grant.subject);
            let call = Call {
                plane: self,
                by,
                route,
            };
            let body = body::read(body, call.route.endpoint.longest_body()).await?;
            return call.dispatch(&parts.headers, &body, &grant).await;
        }
        let call = Call {
            plane: self,
            by,
            route,
        };
        call.public().await
    }

    fn state(&self) -> &State {
        &self.settings.state
    }

    fn now(&self) -> u64 {
        let since = self.settings.clock.wall().duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }

    /// Waits until every edge acts on the change `number`, at most a second, and says how many do.
    async fn enforced(&self, number: u64) -> Option<api::Enforced> {
        (self.settings.apply)().await;
        let deadline = self.settings.clock.boot() + ENFORCEMENT;
        loop {
            let mut enforced = self.state().enforced(number).await.ok()?;
            // This one serves, even where it has not said so for long.
            enforced.of = enforced.of.max(1);
            if enforced.instances >= enforced.of || self.settings.clock.boot() >= deadline {
                return Some(enforced);
            }
            tokio::time::sleep(ENFORCEMENT_POLL).await;
        }
    }
}

impl Call<'_> {
    fn state(&self) -> &State {
        self.plane.state()
    }

    async fn dispatch(
        &self,
        headers: &http::HeaderMap,
        body: &Bytes,
        grant: &crate::state::Grant,
    ) -> Result<Good, Failed> {
        match self.route.endpoint {
            Endpoint::CreateTunnel => self.create_tunnel(body, headers).await,
            Endpoint::ListTunnels => self.list_tunnels(grant.tunnel.as_deref()).await,
            Endpoint::Tunnel => self.tunnel().await,
            Endpoint::ArchiveTunnel | Endpoint::SuspendTunnel | Endpoint::ResumeTunnel => {
                self.change_tunnel(body, headers).await
            }
            Endpoint::RevealToken => self.reveal_token(body, headers).await,
            Endpoint::RotateToken => self.rotate_token(body, headers).await,
            Endpoint::CreateCertificate => self.create_certificate(body, headers).await,
            Endpoint::ListCertificates => self.list_certificates().await,
            Endpoint::Certificate => self.certificate().await,
            Endpoint::ArchiveCertificate => self.archive_certificate().await,
            Endpoint::CreateSecret => self.create_secret(body, headers).await,
            Endpoint::ListSecrets => self.list_secrets().await,
            Endpoint::ArchiveSecret => self.archive_secret().await,
            Endpoint::Access => self.access().await,
            Endpoint::PutAccess => self.put_access(body, headers).await,
            Endpoint::PutBundle => self.put_bundle(body, headers).await,
            Endpoint::Bundles | Endpoint::Edge | Endpoint::Document | Endpoint::Exchange => {
                Err(Failed::not_found())
            }
        }
    }

    async fn public(&self) -> Result<Good, Failed> {
        match self.route.endpoint {
            Endpoint::Bundles => self.bundles().await,
            Endpoint::Document => Ok(Good::document("application/yaml", DOCUMENT)),
            Endpoint::Edge => {
                let enforced = self.state().enforced(0).await?;
                Ok(Good::json(&api::Edge {
                    r#type: "edge".to_owned(),
                    name: self.state().settings().edge.clone(),
                    build: process::BUILD.to_owned(),
                    edge_ca_certificates: (self.plane.settings.edge_ca_certificates)(),
                    instances: enforced.of.max(1),
                }))
            }
            _ => Err(Failed::not_found()),
        }
    }
}
