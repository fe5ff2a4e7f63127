//! The schema, forward from what earlier releases left and never backward.

use sqlx::Executor;

use crate::state::schema::statements;
use crate::state::{Kind, OpenError, Page, SchemaError, Seal, Settings, State, sha256};
use crate::tests::issuer::{Signer, issuer, rule};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_newer_schema_is_refused_and_left_alone,
    a_state_of_the_first_schema_is_brought_forward_with_all_that_it_holds_and_works_on,
    two_edges_that_start_on_an_empty_database_both_come_up,
);

/// Every table.
const TABLES: [&str; 16] = [
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
];

/// As a database is before the first start.
async fn emptied(given: &Stage) {
    for table in TABLES {
        let query = format!("DROP TABLE {table}");
        given.state.pool().execute(&*query).await.unwrap();
    }
}

async fn a_newer_schema_is_refused_and_left_alone(given: Stage) {
    let newer = "UPDATE schema_version SET number = number + 1";
    sqlx::query(newer)
        .execute(given.state.pool())
        .await
        .unwrap();
    let settings = Settings {
        edge: "edge.test".to_owned(),
        reveal: true,
    };
    let seal = Seal::new(&[7; 32]).unwrap();
    let refused = State::open(&given.url, seal, settings).await.unwrap_err();
    assert!(matches!(
        refused,
        OpenError::Schema(SchemaError::Newer { found: 4, known: 3 })
    ));
    let (found,): (i64,) = sqlx::query_as("SELECT number FROM schema_version")
        .fetch_one(given.state.pool())
        .await
        .unwrap();
    assert_eq!(found, 4);
}

