//! Inner TLS in good order, and HTTP in it that is meant to do harm.

use std::sync::Arc;
use std::time::Duration;

use crate::rig::{Canary, Carrier, HOST, Hello, Line, Proxy, Rig, within};

const BOTH: &[Carrier] = &[Carrier::Tls, Carrier::WebSocket];

struct Stage {
    rig: Rig,
    proxy: Arc<Proxy>,
    hello: Hello,
    canary: Canary,
}

impl Stage {
    async fn new() -> Self {
        Self::with(Rig::start(|setup| setup).await)
    }

    fn with(rig: Rig) -> Self {
        let proxy = rig.proxy.clone();
        let hello = Hello::new(&rig.issuer);
        let canary = Canary::start(&proxy, &hello, BOTH);
        Self {
            rig,
            proxy,
            hello,
            canary,
        }
    }

    async fn line(&self) -> Line {
        Line::open(&self.proxy, Carrier::Tls, &self.hello)
            .await
            .unwrap()
    }

    /// A line that has agreed on HTTP/2 and said so.
    async fn line_two(&self) -> Line {
        let hello = self.hello.clone().alpn(b"h2");
        let mut line = Line::open(&self.proxy, Carrier::Tls, &hello).await.unwrap();
        line.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .await
            .unwrap();
        line.send(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        line
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// RFC 9113 section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET /` in HPACK (RFC 7541): indexed fields and the authority, then `more` as literals.
fn request(more: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = vec![0x82, 0x87, 0x84];
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 0x7f);
        [&[length], text.as_bytes()].concat()
    };
    bytes.push(0x01);
    bytes.extend(text(HOST));
    for (name, value) in more {
        bytes.push(0);
        bytes.extend(text(name));
        bytes.extend(text(value));
    }
    bytes
}

/// The error code of the GOAWAY among the frames in `bytes`.
fn goaway(mut bytes: &[u8]) -> Option<u32> {
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let payload = rest.get(..length)?;
        if head[3] == GOAWAY && payload.len() >= 8 {
            let code = u32::from_be_bytes(payload[4..8].try_into().unwrap());
            // The first one may be the polite announcement.
            if code != 0 {
                return Some(code);
            }
        }
        bytes = &rest[length..];
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_before_the_host_is_not_logged() {
    let stage = Stage::new().await;
    let mut line = stage.line().await;
    let request = format!("GET / HTTP/1.1\r\nHost: user:hidden-word@{HOST}\r\n\r\n");
    line.send(request.as_bytes()).await.unwrap();
    let answer = String::from_utf8(within("the refusal", line.rest()).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    stage.proxy.logs_at_least("request refused", 1).await;
    assert_eq!(stage.proxy.logged("hidden-word"), 0);
    stage.canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_behind_another() {
    /// Of the cases, those that hyper resolves.
    const RESOLVED: usize = 2;
    let stage = Stage::new().await;
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: up.t.example\r\n\r\n";
    let length = hidden.len();
    let chunk = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let both = [
        format!("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {length}\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: xchunked\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n{chunk}{hidden}"),
        format!("Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n\r\n{hidden}"),
        format!("Content-Length: 0, {length}\r\n\r\n{hidden}"),
        format!("Content-Length: +{length}\r\n\r\n{hidden}"),
        format!("Content-Length: 0x{length:x}\r\n\r\n{hidden}"),
        format!("Content-Length: -1\r\n\r\n{hidden}"),
        format!("Content-Length: 99999999999999999999\r\n\r\n{hidden}"),
        format!("Content-Length\u{b}: {length}\r\n\r\n{hidden}"),
        format!("X: y\rContent-Length: {length}\r\n\r\n{hidden}"),
        format!("Host: other.example\r\nContent-Length: 0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0;x=\"\n{hidden}\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}\r\n\r\n"),
        format!("Transfer-Encoding: chunked\r\n\r\n10000000000000001\r\n{hidden}\r\n\r\n"),
    ];
    for (number, text) in both.iter().enumerate() {
        let path = format!("/case-{number}");
        let mut line = stage.line().await;
        let request = format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\n{text}");
        line.send(request.as_bytes()).await.unwrap();
        let rest = within(text, line.rest()).await;
        let answer = String::from_utf8(rest).unwrap();
        let answers = answer.matches("HTTP/1.1 ").count();
        // Refused, and closed behind it: what follows is not even looked at. With both codings the one
        // that counts is clear (RFC 9112 section 6.3), but the connection has to end there too.
        assert!(answers <= 1, "{text:?}: {answer}");
        let refused = !answer.starts_with("HTTP/1.1 2");
        assert!(refused || number < RESOLVED, "{text:?}: {answer}");
        let reached = stage.rig.upstream.seen(|seen| seen.contains("smuggled"));
        assert!(reached.is_empty(), "{text:?}");
    }
    stage.canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_smuggled_out_of_http_2() {
    let stage = Stage::new().await;
    let bad: [&[(&str, &str)]; 6] = [
        &[
            ("content-length", "0"),
            ("x", "y\r\nGET /smuggled HTTP/1.1\r\n"),
        ],
        &[("transfer-encoding", "chunked")],
        &[("connection", "keep-alive")],
        &[("host", "other.example")],
        &[("x\r\ncontent-length", "5")],
        &[(":path", "/smuggled")],
    ];
    for fields in bad {
        let mut line = stage.line_two().await;
        line.send(&frame(HEADERS, END_HEADERS, 1, &request(fields)))
            .await
            .unwrap();
        let hidden = b"GET /smuggled HTTP/1.1\r\nHost: up.t.example\r\n\r\n";
        line.send(&frame(DATA, END_STREAM, 1, hidden))
            .await
            .unwrap();
        // An answer, a reset or a goaway for stream 1.
        let refused = line.read(|inbox| stream_ended(inbox, 1)).await;
        if let Ok(bytes) = refused {
            assert!(!is_success(&bytes, 1), "{fields:?}");
        }
        let reached = stage.rig.upstream.seen(|seen| seen.contains("smuggled"));
        assert!(reached.is_empty(), "{fields:?}");
    }
    // A body that is not as long as was said.
    let mut line = stage.line_two().await;
    let said = request(&[("content-length", "3")]);
    line.send(&frame(HEADERS, END_HEADERS, 1, &said))
        .await
        .unwrap();
    line.send(&frame(DATA, END_STREAM, 1, b"GET /smuggled"))
        .await
        .unwrap();
    if let Ok(bytes) = line.read(|inbox| stream_ended(inbox, 1)).await {
        assert!(!is_success(&bytes, 1));
    }
    stage.canary.finish().await;
}

/// How many bytes it took until `stream` was over, or the connection.
fn stream_ended(bytes: &[u8], stream: u32) -> Option<usize> {
    let mut at = 0;
    loop {
        let head = bytes.get(at..at + 9)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let on = u32::from_be_bytes(head[5..9].try_into().unwrap());
        let end = at + 9 + length;
        bytes.get(..end)?;
        let over = on == stream && (head[3] == RST_STREAM || head[4] & END_STREAM != 0);
        if head[3] == GOAWAY || over {
            return Some(end);
        }
        at = end;
    }
}

/// Whether `stream` was answered with `:status 200`: index 8 of HPACK's static table.
fn is_success(mut bytes: &[u8], stream: u32) -> bool {
    while let Some((head, rest)) = bytes.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let on = u32::from_be_bytes(head[5..9].try_into().unwrap());
        if head[3] == HEADERS && on == stream {
            return rest.first() == Some(&0x88);
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_as_fast_as_they_are_opened_end_their_connection() {
    let stage = Stage::new().await;
    stage.canary.more(4).await;
    let before = stage.proxy.memory();
    let mut line = stage.line_two().await;
    let mut burst = Vec::new();
    for stream in (1..20_000).step_by(2) {
        burst.extend(frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            &request(&[]),
        ));
        burst.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    // The proxy stops reading halfway.
    let _ = within("the burst", line.send(&burst)).await;
    let said = line.rest().await;
    assert_eq!(goaway(&said), Some(ENHANCE_YOUR_CALM));
    let grown = stage.proxy.memory().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
    stage.proxy.logs("http connection refused", 1).await;
    stage.canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused_in_both_versions() {
    let stage = Stage::new().await;
    stage.canary.more(4).await;
    let before = stage.proxy.memory();

    let mut line = stage.line().await;
    let field = format!("X: {}\r\n", "x".repeat(1000));
    let head = format!(
        "GET /huge HTTP/1.1\r\nHost: {HOST}\r\n{}",
        field.repeat(4000)
    );
    let _ = within("the head", line.send(head.as_bytes())).await;
    let answer = String::from_utf8(line.rest().await).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    stage.proxy.logs("http connection refused", 1).await;

    let mut line = stage.line_two().await;
    line.send(&frame(HEADERS, END_STREAM, 1, &request(&[])))
        .await
        .unwrap();
    let part = request(&[("x", &"y".repeat(120))]);
    let flood = frame(CONTINUATION, 0, 1, &part[3..]).repeat(40_000);
    let _ = within("the flood", line.send(&flood)).await;
    let said = line.rest().await;
    assert!(goaway(&said).is_some() || said.len() < 200, "{said:?}");

    let grown = stage.proxy.memory().saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
    let reached = stage.rig.upstream.seen(|seen| seen.contains("huge"));
    assert!(reached.is_empty(), "{reached:?}");
    stage.canary.finish().await;
}

/// A request with `count` fields that come to 4,033 octets of a header list each (RFC 9113 section 6.5.2).
fn long_request(stream: u32, count: usize) -> Vec<u8> {
    let mut block = request(&[]);
    for _ in 0..count {
        // A literal named `x`; its length of 4,000 as RFC 7541 section 5.1 writes it.
        block.extend([0, 1, b'x', 0x7f, 0xa1, 0x1e]);
        block.extend([b'y'; 4000]);
    }
    let mut bytes = Vec::new();
    let parts = block.chunks(16_000);
    let last = parts.len() - 1;
    for (number, part) in parts.enumerate() {
        let (kind, first) = match number {
            0 => (HEADERS, END_STREAM),
            _ => (CONTINUATION, 0),
        };
        let end = if number == last { END_HEADERS } else { 0 };
        bytes.extend(frame(kind, first | end, stream, part));
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_list_beyond_its_limit_is_refused_and_its_connection_goes_on() {
    let stage = Stage::new().await;
    let mut line = stage.line_two().await;
    // 64 KiB: sixteen of the fields and what every request has are below, seventeen are above.
    for (stream, count) in [(1, 16), (3, 17), (5, 16)] {
        line.send(&long_request(stream, count)).await.unwrap();
        let said = line
            .read(|inbox| stream_ended(inbox, stream))
            .await
            .unwrap();
        assert_eq!(is_success(&said, stream), count == 16, "{count}");
    }
    stage.canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_comes_byte_by_byte_runs_out_of_time() {
    let rig = Rig::start(|setup| setup.limit("idle_timeout", "1s")).await;
    let stage = Stage::with(rig);
    let mut line = stage.line().await;
    let ended = within("the end of patience", async {
        loop {
            if line.send(b"G").await.is_err() {
                return;
            }
            let pause = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                more = line.fill() => if !matches!(more, Ok(true)) { return },
                () = pause => {}
            }
        }
    });
    ended.await;
    stage.proxy.logs("no request came in time", 1).await;
    stage.canary.finish().await;
}
