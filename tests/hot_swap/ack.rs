//! After the ack of a generation, nothing begins or ends on the one before it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use control::{Credential, FromDaemon, FromSubscriber};
use tokio::task::JoinSet;
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::rig::{Answer, Carrier, Hello, Line, Rig, credentials, until};

const BOTH: [Carrier; 2] = [Carrier::Tls, Carrier::WebSocket];

/// F16: a thousand handshakes over all threads, ten swaps among them.
#[tokio::test(flavor = "multi_thread")]
async fn after_an_ack_no_handshake_begins_on_an_earlier_leaf() {
    const SWAPS: u64 = 10;
    const HANDSHAKES: u64 = 1000;
    let mut rig = Rig::start(|setup| setup).await;
    let next: Vec<Credential> = (2..2 + SWAPS).map(|g| rig.issuer.credential(g)).collect();
    // In order of generation, as callers see them.
    let leaves: Arc<Vec<String>> = Arc::new(next.iter().map(credentials::fingerprint).collect());
    let acked = Arc::new(AtomicU64::new(0));
    let made = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for number in 0..8 {
        let (proxy, hello) = (rig.proxy.clone(), Hello::new(&rig.issuer));
        let (leaves, acked, made) = (leaves.clone(), acked.clone(), made.clone());
        let (stop, carrier) = (stop.clone(), BOTH[number % 2]);
        callers.spawn(async move {
            while !stop.load(Ordering::Acquire) {
                let mut line = Line::dial(&proxy, carrier, &hello).await.unwrap();
                let least = acked.load(Ordering::Acquire);
                line.handshake().await.unwrap();
                let leaf = line.leaf();
                let at = leaves.iter().position(|known| *known == leaf);
                let at = at.map_or(0, |at| at as u64 + 1);
                assert!(at >= least, "leaf {at} after the ack of {least}");
                assert_eq!(line.get("/").await.unwrap().status, 200);
                made.fetch_add(1, Ordering::AcqRel);
            }
        });
    }
    for (number, credential) in (1..).zip(&next) {
        assert_eq!(rig.session.offer(credential).await, Answer::Ack);
        acked.store(number, Ordering::Release);
        let goal = HANDSHAKES * number / SWAPS;
        until("handshakes", async || {
            let failed = callers.try_join_next().map(Result::unwrap);
            assert_eq!(failed, None);
            (made.load(Ordering::Acquire) >= goal).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Release);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_that_was_held_back_over_the_ack_gets_the_new_leaf() {
    let mut rig = Rig::start(|setup| setup).await;
    let mut generation = 1;
    for carrier in BOTH {
        for version in [&TLS13, &TLS12] {
            let hello = Hello::version(&rig.issuer, version);
            let mut line = Line::dial(&rig.proxy, carrier, &hello).await.unwrap();
            let bytes = line.pending();
            let (first, second) = bytes.split_at(bytes.len() / 2);
            line.send_raw(first).await.unwrap();
            // Another caller, who comes later and is served: the first half has arrived by then.
            Line::open(&rig.proxy, carrier, &hello).await.unwrap();
            generation += 1;
            let next = rig.issuer.credential(generation);
            assert_eq!(rig.session.offer(&next).await, Answer::Ack);
            line.send_raw(second).await.unwrap();
            line.handshake().await.unwrap();
            assert!(line.is_on(&next), "{carrier:?} {version:?}");
            assert_eq!(line.get("/").await.unwrap().status, 200);
        }
    }
}

/// A line whose client holds the old certificate and everything else that the server says, while the
/// client's own last word is held back.
async fn held_back(rig: &Rig, carrier: Carrier) -> Line {
    let hello = Hello::version(&rig.issuer, &TLS13);
    let mut line = Line::dial(&rig.proxy, carrier, &hello).await.unwrap();
    let bytes = line.pending();
    line.send_raw(&bytes).await.unwrap();
    while !line.is_complete() {
        assert!(line.fill().await.unwrap());
    }
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_was_held_back_over_the_ack_does_not_end() {
    let mut rig = Rig::start(|setup| setup.limit("swap_grace", "300ms")).await;
    let mut generation = 1;
    for retires in [false, true] {
        for carrier in BOTH {
            let mut line = held_back(&rig, carrier).await;
            generation += 1;
            let mut next = rig.issuer.credential(generation);
            next.lowest = if retires { generation } else { 0 };
            assert_eq!(rig.session.offer(&next).await, Answer::Ack);
            let late = line.get("/late").await;
            assert!(late.is_err(), "{carrier:?}: {late:?}");
            let reached = rig.upstream.seen(|seen| seen.ends_with("/late"));
            assert!(reached.is_empty());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_in_time_ends_undisturbed_and_the_ack_waits_for_it() {
    let mut rig = Rig::start(|setup| setup.limit("swap_grace", "50s")).await;
    let mut line = held_back(&rig, Carrier::Tls).await;
    let next = rig.issuer.credential(2);
    rig.session.send(&FromDaemon::Credential(next)).await;
    // A report tells that it is in force; an ack that does not wait would have come first.
    loop {
        match rig.session.next().await {
            FromSubscriber::Report(report) if report.tunnels[0].generation == 2 => break,
            FromSubscriber::Ack(_) => panic!("the ack did not wait"),
            _ => {}
        }
    }
    assert_eq!(line.get("/in-time").await.unwrap().status, 200);
    while !matches!(rig.session.next().await, FromSubscriber::Ack(_)) {}
}

/// F17.
#[tokio::test(flavor = "multi_thread")]
async fn no_session_of_an_earlier_generation_is_resumed() {
    let mut rig = Rig::start(|setup| setup).await;
    let mut generation = 1;
    for version in [&TLS13, &TLS12] {
        for carrier in BOTH {
            let hello = Hello::version(&rig.issuer, version).resuming();
            // What a ticket needs to get here: an answer behind it.
            for resumed in [false, true] {
                let mut line = Line::open(&rig.proxy, carrier, &hello).await.unwrap();
                assert_eq!(line.get("/").await.unwrap().status, 200);
                assert_eq!(line.is_resumed(), resumed, "{version:?} before the swap");
            }
            generation += 1;
            let next = rig.issuer.credential(generation);
            assert_eq!(rig.session.offer(&next).await, Answer::Ack);
            let mut line = Line::open(&rig.proxy, carrier, &hello).await.unwrap();
            assert!(!line.is_resumed(), "{version:?} after the swap");
            assert!(line.is_on(&next));
            assert_eq!(line.get("/").await.unwrap().status, 200);
        }
    }
}
