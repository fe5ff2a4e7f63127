//! The local HTTP server: takes a caller's request, carries it, and gives back the answer as it comes.
//!
//! Nothing is collected but requests small enough to be sent again and the few documents that name
//! addresses. A caller that leaves cancels its call at the proxy.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::{Failure, Tasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer;
use super::body::Upload;
use super::error::CarryError;
use super::gate::{Ask, Front, Names};
use super::headers;
use super::link::Answer;
use super::pool::Pool;
use super::resource;
use super::rewrite::{self, Rewriting};
use super::target::Route;
use super::upgrade;

/// Callers' connections at once; others wait to be accepted.
const SOCKETS: usize = 1024;
/// From one request's end, or the connection's begin, to the next one's whole head.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// The head of a request.
const HEAD: usize = 64 << 10;
/// A request up to here is taken as a whole, so that it can be sent again; nearly all of MCP's are.
const WHOLE: u64 = 256 << 10;
/// As long as that may take.
const WHOLE_LIMIT: Duration = Duration::from_secs(60);
/// A document that names addresses.
const DOCUMENT: usize = 256 << 10;
/// After a failed accept, which is nearly always a lack of descriptors that only time can mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The same failure is logged again after this long.
const REPEAT: Duration = Duration::from_secs(10);

/// What a caller gets.
pub(super) type Reply = Response<Either<Answer, Full<Bytes>>>;

/// What all connections share.
pub(super) struct Server {
    pub(super) pool: Arc<Pool>,
    pub(super) names: Names,
    pub(super) tasks: Tasks,
    /// Cancelled when a drain has taken its time.
    pub(super) cut: CancellationToken,
    said: Mutex<Option<(String, Instant)>>,
}

