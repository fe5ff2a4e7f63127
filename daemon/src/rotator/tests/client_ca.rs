use super::*;

const WANTED: &str = "    client_ca: {}\n";

/// Proxies take what comes with a generation once: a change of who may call needs a new one.
#[test]
fn who_may_call_changes_with_a_generation_of_its_own() {
    let mut world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.turn(&mut engine);
    let mut before = world.credential();
    assert_eq!(before.client_ca_certificates, Vec::<String>::new());
    for (settings, cas) in [(WANTED, 1), ("", 0), (WANTED, 1)] {
        drop(engine);
        settings.clone_into(&mut world.settings);
        engine = world.start();
        let credential = world.credential();
        assert_eq!(credential.client_ca_certificates.len(), cas, "{settings:?}");
        assert!(
            credential.generation > before.generation,
            "{settings:?}: {} after {}",
            credential.generation,
            before.generation
        );
        assert_ne!(credential.leaf, before.leaf, "{settings:?}");
        assert_eq!(world.status().client_ca.is_some(), cas == 1, "{settings:?}");
        world.ack("a");
        world.turn(&mut engine);
        before = credential;
    }
    // Once, and not at every start.
    drop(engine);
    world.start();
    assert_eq!(world.credential().generation, before.generation);
}

/// More than an hour's worth of certificates was issued: who may call is not decided late.
#[test]
fn who_may_call_changes_although_the_cap_is_reached() {
    let mut world = World::new();
    for names in 0..crate::rotation::ISSUES_PER_HOUR + 2 {
        world.settings = format!("    server_certificate: {{ extra_names: [n{names}.example] }}\n");
        drop(world.start());
    }
    let capped = world.credential().generation;
    drop(world.start());
    assert_eq!(world.credential().generation, capped);
    world.settings.push_str(WANTED);
    drop(world.start());
    assert_eq!(world.credential().client_ca_certificates.len(), 1);
    assert_eq!(world.credential().generation, capped + 1);
}

#[test]
fn nothing_goes_out_while_the_client_ca_is_still_to_be_made() {
    let mut world = World::with(WANTED);
    let crash = crate::disk::crash::Crash::after(0, crate::disk::crash::Kind::Full);
    let mut steps = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        world.directory = directory;
        world.disk = Disk {
            crash: Some(crash.clone()),
        };
        crash.leave(steps);
        world.board.publications.send_replace(Publications::new());
        if let Ok(mut engine) = world.try_open() {
            world.turn(&mut engine);
        }
        let publications = world.board.publications.borrow().clone();
        let credential = publications
            .get("main")
            .and_then(|publication| publication.credential.clone());
        if let Some(credential) = credential {
            let message = credential.message();
            assert_eq!(message.client_ca_certificates.len(), 1, "{steps}");
            assert!(steps > 5, "{steps}");
            return;
        }
        steps += 1;
    }
}

#[test]
fn a_client_ca_that_was_lost_with_the_state_alarms() {
    let world = World::with(WANTED);
    drop(world.start());
    let before = world.status().client_ca.unwrap().sha256;
    std::fs::remove_dir_all(world.path("state")).unwrap();
    let mut engine = world.start();
    world.turn(&mut engine);
    assert_ne!(world.status().client_ca.unwrap().sha256, before);
    let alarms = world.status().alarms.join("\n");
    assert!(
        alarms.contains(&before) && alarms.contains("issue every client certificate anew"),
        "{alarms}"
    );
}

#[test]
fn the_end_of_the_client_ca_is_announced_and_said() {
    let mut world = World::with("    client_ca: { lifetime: 40d }\n");
    let mut engine = world.start();
    let alarms = |world: &World| world.status().alarms.join("\n");
    assert!(!alarms(&world).contains("client CA"));
    world.pass(20 * DAY);
    world.turn(&mut engine);
    assert!(alarms(&world).contains("the client CA ends in 20 days"));
    world.pass(21 * DAY);
    world.turn(&mut engine);
    let said = alarms(&world);
    assert!(said.contains("the client CA has expired"), "{said}");
}
