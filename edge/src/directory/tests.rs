use std::time::Duration;

use futures_util::FutureExt;
use process::SystemClock;

use super::*;

fn digest_of(value: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, value.as_bytes());
    digest.as_ref().try_into().unwrap()
}

fn credential(id: &str, value: &str) -> CredentialEntry {
    CredentialEntry {
        id: id.to_owned(),
        sha256: digest_of(value),
        accepts: true,
        cut_at: None,
    }
}

fn entry(credentials: Vec<CredentialEntry>) -> TunnelEntry {
    TunnelEntry {
        id: "tnl_1".to_owned(),
        domain: "t.example".to_owned(),
        standing: Standing::Active,
        credentials,
        access: Access::default(),
    }
}

fn alone() -> Directory {
    Directory::new("edg_1".to_owned(), Arc::new(SystemClock), None)
}

#[test]
fn a_name_has_exactly_one_label_before_the_domain() {
    let directory = alone();
    directory.put(entry(Vec::new()));
    for good in ["docs.t.example", "DOCS.T.example", "docs.t.example."] {
        assert!(directory.tunnel_by_name(good).is_some(), "{good}");
    }
    for bad in [
        "t.example",
        "a.docs.t.example",
        ".t.example",
        "docs.u.example",
        "",
        "docs",
    ] {
        assert!(directory.tunnel_by_name(bad).is_none(), "{bad}");
    }
    let moved = TunnelEntry {
        domain: "u.example".to_owned(),
        ..entry(Vec::new())
    };
    directory.put(moved);
    assert!(directory.tunnel_by_name("docs.t.example").is_none());
    assert!(directory.tunnel_by_name("docs.u.example").is_some());
}

#[tokio::test]
async fn a_credential_opens_its_own_tunnel_while_it_accepts() {
    let directory = alone();
    directory.put(entry(vec![
        credential("a", "secret-a"),
        credential("b", "secret-b"),
    ]));
    let ask = async |value: &str| directory.authenticate("tnl_1", value.as_bytes()).await;
    assert_eq!(ask("secret-b").await.unwrap().credential, "b");
    assert_eq!(ask("secret-c").await, Err(Refusal::Credential));
    let other = directory.authenticate("tnl_2", b"secret-a").await;
    assert_eq!(other, Err(Refusal::Credential));
    assert_eq!(directory.take_used().into_keys().collect::<Vec<_>>(), ["b"]);

    let retired = CredentialEntry {
        accepts: false,
        ..credential("a", "secret-a")
    };
    directory.put(entry(vec![retired]));
    assert_eq!(ask("secret-a").await, Err(Refusal::Credential));

    directory.put(TunnelEntry {
        standing: Standing::Suspended,
        ..entry(vec![credential("a", "secret-a")])
    });
    assert_eq!(ask("secret-a").await, Err(Refusal::Suspended));
    assert_eq!(
        ask("secret-x").await,
        Err(Refusal::Credential),
        "learns nothing"
    );
}

