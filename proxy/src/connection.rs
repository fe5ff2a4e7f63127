//! HTTP on a connection whose inner TLS is complete, until somebody wants it to end.

mod tracked;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::Tasks;
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::carrier::Leaving;
use crate::config::Limits;
use crate::credential::{Established, Why, fingerprint};
use crate::forward::{Caller, Forwarder};
use crate::telemetry::Telemetry;

use tracked::Tracked;

/// Between two requests, and for the head of one. Well above the 75 s after which common clients
/// forget an idle connection, so that it is they who close it.
const IDLE: Duration = Duration::from_secs(120);
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

/// Everything that connections share.
pub(crate) struct Connections {
    forwarder: Forwarder,
    telemetry: Arc<Telemetry>,
    http1: http1::Builder,
    http2: http2::Builder<OnTasks>,
    drain: Duration,
    cut: CancellationToken,
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
            .header_read_timeout(IDLE)
            .max_header_size(HEAD as usize);
        let mut http2 = http2::Builder::new(OnTasks(tasks.clone()));
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
            drain: limits.drain,
            cut,
        }
    }

    /// Answers requests until the connection ends. Dropping the future closes it.
    pub(crate) async fn serve<S>(
        &self,
        stream: TlsStream<S>,
        established: Established,
        peer: Option<SocketAddr>,
        leaving: Leaving,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _counted = self.telemetry.connections.hold();
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(b"h2");
        let client = session
            .peer_certificates()
            .and_then(<[CertificateDer<'_>]>::first);
        let client = client.map(|certificate| fingerprint(certificate));
        let serving = &established.serving;
        let caller = Arc::new(Caller {
            tunnel: Arc::clone(&serving.tunnel.name),
            tunnel_domain: serving.tunnel_domain.clone(),
            peer,
            generation: serving.generation,
            client_certificate: client.clone(),
            cut: CancellationToken::new(),
        });
        let (alive, gone) = oneshot::channel();
        let denials = client.map(|client| Denials {
            client,
            denied: serving.tunnel.denied.subscribe(),
        });
        let lease = Lease {
            connections: self,
            denied: denials.clone(),
            established,
            caller: Arc::clone(&caller),
            leaving,
        };
        let forwarder = self.forwarder.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let forwarder = forwarder.clone();
            let caller = Arc::clone(&caller);
            // Asked for every request, since one may be read in the same poll in which the denial came.
            let denied = denials.as_ref().is_some_and(Denials::is_hit);
            async move {
                if denied {
                    return Err(Denied);
                }
                let Ok(answer) = forwarder.forward(request, caller).await;
                Ok(answer)
            }
        });
        let io = TokioIo::new(Tracked::new(stream, alive));
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

/// What a connection stands on, and everything that can take it away.
struct Lease<'a> {
    connections: &'a Connections,
    established: Established,
    caller: Arc<Caller>,
    /// The client's certificate, where there is one, and those that are refused.
    denied: Option<Denials>,
    leaving: Leaving,
}

/// Ends the connection, or with HTTP/2 the stream, on which a denied client asked.
#[derive(Debug, Error)]
#[error("client certificate denied")]
struct Denied;

#[derive(Clone)]
struct Denials {
    client: String,
    denied: watch::Receiver<Arc<BTreeSet<String>>>,
}

impl Denials {
    /// Whether the client's certificate is refused now. One short lock.
    fn is_hit(&self) -> bool {
        self.denied.borrow().contains(&self.client)
    }

    /// Resolves once the client's certificate is refused.
    async fn hit(mut self) {
        let Self { client, denied } = &mut self;
        if denied
            .wait_for(|denied| denied.contains(client))
            .await
            .is_err()
        {
            // The program is at its end, and so is whoever could deny anything.
            std::future::pending::<()>().await;
        }
    }
}

impl Lease<'_> {
    /// Runs `whole` until it ends or has to.
    async fn hold<C: Future>(mut self, mut whole: Whole<C>, leave: fn(Pin<&mut C>)) {
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
            () = &mut whole => return,
            why = self.established.ending.told() => why,
        };
        self.leaving.set();
        if let Some(connection) = &mut whole.connection {
            leave(connection.as_mut());
        }
        tokio::select! {
            biased;
            () = &mut denied => return self.refuse(),
            () = &mut whole => return,
            () = self.limit(why) => {}
        }
        self.caller.cut.cancel();
        // Whatever has not left by then is cut with the stream.
        let _ = tokio::time::timeout(LEAVE, whole).await;
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

/// A connection and, after an upgrade, the stream that is left of it.
struct Whole<C> {
    connection: Option<Pin<Box<C>>>,
    /// Fires when the stream is dropped.
    gone: oneshot::Receiver<()>,
}

impl<C> Whole<C> {
    fn new(connection: C, gone: oneshot::Receiver<()>) -> Self {
        Self {
            connection: Some(Box::pin(connection)),
            gone,
        }
    }
}

impl<C: Future> Future for Whole<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(connection) = &mut self.connection {
            // How HTTP ended is the caller's business; `Forwarder` has logged what went wrong.
            let _ = ready!(connection.as_mut().poll(cx));
            // Drops the stream too, unless it was upgraded.
            self.connection = None;
        }
        Pin::new(&mut self.gone).poll(cx).map(drop)
    }
}

/// Runs what hyper spawns as tasks that the shutdown waits for.
#[derive(Clone)]
struct OnTasks(Tasks);

impl<F> hyper::rt::Executor<F> for OnTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
