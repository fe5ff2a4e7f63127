//! Bodies pass as they come, in both directions, in every framing.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};

use super::{GET, OK, Peer, Proxy, Upstream, call, values, within};

pub(super) const EVENTS: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

pub(super) fn chunk(text: &str) -> String {
    format!("{:X}\r\n{text}\r\n", text.len())
}

/// A caller and an upstream in the middle of an event stream.
pub(super) async fn streaming(more: &str, head: &str) -> (Proxy, Peer, Peer) {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), more).await;
    let mut caller = proxy.caller().await;
    caller.write(GET).await;
    let mut peer = upstream.accept().await;
    peer.answer(head).await;
    caller.head().await;
    (proxy, caller, peer)
}

#[tokio::test]
async fn each_event_goes_out_before_the_next_comes_in() {
    let (_proxy, mut caller, mut peer) = streaming("", EVENTS).await;
    for number in 0..3 {
        let event = format!("data: {number}\n\n");
        peer.write(&chunk(&event)).await;
        assert_eq!(caller.until("\n\n\r\n").await, chunk(&event));
    }
    peer.write("0\r\n\r\n").await;
    assert_eq!(caller.until("0\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn each_event_goes_out_before_the_next_comes_in_with_http2() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut sender = proxy.caller_http2().await;
    let request = Request::get("https://docs.t.example/")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request);
    let (response, mut peer) = tokio::join!(within("a head", response), async {
        let mut peer = upstream.accept().await;
        peer.answer(EVENTS).await;
        peer
    });
    let mut body = response.unwrap().into_body();
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        peer.write(&chunk(event)).await;
        let frame = within("an event", body.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), event);
    }
}

#[tokio::test]
async fn a_request_body_reaches_the_upstream_chunk_by_chunk() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller
        .write("POST / HTTP/1.1\r\nHost: docs\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut peer = upstream.accept().await;
    peer.head().await;
    for text in ["one", "two", "three"] {
        caller.write(&chunk(text)).await;
        assert_eq!(peer.until(&format!("{text}\r\n")).await, chunk(text));
    }
    caller.write("0\r\n\r\n").await;
    assert_eq!(peer.until("0\r\n\r\n").await, "0\r\n\r\n");
    peer.write(OK).await;
    caller.until("ok").await;
}

#[tokio::test]
async fn an_upstream_may_answer_while_the_request_still_comes() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller
        .write("POST / HTTP/1.1\r\nHost: docs\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut peer = upstream.accept().await;
    peer.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    caller.head().await;
    for text in ["ping", "pong", "ping again"] {
        caller.write(&chunk(text)).await;
        let echo = peer.until(&format!("{text}\r\n")).await;
        peer.write(&echo).await;
        assert_eq!(caller.until(&format!("{text}\r\n")).await, chunk(text));
    }
    caller.write("0\r\n\r\n").await;
    peer.until("0\r\n\r\n").await;
    peer.write("0\r\n\r\n").await;
    assert_eq!(caller.until("0\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn an_upload_goes_on_while_the_caller_does_not_read_its_answer() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    let size = 32 << 20;
    caller
        .write(&format!(
            "POST / HTTP/1.1\r\nHost: docs\r\nContent-Length: {size}\r\n\r\n"
        ))
        .await;
    let mut peer = upstream.accept().await;
    peer.answer(&format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"
    ))
    .await;
    caller.head().await;
    let piece = "x".repeat(1 << 20);
    let (mut up_read, mut up_write) = peer.0.split();
    let (mut down_read, mut down_write) = caller.0.split();
    // The answer is written and nobody reads it, until the whole upload has arrived.
    let answer = async {
        use tokio::io::AsyncWriteExt;
        for _ in 0..size >> 20 {
            up_write.write_all(piece.as_bytes()).await.unwrap();
        }
    };
    let upload = async {
        use tokio::io::AsyncWriteExt;
        for _ in 0..size >> 20 {
            down_write.write_all(piece.as_bytes()).await.unwrap();
        }
    };
    let receive = async {
        drain(&mut up_read, size).await;
        drain(&mut down_read, size).await;
    };
    within("both bodies", async {
        tokio::join!(answer, upload, receive)
    })
    .await;
}

async fn drain(reader: &mut (impl tokio::io::AsyncRead + Unpin), size: usize) {
    use tokio::io::AsyncReadExt;
    let copied = tokio::io::copy(&mut reader.take(size as u64), &mut tokio::io::sink()).await;
    assert_eq!(copied.unwrap(), size as u64);
}

#[tokio::test]
async fn large_bodies_arrive_whole_in_both_directions() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let body: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let request = Request::post("https://docs.t.example/")
        .body(Full::new(Bytes::from(body.clone())))
        .unwrap();
    let mut sender = proxy.caller_http2().await;
    let answered = async {
        let response = within("an answer", sender.send_request(request))
            .await
            .unwrap();
        within("its body", response.into_body().collect())
            .await
            .unwrap()
            .to_bytes()
    };
    let echoed = async {
        let mut peer = upstream.accept().await;
        assert_eq!(
            values(&peer.head().await, "content-length"),
            [body.len().to_string()]
        );
        let mut got = vec![0; body.len()];
        peer.0.read_exact(&mut got).await.unwrap();
        peer.write(&format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            got.len()
        ))
        .await;
        peer.0.write_all(&got).await.unwrap();
        got
    };
    let (answer, seen) = tokio::join!(answered, echoed);
    assert!(seen == body && answer == body);
}

