//! Every reason for which an assertion is refused: opaque to the caller, the same words in the audit log
//! and from `explain`.

use std::collections::BTreeSet;

use process::Tasks;
use serde_json::{Value, json};

use super::http_client::Served;
use crate::assertion::{KeyStore, Refusal, names, system_resolver, verify};
use crate::command::explained;
use crate::state::{Issuer, Rule, WithoutJti};
use crate::tests::clock::START;
use crate::tests::issuer::{Signer, claims};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(each_refusal_has_its_reason_in_the_audit_log_and_in_explain);

/// Of all there are; a new one does not compile until it is in the table below.
fn name(refusal: &Refusal) -> Option<&'static str> {
    Some(match refusal {
        Refusal::Parts(_) => "parts",
        Refusal::Encoding(_) => "encoding",
        Refusal::Json { .. } => "json",
        Refusal::Algorithm(_) => "algorithm",
        Refusal::AlgorithmOfOthers { .. } => "algorithm of others",
        Refusal::NoKid => "no kid",
        Refusal::Critical => "critical",
        Refusal::Nested(_) => "nested",
        Refusal::Type { .. } => "type",
        Refusal::UnknownKid { .. } => "unknown kid",
        Refusal::AmbiguousKid(_) => "ambiguous kid",
        Refusal::KeyMismatch { .. } => "key mismatch",
        Refusal::Signature(_) => "signature",
        Refusal::Claim { .. } => "claim",
        Refusal::Issuer { .. } => "issuer",
        Refusal::Audience { .. } => "audience",
        Refusal::Expired(_) => "expired",
        Refusal::NotYetValid(_) => "not yet valid",
        Refusal::FromTheFuture(_) => "from the future",
        Refusal::LivesTooLong { .. } => "lives too long",
        Refusal::EndsBeforeItBegins => "ends before it begins",
        Refusal::Subject { .. } => "subject",
        Refusal::Match { .. } => "match",
        Refusal::Factor { .. } => "factor",
        Refusal::NoJti => "no jti",
        // Malformed rather than refused (400); known to the database alone; a matter of fetching.
        Refusal::TooLong(_) | Refusal::Reused | Refusal::Keys(_) => return None,
    })
}

const NAMES: usize = 25;

struct Table {
    signer: Signer,
    rsa: Signer,
}

impl Table {
    fn header(&self, name: &str, value: Value) -> String {
        let mut header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        header[name] = value;
        self.signer
            .sign_text(&header.to_string(), &good().to_string())
    }

    fn claim(&self, name: &str, value: Value) -> String {
        let mut claims = good();
        claims[name] = value;
        self.signer.sign("k", &claims)
    }

    fn without(&self, name: &str) -> String {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        self.signer.sign("k", &claims)
    }

    /// What is presented, and how the reason begins.
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn cases(&self) -> Vec<(String, &'static str)> {
        let twice = good().to_string().replacen('{', "{\"sub\":\"x\",", 1);
        let header = json!({"alg": "ES256", "kid": "k"}).to_string();
        vec![
            ("x.y".to_owned(), "the assertion has 2 parts"),
            ("a.b.c.d.e".to_owned(), "the assertion has 5 parts"),
            ("!.e30.e30".to_owned(), "the header is not base64url"),
            (
                self.signer.sign_text("[]", "{}"),
                "the header is not one JSON object",
            ),
            (
                self.signer.sign_text(&header, &twice),
                "the claims is not one JSON object",
            ),
            (self.header("alg", json!("none")), "alg is \"none\""),
            (self.header("alg", json!("HS256")), "alg is \"HS256\""),
            (
                self.header("alg", json!("ES384")),
                "alg is ES384, this issuer's may be ES256, RS256",
            ),
            (self.header("kid", Value::Null), "kid is missing"),
            (self.header("crit", json!(["x"])), "crit is there"),
            (self.header("cty", json!("JWT")), "cty is there"),
            (self.header("b64", json!(false)), "b64 is there"),
            (self.header("typ", json!("at+jwt")), "typ is \"at+jwt\""),
            (
                self.header("kid", json!("nobody")),
                "kid \"nobody\" is none of",
            ),
            (
                self.header("kid", json!("twin")),
                "kid \"twin\" names several",
            ),
            (
                self.rsa.sign("k", &good()),
                "alg is RS256, key \"k\" is for",
            ),
            (
                Signer::p256().sign("k", &good()),
                "the signature does not hold",
            ),
            (self.without("sub"), "sub is missing"),
            (self.without("exp"), "exp is missing"),
            (self.without("iat"), "iat is missing"),
            (
                self.claim("exp", json!("soon")),
                "exp is missing or not a number",
            ),
            (self.claim("aud", json!({})), "aud is missing or not a text"),
            (
                self.claim("iss", json!("https://issuer.test/")),
                "iss is \"https://issuer.test/\"",
            ),
            (self.claim("aud", json!(["a", "b"])), "aud is \"a, b\""),
            (
                self.claim("exp", json!(START - 31)),
                "expired 31 seconds ago",
            ),
            (
                self.claim("nbf", json!(START + 31)),
                "not valid for another 31 seconds",
            ),
            (
                self.claim("iat", json!(START + 31)),
                "issued 31 seconds in the future",
            ),
            (
                self.claim("exp", json!(START + 3600)),
                "lives for 3610 seconds",
            ),
            (self.claim("exp", json!(START - 10)), "exp is not after iat"),
            (
                self.claim("sub", json!("eve")),
                "match_subject_prefix: sub is \"eve\"",
            ),
            (
                self.claim("team", json!("red")),
                "match_claims: team is \"red\"",
            ),
            (self.without("team"), "match_claims: team is missing"),
            (
                self.claim("amr", json!(["pwd"])),
                "match_multi_factor: amr is \"pwd\"",
            ),
            (
                self.claim("acr", json!("0")),
                "match_multi_factor: acr is \"0\"",
            ),
            (self.without("jti"), "jti is missing"),
        ]
    }
}

