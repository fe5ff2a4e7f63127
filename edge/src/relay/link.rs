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

use super::headers;

/// A proxy that takes longer to answer a CONNECT is passed over.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
/// As many connections are tried for one stream.
const TRIES: usize = 3;

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

    /// Whether a stream of `tunnel` could be opened now.
    pub(super) fn has(&self, tunnel: &str, replica: Option<&str>) -> bool {
        self.choose(tunnel, replica, &[]).is_some()
    }

    /// Opens a stream on the connection of `tunnel` with the least to do.
    pub(super) async fn open(&self, tunnel: &str, ask: &Ask<'_>) -> Result<Stream, OpenError> {
        let mut tried = Vec::new();
        while tried.len() < TRIES {
            let Some(link) = self.choose(tunnel, ask.replica, &tried) else {
                break;
            };
            tried.push(link.number);
            // Nothing has been answered yet, so another one may be asked the same.
            match tokio::time::timeout(ANSWER_LIMIT, Link::open(&link, ask)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    tracing::debug!(tunnel, replica = link.replica, error, "stream not taken");
                }
                Err(_) => {
                    tracing::warn!(tunnel, replica = link.replica, "proxy does not answer");
                }
            }
        }
        Err(if tried.is_empty() {
            OpenError::NoProxy
        } else {
            OpenError::NotTaken
        })
    }

    fn choose(&self, tunnel: &str, replica: Option<&str>, tried: &[u64]) -> Option<Arc<Link>> {
        let tunnels = self.lock();
        let links = tunnels.get(tunnel)?;
        let candidates = links.iter().enumerate().filter(|(_, link)| {
            !link.leaving.load(Ordering::Relaxed)
                && !tried.contains(&link.number)
                && replica.is_none_or(|replica| replica == link.replica)
        });
        let loads: Vec<_> = candidates
            .map(|(at, link)| (at, &*link.replica, link.streams.load(Ordering::Relaxed)))
            .collect();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        links.get(least(&loads, turn)?).cloned()
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
    async fn open(link: &Arc<Self>, ask: &Ask<'_>) -> Result<Stream, &'static str> {
        let load = Load::on(link);
        let gone = |_: h2::Error| "the connection has ended";
        let mut sender = link.sender.clone().ready().await.map_err(gone)?;
        let request = request(ask).map_err(|_| "a name that is no authority")?;
        let (answer, mut send) = sender.send_request(request, false).map_err(gone)?;
        // Within the window that every stream begins with, so nothing is waited for.
        let first = ask.first.clone();
        send.send_data(first, false).map_err(gone)?;
        let answer = answer.await.map_err(|_| "the proxy reset the stream")?;
        if answer.status() != StatusCode::OK {
            send.send_reset(h2::Reason::CANCEL);
            return Err("the proxy refused the stream");
        }
        Ok(Stream {
            send,
            receive: answer.into_body(),
            load,
        })
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
            let link = links.choose("t", replica, &[]);
            link.map(|link| link.replica.clone())
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
        let ask = Ask {
            name: "docs.t.example",
            peer: "192.0.2.1:9".parse().unwrap(),
            certificate: None,
            replica: None,
            first: Bytes::from_static(b"hello"),
        };
        tokio::select! {
            opened = links.open("t", &ask) => assert!(opened.is_ok()),
            () = serving => unreachable!("the client stays"),
            _ = connection => unreachable!("the server stays"),
        }
    }
}
