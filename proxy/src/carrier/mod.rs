//! How inner TLS bytes reach the proxy.
//!
//! A carrier turns an accepted socket into a byte stream; everything behind that is the same for all
//! of them. A carrier that dials instead of listening hands its streams to `Door::receive` itself.

mod proxy_protocol;
mod stream;
mod tls;
mod websocket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use process::{Exit, Failure, Tasks};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub(crate) use proxy_protocol::HeaderError;
pub use proxy_protocol::probe as read_proxy_header;
pub(crate) use stream::Stream;
pub(crate) use tls::Tls;
pub use websocket::probe as read_frames;
pub(crate) use websocket::{Web, WebSocket};

use crate::config::Config;
use crate::connection::{Connections, Origin};
use crate::dial::{self, Roster};
use crate::handshake::{HandshakeError, Handshakes};
use crate::socket;
use crate::telemetry::{Pace, Telemetry};

/// After a failed accept, which is nearly always a lack of descriptors that only time can mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A repeated cause is logged this often.
const LOG_PACE: Duration = Duration::from_secs(60);

/// Why a carrier gave up a socket before inner TLS began.
#[derive(Debug, Error)]
pub(crate) enum CarrierError {
    /// The socket broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// HTTP in front of inner TLS is malformed, or was not finished.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// HTTP, but no WebSocket.
    #[error("a request that opens no WebSocket")]
    NotWebSocket,
    /// No PROXY protocol v2 header where one must be.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// Tells a carrier that its stream ends because the proxy wants it to, not because the call is over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leaving(Arc<AtomicBool>);

impl Leaving {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A byte stream on which inner TLS may begin.
pub(crate) struct Arrival {
    pub(crate) stream: Stream,
    /// As far as the carrier knows it.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) leaving: Leaving,
    /// Whoever carries the stream is not trusted to say who calls: a client certificate is required.
    pub(crate) mutual: bool,
    /// Cancelled when whatever carries the stream will end soon: the calls on it may end first.
    pub(crate) retire: CancellationToken,
}

/// Opens one kind of carrier on an accepted socket.
pub(crate) trait Carrier: Clone + Send + Sync + 'static {
    /// As reports, metrics and logs call it.
    const NAME: &'static str;

    /// Reads what comes before inner TLS.
    fn open(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
    ) -> impl Future<Output = Result<Arrival, CarrierError>> + Send;
}

/// The carriers that are up, by name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Up {
    /// Up as long as the program is.
    pub(crate) listening: Vec<String>,
    /// Where these listen, in the same order.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Up while the edge holds a connection.
    pub(crate) edge: Option<Roster>,
}

impl Up {
    /// Names of those that are up now.
    pub(crate) fn names(&self) -> Vec<String> {
        let edge = self.edge.iter().filter(|edge| edge.is_up());
        let edge = edge.map(|_| dial::NAME.to_owned());
        self.listening.iter().cloned().chain(edge).collect()
    }

    /// Why nothing can come in; `None`: something can.
    pub(crate) fn reason(&self) -> Option<String> {
        match &self.edge {
            _ if !self.listening.is_empty() => None,
            Some(edge) => edge.reason(),
            None => Some("no carrier is configured".to_owned()),
        }
    }
}

/// The carriers that listen, bound and not yet served.
pub(crate) struct Carriers {
    web: Option<TcpListener>,
    tls: Option<(Tls, TcpListener)>,
}

impl Carriers {
    /// Binds every carrier of `config`, so that a taken port is found out at once.
    pub(crate) fn bind(config: &Config) -> Result<Self, Failure> {
        let web = match config.websocket {
            Some(addr) => Some(bind::<Web>(addr)?),
            None => None,
        };
        let tls = match config.tls {
            Some(listener) => {
                let carrier = Tls {
                    proxy_protocol: listener.proxy_protocol,
                };
                Some((carrier, bind::<Tls>(listener.addr)?))
            }
            None => None,
        };
        Ok(Self { web, tls })
    }

    /// Names of those that are up.
    pub(crate) fn names(&self) -> Vec<String> {
        let web = self.web.iter().map(|_| Web::NAME.to_owned());
        let tls = self.tls.iter().map(|_| Tls::NAME.to_owned());
        web.chain(tls).collect()
    }

