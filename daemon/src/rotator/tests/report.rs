//! What the status says of each credential, and what ends first.

use super::*;
use crate::rotation::authority::{Ca, State};
use crate::rotation::slots::{due_at, is_due};
use crate::status::{By, CredentialStatus, NextRotation};

fn one(world: &World, kind: &str) -> CredentialStatus {
    let all = world.status().credentials;
    let found = all.into_iter().find(|one| one.kind == kind);
    found.unwrap_or_else(|| panic!("{kind} is there"))
}

#[test]
fn the_time_at_which_a_ca_is_due_is_the_first_at_which_it_is() {
    for (life, leaf) in [(1000, 1), (1001, 1), (1000, 100), (1000, 90), (10, 1000)] {
        let ca = Ca {
            id: "1".to_owned(),
            sha256: "a".to_owned(),
            not_before: START,
            not_after: START + life,
        };
        let state = State {
            active: Some(ca.clone()),
            ..State::default()
        };
        let at = due_at(&ca, leaf);
        assert!(is_due(&state, leaf, at), "{life} {leaf}");
        assert!(!is_due(&state, leaf, at - 1), "{life} {leaf}");
    }
}

#[test]
fn each_proxy_says_what_it_has_and_the_one_that_lags_is_the_first_outage() {
    let mut world = World::with("    client_ca: {}\n");
    let mut engine = world.start();
    for name in ["p", "q"] {
        world.ack(name);
    }
    world.turn(&mut engine);
    let old = one(&world, "server-certificate");
    assert_eq!(old.generation, Some(1));
    assert!(old.replicas.values().all(|says| says.in_force));
    assert_eq!(old.since, Some(START));
    let outage = world.status().first_outage.unwrap();
    assert_eq!((outage.at, outage.replica), (old.not_after.unwrap(), None));
    assert_eq!(
        (outage.what.as_str(), outage.days),
        ("server-certificate", 7)
    );
    assert_eq!(
        old.next,
        Some(NextRotation {
            at: world.status().renew_at.unwrap(),
            by: By::Deadline
        })
    );
    world.pass(2 * DAY);
    world.turn(&mut engine);
    world.ack("p");
    world.turn(&mut engine);
    let new = one(&world, "server-certificate");
    assert_eq!(new.generation, Some(2));
    let said = |name: &str| (new.replicas[name].in_force, new.replicas[name].generation);
    assert_eq!((said("p"), said("q")), ((true, Some(2)), (false, Some(1))));
    let outage = world.status().first_outage.unwrap();
    assert_eq!(outage.at, old.not_after.unwrap());
    assert_eq!(outage.replica.as_deref(), Some("q"));
    for kind in ["ca", "client-ca"] {
        let ca = one(&world, kind);
        assert!(ca.replicas.values().all(|says| says.in_force), "{kind}");
        assert_eq!(ca.remote, None, "nobody can be asked");
    }
    assert!(one(&world, "standby-ca").replicas.is_empty());
    world.ack("q");
    world.turn(&mut engine);
    let outage = world.status().first_outage.unwrap();
    assert_eq!((outage.at, outage.replica), (new.not_after.unwrap(), None));
    let all = world.board.status.borrow().first_outage.clone().unwrap();
    assert_eq!(all.at, outage.at);
}

#[test]
fn what_is_next_is_what_comes_first_and_a_ca_that_is_carried_by_hand_waits_for_an_order() {
    let world = World::with("    rotate: { certificate: '30 * * * *' }\n");
    let mut engine = world.start();
    world.turn(&mut engine);
    // 1,800,000,000 is a full hour.
    let next = one(&world, "server-certificate").next.unwrap();
    let scheduled = NextRotation {
        at: START + 1800,
        by: By::Schedule,
    };
    assert_eq!(next, scheduled);
    let next = one(&world, "ca").next.unwrap();
    assert_eq!(next.by, By::Operator);
    let half = next.at.abs_diff(START + 365 * DAY / 2);
    assert!(half < DAY, "{half}");
    assert_eq!(one(&world, "standby-ca").next, None);
}

#[test]
fn the_ca_of_the_switch_before_is_shown_until_the_next() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("p");
    world.turn(&mut engine);
    world.rotate_ca(&mut engine);
    let serves = |kind: &str| one(&world, kind).replicas["p"].in_force;
    assert_eq!((serves("ca"), serves("old-ca")), (false, true));
    world.ack("p");
    world.turn(&mut engine);
    assert_eq!((serves("ca"), serves("old-ca")), (true, false));
}
