//! The fallback leaf: for the time in which those who verify may not know the new CA yet.

use control::{Credential, TunnelReport, Verdicts};

use super::world::{Ca, Caller, Pipes, leaf_sha256, shown};
use crate::credential::Source;

fn with_fallback(new: &Ca, old: &Ca, generation: u64) -> Credential {
    Credential {
        fallback: Some(old.leaf()),
        ca_certificates: vec![new.pem(), old.pem()],
        ..new.credential(generation)
    }
}

#[tokio::test]
async fn it_is_served_after_three_refusals_until_the_first_success_of_the_new_leaf() {
    // Two CAs of one name: the refusal is another alert, and means the same.
    let now = process::Clock::wall(&process::SystemClock);
    let day = std::time::Duration::from_secs(86_400);
    let ca = || Ca::named("tunnel CA", now, 30 * day);
    for (old, new) in [(Ca::new(), Ca::new()), (ca(), ca())] {
        fallback_until_success(&old, &new).await;
    }
}

async fn fallback_until_success(old: &Ca, new: &Ca) {
    let pipes = Pipes::new();
    let credential = with_fallback(new, old, 2);
    pipes.offer(&credential).settled().await;
    let behind = Caller::new(&[old]).connector();
    for _ in 0..3 {
        let (stream, _) = pipes.handshake(&behind).await;
        assert!(stream.is_err(), "the new leaf is not trusted yet");
    }
    let fallback = leaf_sha256(credential.fallback.as_ref().unwrap());
    let (stream, _) = pipes.handshake(&behind).await;
    assert_eq!(shown(&stream.unwrap()), fallback);

    let report = &pipes.credentials.report(&[])[0];
    assert_eq!(report.handshakes[&leaf_sha256(&credential.leaf)], 0);
    assert_eq!(report.handshakes[&fallback], 1);
    let verdict = |accepted, refused| Verdicts { accepted, refused };
    let expected = [(new.sha256(), verdict(0, 3)), (old.sha256(), verdict(1, 0))];
    assert_eq!(report.verdicts, expected.clone().into());

    // The daemon's probe sees the newest leaf whatever happens, and its success ends the fallback.
    let begun = pipes
        .credentials
        .begin(Some("keyward-probe.t.example"))
        .unwrap();
    begun.complete(std::time::Duration::ZERO).unwrap();
    let (stream, _) = pipes.handshake(&Caller::new(&[old, new]).connector()).await;
    assert_eq!(shown(&stream.unwrap()), leaf_sha256(&credential.leaf));

    // Leaves and generations come and go; what callers thought of a CA stays, of the last few.
    let next = with_fallback(new, old, 3);
    pipes.offer(&next).settled().await;
    let verdicts = || pipes.credentials.report(&[])[0].verdicts.clone();
    let expected = [(new.sha256(), verdict(2, 3)), (old.sha256(), verdict(1, 0))];
    assert_eq!(verdicts(), expected.into());
    let later: Vec<Ca> = (0..3).map(|_| Ca::new()).collect();
    for (generation, ca) in (4..).zip(&later) {
        pipes.offer(&ca.credential(generation)).settled().await;
        let (stream, _) = pipes.handshake(&Caller::new(&[ca]).connector()).await;
        assert!(stream.is_ok());
    }
    let known: Vec<String> = verdicts().into_keys().collect();
    assert_eq!(known.len(), TunnelReport::CAS);
    assert!(!known.contains(&new.sha256()), "the one that came first");
}

#[tokio::test]
async fn a_success_of_the_new_leaf_means_that_no_alert_brings_the_fallback() {
    let (old, new, pipes) = (Ca::new(), Ca::new(), Pipes::new());
    let credential = with_fallback(&new, &old, 2);
    pipes.offer(&credential).settled().await;
    pipes
        .handshake(&Caller::new(&[&new]).connector())
        .await
        .1
        .unwrap();
    for _ in 0..5 {
        // Anyone without the CA can send an alert.
        assert!(
            pipes
                .handshake(&Caller::new(&[]).connector())
                .await
                .0
                .is_err()
        );
    }
    let (stream, _) = pipes
        .handshake(&Caller::new(&[&old, &new]).connector())
        .await;
    assert_eq!(shown(&stream.unwrap()), leaf_sha256(&credential.leaf));
}

