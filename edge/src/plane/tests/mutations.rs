//! Everything that the API can change, one by one: one transaction, one audit row, or nothing at all.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};

use super::bundles::bundle;
use super::certificates::ca;
use super::http_client::{Answer, Served};
use crate::plane::Rates;
use crate::plane::limit::Rate;
use crate::state::sha256;
use crate::tests::issuer::Signer;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    every_mutation_of_the_document_writes_one_row_under_its_request_and_counts_once,
    no_mutation_happens_that_could_not_be_written_down,
    whoever_asks_too_often_is_stopped_before_the_database_whatever_is_asked,
);

/// One change that the API offers.
struct Mutation {
    /// `operationId` in the `OpenAPI` document.
    name: &'static str,
    method: Method,
    path: String,
    body: Value,
    /// Of the audit row.
    action: &'static str,
    /// Whether edges must act on it.
    counts: bool,
}

/// What the mutations are done to.
struct Target {
    served: Served,
    tunnel: String,
    secret: String,
    certificate: String,
}

impl Target {
    async fn new(served: Served) -> Self {
        let made = served.post("/v1/tunnels", &json!({})).await;
        let tunnel = made.body["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/tunnels/{tunnel}");
        let add = async |part: &str, body: Value| {
            let added = served.post(&format!("{path}/{part}"), &body).await;
            added.body["id"].as_str().unwrap().to_owned()
        };
        let secret = add("secrets", json!({"sha256": sha256("there")})).await;
        let certificate = add("certificates", json!({"ca_certificate_pem": ca("there")})).await;
        Self {
            served,
            tunnel,
            secret,
            certificate,
        }
    }

    /// All of them, in an order in which each can be done.
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn mutations(&self) -> Vec<Mutation> {
        let reason = || json!({"reason": "a test"});
        let pem = json!({"ca_certificate_pem": ca("table")});
        let payload = json!({"tunnel": self.tunnel, "sequence": 1});
        let jws = json!({"bundle": bundle(&Signer::p256(), &payload)});
        let digest = json!({"sha256": sha256("table")});
        let certificate = format!("certificates/{}/archive", self.certificate);
        let secret = format!("secrets/{}/archive", self.secret);
        let (post, put) = (Method::POST, Method::PUT);
        [
            ("create_tunnel", &post, "", json!({}), "tunnel_created"),
            (
                "suspend_tunnel",
                &post,
                "suspend",
                reason(),
                "tunnel_suspended",
            ),
            ("resume_tunnel", &post, "resume", reason(), "tunnel_resumed"),
            (
                "reveal_token",
                &post,
                "reveal_token",
                reason(),
                "tunnel_token_revealed",
            ),
            (
                "rotate_token",
                &post,
                "rotate_token",
                reason(),
                "tunnel_token_rotated",
            ),
            (
                "create_certificate",
                &post,
                "certificates",
                pem,
                "tunnel_certificate_added",
            ),
            (
                "archive_certificate",
                &post,
                &certificate,
                json!({}),
                "tunnel_certificate_revoked",
            ),
            (
                "create_secret",
                &post,
                "secrets",
                digest,
                "tunnel_secret_added",
            ),
            (
                "archive_secret",
                &post,
                &secret,
                json!({}),
                "tunnel_secret_archived",
            ),
            (
                "put_access",
                &put,
                "access",
                json!({"cidrs": ["192.0.2.0/24"]}),
                "tunnel_access_changed",
            ),
            ("put_bundle", &put, "bundles/1", jws, "tunnel_bundle_put"),
            (
                "archive_tunnel",
                &post,
                "archive",
                reason(),
                "tunnel_archived",
            ),
        ]
        .map(|(name, method, part, body, action)| Mutation {
            name,
            method: method.clone(),
            path: match part {
                "" => "/v1/tunnels".to_owned(),
                part => format!("/v1/tunnels/{}/{part}", self.tunnel),
            },
            body,
            action,
            counts: name != "reveal_token",
        })
        .into()
    }

    async fn send(&self, mutation: &Mutation) -> Answer {
        let (method, body) = (mutation.method.clone(), mutation.body.to_string());
        let any = [("if-match", "*")];
        self.served.call(method, &mutation.path, &any, &body).await
    }
}

