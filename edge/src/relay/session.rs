//! One connection of a proxy from its upgrade to its end: HTTP/2 with this edge as the client, and the
//! control stream on which the credential is renewed.
//!
//! The connection lives as long as the credential that it is bound to, and no longer.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::client::SendRequest;
use h2::{Ping, PingPong, RecvStream, SendStream};
use http::{Method, Request, StatusCode};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wire::{FromEdge, FromProxy, Lines};

use super::Shared;
use super::link::Registered;
use crate::directory::{Bound, Live, Refusal, Standing, TunnelEntry};

/// From the upgrade to the answer to the control stream.
const OPENING_LIMIT: Duration = Duration::from_secs(10);
/// The proxy must take what is said on the control stream within this.
const CONTROL_LIMIT: Duration = Duration::from_secs(5);
/// Credentials are presented at most this often: each is a look into the database.
const PRESENT_PACE: Duration = Duration::from_millis(100);
/// The wall clock is compared with the time of a cut at least this often.
const LOOK: Duration = Duration::from_millis(500);
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

/// Serves the connection until it ends. Dropping the future cuts it.
pub(super) async fn run<S>(shared: Arc<Shared>, io: S, proxy: Proxy) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let over = CancellationToken::new();
    // Whatever ends this future ends the connection with everything that runs on it.
    let _guard = over.clone().drop_guard();
    // Boxed: the connection lives on without the room that its opening took.
    let opening = Box::pin(open(&shared, io, &proxy, &over));
    let opened = tokio::time::timeout(OPENING_LIMIT, opening).await;
    let session = match opened {
        Ok(Ok(session)) => session,
        Ok(Err(ended)) => return ended,
        Err(_) => return Ended::NoControl,
    };
    let (session, ping) = session;
    tokio::select! {
        Err(ended) = Box::pin(session.serve(&over)) => ended,
        ended = beat(ping) => ended,
    }
}

async fn open<S>(
    shared: &Arc<Shared>,
    io: S,
    proxy: &Proxy,
    over: &CancellationToken,
) -> Result<(Session, PingPong), Ended>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let directory = &shared.directory;
    let entry = directory.watch(&proxy.bound.tunnel).ok_or(Ended::Cut)?;
    let live = directory.hold(proxy.bound.clone(), proxy.replica.clone(), proxy.address);
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
    let session = Session {
        registered: shared.links.add(tunnel, &proxy.replica, sender),
        instances: directory.instances(),
        shared: Arc::clone(shared),
        bound: proxy.bound.clone(),
        live,
        entry,
        send,
        receive,
        lines: Lines::default(),
        presenting: None,
        told: None,
        leaving: false,
        draining: false,
    };
    Ok((session, ping))
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

type Presenting = BoxFuture<'static, (u64, Result<Bound, Refusal>)>;

struct Session {
    shared: Arc<Shared>,
    registered: Registered,
    bound: Bound,
    live: Live,
    entry: watch::Receiver<Arc<TunnelEntry>>,
    instances: watch::Receiver<u32>,
    send: SendStream<Bytes>,
    receive: RecvStream,
    lines: Lines,
    /// A credential that is being looked at; nothing more is read meanwhile.
    presenting: Option<Presenting>,
    /// The time of the cut that the proxy was told.
    told: Option<SystemTime>,
    /// The proxy stops, and has said so.
    leaving: bool,
    /// The edge stops, and the proxy was told.
    draining: bool,
}

/// Nothing but an end comes out of a session.
type Never = std::convert::Infallible;

impl Session {
    async fn serve(mut self, over: &CancellationToken) -> Result<Never, Ended> {
        let bound = FromEdge::Bound {
            seq: 0,
            credential_id: self.bound.credential.clone(),
        };
        self.say(&bound).await?;
        self.look().await?;
        let shared = Arc::clone(&self.shared);
        let mut drained = std::pin::pin!(async {
            shared.tasks.stopping().await;
            tokio::time::sleep(shared.limits.drain).await;
        });
        loop {
            // What has come is read before anything is waited for.
            while self.presenting.is_none() {
                match self.lines.take() {
                    Some(message) => self.take(message?),
                    None => break,
                }
            }
            let reading = self.presenting.is_none();
            let (cut, ending) = (self.told.is_some(), self.leaving || self.draining);
            tokio::select! {
                data = self.receive.data(), if reading => {
                    let data = data.ok_or(Ended::Closed)??;
                    self.lines.push(&data);
                    let _ = self.receive.flow_control().release_capacity(data.len());
                }
                decided = presented(&mut self.presenting) => self.decide(decided).await?,
                changed = self.entry.changed() => {
                    changed.map_err(|_| Ended::Standing)?;
                    self.look().await?;
                }
                () = tokio::time::sleep(LOOK), if cut => self.look().await?,
                changed = self.instances.changed() => {
                    changed.map_err(|_| Ended::Closed)?;
                    self.count().await?;
                }
                () = self.shared.tasks.stopping(), if !self.draining => self.drain().await?,
                () = self.registered.idle(), if ending => return Err(Ended::Drained),
                () = &mut drained => return Err(Ended::DrainLimit),
                () = over.cancelled() => return Err(Ended::Closed),
            }
        }
    }

