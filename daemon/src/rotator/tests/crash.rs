use super::*;
use crate::disk::crash::{Crash, Kind};

/// What a daemon does between its start and its end.
type Scenario = fn(&World, &mut Engine);

fn nothing(_: &World, _: &mut Engine) {}

fn rotation() -> Order {
    let tunnel = "main".to_owned();
    Order::RotateServerCertificate { tunnel }
}

fn rotate(world: &World, engine: &mut Engine) {
    let _ = world.order(engine, rotation());
}

fn rotate_ca(world: &World, engine: &mut Engine) {
    let _ = world.order(engine, switch(true));
}

/// F18, F21, F08, F20, I1, I5, I6, I7, I11: the daemon is killed, or the machine loses power, before
/// every change of the disk.
fn assert_recovers(scenario: Scenario, prepared: bool) {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Full);
    for kind in kinds {
        let mut steps = 0;
        while crash(scenario, prepared, kind, steps) {
            steps += 1;
        }
        assert!(steps > 60, "{kind:?}: {steps}");
    }
}

#[test]
fn a_first_start_that_crashes_before_any_change_of_the_disk_is_recovered_from() {
    assert_recovers(nothing, false);
}

#[test]
fn a_rotation_that_crashes_before_any_change_of_the_disk_is_recovered_from() {
    assert_recovers(rotate, true);
}

#[test]
fn a_switch_of_the_ca_that_crashes_before_any_change_of_the_disk_is_recovered_from() {
    assert_recovers(rotate_ca, true);
}

/// Whether the crash came.
fn crash(scenario: Scenario, prepared: bool, kind: Kind, steps: u64) -> bool {
    let mut world = World::with("    client_ca: {}\n");
    if prepared {
        drop(world.start());
    }
    let before = prepared.then(|| world.credential());
    let crash = Crash::after(steps, kind);
    world.disk = Disk {
        crash: Some(crash.clone()),
    };
    // In its first start a daemon may die before it can even take a turn.
    if let Ok(mut engine) = world.try_open() {
        world.turn(&mut engine);
        scenario(&world, &mut engine);
        // One more turn: a full disk would be tried again here.
        world.turn(&mut engine);
    }
    let came = crash.came();
    crash.lose_power();
    let here = format!("{kind:?} {steps}");
    let sent = world
        .board
        .publications
        .borrow()
        .get("main")
        .and_then(|main| main.credential.as_ref())
        .map(|credential| Arc::new(credential.message().clone()));
    assert_one_pair(&world, "store", &here);
    assert_one_pair(&world, "served", &here);
    world.disk = Disk::simulated();
    let mut engine = world.start();
    // A proxy takes what is there; before that nothing earlier is destroyed.
    world.ack("a");
    world.turn(&mut engine);
    drop(engine);
    let after = world.credential();
    verify(&after, world.wall);
    // What may have gone out keeps its generation, and comes back in it or under a higher one.
    for earlier in sent.iter().chain(&before) {
        assert!(after.generation >= earlier.generation, "{here}");
        if after.generation == earlier.generation {
            assert_eq!(
                after.leaf, earlier.leaf,
                "{here}: one generation, two leaves"
            );
        }
    }
    // I1: the CA that verifiers were told of is the one in force or the standby made before.
    if let Some(before) = &before {
        let known = &before.ca_certificates[0];
        assert!(
            after.ca_certificates.contains(known),
            "{here}: the trusted CA is gone"
        );
    }
    // I5, F08: nothing is left over: one leaf, the CA, its standby and the client CA.
    assert_eq!(world.keys().len(), 4, "{here}: {:?}", world.keys());
    assert_eq!(world.status().alarms, Vec::<String>::new(), "{here}");
    assert_eq!(world.stored("tls.crt"), after.leaf.chain, "{here}");
    assert_eq!(world.stored("ca.crt"), after.ca_certificates[0], "{here}");
    // I11: recovering again changes nothing.
    drop(world.start());
    assert_eq!(world.credential(), after, "{here}");
    came
}

