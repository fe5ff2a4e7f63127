//! Subscribers that talk too much, too long or not at all: let go, and no other is harmed.

use super::*;

#[tokio::test]
async fn an_oversized_line_ends_the_subscription_and_harms_no_other() {
    let stage = Stage::new();
    let mut other = stage.subscribe(hello(Role::Proxy, "other")).await;
    let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
    let line = serde_json::to_string(&FromSubscriber::Hello(hello(Role::Proxy, "p"))).unwrap();
    stream
        .write_all(format!("{line}\n").as_bytes())
        .await
        .unwrap();
    stage.replica("p", |replica| replica.connected).await;
    // The daemon may close before all of it is written.
    let _ = stream
        .write_all(&vec![b'x'; control::MAX_MESSAGE + 2])
        .await;
    stage.replica("p", |replica| !replica.connected).await;
    stage.publish("main", publication("main", 1));
    assert_eq!(other.credential().await.generation, 1);
}

#[tokio::test]
async fn a_malformed_line_ends_the_subscription_and_harms_no_other() {
    let stage = Stage::new();
    let mut other = stage.subscribe(hello(Role::Proxy, "other")).await;
    let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
    let line = serde_json::to_string(&FromSubscriber::Hello(hello(Role::Proxy, "p"))).unwrap();
    stream
        .write_all(format!("{line}\nnonsense\n").as_bytes())
        .await
        .unwrap();
    stage.replica("p", |replica| !replica.connected).await;
    stage.publish("main", publication("main", 1));
    assert_eq!(other.credential().await.generation, 1);
}

#[tokio::test]
async fn a_subscriber_that_stops_reading_is_let_go() {
    let limits = Limits {
        write: Duration::from_millis(50),
        ..Limits::default()
    };
    let stage = Stage::with(limits, [rustix::process::getuid().as_raw()].into());
    let _deaf = stage.subscribe(hello(Role::Proxy, "deaf")).await;
    stage.publish(
        "main",
        Publication {
            credential: Some(credential("main", 1, "x".repeat(900_000))),
            ..Publication::default()
        },
    );
    stage.replica("deaf", |replica| !replica.connected).await;
}

#[tokio::test]
async fn a_resource_that_is_too_long_keeps_the_subscription() {
    let stage = Stage::new();
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    stage.publish(
        "main",
        Publication {
            credential: Some(credential("main", 1, "x".repeat(control::MAX_MESSAGE))),
            ..publication("main", 1)
        },
    );
    assert!(matches!(peer.next().await, Some(FromDaemon::Policy(_))));
    stage.publish("main", publication("main", 2));
    assert_eq!(peer.credential().await.generation, 2);
}

#[tokio::test]
async fn a_subscriber_that_never_stops_talking_is_let_go() {
    let limits = Limits {
        messages: 5,
        ..Limits::default()
    };
    let stage = Stage::with(limits, [rustix::process::getuid().as_raw()].into());
    let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
    let mut lines = serde_json::to_string(&FromSubscriber::Hello(hello(Role::Proxy, "p"))).unwrap();
    lines.push('\n');
    lines.push_str(&"{\"kind\":\"report\",\"tunnels\":[]}\n".repeat(50));
    stream.write_all(lines.as_bytes()).await.unwrap();
    stage.replica("p", |replica| !replica.connected).await;
}

#[tokio::test]
async fn one_uid_has_so_many_subscriptions_and_no_more() {
    let limits = Limits {
        subscribers: 2,
        ..Limits::default()
    };
    let stage = Stage::with(limits, [rustix::process::getuid().as_raw()].into());
    let _first = stage.subscribe(hello(Role::Proxy, "1")).await;
    let second = stage.subscribe(hello(Role::Proxy, "2")).await;
    assert_eq!(stage.dial().await.next().await, None, "the third is closed");
    drop(second);
    stage.replica("2", |replica| !replica.connected).await;
    // The place is free a moment after the replica is gone.
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        let mut peer = stage.dial().await;
        let greeting = FromSubscriber::Hello(hello(Role::Proxy, "3"));
        if peer.writer.send(&greeting).await.is_ok() && peer.next().await.is_some() {
            break;
        }
        assert!(tokio::time::Instant::now() < limit, "the place came free");
    }
}
