//! One connection that a proxy dialled, on which this edge opens streams; and the choice among several.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::headers;

/// A proxy that takes longer to answer a CONNECT is passed over.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// As many connections that say nothing are waited for. Those that refuse do so at once and do not count.
const TRIES: usize = 3;
/// Whoever was full or silent gets no other stream for so long, where somebody else will do.
const REST: Duration = Duration::from_secs(1);
/// Streams of a connection that are no agent's.
const CONTROL: usize = 1;

/// What a stream is opened with.
pub(super) struct Ask<'a> {
    /// The name that the agent asked for.
    pub(super) name: &'a str,
    pub(super) peer: SocketAddr,
    /// `Client-Cert`, where outer TLS proved one.
    pub(super) certificate: Option<HeaderValue>,
    /// The replica that is meant, where one is.
    pub(super) replica: Option<&'a str>,
    /// The `ClientHello`, to the byte; goes out with the request.
    pub(super) first: Bytes,
}

/// Why no stream was opened. Nothing of the agent's was lost: it may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum OpenError {
    #[error("no proxy is connected")]
    NoProxy,
    #[error("no proxy took the stream")]
    NotTaken,
}

/// Every connection, by tunnel. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Links(Arc<Shared>);

#[derive(Default)]
struct Shared {
    tunnels: Mutex<HashMap<String, Vec<Arc<Link>>>>,
    next: AtomicU64,
    turn: AtomicU64,
}

/// One connection.
pub(super) struct Link {
    number: u64,
    tunnel: String,
    replica: String,
    sender: SendRequest<Bytes>,
    streams: AtomicU32,
    /// Gets no new streams.
    leaving: AtomicBool,
    /// Is passed over until then.
    rests: Mutex<Option<Instant>>,
    /// Rung when a stream ends.
    ended: Notify,
}

impl Links {
    /// Adds a connection until the guard is dropped.
    pub(super) fn add(
        &self,
        tunnel: &str,
        replica: &str,
        sender: SendRequest<Bytes>,
    ) -> Registered {
        let link = Arc::new(Link {
            number: self.0.next.fetch_add(1, Ordering::Relaxed),
            tunnel: tunnel.to_owned(),
            replica: replica.to_owned(),
            sender,
            streams: AtomicU32::new(0),
            leaving: AtomicBool::new(false),
            rests: Mutex::default(),
            ended: Notify::new(),
        });
        let mut tunnels = self.lock();
        let links = tunnels.entry(tunnel.to_owned()).or_default();
        links.push(Arc::clone(&link));
        Registered {
            links: self.clone(),
            link,
        }
    }

    /// How many connections `tunnel` has.
    pub(super) fn count(&self, tunnel: &str) -> usize {
        self.lock().get(tunnel).map_or(0, Vec::len)
    }

    /// How many there are.
    pub(super) fn total(&self) -> usize {
        self.lock().values().map(Vec::len).sum()
    }

    /// Whether there is a connection on which a stream of `tunnel` could be opened.
    pub(super) fn has(&self, tunnel: &str, replica: Option<&str>) -> bool {
        let tunnels = self.lock();
        let mut links = tunnels.get(tunnel).into_iter().flatten();
        links.any(|link| link.serves(replica))
    }

    /// Opens a stream on the connection of `tunnel` with the least to do.
    pub(super) async fn open(&self, tunnel: &str, ask: &Ask<'_>) -> Result<Stream, OpenError> {
        if !self.has(tunnel, ask.replica) {
            return Err(OpenError::NoProxy);
        }
        let (mut tried, mut silent) = (Vec::new(), 0);
        while silent < TRIES {
            let Some(load) = self.take(tunnel, ask.replica, &tried) else {
                break;
            };
            let link = Arc::clone(&load.0);
            tried.push(link.number);
            // Nothing has been answered yet, so another one may be asked the same.
            match tokio::time::timeout(ANSWER_LIMIT, load.open(ask)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(refusal)) => {
                    tracing::debug!(tunnel, replica = link.replica, %refusal, "stream not taken");
                    if refusal == Refusal::Full {
                        tried.extend(self.rest(tunnel, &link.replica));
                    }
                }
                Err(_) => {
                    tracing::warn!(tunnel, replica = link.replica, "proxy does not answer");
                    link.rest();
                    silent += 1;
                }
            }
        }
        Err(OpenError::NotTaken)
    }

    /// A place on the connection with the least to do of those that were not tried. Taken under the lock,
    /// so that the last one of a connection is given once: whoever came second would wait for an end.
    fn take(&self, tunnel: &str, replica: Option<&str>, tried: &[u64]) -> Option<Load> {
        let tunnels = self.lock();
        let links = tunnels.get(tunnel)?;
        let now = Instant::now();
        let candidates: Vec<_> = links
            .iter()
            .filter(|link| link.serves(replica) && link.has_room() && !tried.contains(&link.number))
            .collect();
        let awake = candidates.iter().filter(|link| !link.rests(now));
        let awake: Vec<_> = awake.copied().collect();
        // Where all of them rest, one may have room again.
        let candidates = if awake.is_empty() { candidates } else { awake };
        let numbered = candidates.iter().enumerate();
        let loads: Vec<_> = numbered
            .map(|(at, link)| (at, &*link.replica, link.streams()))
            .collect();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        candidates
            .get(least(&loads, turn)?)
            .map(|link| Load::on(link))
    }

    /// Passes over every connection of `replica` for a moment: their numbers.
    fn rest(&self, tunnel: &str, replica: &str) -> Vec<u64> {
        let tunnels = self.lock();
        let links = tunnels.get(tunnel).into_iter().flatten();
        let links = links.filter(|link| link.replica == replica);
        let resting = links.map(|link| {
            link.rest();
            link.number
        });
        resting.collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Vec<Arc<Link>>>> {
        self.0
            .tunnels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of (place, replica, streams): the connection with the fewest streams of the replica with the fewest,
/// so that a replica with more connections gets no more to do. Equals take turns.
fn least(loads: &[(usize, &str, u32)], turn: u64) -> Option<usize> {
    let mut replicas: HashMap<&str, u64> = HashMap::new();
    for (_, replica, streams) in loads {
        *replicas.entry(replica).or_default() += u64::from(*streams);
    }
    let rank = |(_, replica, streams): &(usize, &str, u32)| {
        (replicas.get(replica).copied().unwrap_or_default(), *streams)
    };
    let lowest = loads.iter().map(rank).min()?;
    let equals: Vec<_> = loads.iter().filter(|load| rank(load) == lowest).collect();
    let at = usize::try_from(turn).unwrap_or_default() % equals.len();
    equals.get(at).map(|(place, ..)| *place)
}

/// A connection that can be chosen until this is dropped.
pub(super) struct Registered {
    links: Links,
    link: Arc<Link>,
}

impl Registered {
    /// It gets no new streams from now on.
    pub(super) fn leave(&self) {
        self.link.leaving.store(true, Ordering::Relaxed);
    }

    /// Resolves once no stream is open on it.
    pub(super) async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.link.ended.notified());
            ended.as_mut().enable();
            if self.link.streams.load(Ordering::Acquire) == 0 {
                return;
            }
            ended.await;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut tunnels = self.links.lock();
        if let Some(links) = tunnels.get_mut(&self.link.tunnel) {
            links.retain(|link| link.number != self.link.number);
            if links.is_empty() {
                tunnels.remove(&self.link.tunnel);
            }
        }
    }
}

