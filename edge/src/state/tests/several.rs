//! Several edges on one database, an older program on a newer schema.

use std::collections::BTreeSet;

use crate::state::{
    Grant, LiveRow, Mark, OpenError, Page, SchemaError, Scope, Seal, Settings, State, sha256,
};
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
    a_newer_schema_is_refused_and_left_alone,
    an_earlier_schema_is_brought_forward_with_what_it_holds,
    autonomous_systems_need_a_table_on_every_edge_that_serves,
    two_edges_that_start_on_an_empty_database_both_come_up,
    a_rule_that_would_take_everybody_is_not_made,
    a_rule_for_an_issuer_of_everybody_names_a_tenant,
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
        tasks.spawn(async move { state.mint(&by, &grant, Some(&mark)).await.unwrap() });
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
            .mint(&given.by(), &grant, Some(&mark))
            .await
            .unwrap()
            .is_none()
    );
    given.state.sweep(now + 59).await.unwrap();
    assert!(
        given
            .state
            .mint(&given.by(), &grant, Some(&mark))
            .await
            .unwrap()
            .is_none()
    );
    given.state.sweep(now + 60).await.unwrap();
    assert!(
        given
            .state
            .mint(&given.by(), &grant, Some(&mark))
            .await
            .unwrap()
            .is_some()
    );
}

async fn an_access_token_ends_with_its_time_its_rule_and_its_issuer(given: Stage) {
    let (grant, mark) = granted(&given).await;
    let (state, by, now) = (&given.state, given.by(), given.clock.seconds());
    let token = state.mint(&by, &grant, None).await.unwrap().unwrap();
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
    let token = state.mint(&by, &grant, None).await.unwrap().unwrap();
    state.archive_issuer(&by, &mark.issuer).await.unwrap();
    assert!(state.grant(token.expose(), now).await.unwrap().is_none());
    assert!(state.rule(&second.id).await.unwrap().is_none());
    assert!(state.rules().await.unwrap().is_empty() && state.issuers().await.unwrap().is_empty());
}

async fn a_change_counts_the_edges_that_act_on_it(given: Stage) {
    let (state, now) = (&given.state, given.clock.seconds());
    let (_, number) = state.create_tunnel(&given.by(), None).await.unwrap();
    state.beat("a", number, true, now).await.unwrap();
    state.beat("b", number - 1, true, now).await.unwrap();
    let count = async |at| {
        let enforced = state.enforced(number, at).await.unwrap();
        (enforced.instances, enforced.of)
    };
    assert_eq!(count(now).await, (1, 2));
    state.beat("b", number, true, now).await.unwrap();
    assert_eq!(count(now).await, (2, 2));
    state.beat("a", number, true, now + 9).await.unwrap();
    assert_eq!(
        count(now + 10).await,
        (1, 1),
        "a silent edge is not waited for"
    );
    state.leave("a").await.unwrap();
    assert_eq!(count(now).await, (1, 1));
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
        state.beat(edge, 0, true, by.now).await.unwrap();
    }
    state
        .report_live("a", &[row("r1"), row("r2")], by.now)
        .await
        .unwrap();
    state.report_live("b", &[row("r1")], by.now).await.unwrap();
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
    state.report_live("a", &[], by.now).await.unwrap();
    assert_eq!(live().await.len(), 1);
    state.beat("a", 0, true, by.now + 11).await.unwrap();
    state
        .report_live("a", &[row("r2")], by.now + 11)
        .await
        .unwrap();
    assert_eq!(
        live().await.len(),
        1,
        "b was not heard of for eleven seconds"
    );
}

async fn a_newer_schema_is_refused_and_left_alone(given: Stage) {
    let newer = "UPDATE schema_version SET number = number + 1";
    sqlx::query(newer).execute(&given.state.pool).await.unwrap();
    let settings = Settings {
        edge: "edge.test".to_owned(),
        reveal: true,
    };
    let seal = Seal::new(&[7; 32]).unwrap();
    let refused = State::open(&given.url, seal, settings).await.unwrap_err();
    assert!(matches!(
        refused,
        OpenError::Schema(SchemaError::Newer { found: 3, known: 2 })
    ));
    let (found,): (i64,) = sqlx::query_as("SELECT number FROM schema_version")
        .fetch_one(&given.state.pool)
        .await
        .unwrap();
    assert_eq!(found, 3);
}

async fn an_earlier_schema_is_brought_forward_with_what_it_holds(given: Stage) {
    let id = given.state.create_tunnel(&given.by(), None).await;
    let id = id.unwrap().0.id;
    // As the first schema was.
    for statement in [
        "ALTER TABLE instance DROP COLUMN asns",
        "UPDATE schema_version SET number = 1",
    ] {
        let done = sqlx::query(statement).execute(given.state.pool()).await;
        done.unwrap();
    }
    assert!(given.state.beat("a", 0, true, 1).await.is_err());
    let later = given.another().await;
    later.beat("a", 0, true, 1).await.unwrap();
    assert!(later.tunnel(&id).await.unwrap().is_some());
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
    state.beat("a", 0, true, by.now).await.unwrap();
    put().await.unwrap();
    state.beat("b", 0, false, by.now).await.unwrap();
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
    state.beat("b", 0, true, by.now).await.unwrap();
    put().await.unwrap();
    state.beat("b", 0, false, by.now).await.unwrap();
    state.leave("b").await.unwrap();
    put().await.unwrap();
    state.beat("b", 0, false, by.now - 10).await.unwrap();
    put().await.expect("it was not seen for long enough");
}

