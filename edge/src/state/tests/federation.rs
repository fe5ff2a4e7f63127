//! What an operator is told about issuers and rules, and what can be asked of them.

use crate::state::{ChangeError, Issuer, KeySource, Matcher, Rule};
use crate::tests::issuer::{Signer, issuer, rule};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    keys_are_asked_for_anew_by_a_number_that_every_edge_reads,
    an_issuer_names_algorithms_that_there_are,
);

async fn keys_are_asked_for_anew_by_a_number_that_every_edge_reads(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let fetched = Issuer {
        keys: KeySource::ExplicitUrl {
            url: "https://issuer.test/keys".to_owned(),
        },
        ..issuer(Vec::new())
    };
    let fetched = state.add_issuer(&by, &fetched).await.unwrap();
    let rule = state.add_rule(&by, &rule(&fetched.id)).await.unwrap();
    let other = given.another().await;
    let number = async || other.rule(&rule.id).await.unwrap().unwrap().1.keys_number;
    assert_eq!(number().await, 0);
    let mut last = 0;
    for _ in 0..2 {
        state.refresh_issuer(&by, &fetched.id).await.unwrap();
        assert!(number().await > last);
        last = number().await;
    }
    assert_eq!(given.actions(1).await, ["federation_issuer_refreshed"]);
    let inline = Issuer {
        name: "inline".to_owned(),
        ..issuer(vec![Signer::p256().jwk("a")])
    };
    let inline = state.add_issuer(&by, &inline).await.unwrap();
    let refused = state.refresh_issuer(&by, &inline.id).await;
    assert!(matches!(refused, Err(ChangeError::Invalid(_))));
    state.archive_issuer(&by, &fetched.id).await.unwrap();
    for id in [fetched.id.as_str(), "fdis_0"] {
        let refused = state.refresh_issuer(&by, id).await;
        assert!(matches!(refused, Err(ChangeError::NotFound(_))));
    }
}

async fn an_issuer_names_algorithms_that_there_are(given: Stage) {
    let mut issuer = issuer(vec![Signer::p256().jwk("a")]);
    issuer.accepted_algorithms = vec!["ES256".to_owned(), "HS256".to_owned()];
    let refused = given.state.add_issuer(&given.by(), &issuer).await;
    let refused = refused.unwrap_err().to_string();
    let wanted = "accepted_algorithms: HS256 is none of RS256";
    assert!(refused.starts_with(wanted), "{refused}");
}

#[test]
fn a_rule_for_more_than_a_workload_is_warned_of() {
    for (subject, warned) in [
        (None, true),
        (Some("*"), true),
        (Some("repo:acme/*"), true),
        (Some("system:serviceaccount:mcp:*"), true),
        (Some("system:serviceaccount:mcp:setup"), false),
        (Some("repo:acme/infra:ref:refs/heads/release-*"), false),
    ] {
        let rule = Rule {
            r#match: Matcher {
                subject_prefix: subject.map(str::to_owned),
                ..Matcher::default()
            },
            ..rule("fdis_1")
        };
        assert_eq!(rule.warnings().len(), usize::from(warned), "{subject:?}");
    }
}
