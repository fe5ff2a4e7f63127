//! Several edges on one database.

use std::collections::BTreeSet;

use crate::state::{Grant, LiveRow, Mark, Page, Scope, sha256};
use crate::tests::issuer::{Signer, issuer, rule};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_change_on_one_edge_is_seen_on_the_other,
    of_many_writers_at_once_two_get_a_place_and_no_number_is_lost,
    what_is_so_already_is_answered_however_many_ask_at_once,
    an_assertion_buys_one_access_token_on_all_edges_together,
    an_access_token_ends_with_its_time_its_rule_and_its_issuer,
    a_change_counts_the_edges_that_act_on_it,
    live_connections_of_all_edges_are_listed_and_those_of_a_silent_one_are_not,
    autonomous_systems_need_a_table_on_every_edge_that_serves,
);

async fn a_change_on_one_edge_is_seen_on_the_other(given: Stage) {
    let other = given.another().await;
    let before = other.last_change().await.unwrap();
    let id = given
        .state
        .create_tunnel(&given.by(), None)
        .await
        .unwrap()
        .0
        .id;
    assert_eq!(other.last_change().await.unwrap(), before + 1);
    let token = other.reveal_token(&given.by(), &id, None).await.unwrap();
    let found = given
        .state
        .credential(&id, &sha256(&token.tunnel_token))
        .await
        .unwrap();
    assert_eq!(found.unwrap().id, token.id);
}

async fn of_many_writers_at_once_two_get_a_place_and_no_number_is_lost(given: Stage) {
    let id = given
        .state
        .create_tunnel(&given.by(), None)
        .await
        .unwrap()
        .0
        .id;
    let other = given.another().await;
    let writers = (0..12).map(|n| {
        let state = if n % 2 == 0 {
            given.state.clone()
        } else {
            other.clone()
        };
        let (by, id) = (given.by(), id.clone());
        async move {
            state
                .create_secret(&by, &id, &sha256(&n.to_string()))
                .await
                .is_ok()
        }
    });
    let mut tasks = tokio::task::JoinSet::new();
    writers.for_each(|writer| {
        tasks.spawn(writer);
    });
    let won = tasks
        .join_all()
        .await
        .into_iter()
        .filter(|won| *won)
        .count();
    assert_eq!(won, 2);
    let numbers: BTreeSet<u64> = given
        .state
        .audit(u64::MAX, 100)
        .await
        .unwrap()
        .iter()
        .map(|row| row.number)
        .collect();
    assert_eq!(numbers, (1..=3).collect());
    assert_eq!(given.state.last_change().await.unwrap(), 3);
}

async fn what_is_so_already_is_answered_however_many_ask_at_once(given: Stage) {
    let by = given.by();
    let id = given.state.create_tunnel(&by, None).await.unwrap().0.id;
    let digest = sha256("s");
    let added = given.state.create_secret(&by, &id, &digest).await.unwrap();
    // More than there are connections: whoever held one and wanted another would wait for ever.
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let (state, by) = (given.state.clone(), given.by());
        let (id, digest) = (id.clone(), digest.clone());
        tasks.spawn(async move { state.create_secret(&by, &id, &digest).await });
    }
    for repeated in tasks.join_all().await {
        assert_eq!(repeated.unwrap(), added);
    }
    assert_eq!(given.state.last_change().await.unwrap(), 2);
    assert_eq!(
        given.actions(10).await,
        ["tunnel_created", "tunnel_secret_added"]
    );
}

async fn granted(given: &Stage) -> (Grant, Mark) {
    let issuer = given
        .state
        .add_issuer(&given.by(), &issuer(vec![Signer::p256().jwk("a")]))
        .await
        .unwrap();
    let rule = given
        .state
        .add_rule(&given.by(), &rule(&issuer.id))
        .await
        .unwrap();
    let now = given.clock.seconds();
    let grant = Grant {
        rule: rule.id,
        subject: "system:serviceaccount:mcp:setup".to_owned(),
        scope: Scope::Manage,
        tunnel: None,
        expires_at: now + 600,
    };
    let mark = Mark {
        issuer: issuer.id,
        mark: sha256("jti"),
        expires_at: now + 60,
    };
    (grant, mark)
}

async fn an_assertion_buys_one_access_token_on_all_edges_together(given: Stage) {
    let (grant, mark) = granted(&given).await;
    let other = given.another().await;
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..10 {
        let state = if n % 2 == 0 {
            given.state.clone()
        } else {
            other.clone()
        };
        let (by, grant, mark) = (given.by(), grant.clone(), mark.clone());
        tasks.spawn(async move { state.mint(&by, &grant, Some(&mark), None).await.unwrap() });
    }
    let minted: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(minted.len(), 1);
    let now = given.clock.seconds();
    assert_eq!(
        other.grant(minted[0].expose(), now).await.unwrap(),
        Some(grant.clone())
    );
    // A restart forgets nothing; only the end of the assertion does.
    assert!(
        given
            .another()
            .await
            .mint(&given.by(), &grant, Some(&mark), None)
            .await
            .unwrap()
            .is_none()
    );
    given.state.sweep(now + 59).await.unwrap();
    assert!(
        given
            .state
            .mint(&given.by(), &grant, Some(&mark), None)
            .await
            .unwrap()
            .is_none()
    );
    given.state.sweep(now + 60).await.unwrap();
    assert!(
        given
            .state
            .mint(&given.by(), &grant, Some(&mark), None)
            .await
            .unwrap()
            .is_some()
    );
}

