//! `keyward-edge explain FILE|-`: why a token would be refused. The token goes nowhere.
//!
//! Every check of the exchange in its order, each with its result, as far as it can be told here: the
//! signature only with keys that are in the issuer's document, since nothing is fetched. One that was
//! used is found in the state and not used up by it. A form that cannot be read has no claims to check.

use std::path::PathBuf;
use std::sync::Arc;

use process::{Exit, Failure, SystemClock, Tasks};
use serde_json::{Value, json};

use super::open::{self, StateOptions, now};
use super::output::{failed, print, read};
use crate::assertion::{
    Decoded, KeyStore, Refusal, checks, compare, decode, decode_for, mark, system_resolver,
};
use crate::state::{ChangeError, DatabaseError, Issuer, KeySource, Rule, State};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The file with the token; `-`: standard input
    file: PathBuf,
    /// `fdrl_…`: compare with this rule and its issuer
    #[arg(long, value_name = "RULE")]
    rule: Option<String>,
}

pub(super) async fn run(arguments: Arguments, options: &StateOptions) -> Result<(), Failure> {
    let text = read(&arguments.file)?;
    let Some(id) = &arguments.rule else {
        return print(&unmatched(text.trim()));
    };
    let session = open::open(options).await?;
    let told = match rule(id, &session.state).await {
        Ok((rule, issuer)) => explained(text.trim(), &rule, &issuer, &session.state, now())
            .await
            .map_err(|error| failed(&error.into())),
        Err(failure) => Err(failure),
    };
    session.state.close().await;
    print(&told?)
}

/// What is printed about a token and the rule that it is for.
///
/// # Errors
///
/// [`DatabaseError`] if the database does not answer.
pub(crate) async fn explained(
    text: &str,
    rule: &Rule,
    issuer: &Issuer,
    state: &State,
    now: u64,
) -> Result<Value, DatabaseError> {
    let decoded = match decode_for(text, issuer) {
        Ok(decoded) => decoded,
        Err(refusal) => return Ok(unreadable(&refusal)),
    };
    let mut lines = vec![Line::new("form", Outcome::Holds)];
    lines.push(Line::new("signature", signature(&decoded, issuer).await));
    for check in checks(&decoded, rule, issuer, now) {
        lines.push(Line::new(check.name, check.result.into()));
    }
    let used = match compare(&decoded, rule, issuer, now) {
        Err(_) => Outcome::Open("only a token whose claims hold can be used"),
        Ok(verified) => match mark(issuer, &verified, text) {
            Some(mark) if state.is_used(&mark).await? => Outcome::Fails(Refusal::Reused),
            _ => Outcome::Holds,
        },
    };
    lines.push(Line::new("used before", used));
    Ok(json!({
        "header": decoded.header,
        "claims": decoded.claims,
        "compared": {
            "issuer": issuer.issuer_url,
            "match": rule.r#match,
            "max_jwt_lifetime_seconds": issuer.max_jwt_lifetime_seconds,
        },
        "checks": lines.iter().map(Line::json).collect::<Vec<_>>(),
        "accepted": accepted(&lines),
        "reasons": lines.iter().filter_map(Line::reason).collect::<Vec<_>>(),
    }))
}

/// One check of the exchange.
struct Line {
    check: &'static str,
    outcome: Outcome,
}

enum Outcome {
    Holds,
    Fails(Refusal),
    /// Not told here, and why.
    Open(&'static str),
}

impl From<Result<(), Refusal>> for Outcome {
    fn from(result: Result<(), Refusal>) -> Self {
        result.map_or_else(Self::Fails, |()| Self::Holds)
    }
}

impl Line {
    fn new(check: &'static str, outcome: Outcome) -> Self {
        Self { check, outcome }
    }

    fn json(&self) -> Value {
        match &self.outcome {
            Outcome::Holds => json!({ "check": self.check, "result": "holds" }),
            Outcome::Fails(refusal) => {
                json!({ "check": self.check, "result": "fails", "reason": refusal.to_string() })
            }
            Outcome::Open(why) => {
                json!({ "check": self.check, "result": "not checked", "reason": why })
            }
        }
    }

