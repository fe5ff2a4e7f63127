//! Tokens with the claims that real issuers put in them (`identity.md` §1.9, §2), and the rules that
//! take them.

use std::collections::BTreeMap;
use std::sync::Arc;

use process::Tasks;
use serde_json::{Value, json};

use crate::assertion::{KeyStore, Refusal, Verified, system_resolver, verify};
use crate::state::{Issuer, Matcher, Rule};
use crate::tests::clock::{START, StandingClock};
use crate::tests::issuer::{Signer, issuer, rule};

struct Shape {
    issuer: Issuer,
    rule: Rule,
    signer: Signer,
    header: Value,
    claims: Value,
}

impl Shape {
    fn new(signer: Signer, url: &str, matcher: Matcher, header: Value, claims: Value) -> Self {
        let mut issuer = issuer(vec![signer.jwk("k")]);
        issuer.issuer_url = url.to_owned();
        let mut rule = rule("fdis_1");
        rule.r#match = matcher;
        Self {
            issuer,
            rule,
            signer,
            header,
            claims,
        }
    }

    async fn check(&self) -> Result<Verified, Refusal> {
        let text = self
            .signer
            .sign_text(&self.header.to_string(), &self.claims.to_string());
        let keys = KeyStore::new(
            system_resolver(),
            Arc::new(StandingClock::new()),
            Tasks::new(),
        );
        verify(&text, &self.rule, &self.issuer, &keys, START).await
    }
}

fn matcher(audience: &str, subject: &str, claims: &[(&str, &str)]) -> Matcher {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Matcher {
        audience: audience.to_owned(),
        subject_prefix: Some(subject.to_owned()),
        claims: claims.iter().map(owned).collect::<BTreeMap<_, _>>(),
        ..Matcher::default()
    }
}

#[tokio::test]
async fn a_kubernetes_projected_token_has_a_list_of_audiences_and_no_typ() {
    let shape = Shape::new(
        Signer::rsa(),
        "https://kubernetes.default.svc.cluster.local",
        matcher("keyward-edge", "system:serviceaccount:mcp:keyward", &[]),
        json!({"alg": "RS256", "kid": "k"}),
        json!({"aud": ["keyward-edge", "https://kubernetes.default.svc"],
               "iss": "https://kubernetes.default.svc.cluster.local",
               "sub": "system:serviceaccount:mcp:keyward",
               "jti": "0f7bb7bb-0a3c-44b6-9a6b-7a1c2a5b9a01",
               "iat": START, "nbf": START, "exp": START + 3600,
               "kubernetes.io": {"namespace": "mcp", "pod": {"name": "keyward-0", "uid": "u"},
                                 "serviceaccount": {"name": "keyward", "uid": "u"}, "warnafter": START + 3000}}),
    );
    let verified = shape.check().await.unwrap();
    assert_eq!(
        verified.jti.as_deref(),
        Some("0f7bb7bb-0a3c-44b6-9a6b-7a1c2a5b9a01")
    );
}

#[tokio::test]
async fn a_github_token_is_pinned_by_claims_so_that_forks_do_not_match() {
    let mut shape = Shape::new(
        Signer::rsa(),
        "https://token.actions.githubusercontent.com",
        matcher(
            "keyward",
            "repo:example/tunnel:*",
            &[("event_name", "push"), ("repository_owner_id", "65")],
        ),
        json!({"alg": "RS256", "kid": "k", "typ": "JWT", "x5t": "k"}),
        json!({"iss": "https://token.actions.githubusercontent.com", "aud": "keyward",
               "sub": "repo:example/tunnel:ref:refs/heads/main", "jti": "a-b-c",
               "repository": "example/tunnel", "repository_owner": "example",
               "repository_owner_id": "65", "event_name": "push", "run_attempt": "1",
               "iat": START, "nbf": START - 300, "exp": START + 300}),
    );
    shape.check().await.unwrap();
    shape.claims["event_name"] = "pull_request".into();
    shape.claims["sub"] = "repo:example/tunnel:pull_request".into();
    let refusal = shape.check().await.unwrap_err().to_string();
    assert!(
        refusal.starts_with("match_claims: event_name is \"pull_request\""),
        "{refusal}"
    );
    shape.claims["event_name"] = json!(["push"]);
    assert!(shape.check().await.is_err());
}

#[tokio::test]
async fn a_spiffe_jwt_svid_is_taken_once_its_server_puts_iss_and_iat_in_it() {
    let mut shape = Shape::new(
        Signer::p256(),
        "https://spire.example.org",
        matcher("keyward-edge", "spiffe://example.org/mcp/proxy", &[]),
        json!({"alg": "ES256", "kid": "k", "typ": "JWT"}),
        json!({"aud": ["keyward-edge"], "sub": "spiffe://example.org/mcp/proxy",
               "exp": START + 300, "iat": START, "iss": "https://spire.example.org"}),
    );
    shape.check().await.unwrap();
    for optional in ["iss", "iat"] {
        let kept = shape.claims.clone();
        shape.claims.as_object_mut().unwrap().remove(optional);
        let refusal = shape.check().await.unwrap_err().to_string();
        assert!(
            refusal.starts_with(&format!("{optional} is missing")),
            "{refusal}"
        );
        shape.claims = kept;
    }
}

#[tokio::test]
async fn an_access_token_is_taken_only_where_the_issuer_was_told_to() {
    let mut shape = Shape::new(
        Signer::p256(),
        "https://op.test",
        matcher("https://api.edge.test", "client", &[]),
        json!({"alg": "ES256", "kid": "k", "typ": "at+jwt"}),
        json!({"iss": "https://op.test", "aud": "https://api.edge.test", "sub": "client",
               "iat": START, "exp": START + 600}),
    );
    assert!(matches!(shape.check().await, Err(Refusal::Type { .. })));
    shape.issuer.accepted_types = vec!["at+jwt".to_owned()];
    shape.check().await.unwrap();
    shape.header["typ"] = "application/at+jwt".into();
    shape.check().await.unwrap();
}