/// As the first release made it, and what an edge of that release has put there.
async fn of_the_first_release(given: &Stage) -> (String, String) {
    emptied(given).await;
    let (pool, now) = (given.state.pool(), given.clock.seconds());
    for statement in statements(include_str!("../../../migrations/0001_state.sql")) {
        pool.execute(&*statement).await.unwrap();
    }
    let trusted = issuer(vec![Signer::p256().jwk("k")]);
    let believed = serde_json::to_string(&trusted).unwrap();
    let rule = serde_json::to_string(&rule("fdis_old")).unwrap();
    let sealed = Seal::new(&[7; 32]).unwrap().seal("ttok_old", "kwt-old");
    let (token, secret) = (sha256("kwt-old"), sha256("a secret"));
    let fingerprint = "ab".repeat(32);
    let access = r#"{"client_ca_certificates":[],"clients":[],"denied":[],"cidrs":["192.0.2.0/24"],"asns":[],"limits":{"streams":7}}"#;
    for statement in [
        "CREATE TABLE schema_version (only_row BIGINT PRIMARY KEY, number BIGINT NOT NULL)"
            .to_owned(),
        "INSERT INTO schema_version (only_row, number) VALUES (1, 1)".to_owned(),
        "UPDATE sequence SET value = 9 WHERE name = 'change'".to_owned(),
        "UPDATE sequence SET value = 2 WHERE name = 'audit'".to_owned(),
        "INSERT INTO setting VALUES ('edge', 'edge.test'), ('organization_id', 'org')".to_owned(),
        format!(
            "INSERT INTO tunnel VALUES ('tnl_old', 1, 'old.edge.test', 'old one', {now}, NULL, NULL)"
        ),
        format!(
            "INSERT INTO tunnel VALUES ('tnl_gone', 2, 'gone.edge.test', NULL, {now}, {now}, NULL)"
        ),
        format!(
            "INSERT INTO connector_credential VALUES ('ttok_old', 1, 'tnl_old', 'token', '{token}', '{sealed}', {now}, NULL, NULL, NULL)"
        ),
        format!(
            "INSERT INTO connector_credential VALUES ('tsec_old', 3, 'tnl_old', 'secret', '{secret}', NULL, {now}, NULL, NULL, {now})"
        ),
        format!(
            "INSERT INTO certificate VALUES ('tcrt_old', 4, 'tnl_old', '{fingerprint}', 'PEM', {now}, {now} + 86400, NULL)"
        ),
        format!("INSERT INTO access VALUES ('tnl_old', 3, '{access}', {now})"),
        format!("INSERT INTO bundle VALUES ('tnl_old', 5, 'a.b.c', 'signer', NULL, {now})"),
        format!("INSERT INTO issuer VALUES ('fdis_old', 6, 'cluster', '{believed}', {now}, NULL)"),
        format!(
            "INSERT INTO rule VALUES ('fdrl_old', 7, 'setup', 'fdis_old', '{rule}', {now}, NULL)"
        ),
        format!("INSERT INTO used_assertion VALUES ('fdis_old', 'mark', {now} + 600)"),
        format!("INSERT INTO instance VALUES ('an edge', 9, {now})"),
        format!(
            "INSERT INTO audit VALUES (1, {now}, 'operator:0', 'tunnel_created', 'tnl_old', 'tnl_old', 'done', NULL, 'req_1')"
        ),
        format!(
            "INSERT INTO audit VALUES (2, {now}, 'source:192.0.2.1', 'tunnel_access_token_refused', NULL, NULL, 'refused', 'exp', 'req_2')"
        ),
    ] {
        pool.execute(&*statement)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    (token, secret)
}

#[expect(
    clippy::too_many_lines,
    reason = "a row of every kind, before and after"
)]
async fn a_state_of_the_first_schema_is_brought_forward_with_all_that_it_holds_and_works_on(
    given: Stage,
) {
    let (token, secret) = of_the_first_release(&given).await;
    let (later, by) = (given.another().await, given.by());
    let (number,): (i64,) = sqlx::query_as("SELECT number FROM schema_version")
        .fetch_one(later.pool())
        .await
        .unwrap();
    assert_eq!(number, 3);

    // What was there.
    assert_eq!(later.identity().await.unwrap().unwrap().edge, "edge.test");
    let tunnel = later.tunnel("tnl_old").await.unwrap().unwrap();
    assert_eq!(
        (&*tunnel.domain, tunnel.display_name.as_deref()),
        ("old.edge.test", Some("old one"))
    );
    let snapshot = later.snapshot(by.now).await.unwrap();
    assert_eq!(snapshot.change, 9);
    assert!(snapshot.tunnels["tnl_gone"].archived);
    let old = &snapshot.tunnels["tnl_old"];
    assert!(old.certified && !old.archived && !old.suspended);
    assert_eq!(old.access.cidrs, ["192.0.2.0/24"]);
    assert_eq!(old.access.limits.streams, Some(7));
    let credentials: Vec<_> = old
        .credentials
        .iter()
        .map(|c| (c.kind, &*c.sha256, c.opens(by.now)))
        .collect();
    assert_eq!(
        credentials,
        [(Kind::Token, &*token, true), (Kind::Secret, &*secret, true)]
    );
    let all = Page {
        before: None,
        limit: 100,
        include_archived: true,
    };
    let certificate = later
        .certificate("tnl_old", "tcrt_old")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(certificate.fingerprint, "ab".repeat(32));
    let rows = later.audit(u64::MAX, 100).await.unwrap();
    let actions: Vec<_> = rows.iter().map(|row| (row.number, &*row.action)).collect();
    assert_eq!(
        actions,
        [(2, "tunnel_access_token_refused"), (1, "tunnel_created")]
    );

    // What it is good for.
    let revealed = later.reveal_token(&by, "tnl_old", None).await.unwrap();
    assert_eq!(revealed.tunnel_token, "kwt-old");
    let (secret, change) = later
        .archive_secret(&by, "tnl_old", "tsec_old")
        .await
        .unwrap();
    assert!(secret.archived_at.is_some());
    assert_eq!(change, 10, "it counts on");
    let rotated = later
        .rotate_token(&by, "tnl_old", crate::state::Rotation::default())
        .await
        .unwrap();
    assert_ne!(rotated.0.tunnel_token, "kwt-old");
    later
        .archive_certificate(&by, "tnl_old", "tcrt_old")
        .await
        .unwrap();
    assert_eq!(later.secrets("tnl_old", all).await.unwrap().0.len(), 1);
    let (made, _) = later.create_tunnel(&by, None).await.unwrap();
    let listed = later.tunnels(all, None).await.unwrap();
    assert_eq!(listed.0[0].id, made.id, "the newest first");
    later.beat("an edge", 9, true).await.unwrap();
    assert_eq!(later.audit(u64::MAX, 1).await.unwrap()[0].number, 7);
}

async fn two_edges_that_start_on_an_empty_database_both_come_up(given: Stage) {
    emptied(&given).await;
    let (one, two, three) = tokio::join!(given.another(), given.another(), given.another());
    for state in [&one, &two, &three] {
        state.create_tunnel(&given.by(), None).await.unwrap();
    }
    assert_eq!(one.last_change().await.unwrap(), 3);
}
