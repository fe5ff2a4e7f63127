//! HTTP on a connection whose inner TLS is complete, until somebody wants it to end.

mod denial;
mod tracked;

use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::Tasks;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::carrier::{Leaving, Stream};
use crate::config::Limits;
use crate::credential::{Established, Why};
use crate::forward::{Caller, Forwarder, detach};
use crate::telemetry::{Pace, Telemetry};

use denial::{Denials, Denied, Shown};
use tracked::Tracked;

/// What is cut has this long to leave: an event stream ends with a clean terminator.
pub(crate) const LEAVE: Duration = Duration::from_secs(1);
/// HTTP/2: a peer that answers no ping for [`PING_TIMEOUT`] is gone.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The head of a request; nginx takes 32 KiB.
const HEAD: u32 = 64 << 10;
/// HTTP/2 windows: what a caller may send before the upstream takes it.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// HTTP/2: what is buffered towards a caller that does not read, for each stream.
const SEND_BUFFER: usize = 128 << 10;
/// A repeated cause is logged this often.
const LOG_PACE: Duration = Duration::from_secs(60);

/// Everything that connections share.
pub(crate) struct Connections {
    forwarder: Forwarder,
    telemetry: Arc<Telemetry>,
    http1: http1::Builder,
    http2: http2::Builder<Tasks>,
    /// Connections at once.
    limit: u64,
    drain: Duration,
    cut: CancellationToken,
    offences: Pace,
    silences: Pace,
}

impl Connections {
    /// `cut` ends what is still running when a shutdown has taken its time.
    pub(crate) fn new(
        forwarder: Forwarder,
        telemetry: Arc<Telemetry>,
        limits: &Limits,
        tasks: &Tasks,
        cut: CancellationToken,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle_timeout)
            .max_header_size(HEAD as usize);
        let mut http2 = http2::Builder::new(tasks.clone());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.concurrent_streams)
            .max_header_list_size(HEAD)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        Self {
            forwarder,
            telemetry,
            http1,
            http2,
            limit: limits.connections as u64,
            drain: limits.drain,
            cut,
            offences: Pace::new(LOG_PACE),
            silences: Pace::new(LOG_PACE),
        }
    }

    /// Answers requests until the connection ends. Dropping the future closes it.
    pub(crate) async fn serve(
        &self,
        stream: Box<TlsStream<Stream>>,
        established: Established,
        origin: Origin,
    ) {
        // The door looked before the handshake, and others may have come in since.
        let Some(_counted) = self.telemetry.connections.hold_below(self.limit) else {
            self.telemetry.refused.increment();
            return;
        };
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(b"h2");
        let client = session
            .peer_certificates()
            .and_then(<[CertificateDer<'_>]>::first)
            .map(|certificate| Shown::of(certificate));
        let caller = Arc::new(caller(&established, &origin, client.as_ref()));
        let denials = client.map(|client| Denials {
            client,
            denied: established.serving.tunnel.denied.subscribe(),
        });
        let asked = Arc::new(AtomicBool::new(false));
        let lease = Lease {
            connections: self,
            denied: denials.clone(),
            established,
            caller: Arc::clone(&caller),
            asked: Arc::clone(&asked),
            origin,
        };
        let forwarder = self.forwarder.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let forwarder = forwarder.clone();
            let caller = Arc::clone(&caller);
            // Asked for every request, since one may be read in the same poll in which the denial came.
            let denied = denials.as_ref().is_some_and(Denials::is_hit);
            async move {
                if denied {
                    return Err(Denied);
                }
                let Ok(mut answer) = forwarder.forward(request, caller).await;
                if http2 {
                    detach(answer.headers_mut());
                }
                Ok(answer)
            }
        });
        let (alive, gone) = oneshot::channel();
        let io = TokioIo::new(Tracked::new(stream, alive, !http2));
        if http2 {
            let connection = self.http2.serve_connection(io, service);
            let whole = Whole::new(connection, gone);
            lease
                .hold(whole, http2::Connection::graceful_shutdown)
                .await;
        } else {
            let connection = self.http1.serve_connection(io, service).with_upgrades();
            let whole = Whole::new(connection, gone);
            lease
                .hold(whole, http1::UpgradeableConnection::graceful_shutdown)
                .await;
        }
    }
}

/// What every request of a connection has in common.
fn caller(established: &Established, origin: &Origin, client: Option<&Shown>) -> Caller {
    let serving = &established.serving;
    Caller {
        tunnel: Arc::clone(&serving.tunnel.name),
        tunnel_domain: serving.tunnel_domain.clone(),
        peer: origin.peer,
        generation: serving.generation,
        client_certificate: client.map(|shown| shown.fingerprint.clone()),
        cut: CancellationToken::new(),
    }
}

/// What a connection stands on, and everything that can take it away.
struct Lease<'a> {
    connections: &'a Connections,
    established: Established,
    caller: Arc<Caller>,
    /// The client's certificate, where there is one, and those that are refused.
    denied: Option<Denials>,
    /// Whether there was a request at all.
    asked: Arc<AtomicBool>,
    origin: Origin,
}

