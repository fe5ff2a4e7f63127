//! What is sent to whom: its scope and nothing else, the newest and nothing twice.

use super::*;

#[tokio::test]
async fn a_proxy_gets_credential_and_policy_and_its_ack_is_noted() {
    let stage = Stage::new();
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    stage.publish("main", publication("main", 7));
    assert_eq!(peer.credential().await.generation, 7);
    assert!(matches!(peer.next().await, Some(FromDaemon::Policy(_))));
    peer.send(ack(7)).await;
    let replica = stage
        .replica("p", |replica| replica.acks.contains_key(&credential_key()))
        .await;
    assert_eq!(replica.acks[&credential_key()], 7);
    assert!(replica.connected && !replica.left);
}

#[tokio::test]
async fn a_connector_gets_the_token_and_never_a_key() {
    let stage = Stage::new();
    stage.publish("main", publication("main", 3));
    let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
    let line = serde_json::to_string(&FromSubscriber::Hello(hello(Role::Connector, "c"))).unwrap();
    stream
        .write_all(format!("{line}\n").as_bytes())
        .await
        .unwrap();
    stage.replica("c", |replica| replica.connected).await;
    stage.publish("main", publication("main", 4));
    // All that ever comes: read until both generations of the token were seen or only the newer.
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains("\"generation\":4") {
        let read = stream.read(&mut buffer).await.unwrap();
        assert_ne!(read, 0, "the subscription stands");
        seen.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    assert!(seen.contains("canary-token"));
    assert!(!seen.contains(KEY) && !seen.contains("credential") && !seen.contains("policy"));
}

#[tokio::test]
async fn a_subscriber_gets_the_tunnels_that_it_named_and_no_other() {
    let stage = Stage::new();
    stage.publish("other", publication("other", 1));
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    stage.publish("main", publication("main", 2));
    assert_eq!(peer.credential().await.tunnel, "main");
}

#[tokio::test]
async fn no_tunnel_named_means_every_tunnel() {
    let stage = Stage::new();
    stage.publish("main", publication("main", 1));
    stage.publish("other", publication("other", 1));
    let mut greeting = hello(Role::Proxy, "p");
    greeting.tunnels.clear();
    let mut peer = stage.subscribe(greeting).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(match peer.next().await {
            Some(FromDaemon::Credential(one)) => ("credential", one.tunnel),
            Some(FromDaemon::Policy(one)) => ("policy", one.tunnel),
            other => panic!("out of scope: {other:?}"),
        });
    }
    let expected = [
        ("credential", "main"),
        ("policy", "main"),
        ("credential", "other"),
        ("policy", "other"),
    ];
    assert_eq!(
        order,
        expected.map(|(kind, tunnel)| (kind, tunnel.to_owned()))
    );
}

#[tokio::test]
async fn only_the_newest_generation_is_sent() {
    let stage = Stage::new();
    for generation in 1..=9 {
        stage.publish("main", publication("main", generation));
    }
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    assert_eq!(peer.credential().await.generation, 9);
}

#[tokio::test]
async fn what_a_replica_serves_already_is_not_sent_again_but_counts_as_acknowledged() {
    let stage = Stage::new();
    stage.publish("main", publication("main", 5));
    let mut first = stage.subscribe(hello(Role::Proxy, "p")).await;
    let credential = first.credential().await;
    assert!(credential.leaf.key.expose().contains(KEY));
    let leaf = pki::Certificate::from_pem(&credential.leaf.chain).unwrap();
    let mut greeting = hello(Role::Proxy, "p");
    greeting.serving = vec![Serving {
        tunnel: "main".to_owned(),
        generation: 5,
        leaf_sha256: leaf.fingerprint().to_string(),
    }];
    let mut again = stage.subscribe(greeting.clone()).await;
    assert!(matches!(again.next().await, Some(FromDaemon::Policy(_))));
    let replica = stage.replica("p", |replica| !replica.acks.is_empty()).await;
    assert_eq!(replica.acks[&credential_key()], 5);
    // The same generation with another leaf is another credential.
    greeting.serving[0].leaf_sha256 = LEAF.to_owned();
    let mut stranger = stage.subscribe(greeting).await;
    assert_eq!(stranger.credential().await.generation, 5);
}

