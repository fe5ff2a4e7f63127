//! One connection to a proxy, with HTTP on it, and why it ended.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version, header, request};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use process::Tasks;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::Instant;

use super::body::Upload;
use super::dial::{self, Inner};
use super::error::CarryError;

/// A proxy that answers no ping in time is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The head of an answer.
const HEAD: u32 = 64 << 10;
/// How long a connection that failed a call may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Takes calls. Clones share the connection, which ends with the last of them and the last answer.
#[derive(Clone)]
pub(super) struct Link {
    sender: Sender,
    name: Arc<str>,
    pub(super) generation: u64,
    pub(super) in_use: Arc<InUse>,
    end: End,
}

enum Sender {
    Two(http2::SendRequest<Upload>),
    /// One call, and then no other.
    One(Arc<tokio::sync::Mutex<http1::SendRequest<Upload>>>),
}

impl Clone for Sender {
    fn clone(&self) -> Self {
        match self {
            Self::Two(sender) => Self::Two(sender.clone()),
            Self::One(sender) => Self::One(Arc::clone(sender)),
        }
    }
}

/// When a connection was needed last. Each call that runs holds one reference.
pub(super) struct InUse(Mutex<Instant>);

impl InUse {
    fn now() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now())))
    }

    pub(super) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// What is known of the end of a connection.
#[derive(Clone)]
struct End {
    noted: Arc<Mutex<Option<CarryError>>>,
    over: watch::Receiver<bool>,
}

/// Why a call was not answered.
pub(super) struct Failed {
    pub(super) error: CarryError,
    /// Nothing of it went out: here it is.
    pub(super) unsent: Option<Upload>,
    /// The proxy says that it has not looked at it (RFC 9113 section 8.7).
    pub(super) untouched: bool,
}

