//! Changes: their limits, their audit rows, and that a broken one has not happened.

use crate::state::{ChangeError, Page, Rotation, State, sha256};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    every_change_writes_one_audit_row_and_counts_up_by_one,
    a_refused_change_leaves_neither_row_nor_number,
    a_change_that_is_dropped_halfway_has_not_happened,
    a_token_is_found_by_its_digest_and_revealed_from_its_seal,
    no_value_of_a_credential_is_in_the_database,
    rotation_ends_the_old_token_as_asked,
    a_third_token_waits_for_the_end_of_an_overlap,
    the_same_key_and_request_give_the_same_token_for_ten_minutes,
    where_tokens_are_not_kept_a_rotation_needs_a_key_and_its_answer_can_be_had_again,
    secrets_are_idempotent_by_content_two_are_active_and_none_comes_back,
    archiving_a_tunnel_ends_everything_of_it,
    lists_are_paged_newest_first_and_nothing_is_seen_twice,
    a_change_of_access_needs_the_version_that_it_was_made_from,
    the_latest_use_of_a_credential_is_written_down,
);

const ALL: Page = Page {
    before: None,
    limit: 1000,
    include_archived: true,
};

async fn tunnel(given: &Stage) -> String {
    let made = given.state.create_tunnel(&given.by(), Some("test")).await;
    made.unwrap().0.id
}

async fn opens(given: &Stage, tunnel: &str, value: &str) -> Option<bool> {
    let found = given
        .state
        .credential(tunnel, &sha256(value))
        .await
        .unwrap();
    found.map(|found| found.opens(given.clock.seconds()))
}

async fn carries(given: &Stage, tunnel: &str, value: &str) -> bool {
    let found = given
        .state
        .credential(tunnel, &sha256(value))
        .await
        .unwrap();
    found.unwrap().carries(given.clock.seconds())
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

async fn a_token_is_found_by_its_digest_and_revealed_from_its_seal(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let (id, other) = (tunnel(&given).await, tunnel(&given).await);
    let token = state
        .reveal_token(&by, &id, Some("first start"))
        .await
        .unwrap();
    assert!(token.tunnel_token.starts_with("kwt-") && token.tunnel_token.len() == 47);
    assert_eq!(opens(&given, &id, &token.tunnel_token).await, Some(true));
    assert_eq!(opens(&given, &other, &token.tunnel_token).await, None);
    assert_eq!(opens(&given, &id, "kwt-x").await, None);
    let row = state.audit(u64::MAX, 1).await.unwrap().remove(0);
    assert_eq!(row.action, "tunnel_token_revealed");
    assert_eq!(row.reason.as_deref(), Some("first start"));
    assert_eq!(row.target, Some(token.id));
    let refused = given.unrevealing().await.reveal_token(&by, &id, None).await;
    assert!(matches!(refused, Err(ChangeError::Unrevealable(_))));
}

async fn no_value_of_a_credential_is_in_the_database(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let rotation = Rotation {
        idempotency_key: Some("k"),
        ..Rotation::default()
    };
    let (token, _) = state.rotate_token(&by, &id, rotation).await.unwrap();
    let mut rows = Vec::new();
    for table in ["connector_credential", "idempotency", "audit", "setting"] {
        let query = format!("SELECT * FROM {table}");
        for row in sqlx::query(&query).fetch_all(&state.pool).await.unwrap() {
            for column in 0..sqlx::Row::len(&row) {
                let text: Result<Option<String>, _> = sqlx::Row::try_get(&row, column);
                rows.extend(text.ok().flatten());
            }
        }
    }
    assert!(rows.len() > 20);
    let value = token.tunnel_token.trim_start_matches("kwt-");
    assert!(rows.iter().all(|text| !text.contains(value)));
    assert!(rows.iter().any(|text| *text == sha256(&token.tunnel_token)));
}

async fn rotation_ends_the_old_token_as_asked(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let rotate = async |cut_old_after| {
        let rotation = Rotation {
            cut_old_after,
            reason: Some("scheduled"),
            idempotency_key: None,
        };
        state
            .rotate_token(&given.by(), &id, rotation)
            .await
            .unwrap()
            .0
    };
    let first = state.reveal_token(&by, &id, None).await.unwrap();
    let second = rotate(None).await;
    assert_ne!(first.id, second.id);
    assert_eq!(opens(&given, &id, &first.tunnel_token).await, Some(false));
    assert!(
        carries(&given, &id, &first.tunnel_token).await,
        "what is connected stays"
    );
    assert_eq!(opens(&given, &id, &second.tunnel_token).await, Some(true));

    let third = rotate(Some(3600)).await;
    assert_eq!(
        opens(&given, &id, &first.tunnel_token).await,
        Some(false),
        "what was ended is not put off"
    );
    assert_eq!(opens(&given, &id, &second.tunnel_token).await, Some(true));
    assert!(carries(&given, &id, &first.tunnel_token).await);
    given.clock.advance(3600);
    assert_eq!(opens(&given, &id, &second.tunnel_token).await, Some(false));
    assert!(!carries(&given, &id, &second.tunnel_token).await);
    assert!(!carries(&given, &id, &first.tunnel_token).await);

    rotate(Some(0)).await;
    assert_eq!(opens(&given, &id, &third.tunnel_token).await, Some(false));
    assert!(
        !carries(&given, &id, &third.tunnel_token).await,
        "revoked at once"
    );
    assert_eq!(
        state.reveal_token(&by, &id, None).await.unwrap().id.len(),
        first.id.len()
    );
}

async fn a_third_token_waits_for_the_end_of_an_overlap(given: Stage) {
    let id = tunnel(&given).await;
    let rotate = async |cut_old_after| {
        let rotation = Rotation {
            cut_old_after,
            ..Rotation::default()
        };
        given.state.rotate_token(&given.by(), &id, rotation).await
    };
    rotate(Some(600)).await.unwrap();
    let refused = rotate(Some(600)).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Conflict(_)), "{refused}");
    assert!(
        refused.to_string().contains("2027-01-15T08:10:00Z"),
        "{refused}"
    );
    rotate(Some(0)).await.unwrap();
    rotate(Some(600)).await.unwrap();
    given.clock.advance(600);
    rotate(Some(600)).await.unwrap();
    let long = rotate(Some(604_801)).await.unwrap_err();
    assert!(matches!(long, ChangeError::Invalid(_)));
}

