//! HTTP/2 used as a weapon (CVE-2023-44487, CVE-2024-27316 and their kin): against either door of the edge, and
//! against the edge by a proxy. Whoever floods loses the connection or is served as anybody
//! would be; memory stays bounded, and a caller who means well never notices.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::fakes::{ANOTHER_TUNNEL, another_tunnel, attach, attach_to};
use super::frames::{
    CONTINUATION, DATA, HEADERS, PING, PREFACE, PUSH, RESET, SETTINGS, WHOLE, WHOLE_AND_LAST,
    WINDOW, frame, head, kinds,
};
use super::stand::{EDGE, OPEN, Program, Stand};
use super::wellmeant::Caller;
use crate::rig::{HOST, Hello, until, within};

/// What a flood may add to a program, in KiB.
const GROWTH: u64 = 48 << 10;
/// GOAWAY.
const AWAY: u8 = 7;

/// Frames without end, by number.
pub(super) type Flood = fn(u32, &str) -> Vec<u8>;

/// A request that is given up at once.
fn reset(number: u32, authority: &str) -> Vec<u8> {
    let stream = 2 * number + 1;
    let mut bytes = frame(
        HEADERS,
        WHOLE_AND_LAST,
        stream,
        &head("GET", "/v1/edge", authority),
    );
    bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    bytes
}

/// A CONNECT that is given up at once.
pub(super) fn connect(number: u32, _: &str) -> Vec<u8> {
    let stream = 2 * number + 1;
    let mut block = vec![2, 7];
    block.extend(b"CONNECT");
    let authority = format!("{HOST}:443");
    block.extend([1, u8::try_from(authority.len()).unwrap()]);
    block.extend(authority.as_bytes());
    let mut bytes = frame(HEADERS, WHOLE, stream, &block);
    bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    bytes
}

/// A head that never ends.
pub(super) fn continued(number: u32, authority: &str) -> Vec<u8> {
    match number {
        0 => frame(HEADERS, 0, 1, &head("GET", "/", authority)),
        // An empty name and value each time, so that there is nothing to keep but the number of them.
        _ => frame(CONTINUATION, 0, 1, &[0; 3 * 1000]),
    }
}

/// The same with nothing in it.
pub(super) fn empty(number: u32, authority: &str) -> Vec<u8> {
    match number {
        0 => frame(HEADERS, 0, 1, &head("GET", "/", authority)),
        _ => frame(CONTINUATION, 0, 1, &[]),
    }
}

/// Each has to be answered.
pub(super) fn pings(number: u32, _: &str) -> Vec<u8> {
    frame(PING, 0, 0, &u64::from(number).to_be_bytes())
}

pub(super) fn settings(_: u32, _: &str) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

/// Requests that nobody reads the answers of.
pub(super) fn unread(number: u32, authority: &str) -> Vec<u8> {
    frame(
        HEADERS,
        WHOLE_AND_LAST,
        2 * number + 1,
        &head("GET", "/none", authority),
    )
}

/// What became of a flood.
#[derive(Debug)]
pub(super) struct Outcome {
    /// How many of it were sent.
    pub(super) sent: u32,
    /// The connection was ended, with the code of GOAWAY where there was one.
    pub(super) ended: Option<u32>,
}

/// Sends `count` of `flood` behind `first`, reads what comes back, and then asks for a sign of life.
pub(super) async fn send<S>(
    stream: S,
    first: &[u8],
    flood: Flood,
    count: u32,
    authority: &str,
) -> Outcome
where
    S: AsyncRead + AsyncWrite,
{
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        let mut first = first.to_vec();
        first.extend(frame(SETTINGS, 0, 0, &[]));
        let mut sent = 0;
        if write.write_all(&first).await.is_ok() {
            while sent < count && write.write_all(&flood(sent, authority)).await.is_ok() {
                sent += 1;
            }
        }
        let _ = write.write_all(&frame(PING, 0, 0, b"the last")).await;
        let _ = write.flush().await;
        sent
    };
    let reading = async {
        let (mut said, mut piece) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let length = read.read(&mut piece).await.unwrap_or_default();
            said.extend_from_slice(&piece[..length]);
            let away = kinds(&said).into_iter().find(|(kind, _)| *kind == AWAY);
            if let Some((_, code)) = away {
                return Some(code);
            }
            if length == 0 {
                return Some(0);
            }
            if said.windows(8).any(|window| window == b"the last") {
                return None;
            }
            // Whole frames that say nothing of interest are many.
            let keep = said.len().saturating_sub(128 << 10);
            if keep > 0 {
                said = rest(&said);
            }
        }
    };
    let mut writing = std::pin::pin!(writing);
    let mut reading = std::pin::pin!(reading);
    let both = async {
        tokio::select! {
            biased;
            sent = &mut writing => Outcome { sent, ended: reading.await },
            // Nobody reads any more what is still sent.
            ended = &mut reading => Outcome { sent: 0, ended },
        }
    };
    within("the end of the flood", both).await
}