#[tokio::test]
async fn a_canary_share_is_kept_to_the_handshake() {
    let (old, new, pipes) = (Ca::new(), Ca::new(), Pipes::new());
    let credential = Credential {
        canary_share: Some(25),
        ..with_fallback(&new, &old, 2)
    };
    pipes.offer(&credential).settled().await;
    let caller = Caller::new(&[&old, &new]);
    let mut newest = 0;
    for _ in 0..8 {
        let mut caller = Caller {
            config: caller.config.clone(),
        };
        // A resumed session would show the certificate of the one before.
        caller.config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
        let (stream, _) = pipes.handshake(&caller.connector()).await;
        newest += usize::from(shown(&stream.unwrap()) == leaf_sha256(&credential.leaf));
    }
    assert_eq!(newest, 2);
}

#[tokio::test]
async fn it_is_not_served_when_nothing_earlier_may_be() {
    let (old, new, pipes) = (Ca::new(), Ca::new(), Pipes::new());
    let credential = Credential {
        lowest: 2,
        ..with_fallback(&new, &old, 2)
    };
    pipes.offer(&credential).settled().await;
    let behind = Caller::new(&[&old]).connector();
    for _ in 0..5 {
        assert!(pipes.handshake(&behind).await.0.is_err());
    }
}

#[tokio::test]
async fn a_fallback_that_cannot_be_served_is_refused_and_an_expired_one_left_out() {
    let (old, new, pipes) = (Ca::new(), Ca::new(), Pipes::new());
    let mut credential = with_fallback(&new, &old, 2);
    credential.fallback.as_mut().unwrap().key = old.leaf().key;
    let refused = pipes
        .credentials
        .offer(&credential, Source::Channel)
        .unwrap_err();
    assert_eq!(refused.reason, control::Reason::KeyMismatch);
    let now = process::Clock::wall(&process::SystemClock);
    let second = std::time::Duration::from_secs(1);
    credential.fallback = Some(old.leaf_for(super::world::DOMAIN, now, second));
    pipes.clock.advance(second * 60);
    pipes.offer(&credential);
}

#[tokio::test(start_paused = true)]
async fn an_expired_one_is_not_chosen_and_its_connections_end_while_those_of_the_leaf_stay() {
    let (old, new, pipes) = (Ca::new(), Ca::new(), Pipes::new());
    let now = process::Clock::wall(&process::SystemClock);
    let hour = std::time::Duration::from_secs(3600);
    let mut credential = with_fallback(&new, &old, 2);
    credential.canary_share = Some(0);
    credential.fallback = Some(old.leaf_for(super::world::DOMAIN, now, hour));
    pipes.offer(&credential);
    // The probe is always shown the newest leaf.
    let begin = |name| pipes.credentials.begin(Some(name)).unwrap();
    let complete = |name| begin(name).complete(std::time::Duration::ZERO).unwrap();
    let newest = complete("keyward-probe.t.example");
    let fallback = complete("echo.t.example");
    assert!(!std::sync::Arc::ptr_eq(&newest.ending, &fallback.ending));
    pipes.clock.advance(2 * hour);
    let watch = pipes.credentials.clone().watch_expiry();
    tokio::select! {
        () = watch => panic!("it goes on until the stop"),
        _ = newest.ending.told() => panic!("its certificate is in date"),
        _ = fallback.ending.told() => {}
    }
    let next = complete("echo.t.example");
    assert!(std::sync::Arc::ptr_eq(&newest.ending, &next.ending));
}
