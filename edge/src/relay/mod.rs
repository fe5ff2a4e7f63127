//! The data plane: one port, told apart by server name; proxies that dial in, agents that call, bytes in
//! between that nobody here can read (`edge.md` sections 1 and 2).
//!
//! Nothing here knows where tunnels come from: that is [`Directory`]'s, and the control plane's behind it.

mod answer;
mod caller;
mod door;
mod front;
mod headers;
pub mod hello;
mod http;
mod ingress;
mod line;
mod link;
mod passthrough;
mod pending;
mod prefixed;
mod pump;
mod quota;
mod session;
mod sources;
mod telemetry;
mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use process::metrics::Exposition;
use process::{Failure, Tasks};
use rustix::net::sockopt;
use rustls::AlertDescription;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, rustls};
use tokio_util::sync::CancellationToken;

pub(crate) use answer::json as json_answer;
pub use answer::{Answer, Body, no_such_path};
pub(crate) use front::leaf;
pub use front::{Front, FrontError};

use crate::asn::Asns;
use crate::buckets::{Buckets, Rate};
use crate::directory::Directory;
use crate::source::network;
use caller::Agent;
use hello::{ClientHello, HelloError};
use ingress::Wrong;
use link::Links;
use pending::Pending;
use prefixed::Prefixed;
use quota::{Key, Quotas};
use sources::{Open, Sources};
use telemetry::{Paces, Telemetry};

/// After a failed accept, which is nearly always a lack of descriptors that only time can mend.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Silence after which a peer is asked whether it is still there, the pause between two askings, and
/// after how many it is gone: within a minute.
const KEEP_IDLE: Duration = Duration::from_secs(30);
const KEEP_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_PROBES: u32 = 3;
/// The same for a peer that was sent something: what it does not acknowledge for this long never comes.
/// Milliseconds.
const UNACKNOWLEDGED: u32 = 45_000;

/// Of all sockets, one in so many may be a single source's.
const SHARE: u64 = 8;

/// How much and how long.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// From accept to a whole `ClientHello`.
    pub hello: Duration,
    /// From there to the end of a handshake that ends here.
    pub handshake: Duration,
    /// Sockets at once that have not said what they want, or are in a handshake; beyond it the oldest goes.
    pub pending: usize,
    /// Sockets at once, an eighth of them of one source (IPv6: /64); beyond it a new one is closed.
    pub sockets: u64,
    /// Handshakes that the edge itself ends, of one source (IPv6: /64) in a minute, a third of them at
    /// once; beyond it a socket is closed before its handshake. Each costs signatures and key exchanges.
    pub handshakes_per_minute: u32,
    /// A stream whose write makes no progress for this long is closed.
    pub stall: Duration,
    /// Everything in flight gets this long at the stop.
    pub drain: Duration,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            pending: 4096,
            sockets: 200_000,
            handshakes_per_minute: 12_000,
            stall: wire::STALL,
            drain: Duration::from_secs(30),
        }
    }
}

/// What a relay is made of.
pub struct Relay {
    /// EDGE: `api.` and `agents.` stand before it.
    pub name: String,
    /// The edge's own certificate.
    pub front: Front,
    /// What is known of tunnels.
    pub directory: Directory,
    /// Which autonomous system an address belongs to; `Default`: nobody knows.
    pub asns: Asns,
    /// The control plane.
    pub answer: Answer,
    /// How much and how long.
    pub limits: RelayLimits,
    /// Owner of everything that runs here.
    pub tasks: Tasks,
    /// Cancelled when a drain has taken its time.
    pub cut: CancellationToken,
}

/// The same, as connections share it.
struct Shared {
    api: String,
    agents: String,
    front: Front,
    directory: Directory,
    asns: Asns,
    answer: Answer,
    limits: RelayLimits,
    tasks: Tasks,
    cut: CancellationToken,
    links: Links,
    quotas: Quotas,
    pending: Pending,
    sources: Sources,
    handshakes: Buckets<IpAddr>,
    began: Instant,
    wrong: Wrong,
    telemetry: Telemetry,
    paces: Paces,
}

/// A relay that can be served and asked. Clones share it.
#[derive(Clone)]
pub struct Serving(Arc<Shared>);

impl Relay {
    /// Ready to serve.
    pub fn prepare(self) -> Serving {
        Serving(Arc::new(Shared {
            api: format!("api.{}", self.name),
            agents: format!("agents.{}", self.name),
            front: self.front,
            directory: self.directory,
            asns: self.asns,
            answer: self.answer,
            limits: self.limits,
            tasks: self.tasks,
            cut: self.cut,
            links: Links::default(),
            quotas: Quotas::default(),
            pending: Pending::new(self.limits.pending),
            sources: Sources::default(),
            handshakes: Buckets::new(handshakes(self.limits)),
            began: Instant::now(),
            wrong: Wrong::default(),
            telemetry: Telemetry::default(),
            paces: Paces::default(),
        }))
    }
}

