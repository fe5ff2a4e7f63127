//! The proxy's own word about its credential is about the one that a caller gets (F14).

use std::time::{Duration, SystemTime};

use crate::rig::{Answer, Carrier, Hello, Line, Rig, credentials};

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_of_the_leaf_that_a_handshake_gets_before_and_after_a_swap() {
    let mut rig = Rig::start(|setup| setup).await;
    let before = check(&rig, 1).await;
    let pair = rig.issuer.pair_for(Duration::from_secs(3600));
    let next = rig.issuer.of(2, &pair);
    assert_eq!(rig.session.offer(&next).await, Answer::Ack);
    assert!(check(&rig, 2).await < before, "the second one ends sooner");
}

/// Compares the metrics with the leaf of a handshake; gives its end in Unix seconds.
async fn check(rig: &Rig, generation: u64) -> u64 {
    let hello = Hello::new(&rig.issuer);
    let line = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
    let not_after = line.not_after();
    let earliest = unix(credentials::now());
    let left = rig.proxy.metric("keyward_cred_expiry_seconds").await;
    let latest = unix(credentials::now());
    // What is left is rounded down.
    let between = not_after - latest - 1..=not_after - earliest;
    assert!(between.contains(&left), "{left} is not in {between:?}");
    let served = rig.proxy.metric("keyward_cred_generation").await;
    assert_eq!(served, generation);
    not_after
}

fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}