/// The operations of the `OpenAPI` document that are no reading.
fn documented() -> BTreeSet<String> {
    let document = include_str!("../../../../docs/openapi.yaml");
    let mut found = BTreeSet::new();
    let mut method = String::new();
    for line in document.lines() {
        let text = line.trim_start();
        if let Some((name, _)) = text.split_once(':')
            && line.len() - text.len() == 4
        {
            name.clone_into(&mut method);
        }
        if let Some((_, rest)) = text.split_once("operationId: ")
            && method != "get"
        {
            let end = rest.find([',', '}']).unwrap_or(rest.len());
            found.insert(rest[..end].to_owned());
        }
    }
    found
}

async fn every_mutation_of_the_document_writes_one_row_under_its_request_and_counts_once(
    stage: Stage,
) {
    let target = Target::new(Served::new(stage).await).await;
    let kept = &target.served.stage.state;
    let mut names: BTreeSet<String> = BTreeSet::from(["exchange".to_owned()]);
    for mutation in target.mutations() {
        let name = mutation.name;
        names.insert(name.to_owned());
        let newest = kept.audit(u64::MAX, 1).await.unwrap().remove(0).number;
        let change = kept.last_change().await.unwrap();
        let answer = target.send(&mutation).await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        let rows = kept.audit(u64::MAX, 10).await.unwrap();
        let rows: Vec<_> = rows.into_iter().filter(|row| row.number > newest).collect();
        assert_eq!(rows.len(), 1, "{name}");
        assert_eq!(
            (&*rows[0].action, &*rows[0].outcome),
            (mutation.action, "done")
        );
        let actor = format!(
            "rule:{}:system:serviceaccount:mcp:setup",
            target.served.rule.id
        );
        assert_eq!(rows[0].actor, actor);
        assert_eq!(
            rows[0].request_id,
            answer.headers["request-id"].to_str().unwrap()
        );
        let counted = kept.last_change().await.unwrap() - change;
        assert_eq!(counted, u64::from(mutation.counts), "{name}");
    }
    assert_eq!(names, documented());
}

/// How many rows there are in everything but the audit log, and what the relay decides by.
async fn contents(stage: &Stage) -> String {
    let mut counts = Vec::new();
    for table in [
        "tunnel",
        "connector_credential",
        "certificate",
        "access",
        "bundle",
        "access_token",
        "used_assertion",
    ] {
        let query = format!("SELECT COUNT(*) FROM {table}");
        let (count,): (i64,) = sqlx::query_as(&query)
            .fetch_one(stage.state.pool())
            .await
            .unwrap();
        counts.push((table, count));
    }
    let snapshot = stage.state.snapshot(stage.clock.seconds()).await.unwrap();
    format!("{counts:?} {snapshot:?}")
}

async fn no_mutation_happens_that_could_not_be_written_down(stage: Stage) {
    let target = Target::new(Served::new(stage).await).await;
    let stage = &target.served.stage;
    let before = contents(stage).await;
    let away = async |from: &str, to: &str| {
        let query = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(&query)
            .execute(stage.state.pool())
            .await
            .unwrap();
    };
    away("audit", "audit_away").await;
    for mutation in target.mutations() {
        let answer = target.send(&mutation).await;
        assert_eq!(answer.status, 503, "{}: {}", mutation.name, answer.body);
        assert!(answer.body.get("tunnel_token").is_none());
        assert_eq!(contents(stage).await, before, "{}", mutation.name);
    }
    let assertion = target.served.assertion("unwritten");
    assert_eq!(target.served.buy(&assertion).await.status, 503);
    assert_eq!(contents(stage).await, before, "it is not used up either");
    away("audit_away", "audit").await;
    assert_eq!(target.served.buy(&assertion).await.status, 200);
    for mutation in target.mutations() {
        let answer = target.send(&mutation).await;
        assert_eq!(answer.status, 200, "{}: {}", mutation.name, answer.body);
    }
}

async fn whoever_asks_too_often_is_stopped_before_the_database_whatever_is_asked(stage: Stage) {
    let rates = Rates {
        requests: Rate {
            burst: 20,
            per_minute: 1,
        },
        ..Rates::default()
    };
    let target = Target::new(Served::with_rates(stage, rates).await).await;
    while target.served.get("/v1/edge").await.status == 200 {}
    // A question to the database would now be answered 503.
    target.served.stage.state.close().await;
    for mutation in target.mutations() {
        assert_eq!(
            target.send(&mutation).await.status,
            429,
            "{}",
            mutation.name
        );
    }
    let assertion = target.served.assertion("late");
    assert_eq!(target.served.buy(&assertion).await.status, 429);
    for path in ["/v1/tunnels", "/v1/edge", "/v1/openapi.yaml", "/v1/nothing"] {
        assert_eq!(target.served.get(path).await.status, 429, "{path}");
    }
}
