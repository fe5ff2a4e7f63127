use super::*;

fn issue_client(name: &str, csr: String, lifetime_seconds: u64) -> Order {
    Order::IssueClient {
        tunnel: "main".to_owned(),
        name: name.to_owned(),
        csr,
        lifetime_seconds,
    }
}

/// F06
#[test]
fn a_hundred_triggers_at_once_are_one_issue() {
    let world = World::new();
    let mut engine = world.start();
    let mut answers = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..100 {
        let (answer, answered) = oneshot::channel();
        let tunnel = "main".to_owned();
        requests.push(Request {
            order: Order::RotateServerCertificate { tunnel },
            actor: "uid:1000".to_owned(),
            answer,
        });
        answers.push(answered);
    }
    world.turn_with(&mut engine, requests);
    let outcomes: Vec<_> = answers
        .iter_mut()
        .map(|answer| answer.try_recv().unwrap())
        .collect();
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let refused = outcomes.into_iter().find_map(Result::err).unwrap();
    assert!(
        refused.what.starts_with("it is already running"),
        "{refused:?}"
    );
    assert_eq!(world.credential().generation, 2);
}

#[test]
fn an_order_for_a_tunnel_that_is_not_there_names_those_that_are() {
    let world = World::new();
    let mut engine = world.start();
    let tunnel = "mian".to_owned();
    let order = Order::RotateServerCertificate { tunnel };
    let refused = world.order(&mut engine, order).unwrap_err();
    assert_eq!(refused.what, "there is no tunnel \"mian\"");
    assert_eq!(refused.next, "configured are: main");
}

#[test]
fn orders_fail_at_once_when_the_ca_cannot_sign() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("a");
    let key = |name: &str| world.path("state/custody/main").join(name);
    let lost = world.ca_keys();
    for name in &lost {
        std::fs::remove_file(key(name)).unwrap();
    }
    // The running daemon finds out when it needs the standby.
    let refused = world.order(&mut engine, switch(true)).unwrap_err();
    assert!(refused.what.contains("is not in custody"), "{refused:?}");
    drop(engine);
    // The store has a copy of the key in force; without it nothing can be signed.
    std::fs::remove_dir_all(world.path("store")).unwrap();
    let standby = world.status().standby_ca.unwrap().sha256;
    engine = world.start();
    assert_ne!(world.status().standby_ca.unwrap().sha256, standby);
    let operation = world.rotate(&mut engine);
    assert_eq!(operation.state, OperationState::Failed);
    assert!(
        operation.detail.contains("the CA cannot sign")
            && operation.detail.ends_with("nothing was begun"),
        "{operation:?}"
    );
}

#[test]
fn a_client_certificate_is_signed_for_a_key_that_stays_where_it_is() {
    let world = World::with("    client_ca: { lifetime: 30d }\n");
    let mut engine = world.start();
    let key = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256).unwrap();
    let csr = pki::request(&key, "ignored").unwrap();
    let order = issue_client("agent-1.example.com", csr, HOUR);
    let operation = world.order(&mut engine, order).unwrap();
    assert_eq!(operation.state, OperationState::Done);
    let certificate = Certificate::from_pem(&operation.certificate.unwrap()).unwrap();
    assert_eq!(certificate.public_key(), key.public_key());
    assert_eq!(certificate.dns_names(), ["agent-1.example.com"]);
    assert_eq!(certificate.validity().not_after_unix(), START + HOUR);
    let ca = Certificate::from_pem(&world.credential().client_ca_certificates[0]).unwrap();
    assert_eq!(certificate.authority_key_id(), ca.subject_key_id());
    // The client CA never signs for servers, and the other one never for clients.
    assert_ne!(ca.to_pem(), world.status().ca.unwrap().pem);
    // What was issued stands in the journal.
    let journal = std::fs::read_to_string(world.path("state/journal.jsonl")).unwrap();
    assert!(journal.contains(&certificate.fingerprint().to_string()));
    // The client CA is the same after a restart.
    drop(engine);
    world.start();
    let again = Certificate::from_pem(&world.credential().client_ca_certificates[0]).unwrap();
    assert_eq!(again.fingerprint(), ca.fingerprint());
}

