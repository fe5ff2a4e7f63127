//! Which rules are made.

use crate::tests::issuer::{Signer, issuer, rule};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_rule_that_would_take_everybody_is_not_made,
    a_rule_for_an_issuer_of_everybody_names_a_tenant,
);

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
