//! The directory follows the database, on both databases and on several edges.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::directory::Refusal;
use crate::state::{Backup, By, Rotation, sha256};
use crate::tests::clock::StandingClock;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_credential_opens_on_every_edge_until_it_is_archived,
    a_tunnel_without_a_ca_lets_nobody_call,
    an_overlap_ends_without_anybody_changing_anything,
    suspended_and_archived_tunnels_say_so_and_a_restored_one_comes_back,
    a_change_counts_as_acted_on_once_nothing_is_bound_to_what_was_cut,
    connections_that_do_not_go_hold_up_no_other_change,
    what_is_connected_is_listed_and_when_it_was_used,
    memory_decides_while_the_database_is_silent_and_not_for_ever,
    an_old_entry_that_somebody_put_does_not_stay,
    a_credential_that_was_archived_while_it_was_looked_up_opens_nothing_after_that,
    what_is_ended_at_once_is_ended_on_edges_whose_clocks_differ_by_a_minute,
);

struct Edge {
    directory: Directory,
    filler: Filler,
}

impl Edge {
    fn new(given: &Stage, state: &State, name: &str) -> Self {
        Self::with_clock(given.clock.clone(), state, name)
    }

    fn with_clock(clock: Arc<dyn Clock>, state: &State, name: &str) -> Self {
        let load = Filler::load(state.clone(), clock.clone());
        let directory = Directory::new(name.to_owned(), clock.clone(), Some(load));
        let filler = Filler::new(state.clone(), directory.clone(), clock, false);
        Self { directory, filler }
    }

    async fn opens(&self, tunnel: &str, value: &str) -> Result<(), Refusal> {
        let bound = self.directory.authenticate(tunnel, value.as_bytes()).await;
        bound.map(|_| ())
    }
}

async fn tunnel(given: &Stage) -> String {
    given
        .state
        .create_tunnel(&given.by(), None)
        .await
        .unwrap()
        .0
        .id
}

async fn add(given: &Stage, tunnel: &str, value: &str) -> String {
    let added = given
        .state
        .create_secret(&given.by(), tunnel, &sha256(value))
        .await;
    added.unwrap().0.id
}

async fn a_credential_opens_on_every_edge_until_it_is_archived(given: Stage) {
    let one = Edge::new(&given, &given.state, "one");
    let two = Edge::new(&given, &given.another().await, "two");
    let id = tunnel(&given).await;
    let secret = add(&given, &id, "s").await;
    // Before the first round already: authentication reads the database.
    one.opens(&id, "s").await.unwrap();
    for edge in [&one, &two] {
        edge.filler.refresh().await.unwrap();
        edge.opens(&id, "s").await.unwrap();
        assert_eq!(edge.opens(&id, "t").await, Err(Refusal::Credential));
    }
    one.filler.refresh().await.unwrap();
    assert_eq!(*one.directory.instances().borrow(), 2);
    given
        .state
        .archive_secret(&given.by(), &id, &secret)
        .await
        .unwrap();
    for edge in [&one, &two] {
        assert_eq!(edge.opens(&id, "s").await, Err(Refusal::Credential));
        edge.filler.refresh().await.unwrap();
        let credentials = edge.directory.tunnel(&id).unwrap().credentials.clone();
        assert!(
            credentials.iter().all(|known| known.id != secret),
            "it is cut"
        );
    }
    let (_, change) = given
        .state
        .suspend_tunnel(&given.by(), &id, None)
        .await
        .unwrap();
    one.filler.refresh().await.unwrap();
    let enforced = given.state.enforced(change).await.unwrap();
    assert_eq!((enforced.instances, enforced.of), (1, 2));
}

async fn a_tunnel_without_a_ca_lets_nobody_call(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let id = tunnel(&given).await;
    let access = api::Access {
        cidrs: vec!["192.0.2.0/24".to_owned()],
        ..api::Access::default()
    };
    given
        .state
        .put_access(&given.by(), &id, &access, None)
        .await
        .unwrap();
    edge.filler.refresh().await.unwrap();
    let settings = |edge: &Edge| {
        edge.directory
            .tunnel(&id)
            .unwrap()
            .access
            .settings()
            .clone()
    };
    assert_eq!(settings(&edge), AccessSettings::default());
    let now = UNIX_EPOCH + Duration::from_secs(given.clock.seconds());
    let profile = pki::AuthorityProfile::server("tunnel CA");
    let authority = pki::Authority::generate(&profile, now).unwrap();
    let pem = authority.certificate().to_pem();
    let ca = crate::state::RegisteredCa::read(&pem, given.clock.seconds()).unwrap();
    given
        .state
        .create_certificate(&given.by(), &id, &ca)
        .await
        .unwrap();
    edge.filler.refresh().await.unwrap();
    assert_eq!(settings(&edge).cidrs, ["192.0.2.0/24".parse().unwrap()]);
}