#[test]
fn a_client_certificate_is_refused_with_the_reason() {
    let plain = World::new();
    let mut engine = plain.start();
    let key = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256).unwrap();
    let csr = pki::request(&key, "a").unwrap();
    let refused = plain
        .order(&mut engine, issue_client("a", csr.clone(), HOUR))
        .unwrap_err();
    assert_eq!(refused.what, "tunnel main has no client CA");
    assert_eq!(refused.fault, Fault::State);
    let world = World::with("    client_ca: {}\n");
    let mut engine = world.start();
    for (name, csr, lifetime, what) in [
        ("a", "garbage".to_owned(), HOUR, "not a certificate request"),
        ("not a name", csr.clone(), HOUR, "cannot stand as a name"),
        ("a", csr, 0, "lifetime"),
    ] {
        let refused = world
            .order(&mut engine, issue_client(name, csr, lifetime))
            .unwrap_err();
        assert!(refused.what.contains(what), "{refused:?}");
        assert_eq!(refused.fault, Fault::Words, "{refused:?}");
    }
}

#[test]
fn a_client_certificate_that_the_ca_cuts_short_says_so() {
    let world = World::with("    client_ca: { lifetime: 30d }\n");
    let mut engine = world.start();
    let key = pki::PrivateKey::generate(pki::Algorithm::EcdsaP256).unwrap();
    let csr = pki::request(&key, "a").unwrap();
    let order = |lifetime| issue_client("a", csr.clone(), lifetime);
    let whole = world.order(&mut engine, order(29 * DAY)).unwrap();
    assert_eq!(whole.detail, "issued for a");
    let cut = world.order(&mut engine, order(29 * DAY + 1)).unwrap();
    let said = "issued for a, and ends sooner than asked for, with the client CA";
    assert_eq!(cut.detail, said);
    assert_eq!(world.operation(&cut.id).detail, said);
    let certificate = Certificate::from_pem(&cut.certificate.unwrap()).unwrap();
    assert_eq!(certificate.validity().not_after_unix(), START + 29 * DAY);
}

#[test]
fn what_every_proxy_refuses_is_taken_back() {
    let world = World::new();
    let mut engine = world.start();
    world.ack("a");
    world.turn(&mut engine);
    let good = world.credential();
    let operation = world.rotate(&mut engine);
    world.nack("a", Reason::NotYetValid);
    world.turn(&mut engine);
    let operation = world.operation(&operation.id);
    assert_eq!(operation.state, OperationState::Failed);
    assert!(
        operation.detail.contains("the earlier one is back"),
        "{}",
        operation.detail
    );
    let back = world.credential();
    assert_eq!(back.leaf, good.leaf);
    assert_eq!(back.generation, 3);
    world.ack("a");
    world.turn(&mut engine);
    assert!(world.status().alarms[0].contains("every proxy refused"));
    // The alarm goes with the next one that is taken.
    assert_eq!(world.rotate(&mut engine).state, OperationState::Running);
    world.ack("a");
    world.turn(&mut engine);
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn whoever_is_answered_finds_his_operation_in_the_status() {
    let world = World::new();
    let mut engine = world.start();
    let (answer, answered) = oneshot::channel();
    let tunnel = "main".to_owned();
    let request = Request {
        order: Order::RotateServerCertificate { tunnel },
        actor: "uid:1000".to_owned(),
        answer,
    };
    let status = world.board.status.clone();
    // As quick as a client can be, while the turn still makes keys and syncs files.
    let client = std::thread::spawn(move || {
        let operation = answered.blocking_recv().unwrap().unwrap();
        let status = status.borrow();
        status.operations.iter().any(|one| one.id == operation.id)
    });
    world.turn_with(&mut engine, vec![request]);
    assert!(client.join().unwrap());
}
