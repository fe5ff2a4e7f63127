//! What was opened under a generation goes on under later ones, and ends when it may not.

use std::sync::Arc;

use control::Credential;
use tokio_websockets::CloseCode;

use crate::rig::{Answer, Carrier, HOST, Hello, Line, Rig, Upstream, until};

/// An event stream through the proxy.
pub(super) async fn open_stream(rig: &Rig, carrier: Carrier) -> Line {
    let hello = Hello::new(&rig.issuer);
    let mut line = Line::open(&rig.proxy, carrier, &hello).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    line.send(request.as_bytes()).await.unwrap();
    line.read_to("\r\n\r\n").await.unwrap();
    line
}

/// Each of `lines` gets the event `number`, now.
async fn hear(upstream: &Upstream, lines: &mut [Line], number: u64) {
    upstream.say(number);
    for line in lines {
        let text = line.read_to(&format!("data: {number}\n\n")).await.unwrap();
        assert_eq!(text.matches("data:").count(), 1, "{text:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_through_ten_swaps_and_ends_when_it_falls_below_lowest() {
    let mut rig = Rig::start(|setup| setup.limit("drain", "100ms")).await;
    let mut lines = [
        open_stream(&rig, Carrier::Tls).await,
        open_stream(&rig, Carrier::WebSocket).await,
    ];
    until("the streams", async || {
        (rig.upstream.streams() == 2).then_some(())
    })
    .await;
    hear(&rig.upstream, &mut lines, 1).await;
    for generation in 2..=11 {
        let mut next = rig.issuer.credential(generation);
        // Their own generation is the lowest that is allowed.
        next.lowest = 1;
        assert_eq!(rig.session.offer(&next).await, Answer::Ack);
        hear(&rig.upstream, &mut lines, generation).await;
    }
    let mut last = rig.issuer.credential(12);
    last.lowest = 2;
    assert_eq!(rig.session.offer(&last).await, Answer::Ack);
    for line in &mut lines {
        let rest = String::from_utf8(line.rest().await).unwrap();
        // The clean terminator of RFC 9112 section 7.1, and nothing cut in half.
        assert_eq!(rest.trim_start_matches("\r\n"), "0\r\n\r\n");
    }
    assert_eq!(lines[1].closed, Some(CloseCode::GOING_AWAY));
    until("their end upstream", async || {
        (rig.upstream.streams() == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_below_lowest_gets_its_answer() {
    let mut rig = Rig::start(|setup| setup).await;
    let hello = Hello::new(&rig.issuer);
    for (generation, carrier) in [(2, Carrier::Tls), (3, Carrier::WebSocket)] {
        let mut line = Line::open(&rig.proxy, carrier, &hello).await.unwrap();
        let head =
            format!("POST /{generation} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\nbo");
        line.send(head.as_bytes()).await.unwrap();
        until("the call upstream", async || {
            let path = format!("/{generation}");
            (!rig.upstream.seen(|seen| seen.ends_with(&path)).is_empty()).then_some(())
        })
        .await;
        retire(&mut rig, generation).await;
        line.send(b"dy").await.unwrap();
        let answer = line.answer().await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, "ok");
        let head = answer.head.to_ascii_lowercase();
        assert!(head.contains("connection: close"), "{head}");
        assert!(line.rest().await.is_empty());
    }
}

async fn retire(rig: &mut Rig, generation: u64) -> Arc<Credential> {
    let mut next = rig.issuer.credential(generation);
    next.lowest = generation;
    assert_eq!(rig.session.offer(&next).await, Answer::Ack);
    Arc::new(next)
}