async fn two_edges_that_start_on_an_empty_database_both_come_up(given: Stage) {
    // An empty one: everything of the first start is taken away again.
    for table in [
        "audit",
        "live_connection",
        "instance",
        "idempotency",
        "used_assertion",
        "access_token",
        "rule",
        "issuer",
        "bundle",
        "access",
        "certificate",
        "connector_credential",
        "tunnel",
        "setting",
        "sequence",
        "schema_version",
    ] {
        let query = format!("DROP TABLE {table}");
        sqlx::query(&query)
            .execute(&given.state.pool)
            .await
            .unwrap();
    }
    let (one, two, three) = tokio::join!(given.another(), given.another(), given.another());
    for state in [&one, &two, &three] {
        state.create_tunnel(&given.by(), None).await.unwrap();
    }
    assert_eq!(one.last_change().await.unwrap(), 3);
}

async fn a_rule_that_would_take_everybody_is_not_made(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let issuer = state
        .add_issuer(&by, &issuer(vec![Signer::p256().jwk("a")]))
        .await
        .unwrap();
    let good = rule(&issuer.id);
    let with = |change: &dyn Fn(&mut crate::state::Rule)| {
        let mut rule = good.clone();
        change(&mut rule);
        rule
    };
    let cases: [(crate::state::Rule, &str); 8] = [
        (with(&|r| r.r#match.audience.clear()), "match.audience"),
        (with(&|r| r.r#match.subject_prefix = None), "match:"),
        (
            with(&|r| r.r#match.subject_prefix = Some("*".to_owned())),
            "match:",
        ),
        (
            with(&|r| r.r#match.subject_prefix = Some("a*b".to_owned())),
            "match.subject_prefix",
        ),
        (
            with(&|r| r.token_lifetime_seconds = 59),
            "token_lifetime_seconds",
        ),
        (with(&|r| r.name = "A".to_owned()), "name"),
        (
            with(&|r| r.issuer_id = "fdis_0".to_owned()),
            "no such issuer",
        ),
        (
            with(&|r| r.tunnel_id = Some("tnl_0".to_owned())),
            "no such tunnel",
        ),
    ];
    for (rule, names) in cases {
        let refused = state.add_rule(&by, &rule).await.unwrap_err().to_string();
        assert!(refused.starts_with(names), "{refused} for {names}");
    }
    state.add_rule(&by, &good).await.unwrap();
    let taken = state.add_rule(&by, &good).await.unwrap_err().to_string();
    assert!(taken.starts_with("name: is taken"), "{taken}");
}

async fn a_rule_for_an_issuer_of_everybody_names_a_tenant(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let github = "https://token.actions.githubusercontent.com";
    for (name, url, subject, claim, good) in [
        ("a", github, "repo:acme/infra:*", None, true),
        ("b", github, "repo:acme/*", None, true),
        ("c", github, "repo:acme*", None, false),
        ("d", github, "repo:*", None, false),
        ("e", github, "*", Some("event_name"), false),
        ("f", github, "*", Some("repository_owner_id"), true),
        ("g", github, "repo:acme/infra:pull_request", None, true),
        ("h", "https://gitlab.com", "project_path:acme/*", None, true),
        ("i", "https://gitlab.com", "project_path:*", None, false),
        ("j", "https://accounts.google.com", "1*", None, false),
        ("k", "https://accounts.google.com", "1*", Some("hd"), true),
        (
            "l",
            "https://accounts.google.com/",
            "10769150350006150715113082367",
            None,
            true,
        ),
        ("m", "https://issuer.test", "repo:*", None, true),
    ] {
        let mut issuer = issuer(vec![Signer::p256().jwk("a")]);
        (issuer.name, issuer.issuer_url) = (name.to_owned(), url.to_owned());
        let issuer = state.add_issuer(&by, &issuer).await.unwrap();
        let mut rule = rule(&issuer.id);
        rule.name = name.to_owned();
        rule.r#match.subject_prefix = Some(subject.to_owned());
        let claims = claim.map(|claim| (claim.to_owned(), "x".to_owned()));
        rule.r#match.claims.extend(claims);
        let made = state.add_rule(&by, &rule).await;
        assert_eq!(made.is_ok(), good, "{subject} at {url}");
        if let Err(refused) = made {
            assert!(
                refused.to_string().contains("signs for everybody"),
                "{refused}"
            );
        }
    }
}
