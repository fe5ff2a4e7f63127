//! What a swap promises: `architecture.md`, *Control channel*.

use std::time::Duration;

use control::{Credential, Leaf, Reason};
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::rustls;

use super::world::{Accepted, Ca, Caller, Pipes, TLS12, TLS13, leaf_sha256, shown, within};
use crate::credential::Source;
use crate::handshake::HandshakeError;

#[tokio::test]
async fn no_session_is_resumed_across_a_swap() {
    for versions in [TLS12, TLS13] {
        let (ca, pipes) = (Ca::new(), Pipes::new());
        let caller = Caller::speaking(&[&ca], versions, None).connector();
        let (first, second) = (ca.credential(1), ca.credential(2));
        pipes.offer(&first).settled().await;
        let mut seen = Vec::new();
        for publish in [None, None, Some(&second), None] {
            if let Some(credential) = publish {
                pipes.offer(credential).settled().await;
            }
            let (stream, accepted) = pipes.handshake(&caller).await;
            accepted.expect("it is accepted");
            let stream = stream.expect("it is completed");
            seen.push((stream.get_ref().1.handshake_kind().unwrap(), shown(&stream)));
        }
        let (old, new) = (leaf_sha256(&first.leaf), leaf_sha256(&second.leaf));
        let expected = [
            (HandshakeKind::Full, old.clone()),
            // Without this line the next one would prove nothing.
            (HandshakeKind::Resumed, old),
            (HandshakeKind::Full, new.clone()),
            (HandshakeKind::Resumed, new),
        ];
        assert_eq!(seen, expected);
    }
}

/// F17: whoever resumed would see no certificate, and so not that it is over.
#[tokio::test]
async fn no_session_is_resumed_once_its_certificate_is_over() {
    for versions in [TLS12, TLS13] {
        let (ca, pipes) = (Ca::new(), Pipes::new());
        let caller = Caller::speaking(&[&ca], versions, None).connector();
        pipes.offer(&ca.credential(1)).settled().await;
        let mut seen = Vec::new();
        for days in [0, 0, 2, 0] {
            pipes.clock.advance(Duration::from_secs(days * 24 * 3600));
            let (stream, accepted) = pipes.handshake(&caller).await;
            accepted.expect("it is accepted");
            let stream = stream.expect("this caller's own clock says that it is in date");
            seen.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        let (full, resumed) = (HandshakeKind::Full, HandshakeKind::Resumed);
        assert_eq!(seen, [full, resumed, full, full]);
    }
}

/// A pipe that carries what the caller sends in two parts: `first` bytes of its first flight, or all
/// of it, and the rest when it is told.
struct HeldBack {
    caller: DuplexStream,
    proxy: DuplexStream,
}

impl HeldBack {
    /// The caller's and the proxy's ends, and the pipe.
    fn new() -> (DuplexStream, DuplexStream, Self) {
        let (near, caller) = tokio::io::duplex(1 << 16);
        let (proxy, far) = tokio::io::duplex(1 << 16);
        (near, far, Self { caller, proxy })
    }

    async fn first_flight(&mut self, at_most: usize) -> Vec<u8> {
        let mut flight = vec![0; 1 << 16];
        let length = self.caller.read(&mut flight).await.unwrap();
        flight.truncate(length);
        let rest = flight.split_off(at_most.min(length));
        self.proxy.write_all(&flight).await.unwrap();
        rest
    }

    async fn let_go(mut self, rest: &[u8]) {
        // Whichever side has gone: the test is about the other one.
        let _ = self.proxy.write_all(rest).await;
        let _ = tokio::io::copy_bidirectional(&mut self.caller, &mut self.proxy).await;
    }
}

/// Begins a handshake, lets `between` happen when the proxy has all of the `ClientHello` or half of
/// it, and ends it.
async fn interrupted(
    pipes: &Pipes,
    caller: &Caller,
    half: bool,
    between: impl AsyncFnOnce(),
) -> (std::io::Result<String>, Accepted) {
    let (near, far, mut pipe) = HeldBack::new();
    let caller = async {
        let stream = caller.connect(near).await?;
        Ok(shown(&stream))
    };
    let held = async {
        let rest = pipe.first_flight(if half { 100 } else { usize::MAX }).await;
        // The proxy has read what there is as soon as it waits for more.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        between().await;
        pipe.let_go(&rest).await;
    };
    let waiting = pipes.handshakes.wait();
    let accept = pipes.handshakes.accept(far, &waiting, false);
    let both = async { tokio::join!(caller, accept) };
    tokio::select! {
        biased;
        both = both => both,
        () = async { held.await; std::future::pending().await } => unreachable!(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_hello_held_back_over_the_ack_ends_on_the_new_certificate() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let (first, second) = (ca.credential(1), ca.credential(2));
    pipes.offer(&first).settled().await;
    let (seen, accepted) = interrupted(&pipes, &Caller::new(&[&ca]), true, async || {
        pipes.offer(&second).settled().await;
    })
    .await;
    assert_eq!(seen.unwrap(), leaf_sha256(&second.leaf));
    assert_eq!(accepted.unwrap().1.serving.generation, 2);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_had_begun_finishes_and_the_ack_waits_for_it() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let (first, second) = (ca.credential(1), ca.credential(2));
    pipes.offer(&first).settled().await;
    let mut published = None;
    let (seen, accepted) = interrupted(&pipes, &Caller::new(&[&ca]), false, async || {
        let offered = pipes.offer(&second);
        let early = tokio::time::timeout(Duration::from_millis(400), offered.settled());
        assert!(early.await.is_err(), "the ack does not go out before");
        published = Some(offered);
    })
    .await;
    assert_eq!(seen.unwrap(), leaf_sha256(&first.leaf));
    assert_eq!(accepted.unwrap().1.serving.generation, 1);
    within("the ack", published.unwrap().settled()).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_the_ack_goes_out_and_the_handshake_does_not_end() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1)).settled().await;
    let begun = tokio::time::Instant::now();
    let (_, accepted) = interrupted(&pipes, &Caller::new(&[&ca]), false, async || {
        pipes.offer(&ca.credential(2)).settled().await;
    })
    .await;
    let waited = begun.elapsed().as_millis();
    assert!((500..600).contains(&waited), "the ack waited {waited} ms");
    assert!(matches!(accepted, Err(HandshakeError::Superseded)));
}

#[tokio::test(start_paused = true)]
async fn below_lowest_a_handshake_is_cut_at_once() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1)).settled().await;
    let begun = tokio::time::Instant::now();
    let (_, accepted) = interrupted(&pipes, &Caller::new(&[&ca]), false, async || {
        let next = Credential {
            lowest: 2,
            ..ca.credential(2)
        };
        pipes.offer(&next).settled().await;
    })
    .await;
    assert!(begun.elapsed().is_zero(), "the ack did not wait");
    assert!(matches!(accepted, Err(HandshakeError::Superseded)));
}

