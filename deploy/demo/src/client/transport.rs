//! The SDK's HTTP side on our own connections.
//!
//! The SDK heals a broken event stream by asking again, which is right for a user and wrong for a
//! demonstration that nothing breaks: here the bodies are watched, and nothing is asked twice.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyDataStream, BodyExt, Full, LengthLimitError, Limited};
use process::metrics::Counter;
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream::{Sse, SseStream};

use super::{Answer, CallError, Connection, Http};

/// The longest answer that is not a stream, in bytes.
const LONGEST: usize = 4 << 20;

type Outcome<T> = Result<T, StreamableHttpError<CallError>>;
type Events = BoxStream<'static, Result<Sse, SseError>>;

/// The event streams that a server keeps open for a session (`GET`).
#[derive(Debug, Default)]
pub struct Standing {
    /// Streams that began.
    pub opened: Counter,
    /// Streams that ended before their session.
    pub broken: Counter,
    /// Why the first one broke.
    pub first: OnceLock<String>,
}

/// One session's HTTP side: every second request takes a new connection.
#[derive(Clone)]
pub struct Transport {
    http: Http,
    path: Arc<str>,
    requests: Arc<AtomicU64>,
    standing: Arc<Standing>,
    /// Set when the session ends on purpose.
    pub(super) closing: Arc<AtomicBool>,
}

impl Transport {
    /// Asks for `path` over `http` and counts standing streams in `standing`.
    pub fn new(http: Http, path: &str, standing: Arc<Standing>) -> Self {
        Self {
            http,
            path: path.into(),
            requests: Arc::default(),
            standing,
            closing: Arc::default(),
        }
    }

    fn connection(&self) -> Connection {
        if self
            .requests
            .fetch_add(1, Ordering::Relaxed)
            .is_multiple_of(2)
        {
            Connection::Kept
        } else {
            Connection::Fresh
        }
    }

    fn request(
        &self,
        method: Method,
        session: Option<Arc<str>>,
        fields: HashMap<HeaderName, HeaderValue>,
    ) -> http::request::Builder {
        let mut request = Request::builder().method(method).uri(self.path.as_ref());
        if let Some(session) = session {
            request = request.header("mcp-session-id", session.as_ref());
        }
        for (name, value) in fields {
            request = request.header(name, value);
        }
        request
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: Vec<u8>,
        connection: Connection,
    ) -> Outcome<Response<Answer>> {
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| StreamableHttpError::Client(CallError::Request(error.to_string())))?;
        let sent = self.http.send(request, connection).await;
        sent.map_err(StreamableHttpError::Client)
    }
}

impl StreamableHttpClient for Transport {
    type Error = CallError;

    async fn post_message(
        &self,
        _uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Outcome<StreamableHttpPostResponse> {
        let attached = session_id.is_some();
        let request = self
            .request(Method::POST, session_id, custom_headers)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream");
        let body = serde_json::to_vec(&message)?;
        let answer = self.send(request, body, self.connection()).await?;
        let status = answer.status();
        if matches!(status, StatusCode::ACCEPTED | StatusCode::NO_CONTENT) {
            collect(answer).await?;
            return Ok(StreamableHttpPostResponse::Accepted);
        }
        if status == StatusCode::NOT_FOUND && attached {
            return Err(StreamableHttpError::SessionExpired);
        }
        if !status.is_success() {
            return Err(refused(answer).await);
        }
        let session = answer.headers().get("mcp-session-id");
        let session = session
            .and_then(|value| value.to_str().ok())
            .map(ToOwned::to_owned);
        if is(&answer, "text/event-stream") {
            return Ok(StreamableHttpPostResponse::Sse(events(answer), session));
        }
        if !is(&answer, "application/json") {
            let kind = answer.headers().get(header::CONTENT_TYPE);
            let kind = kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
            return Err(StreamableHttpError::UnexpectedContentType(kind));
        }
        let message = serde_json::from_slice(&collect(answer).await?)?;
        Ok(StreamableHttpPostResponse::Json(message, session))
    }

    async fn delete_session(
        &self,
        _uri: Arc<str>,
        session_id: Arc<str>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Outcome<()> {
        let request = self.request(Method::DELETE, Some(session_id), custom_headers);
        let answer = self.send(request, Vec::new(), Connection::Kept).await?;
        if answer.status().is_success() || answer.status() == StatusCode::METHOD_NOT_ALLOWED {
            collect(answer).await?;
            return Ok(());
        }
        Err(refused(answer).await)
    }

    async fn get_stream(
        &self,
        _uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Outcome<Events> {
        let mut request = self
            .request(Method::GET, session_id, custom_headers)
            .header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let answer = self.send(request, Vec::new(), Connection::Kept).await?;
        if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
            return Err(StreamableHttpError::ServerDoesNotSupportSse);
        }
        if !answer.status().is_success() {
            return Err(refused(answer).await);
        }
        if !is(&answer, "text/event-stream") {
            return Err(StreamableHttpError::ServerDoesNotSupportSse);
        }
        self.standing.opened.increment();
        Ok(Watched {
            events: events(answer),
            standing: Arc::clone(&self.standing),
            closing: Arc::clone(&self.closing),
            over: false,
        }
        .boxed())
    }
}

fn is(answer: &Response<Answer>, kind: &str) -> bool {
    let field = answer.headers().get(header::CONTENT_TYPE);
    field.is_some_and(|value| value.as_bytes().starts_with(kind.as_bytes()))
}

fn events(answer: Response<Answer>) -> Events {
    SseStream::from_bytes_stream(BodyDataStream::new(answer.into_body())).boxed()
}

async fn collect(answer: Response<Answer>) -> Outcome<Bytes> {
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map_err(|error| {
        if error.is::<LengthLimitError>() {
            return StreamableHttpError::ResponseBodyTooLarge { max_size: LONGEST };
        }
        StreamableHttpError::Client(CallError::Http(super::chain(error.as_ref())))
    })?;
    Ok(body.to_bytes())
}

async fn refused(answer: Response<Answer>) -> StreamableHttpError<CallError> {
    let status = answer.status().as_u16();
    let text = match collect(answer).await {
        Ok(body) => String::from_utf8_lossy(&body).chars().take(300).collect(),
        Err(error) => error.to_string(),
    };
    StreamableHttpError::Client(CallError::Status { status, text })
}

/// A standing stream: it may end only when its session does.
struct Watched {
    events: Events,
    standing: Arc<Standing>,
    closing: Arc<AtomicBool>,
    over: bool,
}

impl Stream for Watched {
    type Item = Result<Sse, SseError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.events.poll_next_unpin(context);
        let why = match &polled {
            Poll::Ready(None) => "ended by the server".to_owned(),
            Poll::Ready(Some(Err(error))) => super::chain(error),
            _ => return polled,
        };
        if !self.over && !self.closing.load(Ordering::Relaxed) {
            self.standing.broken.increment();
            let _ = self.standing.first.set(why);
        }
        self.over = true;
        polled
    }
}
