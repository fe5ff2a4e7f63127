//! Whole calls through the carrier `tls`: what a caller sends reaches the upstream, and the answer it.

use tokio::io::AsyncWriteExt;

use process::{Clock, Tasks};

use super::world::{Ca, Caller, NAME, Proxy, read_rest, read_until, within};
use crate::carrier::Up;
use crate::config::HealthListener;
use crate::health;

#[tokio::test]
async fn a_call_goes_through_and_its_connection_outlives_a_swap() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    for generation in 2..5 {
        proxy.ask(&mut stream).await;
        proxy.offer(&ca.credential(generation)).settled().await;
    }
    proxy.ask(&mut stream).await;
    let report = &proxy.credentials.report(&[])[0];
    assert_eq!((report.generation, &report.connections[&1]), (4, &1));
}

#[tokio::test]
async fn a_stop_lets_a_call_in_flight_finish_and_ends_its_connection() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut upstream, _) = within("the call", proxy.upstream.accept()).await.unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    proxy.tasks.stop();
    proxy.credentials.end_all(crate::credential::Why::Stopping);
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone";
    upstream.write_all(answer).await.unwrap();
    let text = read_rest(&mut stream).await;
    assert!(text.ends_with("\r\n\r\ndone"), "{text}");
    assert!(text.contains("connection: close"), "{text}");
    let drained = proxy.tasks.drain(super::world::SOON).await;
    assert_eq!(drained, process::Drained::Clean);
}

#[tokio::test]
async fn a_stream_that_outlasts_the_shutdown_ends_cleanly_at_the_cut() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    proxy.offer(&ca.credential(1)).settled().await;
    let mut stream = proxy.call(&Caller::new(&[&ca])).await;
    let _upstream = proxy.open_events(&mut stream).await;
    proxy.tasks.stop();
    proxy.credentials.end_all(crate::credential::Why::Stopping);
    proxy.cut.cancel();
    let text = read_rest(&mut stream).await;
    assert!(
        text.ends_with("0\r\n\r\n"),
        "the chunked body is terminated: {text:?}"
    );
}

#[tokio::test]
async fn the_health_command_fails_with_the_reason_until_there_is_a_credential() {
    let (ca, proxy) = (Ca::new(), Proxy::start().await);
    // Bound and let go again, so that the listener's own address is known.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let clock: std::sync::Arc<dyn Clock> = proxy.clock.clone();
    let carriers = Up {
        addresses: Vec::new(),
        listening: vec!["tls".to_owned()],
        edge: None,
    };
    let telemetry = proxy.telemetry.clone();
    let tasks = proxy.tasks.clone();
    let (credentials, forwarder) = (&proxy.credentials, &proxy.forwarder);
    let page = health::page(credentials, forwarder, telemetry, clock, tasks, carriers);
    let probed = Tasks::new();
    let explicit = true;
    let listener = HealthListener { addr, explicit };
    health::serve(page, listener, &probed).unwrap();
    let failure = health::probe(addr).await.unwrap_err();
    assert_eq!(failure.exit(), process::Exit::Unavailable);
    assert!(
        failure.to_string().contains("no credential yet"),
        "{failure}"
    );
    proxy.offer(&ca.credential(1)).settled().await;
    health::probe(addr).await.unwrap();
    // Who drains says so, until the end.
    proxy.tasks.stop();
    let failure = health::probe(addr).await.unwrap_err();
    assert!(failure.to_string().contains("draining"), "{failure}");
    probed.stop();
}