#[tokio::test]
async fn answers_without_a_body_keep_their_heads() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    let mut peer: Option<Peer> = None;
    for (method, response, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            vec!["1234"],
        ),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            vec![],
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", vec![]),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
            vec![],
        ),
        (
            "POST",
            "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n",
            vec!["0"],
        ),
    ] {
        caller
            .write(&format!("{method} / HTTP/1.1\r\nHost: docs\r\n\r\n"))
            .await;
        let peer = match &mut peer {
            Some(peer) => peer,
            none => none.insert(upstream.accept().await),
        };
        peer.answer(response).await;
        let head = caller.head().await;
        assert!(
            head.starts_with(response.split("\r\n").next().unwrap()),
            "{head}"
        );
        assert_eq!(values(&head, "content-length"), length, "{head}");
    }
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_is_passed_on() {
    for version in ["HTTP/1.0", "HTTP/1.1"] {
        let upstream = Upstream::bind().await;
        let proxy = Proxy::to(upstream.addr(), "").await;
        let mut caller = proxy.caller().await;
        caller.write(GET).await;
        let mut peer = upstream.accept().await;
        peer.answer(&format!("{version} 200 OK\r\n\r\nhello")).await;
        drop(peer);
        assert!(caller.head().await.starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(caller.until("0\r\n\r\n").await.contains("hello"));
    }
}

#[tokio::test]
async fn trailers_pass() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut sender = proxy.caller_http2().await;
    let request = Request::get("https://docs.t.example/").header(header::TE, "trailers");
    let request = request.body(Full::new(Bytes::new())).unwrap();
    let answered = async {
        let response = within("an answer", sender.send_request(request))
            .await
            .unwrap();
        within("its body", response.into_body().collect())
            .await
            .unwrap()
    };
    let (answer, seen) = tokio::join!(answered, async {
        let response = "HTTP/1.1 200 OK\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n";
        upstream.accept().await.answer(response).await
    });
    assert_eq!(values(&seen, "te"), ["trailers"]);
    assert_eq!(answer.trailers().unwrap().get("x-sum").unwrap(), "7");
}

#[tokio::test]
async fn a_caller_that_waits_for_100_is_told_to_continue() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller
        .write("POST / HTTP/1.1\r\nHost: docs\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(caller.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    caller.write("hi").await;
    let mut peer = upstream.accept().await;
    peer.head().await;
    peer.write("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(peer.until("hi").await, "hi");
    peer.write(OK).await;
    assert!(caller.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"));
}

const SHORT_IDLE: &str = "limits: {idle_comment: 20ms}\n";

#[tokio::test]
async fn a_silent_event_stream_gets_comments() {
    let (_proxy, mut caller, mut peer) = streaming(SHORT_IDLE, EVENTS).await;
    assert_eq!(caller.until(":\n\r\n").await, chunk(":\n"));
    peer.write(&chunk("data: 1\r\n")).await;
    let got = caller.until("data: 1\r\n\r\n").await;
    assert!(
        got.starts_with("2\r\n:\n\r\n") || got == chunk("data: 1\r\n"),
        "{got:?}"
    );
    assert_eq!(caller.until(":\n\r\n").await, chunk(":\n"));
}

#[tokio::test]
async fn no_comment_goes_into_a_line_a_coding_or_a_length() {
    for (head, begun) in [
        (EVENTS.to_owned(), chunk("data: 1")),
        (EVENTS.to_owned(), chunk("data: 1\r")),
        (
            EVENTS.replace("Transfer", "Content-Encoding: gzip\r\nTransfer"),
            chunk("x\n"),
        ),
        (EVENTS.replace("event-stream", "plain"), chunk("x\n")),
        (
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 20\r\n\r\n"
                .to_owned(),
            "x\n".to_owned(),
        ),
    ] {
        let (_proxy, mut caller, mut peer) = streaming(SHORT_IDLE, &head).await;
        peer.write(&begun).await;
        caller.until(&begun).await;
        // Several times the interval, in which a second stream gets its comment.
        let (_second, mut other, _peer) =
            streaming("limits: {idle_comment: 100ms}\n", EVENTS).await;
        other.until(":\n\r\n").await;
        drop(peer);
        let rest = caller.rest().await;
        assert!(!rest.contains(":\n"), "{head:?} {rest:?}");
    }
}

#[tokio::test]
async fn an_answer_to_a_call_is_passed_on_in_one_piece() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(&call()).await;
    let mut peer = upstream.accept().await;
    peer.head().await;
    peer.until("}").await;
    peer.write(OK).await;
    assert_eq!(values(&caller.head().await, "content-length"), ["2"]);
    assert_eq!(caller.until("ok").await, "ok");
}
