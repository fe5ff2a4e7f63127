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

mod limits;
mod refusals;
mod sent;

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
        dials: Vec::new(),
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
        secret: None,
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
async fn a_replica_that_is_gone_is_forgotten_after_its_time_and_a_connected_one_is_not() {
    let stage = Stage::new();
    let _here = stage.subscribe(hello(Role::Proxy, "here")).await;
    drop(stage.subscribe(hello(Role::Proxy, "gone")).await);
    stage.replica("gone", |replica| !replica.connected).await;
    let roster = Arc::new(Roster::new(
        stage.board.replicas.clone(),
        Arc::new(SystemClock),
        64,
    ));
    let seat = roster
        .enter(&hello(Role::Proxy, "again"), 1, roster::Scope::default())
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
