//! Whoever goes away takes the other side along, even while nothing is said.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::AsyncReadExt;

use super::streams::{EVENTS, chunk, streaming};
use super::{GET, Peer, Proxy, Upstream, call, within};

/// The proxy closed its connection to the upstream.
async fn closed(peer: &mut Peer) {
    let mut byte = [0];
    let read = within("the upstream connection to close", peer.0.read(&mut byte)).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_caller_that_leaves_before_the_answer_ends_its_call() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    for request in [GET.to_owned(), call()] {
        let mut caller = proxy.caller().await;
        caller.write(&request).await;
        let mut peer = upstream.accept().await;
        peer.head().await;
        if request != GET {
            peer.until("}").await;
        }
        drop(caller);
        closed(&mut peer).await;
    }
}

#[tokio::test]
async fn a_caller_that_leaves_a_silent_stream_ends_it() {
    let (_proxy, caller, mut peer) = streaming("", EVENTS).await;
    drop(caller);
    closed(&mut peer).await;
}

#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_its_upload_ends_its_call() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller
        .write("POST / HTTP/1.1\r\nHost: docs\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    let mut peer = upstream.accept().await;
    peer.head().await;
    peer.until("abc").await;
    drop(caller);
    closed(&mut peer).await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_both_bodies_are_open_ends_them() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller
        .write("POST / HTTP/1.1\r\nHost: docs\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let mut peer = upstream.accept().await;
    peer.answer(EVENTS).await;
    caller.head().await;
    drop(caller);
    closed(&mut peer).await;
}

#[tokio::test]
async fn a_stream_that_an_http2_caller_resets_ends_upstream_and_leaves_the_others() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut sender = proxy.caller_http2().await;
    let request = || {
        Request::get("https://docs.t.example/")
            .body(Full::new(Bytes::new()))
            .unwrap()
    };
    let mut peers = Vec::new();
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let (response, peer) = tokio::join!(sender.send_request(request()), async {
            let mut peer = upstream.accept().await;
            peer.answer(EVENTS).await;
            peer
        });
        bodies.push(response.unwrap().into_body());
        peers.push(peer);
    }
    drop(bodies.remove(0));
    closed(&mut peers[0]).await;
    // One that has no answer yet.
    let unanswered = sender.send_request(request());
    let mut third = tokio::select! {
        _ = unanswered => panic!("answered by nobody"),
        mut peer = async { upstream.accept().await } => { peer.head().await; peer }
    };
    closed(&mut third).await;
    peers[1].write(&chunk("data: 1\n\n")).await;
    let frame = within("an event", bodies[0].frame())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(frame.into_data().unwrap(), "data: 1\n\n");
}

#[tokio::test]
async fn an_upstream_that_leaves_between_events_ends_the_stream_cleanly() {
    let (_proxy, mut caller, mut peer) = streaming("", EVENTS).await;
    peer.write(&chunk("data: 1\n\n")).await;
    caller.until("data: 1\n\n\r\n").await;
    drop(peer);
    assert_eq!(caller.until("0\r\n\r\n").await, "0\r\n\r\n");
}

#[tokio::test]
async fn an_upstream_that_leaves_inside_a_body_breaks_it_off() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n".to_owned();
    for (head, begun) in [
        (EVENTS.to_owned(), chunk("data: 1\n")),
        (EVENTS.replace("event-stream", "plain"), chunk("x\n\n")),
        (length, "0123456789".to_owned()),
    ] {
        let (_proxy, mut caller, mut peer) = streaming("", &head).await;
        peer.write(&begun).await;
        caller.until(&begun).await;
        drop(peer);
        let rest = caller.rest().await;
        assert_eq!(rest, "", "{head}");
    }
}

#[tokio::test]
async fn an_upstream_that_leaves_inside_a_body_resets_the_http2_stream() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut sender = proxy.caller_http2().await;
    let request = Request::get("https://docs.t.example/")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let (response, mut peer) = tokio::join!(sender.send_request(request), async {
        let mut peer = upstream.accept().await;
        peer.answer(EVENTS).await;
        peer
    });
    let mut body = response.unwrap().into_body();
    peer.write(&chunk("data: 1\n")).await;
    within("half an event", body.frame())
        .await
        .unwrap()
        .unwrap();
    drop(peer);
    assert!(within("its end", body.frame()).await.unwrap().is_err());
}