    fn reason(&self) -> Option<String> {
        match &self.outcome {
            Outcome::Fails(refusal) => Some(refusal.to_string()),
            Outcome::Holds | Outcome::Open(_) => None,
        }
    }
}

fn accepted(lines: &[Line]) -> Value {
    let has = |wanted: fn(&Outcome) -> bool| lines.iter().any(|line| wanted(&line.outcome));
    if has(|outcome| matches!(outcome, Outcome::Fails(_))) {
        false.into()
    } else if has(|outcome| matches!(outcome, Outcome::Open(_))) {
        "if the signature holds".into()
    } else {
        true.into()
    }
}

/// What is printed about a token that no rule is named for.
fn unmatched(text: &str) -> Value {
    let types = ["JWT", "JOSE", "at+jwt"].map(str::to_owned);
    match decode(text, &types) {
        Err(refusal) => unreadable(&refusal),
        Ok(decoded) => json!({
            "header": decoded.header,
            "claims": decoded.claims,
            "next": "name a rule with --rule to compare",
        }),
    }
}

fn unreadable(refusal: &Refusal) -> Value {
    let reason = refusal.to_string();
    json!({
        "checks": [{ "check": "form", "result": "fails", "reason": reason }],
        "accepted": false,
        "reasons": [reason],
    })
}

async fn rule(id: &str, state: &State) -> Result<(Rule, Issuer), Failure> {
    let found = state.rule(id).await;
    let found = found.map_err(|error| failed(&ChangeError::from(error)))?;
    found.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no rule {id} in force"))
            .next("keyward-edge rule list")
    })
}

async fn signature(decoded: &Decoded, issuer: &Issuer) -> Outcome {
    if !matches!(issuer.keys, KeySource::Inline { .. }) {
        return Outcome::Open("the keys are fetched from the issuer, and nothing is fetched here");
    }
    let keys = KeyStore::new(system_resolver(), Arc::new(SystemClock), Tasks::new());
    let key = keys.of(issuer, decoded).await;
    key.and_then(|key| decoded.check_signature(&key)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::issuer::{Signer, claims_at, issuer, rule};
    use crate::tests::stage::Stage;

    #[tokio::test]
    async fn a_token_is_explained_in_the_words_of_the_audit_log() {
        let stage = Stage::sqlite().await;
        let (signer, other) = (Signer::p256(), Signer::p256());
        let found = (rule("fdis_1"), issuer(vec![signer.jwk("k")]));
        let told = async |token: &str, (rule, issuer): &(Rule, Issuer)| {
            let told = explained(token, rule, issuer, &stage.state, now()).await;
            told.unwrap()
        };
        let good = signer.sign("k", &claims_at(now()));
        let object = told(&good, &found).await;
        assert_eq!(
            (&object["accepted"], &object["reasons"]),
            (&json!(true), &json!([]))
        );
        assert_eq!(object["claims"]["sub"], "system:serviceaccount:mcp:setup");

        let old = signer.sign("k", &claims_at(now() - 660));
        let object = told(&old, &found).await;
        assert_eq!(object["accepted"], false);
        let reason = object["reasons"][0].as_str().unwrap();
        assert!(reason.starts_with("expired 6"), "{object}");

        let object = told(&other.sign("k", &claims_at(now())), &found).await;
        assert_eq!(object["accepted"], false);
        let reason = object["reasons"][0].as_str().unwrap();
        assert!(reason.contains("signature"), "{object}");

        let mut fetched = found.clone();
        fetched.1.keys = KeySource::ExplicitUrl {
            url: "https://issuer.test/jwks".to_owned(),
        };
        let object = told(&good, &fetched).await;
        assert_eq!(object["accepted"], "if the signature holds");
        assert_eq!(object["checks"][1]["result"], "not checked");
    }

    #[tokio::test]
    async fn everything_that_is_wrong_with_a_token_is_told_at_once() {
        let stage = Stage::sqlite().await;
        let signer = Signer::p256();
        let mut claims = claims_at(now() - 7200);
        for name in ["iss", "aud", "sub"] {
            claims[name] = json!("https://wrong.test");
        }
        let (rule, issuer) = (rule("fdis_1"), issuer(vec![signer.jwk("k")]));
        let token = signer.sign("k", &claims);
        let told = explained(&token, &rule, &issuer, &stage.state, now()).await;
        let told = told.unwrap();
        let checks = told["checks"].as_array().unwrap();
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| check["result"] == "fails")
            .map(|check| check["check"].as_str().unwrap())
            .collect();
        assert_eq!(failed, ["iss", "aud", "exp", "match.subject_prefix"]);
        assert_eq!(told["reasons"].as_array().unwrap().len(), 4, "{told}");
        let holding = checks.iter().filter(|check| check["result"] == "holds");
        assert_eq!(holding.count(), checks.len() - 5, "{told}");
    }
}
