//! A caller and an upstream that change their protocol are left to themselves.

use super::{OK, Peer, Proxy, Upstream, values};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: docs\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

async fn upgraded(early: &str) -> (Proxy, Peer, Peer) {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(ASK).await;
    let mut peer = upstream.accept().await;
    let seen = peer.answer(&format!("{SWITCH}{early}")).await;
    assert_eq!(values(&seen, "upgrade"), ["websocket"]);
    assert_eq!(values(&seen, "connection"), ["upgrade"]);
    assert_eq!(
        values(&seen, "sec-websocket-key"),
        ["dGhlIHNhbXBsZSBub25jZQ=="]
    );
    let got = caller.head().await;
    assert!(
        got.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{got}"
    );
    assert_eq!(values(&got, "upgrade"), ["websocket"]);
    assert_eq!(values(&got, "connection"), ["upgrade"]);
    assert_eq!(
        values(&got, "sec-websocket-accept"),
        ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]
    );
    (proxy, caller, peer)
}

#[tokio::test]
async fn bytes_pass_both_ways_after_an_upgrade() {
    let (_proxy, mut caller, mut peer) = upgraded("early").await;
    assert_eq!(caller.until("early").await, "early");
    for text in ["one", "two"] {
        caller.write(text).await;
        assert_eq!(peer.until(text).await, text);
        peer.write(text).await;
        assert_eq!(caller.until(text).await, text);
    }
    drop(caller);
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_upstream_and_with_its_time() {
    let (_proxy, mut caller, peer) = upgraded("").await;
    drop(peer);
    assert_eq!(caller.rest().await, "");
    let (proxy, mut caller, mut peer) = upgraded("").await;
    proxy.cut.cancel();
    assert_eq!(caller.rest().await, "");
    assert_eq!(peer.rest().await, "");
}

#[tokio::test]
async fn an_upstream_may_decline_an_upgrade() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(ASK).await;
    let mut peer = upstream.accept().await;
    peer.answer(OK).await;
    caller.until("ok").await;
    caller.write(ASK).await;
    peer.answer(OK).await;
    caller.until("ok").await;
}

#[tokio::test]
async fn a_change_to_http2_is_not_passed_on() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write("GET / HTTP/1.1\r\nHost: docs\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n").await;
    let seen = upstream.accept().await.answer(OK).await;
    for name in ["upgrade", "connection", "http2-settings"] {
        assert!(values(&seen, name).is_empty(), "{seen}");
    }
    caller.until("ok").await;
}

#[tokio::test]
async fn a_change_of_protocol_that_nobody_asked_for_is_no_answer() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(super::GET).await;
    upstream.accept().await.answer(SWITCH).await;
    assert!(caller.head().await.starts_with("HTTP/1.1 503 "));
}
