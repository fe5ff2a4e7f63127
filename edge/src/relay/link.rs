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
mod tests {
    use super::*;

    #[test]
    fn the_replica_with_the_least_to_do_gets_the_next_stream() {
        let loads = [(0, "a", 1), (1, "a", 2), (2, "b", 2)];
        assert_eq!(least(&loads, 0), Some(2), "3 streams on a, 2 on b");
        let loads = [(0, "a", 1), (1, "a", 0), (2, "b", 2)];
        assert_eq!(least(&loads, 0), Some(1), "the emptier connection of a");
        assert_eq!(least(&[], 0), None);
    }

    #[test]
    fn equals_take_turns() {
        let loads = [(0, "a", 0), (1, "b", 0), (2, "b", 0)];
        let chosen: Vec<_> = (0..4).map(|turn| least(&loads, turn)).collect();
        assert_eq!(chosen, [Some(0), Some(1), Some(2), Some(0)]);
    }

    /// A connection, and the other end of its socket, at which nobody speaks HTTP.
    async fn sender() -> (SendRequest<Bytes>, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (sender, _) = h2::client::handshake(ours).await.unwrap();
        (sender, theirs)
    }

    #[tokio::test]
    async fn the_replica_that_is_meant_is_chosen_and_one_that_leaves_is_not() {
        let links = Links::default();
        let ((one, _one), (other, _other)) = (sender().await, sender().await);
        let leaving = links.add("t", "a", one);
        let _staying = links.add("t", "b", other);
        let chosen = |replica| {
            let load = links.take("t", replica, &[]);
            load.map(|load| load.0.replica.clone())
        };
        for _ in 0..3 {
            assert_eq!(chosen(Some("b")).as_deref(), Some("b"));
        }
        assert!(!links.has("t", Some("c")) && !links.has("u", None));
        leaving.leave();
        for _ in 0..3 {
            assert_eq!(chosen(None).as_deref(), Some("b"));
        }
        assert!(!links.has("t", Some("a")));
    }

