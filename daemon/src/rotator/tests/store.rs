use super::*;

/// A store as the stock setup leaves it: plain files, a CA of five years, RSA for 90 days.
fn stock(world: &World) -> (pki::Authority, CertifiedKey) {
    let then = world.moment().wall - Duration::from_secs(10 * DAY);
    let profile = pki::AuthorityProfile {
        lifetime: Duration::from_secs(5 * 365 * DAY),
        ..pki::AuthorityProfile::server("stock")
    };
    let authority = pki::Authority::generate(&profile, then).unwrap();
    let profile = pki::ServerProfile {
        lifetime: Duration::from_secs(90 * DAY),
        ..pki::ServerProfile::new("t.example.com")
    };
    let key = pki::PrivateKey::generate(pki::Algorithm::Rsa2048).unwrap();
    let pair = authority
        .issue(&profile, key, pki::Serial::random(), then)
        .unwrap();
    std::fs::create_dir(world.path("store")).unwrap();
    for (name, content) in [
        ("tunnel-id", "tunnel_1"),
        ("tunnel-domain", "t.example.com"),
        ("tunnel-token", "canary-token\n"),
        ("ca.crt", authority.certificate().to_pem().as_str()),
        ("ca.key", authority.private_key().to_pem().as_str()),
        ("tls.crt", pair.chain_pem().as_str()),
        ("tls.key", pair.key_pem().as_str()),
    ] {
        std::fs::write(world.path("store").join(name), content).unwrap();
    }
    (authority, pair)
}

fn write(world: &World, name: &str, content: &str) {
    let path = world.path("store").join(name);
    let _ = std::fs::remove_file(&path);
    std::fs::write(path, content).unwrap();
}

#[test]
fn a_stock_store_is_taken_up_and_nothing_in_it_is_replaced() {
    let mut world = World::new();
    let (authority, pair) = stock(&world);
    let mut engine = world.start();
    let credential = world.credential();
    assert_eq!(credential.leaf.chain, pair.chain_pem());
    assert_eq!(
        credential.ca_certificates,
        [authority.certificate().to_pem()]
    );
    assert_eq!(world.stored("ca.crt"), authority.certificate().to_pem());
    assert_eq!(world.stored("ca.key"), *authority.private_key().to_pem());
    assert_eq!(world.stored("tls.crt"), pair.chain_pem());
    assert_eq!(world.stored("tunnel-token"), "canary-token\n");
    assert_eq!(world.stored("tunnel-id"), "tunnel_1");
    assert!(!world.path("store/tunnel-token").is_symlink());
    assert!(world.path("store/tls.key").is_symlink());
    assert_eq!(world.status().phase, "serving");
    // A restart is no reason for anything new.
    drop(engine);
    engine = world.start();
    assert_eq!(world.credential(), credential);
    // Renewed under the same CA when two thirds of its own 90 days are over, of which it has had 10.
    world.pass(50 * DAY - HOUR);
    world.turn(&mut engine);
    assert_eq!(world.credential(), credential);
    world.pass(2 * HOUR);
    world.turn(&mut engine);
    let renewed = world.credential();
    assert_eq!(renewed.generation, credential.generation + 1);
    assert_eq!(renewed.ca_certificates, credential.ca_certificates);
    verify(&renewed, world.wall);
}