impl Link {
    /// HTTP as ALPN has it.
    pub(super) async fn new(
        inner: Inner,
        name: &str,
        generation: u64,
        tasks: &Tasks,
    ) -> Result<Self, CarryError> {
        let noted = Arc::new(Mutex::new(None));
        let (ending, over) = watch::channel(false);
        let http2 = inner.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(Noting {
            inner,
            name: name.into(),
            noted: Arc::clone(&noted),
        });
        let broken = |error: hyper::Error| dial::ended(name, &error);
        let sender = if http2 {
            let mut builder = http2::Builder::new(tasks.clone());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(HEAD)
                .initial_stream_window_size(wire::STREAM_WINDOW)
                .initial_connection_window_size(wire::CONNECTION_WINDOW)
                .max_local_error_reset_streams(None)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_TIMEOUT)
                .keep_alive_while_idle(true);
            let (sender, connection) = builder.handshake(io).await.map_err(broken)?;
            tasks.spawn(async move {
                // Why it ended is in the notes.
                let _ = connection.await;
                ending.send_replace(true);
            });
            Sender::Two(sender)
        } else {
            let mut builder = http1::Builder::new();
            builder.max_buf_size(HEAD as usize);
            let (sender, connection) = builder.handshake(io).await.map_err(broken)?;
            tasks.spawn(async move {
                let _ = connection.with_upgrades().await;
                ending.send_replace(true);
            });
            Sender::One(Arc::new(tokio::sync::Mutex::new(sender)))
        };
        Ok(Self {
            sender,
            name: name.into(),
            generation,
            in_use: InUse::now(),
            end: End { noted, over },
        })
    }

    /// Whether calls share it.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self.sender, Sender::Two(_))
    }

    /// Whether it takes no more calls.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Two(sender) => sender.is_closed(),
            Sender::One(_) => *self.end.over.borrow(),
        }
    }

    /// Sends one call. Dropped before the answer's head came, the call is cancelled at the proxy.
    pub(super) async fn send(
        mut self,
        parts: request::Parts,
        body: Upload,
    ) -> Result<Response<Answer>, Failed> {
        let request = match self.address(parts, body) {
            Ok(request) => request,
            Err(error) => {
                return Err(Failed {
                    error,
                    unsent: None,
                    untouched: false,
                });
            }
        };
        let sent = match &mut self.sender {
            Sender::Two(sender) => match sender.ready().await {
                Ok(()) => sender.try_send_request(request).await,
                Err(_) => return Err(self.unsent(request.into_body()).await),
            },
            Sender::One(sender) => {
                let mut sender = sender.lock().await;
                if sender.ready().await.is_err() {
                    drop(sender);
                    return Err(self.unsent(request.into_body()).await);
                }
                sender.try_send_request(request).await
            }
        };
        match sent {
            Ok(answer) => Ok(answer.map(|body| Answer {
                body,
                link: Some(self),
            })),
            Err(failed) => Err(self.failed(failed).await),
        }
    }

    /// HTTP/2 wants the whole URI (RFC 9113 section 8.3.1), HTTP/1.1 a path and `Host`.
    fn address(
        &self,
        mut parts: request::Parts,
        body: Upload,
    ) -> Result<Request<Upload>, CarryError> {
        let bad = |error: &dyn std::error::Error| self.broken(&error.to_string());
        match self.sender {
            Sender::Two(_) => {
                let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
                let uri = format!("https://{}{path}", self.name);
                parts.uri = uri.parse::<Uri>().map_err(|error| bad(&error))?;
                parts.version = Version::HTTP_2;
            }
            Sender::One(_) => {
                let host = HeaderValue::try_from(&*self.name).map_err(|error| bad(&error))?;
                parts.headers.insert(header::HOST, host);
                parts.version = Version::HTTP_11;
            }
        }
        Ok(Request::from_parts(parts, body))
    }

    async fn unsent(self, body: Upload) -> Failed {
        Failed {
            error: self.why("it was closed").await,
            unsent: Some(body),
            untouched: true,
        }
    }

    async fn failed(self, mut failed: TrySendError<Request<Upload>>) -> Failed {
        let unsent = failed.take_message().map(Request::into_body);
        let error = failed.into_error();
        let untouched = unsent.is_some() || is_untouched(&error);
        let cause = crate::causes::causes(&error);
        let error = if error.is_user() {
            CarryError::Caller
        } else if untouched && unsent.is_none() {
            self.broken(&cause)
        } else {
            self.why(&cause).await
        };
        Failed {
            error,
            unsent,
            untouched,
        }
    }

    /// What the connection itself ended with says more than what a call on it saw.
    async fn why(mut self, cause: &str) -> CarryError {
        let over = self.end.over.wait_for(|over| *over);
        let _ = tokio::time::timeout(LAST_WORDS, over).await;
        let noted = self.end.noted.lock();
        let noted = noted.unwrap_or_else(PoisonError::into_inner).clone();
        noted.unwrap_or_else(|| self.broken(cause))
    }

    fn broken(&self, cause: &str) -> CarryError {
        CarryError::Broken {
            name: self.name.to_string(),
            cause: cause.to_owned(),
        }
    }
}

/// Refused by the peer before it was looked at, or behind the last one that it will look at.
fn is_untouched(error: &hyper::Error) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref::<h2::Error>() {
            let refused = error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (refused || error.is_go_away());
        }
        next = source.source();
    }
    false
}

/// The body of an answer. Dropped before its end, the call is cancelled at the proxy.
pub(super) struct Answer {
    body: Incoming,
    link: Option<Link>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.give_back();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Answer {
    fn give_back(&mut self) {
        if let Some(link) = self.link.take() {
            link.in_use.touch();
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Notes the first error that says something: HTTP/2 hands on the text of one and not itself.
struct Noting {
    inner: Inner,
    name: Arc<str>,
    noted: Arc<Mutex<Option<CarryError>>>,
}

impl Noting {
    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            let found = dial::ended(&self.name, error);
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            if noted
                .as_ref()
                .is_none_or(|noted| noted.depth() < found.depth())
            {
                *noted = Some(found);
            }
        }
        polled
    }
}

impl AsyncRead for Noting {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(context, buffer);
        self.note(polled)
    }
}

impl AsyncWrite for Noting {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        self.note(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(context);
        self.note(polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(context, pieces);
        self.note(polled)
    }
}
