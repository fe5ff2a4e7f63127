//! Switches of the CA: what is destroyed only after whose word.

use super::*;

#[test]
fn a_switch_of_the_ca_publishes_under_the_standby_and_destroys_the_old_key_after_the_acks() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.turn(&mut engine);
    let before = world.status();
    let operation = world.rotate_ca(&mut engine);
    assert_eq!(operation.state, OperationState::Running);
    let credential = world.credential();
    let (old, new) = (before.ca.unwrap(), before.standby_ca.unwrap());
    assert_eq!(
        credential.ca_certificates,
        [new.pem.clone(), old.pem.clone()]
    );
    assert_eq!(credential.generation, 2);
    // Nothing is destroyed before the last ack.
    assert_eq!(world.ca_keys().len(), 2);
    world.ack("a");
    world.turn(&mut engine);
    let operation = world.operation(&operation.id);
    assert_eq!(
        operation.state,
        OperationState::Done,
        "{}",
        operation.detail
    );
    let status = world.status();
    assert_eq!(status.ca.unwrap().sha256, new.sha256);
    let next = status.standby_ca.unwrap();
    assert_eq!(world.stored("ca.crt"), new.pem);
    assert_eq!(world.stored("ca-next.crt"), next.pem);
    assert_eq!(status.rotations.ca, 1);
    // The key of the old one is gone, from the store's earlier sets as well.
    let keys = world.ca_keys();
    assert_eq!(keys.len(), 2, "{keys:?}");
    let key = world.stored("ca.key");
    for set in std::fs::read_dir(world.path("store")).unwrap() {
        if let Ok(other) = std::fs::read_to_string(set.unwrap().path().join("ca.key")) {
            assert!(other == key, "an old CA key is still in the store");
        }
    }
    // Its certificate stays trusted until the next switch, never more than two at a time.
    for _ in 0..5 {
        let before = world.status();
        assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Running);
        world.ack("a");
        world.turn(&mut engine);
        let credential = world.credential();
        let trusted = &credential.ca_certificates;
        assert_eq!(
            *trusted,
            [before.standby_ca.unwrap().pem, before.ca.unwrap().pem]
        );
        let leaf = world.rotate(&mut engine);
        world.ack("a");
        world.turn(&mut engine);
        assert_eq!(world.operation(&leaf.id).state, OperationState::Done);
        assert_eq!(world.credential().ca_certificates, *trusted);
    }
}

/// I6, rotation.md 5.3a: one that went without a farewell may serve the old CA's certificate still.
#[test]
fn a_proxy_that_vanished_silently_keeps_the_old_ca_key_for_an_hour() {
    let mut world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.ack("silent");
    world.turn(&mut engine);
    let before = world.ca_keys();
    world.board.replicas.send_modify(|replicas| {
        replicas.get_mut("silent").unwrap().connected = false;
    });
    let operation = world.rotate_ca(&mut engine);
    world.ack("a");
    world.pass(2);
    world.turn(&mut engine);
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(
        ended.detail.contains("not acknowledged: silent;"),
        "{ended:?}"
    );
    world.pass(HOUR - 3);
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(world.ca_keys(), before, "the old key and the new one");
    world.pass(1);
    world.ack("a");
    world.turn(&mut engine);
    assert!(!before.iter().all(|key| world.ca_keys().contains(key)));
}

/// One that said farewell serves nothing any more.
#[test]
fn a_proxy_that_left_on_purpose_holds_up_no_switch() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.ack("left");
    world.turn(&mut engine);
    world.board.replicas.send_modify(|replicas| {
        let replica = replicas.get_mut("left").unwrap();
        (replica.connected, replica.left) = (false, true);
    });
    let operation = world.rotate_ca(&mut engine);
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    assert!(world.status().standby_ca.is_some());
}

/// I6: nobody is no evidence.
#[test]
fn a_switch_without_proxies_keeps_the_old_ca_key_until_one_has_taken_the_new_certificate() {
    let mut world = World::new();
    let mut engine = world.start();
    let before = world.ca_keys();
    let operation = world.rotate_ca(&mut engine);
    assert_eq!(operation.state, OperationState::Done);
    assert_eq!(
        operation.detail,
        "the new certificate is published, but no proxy is connected; the old CA's key is kept until a proxy has taken it, or until the next switch of the CA"
    );
    for _ in 0..3 {
        world.pass(HOUR / 2);
        world.turn(&mut engine);
        assert!(before.iter().all(|key| world.ca_keys().contains(key)));
    }
    drop(engine);
    let mut engine = world.start();
    // It may be that the proxies are not back yet.
    world.pass(HOUR / 3);
    let refused = world.order(&mut engine, switch(true)).unwrap_err();
    assert_eq!(refused.what, "the last switch of the CA is not over");
    assert_eq!(
        refused.next,
        "start a proxy, which takes the new certificate and so ends the switch; without one, order again in 40 min, which destroys the key of the CA before"
    );
    assert!(before.iter().all(|key| world.ca_keys().contains(key)));
    world.ack("a");
    world.turn(&mut engine);
    assert!(!before.iter().all(|key| world.ca_keys().contains(key)));
    assert_eq!(world.ca_keys().len(), 2);
    assert_eq!(world.status().rotations.ca, 1);
}

