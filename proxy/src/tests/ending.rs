//! Connections that end because their generation does.

use std::time::Duration;

use control::Credential;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;

use super::world::{Ca, Caller, NAME, Proxy, read_rest, read_until, until, within};

#[tokio::test]
async fn raising_lowest_ends_idle_connections_and_leaves_newer_ones() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut old = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut old).await;
    proxy.offer(&ca.credential(2)).settled().await;
    let mut newer = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut newer).await;
    let next = Credential {
        lowest: 2,
        ..ca.credential(3)
    };
    proxy.offer(&next).settled().await;
    assert_eq!(read_rest(&mut old).await, "");
    proxy.ask(&mut newer).await;
    until("the old connection is not counted any more", || {
        let report = &proxy.credentials.report(&[])[0];
        report.connections.keys().eq([&2, &3])
    })
    .await;
}

#[tokio::test]
async fn a_call_in_flight_below_lowest_is_answered_in_its_drain_time() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  drain: 30s\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut upstream, _) = within("the call", proxy.upstream.accept()).await.unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    let next = Credential {
        lowest: 2,
        ..ca.credential(2)
    };
    proxy.offer(&next).settled().await;
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
    upstream.write_all(answer).await.unwrap();
    let text = read_rest(&mut stream).await;
    assert!(
        text.contains("connection: close") && text.ends_with("done"),
        "{text}"
    );
}

#[tokio::test]
async fn a_stream_below_lowest_is_cut_after_its_drain_time() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  drain: 100ms\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    let _upstream = proxy.open_events(&mut stream).await;
    let next = Credential {
        lowest: 2,
        ..ca.credential(2)
    };
    proxy.offer(&next).settled().await;
    let text = read_rest(&mut stream).await;
    assert!(
        text.ends_with("0\r\n\r\n"),
        "the chunked body is terminated: {text:?}"
    );
}

#[tokio::test]
async fn a_connection_ends_with_its_own_certificate_and_not_before() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut first = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut first).await;
    // F15: whatever else is served meanwhile, the leaf of one day is over in two.
    proxy.clock.advance(Duration::from_secs(48 * 3600));
    assert_eq!(read_rest(&mut first).await, "");
    // F35: the clock may be wrong, so whoever still accepts the certificate is served.
    let mut second = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut second).await;
}

#[tokio::test]
async fn an_http2_connection_is_told_to_go_away_and_its_stream_finishes() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let stream = proxy.call(&Caller::new(&[&ca]).http2()).await;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let ended = async { connection.await.unwrap() };
    let request = http::Request::get(format!("https://{NAME}/")).body(Empty::<bytes::Bytes>::new());
    let calls = async {
        let answer = sender.send_request(request.unwrap());
        let proxied = async {
            let (mut upstream, _) = proxy.upstream.accept().await.unwrap();
            read_until(&mut upstream, "\r\n\r\n").await;
            let next = Credential {
                lowest: 2,
                ..ca.credential(2)
            };
            proxy.offer(&next).settled().await;
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
            upstream.write_all(answer).await.unwrap();
            upstream
        };
        let (answer, _upstream) = tokio::join!(answer, proxied);
        let body = answer.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "done");
    };
    within("GOAWAY, and the end", async { tokio::join!(ended, calls) }).await;
}

#[tokio::test]
async fn an_upgraded_connection_is_counted_and_cut_with_its_generation() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  drain: 100ms\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n{upgrade}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut upstream, _) = within("the call", proxy.upstream.accept()).await.unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\nhello");
    upstream.write_all(answer.as_bytes()).await.unwrap();
    read_until(&mut stream, "\r\n\r\nhello").await;
    proxy.offer(&ca.credential(2)).settled().await;
    // HTTP on it has ended, the connection has not: it is still there after a swap.
    stream.write_all(b"ping").await.unwrap();
    read_until(&mut upstream, "ping").await;
    let report = &proxy.credentials.report(&[])[0];
    assert_eq!(report.connections.get(&1), Some(&1));
    let next = Credential {
        lowest: 3,
        ..ca.credential(3)
    };
    proxy.offer(&next).settled().await;
    read_rest(&mut stream).await;
    until("it is not counted any more", || {
        proxy.credentials.report(&[])[0].connections.keys().eq([&3])
    })
    .await;
}
