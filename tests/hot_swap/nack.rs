//! What cannot be served is refused with its reason, and the last good one stays.

use std::collections::BTreeMap;
use std::time::Duration;

use control::{Credential, Policy, Reason, Route};

use crate::rig::{Answer, Carrier, DOMAIN, Hello, Issuer, Line, Rig, Setup, TUNNEL, credentials};

const DAY: Duration = Duration::from_secs(24 * 3600);
const GOOD: u64 = 5;

type Case = (Reason, fn(&Issuer) -> Credential);

const CASES: &[Case] = &[
    (Reason::Malformed, |issuer| Credential {
        ca_certificates: vec!["no PEM".to_owned()],
        ..issuer.credential(6)
    }),
    (Reason::Malformed, |issuer| {
        let mut credential = issuer.credential(6);
        credential.leaf.chain = String::new();
        credential
    }),
    (Reason::KeyMismatch, |issuer| {
        let mut credential = issuer.credential(6);
        credential.leaf.key = credentials::leaf(&issuer.pair()).key;
        credential
    }),
    (Reason::UnknownCa, |issuer| Credential {
        ca_certificates: vec![Issuer::new().ca_pem()],
        ..issuer.credential(6)
    }),
    (Reason::NotYetValid, |issuer| {
        let profile = credentials::server(DOMAIN, DAY);
        issuer.of(6, &issuer.pair_of(&profile, credentials::now() + DAY))
    }),
    (Reason::Expired, |issuer| {
        let profile = credentials::server(DOMAIN, Duration::from_secs(2));
        let minute = Duration::from_secs(60);
        let past = credentials::now() - minute;
        issuer.of(6, &issuer.pair_of(&profile, past))
    }),
    (Reason::WrongNames, |issuer| {
        let profile = credentials::server("other.example", DAY);
        issuer.of(6, &issuer.pair_of(&profile, credentials::now()))
    }),
    // Below the one in force, below its own lowest, and the same again with another leaf.
    (Reason::Stale, |issuer| issuer.credential(GOOD - 1)),
    (Reason::Stale, |issuer| Credential {
        lowest: 7,
        ..issuer.credential(6)
    }),
    (Reason::Stale, |issuer| issuer.credential(GOOD)),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_leaves_the_last_good_one_in_force_for_every_reason() {
    let mut rig = Rig::start(|setup| setup).await;
    let hello = Hello::new(&rig.issuer);
    let good = rig.issuer.credential(GOOD);
    assert_eq!(rig.session.offer(&good).await, Answer::Ack);
    for (number, (reason, make)) in CASES.iter().enumerate() {
        let bad = make(&rig.issuer);
        let answer = rig.session.offer(&bad).await;
        assert_eq!(answer, Answer::Nack(*reason), "case {number}");
        for carrier in [Carrier::Tls, Carrier::WebSocket] {
            let mut line = Line::open(&rig.proxy, carrier, &hello).await.unwrap();
            assert!(line.is_on(&good), "{reason:?}");
            assert_eq!(line.get("/").await.unwrap().status, 200);
        }
    }
    rig.proxy.logs("credential refused", CASES.len()).await;
    // And it is no worse for it.
    let next = rig.issuer.credential(6);
    assert_eq!(rig.session.offer(&next).await, Answer::Ack);
    let line = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
    assert!(line.is_on(&next));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_cannot_be_used_leaves_the_last_good_ones_and_no_routes_leave_none() {
    let mut rig = Rig::start(Setup::daemon_routes).await;
    let policy = |generation, upstream: String| {
        let route = Route {
            upstream,
            preserve_host: false,
        };
        Policy {
            tunnel: TUNNEL.to_owned(),
            generation,
            routes: Some(BTreeMap::from([("up".to_owned(), route)])),
            denied: Vec::new(),
        }
    };
    let hello = Hello::new(&rig.issuer);
    let mut line = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
    let pending = line.get("/").await.unwrap();
    assert_eq!(pending.status, 503);
    assert!(pending.body.contains("policy_pending"), "{pending:?}");
    let waiting = rig.proxy.page("/readyz").await.unwrap();
    assert!(waiting.contains("no routes yet; write them"), "{waiting}");
    let good = policy(1, format!("http://{}", rig.upstream.address));
    assert_eq!(rig.session.policy(&good).await, Answer::Ack);
    rig.proxy.ready().await;
    assert_eq!(line.get("/").await.unwrap().status, 200);
    let bad = policy(2, "http://up:80/path".to_owned());
    let answer = rig.session.policy(&bad).await;
    assert_eq!(answer, Answer::Nack(Reason::BadRoute));
    assert_eq!(line.get("/").await.unwrap().status, 200);
    // Whoever takes them out of the daemon's file does not want them reached.
    let withdrawn = Policy {
        generation: 3,
        routes: None,
        ..good.clone()
    };
    assert_eq!(rig.session.policy(&withdrawn).await, Answer::Ack);
    let pending = line.get("/").await.unwrap();
    assert_eq!(pending.status, 503);
    assert!(pending.body.contains("policy_pending"), "{pending:?}");
    let waiting = rig.proxy.page("/readyz").await.unwrap();
    assert!(waiting.contains("no routes yet; write them"), "{waiting}");
    let again = Policy {
        generation: 4,
        ..good
    };
    assert_eq!(rig.session.policy(&again).await, Answer::Ack);
    assert_eq!(line.get("/").await.unwrap().status, 200);
}