/// What lies on the disk is checked like what is new, by the rules for whoever issued it.
#[test]
fn a_certificate_is_linted_again_at_each_start_with_the_grade_of_its_origin() {
    let world = World::new();
    let (_, pair) = stock(&world);
    drop(world.start());
    drop(world.start());
    assert_eq!(world.credential().leaf.chain, pair.chain_pem());
    // If it were ours it would live too long: advice binds us, and nobody else.
    let journal = world.path("state/journal.jsonl");
    let records = std::fs::read_to_string(&journal).unwrap();
    let ours = records.replace("\"foreign\":true", "\"foreign\":false");
    assert_ne!(ours, records);
    std::fs::write(&journal, ours).unwrap();
    drop(world.start());
    let credential = world.credential();
    verify(&credential, world.wall);
    assert_ne!(credential.leaf.chain, pair.chain_pem());
    assert_eq!(world.stored("tls.crt"), credential.leaf.chain);
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn a_token_is_passed_on_to_connectors_and_its_change_as_well() {
    let world = World::new();
    stock(&world);
    let mut engine = world.start();
    let token = |world: &World| {
        world.board.publications.borrow()["main"]
            .token
            .clone()
            .unwrap()
    };
    assert_eq!(token(&world).token.expose(), "canary-token");
    let first = token(&world).generation;
    drop(engine);
    engine = world.start();
    assert_eq!(token(&world).generation, first);
    write(&world, "tunnel-token", "another");
    world.turn(&mut engine);
    assert_eq!(token(&world).token.expose(), "another");
    assert_eq!(token(&world).generation, first + 1);
    // Proxies are not bothered by it.
    assert_eq!(world.credential().generation, 1);
}

#[test]
fn a_certificate_that_renew_cert_wrote_meanwhile_is_taken_up() {
    let mut world = World::new();
    drop(world.start());
    let before = world.credential();
    world.pass(60);
    let life = Duration::from_secs(30 * DAY);
    let renewed = crate::renew::renew_cert(
        &world.path("store"),
        life,
        Duration::ZERO,
        world.moment().wall,
    );
    assert!(matches!(
        renewed.unwrap(),
        crate::renew::Renewed::Replaced { .. }
    ));
    let stored = world.stored("tls.crt");
    drop(world.start());
    let after = world.credential();
    assert_eq!(after.leaf.chain, stored);
    assert_eq!(after.generation, before.generation + 1);
    drop(world.start());
    assert_eq!(world.credential(), after);
}

#[test]
fn a_stored_pair_that_does_not_belong_together_is_replaced() {
    let world = World::new();
    let (authority, pair) = stock(&world);
    let other = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256).unwrap();
    write(&world, "tls.key", &other.to_pem());
    world.start();
    let credential = world.credential();
    verify(&credential, world.wall);
    assert_ne!(credential.leaf.chain, pair.chain_pem());
    assert_eq!(
        credential.ca_certificates,
        [authority.certificate().to_pem()]
    );
}

#[test]
fn a_store_that_cannot_be_taken_up_says_why() {
    let refused = |change: &dyn Fn(&World), what: &str| {
        let world = World::new();
        stock(&world);
        change(&world);
        let failure = world.try_open().err().unwrap();
        assert_eq!(failure.exit(), process::Exit::Config);
        assert!(failure.to_string().contains(what), "{failure}");
        assert_eq!(world.stored("tunnel-token"), "canary-token\n");
    };
    let key = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256).unwrap();
    let remove = |name: &'static str| {
        move |world: &World| std::fs::remove_file(world.path("store").join(name)).unwrap()
    };
    refused(&remove("ca.key"), "has ca.crt and no ca.key");
    refused(
        &|world| write(world, "ca.key", &key.to_pem()),
        "the private key does not belong",
    );
    refused(
        &|world| write(world, "ca.key", "garbage"),
        "ca.key cannot be used",
    );
    refused(
        &|world| write(world, "tunnel-domain", "u.example.com"),
        "belongs to the tunnel domain u.example.com",
    );
    // F33: a CA of the future.
    let future = |world: &World| {
        let then = world.moment().wall + Duration::from_secs(DAY);
        let profile = pki::AuthorityProfile::server("future");
        let authority = pki::Authority::generate(&profile, then).unwrap();
        write(world, "ca.crt", &authority.certificate().to_pem());
        write(world, "ca.key", &authority.private_key().to_pem());
    };
    refused(&future, "not yet valid");
    let expired = |world: &World| {
        let then = world.moment().wall - Duration::from_secs(2 * 365 * DAY);
        let profile = pki::AuthorityProfile::server("expired");
        let authority = pki::Authority::generate(&profile, then).unwrap();
        write(world, "ca.crt", &authority.certificate().to_pem());
        write(world, "ca.key", &authority.private_key().to_pem());
    };
    refused(&expired, "has expired");
}

#[test]
fn a_foreign_ca_in_the_store_alarms_and_is_not_written_over() {
    let world = World::new();
    drop(world.start());
    let before = world.credential();
    let profile = pki::AuthorityProfile::server("foreign");
    let foreign = pki::Authority::generate(&profile, world.moment().wall).unwrap();
    write(&world, "ca.crt", &foreign.certificate().to_pem());
    write(&world, "ca.key", &foreign.private_key().to_pem());
    let mut engine = world.start();
    assert_eq!(world.credential(), before);
    let alarm = world.status().alarms[0].clone();
    assert!(
        alarm.contains(&foreign.certificate().fingerprint().to_string()),
        "{alarm}"
    );
    assert_eq!(world.rotate(&mut engine).state, OperationState::Done);
    assert_eq!(world.stored("ca.crt"), foreign.certificate().to_pem());
}

