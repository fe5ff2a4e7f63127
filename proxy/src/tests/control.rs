//! The control channel, with the test as the daemon at the other end of a real socket.

use std::sync::Arc;
use std::time::Duration;

use control::{
    Ack, Credential, FrameError, FromDaemon, FromSubscriber, Hello, Nack, Policy, Reader, Reason,
    Refusal, Refused, Report, Resource, Role, Secret, Tunnel, Version, Welcome, Writer,
};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::world::{Ca, Caller, Proxy, leaf_sha256, shown, within};
use crate::carrier::Up;
use crate::config::{Config, ControlSource};
use crate::control::Subscriber;
use crate::dial::{Pushed, Roster};

/// A subscribed proxy and the socket at which the test plays the daemon.
struct Stand {
    proxy: Proxy,
    listener: UnixListener,
    _directory: tempfile::TempDir,
}

/// The daemon's end of one subscription.
struct Daemon {
    reader: Reader<OwnedReadHalf>,
    raw: OwnedWriteHalf,
}

impl Stand {
    async fn new(daemon_uid: Option<u32>) -> Self {
        Self::with(daemon_uid, None).await
    }

    async fn with(daemon_uid: Option<u32>, pushed: Option<Pushed>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("control.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let proxy = Proxy::start().await;
        let subscriber = Subscriber {
            source: ControlSource {
                socket,
                daemon_uid,
                tunnels: vec!["main".to_owned()],
                replica: "r1".to_owned(),
            },
            credentials: proxy.credentials.clone(),
            forwarder: proxy.forwarder.clone(),
            routed: Some(proxy.forwarder.clone()),
            carriers: Up {
                addresses: Vec::new(),
                listening: vec!["tls".to_owned()],
                edge: None,
            },
            pushed,
            tasks: proxy.tasks.clone(),
        };
        proxy.tasks.essential("control", subscriber.run());
        Self {
            proxy,
            listener,
            _directory: directory,
        }
    }

    async fn connection(&self) -> UnixStream {
        within("a subscription", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    async fn subscription(&self) -> (Hello, Daemon) {
        let (read, write) = self.connection().await.into_split();
        let mut daemon = Daemon {
            reader: Reader::new(read),
            raw: write,
        };
        let Some(FromSubscriber::Hello(hello)) = daemon.next().await else {
            panic!("hello is the first line");
        };
        let welcome = Welcome {
            protocol: Version { major: 1, minor: 7 },
            tunnels: hello.tunnels.clone(),
        };
        daemon.send(FromDaemon::Welcome(welcome)).await;
        (hello, daemon)
    }
}

impl Daemon {
    async fn send(&mut self, message: FromDaemon) {
        Writer::new(&mut self.raw).send(&message).await.unwrap();
    }

    async fn next(&mut self) -> Option<FromSubscriber> {
        within("a message", self.reader.next()).await.unwrap()
    }

    /// The next message that is no report.
    async fn answer(&mut self) -> FromSubscriber {
        loop {
            match self.next().await.expect("the subscription stands") {
                FromSubscriber::Report(_) => {}
                other => return other,
            }
        }
    }

    async fn report(&mut self) -> Report {
        loop {
            if let FromSubscriber::Report(report) = self.next().await.expect("it stands") {
                return report;
            }
        }
    }

    /// Whether the subscriber closes the connection.
    async fn is_left(&mut self) -> bool {
        loop {
            match within("the end", self.reader.next::<FromSubscriber>()).await {
                Ok(Some(FromSubscriber::Report(_))) => {}
                Ok(None) | Err(FrameError::Io(_) | FrameError::Cut) => return true,
                _ => return false,
            }
        }
    }
}

#[tokio::test]
async fn a_credential_is_acked_a_bad_one_nacked_and_the_next_hello_says_what_is_served() {
    let (ca, stand) = (Ca::new(), Stand::new(None).await);
    let (hello, mut daemon) = stand.subscription().await;
    assert_eq!((hello.role, hello.serving.len()), (Role::Proxy, 0));
    assert!(
        hello.dials.is_empty(),
        "its secret is in a file, or it dials nothing"
    );
    let good = ca.credential(1);
    daemon.send(FromDaemon::Credential(good.clone())).await;
    let ack = Ack {
        resource: Resource::Credential,
        tunnel: "main".to_owned(),
        generation: 1,
        leaf_sha256: Some(leaf_sha256(&good.leaf)),
    };
    assert_eq!(daemon.answer().await, FromSubscriber::Ack(ack.clone()));

    let mut bad = ca.credential(2);
    bad.leaf.key = ca.leaf().key;
    daemon.send(FromDaemon::Credential(bad)).await;
    let nack = Nack {
        resource: Resource::Credential,
        tunnel: "main".to_owned(),
        generation: 2,
        reason: Reason::KeyMismatch,
    };
    assert_eq!(daemon.answer().await, FromSubscriber::Nack(nack));

    // The daemon dies. What it gave stays in force, and the same again is acked without a swap.
    drop(daemon);
    let (hello, mut daemon) = stand.subscription().await;
    assert_eq!(hello.serving.len(), 1);
    assert_eq!(
        (hello.serving[0].generation, &*hello.serving[0].tunnel),
        (1, "main")
    );
    daemon.send(FromDaemon::Credential(good)).await;
    assert_eq!(daemon.answer().await, FromSubscriber::Ack(ack));
    assert_eq!(stand.proxy.credentials.alive().len(), 1);
}

#[tokio::test]
async fn an_ack_that_waits_for_a_handshake_holds_up_nothing_else() {
    let (ca, stand) = (Ca::new(), Stand::new(None).await);
    let (_, mut daemon) = stand.subscription().await;
    daemon.send(FromDaemon::Credential(ca.credential(1))).await;
    daemon.answer().await;
    let held = stand.proxy.credentials.begin(None).unwrap();
    daemon.send(FromDaemon::Credential(ca.credential(2))).await;
    let policy = Policy {
        tunnel: "main".to_owned(),
        generation: 1,
        routes: None,
        denied: vec!["00".to_owned()],
    };
    daemon.send(FromDaemon::Policy(policy)).await;
    let FromSubscriber::Ack(first) = daemon.answer().await else {
        panic!("the policy is acked");
    };
    assert_eq!(first.resource, Resource::Policy);
    drop(held);
    let FromSubscriber::Ack(second) = daemon.answer().await else {
        panic!("the credential is acked");
    };
    assert_eq!(
        (second.resource, second.generation),
        (Resource::Credential, 2)
    );
}

/// A tunnel that has another name after a restart of the daemon is the same one to those who call.
#[tokio::test]
async fn a_renamed_tunnel_is_served_under_its_new_name_after_the_ack_and_no_call_is_cut() {
    let (ca, stand) = (Ca::new(), Stand::new(None).await);
    let (_, mut daemon) = stand.subscription().await;
    daemon.send(FromDaemon::Credential(ca.credential(7))).await;
    daemon.answer().await;
    let caller = Caller::new(&[&ca]);
    let mut open = stand.proxy.call(&caller).await;
    stand.proxy.ask(&mut open).await;

    drop(daemon);
    let (_, mut daemon) = stand.subscription().await;
    let held = stand.proxy.credentials.begin(None).unwrap();
    let renamed = |generation| Credential {
        tunnel: "prod".to_owned(),
        lowest: 0,
        ..ca.credential(generation)
    };
    let policy = Policy {
        tunnel: "prod".to_owned(),
        generation: 1,
        routes: None,
        denied: Vec::new(),
    };
    let mut held = Some(held);
    for generation in 1..3 {
        let credential = renamed(generation);
        let sent = FromDaemon::Credential(credential.clone());
        daemon.send(sent).await;
        if held.is_some() {
            daemon.send(FromDaemon::Policy(policy.clone())).await;
            let FromSubscriber::Ack(first) = daemon.answer().await else {
                panic!("the policy is acked");
            };
            assert_eq!(
                first.resource,
                Resource::Policy,
                "the handshake is waited for"
            );
        }
        held = None;
        let FromSubscriber::Ack(ack) = daemon.answer().await else {
            panic!("the credential is acked");
        };
        let leaf = leaf_sha256(&credential.leaf);
        assert_eq!(
            (ack.generation, ack.leaf_sha256),
            (generation, Some(leaf.clone()))
        );
        let stream = stand.proxy.call(&caller).await;
        assert_eq!(shown(&stream), leaf);
        stand.proxy.ask(&mut open).await;
    }
    let served = daemon.report().await.tunnels;
    let names: Vec<_> = served.iter().map(|tunnel| &*tunnel.tunnel).collect();
    assert_eq!(names, ["prod"]);
}

#[tokio::test]
async fn routes_of_a_policy_are_taken_and_bad_or_stale_ones_refused() {
    let stand = Stand::new(None).await;
    let (_, mut daemon) = stand.subscription().await;
    let policy = |generation, upstream: &str| {
        let route = control::Route {
            upstream: upstream.to_owned(),
            preserve_host: false,
        };
        FromDaemon::Policy(Policy {
            tunnel: "main".to_owned(),
            generation,
            routes: Some([("files".to_owned(), route)].into()),
            denied: Vec::new(),
        })
    };
    daemon.send(policy(2, "http://127.0.0.1:9")).await;
    assert!(matches!(daemon.answer().await, FromSubscriber::Ack(_)));
    assert!(
        stand
            .proxy
            .forwarder
            .route_names()
            .contains(&"files".to_owned())
    );
    for (message, expected) in [
        (policy(3, "http://127.0.0.1/path"), Reason::BadRoute),
        (policy(1, "http://127.0.0.1:9"), Reason::Stale),
    ] {
        daemon.send(message).await;
        let FromSubscriber::Nack(nack) = daemon.answer().await else {
            panic!("it is refused");
        };
        assert_eq!((nack.resource, nack.reason), (Resource::Policy, expected));
    }
}

#[tokio::test]
async fn a_report_says_what_is_served_and_by_whom() {
    let (ca, stand) = (Ca::new(), Stand::new(None).await);
    let (_, mut daemon) = stand.subscription().await;
    daemon.send(FromDaemon::Credential(ca.credential(1))).await;
    daemon.answer().await;
    let _stream = stand.proxy.call(&Caller::new(&[&ca])).await;
    let report = loop {
        let report = daemon.report().await;
        if report
            .tunnels
            .first()
            .is_some_and(|tunnel| tunnel.connections.get(&1) == Some(&1))
        {
            break report;
        }
    };
    let tunnel = &report.tunnels[0];
    assert_eq!(report.carriers, ["tls"]);
    assert_eq!(tunnel.handshakes[&tunnel.leaf_sha256], 1);
    assert!(tunnel.uncovered_routes.is_empty());
}

#[tokio::test]
async fn a_malformed_and_an_oversized_message_end_the_subscription_and_it_is_tried_again() {
    let stand = Stand::new(None).await;
    let canary = b"{\"kind\":\"credential\",\"canary\n".to_vec();
    let oversized = vec![b' '; control::MAX_MESSAGE + 1];
    for bytes in [canary, oversized] {
        let (_, mut daemon) = stand.subscription().await;
        // It closes as soon as it has read too much, so that the rest may not be taken any more.
        let _ = daemon.raw.write_all(&bytes).await;
        assert!(daemon.is_left().await);
    }
    stand.subscription().await;
}

#[tokio::test]
async fn unknown_kinds_are_ignored() {
    let (ca, stand) = (Ca::new(), Stand::new(None).await);
    let (_, mut daemon) = stand.subscription().await;
    let unknown = b"{\"kind\":\"signer\",\"x\":1}\n";
    daemon.raw.write_all(unknown).await.unwrap();
    daemon.send(FromDaemon::Credential(ca.credential(1))).await;
    assert!(matches!(daemon.answer().await, FromSubscriber::Ack(_)));
}

#[tokio::test]
async fn a_socket_of_somebody_else_gets_no_hello() {
    let stand = Stand::new(Some(4_000_000_000)).await;
    for _ in 0..2 {
        let (read, _write) = stand.connection().await.into_split();
        let first = within("the end", Reader::new(read).next::<FromSubscriber>()).await;
        assert!(matches!(first, Ok(None)), "{first:?}");
    }
    assert!(stand.proxy.credentials.current().is_empty());
}

#[tokio::test]
async fn a_refusal_and_a_newer_major_version_are_tried_again_later() {
    let stand = Stand::new(None).await;
    let newer = FromDaemon::Welcome(Welcome {
        protocol: Version { major: 2, minor: 0 },
        tunnels: Vec::new(),
    });
    let refused = FromDaemon::Refused(Refused {
        reason: Refusal::UnknownTunnel,
        detail: "no tunnel main".to_owned(),
    });
    for message in [newer, refused] {
        let (read, write) = stand.connection().await.into_split();
        let mut daemon = Daemon {
            reader: Reader::new(read),
            raw: write,
        };
        assert!(matches!(
            daemon.next().await,
            Some(FromSubscriber::Hello(_))
        ));
        daemon.send(message).await;
        assert!(daemon.is_left().await);
    }
}

#[tokio::test]
async fn a_stop_says_bye() {
    let stand = Stand::new(None).await;
    let (_, mut daemon) = stand.subscription().await;
    daemon.report().await;
    stand.proxy.tasks.stop();
    assert!(matches!(daemon.answer().await, FromSubscriber::Bye(_)));
    assert!(daemon.is_left().await);
    let drained = stand.proxy.tasks.drain(Duration::from_secs(20)).await;
    assert_eq!(drained, process::Drained::Clean);
}

#[tokio::test]
async fn a_daemon_that_does_not_read_is_left_and_dialled_again() {
    let (ca, stand) = (Ca::new(), Stand::new(None).await);
    // A report names the routes that the leaf does not cover: with these it fits into no buffer.
    let route = control::Route {
        upstream: "http://127.0.0.1:1".to_owned(),
        preserve_host: false,
    };
    let label = "x".repeat(60);
    let name = |number| format!("{label}.{label}.{label}.r{number}.example");
    let routes = (0..4000).map(|number| (name(number), route.clone()));
    let forwarder = &stand.proxy.forwarder;
    forwarder
        .set_routes(Some("main"), routes.collect())
        .unwrap();
    let (_, mut deaf) = stand.subscription().await;
    deaf.send(FromDaemon::Credential(ca.credential(1))).await;
    let Some(FromSubscriber::Ack(_)) = deaf.next().await else {
        panic!("the credential is good");
    };
    tokio::time::pause();
    let (hello, _) = stand.subscription().await;
    assert_eq!(hello.serving[0].generation, 1);
}

/// A proxy that dials an edge with what the daemon sends, and the test as the edge.
struct Dialling {
    stand: Stand,
    roster: Roster,
    newest: watch::Receiver<Option<Arc<Secret>>>,
}

impl Dialling {
    async fn new() -> Self {
        let config = "carriers: {edge: {url: 'https://e', tunnel: t}}\n\
                      control: {socket: /s, tunnels: [main]}\nroutes: {}\n";
        let edge = Config::from_text(config, None).unwrap().edge.unwrap();
        let roster = Roster::new(&edge);
        let newest = watch::Sender::default();
        let this = newest.subscribe();
        let pushed = Pushed {
            tunnel: "main".to_owned(),
            newest,
            roster: roster.clone(),
        };
        Self {
            stand: Stand::with(None, Some(pushed)).await,
            roster,
            newest: this,
        }
    }

    fn secret(&self) -> Arc<Secret> {
        self.newest.borrow().clone().unwrap()
    }
}

fn tunnel(generation: u64, value: &str) -> FromDaemon {
    FromDaemon::Tunnel(Tunnel {
        tunnel: "main".to_owned(),
        generation,
        token: Secret::new(value.to_owned()),
    })
}

fn taken(generation: u64) -> FromSubscriber {
    FromSubscriber::Ack(Ack {
        resource: Resource::Tunnel,
        tunnel: "main".to_owned(),
        generation,
        leaf_sha256: None,
    })
}

fn refused(generation: u64, reason: Reason) -> FromSubscriber {
    FromSubscriber::Nack(Nack {
        resource: Resource::Tunnel,
        tunnel: "main".to_owned(),
        generation,
        reason,
    })
}

impl Daemon {
    /// Whatever the proxy had to say before comes before the answer to this.
    async fn nothing_said(&mut self, generation: u64) {
        let policy = Policy {
            tunnel: "main".to_owned(),
            generation,
            routes: None,
            denied: Vec::new(),
        };
        self.send(FromDaemon::Policy(policy)).await;
        let FromSubscriber::Ack(ack) = self.answer().await else {
            panic!("the policy is acked");
        };
        assert_eq!(ack.resource, Resource::Policy);
    }
}

#[tokio::test]
async fn a_secret_is_acked_when_every_connection_stands_on_it_and_again_to_a_daemon_that_returns() {
    let dialling = Dialling::new().await;
    let (hello, mut daemon) = dialling.stand.subscription().await;
    assert_eq!(hello.dials, ["main"]);
    let waiting = Some("carrier edge: no secret yet".to_owned());
    assert_eq!(dialling.roster.reason(), waiting);
    daemon.send(tunnel(1, "one")).await;
    daemon.nothing_said(1).await;
    assert_ne!(dialling.roster.reason(), waiting);
    let one = dialling.secret();
    assert_eq!(one.expose(), "one");
    let entries = [1, 2].map(|_| dialling.roster.enter("a", 1).unwrap());
    entries[0].bound(&one);
    daemon.nothing_said(2).await;
    entries[1].bound(&one);
    assert_eq!(daemon.answer().await, taken(1));

    daemon.send(tunnel(2, "two")).await;
    daemon.nothing_said(3).await;
    let two = dialling.secret();
    assert_eq!(two.expose(), "two");
    // A daemon that is gone changes nothing, and the next one hears what is.
    drop(daemon);
    let (_, mut daemon) = dialling.stand.subscription().await;
    assert_eq!(dialling.secret(), two);
    for entry in &entries {
        entry.bound(&two);
    }
    daemon.nothing_said(4).await;
    daemon.send(tunnel(2, "two")).await;
    assert_eq!(daemon.answer().await, taken(2));
    daemon.send(tunnel(3, "two")).await;
    assert_eq!(
        daemon.answer().await,
        taken(3),
        "the same under another number"
    );
}

#[tokio::test]
async fn a_secret_that_the_edge_refuses_is_nacked_once_and_acked_when_it_takes_it() {
    let dialling = Dialling::new().await;
    let (_, mut daemon) = dialling.stand.subscription().await;
    daemon.send(tunnel(1, "one")).await;
    daemon.nothing_said(1).await;
    let entry = dialling.roster.enter("a", 1).unwrap();
    entry.bound(&dialling.secret());
    assert_eq!(daemon.answer().await, taken(1));
    daemon.send(tunnel(2, "two")).await;
    daemon.nothing_said(2).await;
    let two = dialling.secret();
    dialling.roster.refused(two.clone());
    assert_eq!(daemon.answer().await, refused(2, Reason::TokenRefused));
    dialling.roster.refused(two.clone());
    daemon.nothing_said(3).await;
    entry.bound(&two);
    assert_eq!(daemon.answer().await, taken(2));
}

#[tokio::test]
async fn what_is_no_secret_and_what_is_of_another_tunnel_is_not_dialled_with() {
    let dialling = Dialling::new().await;
    let (_, mut daemon) = dialling.stand.subscription().await;
    daemon.send(tunnel(1, "one")).await;
    let long = "x".repeat(5000);
    for (generation, bad) in (2..).zip(["", "two words", "two\n", "\u{e9}", "\r\nX: y", &long]) {
        daemon.send(tunnel(generation, bad)).await;
        let nack = refused(generation, Reason::Malformed);
        assert_eq!(daemon.answer().await, nack, "{bad:?}");
    }
    let FromDaemon::Tunnel(mut other) = tunnel(9, "other") else {
        panic!("it is one");
    };
    other.tunnel = "other".to_owned();
    daemon.send(FromDaemon::Tunnel(other)).await;
    daemon.nothing_said(1).await;
    assert_eq!(dialling.secret().expose(), "one");
}