fn secret(generation: u64, value: &str) -> Arc<Tunnel> {
    Arc::new(Tunnel {
        tunnel: "main".to_owned(),
        generation,
        token: Secret::new(value.to_owned()),
    })
}

fn dialling(replica: &str) -> Hello {
    Hello {
        dials: vec!["main".to_owned()],
        ..hello(Role::Proxy, replica)
    }
}

impl Peer {
    /// The next value to dial with; credential and policy come before it.
    async fn dialled(&mut self) -> (u64, String) {
        loop {
            match self.next().await {
                Some(FromDaemon::Tunnel(one)) => {
                    return (one.generation, one.token.expose().to_owned());
                }
                Some(FromDaemon::Credential(_) | FromDaemon::Policy(_)) => {}
                other => panic!("out of scope: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_that_dials_gets_the_token_and_the_secret_in_its_place_once_there_is_one() {
    let stage = Stage::new();
    stage.publish("main", publication("main", 3));
    let mut peer = stage.subscribe(dialling("p")).await;
    assert_eq!(peer.dialled().await, (3, "canary-token".to_owned()));
    // However it is numbered, it is another value; a token that rotates beside it is of no matter.
    for (token, generation, value) in [(3, 3, "one"), (4, 5, "two"), (9, 6, "three")] {
        let publication = Publication {
            secret: Some(secret(generation, value)),
            ..publication("main", token)
        };
        stage.publish("main", publication);
        assert_eq!(peer.dialled().await, (generation, value.to_owned()));
    }
    let ack = |generation| {
        FromSubscriber::Ack(Ack {
            resource: Resource::Tunnel,
            tunnel: "main".to_owned(),
            generation,
            leaf_sha256: None,
        })
    };
    // What was never sent is not believed, and what was sent is.
    for generation in [9, 6] {
        peer.send(ack(generation)).await;
    }
    let key = ("main".to_owned(), Resource::Tunnel);
    let replica = stage
        .replica("p", |replica| replica.acks.contains_key(&key))
        .await;
    assert_eq!(replica.acks[&key], 6);
    assert_eq!(replica.dials, ["main"]);
}

#[tokio::test]
async fn a_proxy_gets_what_one_dials_with_for_the_tunnels_that_it_said_it_dials_and_no_other() {
    let stage = Stage::new();
    for tunnel in ["main", "other"] {
        let publication = Publication {
            secret: Some(secret(1, "canary-secret")),
            ..publication(tunnel, 1)
        };
        stage.publish(tunnel, publication);
    }
    let mut greeting = dialling("p");
    greeting.tunnels.clear();
    for (dials, wanted) in [(Vec::new(), 0), (vec!["main".to_owned()], 1)] {
        greeting.dials = dials;
        let mut peer = stage.subscribe(greeting.clone()).await;
        let mut seen = Vec::new();
        for _ in 0..4 + wanted {
            seen.push(peer.next().await.unwrap());
        }
        // The next publication ends what the ones before have to be followed by.
        stage.publish("other", publication("other", 2 + wanted));
        loop {
            let message = peer.next().await.unwrap();
            let last = matches!(&message, FromDaemon::Policy(one) if one.generation == 2 + wanted);
            seen.push(message);
            if last {
                break;
            }
        }
        let dialled: Vec<&str> = seen
            .iter()
            .filter_map(|message| match message {
                FromDaemon::Tunnel(one) => Some(&*one.tunnel),
                _ => None,
            })
            .collect();
        assert_eq!(dialled, vec!["main"; usize::try_from(wanted).unwrap()]);
    }
}

#[tokio::test]
async fn a_connector_gets_no_shared_secret_whatever_it_says_that_it_dials() {
    let stage = Stage::new();
    let publication = |generation| Publication {
        secret: Some(secret(generation, "canary-secret")),
        ..publication("main", generation)
    };
    stage.publish("main", publication(1));
    let mut greeting = hello(Role::Connector, "c");
    greeting.dials = vec!["main".to_owned()];
    let mut peer = stage.subscribe(greeting).await;
    for generation in 1..=2 {
        let wanted = (generation, "canary-token".to_owned());
        assert_eq!(peer.dialled().await, wanted);
        stage.publish("main", publication(2));
    }
    let replica = stage.replica("c", |replica| replica.connected).await;
    assert!(replica.dials.is_empty());
}