/// Whoever was told that his order is taken finds it, under its id, after a kill at any moment, and it is
/// carried out once.
#[test]
fn an_order_that_was_taken_survives_a_kill_before_any_change_of_the_disk() {
    for order in [rotation(), switch(true)] {
        let mut steps = 0;
        while killed(&order, steps) {
            steps += 1;
        }
        assert!(steps > 20, "{order:?}: {steps}");
    }
}

/// Whether the kill came.
fn killed(order: &Order, steps: u64) -> bool {
    let mut world = World::new();
    let before = {
        let mut engine = world.start();
        world.ack("a");
        world.turn(&mut engine);
        world.credential()
    };
    let crash = Crash::after(u64::MAX, Kind::Kill);
    world.disk = Disk {
        crash: Some(crash.clone()),
    };
    let mut engine = world.start();
    crash.leave(steps);
    let taken = world.order(&mut engine, order.clone());
    world.ack("a");
    world.turn(&mut engine);
    let came = crash.came();
    drop(engine);
    world.disk = Disk::simulated();
    let mut engine = world.start();
    // A copy of the order that was already ended is not carried out again.
    for _ in 0..3 {
        world.ack("a");
        world.turn(&mut engine);
    }
    let generation = world.credential().generation;
    let here = format!("{order:?} {steps}");
    match taken {
        Ok(_) if !came => {}
        Ok(operation) => {
            let status = world.board.status.borrow().clone();
            let found = status.operations.iter().find(|one| one.id == operation.id);
            // The last thing that was written may have been its end.
            if let Some(found) = found {
                assert_eq!(found.state, OperationState::Done, "{here}: {found:?}");
                assert_eq!(
                    (&found.what, &found.actor),
                    (&operation.what, &operation.actor)
                );
            }
            assert_eq!(generation, before.generation + 1, "{here}");
        }
        Err(_) => assert_eq!(generation, before.generation, "{here}"),
    }
    let switches = u64::from(matches!(order, Order::RotateCa { .. }) && generation > 1);
    assert_eq!(world.status().rotations.ca, switches, "{here}");
    came
}

/// A slow disk makes each of them last: there may be ten rotations in a second.
#[test]
fn a_rotation_waits_for_the_disk_no_more_often_than_it_has_to() {
    let mut world = World::new();
    let crash = Crash::after(u64::MAX, Kind::Kill);
    world.disk = Disk {
        crash: Some(crash.clone()),
    };
    let mut engine = world.start();
    let mut syncs = |order: Order| {
        world.ack("a");
        world.turn(&mut engine);
        crash.syncs();
        world.order(&mut engine, order).unwrap();
        let published = crash.syncs();
        world.ack("a");
        world.turn(&mut engine);
        (published, crash.syncs())
    };
    // Key, certificate, their directory, the journal; two files of the store, three of the served
    // directory, and each time their set and the directory of sets.
    assert_eq!(syncs(rotation()), (4 + 4 + 5, 0));
    // CA and CA key go out as well, and ca-next.crt goes away; then the old key goes for good, from
    // custody and from two sets, and a standby is made and put into the store.
    assert_eq!(syncs(switch(true)), (4 + 7 + 6, 4 + 4 + 3));
}

/// A reader finds certificate and key that belong together, or neither.
fn assert_one_pair(world: &World, directory: &str, here: &str) {
    let read = |name: &str| std::fs::read_to_string(world.path(directory).join(name)).ok();
    match (read("tls.crt"), read("tls.key")) {
        (Some(chain), Some(key)) => {
            let pair = CertifiedKey::from_pem(&chain, &key);
            let pair = pair.unwrap_or_else(|error| panic!("{here} {directory}: {error}"));
            assert_eq!(
                pair.certificate().public_key(),
                pair.key().public_key(),
                "{here}"
            );
            let ca = Certificate::from_pem(&read("ca.crt").unwrap());
            let first =
                ca.is_ok_and(|ca| ca.subject_key_id() == pair.certificate().authority_key_id());
            assert!(
                first || directory == "served",
                "{here}: leaf and CA are of two generations"
            );
        }
        (None, None) => {}
        _ => panic!("{here} {directory}: half a pair"),
    }
}