async fn the_same_key_and_request_give_the_same_token_for_ten_minutes(given: Stage) {
    let id = tunnel(&given).await;
    let rotate = async |key, cut_old_after| {
        let rotation = Rotation {
            cut_old_after,
            reason: None,
            idempotency_key: Some(key),
        };
        let answer = given.state.rotate_token(&given.by(), &id, rotation).await;
        answer.map(|(token, _)| token)
    };
    let first = rotate("a", Some(0)).await.unwrap();
    let changes = given.state.last_change().await.unwrap();
    given.clock.advance(599);
    assert_eq!(rotate("a", Some(0)).await.unwrap(), first);
    assert_eq!(
        given.state.last_change().await.unwrap(),
        changes,
        "it is no second change"
    );
    let other = rotate("a", None).await.unwrap_err();
    assert!(matches!(other, ChangeError::Conflict(_)), "{other}");
    let second = rotate("b", Some(0)).await.unwrap();
    assert_ne!(second, first);
    given.clock.advance(1);
    assert_ne!(rotate("a", Some(0)).await.unwrap(), first);
    // Somebody else's key of the same name is another key.
    let mut by = given.by();
    by.actor = "rule:fdrl_2:x".to_owned();
    let rotation = Rotation {
        cut_old_after: Some(0),
        idempotency_key: Some("b"),
        ..Rotation::default()
    };
    let (theirs, _) = given.state.rotate_token(&by, &id, rotation).await.unwrap();
    assert_ne!(theirs, second);
}

async fn where_tokens_are_not_kept_a_rotation_needs_a_key_and_its_answer_can_be_had_again(
    given: Stage,
) {
    let state = given.unrevealing().await;
    let by = given.by();
    let id = state.create_tunnel(&by, None).await.unwrap().0.id;
    let refused = state.rotate_token(&by, &id, Rotation::default()).await;
    assert!(matches!(refused, Err(ChangeError::Invalid(_))));
    let rotation = Rotation {
        idempotency_key: Some("rotation-1"),
        ..Rotation::default()
    };
    let (token, _) = state.rotate_token(&by, &id, rotation).await.unwrap();
    assert_eq!(
        state.rotate_token(&by, &id, rotation).await.unwrap().0,
        token
    );
    assert_eq!(opens(&given, &id, &token.tunnel_token).await, Some(true));
    state.sweep(by.now + 601).await.unwrap();
    assert_ne!(
        state.rotate_token(&by, &id, rotation).await.unwrap().0,
        token
    );
}

async fn secrets_are_idempotent_by_content_two_are_active_and_none_comes_back(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = tunnel(&given).await;
    let add = async |value: &str| state.create_secret(&by, &id, &sha256(value)).await;
    let (a, _) = add("a").await.unwrap();
    assert_eq!(add("a").await.unwrap().0, a);
    add("b").await.unwrap();
    let third = add("c").await.unwrap_err();
    assert!(matches!(third, ChangeError::Conflict(_)), "{third}");
    assert_eq!(opens(&given, &id, "a").await, Some(true));
    let (archived, _) = state.archive_secret(&by, &id, &a.id).await.unwrap();
    assert!(archived.archived_at.is_some());
    assert_eq!(opens(&given, &id, "a").await, Some(false));
    assert!(!carries(&given, &id, "a").await);
    let back = add("a").await.unwrap_err();
    assert!(matches!(back, ChangeError::Conflict(_)), "{back}");
    add("c").await.unwrap();
    let active = Page {
        include_archived: false,
        ..ALL
    };
    assert_eq!(state.secrets(&id, active).await.unwrap().0.len(), 2);
    assert_eq!(state.secrets(&id, ALL).await.unwrap().0.len(), 3);
    // A tunnel token is not in the list of secrets.
    let kinds: Vec<String> = state
        .secrets(&id, ALL)
        .await
        .unwrap()
        .0
        .into_iter()
        .map(|s| s.r#type)
        .collect();
    assert!(kinds.iter().all(|kind| kind == "tunnel_secret"));
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
