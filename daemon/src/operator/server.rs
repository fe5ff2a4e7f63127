//! Serves the operator channel.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::{Clock, Failure, SystemClock, Tasks};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::{Body, Denial, json, no_such_path, unusable, whole, wrong_method};
use super::{ClientOrder, Noun, Problem, RotationOrder, events};
use crate::board::{self, Board, Fault, Order};
use crate::socket::{Complaints, Crowd, Socket};
use crate::status::Status;

/// Until a request's head, and then its body, is whole.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Until the rotator has accepted or refused an order, or has recovered its state.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Connections of one uid at once.
const CONNECTIONS: usize = 64;

/// Where to listen, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The operator socket.
    pub socket: PathBuf,
    /// Its group where there are operators, so that they can reach it.
    pub group: Option<u32>,
    /// Uids that may order, besides root and the daemon's own.
    pub operators: BTreeSet<u32>,
    /// Names of the tunnels that there are.
    pub tunnels: BTreeSet<String>,
}

/// The operator socket, bound but not served yet.
#[derive(Debug)]
pub struct Operator {
    socket: Socket,
    desk: Arc<Desk>,
}

#[derive(Debug)]
struct Desk {
    settings: Settings,
    board: Board,
    own_uid: u32,
    complaints: Complaints,
    request_limit: Duration,
    answer_limit: Duration,
}

impl Operator {
    /// Binds the operator socket.
    ///
    /// # Errors
    ///
    /// As [`Socket::bind`].
    pub fn bind(settings: Settings, board: Board) -> Result<Self, Failure> {
        Self::bind_within(settings, board, REQUEST_LIMIT, ANSWER_LIMIT)
    }

    pub(super) fn bind_within(
        settings: Settings,
        board: Board,
        request_limit: Duration,
        answer_limit: Duration,
    ) -> Result<Self, Failure> {
        let group = settings.group.filter(|_| !settings.operators.is_empty());
        let socket = Socket::bind(&settings.socket, mode(&settings), group)?;
        let desk = Arc::new(Desk {
            settings,
            board,
            own_uid: rustix::process::geteuid().as_raw(),
            complaints: Complaints::default(),
            request_limit,
            answer_limit,
        });
        Ok(Self { socket, desk })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        self.socket.path()
    }