    fn take(&mut self, message: FromProxy) {
        match message {
            FromProxy::Present { seq, credential } => {
                let directory = self.shared.directory.clone();
                let tunnel = self.bound.tunnel.clone();
                self.presenting = Some(Box::pin(async move {
                    let value = credential.expose().as_bytes();
                    let decided = directory.authenticate(&tunnel, value).await;
                    tokio::time::sleep(PRESENT_PACE).await;
                    (seq, decided)
                }));
            }
            FromProxy::Draining => {
                self.leaving = true;
                self.registered.leave();
            }
            FromProxy::Unknown => {}
        }
    }

    /// Answers a `present`.
    async fn decide(&mut self, (seq, decided): (u64, Result<Bound, Refusal>)) -> Result<(), Ended> {
        self.presenting = None;
        let answer = match decided {
            Ok(bound) => {
                let credential_id = bound.credential.clone();
                tracing::info!(
                    tunnel = bound.tunnel,
                    credential = credential_id,
                    "connection bound to another credential"
                );
                self.live.rebind(bound.clone());
                self.bound = bound;
                self.told = None;
                FromEdge::Bound { seq, credential_id }
            }
            Err(refusal) => {
                let tunnel = self.bound.tunnel.as_str();
                tracing::warn!(tunnel, %refusal, "presented credential refused");
                let reason = match refusal {
                    Refusal::Unavailable => wire::Refused::Unavailable,
                    _ => wire::Refused::Credential,
                };
                FromEdge::Refused { seq, reason }
            }
        };
        self.say(&answer).await?;
        if self.draining {
            // Bound anew, the proxy takes the connection for one that stays.
            self.drain().await?;
        }
        self.look().await
    }

    /// Whether the connection may go on, now that something has changed.
    async fn look(&mut self) -> Result<(), Ended> {
        let verdict = {
            let entry = self.entry.borrow_and_update();
            judge(&entry, &self.bound.credential, self.shared.directory.now())
        };
        let cut_at = verdict?;
        if cut_at != self.told
            && let Some(at) = cut_at
        {
            self.cut_at(at).await?;
        }
        self.told = cut_at;
        Ok(())
    }

    async fn cut_at(&mut self, at: SystemTime) -> Result<(), Ended> {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let time = since.unwrap_or_default().as_secs();
        self.say(&FromEdge::CutAt { time }).await
    }

    async fn count(&mut self) -> Result<(), Ended> {
        let count = *self.instances.borrow_and_update();
        self.say(&FromEdge::Instances { count }).await
    }

    /// The edge stops: the proxy is told when, so that it makes a connection elsewhere meanwhile.
    async fn drain(&mut self) -> Result<(), Ended> {
        self.draining = true;
        self.registered.leave();
        let at = self.shared.directory.now() + self.shared.limits.drain;
        self.cut_at(at).await
    }

    async fn say(&mut self, message: &FromEdge) -> Result<(), Ended> {
        let line = wire::line(message)?;
        let line = Bytes::copy_from_slice(&line);
        self.send.reserve_capacity(line.len());
        while self.send.capacity() < line.len() {
            let room = poll_fn(|cx| self.send.poll_capacity(cx));
            let room = tokio::time::timeout(CONTROL_LIMIT, room).await;
            room.map_err(|_| Ended::Deaf)?.ok_or(Ended::Closed)??;
        }
        Ok(self.send.send_data(line, false)?)
    }
}

async fn presented(presenting: &mut Option<Presenting>) -> (u64, Result<Bound, Refusal>) {
    match presenting {
        Some(presenting) => presenting.await,
        None => std::future::pending().await,
    }
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

/// Until when a connection that is bound to `credential` may live; `None`: no end is known.
fn judge(
    entry: &TunnelEntry,
    credential: &str,
    now: SystemTime,
) -> Result<Option<SystemTime>, Ended> {
    if entry.standing != Standing::Active {
        return Err(Ended::Standing);
    }
    let listed = entry
        .credentials
        .iter()
        .find(|known| known.id == credential);
    match listed.ok_or(Ended::Cut)?.cut_at {
        Some(at) if at <= now => Err(Ended::Cut),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests;
