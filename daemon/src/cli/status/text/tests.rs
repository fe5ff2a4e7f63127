use std::collections::BTreeMap;

use super::*;
use crate::rotation::slots::Grade;
use crate::status::{By, NextRotation, RemoteSays};

fn replica(generation: u64) -> ReplicaStatus {
    ReplicaStatus {
        role: control::Role::Proxy,
        build: String::new(),
        connected: true,
        last_heard: 99,
        acked: BTreeMap::from([("main".to_owned(), generation)]),
        refused: BTreeMap::new(),
        report: control::Report::default(),
    }
}

fn says(in_force: bool, generation: Option<u64>, proof: Option<Grade>) -> ReplicaSays {
    ReplicaSays {
        connected: true,
        in_force,
        generation,
        refused: None,
        proof,
    }
}

fn credentials() -> Vec<CredentialStatus> {
    let two = |p, q| BTreeMap::from([("p".to_owned(), p), ("q".to_owned(), q)]);
    let leaf = CredentialStatus {
        kind: "server-certificate".to_owned(),
        journal: Some("9c1f2ab37c01".repeat(5)),
        generation: Some(7),
        phase: "serving".to_owned(),
        replicas: two(says(true, Some(7), None), says(false, Some(6), None)),
        not_after: Some(1_000_000),
        next: Some(NextRotation {
            at: 186_400,
            by: By::Deadline,
        }),
        ..CredentialStatus::default()
    };
    let ca = CredentialStatus {
        kind: "ca".to_owned(),
        journal: Some("5f9e00000000".repeat(5)),
        phase: "switched".to_owned(),
        remote: Some(RemoteSays {
            state: RemoteState::InForce,
            id: Some("tcrt_1".to_owned()),
            asked_at: Some(60),
        }),
        replicas: two(
            says(true, None, Some(Grade::Observed)),
            says(true, None, Some(Grade::Settled)),
        ),
        not_after: Some(90),
        next: Some(NextRotation {
            at: 40,
            by: By::Operator,
        }),
        ..CredentialStatus::default()
    };
    let token = CredentialStatus {
        kind: "tunnel-token".to_owned(),
        journal: Some("ttok_1".to_owned()),
        generation: Some(3),
        phase: "stable".to_owned(),
        remote: Some(RemoteSays {
            state: RemoteState::Unknown,
            id: None,
            asked_at: None,
        }),
        replicas: BTreeMap::from([(
            "c".to_owned(),
            ReplicaSays {
                refused: Some(control::Reason::TokenRefused),
                ..says(false, Some(2), None)
            },
        )]),
        next: Some(NextRotation {
            at: 700,
            by: By::Schedule,
        }),
        ..CredentialStatus::default()
    };
    vec![leaf, ca, token]
}

#[test]
fn what_each_says_what_ends_first_and_what_needs_a_person_is_on_one_screen() {
    let outage = |at| Some(Outage::new("main", "ca", Some("q"), at, 100));
    let tunnel = TunnelStatus {
        domain: "t.example".to_owned(),
        provider: "tunnels_api".to_owned(),
        generation: 7,
        alarms: vec!["the CA is over".to_owned()],
        credentials: credentials(),
        first_outage: outage(90),
        ..TunnelStatus::default()
    };
    let status = Status {
        build: "b".to_owned(),
        first_outage: outage(90),
        tunnels: BTreeMap::from([("main".to_owned(), tunnel)]),
        replicas: BTreeMap::from([("p".to_owned(), replica(7)), ("q".to_owned(), replica(6))]),
        ..Status::default()
    };
    let expected = "\
keyward b

TUNNEL  DOMAIN     PROVIDER     REPLICAS  FIRST OUTAGE     ALARMS
main    t.example  tunnels_api  1/2       over since 10 s  1

TUNNEL  CREDENTIAL          GEN  JOURNAL       REMOTE              REPLICAS     PHASE     ENDS             NEXT ROTATION
main    server-certificate  7    9c1f2ab37c01  -                   1/2          serving   in 11 d          in 2 d (deadline)
main    ca                  -    5f9e00000000  in force, 40 s ago  2/2 settled  switched  over since 10 s  due since 60 s (when ordered)
main    tunnel-token        3    ttok_1        not asked           0/1          stable    -                in 10 min (schedule)

REPLICA  ROLE   STATE      SERVES  HEARD    CONNECTIONS
p        proxy  connected  main:7  1 s ago  0
q        proxy  connected  main:6  1 s ago  0

first outage if nothing rotates any more: over since 10 s, the ca of main at q

server-certificate of main at q: generation 6
ca of main at p: observed
ca of main at q: settled
tunnel-token of main at c: refused: token_refused

ALARM main: the CA is over
";
    assert_eq!(render(&status, 100), expected);
}

#[test]
fn a_daemon_without_anything_to_say_says_so_little() {
    let expected = "keyward b\n\nTUNNEL  DOMAIN  PROVIDER  REPLICAS  FIRST OUTAGE  ALARMS\n";
    let status = Status {
        build: "b".to_owned(),
        ..Status::default()
    };
    assert_eq!(render(&status, 100), expected);
}