    /// Serves operators until the stop.
    ///
    /// # Errors
    ///
    /// None: a connection that fails ends alone, a failing accept is tried again.
    pub async fn run(self, tasks: Tasks) -> Result<(), Failure> {
        let crowd = Crowd::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = tasks.stopping() => return Ok(()),
            };
            match accepted {
                Ok((stream, uid)) => {
                    let Some(place) = crowd.enter(uid, CONNECTIONS) else {
                        self.desk
                            .complain(uid, "too many operator connections of one uid");
                        continue;
                    };
                    let connection = self.desk.clone().connection(stream, uid, tasks.clone());
                    tasks.spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "operator socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Desk {
    async fn connection(self: Arc<Self>, stream: UnixStream, uid: u32, tasks: Tasks) {
        let stopping = tasks.clone();
        let limit = self.request_limit;
        let service = service_fn(move |request| {
            let (desk, tasks) = (self.clone(), tasks.clone());
            async move {
                let answer = desk.answer(request, uid, &tasks).await;
                Ok::<_, Infallible>(answer.unwrap_or_else(Denial::response))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limit)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // A client that breaks its connection is no event.
            _ = connection.as_mut() => return,
            () = stopping.stopping() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        uid: u32,
        tasks: &Tasks,
    ) -> Result<Response<Body>, Denial> {
        self.permit(uid)?;
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (&Method::GET, "/v1/status") => Ok(json(StatusCode::OK, &*self.status().await?)),
            (&Method::GET, "/v1/events") => Ok(events::stream(&self.board, tasks)),
            (&Method::POST, "/v1/rotations") => {
                let body = whole(request, self.request_limit).await?;
                self.order(self.rotation(RotationOrder::read(&body)?)?, uid)
                    .await
            }
            (&Method::POST, "/v1/client-certificates") => {
                let body = whole(request, self.request_limit).await?;
                self.order(self.client_certificate(ClientOrder::read(&body)?)?, uid)
                    .await
            }
            (_, "/v1/status" | "/v1/events" | "/v1/rotations" | "/v1/client-certificates") => {
                Err(wrong_method(&request))
            }
            (method, path) => match path.strip_prefix("/v1/operations/") {
                Some(id) if method == Method::GET => self.operation(id).await,
                Some(_) => Err(wrong_method(&request)),
                None => Err(no_such_path(path)),
            },
        }
    }

    /// Logs `complaint` about `uid`, unless it did within the last minute.
    fn complain(&self, uid: u32, complaint: &'static str) {
        if self.complaints.is_news(uid, complaint, SystemClock.boot()) {
            tracing::warn!(uid, complaint, "operator refused");
        }
    }

    fn permit(&self, uid: u32) -> Result<(), Denial> {
        if uid == 0 || uid == self.own_uid || self.settings.operators.contains(&uid) {
            return Ok(());
        }
        self.complain(uid, "uid may not use the operator socket");
        Err(Denial(
            StatusCode::FORBIDDEN,
            Problem {
                what: format!("uid {uid} may not use the operator socket"),
                why: Some("it is neither root, nor the daemon's user, nor listed".to_owned()),
                next: Some("add it to operator.operators in keyward.yaml".to_owned()),
            },
        ))
    }

    fn rotation(&self, order: RotationOrder) -> Result<Order, Denial> {
        let noun = Noun::parse(&order.what).filter(|noun| noun.rotates());
        let unsupported = || {
            unusable(
                format!("{:?} cannot be rotated by this version", order.what),
                format!("name one of {}", Noun::rotating()),
            )
        };
        let noun = noun.ok_or_else(unsupported)?;
        let tunnel = self.tunnel(order.tunnel)?;
        match noun {
            Noun::Ca => Ok(Order::RotateCa {
                tunnel,
                trusted: order.trusted,
                standby: order.standby,
                accept_unproven: order.accept_unproven,
            }),
            Noun::ServerCertificate => Ok(Order::RotateServerCertificate { tunnel }),
            Noun::TunnelToken => Ok(Order::RotateTunnelToken { tunnel }),
            Noun::SharedSecret => Ok(Order::RotateSharedSecret { tunnel }),
            _ => Err(unsupported()),
        }
    }

    fn client_certificate(&self, order: ClientOrder) -> Result<Order, Denial> {
        Ok(Order::IssueClient {
            tunnel: self.tunnel(order.tunnel)?,
            name: order.name,
            csr: order.csr,
            lifetime_seconds: order.lifetime_seconds,
        })
    }

    fn tunnel(&self, named: Option<String>) -> Result<String, Denial> {
        let known = &self.settings.tunnels;
        let all = || known.iter().cloned().collect::<Vec<_>>().join(", ");
        match named {
            Some(name) if known.contains(&name) => Ok(name),
            Some(name) => Err(Denial(
                StatusCode::NOT_FOUND,
                Problem {
                    what: format!("no tunnel {name:?}"),
                    why: None,
                    next: Some(format!("name one of {}", all())),
                },
            )),
            None => match (known.first(), known.len()) {
                (Some(only), 1) => Ok(only.clone()),
                _ => Err(unusable(
                    "which tunnel is not said".to_owned(),
                    format!("name one of {}", all()),
                )),
            },
        }
    }

    async fn order(&self, order: Order, uid: u32) -> Result<Response<Body>, Denial> {
        let (answer, answered) = oneshot::channel();
        let request = board::Request {
            order,
            actor: format!("uid:{uid}"),
            answer,
        };
        let asked = async {
            self.board.requests.send(request).await.ok()?;
            answered.await.ok()
        };
        match timeout(self.answer_limit, asked).await {
            Ok(Some(Ok(operation))) => {
                let mut response = json(StatusCode::ACCEPTED, &operation);
                let location = format!("/v1/operations/{}", operation.id);
                if let Ok(location) = HeaderValue::from_str(&location) {
                    response.headers_mut().insert(header::LOCATION, location);
                }
                Ok(response)
            }
            Ok(Some(Err(refusal))) => Err(Denial(
                match refusal.fault {
                    Fault::Words => StatusCode::BAD_REQUEST,
                    Fault::State => StatusCode::CONFLICT,
                },
                Problem {
                    what: refusal.what,
                    why: None,
                    next: Some(refusal.next),
                },
            )),
            Ok(None) | Err(_) => Err(Denial(
                StatusCode::SERVICE_UNAVAILABLE,
                Problem {
                    what: "the order was not taken".to_owned(),
                    why: Some("the daemon is stopping, or busy with its store".to_owned()),
                    next: Some("look at keyward status, then order again".to_owned()),
                },
            )),
        }
    }

    /// How things stand, once the daemon knows: until then every number in it would be wrong.
    async fn status(&self) -> Result<Arc<Status>, Denial> {
        let mut status = self.board.status.subscribe();
        let known = status.wait_for(|status| !status.is_starting());
        match timeout(self.answer_limit, known).await {
            Ok(Ok(status)) => Ok(status.clone()),
            Ok(Err(_)) | Err(_) => Err(Denial(
                StatusCode::SERVICE_UNAVAILABLE,
                Problem {
                    what: "the daemon is starting".to_owned(),
                    why: Some("it has not recovered its state yet".to_owned()),
                    next: Some("ask again in a moment, or look at its log".to_owned()),
                },
            )),
        }
    }

    async fn operation(&self, id: &str) -> Result<Response<Body>, Denial> {
        let status = self.status().await?;
        let found = status.operations.iter().find(|one| one.id == id);
        found
            .map(|operation| json(StatusCode::OK, operation))
            .ok_or_else(|| {
                Denial(
                    StatusCode::NOT_FOUND,
                    Problem {
                        what: "no such operation".to_owned(),
                        why: Some("the last 64 are kept".to_owned()),
                        next: Some("GET /v1/status shows them".to_owned()),
                    },
                )
            })
    }
}

/// 0600: only root and the daemon's user need to come in; 0660 once operators are listed.
pub(super) fn mode(settings: &Settings) -> u32 {
    if settings.operators.is_empty() {
        0o600
    } else {
        0o660
    }
}