#[test]
fn a_second_daemon_is_refused_by_the_pid_of_the_first() {
    let world = World::new();
    let engine = world.start();
    let refused = world.try_open().err().unwrap().to_string();
    assert!(
        refused.contains(&format!("pid {}", std::process::id())),
        "{refused}"
    );
    drop(engine);
    world.try_open().unwrap();
}

#[test]
fn the_state_may_be_lost_and_generations_still_rise() {
    let world = World::new();
    let mut engine = world.start();
    for _ in 0..3 {
        world.rotate(&mut engine);
    }
    let before = world.credential();
    assert_eq!(before.generation, 4);
    drop(engine);
    std::fs::remove_dir_all(world.path("state")).unwrap();
    drop(world.start());
    let after = world.credential();
    // The store is enough to go on with the same CA and the same certificate.
    assert_eq!(
        (&after.leaf, &after.ca_certificates),
        (&before.leaf, &before.ca_certificates)
    );
    assert!(after.generation > before.generation);
    // Without a served directory the proxies say how far they are.
    std::fs::remove_dir_all(world.path("state")).unwrap();
    std::fs::remove_dir_all(world.path("served")).unwrap();
    world.connect("a", 70);
    drop(world.start());
    assert_eq!(world.credential().generation, 71);
    assert_eq!(world.credential().leaf, before.leaf);
}

/// A proxy that holds the policy of before refuses every earlier generation.
#[test]
fn the_state_may_be_lost_and_policies_still_rise() {
    let mut world = World::with("    routes: { docs: 'http://127.0.0.1:1' }\n");
    let policy = |world: &World| {
        let publications = world.board.publications.borrow();
        publications["main"].policy.clone().unwrap()
    };
    drop(world.start());
    world.settings = "    routes: { docs: 'http://127.0.0.1:2' }\n".to_owned();
    drop(world.start());
    let before = policy(&world);
    world.pass(5);
    std::fs::remove_dir_all(world.path("state")).unwrap();
    world.settings = "    routes: { renamed: 'http://127.0.0.1:2' }\n".to_owned();
    drop(world.start());
    let after = policy(&world);
    assert!(after.generation > before.generation);
    assert!(after.routes.as_ref().unwrap().contains_key("renamed"));
}

/// It would go on with routes and denials of before, and nobody would know.
#[test]
fn a_policy_that_a_proxy_refuses_alarms() {
    let world = World::with("    routes: { docs: 'http://127.0.0.1:1' }\n");
    let mut engine = world.start();
    world.ack("a");
    let key = ("main".to_owned(), Resource::Policy);
    world.board.replicas.send_modify(|replicas| {
        let replica = replicas.get_mut("a").unwrap();
        replica.nacks.insert(key, (7, Reason::Stale));
    });
    world.turn(&mut engine);
    assert_eq!(
        world.status().alarms,
        ["a refused the policy of generation 7 (stale) and goes on with the one before"]
    );
}

#[test]
fn the_served_directory_is_for_the_group_and_holds_no_ca_key() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::with("    routes: { docs: 'http://127.0.0.1:1' }\n");
    let mut engine = world.start();
    world.rotate(&mut engine);
    let served = world.path("served");
    let mode = |name: &str| served.join(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(""), mode("..data"), mode("tls.key")),
        (0o750, 0o750, 0o640)
    );
    let read = |name: &str| std::fs::read_to_string(served.join(name)).unwrap();
    let manifest: control::Manifest = serde_json::from_str(&read("manifest.json")).unwrap();
    let credential = world.credential();
    assert_eq!(manifest.generation, credential.generation);
    assert_eq!(
        manifest.leaf_sha256,
        world.status().server_certificate.unwrap().sha256
    );
    assert_eq!(
        manifest.policy.unwrap().routes.unwrap()["docs"].upstream,
        "http://127.0.0.1:1"
    );
    assert_eq!(read("tls.crt"), credential.leaf.chain);
    assert_eq!(read("tls.key"), credential.leaf.key.expose());
    let ca_key = world.stored("ca.key");
    for set in std::fs::read_dir(&served).unwrap() {
        let path = set.unwrap().path();
        for file in std::fs::read_dir(&path).into_iter().flatten() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(!text.contains(ca_key.trim()));
        }
    }
    assert_eq!(
        std::fs::metadata(world.path("state"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o700
    );
    assert_eq!(
        std::fs::metadata(world.path("store"))
            .unwrap()
            .permissions()
            .mode()
            & 0o7777,
        0o700
    );
}