/// F09: nothing is issued that could not be kept; what is in force goes on.
#[test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
fn a_full_disk_issues_nothing_and_alarms_and_heals() {
    let mut world = World::new();
    drop(world.start());
    let before = world.credential();
    let crash = Crash::after(u64::MAX, Kind::Full);
    world.disk = Disk {
        crash: Some(crash.clone()),
    };
    let mut engine = world.start();
    crash.leave(0);
    let refused = world.order(&mut engine, rotation()).unwrap_err();
    assert!(
        refused.what.starts_with(
            "the order cannot be recorded: the state cannot be written: cannot append to"
        ),
        "{refused:?}"
    );
    assert_eq!(
        refused.next,
        "make space, or the state directory writable, and order again"
    );
    // So much that the order is taken, and no more.
    crash.leave(2);
    let operation = world.rotate(&mut engine);
    assert_eq!(operation.state, OperationState::Failed);
    let detail = &operation.detail;
    assert!(detail.contains("the state cannot be written"), "{detail}");
    assert_eq!(world.credential().leaf, before.leaf);
    let alarms = world.status().alarms;
    assert!(alarms[0].contains("no storage space"), "{alarms:?}");
    crash.relieve();
    world.pass(2);
    world.turn(&mut engine);
    assert_eq!(world.status().alarms, Vec::<String>::new());
    drop(engine);
    // Full at any moment of a rotation: it ends when there is space again.
    for steps in 0.. {
        let crash = Crash::after(u64::MAX, Kind::Full);
        world.disk = Disk {
            crash: Some(crash.clone()),
        };
        let mut engine = world.start();
        let generation = world.credential().generation;
        crash.leave(steps);
        let taken = world.order(&mut engine, rotation());
        let running =
            taken.is_ok_and(|taken| world.operation(&taken.id).state != OperationState::Failed);
        world.ack("a");
        world.turn(&mut engine);
        let done = running && !crash.came();
        verify(&world.credential(), world.wall);
        crash.relieve();
        for _ in 0..3 {
            world.pass(10);
            world.ack("a");
            world.turn(&mut engine);
        }
        assert_eq!(world.status().alarms, Vec::<String>::new(), "{steps}");
        assert_eq!(world.status().phase, "serving", "{steps}");
        assert!(world.credential().generation <= generation + 1, "{steps}");
        assert_eq!(
            world.stored("tls.crt"),
            world.credential().leaf.chain,
            "{steps}"
        );
        if done {
            assert!(steps > 10);
            break;
        }
    }
}

/// F51, I8: no key and no token in journal, status or log.
#[test]
fn no_secret_is_in_the_journal_or_the_status() {
    let world = World::with("    client_ca: {}\n");
    std::fs::create_dir(world.path("store")).unwrap();
    std::fs::write(world.path("store/tunnel-token"), "canary-token").unwrap();
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // With one subscriber alone tracing asks the thread that comes to a line first whether anybody listens to it, and
    // that may be another test's.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut engine = world.start();
    for _ in 0..3 {
        world.rotate(&mut engine);
        world.ack("a");
        world.turn(&mut engine);
        world.rotate_ca(&mut engine);
        world.ack("a");
        world.turn(&mut engine);
    }
    // Errors as well.
    std::fs::remove_file(world.path("store/ca.crt")).unwrap();
    drop(engine);
    world.start();
    let mut secrets = vec!["canary-token".to_owned(), "PRIVATE KEY".to_owned()];
    for name in world.keys() {
        let path = world.path("state/custody/main").join(name);
        let text = std::fs::read_to_string(path).unwrap();
        secrets.push(text.lines().nth(1).unwrap().to_owned());
    }
    assert!(secrets.len() > 4);
    let journal = std::fs::read_to_string(world.path("state/journal.jsonl")).unwrap();
    let status = serde_json::to_string(&**world.board.status.borrow()).unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("server certificate published"), "{log}");
    for secret in secrets {
        for (name, text) in [("journal", &journal), ("status", &status), ("log", &log)] {
            assert!(!text.contains(&secret), "{name} holds a secret");
        }
    }
}

/// Keeps what is logged.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
