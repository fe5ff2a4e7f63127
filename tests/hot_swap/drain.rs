//! The stop of the real program: what is in flight gets the whole of the limit, not half of it.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::Instant;

use super::streams::open_stream;
use crate::rig::{Carrier, HOST, Hello, Line, Rig, until};

const LIMIT: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn at_sigterm_however_often_a_long_call_ends_well_a_stream_gets_the_whole_limit_and_the_exit_code_is_0()
 {
    let rig = Rig::start(|setup| setup.shutdown_timeout("6s")).await;
    let mut stream = open_stream(&rig, Carrier::Tls).await;
    let hello = Hello::new(&rig.issuer);
    let mut call = Line::open(&rig.proxy, Carrier::WebSocket, &hello)
        .await
        .unwrap();
    let head = format!("POST /long HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbo");
    call.send(head.as_bytes()).await.unwrap();
    until("call and stream upstream", async || {
        let arrived = !rig.upstream.seen(|seen| seen.ends_with("/long")).is_empty();
        (arrived && rig.upstream.streams() == 1).then_some(())
    })
    .await;

    let stopped = Instant::now();
    rig.proxy.signal(Signal::TERM);
    until("the drain", async || {
        let page = rig.proxy.page("/readyz").await?;
        page.contains("draining").then_some(())
    })
    .await;
    let mut number = 0;
    let mut more_than_half = async || {
        number += 1;
        // Managers repeat themselves.
        rig.proxy.signal(Signal::TERM);
        rig.upstream.say(number);
        let event = format!("data: {number}\n\n");
        stream.read_to(&event).await.unwrap();
        (stopped.elapsed() > LIMIT / 2 + LIMIT / 10).then_some(())
    };
    until("more than half of the limit", &mut more_than_half).await;
    call.send(b"dy").await.unwrap();
    let answer = call.answer().await.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "ok"));
    // The stream goes on when the call is over.
    more_than_half().await;
    // It ends at the limit, with the clean terminator of RFC 9112 section 7.1.
    let rest = String::from_utf8(stream.rest().await).unwrap();
    assert!(stopped.elapsed() >= LIMIT, "{:?}", stopped.elapsed());
    assert_eq!(rest.trim_start_matches("\r\n"), "0\r\n\r\n");
    let proxy = Arc::into_inner(rig.proxy).expect("nobody else has it");
    assert_eq!(proxy.ended().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigint_ends_the_drain_at_once() {
    let rig = Rig::start(|setup| setup.shutdown_timeout("1h")).await;
    let mut stream = open_stream(&rig, Carrier::Tls).await;
    rig.proxy.signal(Signal::INT);
    until("the drain", async || {
        let page = rig.proxy.page("/readyz").await?;
        page.contains("draining").then_some(())
    })
    .await;
    // As a supervisor in the same terminal passes it on: no second SIGINT.
    rig.proxy.signal(Signal::TERM);
    for number in 0..20 {
        rig.upstream.say(number);
        stream
            .read_to(&format!("data: {number}\n\n"))
            .await
            .unwrap();
    }
    rig.proxy.signal(Signal::INT);
    stream.rest().await;
    let proxy = Arc::into_inner(rig.proxy).expect("nobody else has it");
    assert_eq!(proxy.ended().await.code(), Some(70));
}