impl Link {
    /// Whether it takes new streams, and is the replica that is meant.
    fn serves(&self, replica: Option<&str>) -> bool {
        !self.leaving.load(Ordering::Relaxed)
            && replica.is_none_or(|replica| replica == self.replica)
    }

    /// Whether the proxy lets one more stream be opened. One beyond that would not be refused: HTTP/2 keeps
    /// it back until another has ended (RFC 9113 section 5.1.2).
    fn has_room(&self) -> bool {
        let open = usize::try_from(self.streams()).unwrap_or(usize::MAX);
        open.saturating_add(CONTROL) < self.sender.current_max_send_streams()
    }

    fn streams(&self) -> u32 {
        self.streams.load(Ordering::Relaxed)
    }

    fn rest(&self) {
        *self.resting() = Some(Instant::now() + REST);
    }

    fn rests(&self, now: Instant) -> bool {
        self.resting().is_some_and(|until| now < until)
    }

    fn resting(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why one connection did not take a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
enum Refusal {
    #[error("the connection has ended")]
    Ended,
    #[error("a name that is no authority")]
    Name,
    #[error("the proxy is full")]
    Full,
    #[error("the proxy reset the stream")]
    Reset,
    #[error("the proxy refused the stream")]
    Refused,
}

impl Refusal {
    /// Of an answer that did not come. A stream that was not looked at was one too many (RFC 9113 section
    /// 8.7).
    fn of(error: &h2::Error) -> Self {
        match error.reason() {
            Some(h2::Reason::REFUSED_STREAM) => Self::Full,
            _ => Self::Reset,
        }
    }
}

fn request(ask: &Ask<'_>) -> http::Result<Request<()>> {
    let authority = Uri::builder().authority(format!("{}:443", ask.name));
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(authority.build()?)
        .header(wire::FORWARDED, headers::forwarded(ask.peer));
    if let Some(certificate) = &ask.certificate {
        request = request.header(wire::CLIENT_CERT, certificate);
    }
    if let Some(replica) = ask.replica {
        request = request.header(wire::REPLICA, replica);
    }
    request.body(())
}

/// A stream of one agent to a proxy.
pub(super) struct Stream {
    pub(super) send: SendStream<Bytes>,
    pub(super) receive: RecvStream,
    /// Whoever takes the stream apart keeps this as long.
    pub(super) load: Load,
}

/// Counts as one stream of its connection until it is dropped.
pub(super) struct Load(Arc<Link>);

impl Load {
    fn on(link: &Arc<Link>) -> Self {
        link.streams.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(link))
    }

    async fn open(self, ask: &Ask<'_>) -> Result<Stream, Refusal> {
        let gone = |_: h2::Error| Refusal::Ended;
        let mut sender = self.0.sender.clone().ready().await.map_err(gone)?;
        let request = request(ask).map_err(|_| Refusal::Name)?;
        let (answer, mut send) = sender.send_request(request, false).map_err(gone)?;
        // Within the window that every stream begins with, so nothing is waited for.
        let first = ask.first.clone();
        send.send_data(first, false).map_err(gone)?;
        let answer = answer.await.map_err(|error| Refusal::of(&error))?;
        let refusal = match answer.status() {
            StatusCode::OK => {
                return Ok(Stream {
                    send,
                    receive: answer.into_body(),
                    load: self,
                });
            }
            StatusCode::SERVICE_UNAVAILABLE => Refusal::Full,
            _ => Refusal::Refused,
        };
        send.send_reset(h2::Reason::CANCEL);
        Err(refusal)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
