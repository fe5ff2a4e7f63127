//! One connection to the edge, as its HTTP/2 server: the control stream, and a CONNECT for each agent.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use control::Secret;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use process::{Chain, Stalling, Tasks};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::NAME;
use super::attach::Attached;
use super::line::{Line, QUEUE};
use super::roster::{Entry, Roster};
use super::stream::Tunnelled;
use super::turns::Turns;
use crate::carrier::{Arrival, Door, Leaving, Stream};
use crate::config::EdgeCarrier;

/// HTTP/2: what waits to be sent, for each stream.
const SEND_BUFFER: usize = 256 << 10;
/// A header list of the edge; a client's certificate is the longest part of it.
const HEAD: u32 = 32 << 10;
/// Agents that hang up before they were looked at.
const PENDING_RESETS: usize = 1024;
/// The edge has to open the control stream and bind the connection within this.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);

/// Why a connection ended, where it did not end in an orderly way.
#[derive(Debug, Error)]
enum Ended {
    #[error(transparent)]
    Broken(#[from] h2::Error),
    #[error("the edge answers no ping")]
    Silent,
    #[error("the edge opened no control stream, or ended it")]
    NoControl,
}

/// What all connections to the edge share.
pub(super) struct Shared {
    pub(super) edge: EdgeCarrier,
    pub(super) turns: Turns,
    pub(super) door: Door,
    /// Calls in flight get this long before a connection is cut.
    pub(super) drain: Duration,
    pub(super) roster: Roster,
    pub(super) tasks: Tasks,
    /// The newest secret, once there is one.
    pub(super) secret: watch::Receiver<Option<Arc<Secret>>>,
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
    let Attached {
        stream,
        secret,
        instance,
        ..
    } = attached;
    tracing::info!(edge = shared.edge.host, instance, "connected to the edge");
    let streams = Arc::new(Streams {
        opened: AtomicBool::new(false),
        shared,
        entry: Arc::new(entry),
        secret,
        over: CancellationToken::new(),
        retire: CancellationToken::new(),
    });
    let error = serve(&streams, stream).await.err();
    let error = error.map(|error| Chain(&error).to_string());
    tracing::info!(instance, error, "connection to the edge ended");
}

async fn serve(streams: &Arc<Streams>, stream: Upgraded) -> Result<(), Ended> {
    let handshake = builder(&streams.shared).handshake(TokioIo::new(stream));
    // The edge speaks first, and at once.
    let handshake = tokio::time::timeout(CONTROL_LIMIT, handshake).await;
    let mut connection: Connection<_, Bytes> = handshake.map_err(|_| Ended::NoControl)??;
    let mut beating = std::pin::pin!(beat(connection.ping_pong()));
    // Without it nobody would know when the credential is cut.
    let mut controlled = std::pin::pin!(async {
        tokio::time::sleep(CONTROL_LIMIT).await;
        if streams.opened.load(Ordering::Relaxed) {
            streams.over.cancelled().await;
        }
    });
    let mut leaving = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(accepted) => {
                    let (request, answer) = accepted?;
                    Streams::answer(streams, request, answer);
                }
                None => return Ok(()),
            },
            ended = &mut beating => return Err(ended),
            () = &mut controlled, if !leaving => return Err(Ended::NoControl),
            () = streams.shared.tasks.stopping(), if !leaving => {
                // The edge opens no more streams; those that run may end.
                leaving = true;
                connection.graceful_shutdown();
            }
        }
    }
}

fn builder(shared: &Shared) -> h2::server::Builder {
    let streams = u32::try_from(shared.door.limit).unwrap_or(u32::MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::CONNECTION_WINDOW)
        .max_frame_size(wire::MAX_FRAME)
        // One more for the control stream.
        .max_concurrent_streams(streams.saturating_add(1))
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        // Agents' aborts come as resets from the edge: they are no fault of this connection.
        .max_local_error_reset_streams(None);
    builder
}

/// Sends a PING now and then until one is not answered.
async fn beat(ping: Option<PingPong>) -> Ended {
    let Some(mut ping) = ping else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(wire::PING_EVERY).await;
        let answer = ping.ping(Ping::opaque());
        match tokio::time::timeout(wire::PING_TIMEOUT, answer).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.into(),
            Err(_) => return Ended::Silent,
        }
    }
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
    /// Answers what the edge asked for. What was reset meanwhile is nobody's loss.
    fn answer(this: &Arc<Self>, request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
        if request.method() == Method::CONNECT {
            return this.connect(request, answer);
        }
        let control =
            request.method() == Method::POST && request.uri().path() == wire::CONTROL_PATH;
        if !control || this.opened.swap(true, Ordering::Relaxed) {
            let _ = answer.send_response(status(StatusCode::NOT_FOUND), true);
            return;
        }
        let Ok(send) = answer.send_response(status(StatusCode::OK), false) else {
            return;
        };
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
            tokio::join!(line.talk(request.into_body()), tell(send, lines));
            drop(over);
        });
    }

    fn connect(&self, request: Request<RecvStream>, mut answer: SendResponse<Bytes>) {
        let door = &self.shared.door;
        door.telemetry.accepted.increment();
        if door.telemetry.connections.get() >= door.limit as u64 {
            door.telemetry.refused.increment();
            let _ = answer.send_response(status(StatusCode::SERVICE_UNAVAILABLE), true);
            return;
        }
        let peer = forwarded(request.headers());
        let Ok(send) = answer.send_response(status(StatusCode::OK), false) else {
            return;
        };
        let stream = Tunnelled::new(send, request.into_body());
        let arrival = Arrival {
            stream: Stream::Edge(Stalling::new(stream, wire::STALL)),
            peer,
            leaving: Leaving::default(),
            mutual: !self.shared.edge.allow_without_client_certificate,
            retire: self.retire.clone(),
        };
        let receiving = door.clone().receive(NAME, std::future::ready(Ok(arrival)));
        self.shared.tasks.spawn(receiving);
    }
}

/// Sends the lines of the control stream, and its end. They are few and short: HTTP/2 may hold them.
async fn tell(mut send: SendStream<Bytes>, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        if send.send_data(line, false).is_err() {
            return;
        }
    }
    let _ = send.send_data(Bytes::new(), true);
}

fn status(status: StatusCode) -> Response<()> {
    let mut answer = Response::new(());
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
