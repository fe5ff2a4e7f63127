//! The control channel over real sockets, with real uids of this process.

use std::collections::BTreeMap;
use std::path::PathBuf;

use control::{
    Ack, Bye, Credential, FromDaemon, FromSubscriber, Hello, Nack, Policy, Reader, Reason, Refusal,
    Refused, Report, Resource, Role, Secret, Serving, Tunnel, TunnelReport, Version, Writer,
};
use process::SystemClock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::board::{Publication, Publications, Replica, Replicas};
use crate::credential::{LintedCredential, Terms, tests::linted};

mod refusals;

/// Fingerprint of another leaf.
const LEAF: &str = "c30f4c2e5b2da9ec2ae2a9d4e2dd7c5b4b1b3f9c3e3b0fdd7f4ca5d1e8f8d9a0";
/// Stands in every key.
const KEY: &str = "PRIVATE KEY";

struct Stage {
    board: Board,
    socket: PathBuf,
    tasks: Tasks,
    _directory: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with(
            Limits::default(),
            [rustix::process::getuid().as_raw()].into(),
        )
    }

    fn with(limits: Limits, subscribers: BTreeSet<u32>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control/control.sock");
        let board = Board {
            publications: watch::Sender::default(),
            replicas: watch::Sender::default(),
            status: watch::Sender::default(),
            requests: mpsc::channel(1).0,
        };
        let settings = Settings {
            socket: socket.clone(),
            group: None,
            subscribers,
            tunnels: ["main".to_owned(), "other".to_owned()].into(),
        };
        let publisher =
            Publisher::bind(settings, limits, board.clone(), Arc::new(SystemClock)).unwrap();
        let tasks = Tasks::new();
        tasks.essential("publisher", publisher.run(tasks.clone()));
        Self {
            board,
            socket,
            tasks,
            _directory: directory,
        }
    }

    async fn dial(&self) -> Peer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (read, write) = stream.into_split();
        Peer {
            reader: Reader::new(read),
            writer: Writer::new(write),
        }
    }

    /// Subscribes and takes the welcome.
    async fn subscribe(&self, hello: Hello) -> Peer {
        let mut peer = self.dial().await;
        peer.send(FromSubscriber::Hello(hello)).await;
        assert!(matches!(peer.next().await, Some(FromDaemon::Welcome(_))));
        peer
    }

    fn publish(&self, tunnel: &str, publication: Publication) {
        self.board
            .publications
            .send_modify(|all: &mut Publications| {
                all.insert(tunnel.to_owned(), publication);
            });
    }

    /// The replica `name` once it is as `wanted`.
    async fn replica(&self, name: &str, wanted: impl Fn(&Replica) -> bool) -> Replica {
        let mut replicas = self.board.replicas.subscribe();
        let fits = |all: &Replicas| all.get(name).is_some_and(&wanted);
        let all = tokio::time::timeout(Duration::from_secs(10), replicas.wait_for(fits))
            .await
            .expect("it comes to that in time")
            .unwrap();
        all[name].clone()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

struct Peer {
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
}

impl Peer {
    async fn send(&mut self, message: FromSubscriber) {
        self.writer.send(&message).await.unwrap();
    }

    /// The next message; `None`: the daemon closed the connection.
    async fn next(&mut self) -> Option<FromDaemon> {
        tokio::time::timeout(Duration::from_secs(10), self.reader.next())
            .await
            .expect("the daemon answers or closes in time")
            .unwrap_or(None)
    }

    async fn refusal(&mut self) -> Refused {
        match self.next().await {
            Some(FromDaemon::Refused(refused)) => {
                assert_eq!(self.next().await, None, "a refused connection is closed");
                refused
            }
            other => panic!("no refusal: {other:?}"),
        }
    }

    async fn credential(&mut self) -> Credential {
        match self.next().await {
            Some(FromDaemon::Credential(credential)) => credential,
            other => panic!("no credential: {other:?}"),
        }
    }
}

fn hello(role: Role, replica: &str) -> Hello {
    Hello {
        protocol: Version::CURRENT,
        role,
        tunnels: vec!["main".to_owned()],
        replica: replica.to_owned(),
        build: "test".to_owned(),
        serving: Vec::new(),
    }
}

fn credential(tunnel: &str, generation: u64, ca: String) -> Arc<LintedCredential> {
    let terms = Terms {
        tunnel: tunnel.to_owned(),
        generation,
        ca_certificates: vec![ca],
        ..Terms::default()
    };
    Arc::new(LintedCredential::new(
        linted("t.example", 1_800_000_000),
        terms,
    ))
}

fn publication(tunnel: &str, generation: u64) -> Publication {
    Publication {
        credential: Some(credential(tunnel, generation, String::new())),
        policy: Some(Arc::new(Policy {
            tunnel: tunnel.to_owned(),
            generation,
            routes: None,
            denied: Vec::new(),
        })),
        token: Some(Arc::new(Tunnel {
            tunnel: tunnel.to_owned(),
            generation,
            token: Secret::new("canary-token".to_owned()),
        })),
    }
}

fn ack(generation: u64) -> FromSubscriber {
    FromSubscriber::Ack(Ack {
        resource: Resource::Credential,
        tunnel: "main".to_owned(),
        generation,
        leaf_sha256: None,
    })
}

fn credential_key() -> (String, Resource) {
    ("main".to_owned(), Resource::Credential)
}

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

#[tokio::test]
async fn an_ack_of_what_was_never_sent_is_not_believed() {
    let stage = Stage::new();
    stage.publish("main", publication("main", 5));
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    peer.credential().await;
    peer.send(ack(6)).await;
    peer.send(FromSubscriber::Ack(Ack {
        resource: Resource::Credential,
        tunnel: "main".to_owned(),
        generation: 5,
        leaf_sha256: Some(LEAF.to_owned()),
    }))
    .await;
    peer.send(FromSubscriber::Ack(Ack {
        resource: Resource::Credential,
        tunnel: "other".to_owned(),
        generation: 1,
        leaf_sha256: None,
    }))
    .await;
    peer.send(FromSubscriber::Bye(Bye::default())).await;
    let replica = stage.replica("p", |replica| replica.left).await;
    assert_eq!(replica.acks, BTreeMap::new());
}

#[tokio::test]
async fn a_nack_stands_until_a_later_ack() {
    let stage = Stage::new();
    stage.publish("main", publication("main", 5));
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    peer.credential().await;
    peer.send(FromSubscriber::Nack(Nack {
        resource: Resource::Credential,
        tunnel: "main".to_owned(),
        generation: 5,
        reason: Reason::Expired,
    }))
    .await;
    let replica = stage
        .replica("p", |replica| !replica.nacks.is_empty())
        .await;
    assert_eq!(replica.nacks[&credential_key()], (5, Reason::Expired));
    stage.publish("main", publication("main", 6));
    peer.send(ack(6)).await;
    // The ack may overtake the credential: it is believed only once that was sent.
    loop {
        if let Some(FromDaemon::Credential(one)) = peer.next().await
            && one.generation == 6
        {
            break;
        }
    }
    peer.send(ack(6)).await;
    let replica = stage.replica("p", |replica| replica.nacks.is_empty()).await;
    assert_eq!(replica.acks[&credential_key()], 6);
}

#[tokio::test]
async fn a_report_is_noted_for_the_replicas_own_tunnels_only() {
    let stage = Stage::new();
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    let about = |tunnel: &str| TunnelReport {
        tunnel: tunnel.to_owned(),
        ..TunnelReport::default()
    };
    peer.send(FromSubscriber::Report(Report {
        tunnels: vec![about("other"), about("main")],
        carriers: vec!["tls".to_owned()],
    }))
    .await;
    let replica = stage
        .replica("p", |replica| !replica.report.carriers.is_empty())
        .await;
    assert_eq!(replica.report.tunnels, [about("main")]);
}

#[tokio::test]
async fn a_newer_subscription_of_the_same_name_replaces_the_older() {
    let stage = Stage::new();
    let mut older = stage.subscribe(hello(Role::Proxy, "p")).await;
    let mut newer = stage.subscribe(hello(Role::Proxy, "p")).await;
    let told = older.refusal().await;
    assert_eq!(told.reason, Refusal::Replaced, "the older one is closed");
    stage.publish("main", publication("main", 1));
    assert_eq!(newer.credential().await.generation, 1);
    let replica = stage.replica("p", |_| true).await;
    assert!(
        replica.connected,
        "the end of the older one is not the newer one's"
    );
}

#[tokio::test]
async fn bye_and_a_broken_connection_are_told_apart() {
    let stage = Stage::new();
    let mut polite = stage.subscribe(hello(Role::Proxy, "polite")).await;
    polite.send(FromSubscriber::Bye(Bye::default())).await;
    drop(polite);
    drop(stage.subscribe(hello(Role::Proxy, "rude")).await);
    let polite = stage.replica("polite", |replica| !replica.connected).await;
    let rude = stage.replica("rude", |replica| !replica.connected).await;
    assert!(polite.left && !rude.left);
}

#[tokio::test]
async fn a_newer_minor_version_with_unknown_kinds_and_fields_is_served() {
    let stage = Stage::new();
    let mut stream = UnixStream::connect(&stage.socket).await.unwrap();
    let lines = concat!(
        r#"{"kind":"hello","protocol":"1.9","role":"proxy","tunnels":["main"],"replica":"p","build":"b","mood":"new"}"#,
        "\n",
        r#"{"kind":"hologram","x":[1,2]}"#,
        "\n",
        r#"{"kind":"bye","why":"x","until":"y"}"#,
        "\n",
    );
    stream.write_all(lines.as_bytes()).await.unwrap();
    let replica = stage.replica("p", |replica| replica.left).await;
    assert_eq!(replica.build, "b");
}

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

#[tokio::test]
async fn a_replica_that_is_gone_is_forgotten_after_its_time_and_a_connected_one_is_not() {
    let stage = Stage::new();
    let _here = stage.subscribe(hello(Role::Proxy, "here")).await;
    drop(stage.subscribe(hello(Role::Proxy, "gone")).await);
    stage.replica("gone", |replica| !replica.connected).await;
    let roster = Arc::new(Roster::new(
        stage.board.replicas.clone(),
        Arc::new(SystemClock),
    ));
    let seat = roster
        .enter(&hello(Role::Proxy, "again"), 1, Vec::new())
        .map_err(|_| "taken")
        .unwrap();
    roster.sweep(Duration::ZERO);
    assert!(stage.board.replicas.borrow().contains_key("again"));
    drop(seat);
    roster.sweep(Duration::from_secs(3600));
    assert!(stage.board.replicas.borrow().contains_key("again"));
    roster.sweep(Duration::ZERO);
    assert!(!stage.board.replicas.borrow().contains_key("again"));
}

#[tokio::test]
async fn the_stop_ends_every_subscription_and_takes_the_socket_away() {
    let stage = Stage::new();
    let mut peer = stage.subscribe(hello(Role::Proxy, "p")).await;
    assert_eq!(
        stage.tasks.drain(Duration::from_secs(10)).await,
        process::Drained::Clean
    );
    assert_eq!(peer.next().await, None);
    assert!(!stage.socket.exists());
}

#[test]
fn the_same_complaint_about_the_same_uid_is_made_once_a_minute() {
    let complaints = Complaints::default();
    assert!(complaints.is_news(1, "x", Duration::from_secs(0)));
    assert!(!complaints.is_news(1, "x", Duration::from_secs(59)));
    assert!(complaints.is_news(2, "x", Duration::from_secs(59)));
    assert!(complaints.is_news(1, "y", Duration::from_secs(59)));
    assert!(complaints.is_news(1, "x", Duration::from_secs(60)));
}