async fn an_overlap_ends_without_anybody_changing_anything(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let id = tunnel(&given).await;
    let old = given
        .state
        .reveal_token(&given.by(), &id, None)
        .await
        .unwrap();
    let rotation = Rotation {
        cut_old_after: Some(60),
        ..Rotation::default()
    };
    given
        .state
        .rotate_token(&given.by(), &id, rotation)
        .await
        .unwrap();
    edge.filler.refresh().await.unwrap();
    let known = |edge: &Edge| {
        let entry = edge.directory.tunnel(&id).unwrap();
        entry
            .credentials
            .iter()
            .find(|known| known.id == old.id)
            .cloned()
    };
    assert!(known(&edge).unwrap().accepts);
    assert!(known(&edge).unwrap().cut_at.is_some());
    given.clock.advance(60);
    edge.filler.refresh().await.unwrap();
    assert_eq!(known(&edge), None);
    // Without an overlap it opens nothing new, and what is connected stays.
    let old = given
        .state
        .reveal_token(&given.by(), &id, None)
        .await
        .unwrap();
    given
        .state
        .rotate_token(&given.by(), &id, Rotation::default())
        .await
        .unwrap();
    edge.filler.refresh().await.unwrap();
    let entry = edge.directory.tunnel(&id).unwrap();
    let kept = entry
        .credentials
        .iter()
        .find(|known| known.id == old.id)
        .unwrap();
    assert!(!kept.accepts && kept.cut_at.is_none());
}

async fn suspended_and_archived_tunnels_say_so_and_a_restored_one_comes_back(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let id = tunnel(&given).await;
    add(&given, &id, "s").await;
    let mut file = Vec::new();
    given.state.backup(&given.by(), &mut file).await.unwrap();
    let standing = async |edge: &Edge| {
        edge.filler.refresh().await.unwrap();
        edge.directory.tunnel(&id).unwrap().standing
    };
    assert_eq!(standing(&edge).await, Standing::Active);
    given
        .state
        .suspend_tunnel(&given.by(), &id, None)
        .await
        .unwrap();
    assert_eq!(standing(&edge).await, Standing::Suspended);
    assert_eq!(edge.opens(&id, "s").await, Err(Refusal::Suspended));
    let backup = Backup::read(file.as_slice()).ok().unwrap();
    given.state.restore(&given.by(), &backup).await.unwrap();
    assert_eq!(standing(&edge).await, Standing::Active);
    edge.opens(&id, "s").await.unwrap();
    given
        .state
        .archive_tunnel(&given.by(), &id, None)
        .await
        .unwrap();
    assert_eq!(standing(&edge).await, Standing::Archived);
    given.state.restore(&given.by(), &backup).await.unwrap();
    assert_eq!(standing(&edge).await, Standing::Archived, "for good");
    assert_eq!(edge.opens(&id, "s").await, Err(Refusal::Credential));
}

async fn a_change_counts_as_acted_on_once_nothing_is_bound_to_what_was_cut(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let id = tunnel(&given).await;
    let secret = add(&given, &id, "s").await;
    edge.filler.refresh().await.unwrap();
    let bound = edge.directory.authenticate(&id, b"s").await.unwrap();
    let address = "192.0.2.1:1".parse().unwrap();
    let connection = edge.directory.hold(bound, "replica".to_owned(), address);
    let (_, change) = given
        .state
        .archive_secret(&given.by(), &id, &secret)
        .await
        .unwrap();
    let acted = async || {
        let enforced = given.state.enforced(change).await.unwrap();
        (enforced.instances, enforced.of)
    };
    edge.filler.refresh().await.unwrap();
    assert_eq!(acted().await, (0, 1));
    drop(connection);
    edge.filler.refresh().await.unwrap();
    assert_eq!(acted().await, (1, 1));
}

/// Far more than a round takes, and far less than a second for each of the connections.
const SOON: Duration = Duration::from_secs(5);

/// Waits until `look` says so.
async fn soon(what: &str, mut look: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !look().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let come = timeout(SOON, waiting).await;
    come.unwrap_or_else(|_| panic!("{what} did not come in time"));
}