#[tokio::test]
async fn a_handshake_that_completes_after_the_ack_does_not_count() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1)).settled().await;
    // Complete in the very moment in which it is shut out: nobody has told it yet.
    let late = pipes.credentials.begin(None).unwrap();
    let next = Credential {
        lowest: 2,
        ..ca.credential(2)
    };
    pipes.offer(&next).settled().await;
    assert!(late.complete(Duration::ZERO).is_none());
    assert_eq!(pipes.credentials.alive().len(), 1);
}

#[tokio::test]
async fn a_second_swap_acks_only_when_the_handshakes_of_both_have_ended() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    pipes.offer(&ca.credential(1)).settled().await;
    let held = pipes.credentials.begin(None).unwrap();
    let second = pipes.offer(&ca.credential(2));
    let third = pipes.offer(&ca.credential(3));
    let mut early = std::pin::pin!(third.settled());
    // Whatever waits for less has had its turn by then.
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut early).is_pending());
        tokio::task::yield_now().await;
    }
    drop(held);
    within("both acks", async { tokio::join!(second.settled(), early) }).await;
}

#[tokio::test]
async fn the_identical_generation_is_acked_again_and_any_other_old_one_is_stale() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let second = ca.credential(2);
    pipes.offer(&second).settled().await;
    let again = pipes.offer(&second);
    again.settled().await;
    assert_eq!(
        (again.generation(), pipes.credentials.alive().len()),
        (2, 1)
    );
    for stale in [ca.credential(1), ca.credential(2)] {
        let refused = pipes
            .credentials
            .offer(&stale, Source::Channel)
            .unwrap_err();
        assert_eq!(refused.reason, Reason::Stale);
    }
    assert_eq!(
        pipes.credentials.current()[0].leaf.sha256,
        leaf_sha256(&second.leaf)
    );
}

#[tokio::test]
async fn swaps_leave_nothing_behind() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let caller = Caller::new(&[&ca]).connector();
    let mut credential = ca.credential(0);
    let mut open = Vec::new();
    for generation in 1..=1000 {
        credential.generation = generation;
        pipes.offer(&credential).settled().await;
        if generation % 250 == 0 {
            let (_, accepted) = pipes.handshake(&caller).await;
            open.push(accepted.unwrap());
        }
    }
    let generations = |pipes: &Pipes| -> Vec<u64> {
        pipes
            .credentials
            .alive()
            .iter()
            .map(|serving| serving.generation)
            .collect()
    };
    assert_eq!(
        generations(&pipes),
        [1000, 250, 500, 750],
        "only those with connections"
    );
    let report = &pipes.credentials.report(&[])[0];
    assert_eq!(report.connections.values().sum::<u64>(), 4);
    drop(open);
    assert_eq!(generations(&pipes), [1000]);
}

#[tokio::test]
async fn several_tunnels_are_told_apart_by_the_end_of_the_server_name() {
    let (ca, pipes) = (Ca::new(), Pipes::new());
    let now = process::Clock::wall(&process::SystemClock);
    let tunnel = |name: &str, domain: &str| Credential {
        tunnel: name.to_owned(),
        tunnel_domain: domain.to_owned(),
        leaf: Leaf {
            ..ca.leaf_for(domain, now, Duration::from_secs(3600))
        },
        ..ca.credential(1)
    };
    let chosen = |name: Option<&str>| {
        let begun = pipes.credentials.begin(name).ok()?;
        let accepted = begun.complete(Duration::ZERO)?;
        Some(accepted.serving.tunnel.name.to_string())
    };
    pipes.offer(&tunnel("one", "one.example"));
    assert_eq!(
        chosen(None).as_deref(),
        Some("one"),
        "a single tunnel serves any name and none"
    );
    pipes.offer(&tunnel("inner", "b.one.example"));
    assert_eq!(chosen(Some("x.one.example")).as_deref(), Some("one"));
    assert_eq!(chosen(Some("x.b.one.example")).as_deref(), Some("inner"));
    assert_eq!(chosen(Some("xone.example")), None);
    assert_eq!(chosen(None), None);
}