    fn ask() -> Ask<'static> {
        Ask {
            name: "docs.t.example",
            peer: "192.0.2.1:9".parse().unwrap(),
            certificate: None,
            replica: None,
            first: Bytes::from_static(b"hello"),
        }
    }

    /// A proxy that lets `room` streams be opened and answers each with what is in `status`.
    async fn proxy(room: u32, status: &Arc<Proxy>) -> SendRequest<Bytes> {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (sender, connection) = h2::client::handshake(ours).await.unwrap();
        let answers = Arc::clone(status);
        // Ends with the test's runtime.
        let serving = async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(room);
            let mut server = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            let mut streams = Vec::new();
            while let Some(Ok((request, mut respond))) = server.accept().await {
                answers.asked.fetch_add(1, Ordering::Relaxed);
                let mut answer = http::Response::new(());
                *answer.status_mut() = *answers.says.lock().unwrap();
                let sent = respond.send_response(answer, false).unwrap();
                streams.push((sent, request));
            }
        };
        let tasks = process::Tasks::new();
        tasks.spawn(async move {
            let _ = tokio::join!(serving, connection);
        });
        let mut sender = sender.ready().await.unwrap();
        let control = Request::post("https://proxy/control").body(()).unwrap();
        // The first stream is not the agents'. Once it is answered the settings are known.
        let (answer, _) = sender.send_request(control, true).unwrap();
        let _ = answer.await;
        status.asked.store(0, Ordering::Relaxed);
        sender
    }

    #[derive(Default)]
    struct Proxy {
        says: Mutex<StatusCode>,
        asked: AtomicU32,
    }

    impl Proxy {
        fn says(status: StatusCode) -> Arc<Self> {
            let this = Self::default();
            *this.says.lock().unwrap() = status;
            Arc::new(this)
        }

        fn asked(&self) -> u32 {
            self.asked.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_full_is_asked_once_and_left_alone_for_a_moment_while_another_will_do() {
        let links = Links::default();
        let (full, other) = (
            Proxy::says(StatusCode::SERVICE_UNAVAILABLE),
            Proxy::says(StatusCode::OK),
        );
        let _one = links.add("t", "full", proxy(100, &full).await);
        let _two = links.add("t", "full", proxy(100, &full).await);
        let begun = Instant::now();
        assert_eq!(
            links.open("t", &ask()).await.err(),
            Some(OpenError::NotTaken)
        );
        assert_eq!(full.asked(), 1, "and not again on its other connection");
        let other_link = links.add("t", "other", proxy(100, &other).await);
        let mut open = Vec::new();
        for _ in 0..20 {
            open.push(links.open("t", &ask()).await.unwrap());
        }
        assert_eq!((full.asked(), other.asked()), (1, 20));
        assert!(begun.elapsed() < REST, "nothing was waited for");
        // Nobody else is there: it may have room again.
        other_link.leave();
        *full.says.lock().unwrap() = StatusCode::OK;
        assert!(links.open("t", &ask()).await.is_ok());

        *full.says.lock().unwrap() = StatusCode::SERVICE_UNAVAILABLE;
        drop(other_link);
        let _other = links.add("t", "other", proxy(100, &other).await);
        tokio::time::advance(REST).await;
        for _ in 0..3 {
            open.push(links.open("t", &ask()).await.unwrap());
        }
        assert_eq!(full.asked(), 3, "once more after the moment");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_gets_no_more_streams_than_its_proxy_lets_be_open() {
        let links = Links::default();
        let (small, other) = (Proxy::says(StatusCode::OK), Proxy::says(StatusCode::OK));
        let _small = links.add("t", "small", proxy(3, &small).await);
        let begun = Instant::now();
        let mut open = Vec::new();
        for _ in 0..2 {
            open.push(links.open("t", &ask()).await.unwrap());
        }
        let beyond = links.open("t", &ask()).await.err();
        assert_eq!(beyond, Some(OpenError::NotTaken), "at once");
        let _other = links.add("t", "other", proxy(100, &other).await);
        for _ in 0..5 {
            open.push(links.open("t", &ask()).await.unwrap());
        }
        assert_eq!((small.asked(), other.asked()), (2, 5));
        assert!(begun.elapsed() < ANSWER_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_waited_for_and_then_left_alone_for_a_moment() {
        let links = Links::default();
        let (ours, _theirs) = tokio::io::duplex(1 << 16);
        let (silent, connection) = h2::client::handshake(ours).await.unwrap();
        let (tasks, other) = (process::Tasks::new(), Proxy::says(StatusCode::OK));
        tasks.spawn(async move { drop(connection.await) });
        let _silent = links.add("t", "silent", silent);
        let begun = Instant::now();
        assert_eq!(
            links.open("t", &ask()).await.err(),
            Some(OpenError::NotTaken)
        );
        let waited = begun.elapsed();
        assert!(waited >= ANSWER_LIMIT);
        let _other = links.add("t", "other", proxy(100, &other).await);
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(links.open("t", &ask()).await.unwrap());
        }
        assert_eq!(begun.elapsed(), waited, "nobody waits for it again");
    }

    #[tokio::test]
    async fn a_stream_that_one_connection_does_not_take_is_opened_on_another() {
        let links = Links::default();
        let (gone, _) = sender().await;
        let _gone = links.add("t", "a", gone);
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let (good, connection) = h2::client::handshake(ours).await.unwrap();
        let _good = links.add("t", "b", good);
        let serving = async {
            let mut streams = Vec::new();
            let mut server = h2::server::handshake(theirs).await.unwrap();
            while let Some(Ok((_, mut respond))) = server.accept().await {
                let answer = http::Response::new(());
                streams.push(respond.send_response(answer, false).unwrap());
            }
        };
        let ask = ask();
        tokio::select! {
            opened = links.open("t", &ask) => assert!(opened.is_ok()),
            () = serving => unreachable!("the client stays"),
            _ = connection => unreachable!("the server stays"),
        }
    }
}