async fn connections_that_do_not_go_hold_up_no_other_change(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let (by, mut stuck) = (given.by(), Vec::new());
    for _ in 0..20 {
        let id = tunnel(&given).await;
        add(&given, &id, "s").await;
        let bound = edge.directory.authenticate(&id, b"s").await.unwrap();
        let address = "192.0.2.1:1".parse().unwrap();
        let connection = edge.directory.hold(bound, "stuck".to_owned(), address);
        stuck.push((id, connection));
    }
    let other = tunnel(&given).await;
    let tasks = Tasks::new();
    tasks.essential("directory", edge.filler.clone().run(tasks.clone()));
    let archived = async |id: &str| {
        let entry = edge.directory.tunnel(id);
        entry.is_some_and(|entry| entry.standing == Standing::Archived)
    };
    for (id, _) in &stuck {
        given.state.archive_tunnel(&by, id, None).await.unwrap();
    }
    let (last, _) = stuck.last().unwrap();
    soon("what they did", async || archived(last).await).await;
    let change = given.state.archive_tunnel(&by, &other, None).await;
    let change = change.unwrap().1;
    soon("another's change", async || archived(&other).await).await;
    // The edge counts all the while, as one that has not come so far.
    let count = async || {
        let enforced = given.state.enforced(change).await.unwrap();
        (enforced.instances, enforced.of)
    };
    given.clock.advance(60);
    soon("a beat", async || count().await == (0, 1)).await;
    assert!(!edge.directory.is_stale());
    drop(stuck);
    soon("the end of it", async || count().await == (1, 1)).await;
    tasks.stop();
}

async fn what_is_connected_is_listed_and_when_it_was_used(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let id = tunnel(&given).await;
    add(&given, &id, "s").await;
    edge.filler.refresh().await.unwrap();
    let bound = edge.directory.authenticate(&id, b"s").await.unwrap();
    let address = "192.0.2.1:1".parse().unwrap();
    let _connection = edge.directory.hold(bound, "replica".to_owned(), address);
    given.clock.advance(1);
    edge.filler.refresh().await.unwrap();
    let page = crate::state::Page {
        before: None,
        limit: 1,
        include_archived: false,
    };
    let secret = given.state.secrets(&id, page).await.unwrap().0.remove(0);
    assert_eq!(
        secret.last_used_at.unwrap().seconds(),
        given.clock.seconds() - 1
    );
    let wanted = api::LiveConnection {
        replica: "replica".to_owned(),
        address: "192.0.2.1:1".to_owned(),
        instance: "one".to_owned(),
    };
    assert_eq!(secret.live, [wanted]);
}

async fn memory_decides_while_the_database_is_silent_and_not_for_ever(given: Stage) {
    let state = given.another().await;
    let edge = Edge::new(&given, &state, "one");
    let id = tunnel(&given).await;
    add(&given, &id, "s").await;
    edge.filler.refresh().await.unwrap();
    state.close().await;
    assert!(edge.filler.refresh().await.is_err());
    given.clock.advance(60);
    edge.opens(&id, "s").await.unwrap();
    assert_eq!(edge.opens(&id, "t").await, Err(Refusal::Credential));
    given.clock.advance(1);
    assert_eq!(edge.opens(&id, "s").await, Err(Refusal::Unavailable));
}

async fn an_old_entry_that_somebody_put_does_not_stay(given: Stage) {
    let edge = Edge::new(&given, &given.state, "one");
    let id = tunnel(&given).await;
    let secret = add(&given, &id, "s").await;
    edge.filler.refresh().await.unwrap();
    let old = TunnelEntry::clone(&*edge.directory.tunnel(&id).unwrap());
    let by: By = given.by();
    given.state.archive_secret(&by, &id, &secret).await.unwrap();
    edge.filler.refresh().await.unwrap();
    edge.directory.put(old);
    edge.filler.refresh().await.unwrap();
    let entry = edge.directory.tunnel(&id).unwrap();
    assert!(entry.credentials.iter().all(|known| known.id != secret));
}

