//! Somebody who means well and calls all the time, beside whoever does harm: how much longer his calls take.
//!
//! The attacker, the caller and all programs share one machine with the tests beside this one, so a call takes longer
//! beside an attack whatever it is on. What is compared is therefore the same attack on the caller's own edge and on
//! somebody else's, in turns: what is left is what the two edges have in common with the caller, and that is the edge.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::stand::{EDGE, Stand};
use crate::rig::{HOST, Hello, Line};

/// So many calls at least in each turn, and so many turns of each of the two.
const CALLS: usize = 30;
const TURNS: usize = 3;
/// What a median may grow by besides the factor of two: a call takes a millisecond, and one whole run of all tests on two cores
/// had medians of 3.5 ms and 1.4 ms.
const NOISE: Duration = Duration::from_millis(4);

/// The caller. Dropped, it stops.
pub(super) struct Caller {
    /// How long each call took that has ended.
    times: watch::Receiver<Vec<Duration>>,
    _calling: JoinSet<()>,
}

impl Caller {
    /// Calls again and again.
    fn start<F>(call: impl Fn() -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (told, times) = watch::channel(Vec::new());
        let mut calling = JoinSet::new();
        calling.spawn(async move {
            loop {
                let began = Instant::now();
                call().await;
                told.send_modify(|times: &mut Vec<_>| times.push(began.elapsed()));
            }
        });
        Self {
            times,
            _calling: calling,
        }
    }

    /// One without a certificate, through passthrough: TCP, inner TLS, an answer of the upstream.
    pub(super) fn passthrough(stand: &Stand) -> Self {
        let (address, hello) = (stand.address, Hello::new(&stand.issuer));
        Self::start(move || passthrough(address, hello.clone()))
    }

    /// One with a certificate of the stand's CA: TLS with `agents.EDGE`, and a CONNECT that is answered.
    pub(super) fn door(stand: &Stand) -> Self {
        let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
        let client = stand.issuer.client("well.example");
        let hello = Arc::new(Hello::trusting_with(&front, &client).0);
        let address = stand.address;
        Self::start(move || door(address, TlsConnector::from(hello.clone())))
    }

    /// Does `harm` to the caller's own edge, the first, and to the second in turns, each time again until enough was
    /// called meanwhile. The caller must not notice which of them it is.
    pub(super) async fn beside<T>(
        &mut self,
        what: &str,
        edges: [&T; 2],
        mut harm: impl AsyncFnMut(&T),
    ) {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..TURNS {
            for (edge, times) in edges.into_iter().zip(&mut times) {
                // The call that is under way began before.
                let mark = self.times.borrow().len() + 1;
                while self.times.borrow().len() < mark + CALLS {
                    assert!(self.times.has_changed().is_ok(), "{what}: a call failed");
                    harm(edge).await;
                }
                times.extend_from_slice(&self.times.borrow()[mark..]);
            }
        }
        let [own, other] = times;
        unharmed(what, own, other);
    }
}

/// Asserts that the median of `own` is no more than twice that of `other`.
pub(super) fn unharmed(what: &str, own: Vec<Duration>, other: Vec<Duration>) {
    let count = (own.len(), other.len());
    let [own, other] = [own, other].map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2]
    });
    assert!(
        own <= 2 * other + NOISE,
        "{what}: {own:?} on the caller's own edge, {other:?} on another, of {count:?} calls"
    );
}

async fn passthrough(address: SocketAddr, hello: Hello) {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let mut line = Line::on(tcp, &hello).unwrap();
    line.handshake().await.unwrap();
    assert_eq!(line.get("/well").await.unwrap().status, 200);
}

async fn door(address: SocketAddr, connector: TlsConnector) {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let name = ServerName::try_from(format!("agents.{EDGE}")).unwrap();
    let mut tls = connector.connect(name, tcp).await.unwrap();
    let ask = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut said = [0; 12];
    tls.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
}