/// What a carrier knows of a stream.
pub(crate) struct Origin {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) leaving: Leaving,
    /// Cancelled when the stream will end soon.
    pub(crate) retire: CancellationToken,
    /// A connection on which nothing was asked yet has its first call on the way: it is waited for.
    pub(crate) patient: bool,
}

impl Lease<'_> {
    /// Runs `whole` until it ends or has to.
    async fn hold<C>(mut self, mut whole: Whole<C>, leave: fn(Pin<&mut C>))
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let denials = self.denied.take();
        let mut denied = std::pin::pin!(async {
            match denials {
                Some(denials) => denials.hit().await,
                None => std::future::pending().await,
            }
        });
        let why = tokio::select! {
            // A request may have come together with the handshake's end: nothing is read before the
            // denial is asked about.
            biased;
            () = &mut denied => return self.refuse(),
            ended = &mut whole => return self.judge(ended),
            why = self.established.ending.told() => why,
            () = self.origin.retire.cancelled() => Why::Retired,
        };
        if self.origin.patient {
            tokio::select! {
                biased;
                () = &mut denied => return self.refuse(),
                ended = self.first(&mut whole) => {
                    if let Some(ended) = ended {
                        return self.judge(ended);
                    }
                }
            }
        }
        self.origin.leaving.set();
        if let Some(connection) = &mut whole.connection {
            leave(connection.as_mut());
        }
        tokio::select! {
            biased;
            () = &mut denied => return self.refuse(),
            ended = &mut whole => return self.judge(ended),
            () = self.limit(why) => {}
        }
        self.caller.cut.cancel();
        // Whatever has not left by then is cut with the stream.
        let _ = tokio::time::timeout(LEAVE, whole).await;
    }

    /// Goes on until something was asked, at most [`LEAVE`]; `Some`: the connection has ended.
    async fn first<C>(&self, whole: &mut Whole<C>) -> Option<hyper::Result<()>>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let asked = std::future::poll_fn(|cx| match Pin::new(&mut *whole).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending if self.asked.load(Ordering::Relaxed) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        tokio::time::timeout(LEAVE, asked).await.unwrap_or(None)
    }

    /// How long what is in flight may go on.
    async fn limit(&self, why: Why) {
        let cut = self.connections.cut.cancelled();
        match why {
            Why::Retired => {
                let _ = tokio::time::timeout(self.connections.drain, cut).await;
            }
            Why::Stopping => cut.await,
        }
    }

    /// Says now and then that a peer broke the rules of HTTP or never asked for anything. A connection
    /// that merely broke is its business, and what went wrong with a request was logged with it.
    fn judge(&self, ended: hyper::Result<()>) {
        let Err(error) = ended else { return };
        let (tunnel, peer) = (&*self.caller.tunnel, self.caller.peer);
        let peer = peer.map(|peer| tracing::field::display(peer.ip()));
        if error.is_timeout() && !self.asked.load(Ordering::Relaxed) {
            if let Some(count) = self.connections.silences.due() {
                tracing::warn!(tunnel, peer, count, "no request came in time");
            }
        } else if is_offence(&error)
            && let Some(count) = self.connections.offences.due()
        {
            let cause = error.source().map(tracing::field::display);
            tracing::warn!(tunnel, peer, %error, cause, count, "http connection refused");
        }
    }

    fn refuse(&self) {
        self.connections.telemetry.denied.increment();
        self.caller.cut.cancel();
        tracing::warn!(
            tunnel = &*self.caller.tunnel,
            client_certificate = self.caller.client_certificate,
            "client certificate denied"
        );
    }
}

/// Whether HTTP ended because of what the peer sent: hyper names malformed heads, and what HTTP/2
/// forbids has a cause that is no broken stream.
fn is_offence(error: &hyper::Error) -> bool {
    let other = error.is_user() || error.is_timeout() || error.is_closed() || error.is_canceled();
    let forbidden = error
        .source()
        .is_some_and(|cause| !cause.is::<std::io::Error>());
    error.is_parse() || forbidden && !other
}

/// A connection and, after an upgrade, the stream that is left of it.
struct Whole<C> {
    connection: Option<Pin<Box<C>>>,
    /// How HTTP ended.
    ended: hyper::Result<()>,
    /// Fires when the stream is dropped.
    gone: oneshot::Receiver<()>,
}

impl<C> Whole<C> {
    fn new(connection: C, gone: oneshot::Receiver<()>) -> Self {
        Self {
            connection: Some(Box::pin(connection)),
            ended: Ok(()),
            gone,
        }
    }
}

impl<C: Future<Output = hyper::Result<()>>> Future for Whole<C> {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(connection) = &mut self.connection {
            self.ended = ready!(connection.as_mut().poll(cx));
            // Drops the stream too, unless it was upgraded.
            self.connection = None;
        }
        let _ = ready!(Pin::new(&mut self.gone).poll(cx));
        Poll::Ready(std::mem::replace(&mut self.ended, Ok(())))
    }
}
