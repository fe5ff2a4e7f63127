//! Whoever means harm, at either door and behind the credential: refused within a limit, and a caller who
//! means well never notices.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::Tasks;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::rustls::pki_types::ServerName;

use super::access::said_to;
use super::hello::hello;
use super::stand::{EDGE, OPEN, Stand, TUNNEL};
use crate::rig::{HOST, Hello, Line, until, within};

/// Everything that comes to an end by itself.
const SECOND: Duration = Duration::from_secs(1);

/// Who connect and say nothing, or half a word.
const HALF_OPEN: usize = 10_000;

/// Longer than a line may be.
static NO_LINE: &[u8] = &[b'x'; 20_000];

async fn calls(stand: &Stand) {
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/well").await.unwrap().status, 200);
}

/// The hello in TLS records of `length` bytes.
fn fragmented(hello: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in hello[5..].chunks(length) {
        bytes.extend_from_slice(&[22, 3, 1]);
        bytes.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}

#[tokio::test]
async fn a_hello_may_come_in_pieces_and_not_without_end() {
    let stand = Stand::with(1, OPEN, "limits: {hello_timeout: 500ms}\n").await;
    let whole = hello(HOST);
    // In records of one byte, and a byte at a time.
    assert_eq!(said_to(&stand, &fragmented(&whole, 1)).await[0], 22);
    let mut tcp = TcpStream::connect(stand.address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    for byte in &whole {
        tcp.write_all(&[*byte]).await.unwrap();
    }
    assert_eq!(tcp.read_u8().await.unwrap(), 22);

    let mut giant = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    giant.resize(20_000, 0);
    let began = Instant::now();
    for bad in [
        &giant[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ] {
        assert_eq!(said_to(&stand, bad).await.first(), Some(&21), "an alert");
    }
    assert!(began.elapsed() < SECOND);
    let mut slow = TcpStream::connect(stand.address).await.unwrap();
    slow.write_all(&whole[..100]).await.unwrap();
    let ended = within("the end of a slow one", slow.read_u8()).await;
    assert!(ended.is_err());
    let slow = "keyward_edge_refusals_total{reason=\"slow_hello\"}";
    assert_eq!(stand.edge.metric(slow).await, 1);
    calls(&stand).await;
}

#[tokio::test]
async fn thousands_who_say_nothing_harm_nobody() {
    let stand = Stand::with(1, OPEN, "limits: {pending: 200}\n").await;
    let before = stand.edge.memory();
    let whole = hello(HOST);
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let room = limit
        .maximum
        .map_or(HALF_OPEN, |limit| usize::try_from(limit / 4).unwrap());
    let (mut crowd, mut coming) = (Vec::new(), tokio::task::JoinSet::new());
    for number in 0..HALF_OPEN {
        let (address, whole) = (stand.address, whole.clone());
        coming.spawn(async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            // Some say half a word.
            if number % 2 == 0 {
                let _ = tcp.write_all(&whole[..whole.len() / 2]).await;
            }
            tcp
        });
        // As many at a time as a backlog takes.
        if coming.len() >= 100 {
            crowd.push(coming.join_next().await.unwrap().unwrap());
        }
        // This program has a limit of its own, and shares it with the tests beside this one.
        if crowd.len() > room {
            drop(crowd.drain(..room / 2));
        }
    }
    while let Some(came) = coming.join_next().await {
        crowd.push(came.unwrap());
    }
    until("their arrival", async || {
        let accepted = stand.edge.metric("keyward_edge_accepted_total").await;
        (accepted >= HALF_OPEN as u64).then_some(())
    })
    .await;
    calls(&stand).await;
    let held = stand.edge.metric("keyward_edge_sockets").await;
    assert!(held < 300, "{held} sockets");
    let grown = stand.edge.memory().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[tokio::test]
async fn thousands_who_hang_up_do_not_end_the_proxys_connection() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    let whole = hello(HOST);
    for number in 0..3000 {
        let mut tcp = TcpStream::connect(stand.address).await.unwrap();
        tcp.write_all(&whole).await.unwrap();
        // Some hang up before there is an answer, some in the middle of it.
        if number % 3 == 0 {
            let _ = tcp.read_u8().await;
        }
        if number % 2 == 0 {
            // A reset in place of an orderly end.
            tcp.set_zero_linger().unwrap();
        }
    }
    until("their end", async || {
        (stand.edge.metric("keyward_edge_streams").await == 0).then_some(())
    })
    .await;
    assert_eq!(stand.edge.metric("keyward_edge_links").await, 2);
    assert!(!stand.edge.log().contains("proxy disconnected"));
    calls(&stand).await;
    until("their end at the proxy", async || {
        let held = stand.proxies[0].metric("keyward_connections").await;
        (held <= 1).then_some(())
    })
    .await;
}

/// 64 callers to whom everything is echoed and who read nothing of it.
async fn deaf(stand: &Stand) -> Vec<Line> {
    let mut lines = Vec::new();
    for _ in 0..64 {
        let mut line = stand.line().await.unwrap();
        let ask = format!(
            "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        );
        line.send(ask.as_bytes()).await.unwrap();
        assert!(line.read_to("\r\n\r\n").await.unwrap().contains("101"));
        lines.push(line);
    }
    lines
}

#[tokio::test]
async fn agents_that_stop_reading_block_nobody() {
    let stand = Stand::with(1, OPEN, "limits: {stall_timeout: 10m}\n").await;
    let mut lines = deaf(&stand).await;
    // Each stream fills up to its windows and stands still, on whichever of the two connections it is.
    let piece = vec![7; 64 << 10];
    let filling = lines.iter_mut().map(async |line| {
        while let Ok(Ok(())) = tokio::time::timeout(SECOND, line.send(&piece)).await {}
    });
    within("their standstill", futures_util::future::join_all(filling)).await;
    for _ in 0..50 {
        within("another's call", calls(&stand)).await;
    }
    // All that time every one of them stood there: nobody's call waited for their end.
    let name = "keyward_edge_stalled_total";
    assert_eq!(stand.edge.metric(name).await, 0);
    assert!(stand.edge.metric("keyward_edge_streams").await >= 64);
}

#[tokio::test]
async fn agents_that_stop_reading_are_closed_and_the_proxys_connections_stay() {
    let stand = Stand::with(1, OPEN, "limits: {stall_timeout: 2s}\n").await;
    let mut lines = deaf(&stand).await;
    let piece = vec![7; 64 << 10];
    let filling = lines
        .iter_mut()
        .map(async |line| while line.send(&piece).await.is_ok() {});
    within("their end", futures_util::future::join_all(filling)).await;
    until("the end of those who do not read", async || {
        let stalled = stand.edge.metric("keyward_edge_stalled_total").await;
        (stalled >= 64).then_some(())
    })
    .await;
    assert_eq!(stand.edge.metric("keyward_edge_links").await, 2);
    calls(&stand).await;
}

#[tokio::test]
async fn guessing_a_credential_ends_after_thirty_tries() {
    let stand = Stand::start(1, OPEN).await;
    for number in 0..30 {
        let guess = format!("wrong-{number}");
        let answer = attach(&stand, &guess).await.err().unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(
            !answer.contains("wrong") && answer.contains("authentication_error"),
            "{answer}"
        );
    }
    let answer = attach(&stand, "secret-a").await.err().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after"),
        "{answer}"
    );
    // Those who are in stay in.
    calls(&stand).await;
}

#[tokio::test]
async fn a_proxy_that_talks_nonsense_is_cut_and_the_others_serve_on() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    for (number, nonsense) in [&b"nonsense\n"[..], NO_LINE].into_iter().enumerate() {
        let tasks = Tasks::new();
        fake(&stand, &tasks, Fake::Nonsense(nonsense)).await;
        stand.edge.logs("proxy disconnected", number + 1).await;
        stand.links(2).await;
        tasks.stop();
    }
    stand.edge.logs("malformed at column", 1).await;
    stand.edge.logs("longer than 16384 bytes", 1).await;
    calls(&stand).await;
}

#[tokio::test]
async fn a_proxy_that_never_reads_holds_one_window_of_each_caller_and_then_loses_it() {
    let stand = Stand::with(0, OPEN, "limits: {stall_timeout: 2s}\n").await;
    let tasks = Tasks::new();
    fake(&stand, &tasks, Fake::Deaf).await;
    stand.links(1).await;
    let before = stand.edge.memory();
    let mut callers = Vec::new();
    for _ in 0..20 {
        let mut tcp = TcpStream::connect(stand.address).await.unwrap();
        tcp.write_all(&hello(HOST)).await.unwrap();
        callers.push(tcp);
    }
    let piece = vec![7; 64 << 10];
    let filling = callers
        .iter_mut()
        .map(async |tcp| while tcp.write_all(&piece).await.is_ok() {});
    within("their end", futures_util::future::join_all(filling)).await;
    assert_eq!(stand.edge.metric("keyward_edge_stalled_total").await, 20);
    let grown = stand.edge.memory().saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB");
    tasks.stop();
}

/// How a proxy of the test's own behaves.
#[derive(Clone, Copy)]
enum Fake {
    /// Says this on the control stream.
    Nonsense(&'static [u8]),
    /// Takes every stream and reads none.
    Deaf,
}

/// A connection that the edge has taken; else what it answered.
pub(super) async fn attach(stand: &Stand, secret: &str) -> Result<impl Wire + use<>, String> {
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = ServerName::try_from(format!("api.{EDGE}")).unwrap();
    let config = Arc::new(Hello::trusting(&front).0);
    let mut tls = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .unwrap();
    let ask = format!(
        "GET {} HTTP/1.1\r\nHost: api.{EDGE}\r\nConnection: upgrade\r\nUpgrade: {}\r\n\
         Authorization: Bearer {secret}\r\nKeyward-Tunnel: {TUNNEL}\r\nKeyward-Replica: fake\r\n\r\n",
        wire::CONNECT_PATH,
        wire::PROTOCOL
    );
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.unwrap());
    }
    let mut head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 101") {
        return Ok(tls);
    }
    let mut body = vec![0; 4096];
    let read = tls.read(&mut body).await.unwrap();
    head.push_str(&String::from_utf8_lossy(&body[..read]));
    Err(head)
}