/// What is behind the last whole frame.
fn rest(mut said: &[u8]) -> Vec<u8> {
    while let Some(header) = said.get(..9) {
        let length = 9 + u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        if said.len() < length {
            break;
        }
        said = &said[length..];
    }
    said.to_vec()
}

/// HTTP/2 at a door of the edge, by a client with a good certificate where one is asked for.
pub(super) async fn door(
    stand: &Stand,
    name: &str,
) -> impl AsyncRead + AsyncWrite + Unpin + Send + use<> {
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let client = stand.issuer.client("agent.example");
    let hello = Hello::trusting_with(&front, &client).alpn(b"h2");
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connector = TlsConnector::from(Arc::new(hello.0));
    connector.connect(name, tcp).await.unwrap()
}

/// `before`: the most that it had until then.
pub(super) fn grown(program: &Program, before: u64, what: &str) {
    let grown = program.peak().saturating_sub(before);
    assert!(grown < GROWTH, "{what}: {grown} KiB more at its height");
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_at_either_door_end_with_their_connection_or_do_no_harm() {
    let clients =
        "client_ca_files: [FOLDER/client-ca.pem], streams: 1000, connections_per_minute: 1000000";
    let stand = Stand::start(1, clients).await;
    stand.links(2).await;
    let before = stand.edge.peak();
    let other = Stand::start(1, clients).await;
    let mut well = Caller::door(&stand);
    let (api, agents) = (format!("api.{EDGE}"), format!("agents.{EDGE}"));
    let floods: [(&str, Flood, u32); 7] = [
        ("resets", reset, 30_000),
        ("connects", connect, 30_000),
        ("a head without end", continued, 30_000),
        ("a head of nothing", empty, 200_000),
        ("pings", pings, 30_000),
        ("settings", settings, 30_000),
        ("requests", unread, 30_000),
    ];
    for name in [&api, &agents] {
        for (what, flood, count) in floods {
            let harm = async |stand: &Stand| {
                let stream = door(stand, name).await;
                let outcome = send(stream, PREFACE, flood, count, name).await;
                if what.starts_with("a head") {
                    // ENHANCE_YOUR_CALM, COMPRESSION_ERROR or PROTOCOL_ERROR: long before all of it was taken.
                    assert!(outcome.ended.is_some(), "{what} at {name}: {outcome:?}");
                }
                assert!(
                    outcome.ended.is_some() || outcome.sent == count,
                    "{what} at {name}: {outcome:?}"
                );
            };
            well.beside(&format!("{what} at {name}"), [&stand, &other], harm)
                .await;
            grown(&stand.edge, before, what);
        }
    }
    drop(well);
    until("their end", async || {
        (stand.edge.metric("keyward_edge_streams").await == 0).then_some(())
    })
    .await;
    stand.links(2).await;
    assert!(
        !stand.edge.log().contains("panicked") && !stand.edge.log().contains("proxy disconnected")
    );
}

/// What a proxy may send that no proxy may send.
fn breaches() -> Vec<(&'static str, Vec<u8>)> {
    let ok = [0x88];
    let settings = |id: u16, value: u32| {
        let mut payload = id.to_be_bytes().to_vec();
        payload.extend(value.to_be_bytes());
        frame(SETTINGS, 0, 0, &payload)
    };
    let mut pushed = 2_u32.to_be_bytes().to_vec();
    pushed.extend(head("GET", "/", HOST));
    vec![
        (
            "an answer to a CONNECT that nobody sent",
            frame(HEADERS, WHOLE, 3, &ok),
        ),
        (
            "an answer on a stream of its own",
            frame(HEADERS, WHOLE, 2, &ok),
        ),
        (
            "data of a stream that nobody opened",
            frame(DATA, 0, 5, b"data"),
        ),
        ("a push", frame(PUSH, WHOLE, 1, &pushed)),
        (
            "a window beyond the largest",
            frame(WINDOW, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        ),
        (
            "a window of a stream beyond the largest",
            settings(4, 0x8000_0000),
        ),
        ("frames that may not be so short", settings(5, 1)),
        ("no HTTP/2 at all", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_breaks_the_rules_of_http2_loses_its_connection_and_no_other() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    let before = stand.edge.peak();
    let mut ended = 0;
    for (what, bytes) in breaches() {
        let mut stream = attach(&stand, "secret-a").await.ok().unwrap();
        let mut said = frame(SETTINGS, 0, 0, &[]);
        said.extend(bytes);
        stream.write_all(&said).await.unwrap();
        let mut heard = Vec::new();
        let _ = within(what, stream.read_to_end(&mut heard)).await;
        ended += 1;
        stand.edge.logs("proxy disconnected", ended).await;
    }
    // Of a tunnel of its own, or callers would be sent to it as well.
    let other = Stand::start(0, OPEN).await;
    for stand in [&stand, &other] {
        another_tunnel(stand, "o.example").await;
    }
    let mut well = Caller::passthrough(&stand);
    let floods: [(&str, Flood); 3] = [("settings", settings), ("pings", pings), ("resets", resets)];
    for (what, flood) in floods {
        let harm = async |stand: &Stand| {
            let ended = stand.edge.log().matches("proxy disconnected").count();
            let stream = attach_to(stand, ANOTHER_TUNNEL, "secret-b").await;
            let stream = stream.ok().unwrap();
            let outcome = send(stream, &[], flood, 30_000, "").await;
            assert!(
                outcome.ended.is_some() || outcome.sent == 30_000,
                "{what}: {outcome:?}"
            );
            stand.edge.logs("proxy disconnected", ended + 1).await;
        };
        well.beside(what, [&stand, &other], harm).await;
    }
    stand.links(2).await;
    grown(&stand.edge, before, "all of it");
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/well").await.unwrap().status, 200);
    assert!(!stand.edge.log().contains("panicked"));
}

/// Of streams that nobody has opened.
fn resets(number: u32, _: &str) -> Vec<u8> {
    frame(RESET, 0, 2 * number + 1, &8_u32.to_be_bytes())
}

#[tokio::test]
async fn a_proxy_gets_the_streams_of_its_own_tunnel_and_of_no_other() {
    let stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    // Another tunnel, whose one proxy takes whatever comes and answers it.
    let digest = pki::Fingerprint::of(b"secret-b");
    let tunnels = std::fs::read_to_string(stand.file("tunnels.yaml")).unwrap();
    let other = format!(
        "- id: tnl_other\n  domain: o.example\n  access: {{{OPEN}}}\n  secrets:\n  - {{id: b, sha256: '{digest}'}}\n"
    );
    stand.replace("tunnels.yaml", &format!("{tunnels}{other}"));
    stand.edge.logs("tunnels taken", 2).await;
    let config = std::fs::read_to_string(stand.file("replica-0.yaml")).unwrap();
    std::fs::write(stand.file("secret-b"), "secret-b").unwrap();
    let config = config.replace(
        &format!("secret_file: {}", stand.file("secret")),
        &format!("secret_file: {}", stand.file("secret-b")),
    );
    // With its own credential it may not be a proxy of the first tunnel.
    let refused = stand.with_config("greedy", &config).await;
    refused.logs("status 401", 1).await;
    drop(refused);
    let own = config.replace("tunnel: tnl_test", "tunnel: tnl_other");
    let other = stand.with_config("other", &own).await;
    other.ready().await;
    stand.links(4).await;
    for _ in 0..20 {
        let mut line = stand.line().await.unwrap();
        assert_eq!(line.get("/mine").await.unwrap().status, 200);
    }
    assert_eq!(
        other.metric("keyward_accepted_total").await,
        0,
        "{}",
        other.page("/metrics").await.unwrap()
    );
    // When the first tunnel's proxies are gone, its callers get nobody.
    let mut stand = stand;
    let mut gone = stand.proxies.remove(0);
    gone.end(rustix::process::Signal::KILL).await;
    stand.links(2).await;
    assert!(stand.line().await.is_err());
    assert_eq!(other.metric("keyward_accepted_total").await, 0);
}
