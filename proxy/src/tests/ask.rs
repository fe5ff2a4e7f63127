//! Whole calls through the carrier `tls`: what a caller sends reaches the upstream, and the answer it.

use tokio::io::AsyncWriteExt;

use super::world::{Ca, Caller, NAME, Proxy, read_rest, read_until, within};

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
