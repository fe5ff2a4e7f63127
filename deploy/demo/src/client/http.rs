//! HTTP over inner TLS to one public name, at whatever address a carrier listens.
//!
//! Connections are ours to manage, because what is to be shown depends on them: one call asks for a
//! new connection, another for one that was there before the rotation.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::Tasks;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::CallError;
use crate::trust::Trust;

/// What is spoken inside inner TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    One,
    /// HTTP/2.
    Two,
    /// HTTP/1.1 without TLS, as the agent of this machine takes it.
    Plain,
}

impl HttpVersion {
    /// As ALPN says it, RFC 7301.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::One | Self::Plain => b"http/1.1",
            Self::Two => b"h2",
        }
    }
}

/// Which connection a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// One that was opened for an earlier request, if there is one.
    Kept,
    /// A new one for this request alone.
    Fresh,
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where the carrier takes bytes: a bridge, the proxy's `tls` listener, or an agent.
    pub address: SocketAddr,
    /// The name that is asked for: `Host`, and the server name of inner TLS.
    pub host: String,
}

/// A client of one target. Clones share its connections.
#[derive(Clone)]
pub struct Http {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    /// Of inner TLS; none without.
    name: Option<ServerName<'static>>,
    authority: HeaderValue,
    version: HttpVersion,
    tls: Arc<ClientConfig>,
    tasks: Tasks,
    idle: Mutex<Vec<Sender>>,
    opened: AtomicU64,
}

enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Http {
    /// A client without a connection yet.
    ///
    /// # Errors
    ///
    /// The host is not a DNS name.
    pub fn new(
        target: Target,
        version: HttpVersion,
        trust: &Arc<Trust>,
        tasks: &Tasks,
    ) -> Result<Self, CallError> {
        let bad = |error: &dyn std::error::Error| CallError::Request(error.to_string());
        let name = match version {
            HttpVersion::Plain => None,
            HttpVersion::One | HttpVersion::Two => {
                let name = ServerName::try_from(target.host.clone());
                Some(name.map_err(|error| bad(&error))?)
            }
        };
        let authority = HeaderValue::try_from(&target.host).map_err(|error| bad(&error))?;
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                authority,
                version,
                tls: trust.client(version.alpn()).map_err(|error| bad(&error))?,
                tasks: tasks.clone(),
                idle: Mutex::default(),
                opened: AtomicU64::new(0),
                target,
            }),
        })
    }

    /// Connections opened so far.
    pub fn opened(&self) -> u64 {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Sends a request whose URI is a path; the answer's body is a stream.
    ///
    /// A kept connection that turns out to be closed before anything of the request was written is
    /// replaced, as every HTTP client does (RFC 9110 §9.2.2). Nothing else is tried again.
    ///
    /// # Errors
    ///
    /// See [`CallError`], which names the layer.
    pub async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        connection: Connection,
    ) -> Result<Response<Answer>, CallError> {
        self.address(&mut request)?;
        if connection == Connection::Kept {
            while let Some(sender) = self.kept() {
                match self.send_on(sender, request, connection).await {
                    Ok(answer) => return answer,
                    Err(unsent) => request = *unsent,
                }
            }
        }
        let sender = self.connect().await?;
        if connection == Connection::Kept
            && let Sender::Two(shared) = &sender
        {
            // Shared from now on, also by requests that are sent before this one is answered.
            self.idle().push(Sender::Two(shared.clone()));
        }
        let sent = self.send_on(sender, request, connection).await;
        sent.unwrap_or_else(|_| {
            Err(CallError::Http(
                "the connection closed before the request".into(),
            ))
        })
    }

    /// HTTP/1.1 wants a path and `Host`, HTTP/2 the whole URI (RFC 9113 §8.3.1).
    fn address(&self, request: &mut Request<Full<Bytes>>) -> Result<(), CallError> {
        match self.shared.version {
            HttpVersion::One | HttpVersion::Plain => {
                let host = self.shared.authority.clone();
                request.headers_mut().insert(header::HOST, host);
            }
            HttpVersion::Two => {
                let path = request
                    .uri()
                    .path_and_query()
                    .map_or("/", |path| path.as_str());
                let uri = format!("https://{}{path}", self.shared.target.host);
                *request.uri_mut() = uri
                    .parse::<Uri>()
                    .map_err(|error| CallError::Request(error.to_string()))?;
            }
        }
        Ok(())
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle();
        let sender = idle.pop()?;
        if let Sender::Two(shared) = &sender {
            if shared.is_closed() {
                return None;
            }
            idle.push(Sender::Two(shared.clone()));
        }
        Some(sender)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Sender>> {
        let idle = self.shared.idle.lock();
        idle.unwrap_or_else(PoisonError::into_inner)
    }

    /// `Err`: nothing was written, here is the request back.
    async fn send_on(
        &self,
        mut sender: Sender,
        request: Request<Full<Bytes>>,
        connection: Connection,
    ) -> Result<Result<Response<Answer>, CallError>, Box<Request<Full<Bytes>>>> {
        let sent = match &mut sender {
            Sender::One(one) => {
                if one.ready().await.is_err() {
                    return Err(Box::new(request));
                }
                one.try_send_request(request).await
            }
            Sender::Two(two) => {
                if two.ready().await.is_err() {
                    return Err(Box::new(request));
                }
                two.try_send_request(request).await
            }
        };
        match sent {
            Ok(response) => Ok(Ok(response.map(|body| Answer {
                body,
                lease: Some(Lease {
                    http: (connection == Connection::Kept).then(|| self.clone()),
                    sender,
                }),
            }))),
            Err(mut error) => match error.take_message() {
                Some(request) => Err(Box::new(request)),
                None => Ok(Err(CallError::http(&error.into_error()))),
            },
        }
    }

    async fn connect(&self) -> Result<Sender, CallError> {
        let shared = &self.shared;
        shared.opened.fetch_add(1, Ordering::Relaxed);
        let tcp = TcpStream::connect(shared.target.address)
            .await
            .map_err(|error| CallError::Tcp(shared.target.address, error))?;
        tcp.set_nodelay(true)
            .map_err(|error| CallError::Tcp(shared.target.address, error))?;
        let Some(name) = &shared.name else {
            return self.one(TokioIo::new(tcp)).await;
        };
        let tls = TlsConnector::from(Arc::clone(&shared.tls))
            .connect(name.clone(), tcp)
            .await
            .map_err(CallError::Tls)?;
        if tls.get_ref().1.alpn_protocol() != Some(shared.version.alpn()) {
            let wanted = String::from_utf8_lossy(shared.version.alpn()).into_owned();
            return Err(CallError::Http(format!("{wanted} was not agreed on")));
        }
        let io = TokioIo::new(tls);
        match shared.version {
            HttpVersion::One | HttpVersion::Plain => self.one(io).await,
            HttpVersion::Two => {
                let made = http2::handshake(TokioExecutor::new(), io).await;
                let (sender, connection) = made.map_err(|error| CallError::http(&error))?;
                shared.tasks.spawn(async move { drop(connection.await) });
                Ok(Sender::Two(sender))
            }
        }
    }

    async fn one<T>(&self, io: T) -> Result<Sender, CallError>
    where
        T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let made = http1::handshake(io).await;
        let (sender, connection) = made.map_err(|error| CallError::http(&error))?;
        self.shared
            .tasks
            .spawn(async move { drop(connection.await) });
        Ok(Sender::One(sender))
    }
}

/// The connection of an answer. Some requests give it back when the answer was read to the end; for
/// all of them it stays open until then.
struct Lease {
    http: Option<Http>,
    sender: Sender,
}

impl Lease {
    fn give_back(self) {
        // An HTTP/2 connection was shared all the time.
        if let (Some(http), Sender::One(_)) = (self.http, &self.sender) {
            http.idle().push(self.sender);
        }
    }
}

/// The body of an answer. Dropped before its end it closes an HTTP/1.1 connection and resets an
/// HTTP/2 stream.
pub struct Answer {
    body: Incoming,
    lease: Option<Lease>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let over = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if over && let Some(lease) = self.lease.take() {
            lease.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