pub(super) trait Wire:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static
{
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Wire for S {}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Attaches a proxy that behaves as `fake` until `tasks` is stopped.
async fn fake(stand: &Stand, tasks: &Tasks, fake: Fake) {
    let stream = attach(stand, "secret-a").await.ok().unwrap();
    let inner = tasks.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let tasks = inner.clone();
        async move { Ok::<_, Infallible>(behave(&tasks, request, fake)) }
    });
    let stop = tasks.clone();
    tasks.spawn(async move {
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(wire::STREAM_WINDOW)
            .initial_connection_window_size(wire::CONNECTION_WINDOW)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = serving => {}
            () = stop.stopping() => {}
        }
    });
}

fn behave(tasks: &Tasks, request: Request<Incoming>, fake: Fake) -> Response<Body> {
    if request.method() == Method::CONNECT {
        let stop = tasks.clone();
        tasks.spawn(async move {
            let held = hyper::upgrade::on(request).await;
            stop.stopping().await;
            drop(held);
        });
        return Response::new(Empty::new().boxed_unsync());
    }
    // The request's body must not end before the answer's.
    let stop = tasks.clone();
    tasks.spawn(async move {
        let held = request.into_body();
        stop.stopping().await;
        drop(held);
    });
    let said = match fake {
        Fake::Nonsense(nonsense) => Some(Ok(Frame::data(Bytes::from_static(nonsense)))),
        Fake::Deaf => None,
    };
    let silent = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let body = futures_util::stream::iter(said).chain(silent);
    Response::new(StreamBody::new(body).boxed_unsync())
}