    /// Where they listen, in the order of [`names`](Self::names).
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        let tls = self.tls.iter().map(|(_, listener)| listener);
        let all = self.web.iter().chain(tls);
        all.filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves them until the stop.
    pub(crate) fn listen(self, door: &Door) {
        if let Some(listener) = self.web {
            let serving = door.clone().listen(Web::default(), listener);
            door.tasks.essential(Web::NAME, serving);
        }
        if let Some((carrier, listener)) = self.tls {
            let serving = door.clone().listen(carrier, listener);
            door.tasks.essential(Tls::NAME, serving);
        }
    }
}

fn bind<C: Carrier>(addr: SocketAddr) -> Result<TcpListener, Failure> {
    socket::listen(addr).map_err(|error| {
        let what = format!("carrier {} cannot listen on {addr}", C::NAME);
        Failure::new(Exit::Unavailable, what)
            .caused_by(&error)
            .next("free the port, or configure another one")
    })
}

/// Where every carrier brings its connections.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) handshakes: Arc<Handshakes>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) tasks: Tasks,
    pub(crate) handshake_timeout: Duration,
    pub(crate) limit: usize,
    /// Handshakes that are pending at the stop may end: whoever brings them still brings some then.
    pub(crate) patient: bool,
}

impl Door {
    /// Accepts on `listener` until the stop.
    pub(crate) async fn listen<C: Carrier>(
        self,
        carrier: C,
        listener: TcpListener,
    ) -> Result<(), Failure> {
        let (crowded, failing) = (Pace::new(LOG_PACE), Pace::new(LOG_PACE));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.tasks.stopping() => return Ok(()),
            };
            match accepted {
                Ok((socket, peer)) => {
                    self.telemetry.accepted.increment();
                    if self.telemetry.connections.get() >= self.limit as u64 {
                        self.telemetry.refused.increment();
                        if let Some(count) = crowded.due() {
                            tracing::warn!(carrier = C::NAME, count, "too many connections");
                        }
                        continue;
                    }
                    let this = self.clone();
                    let carrier = carrier.clone();
                    self.tasks
                        .spawn(async move { this.enter(carrier, socket, peer).await });
                }
                Err(error) => {
                    if let Some(count) = failing.due() {
                        tracing::warn!(carrier = C::NAME, %error, count, "cannot accept");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn enter<C: Carrier>(self, carrier: C, socket: TcpStream, peer: SocketAddr) {
        // Small answers must not wait for the acknowledgement of those before.
        let _ = socket.set_nodelay(true);
        self.receive(C::NAME, async move { carrier.open(socket, peer).await })
            .await;
    }

    /// Takes a stream from its carrier's opening to its end.
    pub(crate) async fn receive(
        self,
        carrier: &'static str,
        opening: impl Future<Output = Result<Arrival, CarrierError>>,
    ) {
        // Boxed, as what it ends in is: an idle connection lives on without the room that its handshake took.
        let result = Box::pin(async {
            let waiting = self.handshakes.wait();
            let complete = async {
                let arrival = opening.await?;
                let accepting = self
                    .handshakes
                    .accept(arrival.stream, &waiting, arrival.mutual);
                let (stream, established) = accepting.await?;
                let origin = Origin {
                    peer: arrival.peer,
                    leaving: arrival.leaving,
                    retire: arrival.retire,
                    patient: self.patient,
                };
                Ok((Box::new(stream), established, origin))
            };
            let result = tokio::select! {
                complete = tokio::time::timeout(self.handshake_timeout, complete) => {
                    complete.unwrap_or(Err(HandshakeError::Timeout))
                }
                () = waiting.evicted() => Err(HandshakeError::Evicted),
                () = self.tasks.stopping(), if !self.patient => Err(HandshakeError::Stopping),
            };
            result.map_err(|error| (error, waiting.ca()))
        })
        .await;
        match result {
            Ok((stream, established, origin)) => {
                let serving = self.connections.serve(stream, established, origin);
                // Boxed: a pending handshake, of which there may be many, stays small.
                Box::pin(serving).await;
            }
            Err((error, ca)) => self.handshakes.failed(&error, carrier, ca),
        }
    }
}
