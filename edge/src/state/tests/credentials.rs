//! Tokens and secrets: found by digest, revealed from a seal, rotated, archived.

use super::changes::{ALL, tunnel};
use crate::state::{ChangeError, Page, Rotation, sha256};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_token_is_found_by_its_digest_and_revealed_from_its_seal,
    no_value_of_a_credential_is_in_the_database,
    rotation_ends_the_old_token_as_asked,
    a_third_token_waits_for_the_end_of_an_overlap,
    the_same_key_and_request_give_the_same_token_for_ten_minutes,
    where_tokens_are_not_kept_a_rotation_needs_a_key_and_its_answer_can_be_had_again,
    secrets_are_idempotent_by_content_two_are_active_and_none_comes_back,
);

pub(super) async fn opens(given: &Stage, tunnel: &str, value: &str) -> Option<bool> {
    let found = given
        .state
        .credential(tunnel, &sha256(value))
        .await
        .unwrap();
    found.map(|found| found.opens(given.clock.seconds()))
}

pub(super) async fn carries(given: &Stage, tunnel: &str, value: &str) -> bool {
    let found = given
        .state
        .credential(tunnel, &sha256(value))
        .await
        .unwrap();
    found.unwrap().carries(given.clock.seconds())
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
