use std::time::Duration;

use control::{Report, Role, TunnelReport};
use tokio::sync::{mpsc, watch};

use super::*;
use crate::board::{Publication, Replica};
use crate::credential::{Terms, tests::linted};

const NOW: u64 = 1_800_000_000;

struct Still;

impl Clock for Still {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn boot(&self) -> Duration {
        Duration::ZERO
    }
}

fn observer() -> Observer {
    let board = Board {
        publications: watch::Sender::default(),
        replicas: watch::Sender::default(),
        status: watch::Sender::default(),
        requests: mpsc::channel(1).0,
    };
    Observer::new(board, Arc::new(Still), ["main".to_owned()].into(), None)
}

/// Publishes another leaf, which ends then, and gives its fingerprint.
fn publish(observer: &Observer, generation: u64, not_after: u64) -> String {
    let terms = Terms {
        tunnel: "main".to_owned(),
        generation,
        ..Terms::default()
    };
    let credential = LintedCredential::new(linted("t.example", not_after), terms);
    let leaf = credential.leaf_sha256();
    let publication = Publication {
        credential: Some(Arc::new(credential)),
        ..Publication::default()
    };
    observer.board.publications.send_modify(|all| {
        all.insert("main".to_owned(), publication);
    });
    leaf
}

fn serve(observer: &Observer, leaf: &str, generation: u64, connected: bool) {
    let report = TunnelReport {
        tunnel: "main".to_owned(),
        generation,
        leaf_sha256: leaf.to_owned(),
        ..TunnelReport::default()
    };
    let replica = Replica {
        role: Role::Proxy,
        uid: 1,
        build: String::new(),
        tunnels: vec!["main".to_owned()],
        dials: Vec::new(),
        connected,
        left: false,
        last_heard: UNIX_EPOCH,
        acks: BTreeMap::new(),
        nacks: BTreeMap::new(),
        report: Report {
            tunnels: vec![report],
            carriers: Vec::new(),
        },
    };
    observer.board.replicas.send_modify(|all| {
        all.insert("p".to_owned(), replica);
    });
}

/// F14.
#[tokio::test]
async fn the_expiry_that_is_served_is_that_of_the_leaf_a_replica_really_has() {
    let observer = observer();
    let status = Status {
        tunnels: [("main".to_owned(), TunnelStatus::default())].into(),
        ..Status::default()
    };
    observer.board.status.send_replace(Arc::new(status));
    let tasks = Tasks::new();
    let old = publish(&observer, 1, NOW + 10);
    let board = observer.board.clone();
    let health = observer.health(&tasks);
    let served = |end: i64| {
        let line = format!(
            "keyward_cred_expiry_seconds{{tunnel=\"main\",kind=\"server-certificate\",where=\"served\"}} {end}\n"
        );
        (health.metrics)().contains(&line)
    };
    let shadow = Observer::new(board, Arc::new(Still), BTreeSet::new(), None);
    serve(&shadow, &old, 1, true);
    // The leaf is remembered by a task: let it run.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(served(10));
    let new = publish(&shadow, 2, NOW + 1_000);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(served(10), "the replica is behind, and the metric says so");
    serve(&shadow, &new, 2, true);
    assert!(served(1_000));
    serve(&shadow, &old, 1, false);
    assert!(!served(10), "one that is gone serves nothing we know of");
    tasks.stop();
}

#[test]
fn a_tunnel_without_a_leaf_in_date_is_not_ready_and_says_which() {
    let observer = observer();
    assert_eq!(
        observer.reasons(),
        ["tunnel main: no server certificate is published"]
    );
    publish(&observer, 1, NOW - 5);
    assert_eq!(
        observer.reasons(),
        ["tunnel main: the server certificate is over since 5 s"]
    );
    // The last second belongs to it (RFC 5280 section 4.1.2.5).
    publish(&observer, 2, NOW);
    assert_eq!(observer.reasons(), Vec::<String>::new());
}

#[test]
fn the_page_says_nothing_of_who_ordered_what_and_for_whom() {
    let observer = observer();
    let operation = crate::status::Operation {
        id: "01".to_owned(),
        what: "issue-client".to_owned(),
        tunnel: "main".to_owned(),
        actor: "uid:1000".to_owned(),
        state: crate::status::OperationState::Done,
        detail: "issued for alice.example".to_owned(),
        began: NOW,
        ended: Some(NOW),
        certificate: None,
    };
    observer.board.status.send_replace(Arc::new(Status {
        operations: vec![operation],
        ..Status::default()
    }));
    let page = observer.page();
    assert!(page.contains("\"what\":\"issue-client\""), "{page}");
    for private in ["actor", "detail", "uid:", "alice"] {
        assert!(!page.contains(private), "{page}");
    }
}
