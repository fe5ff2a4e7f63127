//! What usually goes wrong later with tokens such as this one, although nothing of it is wrong now.

use identity::{Claims, Expectations, Source};

/// Audience of the token that EKS puts into a pod for AWS.
const AMAZON: &str = "sts.amazonaws.com";
/// Audience of the token that AKS puts into a pod for Entra.
const ENTRA: &str = "api://AzureADTokenExchange";

pub(super) fn traps(
    source: &Source,
    claims: &Claims,
    expected: &Expectations,
) -> Vec<&'static str> {
    let issuer = claims.text("iss").unwrap_or_default();
    let audience = claims.audience();
    let is_file = matches!(source, Source::File(_));
    let mut found = Vec::new();
    let mut look = |there: bool, what| found.extend(there.then_some(what));
    look(
        is_file && audience.contains(&AMAZON),
        "this is the token that EKS gives a pod for AWS alone: project a second volume with the rule's audience",
    );
    look(
        is_file && audience.contains(&ENTRA),
        "this is the token that AKS gives a pod for Entra alone: take the source azure, or project a second volume",
    );
    look(
        is_file && claims.token_id().is_some(),
        "it has a jti, so that one exchange uses it up until the file is replaced: the source kubernetes gets a fresh one each time",
    );
    look(
        matches!(source, Source::Environment(_) | Source::GitLab { .. })
            && claims.token_id().is_some(),
        "it has a jti, and a job gets one such token: a second exchange in this job will be refused",
    );
    look(
        issuer.contains("://kubernetes.default"),
        "nobody outside reaches this issuer: register the cluster's keys inline (kubectl get --raw /openid/v1/jwks), and one issuer for each cluster",
    );
    look(
        issuer.starts_with("https://sts.windows.net/"),
        "this is an Entra token of version 1, whose issuer and claims are others: register that issuer, or set \
         requestedAccessTokenVersion to 2 in the application's manifest",
    );
    look(
        matches!(source, Source::Azure(_)) && life(claims) > 3600,
        "Azure keeps a machine's token for up to a day: let the issuer's max_jwt_lifetime_seconds be 86400",
    );
    look(
        matches!(source, Source::Gcp(_)) && !expected.claims.contains_key("email"),
        "let the rule match email beside sub: a number alone tells nobody whose it is",
    );
    let is_svid = matches!(source, Source::Spiffe(_));
    look(
        is_svid && (issuer.is_empty() || claims.moment("iat").is_none()),
        "SPIFFE does not ask for iss and iat: set jwt_issuer in SPIRE's server configuration, and register it as the issuer",
    );
    look(
        matches!(source, Source::Vault(_)) && life(claims) > 3600,
        "Vault gives a day unless told otherwise: write ttl=10m into the role of identity/oidc/role/",
    );
    found.extend(of_a_pipeline(source, expected));
    found
}

/// What a rule lets in that a job of somebody else can be.
fn of_a_pipeline(source: &Source, expected: &Expectations) -> Option<&'static str> {
    let subject = expected.subject.as_deref().unwrap_or_default();
    match source {
        Source::GitHubActions { .. } if subject.starts_with("repo:") && subject.ends_with(":*") => {
            Some(
                "that subject fits pull requests of forks, too: match ref or environment beside it",
            )
        }
        Source::GitLab { .. } if subject.starts_with("project_path:") && subject.ends_with('*') => {
            Some(
                "that subject fits branches that anybody with a merge request may push: match ref_protected beside it",
            )
        }
        _ => None,
    }
}

/// `exp` − `iat`, seconds.
fn life(claims: &Claims) -> u64 {
    let end = claims.moment("exp").unwrap_or_default();
    end.saturating_sub(claims.moment("iat").unwrap_or(end))
}

#[cfg(test)]
mod tests {
    use identity::{Assertion, Azure, Gcp, Spiffe, Vault, VaultAuth};
    use process::base64::encode_url;
    use serde_json::{Value, json};

    use super::*;

    fn found(source: &Source, claims: &Value, subject: Option<&str>) -> Vec<&'static str> {
        let part = |value: &Value| encode_url(value.to_string().as_bytes());
        let token = format!("{}.{}.c2ln", part(&json!({"alg": "ES256"})), part(claims));
        let expected = Expectations {
            subject: subject.map(str::to_owned),
            ..Expectations::default()
        };
        traps(source, Assertion::read(&token).unwrap().claims(), &expected)
    }

    fn spiffe() -> Source {
        Source::Spiffe(Spiffe {
            socket: None,
            audience: "a".to_owned(),
            spiffe_id: None,
        })
    }

    fn vault() -> Source {
        Source::Vault(Vault {
            address: "https://v".to_owned(),
            ca_file: None,
            namespace: None,
            role: "r".to_owned(),
            auth: VaultAuth::TokenFile("/t".into()),
        })
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn each_trap_is_told_where_it_is_and_nowhere_else() {
        let file = Source::File("/t".into());
        let azure = Source::Azure(Azure {
            resource: "r".to_owned(),
            client_id: None,
        });
        let gcp = Source::Gcp(Gcp {
            audience: "a".to_owned(),
            service_account: None,
        });
        let (spiffe, vault) = (spiffe(), vault());
        let github = Source::GitHubActions { audience: None };
        let job = Source::Environment("T".to_owned());
        let gitlab = Source::GitLab {
            variable: "T".to_owned(),
        };
        for (source, claims, subject, part) in [
            (&file, json!({"aud": [AMAZON]}), None, "for AWS alone"),
            (&file, json!({"aud": ENTRA}), None, "for Entra alone"),
            (&file, json!({"jti": "1"}), None, "source kubernetes"),
            (
                &job,
                json!({"jti": "1"}),
                None,
                "second exchange in this job",
            ),
            (
                &file,
                json!({"iss": "https://kubernetes.default.svc.cluster.local"}),
                None,
                "keys inline",
            ),
            (
                &azure,
                json!({"iss": "https://sts.windows.net/t/"}),
                None,
                "requestedAccessTokenVersion",
            ),
            (&azure, json!({"exp": 86400, "iat": 0}), None, "86400"),
            (&gcp, json!({}), None, "email"),
            (&vault, json!({"exp": 86400, "iat": 0}), None, "ttl=10m"),
            (&spiffe, json!({"iss": "i"}), None, "jwt_issuer"),
            (&spiffe, json!({"iat": 1}), None, "jwt_issuer"),
            (&github, json!({}), Some("repo:o/r:*"), "forks"),
            (
                &gitlab,
                json!({"jti": "1"}),
                None,
                "second exchange in this job",
            ),
            (
                &gitlab,
                json!({}),
                Some("project_path:g/p:*"),
                "ref_protected",
            ),
        ] {
            let found = found(source, &claims, subject);
            assert!(
                found.len() == 1 && found[0].contains(part),
                "{part}: {found:?}"
            );
        }
        for source in [&file, &azure, &github, &gitlab, &job, &vault, &spiffe] {
            let good = json!({"iss": "https://issuer.example", "aud": "a", "exp": 600, "iat": 0});
            assert_eq!(found(source, &good, Some("repo:o/r:ref")), [""; 0]);
        }
    }
}