impl Serving {
    /// Serves `listener` until the stop. What runs then is drained by whoever owns the tasks.
    ///
    /// # Errors
    ///
    /// None: a failing accept is tried again.
    pub async fn serve(self, listener: TcpListener) -> Result<(), Failure> {
        let shared = self.0;
        keep_alive(&listener);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shared.tasks.stopping() => return Ok(()),
            };
            match accepted {
                Ok((socket, peer)) => {
                    shared.telemetry.accepted.increment();
                    let Some(open) = shared.room(peer) else {
                        continue;
                    };
                    let inner = Arc::clone(&shared);
                    shared
                        .tasks
                        .spawn(async move { arrive(inner, socket, peer, open).await });
                }
                Err(error) => {
                    if let Some(count) = shared.paces.due("accept") {
                        tracing::warn!(%error, count, "cannot accept");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Adds what was counted to `page`.
    pub fn metrics(&self, page: &mut Exposition) {
        self.0.telemetry.page(page, self.0.links.total());
    }
}

impl Shared {
    /// A place for one more socket, if there is one.
    fn room(&self, peer: SocketAddr) -> Option<Open> {
        let most = self.limits.sockets;
        let source = Key::of(peer.ip());
        let room = (self.telemetry.sockets.get() < most)
            .then(|| self.sources.enter(source, most.div_ceil(SHARE)))
            .flatten();
        if room.is_none() {
            self.unheard(peer, "sockets");
        }
        room
    }

    /// Counts one who was refused before it said whom it wants, and logs each kind now and then.
    fn unheard(&self, peer: SocketAddr, reason: &'static str) {
        self.telemetry.refuse(reason);
        if let Some(count) = self.paces.due(reason) {
            tracing::warn!(%peer, reason, count, "connection refused");
        }
    }
}

/// Lets the system ask a silent peer whether it is still there, so that a connection whose other end
/// vanished does not stay for ever. On Linux what is accepted inherits it.
fn keep_alive(listener: &TcpListener) {
    // A socket that refuses lives as sockets do without it.
    let _ = sockopt::set_tcp_keepidle(listener, KEEP_IDLE);
    let _ = sockopt::set_tcp_keepintvl(listener, KEEP_INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(listener, KEEP_PROBES);
    let _ = sockopt::set_socket_keepalive(listener, true);
    let _ = sockopt::set_tcp_user_timeout(listener, UNACKNOWLEDGED);
}

/// Takes a socket from its first byte to its end. What comes after the first word is boxed, so that whoever
/// says nothing has no room in it.
async fn arrive(shared: Arc<Shared>, mut socket: TcpStream, peer: SocketAddr, _open: Open) {
    let inner = Arc::clone(&shared);
    let _counted = inner.telemetry.sockets.hold();
    // Small records must not wait for the acknowledgement of those before.
    let _ = socket.set_nodelay(true);
    let read = {
        let waiting = shared.pending.wait();
        tokio::select! {
            read = tokio::time::timeout(shared.limits.hello, hello::read(&mut socket)) => read,
            () = waiting.evicted() => return shared.unheard(peer, "evicted"),
            () = shared.tasks.stopping() => return,
        }
    };
    let hello = match read {
        Ok(Ok(hello)) => hello,
        Ok(Err(HelloError::Io(_))) => return,
        Ok(Err(error)) => {
            shared.unheard(peer, "bad_hello");
            tracing::debug!(%peer, %error, "no ClientHello");
            return passthrough::refuse(socket, AlertDescription::DecodeError).await;
        }
        Err(_) => return shared.unheard(peer, "slow_hello"),
    };
    match hello.server_name.as_deref() {
        Some(name) if name == shared.api => {
            let config = shared.front.current().api.clone();
            if let Some(stream) = Box::pin(end(&shared, socket, hello, config, peer)).await {
                Box::pin(ingress::serve(shared, stream, peer)).await;
            }
        }
        Some(name) if name == shared.agents => {
            let config = shared.front.current().agents.clone();
            if let Some(stream) = Box::pin(end(&shared, socket, hello, config, peer)).await {
                Box::pin(door::serve(shared, stream, peer)).await;
            }
        }
        _ => {
            let agent = Agent::new(peer, &[]);
            Box::pin(passthrough::serve(shared, socket, hello, agent)).await;
        }
    }
}

type Ended = tokio_rustls::server::TlsStream<Prefixed<TcpStream>>;

/// Of the handshakes of a minute a third at once: proxies of many tunnels come back together.
fn handshakes(limits: RelayLimits) -> Rate {
    Rate {
        burst: limits.handshakes_per_minute.div_ceil(3),
        per_minute: limits.handshakes_per_minute,
    }
}

/// Ends TLS, unless the source has had its handshakes: that is told by closing, before anything costly.
async fn end(
    shared: &Shared,
    socket: TcpStream,
    hello: ClientHello,
    config: Arc<rustls::ServerConfig>,
    peer: SocketAddr,
) -> Option<Ended> {
    if !shared
        .handshakes
        .take(network(peer.ip()), shared.began.elapsed())
    {
        shared.unheard(peer, "handshakes");
        return None;
    }
    let waiting = shared.pending.wait();
    let accepting = TlsAcceptor::from(config).accept(Prefixed::new(hello.bytes, socket));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(shared.limits.handshake, accepting) => accepted,
        () = waiting.evicted() => {
            shared.unheard(peer, "evicted");
            return None;
        }
        () = shared.tasks.stopping() => return None,
    };
    match accepted {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            shared.unheard(peer, "handshake");
            tracing::debug!(%error, "handshake failed");
            None
        }
        Err(_) => {
            shared.unheard(peer, "slow_handshake");
            None
        }
    }
}
