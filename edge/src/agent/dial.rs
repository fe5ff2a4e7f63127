//! One connection to a route's proxy: TCP to an edge, outer TLS, CONNECT, and inner TLS inside.
//!
//! Several addresses are tried, the next one when the one before failed or is slow, and whichever is
//! through first is taken. Nothing of a call has gone out until then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use process::Tasks;
use rustix::net::sockopt;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use super::credentials::Material;
use super::error::{CarryError, TlsEnd};
use super::target::{Candidate, Edges, Route, TunnelDomain};
use crate::causes::causes;

/// From nothing to inner TLS, by one address.
const LIMIT: Duration = Duration::from_secs(10);
/// After which the next address is tried as well.
const STAGGER: Duration = Duration::from_secs(1);
/// A refusal is short.
const LONGEST_REFUSAL: usize = 16 << 10;
/// Silence after which the edge is asked whether it is still there, the pause between two askings, and
/// after how many it is gone: within a minute.
const KEEP_IDLE: Duration = Duration::from_secs(30);
const KEEP_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_PROBES: u32 = 3;

/// Inner TLS.
pub(super) type Inner = TlsStream<TokioIo<Upgraded>>;

/// What is spoken inside inner TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inside {
    /// HTTP/2, or HTTP/1.1 where the proxy speaks nothing else.
    Best,
    /// HTTP/1.1, for what is upgraded.
    Http1,
}

/// Makes connections.
pub(super) struct Dialer {
    pub(super) edges: Edges,
    pub(super) domain: TunnelDomain,
    pub(super) credentials: watch::Receiver<Arc<Material>>,
    pub(super) tasks: Tasks,
}

impl Dialer {
    /// `<route>.<tunnel-domain>`.
    pub(super) fn name(&self, route: &Route) -> String {
        format!("{}.{}", route.0, self.domain.0)
    }

    /// What connections are made with now.
    pub(super) fn material(&self) -> Arc<Material> {
        self.credentials.borrow().clone()
    }

    /// A new connection to the proxy of `route`.
    ///
    /// # Errors
    ///
    /// Of the addresses that failed, the reason of the one that came farthest.
    pub(super) async fn connect(
        &self,
        route: &Route,
        inside: Inside,
        material: &Material,
    ) -> Result<Inner, CarryError> {
        let name = self.name(route);
        let mut waiting = self.edges.candidates().await?.into_iter();
        let mut running = FuturesUnordered::new();
        let mut worst: Option<CarryError> = None;
        loop {
            if running.is_empty() {
                match waiting.next() {
                    Some(candidate) => {
                        running.push(self.attempt(candidate, &name, inside, material));
                    }
                    None => return Err(worst.unwrap_or(CarryError::TooMany)),
                }
            }
            tokio::select! {
                ended = running.next() => match ended {
                    Some(Ok((inner, address))) => {
                        self.edges.answered(address);
                        return Ok(inner);
                    }
                    Some(Err(error)) if !error.is_for_one_edge() => return Err(error),
                    Some(Err(error)) => {
                        let deeper = worst.as_ref().is_none_or(|worst| error.depth() >= worst.depth());
                        if deeper {
                            worst = Some(error);
                        }
                    }
                    None => {}
                },
                () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => {
                    if let Some(candidate) = waiting.next() {
                        running.push(self.attempt(candidate, &name, inside, material));
                    }
                }
            }
        }
    }

    async fn attempt(
        &self,
        candidate: Candidate,
        name: &str,
        inside: Inside,
        material: &Material,
    ) -> Result<(Inner, SocketAddr), CarryError> {
        let address = candidate.address;
        let config = match inside {
            Inside::Best => &material.inner,
            Inside::Http1 => &material.plain,
        };
        let whole = async {
            let outer = outer(candidate, &material.outer).await?;
            let through = self.through(outer, address, name).await?;
            inner(through, name, Arc::clone(config)).await
        };
        match tokio::time::timeout(LIMIT, whole).await {
            Ok(done) => done.map(|inner| (inner, address)),
            Err(_) => Err(unreachable(address, "it takes longer than ten seconds")),
        }
    }