#[test]
fn the_next_switch_without_proxies_destroys_the_key_of_the_one_before() {
    let mut world = World::new();
    let mut engine = world.start();
    let first = world.ca_keys();
    assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Done);
    world.pass(HOUR - 59);
    let early = world.order(&mut engine, switch(true)).unwrap_err();
    assert!(early.next.contains("order again in 1 min,"), "{early:?}");
    world.pass(60);
    world.turn(&mut engine);
    assert_eq!(world.ca_keys().len(), 3);
    assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Done);
    verify(&world.credential(), world.wall);
    let keys = world.ca_keys();
    assert_eq!(first.iter().filter(|key| keys.contains(key)).count(), 1);
}

/// The store would go on with a key that nothing knows of any more.
#[test]
fn the_old_ca_key_is_not_forgotten_while_the_store_cannot_be_written() {
    let mut world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.turn(&mut engine);
    let before = world.ca_keys();
    // A directory where a link should go.
    std::fs::remove_file(world.path("store/..data")).unwrap();
    std::fs::create_dir(world.path("store/..data")).unwrap();
    std::fs::write(world.path("store/..data/in-the-way"), "").unwrap();
    let operation = world.rotate_ca(&mut engine);
    assert_eq!(operation.state, OperationState::Running, "{operation:?}");
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(world.ca_keys(), before);
    assert!(world.status().standby_ca.is_none());
    let alarms = world.status().alarms.join("; ");
    assert!(
        alarms.contains("store and served directory cannot be written"),
        "{alarms}"
    );
    std::fs::remove_dir_all(world.path("store/..data")).unwrap();
    world.pass(HOUR);
    world.ack("a");
    world.turn(&mut engine);
    assert_ne!(world.ca_keys(), before);
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn a_switch_is_refused_until_somebody_says_that_the_standby_is_trusted() {
    let world = World::new();
    let mut engine = world.start();
    let refused = world.order(&mut engine, switch(false)).unwrap_err();
    let standby = world.status().standby_ca.unwrap();
    assert!(refused.what.contains(&standby.sha256), "{refused:?}");
    assert!(refused.next.contains("ca-next.crt"), "{refused:?}");
    let repeat = format!("--trusted={}", standby.sha256);
    assert!(refused.next.contains(&repeat), "{refused:?}");
    assert_eq!(world.credential().generation, 1);
}

/// The answer to the first order was lost, so it is given again, when the CA that was carried to the
/// verifiers has been switched to already.
#[test]
fn a_switch_to_another_standby_than_the_one_that_is_named_is_refused() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("a");
    let carried = world.status().standby_ca.unwrap().sha256;
    let named = || Order::RotateCa {
        tunnel: "main".to_owned(),
        trusted: true,
        standby: Some(carried.clone()),
        accept_unproven: false,
    };
    let operation = world.order(&mut engine, named()).unwrap();
    world.turn(&mut engine);
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(world.operation(&operation.id).state, OperationState::Done);
    let (generation, standby) = (
        world.credential().generation,
        world.status().standby_ca.unwrap().sha256,
    );
    assert_ne!(standby, carried);
    let refused = world.order(&mut engine, named()).unwrap_err();
    assert_eq!(
        refused.what,
        format!(
            "the verifiers are said to trust {carried}, but the standby CA is sha256 {standby}"
        )
    );
    assert!(
        refused.next.ends_with(&format!("--trusted={standby}")),
        "{refused:?}"
    );
    assert_eq!(world.credential().generation, generation);
}

/// F40: one that cannot follow blocks the destruction, not the tunnel.
#[test]
fn a_proxy_that_does_not_follow_keeps_the_old_ca_key_and_fails_the_order() {
    let mut world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.connect("mute", 0);
    world.pass(3);
    world.turn(&mut engine);
    let operation = world.rotate_ca(&mut engine);
    world.ack("a");
    world.pass(2);
    world.turn(&mut engine);
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert_eq!(
        ended.detail,
        "switched, but these replicas have not acknowledged: mute; the old CA key is kept until they have"
    );
    assert_eq!(world.ca_keys().len(), 2);
    let refused = world.order(&mut engine, switch(true)).unwrap_err();
    assert_eq!(refused.what, "the last switch of the CA is not over");
    assert_eq!(
        refused.next,
        "see in: keyward status, which proxies have not followed, and restart or stop them"
    );
    // Renewals go on, under the new CA.
    let renewal = world.rotate(&mut engine);
    world.ack("a");
    world.ack("mute");
    world.turn(&mut engine);
    assert_eq!(world.operation(&renewal.id).state, OperationState::Done);
    assert!(world.status().standby_ca.is_some());
    assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Running);
}

/// Its end would be waited for in vain.
#[test]
fn there_is_no_switch_to_a_ca_that_cannot_issue_what_is_configured() {
    let mut world = World::with("    ca: { constrained: true }\n");
    let engine = world.start();
    world.ack("a");
    drop(engine);
    let before = world.status();
    // The CAs that there are stay constrained.
    "    server_certificate: { extra_names: [x.other.example] }\n".clone_into(&mut world.settings);
    let mut engine = world.start();
    let operation = world.order(&mut engine, switch(true)).unwrap();
    for _ in 0..3 {
        world.turn(&mut engine);
    }
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed);
    assert!(
        ended.detail.contains("constrained") && ended.detail.ends_with("nothing was begun"),
        "{ended:?}"
    );
    let after = world.status();
    let shown = |status: &TunnelStatus| {
        [&status.ca, &status.standby_ca].map(|ca| ca.as_ref().unwrap().sha256.clone())
    };
    assert_eq!(shown(&after), shown(&before));
    assert_eq!(after.server_certificate, before.server_certificate);
}