impl Server {
    pub(super) fn new(
        pool: Arc<Pool>,
        names: Names,
        tasks: Tasks,
        cut: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            pool,
            names,
            tasks,
            cut,
            said: Mutex::default(),
        })
    }

    /// Serves `listener` until the stop.
    ///
    /// # Errors
    ///
    /// None: a failing accept is tried again.
    pub(super) async fn serve(self: Arc<Self>, listener: TcpListener) -> Result<(), Failure> {
        let room = Arc::new(Semaphore::new(SOCKETS));
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &room) => accepted,
                () = self.tasks.stopping() => return Ok(()),
            };
            let Some((socket, permit)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let this = Arc::clone(&self);
            self.tasks.spawn(async move {
                this.connection(socket).await;
                drop(permit);
            });
        }
    }

    /// At the stop a connection is asked to leave, at the cut it has to.
    async fn connection(self: Arc<Self>, socket: TcpStream) {
        // An event must not wait for the acknowledgement of the one before.
        let _ = socket.set_nodelay(true);
        let this = Arc::clone(&self);
        let service = service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let mut connection = std::pin::pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_LIMIT)
                .max_buf_size(HEAD)
                .serve_connection(TokioIo::new(socket), service)
                .with_upgrades()
        );
        // A connection that breaks is its caller's business.
        tokio::select! {
            _ = &mut connection => return,
            () = self.tasks.stopping() => connection.as_mut().graceful_shutdown(),
        }
        tokio::select! {
            _ = connection => {}
            () = self.cut.cancelled() => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Reply {
        let ask = match self.names.admit(request.uri(), request.headers()) {
            Ok(ask) => ask,
            Err(refusal) => {
                tracing::debug!(error = %refusal, "request refused");
                return answer::refused(refusal);
            }
        };
        let route = ask.route.clone();
        let mut called = Bytes::new();
        match self.carry(request, &ask, &mut called).await {
            Ok(reply) => reply,
            Err(error) => {
                self.report(&route, &error);
                answer::failed(&error, &called)
            }
        }
    }

    /// `called` is set to what the caller sent, as far as it was taken as a whole.
    async fn carry(
        &self,
        mut request: Request<Incoming>,
        ask: &Ask,
        called: &mut Bytes,
    ) -> Result<Reply, CarryError> {
        let on_upgrade = hyper::upgrade::on(&mut request);
        let (mut parts, body) = request.into_parts();
        let protocol = headers::strip_request(&mut parts.headers);
        parts.uri = ask.path.parse().map_err(|_| CarryError::Caller)?;
        let describes = parts.method == Method::GET && rewrite::describes(&ask.path);
        if describes {
            let plain = HeaderValue::from_static("identity");
            parts.headers.insert(header::ACCEPT_ENCODING, plain);
        }
        let rewriting = Rewriting {
            front: &ask.front,
            route: &ask.route,
            domain: self.pool.domain(),
        };
        if let Some(protocol) = protocol {
            headers::upgrade(&mut parts.headers, protocol);
            let parts = onward(parts);
            let answer = self
                .pool
                .send_alone(&ask.route, parts, Upload::whole(Bytes::new()));
            let mut answer = answer.await?;
            if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                return Ok(upgrade::begin(&self.tasks, &self.cut, on_upgrade, answer));
            }
            headers::strip_answer(answer.headers_mut());
            return Ok(answer.map(Either::Left));
        }
        let mut body = upload(body).await?;
        self.inward(&mut parts, &mut body, &ask.front);
        if let Upload::Whole(Some(bytes)) = &body {
            *called = bytes.clone();
        }
        let sent = self.pool.send(&ask.route, onward(parts), body);
        let mut answer = sent.await?;
        headers::strip_answer(answer.headers_mut());
        rewriting.headers(answer.headers_mut());
        if describes && answer.status() == StatusCode::OK {
            return document(answer, &rewriting, &self.pool.name(&ask.route)).await;
        }
        Ok(answer.map(Either::Left))
    }

    /// Names what the caller wants a token for as the tunnel knows it.
    fn inward(&self, parts: &mut request::Parts, body: &mut Upload, front: &Front) {
        let domain = self.pool.domain();
        let known = parts
            .uri
            .query()
            .and_then(|query| resource::inward(query, front, domain));
        if let Some(Ok(uri)) = known.map(|query| format!("{}?{query}", parts.uri.path()).parse()) {
            parts.uri = uri;
        }
        let kind = parts.headers.get(header::CONTENT_TYPE);
        let form = kind.is_some_and(|kind| {
            kind.as_bytes()
                .starts_with(b"application/x-www-form-urlencoded")
        });
        if let Upload::Whole(Some(bytes)) = body
            && form
        {
            let text = std::str::from_utf8(bytes).ok();
            let known = text.and_then(|text| resource::inward(text, front, domain));
            if let Some(known) = known {
                parts.headers.remove(header::CONTENT_LENGTH);
                *body = Upload::whole(known.into());
            }
        }
    }

    /// Says what failed, but not the same for every call.
    fn report(&self, route: &Route, error: &CarryError) {
        let sentence = error.sentence();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let repeated = said
            .as_ref()
            .is_some_and(|(said, at)| *said == sentence && at.elapsed() < REPEAT);
        if !repeated {
            tracing::warn!(
                route = route.0,
                layer = error.layer(),
                error = sentence,
                "call not carried"
            );
            *said = Some((sentence, Instant::now()));
        }
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, permit)),
        Err(error) => {
            tracing::warn!(%error, "cannot accept");
            None
        }
    }
}

/// The head as it goes on: what hyper noted about the caller's connection stays here.
fn onward(parts: request::Parts) -> request::Parts {
    let mut onward = Request::new(()).into_parts().0;
    onward.method = parts.method;
    onward.uri = parts.uri;
    onward.headers = parts.headers;
    onward
}

async fn upload(body: Incoming) -> Result<Upload, CarryError> {
    let small = body
        .size_hint()
        .upper()
        .is_some_and(|length| length <= WHOLE);
    if !small {
        return Ok(Upload::Stream(body));
    }
    match tokio::time::timeout(WHOLE_LIMIT, body.collect()).await {
        Ok(Ok(whole)) => Ok(Upload::whole(whole.to_bytes())),
        Ok(Err(_)) | Err(_) => Err(CarryError::Caller),
    }
}

/// A document that names addresses, with those that the caller can follow.
async fn document(
    answer: Response<Answer>,
    rewriting: &Rewriting<'_>,
    name: &str,
) -> Result<Reply, CarryError> {
    let (mut parts, body) = answer.into_parts();
    let read = Limited::new(body, DOCUMENT).collect().await;
    let read = read.map_err(|error| CarryError::Broken {
        name: name.to_owned(),
        cause: error.to_string(),
    })?;
    let text = read.to_bytes();
    let text = rewriting.document(&text).map_or(text, Bytes::from);
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::ETAG);
    Ok(Response::from_parts(parts, Either::Right(Full::new(text))))
}