    /// CONNECT, RFC 9110 section 9.3.6.
    async fn through(
        &self,
        outer: TlsStream<TcpStream>,
        address: SocketAddr,
        name: &str,
    ) -> Result<Upgraded, CarryError> {
        let broke = |error: hyper::Error| unreachable(address, &causes(&error));
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(outer)).await.map_err(broke)?;
        self.tasks.spawn(async move {
            // Whoever waits for its answer is told how it ended.
            let _ = connection.with_upgrades().await;
        });
        let authority = format!("{name}:443");
        let mut request = Request::connect(&authority).body(Empty::<Bytes>::new());
        if let (Ok(request), Ok(host)) = (&mut request, HeaderValue::try_from(&authority)) {
            request.headers_mut().insert(header::HOST, host);
        }
        let request = request.map_err(|error| unreachable(address, &causes(&error)))?;
        let answer = sender.send_request(request).await.map_err(broke)?;
        if answer.status() == StatusCode::OK {
            return hyper::upgrade::on(answer).await.map_err(broke);
        }
        Err(refusal(answer, name).await)
    }
}

async fn outer(
    candidate: Candidate,
    config: &Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, CarryError> {
    let address = candidate.address;
    let tcp = TcpStream::connect(address).await;
    let tcp = tcp.map_err(|error| unreachable(address, &error.to_string()))?;
    // Small records must not wait for the acknowledgement of those before; a socket that refuses any of
    // these lives as sockets do without it.
    let _ = tcp.set_nodelay(true);
    let _ = sockopt::set_tcp_keepidle(&tcp, KEEP_IDLE);
    let _ = sockopt::set_tcp_keepintvl(&tcp, KEEP_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(&tcp, KEEP_PROBES);
    let _ = sockopt::set_socket_keepalive(&tcp, true);
    let connecting = TlsConnector::from(Arc::clone(config)).connect(candidate.name, tcp);
    connecting.await.map_err(|error| match TlsEnd::of(&error) {
        TlsEnd::Untrusted(cause) => CarryError::EdgeUntrusted { address, cause },
        TlsEnd::Alert(rustls::AlertDescription::UnrecognisedName) => {
            unreachable(address, "it has another name")
        }
        TlsEnd::Alert(alert) => unreachable(address, &format!("alert {alert:?}")),
        TlsEnd::Broke(cause) => unreachable(address, &cause),
    })
}

async fn inner(
    through: Upgraded,
    name: &str,
    config: Arc<ClientConfig>,
) -> Result<Inner, CarryError> {
    let server = ServerName::try_from(name.to_owned()).map_err(|error| CarryError::Broken {
        name: name.to_owned(),
        cause: error.to_string(),
    })?;
    let connecting = TlsConnector::from(config).connect(server, TokioIo::new(through));
    connecting.await.map_err(|error| ended(name, &error))
}

/// What an error inside the tunnel means.
pub(super) fn ended(name: &str, error: &(dyn std::error::Error + 'static)) -> CarryError {
    use rustls::AlertDescription as Alert;
    let name = name.to_owned();
    match TlsEnd::of(error) {
        TlsEnd::Untrusted(cause) => CarryError::ProxyUntrusted { name, cause },
        TlsEnd::Alert(
            alert @ (Alert::CertificateRequired
            | Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            // Of two CAs of one name the wrong one is known.
            | Alert::DecryptError
            | Alert::AccessDenied
            | Alert::HandshakeFailure),
        ) => CarryError::ProxyRefused {
            name,
            cause: format!("alert {alert:?}"),
        },
        TlsEnd::Alert(alert) => CarryError::Broken {
            name,
            cause: format!("alert {alert:?}"),
        },
        TlsEnd::Broke(cause) => CarryError::Broken { name, cause },
    }
}

fn unreachable(address: SocketAddr, cause: &str) -> CarryError {
    CarryError::Unreachable {
        address,
        cause: cause.to_owned(),
    }
}

/// The edge's errors, as the Tunnels API's.
#[derive(Deserialize)]
struct Said {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(rename = "type")]
    word: String,
    message: String,
}

async fn refusal(answer: Response<Incoming>, name: &str) -> CarryError {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST_REFUSAL)
        .collect()
        .await;
    let body = body
        .map(http_body_util::Collected::to_bytes)
        .unwrap_or_default();
    let said = serde_json::from_slice::<Said>(&body).map(|said| said.error);
    let said = said.unwrap_or_else(|_| Reason {
        word: status.as_str().to_owned(),
        message: "it does not say why".to_owned(),
    });
    CarryError::Refused {
        name: name.to_owned(),
        status,
        word: shown(&said.word),
        text: shown(&said.message),
    }
}

/// What somebody else wrote, fit for a log and a terminal.
fn shown(text: &str) -> String {
    let sound = text.chars().filter(|letter| !letter.is_control());
    sound.take(200).collect()
}
