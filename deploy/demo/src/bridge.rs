//! The provider's side of the carrier `websocket`: TCP in, WebSocket through the connector out.
//!
//! Whoever speaks TLS by himself – an SDK, a browser, curl – can be pointed at `https://HOST:PORT` of
//! a bridge: the bytes of each connection become binary messages of one WebSocket, masked, of
//! changing length and fragmentation, with pings of the far peer now and then. The bridge sees
//! inner TLS from outside and reads none of it, like the provider's edge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::{SinkExt, StreamExt};
use http::Uri;
use process::{Failure, Tasks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio_websockets::{ClientBuilder, CloseCode, Config, Message, WebSocketStream};

use crate::connector::random;

/// Longest message and longest frame, in bytes; each connection takes the next pair.
const SHAPES: [(usize, usize); 6] = [
    (16 << 10, 16 << 10),
    (1400, 1400),
    (64 << 10, 4 << 10),
    (997, 100),
    (4 << 10, 7),
    (5, 5),
];

/// What a bridge is started with.
#[derive(Clone, Debug)]
pub struct BridgeOptions {
    /// Where callers connect; port 0: any.
    pub listen: SocketAddr,
    /// Where the connector takes far peers.
    pub connector: SocketAddr,
    /// The public hostname, the `Host` of each upgrade.
    pub host: String,
    /// Path and query of each upgrade.
    pub path: String,
    /// Time between two pings of the far peer.
    pub ping: Duration,
    /// `false`: messages as they come, for measurements; `true`: every shape in turn, the absurd
    /// ones included.
    pub varied: bool,
}

/// A bridge that runs. It ends with the tasks it was started on.
#[derive(Clone, Copy, Debug)]
pub struct Bridge {
    /// Where callers connect.
    pub address: SocketAddr,
}

impl Bridge {
    /// Listens and carries until `tasks` stop.
    ///
    /// # Errors
    ///
    /// The address cannot be bound, or host and path make no URI.
    pub async fn start(options: BridgeOptions, tasks: &Tasks) -> std::io::Result<Self> {
        let uri: Uri = format!("ws://{}{}", options.host, options.path)
            .parse()
            .map_err(std::io::Error::other)?;
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let carrier = Arc::new(Carrier { options, uri });
        tasks.essential("bridge", accept(listener, carrier, tasks.clone()));
        Ok(Self { address })
    }
}

struct Carrier {
    options: BridgeOptions,
    uri: Uri,
}

async fn accept(listener: TcpListener, carrier: Arc<Carrier>, tasks: Tasks) -> Result<(), Failure> {
    let mut count: usize = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopping() => return Ok(()),
        };
        match accepted {
            Ok((caller, _)) => {
                let carrier = Arc::clone(&carrier);
                let stopping = tasks.clone();
                let turn = count;
                count += 1;
                tasks.spawn(async move {
                    tokio::select! {
                        () = carrier.carry(caller, turn) => {}
                        () = stopping.stopping() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the bridge cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Carrier {
    async fn carry(&self, caller: TcpStream, turn: usize) {
        let _ = caller.set_nodelay(true);
        let (message, frame) = if self.options.varied {
            SHAPES
                .get(turn % SHAPES.len())
                .copied()
                .unwrap_or(SHAPES[0])
        } else {
            (64 << 10, 64 << 10)
        };
        let stream = match TcpStream::connect(self.options.connector).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "the bridge cannot reach the connector");
                return;
            }
        };
        let _ = stream.set_nodelay(true);
        let config = Config::default().frame_size(frame);
        let builder = ClientBuilder::from_uri(self.uri.clone()).config(config);
        match builder.connect_on(stream).await {
            Ok((socket, _)) => self.pump(caller, socket, message).await,
            Err(error) => tracing::warn!(%error, "the far side refused the WebSocket"),
        }
    }

    async fn pump(&self, caller: TcpStream, socket: WebSocketStream<TcpStream>, longest: usize) {
        let (read, write) = caller.into_split();
        let (sink, stream) = socket.split();
        tokio::select! {
            // The caller ended: a close frame is on its way, the answer to it is of no interest.
            () = outward(read, sink, longest, self.options.ping) => {}
            () = inward(stream, write) => {}
        }
    }
}

type Sink = futures_util::stream::SplitSink<WebSocketStream<TcpStream>, Message>;
type Stream = futures_util::stream::SplitStream<WebSocketStream<TcpStream>>;

async fn outward(mut caller: OwnedReadHalf, mut socket: Sink, longest: usize, ping: Duration) {
    let mut pings = tokio::time::interval(ping);
    pings.reset();
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(64 << 10);
        let sent = tokio::select! {
            read = caller.read_buf(&mut buffer) => match read {
                Ok(1..) => messages(&mut socket, &mut buffer, longest).await,
                Ok(0) | Err(_) => break,
            },
            _ = pings.tick() => {
                let payload = random().to_be_bytes().to_vec();
                socket.send(Message::ping(payload)).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
    let _ = socket
        .send(Message::close(Some(CloseCode::NORMAL_CLOSURE), ""))
        .await;
}

async fn messages(
    socket: &mut Sink,
    buffer: &mut BytesMut,
    longest: usize,
) -> Result<(), tokio_websockets::Error> {
    while !buffer.is_empty() {
        let part = buffer.split_to(buffer.len().min(longest)).freeze();
        socket.feed(Message::binary(part)).await?;
    }
    socket.flush().await
}

async fn inward(mut socket: Stream, mut caller: OwnedWriteHalf) {
    while let Some(Ok(message)) = socket.next().await {
        if message.is_binary() {
            if caller.write_all(message.as_payload()).await.is_err() {
                return;
            }
        } else if message.is_text() {
            tracing::warn!("the proxy sent a text message");
            return;
        } else if message.is_close() {
            break;
        }
    }
    let _ = caller.shutdown().await;
}
