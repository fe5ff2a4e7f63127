//! Changes: their limits, their audit rows, and that a broken one has not happened.

use super::credentials::{carries, opens};
use crate::state::{ChangeError, Page, Rotation, State, sha256};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    every_change_writes_one_audit_row_and_counts_up_by_one,
    a_refused_change_leaves_neither_row_nor_number,
    a_change_that_is_dropped_halfway_has_not_happened,
    archiving_a_tunnel_ends_everything_of_it,
    lists_are_paged_newest_first_and_nothing_is_seen_twice,
    a_change_of_access_needs_the_version_that_it_was_made_from,
    the_latest_use_of_a_credential_is_written_down,
);

pub(super) const ALL: Page = Page {
    before: None,
    limit: 1000,
    include_archived: true,
};

pub(super) async fn tunnel(given: &Stage) -> String {
    let made = given.state.create_tunnel(&given.by(), Some("test")).await;
    made.unwrap().0.id
}

async fn every_change_writes_one_audit_row_and_counts_up_by_one(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    state
        .suspend_tunnel(&by, &id, Some("for a test"))
        .await
        .unwrap();
    state.resume_tunnel(&by, &id, None).await.unwrap();
    state
        .rotate_token(&by, &id, Rotation::default())
        .await
        .unwrap();
    let (secret, _) = state.create_secret(&by, &id, &sha256("s")).await.unwrap();
    state.archive_secret(&by, &id, &secret.id).await.unwrap();
    state
        .put_access(&by, &id, &api::Access::default(), None)
        .await
        .unwrap();
    state.archive_tunnel(&by, &id, None).await.unwrap();
    // Twice is as good as once, and is no change.
    state.archive_secret(&by, &id, &secret.id).await.unwrap();
    state.archive_tunnel(&by, &id, None).await.unwrap();
    assert_eq!(
        given.actions(100).await,
        [
            "tunnel_created",
            "tunnel_suspended",
            "tunnel_resumed",
            "tunnel_token_rotated",
            "tunnel_secret_added",
            "tunnel_secret_archived",
            "tunnel_access_changed",
            "tunnel_archived",
        ]
    );
    assert_eq!(state.last_change().await.unwrap(), 8);
    let rows = state.audit(u64::MAX, 100).await.unwrap();
    let suspended = rows
        .iter()
        .find(|row| row.action == "tunnel_suspended")
        .unwrap();
    assert_eq!(suspended.reason.as_deref(), Some("for a test"));
    assert_eq!(suspended.tunnel.as_deref(), Some(id.as_str()));
    assert_eq!(
        (suspended.actor.as_str(), suspended.request_id.as_str()),
        ("operator:0", "req_test")
    );
    assert_eq!(suspended.number, 2);
}

async fn a_refused_change_leaves_neither_row_nor_number(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let long = "x".repeat(256);
    for result in [
        state.create_tunnel(&by, Some("")).await.map(|_| ()),
        state.create_tunnel(&by, Some(&long)).await.map(|_| ()),
        state.archive_tunnel(&by, "tnl_0", None).await.map(|_| ()),
        state.create_secret(&by, &id, "abc").await.map(|_| ()),
        state
            .create_secret(&by, "tnl_0", &sha256("s"))
            .await
            .map(|_| ()),
        state.archive_secret(&by, &id, "tsec_0").await.map(|_| ()),
        state
            .archive_certificate(&by, &id, "tcrt_0")
            .await
            .map(|_| ()),
    ] {
        assert!(result.is_err());
    }
    assert_eq!(given.actions(100).await, ["tunnel_created"]);
    assert_eq!(state.last_change().await.unwrap(), 1);
}

/// As when the process is killed between two statements: the database rolls back.
async fn a_change_that_is_dropped_halfway_has_not_happened(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    {
        let mut change = state.change(&by).await.unwrap();
        let statement = "UPDATE tunnel SET archived_at = $1 WHERE id = $2";
        change.stamp(statement, &id).await.unwrap();
        assert!(change.tunnel(&id).await.unwrap().archived_at.is_some());
    }
    assert_eq!(state.tunnel(&id).await.unwrap().unwrap().archived_at, None);
    assert_eq!(state.last_change().await.unwrap(), 1);
    assert_eq!(given.actions(100).await, ["tunnel_created"]);
    // The next one does not wait for it.
    state.archive_tunnel(&by, &id, None).await.unwrap();
}

