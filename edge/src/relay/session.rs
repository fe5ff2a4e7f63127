//! One connection of a proxy from its upgrade to its end: HTTP/2 with this edge as the client. What is said
//! on its control stream is [`Line`]'s.
//!
//! The connection lives as long as the credential that it is bound to, and no longer: [`verdict`] is waited
//! for beside all that waits for the peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::line::{Halves, Line};
use super::verdict::{judge, verdict};
use crate::directory::{Bound, TunnelEntry};

/// From the upgrade to the answer to the control stream.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// HTTP/2: what waits to be sent, for each stream.
const SEND_BUFFER: usize = 256 << 10;
/// A header list of a proxy: it has next to nothing to say there.
const HEAD: u32 = 16 << 10;

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum Ended {
    #[error("the connection broke")]
    Broken(#[from] h2::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("the proxy answers no ping")]
    Silent,
    #[error("the proxy does not open the control stream")]
    NoControl,
    #[error(transparent)]
    Nonsense(#[from] wire::LineError),
    #[error("the proxy does not read the control stream")]
    Deaf,
    #[error("too many presented credentials were refused")]
    Guessing,
    #[error("its credential was cut")]
    Cut,
    #[error("the tunnel may not be used")]
    Standing,
    #[error("drained")]
    Drained,
    #[error("drain limit reached")]
    DrainLimit,
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Proxy {
    pub(super) bound: Bound,
    pub(super) replica: String,
    pub(super) address: SocketAddr,
}

/// What a connection stands on.
pub(super) struct Ground {
    pub(super) entry: watch::Receiver<Arc<TunnelEntry>>,
    pub(super) bound: watch::Sender<Bound>,
}

/// Serves the connection until it ends. Dropping the future cuts it.
pub(super) async fn run<S>(shared: Arc<Shared>, io: S, proxy: Proxy) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(entry) = shared.directory.watch(&proxy.bound.tunnel) else {
        return Ended::Cut;
    };
    let ground = Ground {
        entry,
        bound: watch::Sender::new(proxy.bound.clone()),
    };
    let (entry, bound) = (ground.entry.clone(), ground.bound.subscribe());
    let over = CancellationToken::new();
    // Whatever ends this future ends the connection with everything that runs on it.
    let _guard = over.clone().drop_guard();
    tokio::select! {
        biased;
        ended = verdict(shared.directory.clone(), entry, bound) => ended,
        ended = talk(&shared, io, &proxy, ground, &over) => ended,
        () = over.cancelled() => Ended::Closed,
    }
}

/// Everything that waits for the peer.
async fn talk<S>(
    shared: &Arc<Shared>,
    io: S,
    proxy: &Proxy,
    ground: Ground,
    over: &CancellationToken,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    // Boxed: the connection lives on without the room that its opening took.
    let opening = Box::pin(open(shared, io, proxy, ground, over));
    let opened = tokio::time::timeout(OPENING_LIMIT, opening).await;
    let (line, ping) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::NoControl,
    };
    tokio::select! {
        Err(ended) = Box::pin(line.serve()) => ended,
        ended = beat(ping) => ended,
    }
}

async fn open<S>(
    shared: &Arc<Shared>,
    io: S,
    proxy: &Proxy,
    ground: Ground,
    over: &CancellationToken,
) -> Result<(Line, PingPong), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let directory = &shared.directory;
    let held = directory.hold(proxy.bound.clone(), proxy.replica.clone(), proxy.address);
    let (sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(wire::STREAM_WINDOW)
        .initial_connection_window_size(wire::CONNECTION_WINDOW)
        .max_frame_size(wire::MAX_FRAME)
        .max_header_list_size(HEAD)
        .max_send_buffer_size(SEND_BUFFER)
        // Agents' aborts: late DATA of forgotten streams is no fault of this connection.
        .max_local_error_reset_streams(None)
        .enable_push(false)
        .handshake::<_, Bytes>(io)
        .await?;
    let ping = connection.ping_pong().ok_or(Ended::Closed)?;
    let stop = over.clone();
    shared.tasks.spawn(async move {
        tokio::select! {
            // Why it ended is seen where somebody reads or writes. Not moved, else the task holds room for two.
            _ = &mut connection => stop.cancel(),
            () = stop.cancelled() => {}
        }
    });
    let (send, receive) = control(sender.clone()).await?;
    let tunnel = &proxy.bound.tunnel;
    // From here on agents' streams may be opened on it.
    judge(
        &ground.entry.borrow(),
        &proxy.bound.credential,
        directory.now(),
    )?;
    let registered = shared.links.add(tunnel, &proxy.replica, sender);
    let halves = Halves { send, receive };
    let line = Line::new(Arc::clone(shared), registered, held, ground, halves);
    Ok((line, ping))
}

async fn control(sender: SendRequest<Bytes>) -> Result<(SendStream<Bytes>, RecvStream), Ended> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://proxy{}", wire::CONTROL_PATH))
        .body(())
        .map_err(|_| Ended::NoControl)?;
    let (answer, send) = sender.ready().await?.send_request(request, false)?;
    let answer = answer.await?;
    if answer.status() != StatusCode::OK {
        return Err(Ended::NoControl);
    }
    Ok((send, answer.into_body()))
}

/// Sends a PING now and then until one is not answered.
async fn beat(mut ping: PingPong) -> Ended {
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