async fn an_access_token_ends_with_its_time_its_rule_and_its_issuer(given: Stage) {
    let (grant, mark) = granted(&given).await;
    let (state, by, now) = (&given.state, given.by(), given.clock.seconds());
    let token = state.mint(&by, &grant, None, None).await.unwrap().unwrap();
    let valid = async |at| state.grant(token.expose(), at).await.unwrap().is_some();
    assert!(valid(now + 599).await);
    assert!(!valid(now + 600).await);
    assert_eq!(state.grant("kwa-x", now).await.unwrap(), None);
    state.archive_rule(&by, &grant.rule).await.unwrap();
    assert!(!valid(now).await);
    assert!(state.rule(&grant.rule).await.unwrap().is_none());
    let mut second = rule(&mark.issuer);
    second.name = "second".to_owned();
    let second = state.add_rule(&by, &second).await.unwrap();
    let grant = Grant {
        rule: second.id.clone(),
        ..grant
    };
    let token = state.mint(&by, &grant, None, None).await.unwrap().unwrap();
    state.archive_issuer(&by, &mark.issuer).await.unwrap();
    assert!(state.grant(token.expose(), now).await.unwrap().is_none());
    assert!(state.rule(&second.id).await.unwrap().is_none());
    assert!(state.rules().await.unwrap().is_empty() && state.issuers().await.unwrap().is_empty());
}

async fn a_change_counts_the_edges_that_act_on_it(given: Stage) {
    let state = &given.state;
    let (_, number) = state.create_tunnel(&given.by(), None).await.unwrap();
    state.beat("a", number, true).await.unwrap();
    state.beat("b", number - 1, true).await.unwrap();
    let count = async || {
        let enforced = state.enforced(number).await.unwrap();
        (enforced.instances, enforced.of)
    };
    assert_eq!(count().await, (1, 2));
    state.beat("b", number, true).await.unwrap();
    assert_eq!(count().await, (2, 2));
    silence(&given, "b").await;
    assert_eq!(count().await, (1, 1), "a silent edge is not waited for");
    state.beat("b", number, true).await.unwrap();
    state.leave("a").await.unwrap();
    assert_eq!(count().await, (1, 1));
}

/// As if this edge had not been seen for ten seconds.
async fn silence(given: &Stage, edge: &str) {
    let query = format!("UPDATE instance SET seen_at = seen_at - 10 WHERE id = '{edge}'");
    let pool = given.state.pool();
    sqlx::query(&query).execute(pool).await.unwrap();
}

async fn live_connections_of_all_edges_are_listed_and_those_of_a_silent_one_are_not(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = state.create_tunnel(&by, None).await.unwrap().0.id;
    let (secret, _) = state.create_secret(&by, &id, &sha256("s")).await.unwrap();
    let row = |replica: &str| LiveRow {
        credential: secret.id.clone(),
        replica: replica.to_owned(),
        address: "192.0.2.1:5000".to_owned(),
    };
    for edge in ["a", "b"] {
        state.beat(edge, 0, true).await.unwrap();
    }
    state
        .report_live("a", &[row("r1"), row("r2")])
        .await
        .unwrap();
    state.report_live("b", &[row("r1")]).await.unwrap();
    let page = Page {
        before: None,
        limit: 20,
        include_archived: false,
    };
    let live = async || state.secrets(&id, page).await.unwrap().0.remove(0).live;
    let seen: Vec<_> = live()
        .await
        .into_iter()
        .map(|l| (l.replica, l.instance))
        .collect();
    let wanted = [("r1", "a"), ("r1", "b"), ("r2", "a")].map(|(r, i)| (r.to_owned(), i.to_owned()));
    assert_eq!(seen, wanted);
    state.report_live("a", &[]).await.unwrap();
    assert_eq!(live().await.len(), 1);
    silence(&given, "b").await;
    state.report_live("a", &[row("r2")]).await.unwrap();
    assert_eq!(live().await.len(), 1, "b was not heard of for ten seconds");
}

async fn autonomous_systems_need_a_table_on_every_edge_that_serves(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = state.create_tunnel(&by, None).await.unwrap().0.id;
    let access = api::Access {
        cidrs: vec!["192.0.2.0/24".to_owned()],
        asns: vec![64_500],
        ..api::Access::default()
    };
    let put = async || state.put_access(&by, &id, &access, None).await;
    put().await.expect("nobody serves yet");
    state.beat("a", 0, true).await.unwrap();
    put().await.unwrap();
    state.beat("b", 0, false).await.unwrap();
    let refused = put().await.unwrap_err().to_string();
    assert!(
        refused.starts_with("asns: 1 of 2 edges have no asn_file"),
        "{refused}"
    );
    let open = api::Access {
        asns: Vec::new(),
        ..access.clone()
    };
    state.put_access(&by, &id, &open, None).await.unwrap();
    // One that is configured anew has the same place, one that is gone has none.
    state.beat("b", 0, true).await.unwrap();
    put().await.unwrap();
    state.beat("b", 0, false).await.unwrap();
    state.leave("b").await.unwrap();
    put().await.unwrap();
    state.beat("b", 0, false).await.unwrap();
    silence(&given, "b").await;
    put().await.expect("it was not seen for long enough");
}
