//! Whoever says nothing, or says it slowly, harms nobody.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::world::{Ca, Caller, Pipes, Proxy, read_rest, until, within};

#[tokio::test]
async fn of_too_many_silent_connections_the_oldest_go_and_a_call_gets_through() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  pending_handshakes: 8\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut silent = Vec::new();
    for port in [proxy.tls, proxy.web] {
        for _ in 0..50 {
            silent.push(TcpStream::connect(port).await.unwrap());
        }
    }
    until("most have been ended", || {
        proxy.telemetry.evicted.get() >= 92
    })
    .await;
    assert_eq!(read_rest(&mut silent[0]).await, "", "the oldest was closed");
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut stream).await;
    // The newest are still waited for.
    let mut byte = [0];
    let newest = tokio::time::timeout(Duration::from_millis(50), silent[99].read(&mut byte));
    assert!(newest.await.is_err());
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_ended() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  handshake_timeout: 200ms\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut silent = TcpStream::connect(proxy.tls).await.unwrap();
    let mut half = TcpStream::connect(proxy.tls).await.unwrap();
    // Half of a TLS record, and half of a request.
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut web = TcpStream::connect(proxy.web).await.unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: ")
        .await
        .unwrap();
    for stream in [&mut silent, &mut half, &mut web] {
        assert_eq!(read_rest(stream).await, "");
    }
}

#[tokio::test]
async fn beyond_the_limit_a_connection_is_refused_and_room_is_made_again() {
    let (ca, proxy) = (Ca::new(), Proxy::with("  connections: 2\n").await);
    proxy.offer(&ca.credential(1)).settled().await;
    let first = proxy.call(&Caller::new(&[&ca])).await;
    let _second = proxy.call(&Caller::new(&[&ca])).await;
    until("two are established", || {
        proxy.telemetry.connections.get() == 2
    })
    .await;
    let mut third = TcpStream::connect(proxy.tls).await.unwrap();
    assert_eq!(read_rest(&mut third).await, "");
    drop(first);
    until("one has gone", || proxy.telemetry.connections.get() == 1).await;
    let mut fourth = proxy.call(&Caller::new(&[&ca])).await;
    proxy.ask(&mut fourth).await;
}

#[tokio::test]
async fn a_failed_handshake_frees_its_place() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1)).settled().await;
    for _ in 0..3 {
        let stranger = Caller::new(&[&Ca::new()]).connector();
        let (_, accepted) = pipes.handshake(&stranger).await;
        let text = accepted.map(drop).unwrap_err().to_string();
        assert_eq!(text, "remote error: tls: unknown certificate authority");
    }
    within(
        "no handshake is left",
        pipes.offer(&ca.credential(2)).settled(),
    )
    .await;
}
