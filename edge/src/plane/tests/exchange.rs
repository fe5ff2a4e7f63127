//! Token exchange over HTTP: what is named, what is opaque, what is written down.

use std::io::ErrorKind;
use std::net::TcpListener;

use http::Method;
use process::base64;
use serde_json::{Value, json};

use super::http_client::{Answer, Served};
use crate::plane::Rates;
use crate::plane::limit::Rate;
use crate::state::{Issuer, KeySource, Rule, WithoutJti, sha256};
use crate::tests::clock::START;
use crate::tests::issuer::{Signer, claims, issuer, rule};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    an_assertion_buys_a_token_as_documented,
    every_denial_is_the_same_answer_and_its_reason_is_in_the_audit_log,
    what_is_malformed_is_named,
    an_assertion_is_good_once_on_all_edges,
    a_token_without_jti_is_good_as_often_as_its_issuer_says,
    the_life_of_a_token_is_bounded_by_rule_and_assertion,
    rfc_8693_goes_by_the_same_rules_and_answers_in_its_own_form,
    exchanges_are_limited_by_source_and_by_rule_before_any_signature,
    a_token_of_another_organization_is_not_sold,
    a_flood_of_exchanges_under_a_rule_locks_nobody_out_of_it,
);

async fn refusal(served: &Served) -> String {
    let row = served.last_row().await;
    assert_eq!(
        (row.action.as_str(), row.outcome.as_str()),
        ("tunnel_access_token_refused", "refused")
    );
    row.reason.unwrap()
}

async fn an_assertion_buys_a_token_as_documented(stage: Stage) {
    let served = Served::new(stage).await;
    let bought = served.buy(&served.assertion("a")).await;
    assert_eq!(bought.status, 200);
    assert!(
        bought.body["access_token"]
            .as_str()
            .unwrap()
            .starts_with("kwa-")
    );
    assert_eq!(bought.body["token_type"], "Bearer");
    assert_eq!(
        bought.body["expires_in"], 1200,
        "twice what is left of the assertion"
    );
    assert_eq!(bought.body["scope"], "workspace:manage_tunnels");
    assert_eq!(
        bought.body.as_object().unwrap().len(),
        4,
        "no refresh token"
    );
    assert_eq!(bought.headers["cache-control"], "no-store");
    let row = served.last_row().await;
    assert_eq!(row.action, "tunnel_access_token_minted");
    let names = format!("kid \"k\", jti {}", sha256("a"));
    assert_eq!(row.reason.as_deref(), Some(names.as_str()));
    assert_eq!(
        row.actor,
        format!("rule:{}:system:serviceaccount:mcp:setup", served.rule.id)
    );
}

async fn a_token_of_another_organization_is_not_sold(stage: Stage) {
    let served = Served::new(stage).await;
    let assertion = served.assertion("a");
    let body = served.exchange(&assertion);
    let own = "0d9e9b52-8f0e-4c6e-9a55-7f4b6e1c2a10";
    let other = body.replace(own, "elsewhere");
    let denied = served.send(Method::POST, "/v1/oauth/token", &[], &other);
    assert_eq!(denied.await.status, 401);
    let reason = refusal(&served).await;
    assert!(reason.contains("elsewhere"), "{reason}");
    assert_eq!(served.buy(&assertion).await.status, 200);
}

