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
