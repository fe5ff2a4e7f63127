//! Whoever means harm, at either door and behind the credential: refused within a limit, and a caller who
//! means well never notices.

use std::time::Duration;

use process::Tasks;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::access::said_to;
use super::fakes::{ANOTHER_TUNNEL, Fake, another_tunnel, attach, attach_to, fake, serve};
use super::hello::hello;
use super::stand::{OPEN, Stand};
use super::wellmeant::Caller;
use crate::rig::{HOST, Line, until, within};

/// Everything that comes to an end by itself.
const SECOND: Duration = Duration::from_secs(1);

/// Who connect and say nothing, or half a word.
const HALF_OPEN: usize = 10_000;
/// Of those the edge keeps so many where nothing else is configured.
const PENDING: u64 = 4096;
/// Who say their word byte by byte, at once.
const SLOW: usize = 100;

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

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_say_nothing_harm_nobody() {
    half_open("limits: {pending: 200}\n", 300, 8 << 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_who_say_nothing_harm_nobody_where_nothing_is_configured_either() {
    // But for the time that they have: on a slow machine they must not be gone before the last has come.
    half_open("limits: {hello_timeout: 10m}\n", PENDING + 100, 48 << 10).await;
}

/// Ten thousand who say nothing, of whom the edge holds fewer than `most`, in no more than `memory` KiB.
async fn half_open(limits: &str, most: u64, memory: u64) {
    let stands = [
        Stand::with(1, OPEN, limits).await,
        Stand::with(0, OPEN, limits).await,
    ];
    let before = stands.each_ref().map(|stand| stand.edge.memory());
    let [own, other] = [0, 1].map(|number| (&stands[number], before[number]));
    let mut well = Caller::passthrough(own.0);
    let harm = async |(stand, before): &(&Stand, u64)| {
        let accepted = stand.edge.metric("keyward_edge_accepted_total").await;
        let crowd = crowd(stand).await;
        until("their arrival", async || {
            let now = stand.edge.metric("keyward_edge_accepted_total").await;
            (now >= accepted + HALF_OPEN as u64).then_some(())
        })
        .await;
        let held = stand.edge.metric("keyward_edge_sockets").await;
        assert!(held < most, "{held} sockets");
        let grown = stand.edge.memory().saturating_sub(*before);
        assert!(grown < memory, "{grown} KiB with {held} sockets");
        // While those who are left stand there, too.
        for _ in 0..10 {
            calls(own.0).await;
        }
        drop(crowd);
    };
    well.beside("half-open", [&own, &other], harm).await;
    let evicted = "keyward_edge_refusals_total{reason=\"evicted\"}";
    assert!(own.0.edge.metric(evicted).await > 0, "the oldest went");
}

/// Those who connect and say nothing, or half a word; the last of them.
async fn crowd(stand: &Stand) -> Vec<TcpStream> {
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
    crowd
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_comes_byte_by_byte_slows_nobody() {
    let stand = Stand::start(1, OPEN).await;
    let other = Stand::start(0, OPEN).await;
    let whole = hello(HOST);
    let harm = async |stand: &Stand| {
        let connecting = (0..SLOW).map(|_| TcpStream::connect(stand.address));
        let connected = futures_util::future::join_all(connecting).await;
        let mut slow: Vec<_> = connected.into_iter().map(Result::unwrap).collect();
        // All but the last byte, so that each is read again and again for nothing.
        for byte in &whole[..whole.len() - 1] {
            for tcp in &mut slow {
                let _ = tcp.write_all(&[*byte]).await;
            }
        }
    };
    let mut well = Caller::passthrough(&stand);
    well.beside("slow hellos", [&stand, &other], harm).await;
}

#[tokio::test]
async fn a_source_that_begins_too_many_handshakes_is_closed_before_them_and_no_other_is() {
    let stand = Stand::with(1, OPEN, "limits: {handshakes_per_minute: 6}\n").await;
    stand.links(2).await;
    // At once a third of those of a minute; the proxy has had two of them.
    let begun = async |source: u8, name: &'static str| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, source], 0).into()).unwrap();
        let mut tcp = socket.connect(stand.address).await.unwrap();
        tcp.write_all(&hello(name)).await.unwrap();
        within("an answer", tcp.read_u8()).await.ok()
    };
    for (source, name) in [(71, "api.edge.example"), (72, "agents.edge.example")] {
        let mut answered = 0;
        while let Some(first) = begun(source, name).await {
            assert_eq!(first, 22, "a handshake");
            answered += 1;
            assert!(answered < 1000, "nobody counts");
        }
        assert!(answered >= 2, "{answered} at {name}");
    }
    // Whoever it is that asks: nothing of TLS was said, and nothing computed.
    assert_eq!(begun(71, "agents.edge.example").await, None);
    assert_eq!(begun(73, "api.edge.example").await, Some(22), "another");
    assert_eq!(begun(71, HOST).await, Some(22), "the proxy ends this one");
    let refused = "keyward_edge_refusals_total{reason=\"handshakes\"}";
    assert_eq!(stand.edge.metric(refused).await, 3);
    calls(&stand).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_never_reads_slows_no_caller_of_another_tunnel() {
    let tasks = Tasks::new();
    let limits = "limits: {stall_timeout: 10m}\n";
    let stand = Stand::with(1, OPEN, limits).await;
    let other = Stand::with(0, OPEN, limits).await;
    stand.links(2).await;
    for (stand, links) in [(&stand, 3), (&other, 1)] {
        another_tunnel(stand, "deaf.example").await;
        let stream = attach_to(stand, ANOTHER_TUNNEL, "secret-b").await;
        serve(&tasks, stream.ok().unwrap(), Fake::Deaf);
        stand.links(links).await;
    }
    let harm = async |deaf: &Stand| {
        let mut callers = Vec::new();
        for _ in 0..64 {
            let mut tcp = TcpStream::connect(deaf.address).await.unwrap();
            tcp.write_all(&hello("up.deaf.example")).await.unwrap();
            callers.push(tcp);
        }
        let piece = vec![7; 64 << 10];
        let filling = callers.iter_mut().map(async |tcp| {
            while let Ok(Ok(())) = tokio::time::timeout(SECOND, tcp.write_all(&piece)).await {}
        });
        within("their standstill", futures_util::future::join_all(filling)).await;
        assert!(deaf.edge.metric("keyward_edge_streams").await >= 64);
        assert_eq!(deaf.edge.metric("keyward_edge_stalled_total").await, 0);
        // While they stand there, too.
        for _ in 0..10 {
            calls(&stand).await;
        }
    };
    let mut well = Caller::passthrough(&stand);
    well.beside("a proxy that never reads", [&stand, &other], harm)
        .await;
    tasks.stop();
}