async fn every_denial_is_the_same_answer_and_its_reason_is_in_the_audit_log(stage: Stage) {
    let mut served = Served::new(stage).await;
    let with = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        served.signer.sign("k", &claims)
    };
    let used = served.assertion("first");
    let cases: Vec<(String, &str)> = vec![
        (with("iss", json!("https://other.test")), "byte for byte"),
        (with("aud", json!("https://other.test")), "the rule wants"),
        (
            with("sub", json!("system:serviceaccount:other:x")),
            "match_subject_prefix",
        ),
        (with("exp", json!(START - 60)), "expired 60 seconds ago"),
        (Signer::p256().sign("k", &claims()), "signature"),
        (served.signer.sign("other", &claims()), "kid \"other\""),
        ("x".to_owned(), "has 1 parts"),
        (used, "jti_reused"),
    ];
    let mut answers: Vec<Answer> = Vec::new();
    for (assertion, reason) in cases {
        let refused = served.buy(&assertion).await;
        let written = refusal(&served).await;
        assert!(written.contains(reason), "{written}");
        let named = assertion == "x" || written.contains("(kid \"");
        assert!(named, "{written}");
        answers.push(refused);
    }
    served.rule.id = "fdrl_0".to_owned();
    let good = served.assertion("good");
    answers.push(served.buy(&good).await);
    assert!(refusal(&served).await.contains("no such rule"));
    for answer in &answers {
        assert_eq!(answer.status, 401);
        assert_eq!(answer.kind(), "authentication_error");
        assert_eq!(answer.message(), "Authentication failed");
    }
    let row = served.last_row().await;
    let last = answers.last().unwrap();
    assert_eq!(row.request_id, last.headers["request-id"].to_str().unwrap());
    assert_eq!(row.actor, "source:127.0.0.1");
}

#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn what_is_malformed_is_named(stage: Stage) {
    let served = Served::new(stage).await;
    let good = json!({"grant_type": api::grant::JWT_BEARER, "assertion": "x", "federation_rule_id": "fdrl_0"});
    let with = |name: &str, value: Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, names) in [
        (with("grant_type", json!("")), "grant_type"),
        (
            with("grant_type", json!("client_credentials")),
            "grant_type",
        ),
        (with("assertion", json!("")), "assertion"),
        (with("assertion", json!("x".repeat(16_385))), "assertion"),
        (with("federation_rule_id", json!("")), "federation_rule_id"),
        (
            with("federation_rule_id", json!("rule")),
            "federation_rule_id",
        ),
        (with("workspace_id", json!("")), "workspace_id"),
        (with("service_account_id", json!("x")), "service_account_id"),
    ] {
        let refused = served
            .send(Method::POST, "/v1/oauth/token", &[], &body.to_string())
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.kind()),
            (400, "invalid_request_error")
        );
        assert!(
            refused.message().starts_with(names),
            "{} for {names}",
            refused.message()
        );
    }
    let twice = r#"{"assertion":"a","assertion":"b"}"#;
    assert_eq!(
        served
            .send(Method::POST, "/v1/oauth/token", &[], twice)
            .await
            .status,
        400
    );
    // What nobody knows is dropped, as by the product.
    let unknown = with("federation_rule", json!("x"));
    assert_eq!(
        served
            .send(Method::POST, "/v1/oauth/token", &[], &unknown.to_string())
            .await
            .status,
        401
    );
    let large = format!(r#"{{"assertion":"{}"}}"#, "x".repeat(70_000));
    assert_eq!(
        served
            .send(Method::POST, "/v1/oauth/token", &[], &large)
            .await
            .status,
        413
    );
}

async fn an_assertion_is_good_once_on_all_edges(stage: Stage) {
    let served = Served::new(stage).await;
    let assertion = served.assertion("once");
    let both = [
        served.buy(&assertion),
        served.buy(&assertion),
        served.buy(&assertion),
    ];
    let [a, b, c] = both;
    let (a, b, c) = tokio::join!(a, b, c);
    let good = [&a, &b, &c]
        .into_iter()
        .filter(|answer| answer.status == 200)
        .count();
    assert_eq!(good, 1);
    // Without a jti it cannot be told from its copy, and many workloads present one many times.
    let without = served.signer.sign("k", &claims());
    for _ in 0..2 {
        assert_eq!(served.buy(&without).await.status, 200);
    }
    // A wrong one does not use up what it names.
    let mut forged = claims();
    forged["jti"] = "victim".into();
    let forged = Signer::p256().sign("k", &forged);
    assert_eq!(served.buy(&forged).await.status, 401);
    assert_eq!(served.buy(&served.assertion("victim")).await.status, 200);
    assert!(served.issuer.check_jti);
    // As long as clocks may differ it would be good, so its use is remembered.
    served.stage.clock.advance(629);
    let now = served.stage.clock.seconds();
    // The clock of the edge that forgets may be ten minutes ahead of the one that is asked.
    served.stage.state.sweep(now + 600).await.unwrap();
    assert_eq!(served.buy(&assertion).await.status, 401);
    assert!(refusal(&served).await.contains("jti_reused"));
}

