//! A client of the daemon's operator socket, written against the documented JSON alone.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use process::Tasks;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::net::UnixStream;

/// An answer takes at most this long.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two looks at an operation.
const PACE: Duration = Duration::from_millis(10);

/// Why the daemon did not do it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// Its socket does not answer.
    #[error("{} does not answer", socket.display())]
    Silent {
        /// The operator socket.
        socket: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// It answered with an error.
    #[error("{what}")]
    Refused {
        /// What and why.
        what: String,
        /// What it says to do.
        next: Option<String>,
    },
    /// An operation ended otherwise than asked.
    #[error("{what}: {detail}")]
    Failed {
        /// Which operation.
        what: String,
        /// Its last word.
        detail: String,
    },
    /// It did not come to an end.
    #[error("{what} did not end within {} s", limit.as_secs())]
    Late {
        /// Which operation.
        what: String,
        /// The limit.
        limit: Duration,
    },
}

/// What can be rotated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// A new key and server certificate.
    ServerCertificate,
    /// Switch to the standby CA; the caller asserts that the verifiers hold both.
    Ca,
    /// Another token at the edge.
    TunnelToken,
    /// Another secret for the proxy to dial the edge with.
    SharedSecret,
}

impl Rotation {
    /// The noun of the command line.
    pub fn noun(self) -> &'static str {
        match self {
            Self::ServerCertificate => "server-certificate",
            Self::Ca => "ca",
            Self::TunnelToken => "tunnel-token",
            Self::SharedSecret => "shared-secret",
        }
    }
}

/// A client of one operator socket.
#[derive(Clone, Debug)]
pub struct Operator {
    socket: PathBuf,
    tasks: Tasks,
}

impl Operator {
    /// A client of `socket`; nothing is connected yet.
    pub fn new(socket: &Path, tasks: &Tasks) -> Self {
        Self {
            socket: socket.to_owned(),
            tasks: tasks.clone(),
        }
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    ///
    /// See [`OperatorError`].
    pub async fn status(&self) -> Result<Value, OperatorError> {
        self.ask(Method::GET, "/v1/status", None).await
    }

    /// Orders a rotation, and waits for nothing but the operation that was begun.
    ///
    /// # Errors
    ///
    /// See [`OperatorError`]. Whoever got no answer does not know whether the order was taken.
    pub async fn order(&self, what: Rotation) -> Result<Value, OperatorError> {
        let order = match what {
            Rotation::Ca => json!({ "what": what.noun(), "trusted": true }),
            _ => json!({ "what": what.noun() }),
        };
        self.ask(Method::POST, "/v1/rotations", Some(&order)).await
    }

    /// Orders a rotation and waits until it is done, at most `limit`.
    ///
    /// # Errors
    ///
    /// See [`OperatorError`].
    pub async fn rotate(&self, what: Rotation, limit: Duration) -> Result<(), OperatorError> {
        let mut operation = self.order(what).await?;
        let text = |operation: &Value, key: &str| {
            let text = operation.get(key).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let path = format!("/v1/operations/{}", text(&operation, "id"));
        let what = format!("rotate {}", what.noun());
        let over = tokio::time::Instant::now() + limit;
        loop {
            match text(&operation, "state").as_str() {
                "done" => return Ok(()),
                "failed" => {
                    let detail = text(&operation, "detail");
                    return Err(OperatorError::Failed { what, detail });
                }
                _ if tokio::time::Instant::now() > over => {
                    return Err(OperatorError::Late { what, limit });
                }
                _ => tokio::time::sleep(PACE).await,
            }
            operation = self.ask(Method::GET, &path, None).await?;
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, OperatorError> {
        let silent = |error| OperatorError::Silent {
            socket: self.socket.clone(),
            error,
        };
        let asked = self.exchange(method, path, body);
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        let (status, text) = tokio::time::timeout(LIMIT, asked)
            .await
            .map_err(|_| silent(late()))?
            .map_err(silent)?;
        let answer: Value =
            serde_json::from_slice(&text).map_err(|error| silent(std::io::Error::other(error)))?;
        if status.is_success() {
            return Ok(answer);
        }
        let said = |key: &str| {
            let text = answer.pointer(&format!("/error/{key}"));
            text.and_then(Value::as_str).map(ToOwned::to_owned)
        };
        let mut what = said("what").unwrap_or_else(|| format!("status {status}"));
        if let Some(why) = said("why") {
            what = format!("{what}: {why}");
        }
        Err(OperatorError::Refused {
            what,
            next: said("next"),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> std::io::Result<(StatusCode, Bytes)> {
        let other = std::io::Error::other;
        let stream = UnixStream::connect(&self.socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        self.tasks.spawn(async move { drop(connection.await) });
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(std::io::Error::other)?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(std::io::Error::other)?;
        let status = answer.status();
        let body = answer.into_body().collect().await.map_err(other)?;
        Ok((status, body.to_bytes()))
    }
}
