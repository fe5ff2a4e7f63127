use super::*;

/// Takes a turn at every step until the generation changes; gives the seconds that passed.
fn until_renewed(world: &mut World, engine: &mut Engine, step: u64, limit: u64) -> Option<u64> {
    let generation = world.credential().generation;
    let mut passed = 0;
    while passed < limit {
        world.pass(step);
        passed += step;
        world.turn(engine);
        if world.credential().generation > generation {
            return Some(passed);
        }
    }
    None
}

/// F04, F05: right after a renewal nothing is due; the next one comes about a day later.
#[test]
fn a_certificate_is_renewed_once_a_day() {
    let mut world = World::new();
    let mut engine = world.start();
    for _ in 0..5 {
        let passed = until_renewed(&mut world, &mut engine, 600, 2 * DAY).unwrap();
        assert!((21 * HOUR..=24 * HOUR + 600).contains(&passed), "{passed}");
        verify(&world.credential(), world.wall);
    }
    assert_eq!(world.status().rotations.server_certificate, 6);
    // Without a proxy one earlier key is kept, and no more.
    assert_eq!(
        world
            .keys()
            .iter()
            .filter(|name| name.starts_with("leaf-"))
            .count(),
        2
    );
}

/// F34: suspended for two days, the boot clock stopped as after a migration.
#[test]
fn a_machine_that_slept_renews_in_its_first_turn() {
    let mut world = World::new();
    let mut engine = world.start();
    world.wall += 2 * DAY;
    world.turn(&mut engine);
    assert_eq!(world.credential().generation, 2);
    verify(&world.credential(), world.wall);
    assert!(world.board.status.borrow().time_suspect);
}

/// F35
#[test]
fn a_clock_set_a_year_ahead_and_back_finds_the_old_pair_present_and_chosen() {
    let mut world = World::with("    ca: { lifetime: 1825d }\n");
    let mut engine = world.start();
    let good = world.credential();
    world.pass(60);
    world.wall += 365 * DAY;
    world.turn(&mut engine);
    let ahead = world.credential();
    assert_ne!(ahead.leaf, good.leaf);
    verify(&ahead, world.wall);
    assert_eq!(world.status().phase, "soak");
    world.pass(60);
    world.wall -= 365 * DAY;
    world.turn(&mut engine);
    let back = world.credential();
    assert_eq!(back.leaf, good.leaf);
    assert_eq!(back.generation, 3);
    verify(&back, world.wall);
    // Nothing is destroyed until the clock has run straight for an hour, and then what is useless.
    let leaves = |world: &World| {
        world
            .keys()
            .iter()
            .filter(|key| key.starts_with("leaf-"))
            .count()
    };
    assert_eq!(leaves(&world), 2);
    world.pass(3700);
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(leaves(&world), 1);
    assert_eq!(world.credential(), back);
}

/// The same with a restart of the daemon at either end.
#[test]
fn a_clock_set_ahead_and_back_is_survived_by_a_restart() {
    let mut world = World::with("    ca: { lifetime: 1825d }\n");
    drop(world.start());
    let good = world.credential();
    world.wall += 365 * DAY;
    drop(world.start());
    assert_ne!(world.credential().leaf, good.leaf);
    world.wall -= 365 * DAY;
    drop(world.start());
    assert_eq!(world.credential().leaf, good.leaf);
}

#[test]
fn a_suspect_clock_keeps_the_key_of_the_old_ca() {
    let mut world = World::with("    ca: { lifetime: 1825d }\n");
    let mut engine = world.start();
    let before = world.ca_keys();
    world.wall += 2 * HOUR;
    let operation = world.rotate_ca(&mut engine);
    assert_eq!(operation.state, OperationState::Done);
    assert_eq!(world.ca_keys().len(), 2);
    let refused = world.order(&mut engine, switch(true)).unwrap_err();
    assert!(refused.next.contains("set the clock right"), "{refused:?}");
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(world.ca_keys(), before);
    world.pass(HOUR);
    world.ack("a");
    world.turn(&mut engine);
    assert_ne!(world.ca_keys(), before);
    let status = world.status();
    assert!(status.standby_ca.is_some(), "{status:?}");
    assert_eq!(world.ca_keys().len(), 2);
    assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Running);
}

/// F07, F37: towards the end of its CA a certificate is clamped and not renewed in ever shorter steps.
#[test]
fn the_end_of_the_ca_alarms_and_never_loops() {
    let mut world = World::with("    ca: { lifetime: 40d }\n");
    let mut engine = world.start();
    assert_eq!(
        world.status().alarms,
        [
            "the CA has 40 days left and is due for a switch; give the standby CA to the verifiers, then run: keyward rotate ca --trusted"
        ]
    );
    let mut alarms = Vec::new();
    for _ in 0..45 * 24 {
        world.pass(HOUR);
        world.turn(&mut engine);
        let alarm = world.status().alarms[0]
            .split(';')
            .next()
            .unwrap()
            .to_owned();
        if alarms.last() != Some(&alarm) {
            alarms.push(alarm);
        }
    }
    for step in ["30", "14", "7", "3", "1"] {
        let text = format!("the CA expires in less than {step} days");
        assert!(alarms.contains(&text), "{alarms:?}");
    }
    assert_eq!(alarms.last().unwrap(), "the CA has expired");
    let issued = world.credential().generation;
    assert!((33..=40).contains(&issued), "{issued}");
    // F38: the way out still works.
    assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Done);
    verify(&world.credential(), world.wall);
}

/// I9, F05: whatever fails, no more than so many an hour.
#[test]
fn what_nobody_ordered_is_capped_by_the_hour_over_restarts() {
    let mut world = World::new();
    for _ in 0..20 {
        drop(world.start());
        world.pass(60);
        // Lost each time, so that each start needs another one.
        for name in world.keys().iter().filter(|name| name.starts_with("leaf-")) {
            std::fs::remove_file(world.path("state/custody/main").join(name)).unwrap();
        }
        std::fs::remove_dir_all(world.path("store")).unwrap();
    }
    let begun = |world: &World| {
        let journal = std::fs::read_to_string(world.path("state/journal.jsonl")).unwrap();
        journal
            .lines()
            .filter(|line| line.contains("\"phase\":\"begun\""))
            .count()
    };
    assert_eq!(begun(&world), crate::rotation::ISSUES_PER_HOUR);
    let mut engine = world.start();
    // An order is no subject to it.
    assert_eq!(world.rotate(&mut engine).state, OperationState::Done);
    assert_eq!(begun(&world), crate::rotation::ISSUES_PER_HOUR + 1);
}

/// F41
#[test]
fn rotations_in_a_row_with_alternating_algorithms_all_work() {
    let mut world = World::new();
    for (number, algorithm) in ["ecdsa-p256", "rsa-2048", "ecdsa-p384"]
        .iter()
        .cycle()
        .take(6)
        .enumerate()
    {
        world.settings = format!(
            "    server_certificate: {{ algorithm: {algorithm} }}\n    ca: {{ algorithm: {algorithm} }}\n"
        );
        let mut engine = world.start();
        if number == 0 {
            continue;
        }
        // Nobody is there, and for so long that it is known.
        world.pass(HOUR);
        world.turn(&mut engine);
        assert_eq!(world.rotate_ca(&mut engine).state, OperationState::Done);
        verify(&world.credential(), world.wall);
        assert_eq!(
            leaf(&world.credential()).key().algorithm().name(),
            *algorithm
        );
    }
}
