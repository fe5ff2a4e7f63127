//! One connection to the edge, as its HTTP/2 server: the control stream, and a CONNECT for each agent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use control::Secret;
use futures_util::StreamExt;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::Tasks;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::NAME;
use super::attach::Attached;
use super::line::{Line, QUEUE};
use super::roster::{Entry, Roster};
use super::stalling::Stalling;
use crate::carrier::{Arrival, CarrierError, Door, Leaving, Stream};
use crate::chain::Chain;
use crate::config::EdgeCarrier;

/// HTTP/2: what waits to be sent, for each stream.
const SEND_BUFFER: usize = 256 << 10;
/// A header list of the edge; a client's certificate is the longest part of it.
const HEAD: u32 = 32 << 10;
/// Agents that hang up before they were looked at.
const PENDING_RESETS: usize = 1024;
/// The edge has to open the control stream and bind the connection within this.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What all connections to the edge share.
pub(super) struct Shared {
    pub(super) edge: EdgeCarrier,
    pub(super) door: Door,
    /// Calls in flight get this long before a connection is cut.
    pub(super) drain: Duration,
    pub(super) roster: Roster,
    pub(super) tasks: Tasks,
    /// The newest secret.
    pub(super) secret: watch::Receiver<Arc<Secret>>,
    /// The last one that the edge took.
    pub(super) proven: Mutex<Option<Arc<Secret>>>,
}

impl Shared {
    /// The last secret that the edge took, if it took one.
    pub(super) fn proven(&self) -> Option<Arc<Secret>> {
        self.lock().clone()
    }

    /// The edge has taken `secret`.
    pub(super) fn prove(&self, secret: &Arc<Secret>) {
        *self.lock() = Some(Arc::clone(secret));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Arc<Secret>>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves a connection until it ends.
pub(super) async fn run(shared: Arc<Shared>, attached: Attached, entry: Entry) {
    let tasks = shared.tasks.clone();
    let Attached {
        stream,
        secret,
        instance,
        ..
    } = attached;
    tracing::info!(edge = shared.edge.host, instance, "connected to the edge");
    let talked = CancellationToken::new();
    let streams = Arc::new(Streams {
        opened: AtomicBool::new(false),
        shared: Arc::clone(&shared),
        entry: Arc::new(entry),
        secret,
        over: talked.clone(),
        retire: CancellationToken::new(),
    });
    let opened = Arc::clone(&streams);
    let service = service_fn(move |request| {
        let answer = Streams::answer(&streams, request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connection = std::pin::pin!(builder(&shared).serve_connection(stream, service));
    let controlled = async {
        tokio::time::sleep(CONTROL_LIMIT).await;
        if opened.opened.load(Ordering::Relaxed) {
            talked.cancelled().await;
        }
    };
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        // Without it nobody would know when the credential is cut.
        () = controlled => {
            tracing::warn!(instance, "no control stream on a connection to the edge");
            return;
        }
        () = tasks.stopping() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        // The edge opens no more streams; those that run may end.
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    let error = ended.err().map(|error| Chain(&error).to_string());
    tracing::info!(instance, error, "connection to the edge ended");
}

fn builder(shared: &Shared) -> http2::Builder<Tasks> {
    let streams = u32::try_from(shared.door.limit).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(shared.tasks.clone());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::CONNECTION_WINDOW)
        .max_frame_size(wire::MAX_FRAME)
        // One more for the control stream.
        .max_concurrent_streams(streams.saturating_add(1))
        .max_header_list_size(HEAD)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        // Agents' aborts come as resets from the edge: they are no fault of this connection.
        .max_local_error_reset_streams(None)
        .keep_alive_interval(wire::PING_EVERY)
        .keep_alive_timeout(wire::PING_TIMEOUT);
    builder
}

/// The streams of one connection.
struct Streams {
    /// The control stream was opened.
    opened: AtomicBool,
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    secret: Arc<Secret>,
    /// Cancelled when the control stream has ended.
    over: CancellationToken,
    /// Cancelled when the connection will be cut soon.
    retire: CancellationToken,
}

impl Streams {
    fn answer(this: &Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return this.connect(request);
        }
        let control =
            request.method() == Method::POST && request.uri().path() == wire::CONTROL_PATH;
        if !control || this.opened.swap(true, Ordering::Relaxed) {
            return status(StatusCode::NOT_FOUND);
        }
        let (out, lines) = mpsc::channel(QUEUE);
        let line = Line::new(
            Arc::clone(&this.shared),
            Arc::clone(&this.entry),
            out,
            Arc::clone(&this.secret),
            this.retire.clone(),
        );
        let over = this.over.clone().drop_guard();
        this.shared.tasks.spawn(async move {
            line.talk(request.into_body()).await;
            drop(over);
        });
        let lines = futures_util::stream::unfold(lines, |mut lines| async {
            let frame = lines.recv().await?;
            Some((frame, lines))
        });
        Response::new(StreamBody::new(lines.map(Ok)).boxed_unsync())
    }

    fn connect(&self, request: Request<Incoming>) -> Response<Body> {
        let door = &self.shared.door;
        door.telemetry.accepted.increment();
        if door.telemetry.connections.get() >= door.limit as u64 {
            door.telemetry.refused.increment();
            return status(StatusCode::SERVICE_UNAVAILABLE);
        }
        let peer = forwarded(request.headers());
        let retire = self.retire.clone();
        let mutual = !self.shared.edge.allow_without_client_certificate;
        let opening = async move {
            let upgraded = hyper::upgrade::on(request).await?;
            Ok::<_, CarrierError>(Arrival {
                stream: Stream::Edge(Stalling::new(TokioIo::new(upgraded), wire::STALL)),
                peer,
                leaving: Leaving::default(),
                mutual,
                retire,
            })
        };
        let door = door.clone();
        self.shared.tasks.spawn(door.receive(NAME, opening));
        status(StatusCode::OK)
    }
}

fn status(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Empty::new().boxed_unsync());
    *answer.status_mut() = status;
    answer
}

/// The address in `Forwarded: for="192.0.2.43:47011"`, as the edge writes it (RFC 7239).
fn forwarded(headers: &HeaderMap) -> Option<SocketAddr> {
    let value = headers.get(wire::FORWARDED)?.to_str().ok()?;
    let address = value.strip_prefix("for=\"")?.strip_suffix('"')?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_address_is_read_as_the_edge_writes_it() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(wire::FORWARDED, text.parse().unwrap());
            forwarded(&headers).map(|address| address.to_string())
        };
        assert_eq!(
            read("for=\"192.0.2.43:47011\"").as_deref(),
            Some("192.0.2.43:47011")
        );
        assert_eq!(
            read("for=\"[2001:db8::1]:9\"").as_deref(),
            Some("[2001:db8::1]:9")
        );
        for bad in [
            "for=192.0.2.43",
            "for=\"unknown\"",
            "by=\"192.0.2.43:1\"",
            "",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
