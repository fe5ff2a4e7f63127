//! Whoever reaches a listener and sends what no connector would send.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_websockets::{ClientBuilder, CloseCode, Message};

use crate::rig::line::{connect, find};
use crate::rig::{Canary, Carrier, HOST, Hello, Line, Proxy, Rig, until, within};

const BOTH: &[Carrier] = &[Carrier::Tls, Carrier::WebSocket];
const TOO_LONG: &str = "the handshake took too long";

/// Reads to the end, which the proxy has to bring about, and gives what came before it.
async fn ended(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within("the end of the connection", stream.read_to_end(&mut bytes)).await;
    bytes
}

/// Sends `bytes` one by one until the proxy has had enough.
async fn dribble(stream: &mut TcpStream, bytes: &[u8]) {
    within("the end of patience", async {
        let mut answer = [0; 1];
        for byte in bytes.iter().cycle() {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::select! {
                // Answered or ended.
                _ = stream.read(&mut answer) => return,
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
    })
    .await;
}

/// A `ClientHello`.
async fn client_hello(proxy: &Proxy, hello: &Hello) -> Vec<u8> {
    let mut line = Line::dial(proxy, Carrier::Tls, hello).await.unwrap();
    line.pending()
}

/// Waits until `count` handshakes were counted as failed.
async fn failed(proxy: &Proxy, count: u64) {
    until("the failures", async || {
        let failed = proxy.metric("keyward_handshake_alerts_total").await;
        (failed >= count).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_frame_is_refused_before_and_after_the_handshake_and_many_are_told_once() {
    let rig = Rig::start(|setup| setup).await;
    let (proxy, hello) = (rig.proxy, Hello::new(&rig.issuer));
    let canary = Canary::start(&proxy, &hello, BOTH);
    let uri: http::Uri = format!("ws://{HOST}/").parse().unwrap();

    let tcp = connect(proxy.web).await.unwrap();
    let builder = ClientBuilder::from_uri(uri.clone());
    let (mut web, _) = builder.connect_on(tcp).await.unwrap();
    web.send(Message::text("hello")).await.unwrap();
    let answer = within("a close", web.next()).await.unwrap().unwrap();
    assert_eq!(
        answer.as_close().unwrap().0,
        CloseCode::UNSUPPORTED_DATA,
        "{answer:?}"
    );
    proxy.logs("a WebSocket text frame", 1).await;
    // Many more of it are no more lines.
    for _ in 0..50 {
        let tcp = connect(proxy.web).await.unwrap();
        let builder = ClientBuilder::from_uri(uri.clone());
        let (mut web, _) = builder.connect_on(tcp).await.unwrap();
        web.send(Message::text("hello")).await.unwrap();
        within("a close", web.next()).await.unwrap().unwrap();
    }
    let mut line = Line::open(&proxy, Carrier::WebSocket, &hello)
        .await
        .unwrap();
    line.get("/before").await.unwrap();
    line.send_text("hello").await;
    line.rest().await;
    assert_eq!(line.closed, Some(CloseCode::UNSUPPORTED_DATA));
    canary.finish().await;
    proxy.logs("a WebSocket text frame", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_record_and_a_handshake_byte_by_byte_run_out_of_time() {
    let rig = Rig::start(|setup| setup.limit("handshake_timeout", "1s")).await;
    let (proxy, hello) = (rig.proxy, Hello::new(&rig.issuer));
    let canary = Canary::start(&proxy, &hello, BOTH);
    let bytes = client_hello(&proxy, &hello).await;
    let half = async {
        let mut tcp = connect(proxy.tls).await.unwrap();
        tcp.write_all(&bytes[..bytes.len() / 2]).await.unwrap();
        ended(&mut tcp).await;
    };
    let framed = async {
        let mut line = Line::dial(&proxy, Carrier::WebSocket, &hello)
            .await
            .unwrap();
        line.send_raw(&bytes[..bytes.len() / 2]).await.unwrap();
        line.rest().await;
    };
    let slow = async {
        let mut tcp = connect(proxy.tls).await.unwrap();
        dribble(&mut tcp, &bytes).await;
    };
    let slow_upgrade = async {
        let mut tcp = connect(proxy.web).await.unwrap();
        dribble(&mut tcp, b"GET / HTTP/1.1\r\nHost: up.t.example\r\nX: ").await;
    };
    let silent = async {
        let mut tcp = connect(proxy.web).await.unwrap();
        assert!(ended(&mut tcp).await.is_empty());
    };
    tokio::join!(half, framed, slow, slow_upgrade, silent);
    proxy.logs(TOO_LONG, 1).await;
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_no_tls_and_no_websocket_is_refused_at_once() {
    let rig = Rig::start(|setup| setup).await;
    let (proxy, hello) = (rig.proxy, Hello::new(&rig.issuer));
    let canary = Canary::start(&proxy, &hello, BOTH);
    let alert = |bytes: &[u8]| bytes.first() == Some(&21);

    let mut tcp = connect(proxy.tls).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let answer = ended(&mut tcp).await;
    assert!(answer.is_empty() || alert(&answer), "{answer:?}");

    // A record of more than a record may have.
    let mut tcp = connect(proxy.tls).await.unwrap();
    tcp.write_all(&[22, 3, 1, 0xff, 0xff]).await.unwrap();
    let answer = ended(&mut tcp).await;
    assert!(answer.is_empty() || alert(&answer), "{answer:?}");
    failed(&proxy, 2).await;
    // Once for both: of one kind a line a minute says how many there were.
    proxy.logs("tls handshake failed", 1).await;

    // `curl https://` against the plaintext WebSocket listener.
    let mut tcp = connect(proxy.web).await.unwrap();
    tcp.write_all(&client_hello(&proxy, &hello).await)
        .await
        .unwrap();
    let answer = ended(&mut tcp).await;
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_a_huge_head_is_refused() {
    let rig = Rig::start(|setup| setup).await;
    let proxy = rig.proxy;
    let canary = Canary::start(&proxy, &Hello::new(&rig.issuer), BOTH);
    let before = proxy.memory();
    let fields: [fn(usize) -> String; 2] = [
        |n| format!("X-{n}: {}\r\n", "x".repeat(60)),
        |_| "x".repeat(100),
    ];
    for field in fields {
        let mut tcp = connect(proxy.web).await.unwrap();
        let mut head =
            "GET / HTTP/1.1\r\nHost: up.t.example\r\nUpgrade: websocket\r\nX: ".to_owned();
        for number in 0..200_000 {
            head.push_str(&field(number));
        }
        // Nobody reads it to the end.
        let (mut read, mut write) = tcp.split();
        let mut answer = Vec::new();
        let (_, _) = within("a refusal", async {
            tokio::join!(
                write.write_all(head.as_bytes()),
                read.read_to_end(&mut answer)
            )
        })
        .await;
        assert!(
            answer.is_empty() || find(&answer, b"HTTP/1.1 431").is_some(),
            "{answer:?}"
        );
    }
    let grown = proxy.memory().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB");
    failed(&proxy, 2).await;
    proxy.logs("tls handshake failed", 1).await;
    canary.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_garbled_proxy_header_is_refused_at_once() {
    let rig = Rig::start(|setup| setup.proxy_protocol().limit("handshake_timeout", "1s")).await;
    let (proxy, hello) = (rig.proxy, Hello::new(&rig.issuer));
    let canary = Canary::start(&proxy, &hello, &[Carrier::WebSocket]);
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    let with = |rest: &[u8]| [signature.as_slice(), rest].concat();
    let bad = [
        client_hello(&proxy, &hello).await,
        b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n".to_vec(),
        with(&[0x21, 0x11, 0xff, 0xff]),
        with(&[0x31, 0x11, 0, 0]),
        with(&[0x21, 0x11, 0, 2, 1, 2]),
    ];
    for bytes in &bad {
        let mut tcp = connect(proxy.tls).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        assert!(ended(&mut tcp).await.is_empty(), "{bytes:?}");
    }
    failed(&proxy, 5).await;
    proxy.logs("PROXY protocol v2 header", 1).await;
    // One that is cut waits for the rest, but not for ever.
    let mut tcp = connect(proxy.tls).await.unwrap();
    tcp.write_all(&with(&[0x21, 0x11, 0, 12, 1])).await.unwrap();
    assert!(ended(&mut tcp).await.is_empty());
    proxy.logs(TOO_LONG, 1).await;
    canary.finish().await;

    // And one that is as it should be lets its connection in.
    let mut line = Line::dial(&proxy, Carrier::Tls, &hello).await.unwrap();
    let address = Bytes::from_static(&[192, 0, 2, 7, 127, 0, 0, 1, 0x1f, 0x90, 1, 0xbb]);
    let header = with(&[&[0x21, 0x11, 0, 12], address.as_ref()].concat());
    line.send_raw(&header).await.unwrap();
    line.handshake().await.unwrap();
    assert_eq!(line.get("/").await.unwrap().status, 200);
}
