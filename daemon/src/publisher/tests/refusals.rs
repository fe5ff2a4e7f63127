//! Who is refused, and in which words.

use super::*;

#[tokio::test]
async fn another_major_version_is_refused_by_name() {
    let stage = Stage::new();
    let mut peer = stage.dial().await;
    let mut greeting = hello(Role::Proxy, "p");
    greeting.protocol = Version { major: 2, minor: 0 };
    peer.send(FromSubscriber::Hello(greeting)).await;
    let detail = "this daemon speaks 1.0, the subscriber 2.0; run both from the same release";
    assert_eq!(peer.refusal().await, refused(Refusal::Protocol, detail));
}

#[tokio::test]
async fn an_unknown_tunnel_is_refused_with_those_that_there_are() {
    let stage = Stage::new();
    let mut peer = stage.dial().await;
    let mut greeting = hello(Role::Proxy, "p");
    greeting.tunnels = vec!["nowhere".to_owned()];
    peer.send(FromSubscriber::Hello(greeting)).await;
    let detail = "no tunnel \"nowhere\" here; there is main, other";
    assert_eq!(
        peer.refusal().await,
        refused(Refusal::UnknownTunnel, detail)
    );
    assert!(stage.board.replicas.borrow().is_empty());
}

#[tokio::test]
async fn a_tunnel_that_is_dialled_has_to_be_one_of_those_that_are_served() {
    let stage = Stage::new();
    let mut peer = stage.dial().await;
    let mut greeting = hello(Role::Proxy, "p");
    greeting.dials = vec!["main".to_owned(), "other".to_owned()];
    peer.send(FromSubscriber::Hello(greeting)).await;
    let detail = "no tunnel \"other\" here; there is main";
    assert_eq!(
        peer.refusal().await,
        refused(Refusal::UnknownTunnel, detail)
    );
    assert!(stage.board.replicas.borrow().is_empty());
}

#[tokio::test]
async fn a_uid_that_is_not_listed_is_refused_though_it_is_root() {
    let stage = Stage::with(Limits::default(), [65_533].into());
    let mut peer = stage.dial().await;
    peer.send(FromSubscriber::Hello(hello(Role::Proxy, "p")))
        .await;
    let uid = rustix::process::getuid().as_raw();
    let detail = format!(
        "uid {uid} may not subscribe; add it to control.subscribers in keyward.yaml if it should"
    );
    assert_eq!(peer.refusal().await, refused(Refusal::Permission, &detail));
    assert!(stage.board.replicas.borrow().is_empty());
}

#[tokio::test]
async fn a_first_line_that_is_no_hello_is_refused() {
    let stage = Stage::new();
    for line in [
        "{\"kind\":\"bye\"}\n",
        "GET / HTTP/1.1\r\n",
        "{\"kind\":\"hello\"}\n",
    ] {
        let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let expected = "{\"kind\":\"refused\",\"reason\":\"malformed\",\"detail\":\"the first line is no hello; see docs/control.md\"}\n";
        assert_eq!(answer, expected, "{line:?}");
    }
}

/// Longer than a message may be, and never a line.
#[tokio::test]
async fn an_endless_first_line_is_refused_as_one_that_is_no_hello() {
    let stage = Stage::new();
    let stream = UnixStream::connect(&stage.socket).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let mut answer = String::new();
    let long = vec![b'x'; control::MAX_MESSAGE + 2];
    let (_, told) = tokio::join!(write.write_all(&long), read.read_to_string(&mut answer));
    told.unwrap();
    assert!(
        answer.contains("\"the first line is no hello; see docs/control.md\""),
        "{answer}"
    );
}

#[tokio::test]
async fn silence_instead_of_hello_ends_at_the_limit() {
    let limits = Limits {
        hello: Duration::from_millis(50),
        ..Limits::default()
    };
    let stage = Stage::with(limits, [rustix::process::getuid().as_raw()].into());
    let mut peer = stage.dial().await;
    let detail = "no hello in time; see docs/control.md";
    assert_eq!(peer.refusal().await, refused(Refusal::Malformed, detail));
}

#[tokio::test]
async fn a_connector_cannot_take_a_proxys_name() {
    let stage = Stage::new();
    let _proxy = stage.subscribe(hello(Role::Proxy, "p")).await;
    let mut thief = stage.dial().await;
    thief
        .send(FromSubscriber::Hello(hello(Role::Connector, "p")))
        .await;
    let detail =
        "replica \"p\" is connected already as another uid or role; give each its own name";
    assert_eq!(thief.refusal().await, refused(Refusal::Permission, detail));
}

fn refused(reason: Refusal, detail: &str) -> Refused {
    Refused {
        reason,
        detail: detail.to_owned(),
    }
}
