//! The other end of the operator channel, as the command line uses it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use process::{Exit, Failure, Tasks};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ClientOrder, ErrorBody, Problem, RotationOrder};
use crate::status::{Operation, Status};

/// Until an answer is whole. More than the daemon gives its rotator.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// The longest answer and the longest event that is taken.
const LONGEST_ANSWER: usize = 16 << 20;

/// Why the daemon did not do what it was asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody answers on the socket.
    #[error("no daemon answers on {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The system does not let this user open the socket.
    #[error("this user may not open {}", .0.display())]
    Forbidden(PathBuf),
    /// It answered, and said no.
    #[error("{}", problem.what)]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// What it said.
        problem: Problem,
    },
    /// It began to answer and broke off, or is not our daemon.
    #[error("the daemon's answer cannot be read: {0}")]
    Broken(String),
}

/// A daemon, reached through its operator socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    tasks: Tasks,
}

impl Client {
    /// The daemon behind `socket`. Nothing is dialled yet; connections run on `tasks`.
    pub fn new(socket: &Path, tasks: &Tasks) -> Self {
        Self {
            socket: socket.to_owned(),
            tasks: tasks.clone(),
        }
    }

    /// How things stand.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] lists.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.call(Method::GET, "/v1/status", Bytes::new()).await
    }

    /// Orders a rotation; the operation has begun when this returns.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] lists.
    pub async fn rotate(&self, order: &RotationOrder) -> Result<Operation, ClientError> {
        self.call(Method::POST, "/v1/rotations", body(order)).await
    }

    /// Orders a client certificate.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] lists.
    pub async fn issue_client(&self, order: &ClientOrder) -> Result<Operation, ClientError> {
        let path = "/v1/client-certificates";
        self.call(Method::POST, path, body(order)).await
    }

    /// How far an operation is.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] lists.
    pub async fn operation(&self, id: &str) -> Result<Operation, ClientError> {
        let path = format!("/v1/operations/{id}");
        self.call(Method::GET, &path, Bytes::new()).await
    }

    /// Everything that happens from now on, the status first.
    ///
    /// # Errors
    ///
    /// As [`ClientError`] lists.
    pub async fn events(&self) -> Result<Events, ClientError> {
        let response = self.send(Method::GET, "/v1/events", Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(refused(response.status(), &whole(response).await?));
        }
        Ok(Events {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?;
        let status = response.status();
        let text = whole(response).await?;
        if !status.is_success() {
            return Err(refused(status, &text));
        }
        serde_json::from_slice(&text).map_err(|_| foreign())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "keyward")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(broken)?;
        let unreachable = |source: std::io::Error| {
            let path = self.socket.clone();
            match source.kind() {
                std::io::ErrorKind::PermissionDenied => ClientError::Forbidden(path),
                _ => ClientError::Unreachable { path, source },
            }
        };
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(unreachable)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        self.tasks.spawn(async move {
            // How the connection ends is told to whoever reads the answer.
            let _ = connection.await;
        });
        timeout(ANSWER_LIMIT, sender.send_request(request))
            .await
            .map_err(broken)?
            .map_err(broken)
    }
}

/// What happens at the daemon.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// How things stand now.
    Status(Box<Status>),
    /// An operation went a step further.
    Operation(Operation),
}

impl Events {
    /// The next event, or `None` when the daemon ended the stream. Cancel safe.
    ///
    /// # Errors
    ///
    /// The connection broke, or what came is no event of ours.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            while let Some(end) = self.buffer.windows(2).position(|two| two == b"\n\n") {
                let text: Vec<u8> = self.buffer.drain(..end + 2).collect();
                if let Some(event) = parse(&text)? {
                    return Ok(Some(event));
                }
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            if let Some(data) = frame.map_err(broken)?.data_ref() {
                self.buffer.extend_from_slice(data);
            }
            if self.buffer.len() > LONGEST_ANSWER {
                return Err(broken("an event is too long"));
            }
        }
    }
}

/// `None`: a comment, or an event of a newer version.
fn parse(text: &[u8]) -> Result<Option<Event>, ClientError> {
    let text = std::str::from_utf8(text).map_err(broken)?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let data = field("data: ").unwrap_or_default();
    match field("event: ") {
        Some("status") => serde_json::from_str(data)
            .map(|status| Some(Event::Status(Box::new(status))))
            .map_err(|_| foreign()),
        Some("operation") => serde_json::from_str(data)
            .map(|operation| Some(Event::Operation(operation)))
            .map_err(|_| foreign()),
        _ => Ok(None),
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect();
    let collected = timeout(ANSWER_LIMIT, body).await.map_err(broken)?;
    Ok(collected.map_err(broken)?.to_bytes())
}

fn body(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("our own types have string keys"))
}

fn broken(error: impl std::fmt::Display) -> ClientError {
    ClientError::Broken(error.to_string())
}

/// What it lacks is a name in a type of ours, which helps nobody who reads it.
fn foreign() -> ClientError {
    broken("it is of another form than this build knows")
}

fn refused(status: StatusCode, text: &[u8]) -> ClientError {
    match serde_json::from_slice::<ErrorBody>(text) {
        Ok(body) => ClientError::Refused {
            status,
            problem: body.error,
        },
        Err(_) => broken(format!("status {status} without a reason")),
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Unreachable { source, .. } => Self::new(Exit::Unavailable, error.to_string())
                .caused_by(source)
                .next("start keyward run, or say with --socket where it listens"),
            ClientError::Forbidden(_) => Self::new(Exit::Permission, error.to_string())
                .next("run it as root or as the daemon's user, or join control.group and be named in operator.operators"),
            ClientError::Refused { status, problem } => {
                let failure = Self::new(exit(*status), problem.what.clone());
                let failure = match &problem.why {
                    Some(why) => failure.cause(why.clone()),
                    None => failure,
                };
                match &problem.next {
                    Some(next) => failure.next(next.clone()),
                    None => failure,
                }
            }
            ClientError::Broken(_) => Self::new(Exit::Unavailable, error.to_string())
                .next("look at the daemon's log; run both from the same release"),
        }
    }
}

/// What an answer means for whoever called the command.
fn exit(status: StatusCode) -> Exit {
    match status {
        StatusCode::FORBIDDEN => Exit::Permission,
        StatusCode::CONFLICT => Exit::Config,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unavailable,
        status if status.is_client_error() => Exit::Usage,
        _ => Exit::Internal,
    }
}