async fn archiving_a_tunnel_ends_everything_of_it(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let token = state.reveal_token(&by, &id, None).await.unwrap();
    state.create_secret(&by, &id, &sha256("s")).await.unwrap();
    let (archived, _) = state.archive_tunnel(&by, &id, Some("gone")).await.unwrap();
    assert!(archived.archived_at.is_some());
    for value in [token.tunnel_token.as_str(), "s"] {
        assert_eq!(opens(&given, &id, value).await, Some(false));
        assert!(!carries(&given, &id, value).await);
    }
    let snapshot = state.snapshot(by.now).await.unwrap();
    assert!(snapshot.tunnels[&id].archived && snapshot.tunnels[&id].credentials.is_empty());
    for result in [
        state
            .create_secret(&by, &id, &sha256("t"))
            .await
            .map(|_| ()),
        state.suspend_tunnel(&by, &id, None).await.map(|_| ()),
        state.resume_tunnel(&by, &id, None).await.map(|_| ()),
        state
            .rotate_token(&by, &id, Rotation::default())
            .await
            .map(|_| ()),
        state.reveal_token(&by, &id, None).await.map(|_| ()),
        state
            .put_access(&by, &id, &api::Access::default(), None)
            .await
            .map(|_| ()),
    ] {
        assert!(
            matches!(result, Err(ChangeError::Conflict(_))),
            "{result:?}"
        );
    }
}

async fn lists_are_paged_newest_first_and_nothing_is_seen_twice(given: Stage) {
    let mut made = Vec::new();
    for _ in 0..7 {
        made.insert(0, tunnel(&given).await);
    }
    given
        .state
        .archive_tunnel(&given.by(), &made[3], None)
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut page = Page {
        before: None,
        limit: 2,
        include_archived: false,
    };
    loop {
        let (tunnels, next) = given.state.tunnels(page, None).await.unwrap();
        assert!((1..=2).contains(&tunnels.len()), "no page is empty");
        seen.extend(tunnels.into_iter().map(|tunnel| tunnel.id));
        // What is made meanwhile is newer than all that is still to come.
        made.insert(0, tunnel(&given).await);
        match next {
            Some(_) => page.before = next,
            None => break,
        }
    }
    let wanted: Vec<String> = made[made.len() - 7..].to_vec();
    let wanted: Vec<String> = wanted
        .into_iter()
        .enumerate()
        .filter(|(n, _)| *n != 3)
        .map(|(_, id)| id)
        .collect();
    assert_eq!(seen, wanted);
    let (only, next) = given.state.tunnels(ALL, Some(&seen[0])).await.unwrap();
    assert_eq!((only.len(), next), (1, None));
}

async fn a_change_of_access_needs_the_version_that_it_was_made_from(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let with = |cidr: &str| api::Access {
        cidrs: vec![cidr.to_owned()],
        ..api::Access::default()
    };
    assert_eq!(state.access(&id).await.unwrap().version, 0);
    let (first, _) = state
        .put_access(&by, &id, &with("192.0.2.0/24"), Some(0))
        .await
        .unwrap();
    assert_eq!(first.version, 1);
    let late = state
        .put_access(&by, &id, &with("198.51.100.0/24"), Some(0))
        .await;
    assert!(matches!(late, Err(ChangeError::Stale { current: 1 })));
    assert_eq!(state.access(&id).await.unwrap(), first);
    let slip = state
        .put_access(&by, &id, &with("192.0.2.1/24"), Some(1))
        .await
        .unwrap_err();
    assert!(slip.to_string().starts_with("cidrs[0]"), "{slip}");
    let (second, _) = state
        .put_access(&by, &id, &with("2001:db8::/32"), None)
        .await
        .unwrap();
    assert_eq!(second.version, 2);
    assert_eq!(
        state.snapshot(by.now).await.unwrap().tunnels[&id].access,
        second.access
    );
}

async fn the_latest_use_of_a_credential_is_written_down(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let (secret, _) = state.create_secret(&by, &id, &sha256("s")).await.unwrap();
    let last = async |state: &State| state.secrets(&id, ALL).await.unwrap().0[0].last_used_at;
    assert_eq!(last(state).await, None);
    state.used(&secret.id, by.now).await.unwrap();
    assert_eq!(last(state).await.unwrap().seconds(), by.now);
    state.used(&secret.id, by.now + 3).await.unwrap();
    assert_eq!(last(state).await.unwrap().seconds(), by.now + 3);
    // Another edge tells of an earlier one.
    state.used(&secret.id, by.now + 2).await.unwrap();
    assert_eq!(last(state).await.unwrap().seconds(), by.now + 3);
    assert_eq!(given.actions(9).await.len(), 2, "a use is no change");
}
