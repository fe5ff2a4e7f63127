//! Connections to an upstream are used again, and one that it closed costs nobody a call.

use process::metrics::Exposition;
use tokio::io::AsyncReadExt;

use super::{GET, OK, Peer, Proxy, Upstream, call, within};

async fn served(proxy: &Proxy, upstream: &Upstream) -> (Peer, Peer) {
    let mut caller = proxy.caller().await;
    caller.write(GET).await;
    let mut peer = upstream.accept().await;
    peer.answer(OK).await;
    caller.until("ok").await;
    (caller, peer)
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other_whoever_asks() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let (mut caller, mut peer) = served(&proxy, &upstream).await;
    let mut other = proxy.caller().await;
    for chunked in [false, true, false] {
        let response = if chunked {
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        } else {
            OK
        };
        for asking in [&mut caller, &mut other] {
            asking.write(GET).await;
            peer.answer(response).await;
            asking.until(if chunked { "0\r\n\r\n" } else { "ok" }).await;
        }
    }
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_call() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "limits: {upstream_idle: 1h}\n").await;
    for _ in 0..20 {
        let (mut caller, peer) = served(&proxy, &upstream).await;
        drop(peer);
        caller.write(&call()).await;
        let mut fresh = upstream.accept().await;
        fresh.head().await;
        fresh.until("}").await;
        fresh
            .write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
            .await;
        assert!(caller.until("ok").await.starts_with("HTTP/1.1 200 OK"));
    }
    // However often a call was begun, it was one.
    let mut page = Exposition::default();
    proxy.forwarder.metrics(&mut page);
    let page = page.finish();
    let calls = "keyward_proxy_requests_total{tunnel=\"\",route=\"docs\"} 40\n";
    assert!(page.contains(calls), "{page}");
}

#[tokio::test]
async fn a_connection_whose_answer_is_not_read_to_its_end_is_not_used_again() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(GET).await;
    let mut peer = upstream.accept().await;
    peer.answer("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        .await;
    caller.until("half").await;
    drop(caller);
    assert_eq!(peer.rest().await, "");
    served(&proxy, &upstream).await;
}

#[tokio::test]
async fn a_connection_on_which_the_upstream_speaks_unasked_is_not_used_again() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let (mut caller, mut peer) = served(&proxy, &upstream).await;
    peer.write("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        .await;
    // The sweep sees it, or the next request does.
    caller.write(GET).await;
    let mut fresh = upstream.accept().await;
    fresh.answer(OK).await;
    assert!(!caller.until("ok").await.contains("evil"));
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_time() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "limits: {upstream_idle: 1s}\n").await;
    let (_caller, mut peer) = served(&proxy, &upstream).await;
    let mut byte = [0];
    assert_eq!(
        within("the idle connection to close", peer.0.read(&mut byte))
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn no_more_idle_connections_are_kept_than_configured() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(
        upstream.addr(),
        "limits: {upstream_idle_connections: 1, upstream_idle: 1h}\n",
    )
    .await;
    let mut pairs = Vec::new();
    for _ in 0..3 {
        let mut caller = proxy.caller().await;
        caller.write(GET).await;
        let mut peer = upstream.accept().await;
        peer.head().await;
        pairs.push((caller, peer));
    }
    for (caller, peer) in &mut pairs {
        peer.write(OK).await;
        caller.until("ok").await;
    }
    within("all connections but one to close", async {
        while pairs.len() > 1 {
            let mut byte = [0];
            pairs.retain(|(_, peer)| !matches!(peer.0.try_read(&mut byte), Ok(0)));
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (mut caller, mut peer) = pairs.remove(0);
    caller.write(GET).await;
    peer.answer(OK).await;
    caller.until("ok").await;
}