/// The same token with the other signature that holds as well: (r, n − s) for (r, s).
fn other_signature(token: &str) -> String {
    const ORDER: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut signature = base64::decode_url(signature).unwrap();
    let mut borrow = 0;
    for (s, n) in signature[32..].iter_mut().zip(ORDER).rev() {
        let left = i16::from(n) - i16::from(*s) - borrow;
        borrow = i16::from(left < 0);
        *s = u8::try_from(left.rem_euclid(256)).unwrap();
    }
    format!("{signed}.{}", base64::encode_url(&signature))
}

async fn a_token_without_jti_is_good_as_often_as_its_issuer_says(stage: Stage) {
    let mut served = Served::new(stage).await;
    for (without_jti, check_jti, statuses) in [
        (WithoutJti::Allow, true, [200, 200]),
        (WithoutJti::Once, true, [200, 401]),
        (WithoutJti::Refuse, true, [401, 401]),
        (WithoutJti::Refuse, false, [200, 200]),
    ] {
        let (kept, by) = (served.stage.state.clone(), served.stage.by());
        let name = format!("{without_jti:?}-{check_jti}").to_lowercase();
        let issuer = Issuer {
            name: name.clone(),
            without_jti,
            check_jti,
            ..issuer(vec![served.signer.jwk("k")])
        };
        let issuer = kept.add_issuer(&by, &issuer).await.unwrap();
        let rule = Rule {
            name,
            ..rule(&issuer.id)
        };
        served.rule = kept.add_rule(&by, &rule).await.unwrap();
        let token = served.signer.sign("k", &claims());
        for status in statuses {
            assert_eq!(served.buy(&token).await.status, status, "{}", rule.name);
        }
        if statuses == [200, 401] {
            assert!(refusal(&served).await.contains("jti_reused"));
            let written_otherwise = other_signature(&token);
            assert_ne!(written_otherwise, token);
            assert_eq!(served.buy(&written_otherwise).await.status, 401);
            assert!(refusal(&served).await.contains("jti_reused"));
        }
        // One with a jti is good once wherever that is looked at.
        let named = served.assertion(&rule.name);
        assert_eq!(served.buy(&named).await.status, 200);
        let again = if check_jti { 401 } else { 200 };
        assert_eq!(served.buy(&named).await.status, again);
    }
}

async fn the_life_of_a_token_is_bounded_by_rule_and_assertion(stage: Stage) {
    let served = Served::new(stage).await;
    for (left, lives) in [(3000_u64, 3600), (600, 1200), (31, 62), (20, 60), (0, 60)] {
        let mut claims = claims();
        claims["exp"] = (START + left).into();
        claims["iat"] = (START - 10).into();
        let bought = served.buy(&served.signer.sign("k", &claims)).await;
        assert_eq!(bought.body["expires_in"], lives, "{left} left");
    }
}

async fn rfc_8693_goes_by_the_same_rules_and_answers_in_its_own_form(stage: Stage) {
    let served = Served::new(stage).await;
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let send = async |token: &str, kind: &str| {
        let body = format!(
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token={token}\
             &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3A{kind}&federation_rule_id={}",
            served.rule.id
        );
        served
            .send(Method::POST, "/v1/oauth/token", &form, &body)
            .await
    };
    let bought = send(&served.assertion("form"), "jwt").await;
    assert_eq!(bought.status, 200, "{}", bought.body);
    assert_eq!(
        bought.body["issued_token_type"],
        "urn:ietf:params:oauth:token-type:access_token"
    );
    let again = send(&served.assertion("form"), "jwt").await;
    assert_eq!(again.status, 400);
    assert_eq!(
        again.body,
        json!({"error": "invalid_grant", "error_description": "Authentication failed"})
    );
    assert!(refusal(&served).await.contains("jti_reused"));
    let wrong = send(&served.assertion("x"), "saml2").await;
    assert_eq!(
        (wrong.status.as_u16(), &wrong.body["error"]),
        (400, &json!("invalid_request"))
    );
}