async fn a_credential_that_was_archived_while_it_was_looked_up_opens_nothing_after_that(
    given: Stage,
) {
    let id = tunnel(&given).await;
    let secret = add(&given, &id, "s").await;
    let edge = Edge::new(&given, &given.state, "one");
    // Authentication reads, then somebody archives and the directory hears of it, then it writes.
    let load = Filler::load(given.state.clone(), given.clock.clone());
    let (found, version) = load(id.clone()).await.unwrap();
    let by = given.by();
    given.state.archive_secret(&by, &id, &secret).await.unwrap();
    edge.filler.refresh().await.unwrap();
    let listed = || {
        let entry = edge.directory.tunnel(&id).unwrap();
        entry.credentials.iter().any(|known| known.id == secret)
    };
    assert!(!listed());
    assert!(!edge.directory.put_at(Arc::new(found.unwrap()), version));
    assert!(!listed());
    // The other way round: a round that read earlier does not take back what was read since.
    let slow = Edge::new(&given, &given.state, "two");
    slow.filler.refresh().await.unwrap();
    let (stale, change) = given
        .state
        .snapshot_tunnel(&id, given.clock.seconds())
        .await
        .unwrap();
    let suspended = given.state.suspend_tunnel(&by, &id, None).await.unwrap().1;
    assert_eq!(suspended, change + 1, "the number is exact");
    assert_eq!(
        slow.opens(&id, "s").await,
        Err(Refusal::Credential),
        "it is archived, and the tunnel is read as suspended"
    );
    assert_eq!(
        slow.directory.tunnel(&id).unwrap().standing,
        Standing::Suspended
    );
    let earlier = entry(&id, &stale.unwrap(), given.clock.seconds());
    let at = slow.filler.clock.boot();
    assert!(
        !slow
            .directory
            .put_at(Arc::new(earlier), Version { change, at })
    );
}

/// An edge whose clock differs by `seconds` from the others', and who writes by it.
async fn apart(given: &Stage, name: &str, seconds: i64) -> (Edge, By) {
    let clock = StandingClock::new();
    clock.set(clock.seconds().checked_add_signed(seconds).unwrap());
    let now = clock.seconds();
    let edge = Edge::with_clock(Arc::new(clock), &given.another().await, name);
    (edge, By { now, ..given.by() })
}

async fn what_is_ended_at_once_is_ended_on_edges_whose_clocks_differ_by_a_minute(given: Stage) {
    let (fast, by_fast) = apart(&given, "fast", 30).await;
    let (slow, by_slow) = apart(&given, "slow", -30).await;
    let edges = [&fast, &slow];
    let (id, state) = (tunnel(&given).await, &given.state);
    let rounds = async || {
        for edge in edges {
            edge.filler.refresh().await.unwrap();
        }
    };
    for by in [&by_fast, &by_slow] {
        let value = by.now.to_string();
        let secret = state.create_secret(by, &id, &sha256(&value)).await.unwrap();
        let old = state.reveal_token(by, &id, None).await.unwrap();
        rounds().await;
        for edge in edges {
            edge.opens(&id, &value).await.unwrap();
            edge.opens(&id, &old.tunnel_token).await.unwrap();
        }
        state.archive_secret(by, &id, &secret.0.id).await.unwrap();
        let rotation = Rotation {
            cut_old_after: Some(0),
            ..Rotation::default()
        };
        let (new, change) = state.rotate_token(by, &id, rotation).await.unwrap();
        for edge in edges {
            for ended in [&value, &old.tunnel_token] {
                let refused = edge.opens(&id, ended).await;
                assert_eq!(refused, Err(Refusal::Credential), "at {}", by.now);
            }
            edge.opens(&id, &new.tunnel_token).await.unwrap();
        }
        rounds().await;
        for edge in edges {
            let listed = edge.directory.tunnel(&id).unwrap().credentials.clone();
            let ids: Vec<_> = listed.iter().map(|known| known.id.as_str()).collect();
            assert_eq!(ids, [new.id.as_str()], "at {}", by.now);
        }
        let enforced = state.enforced(change).await.unwrap();
        assert_eq!((enforced.instances, enforced.of), (2, 2));
    }
    // What a fast clock refused at once stays refused when a slow one gives it a time to be cut at.
    let old = state.reveal_token(&by_fast, &id, None).await.unwrap();
    let rotate = async |by: &By, cut_old_after| {
        let rotation = Rotation {
            cut_old_after,
            ..Rotation::default()
        };
        state.rotate_token(by, &id, rotation).await.unwrap();
    };
    rotate(&by_fast, None).await;
    rotate(&by_slow, Some(3600)).await;
    for edge in edges {
        let refused = edge.opens(&id, &old.tunnel_token).await;
        assert_eq!(refused, Err(Refusal::Credential));
    }
}
