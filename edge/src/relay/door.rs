//! `agents.EDGE`: HTTPS CONNECT to a tunnel's name, with a client certificate around inner TLS.
//!
//! Each CONNECT is decided for itself, against the tunnel that it names, and a refusal says why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;

use super::Shared;
use super::answer::{Body, empty, error};
use super::caller::{Admitted, Agent, Refused};
use super::hello;
use super::http as serving;
use super::link::Ask;
use super::passthrough::say;
use super::{headers, prefixed::Prefixed};
use crate::access::Denial;

/// The only port there is behind a name.
const PORT: u16 = 443;

/// Serves CONNECT on a connection whose outer TLS has been ended.
pub(super) async fn serve(
    shared: Arc<Shared>,
    stream: TlsStream<Prefixed<tokio::net::TcpStream>>,
    peer: SocketAddr,
) {
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let agent = Agent::new(peer, shown);
    let (tasks, cut) = (shared.tasks.clone(), shared.cut.clone());
    let handler = move |request| {
        let (shared, agent) = (Arc::clone(&shared), agent.clone());
        async move { answer(&shared, request, &agent) }.boxed()
    };
    // Each stream that is relayed has a limit of its own.
    serving::serve(&tasks, &cut, stream, Duration::MAX, Arc::new(handler)).await;
}

fn answer(shared: &Arc<Shared>, mut request: Request<Incoming>, agent: &Agent) -> Response<Body> {
    if request.method() != Method::CONNECT {
        let text = "only CONNECT is served here";
        return error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text);
    }
    let authority = request.uri().authority();
    let named = authority.filter(|authority| authority.port_u16() == Some(PORT));
    let Some(name) = named.map(|authority| authority.host().to_ascii_lowercase()) else {
        let text = "write the name of a tunnel's route with port 443";
        return error(StatusCode::BAD_REQUEST, "invalid_request_error", text);
    };
    let admitted = match agent.admit(shared, &name).and_then(proven(agent)) {
        Ok(admitted) => admitted,
        Err(refused) => {
            say(shared, agent, &name, refused.word());
            return error(status(refused), refused.word(), &refused.to_string());
        }
    };
    let replica = request.headers().get(wire::REPLICA);
    let replica = replica
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    if !shared.links.has(&admitted.tunnel, replica.as_deref()) {
        shared.telemetry.refuse("no_proxy");
        let text = "no proxy of this tunnel is connected";
        return error(StatusCode::SERVICE_UNAVAILABLE, "no_proxy", text);
    }
    let call = Call {
        _busy: request.extensions_mut().remove::<serving::Busy>(),
        upgrade: hyper::upgrade::on(&mut request),
        agent: agent.clone(),
        admitted,
        name,
        replica,
    };
    let inner = Arc::clone(shared);
    shared.tasks.spawn(async move { call.run(&inner).await });
    Response::new(empty())
}

/// On this door a certificate is required, whatever the tunnel says about addresses.
fn proven(agent: &Agent) -> impl FnOnce(Admitted) -> Result<Admitted, Refused> + '_ {
    |admitted| {
        if admitted.has_client_rules() && !agent.certificates.is_empty() {
            Ok(admitted)
        } else {
            Err(Denial::CertificateRequired.into())
        }
    }
}

fn status(refused: Refused) -> StatusCode {
    match refused {
        Refused::Unknown | Refused::Archived => StatusCode::NOT_FOUND,
        Refused::Denied(Denial::TooMany) => StatusCode::TOO_MANY_REQUESTS,
        Refused::Stale => StatusCode::SERVICE_UNAVAILABLE,
        Refused::Suspended | Refused::Denied(_) => StatusCode::FORBIDDEN,
    }
}

/// A CONNECT that was answered with 200.
struct Call {
    _busy: Option<serving::Busy>,
    upgrade: OnUpgrade,
    agent: Agent,
    admitted: Admitted,
    name: String,
    replica: Option<String>,
}

impl Call {
    async fn run(self, shared: &Shared) {
        let Ok(upgraded) = self.upgrade.await else {
            return;
        };
        let mut inner = TokioIo::new(upgraded);
        let reading = tokio::time::timeout(shared.limits.hello, hello::read(&mut inner));
        let read = tokio::select! {
            read = reading => read,
            () = shared.cut.cancelled() => return,
        };
        let Ok(Ok(hello)) = read else {
            say(shared, &self.agent, &self.name, "bad_hello");
            return;
        };
        // What was decided was decided for this name.
        if hello.server_name.as_deref() != Some(&*self.name) {
            say(shared, &self.agent, &self.name, "other_name");
            let alert = rustls::AlertDescription::UnrecognisedName;
            let refusing = hello::refuse(inner, alert);
            let _ = tokio::time::timeout(Duration::from_secs(1), refusing).await;
            return;
        }
        let leaf = self.agent.certificates.first();
        let ask = Ask {
            name: &self.name,
            peer: self.agent.peer,
            certificate: leaf.and_then(|leaf| headers::client_cert(leaf)),
            replica: self.replica.as_deref(),
            first: hello.bytes.into(),
        };
        let opened = tokio::select! {
            opened = shared.links.open(&self.admitted.tunnel, &ask) => opened,
            () = shared.cut.cancelled() => return,
        };
        match opened {
            Ok(stream) => {
                let halves = tokio::io::split(inner);
                self.admitted.relay(shared, halves, stream).await;
            }
            Err(failed) => {
                shared.telemetry.refuse("no_proxy");
                if let Some(count) = shared.paces.due("no_proxy") {
                    let tunnel = &*self.admitted.tunnel;
                    tracing::warn!(tunnel, error = %failed, count, "agent not connected");
                }
                let alert = rustls::AlertDescription::InternalError;
                let refusing = hello::refuse(inner, alert);
                let _ = tokio::time::timeout(Duration::from_secs(1), refusing).await;
            }
        }
    }
}