/// An issuer whose keys are fetched, and what would be asked for them.
async fn fetched(served: &mut Served) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let (kept, by) = (&served.stage.state, served.stage.by());
    let issuer = Issuer {
        name: "fetched".to_owned(),
        keys: KeySource::ExplicitUrl { url },
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
        ..issuer(Vec::new())
    };
    let issuer = kept.add_issuer(&by, &issuer).await.unwrap();
    let rule = Rule {
        name: "fetched".to_owned(),
        ..rule(&issuer.id)
    };
    served.rule = kept.add_rule(&by, &rule).await.unwrap();
    listener
}

async fn exchanges_are_limited_by_source_and_by_rule_before_any_signature(stage: Stage) {
    let rate = |burst| Rate {
        burst,
        per_minute: 6,
    };
    let rates = Rates {
        exchanges: rate(6),
        rule: rate(2),
        audited: rate(2),
        ..Rates::default()
    };
    let mut served = Served::with_rates(stage, rates).await;
    let listener = fetched(&mut served).await;
    let good = served.assertion("good");
    for _ in 0..2 {
        assert_eq!(served.buy("x").await.status, 401);
    }
    for source in [[192, 0, 2, 1], [192, 0, 2, 2]] {
        assert_eq!(served.buy_from(source, "x").await, 401, "strangers");
    }
    assert_eq!(served.buy_from([192, 0, 2, 3], &good).await, 429);
    assert_eq!(served.buy(&good).await.status, 429, "the rule's are used");
    for rule in ["fdrl_0", "fdrl_1"] {
        rule.clone_into(&mut served.rule.id);
        assert_eq!(served.buy("x").await.status, 401);
    }
    // A rule of which nothing is used.
    "fdrl_2".clone_into(&mut served.rule.id);
    let stopped = served.buy(&good).await;
    assert_eq!(stopped.status, 429, "the source's six are used");
    assert_eq!(stopped.headers["retry-after"], "10");
    let asked = listener.accept().unwrap_err();
    assert_eq!(asked.kind(), ErrorKind::WouldBlock, "no key was asked for");
    let refused = served.stage.state.audit(u64::MAX, 100).await.unwrap();
    let refused = refused
        .iter()
        .filter(|row| row.outcome == "refused")
        .count();
    assert_eq!(refused, 2, "a flood does not fill the database");
}

async fn a_flood_of_exchanges_under_a_rule_locks_nobody_out_of_it(stage: Stage) {
    let rates = Rates {
        rule: Rate {
            burst: 20,
            per_minute: 6,
        },
        ..Rates::default()
    };
    let served = Served::with_rates(stage, rates).await;
    let mut looked_at = 0;
    for attacker in 1..=10 {
        for _ in 0..30 {
            let status = served.buy_from([192, 0, 2, attacker], "x").await;
            assert!(status == 401 || status == 429, "{status}");
            looked_at += u32::from(status == 401);
        }
    }
    assert_eq!(
        looked_at, 30,
        "ten first tries, and the share of those who tried"
    );
    let first = served.assertion("its first");
    assert_eq!(served.buy_from([198, 51, 100, 1], &first).await, 200);
    // So many that no stranger gets through: whoever bought something lately does.
    for attacker in 1..=100 {
        served.buy_from([203, 0, 113, attacker], "x").await;
    }
    let good = served.assertion("b");
    assert_eq!(served.buy_from([198, 51, 100, 2], &good).await, 429);
    assert_eq!(served.buy_from([198, 51, 100, 1], &good).await, 200);
    assert_eq!(served.buy(&served.assertion("d")).await.status, 200);
}