fn good() -> Value {
    let mut claims = claims();
    for (name, value) in [
        ("jti", json!("one")),
        ("team", json!("blue")),
        ("amr", json!(["pwd", "mfa"])),
        ("acr", json!("2")),
    ] {
        claims[name] = value;
    }
    claims
}

/// The strictest rule of the strictest issuer.
async fn strict(served: &Served, table: &Table) -> (Rule, Issuer) {
    let (state, by) = (&served.stage.state, served.stage.by());
    let twins = [Signer::p256().jwk("twin"), Signer::p256().jwk("twin")];
    let mut issuer = crate::tests::issuer::issuer(vec![table.signer.jwk("k")]);
    if let crate::state::KeySource::Inline { keys } = &mut issuer.keys {
        keys.extend(twins);
    }
    issuer.name = "strict".to_owned();
    issuer.without_jti = WithoutJti::Refuse;
    issuer.accepted_algorithms = ["ES256", "RS256"].map(str::to_owned).to_vec();
    let issuer = state.add_issuer(&by, &issuer).await.unwrap();
    let mut rule = crate::tests::issuer::rule(&issuer.id);
    rule.name = "strict".to_owned();
    rule.r#match
        .claims
        .insert("team".to_owned(), "blue".to_owned());
    rule.r#match.amr = vec!["mfa".to_owned()];
    rule.r#match.acr = vec!["2".to_owned()];
    (state.add_rule(&by, &rule).await.unwrap(), issuer)
}

/// A reason of the audit log without what tells the token from others.
fn bare(written: &str, assertion: &str) -> String {
    let names = names(assertion).map_or_else(String::new, |names| format!(" ({names})"));
    written.strip_suffix(&names).unwrap().to_owned()
}

async fn each_refusal_has_its_reason_in_the_audit_log_and_in_explain(on: Stage) {
    let mut served = Served::new(on).await;
    let table = Table {
        signer: Signer::p256(),
        rsa: Signer::rsa(),
    };
    let (rule, issuer) = strict(&served, &table).await;
    served.rule = rule.clone();
    let keys = KeyStore::new(system_resolver(), served.stage.clock.clone(), Tasks::new());
    let mut seen = BTreeSet::new();
    for (assertion, reason) in table.cases() {
        let answer = served.buy(&assertion).await;
        assert_eq!(answer.status, 401, "{reason}");
        assert_eq!(answer.message(), "Authentication failed");
        let row = served.last_row().await;
        assert_eq!(row.outcome, "refused");
        assert_eq!(row.target.as_deref(), Some(&*rule.id));
        let written = bare(&row.reason.unwrap(), &assertion);
        assert!(written.starts_with(reason), "{written} for {reason}");
        let state = &served.stage.state;
        let said = explained(&assertion, &rule, &issuer, state, START).await;
        let said = said.unwrap();
        assert_eq!(said["accepted"], false, "{said}");
        let reasons = said["reasons"].as_array().unwrap();
        assert!(reasons.contains(&json!(written)), "{said} for {written}");
        let refusal = verify(&assertion, &rule, &issuer, &keys, START)
            .await
            .unwrap_err();
        seen.insert(name(&refusal).unwrap());
    }
    assert_eq!(seen.len(), NAMES, "{seen:?}");
    let good = table.signer.sign("k", &good());
    let state = served.stage.state.clone();
    let said = explained(&good, &rule, &issuer, &state, START).await;
    let said = said.unwrap();
    assert_eq!(
        (&said["accepted"], &said["reasons"]),
        (&json!(true), &json!([]))
    );
    assert_eq!(served.buy(&good).await.status, 200);
    // What it says of a token that was used is what the next exchange says.
    assert_eq!(served.buy(&good).await.status, 401);
    let written = bare(&served.last_row().await.reason.unwrap(), &good);
    let said = explained(&good, &rule, &issuer, &state, START).await;
    let said = said.unwrap();
    assert_eq!(said["accepted"], false, "{said}");
    assert_eq!(said["reasons"], json!([written]));
}
