//! A double of the stock connector: what reaches the proxy looks as if cloudflared had sent it.
//!
//! Built from what an unmodified cloudflared 2026.8.2 was seen to do. The far peer's WebSocket
//! upgrade goes to the proxy with the public hostname as `Host`, the peer's own headers and those
//! that the connector adds; after the 101 it is bytes both ways: frames, masks and pings are the far
//! peer's. SIGTERM makes `/ready` say 503 at once and refuses new streams; open ones go on for the
//! grace and are then cut raw, without a close frame.
//!
//! It does not register anywhere and has no token: peers connect to it as they would to the edge.

mod head;
mod ready;

use std::hash::{BuildHasher, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use process::{Failure, Tasks};
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub use head::{Head, HeadError, read_head};

/// What a double is started with.
#[derive(Clone, Copy, Debug)]
pub struct ConnectorOptions {
    /// Where far peers connect; port 0: any.
    pub listen: SocketAddr,
    /// Where `/ready` is read; port 0: any.
    pub metrics: SocketAddr,
    /// The proxy's `listen_addr`.
    pub origin: SocketAddr,
    /// How long open streams may go on after the stop. cloudflared's default is 30 s.
    pub grace: Duration,
}

/// A double that runs.
#[derive(Clone, Debug)]
pub struct Connector {
    /// Where far peers connect.
    pub address: SocketAddr,
    /// Where `/ready` is read.
    pub metrics: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    origin: SocketAddr,
    grace: Duration,
    id: String,
    streams: AtomicUsize,
    cut: CancellationToken,
}

impl Connector {
    /// Listens and relays until `tasks` stop; then open streams get the grace.
    ///
    /// # Errors
    ///
    /// An address cannot be bound.
    pub async fn start(options: ConnectorOptions, tasks: &Tasks) -> std::io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let metrics = TcpListener::bind(options.metrics).await?;
        let this = Self {
            address: listener.local_addr()?,
            metrics: metrics.local_addr()?,
            shared: Arc::new(Shared {
                origin: options.origin,
                grace: options.grace,
                id: identifier(),
                streams: AtomicUsize::new(0),
                cut: CancellationToken::new(),
            }),
        };
        let ready = ready::Ready {
            connector: this.shared.id.clone(),
        };
        tasks.spawn(ready.serve(metrics, tasks.clone(), this.shared.cut.clone()));
        tasks.essential("connector", this.clone().accept(listener, tasks.clone()));
        Ok(this)
    }

    /// Streams that are open.
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }

    /// Cuts all streams raw, as the end of the grace does.
    pub fn cut(&self) {
        self.shared.cut.cancel();
    }

    async fn accept(self, listener: TcpListener, tasks: Tasks) -> Result<(), Failure> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = tasks.stopping() => break,
            };
            match accepted {
                Ok((peer, address)) => tasks.spawn(self.clone().stream(peer, address)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a far peer");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        drop(listener);
        tracing::info!("Initiating graceful shutdown due to signal terminated ...");
        let over = tokio::time::Instant::now() + self.shared.grace;
        while self.streams() > 0 && tokio::time::Instant::now() < over {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.cut();
        Ok(())
    }

    async fn stream(self, peer: TcpStream, address: SocketAddr) {
        self.shared.streams.fetch_add(1, Ordering::Relaxed);
        let cut = self.shared.cut.clone();
        tokio::select! {
            () = self.relay(peer, address) => {}
            // Dropping both sockets ends the stream raw.
            () = cut.cancelled() => {}
        }
        self.shared.streams.fetch_sub(1, Ordering::Relaxed);
    }

    async fn relay(&self, mut peer: TcpStream, address: SocketAddr) {
        let _ = peer.set_nodelay(true);
        let head = match read_head(&mut peer).await {
            Ok(Some(head)) => head,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "a far peer sent no usable request");
                let _ = peer
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
                return;
            }
        };
        let mut origin = match TcpStream::connect(self.shared.origin).await {
            Ok(origin) => origin,
            Err(error) => {
                tracing::error!(%error, origin = %self.shared.origin, "Unable to reach the origin service");
                let _ = peer
                    .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
                return;
            }
        };
        let _ = origin.set_nodelay(true);
        let ray = format!("{:016x}-LHR", random());
        let head = head.as_forwarded(address.ip(), &ray, &self.shared.id);
        if origin.write_all(&head).await.is_ok() {
            // Either side may break at any time: no event for a relay.
            let _ = copy_bidirectional(&mut peer, &mut origin).await;
        }
    }
}

/// A number that differs each time. Not for secrets.
pub(crate) fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// In the shape of an RFC 9562 version 4 UUID, as cloudflared's connector id.
fn identifier() -> String {
    let (high, low) = (random(), random());
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        0x8000 | ((low >> 48) & 0x3fff),
        low & 0xffff_ffff_ffff,
    )
}