#[tokio::test]
async fn whoever_watches_is_told_and_a_forgotten_tunnel_is_archived_first() {
    let directory = alone();
    directory.put(entry(vec![credential("a", "secret-a")]));
    let mut watched = directory.watch("tnl_1").unwrap();
    directory.put(entry(Vec::new()));
    assert!(watched.has_changed().unwrap());
    assert!(watched.borrow_and_update().credentials.is_empty());
    directory.remove("tnl_1");
    watched.changed().await.unwrap();
    assert_eq!(watched.borrow_and_update().standing, Standing::Archived);
    assert!(watched.changed().await.is_err());
    assert!(directory.tunnel("tnl_1").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_settled_when_the_last_connection_bound_to_it_has_gone() {
    let directory = alone();
    directory.put(entry(vec![credential("a", "x"), credential("b", "y")]));
    let bound = |credential: &str| Bound {
        tunnel: "tnl_1".to_owned(),
        credential: credential.to_owned(),
    };
    let peer = "127.0.0.1:1".parse().unwrap();
    let first = directory.hold(bound("a"), "one".to_owned(), peer);
    let second = directory.hold(bound("a"), "two".to_owned(), peer);
    assert_eq!(directory.live("a").len(), 2);
    directory.put(entry(vec![credential("b", "y")]));
    assert!(!directory.is_settled());
    let settled = tokio::time::timeout(Duration::from_secs(1), directory.settled());
    assert!(settled.await.is_err());
    second.rebind(bound("b"));
    let mut settled = std::pin::pin!(directory.settled());
    assert!(settled.as_mut().now_or_never().is_none());
    drop(first);
    settled.await;
    assert!(directory.is_settled());
    assert_eq!(directory.live("b").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn memory_decides_while_the_database_is_silent() {
    let silent: Load = Arc::new(|_| Box::pin(async { Err(Unanswered) }));
    let directory = Directory::new("edg_1".to_owned(), Arc::new(SystemClock), Some(silent));
    directory.put(entry(vec![credential("a", "secret-a")]));
    let bound = directory.authenticate("tnl_1", b"secret-a").await;
    assert_eq!(bound.unwrap().credential, "a");

    let newest = read(Some(entry(vec![credential("b", "secret-b")])), 1);
    let directory = Directory::new("edg_1".to_owned(), Arc::new(SystemClock), Some(newest));
    directory.put(entry(vec![credential("a", "secret-a")]));
    let old = directory.authenticate("tnl_1", b"secret-a").await;
    assert_eq!(old, Err(Refusal::Credential), "the database decides");
    let new = directory.authenticate("tnl_1", b"secret-b").await;
    assert_eq!(new.unwrap().credential, "b");
}

/// A database that says this, as of the change `change`.
fn read(found: Option<TunnelEntry>, change: u64) -> Load {
    Arc::new(move |_| {
        let found = found.clone();
        let version = Version {
            change,
            ..Version::default()
        };
        Box::pin(async move { Ok((found, version)) })
    })
}

#[tokio::test]
async fn what_was_read_before_a_change_does_not_replace_what_was_read_after_it() {
    let version = |change| Version {
        change,
        ..Version::default()
    };
    let old = || entry(vec![credential("a", "secret-a")]);
    let new = || Arc::new(entry(vec![credential("b", "secret-b")]));
    let with = |load| Directory::new("edg_1".to_owned(), Arc::new(SystemClock), Some(load));

    let directory = with(read(Some(old()), 1));
    assert!(directory.put_at(new(), version(2)));
    assert!(
        !directory.put_at(new(), version(3)),
        "nothing changed by that"
    );
    let refused = directory.authenticate("tnl_1", b"secret-a").await;
    assert_eq!(refused, Err(Refusal::Credential));
    let bound = directory.authenticate("tnl_1", b"secret-b").await;
    assert_eq!(bound.unwrap().credential, "b");
    assert!(!directory.put_at(Arc::new(old()), version(2)));
    // What has passed since, without a change, counts as newer.
    let later = Version {
        at: Duration::from_secs(1),
        ..version(3)
    };
    assert!(directory.put_at(Arc::new(entry(Vec::new())), later));
    assert!(!directory.put_at(new(), version(3)));

    let directory = with(read(None, 1));
    directory.put_at(new(), version(2));
    let bound = directory.authenticate("tnl_1", b"secret-b").await;
    assert!(bound.is_ok(), "it was made after that was read");

    let directory = with(read(Some(old()), 1));
    directory.put_at(new(), version(2));
    directory.remove_at("tnl_1", version(3));
    let refused = directory.authenticate("tnl_1", b"secret-a").await;
    assert_eq!(refused, Err(Refusal::Credential));
    assert!(directory.tunnel("tnl_1").is_none(), "and stays away");
    directory.put_at(new(), version(4));
    assert!(directory.tunnel("tnl_1").is_some());
}
