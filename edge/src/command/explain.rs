//! `keyward-edge explain FILE|-`: why a token would be refused. The token goes nowhere.
//!
//! Every check of the exchange in its order, each with its result, as far as it can be told here: the
//! signature only with keys that are in the issuer's document, since nothing is fetched.

use std::path::PathBuf;
use std::sync::Arc;

use process::{Exit, Failure, SystemClock};
use serde_json::{Value, json};

use super::open::{self, StateOptions, now};
use super::output::{failed, print, read};
use crate::assertion::{Decoded, KeyStore, compare, decode, system_resolver};
use crate::state::{ChangeError, Issuer, KeySource, Rule};

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
    let found = match &arguments.rule {
        None => None,
        Some(id) => Some(rule(id, options).await?),
    };
    print(&explained(text.trim(), found.as_ref(), now()).await)
}

/// What is printed about a token.
pub(crate) async fn explained(text: &str, found: Option<&(Rule, Issuer)>, now: u64) -> Value {
    let types = found.map(|(_, issuer)| issuer.accepted_types.clone());
    let types =
        types.unwrap_or_else(|| vec!["JWT".to_owned(), "JOSE".to_owned(), "at+jwt".to_owned()]);
    match decode(text, &types) {
        Err(refusal) => json!({ "accepted": false, "reasons": [refusal.to_string()] }),
        Ok(decoded) => explain(&decoded, found, now).await,
    }
}

async fn rule(id: &str, options: &StateOptions) -> Result<(Rule, Issuer), Failure> {
    let session = open::open(options).await?;
    let found = session.state.rule(id).await;
    session.state.close().await;
    let found = found.map_err(|error| failed(&ChangeError::from(error)))?;
    found.ok_or_else(|| {
        Failure::new(Exit::Usage, format!("there is no rule {id} in force"))
            .next("keyward-edge rule list")
    })
}

async fn explain(decoded: &Decoded, found: Option<&(Rule, Issuer)>, now: u64) -> Value {
    let Some((rule, issuer)) = found else {
        return json!({
            "header": decoded.header,
            "claims": decoded.claims,
            "next": "name a rule with --rule to compare",
        });
    };
    let signature = signature(decoded, issuer).await;
    let claims = compare(decoded, rule, issuer, now);
    let claims = claims.map_err(|refusal| refusal.to_string());
    let accepted: Value = match (&signature, &claims) {
        (Ok(true), Ok(_)) => true.into(),
        (Ok(false), Ok(_)) => "if the signature holds".into(),
        _ => false.into(),
    };
    let checked = match &signature {
        Ok(true) => "holds",
        Ok(false) => {
            "not checked: the keys are fetched from the issuer, and nothing is fetched here"
        }
        Err(_) => "does not hold",
    };
    let reasons: Vec<String> = signature.err().into_iter().chain(claims.err()).collect();
    json!({
        "header": decoded.header,
        "claims": decoded.claims,
        "compared": {
            "issuer": issuer.issuer_url,
            "match": rule.r#match,
            "max_jwt_lifetime_seconds": issuer.max_jwt_lifetime_seconds,
        },
        "signature": checked,
        "accepted": accepted,
        "reasons": reasons,
    })
}

/// Whether it was checked and held; the reason if not.
async fn signature(decoded: &Decoded, issuer: &Issuer) -> Result<bool, String> {
    if !matches!(issuer.keys, KeySource::Inline { .. }) {
        return Ok(false);
    }
    let keys = KeyStore::new(system_resolver(), Arc::new(SystemClock));
    let key = keys.of(issuer, decoded).await;
    let key = key.map_err(|refusal| refusal.to_string())?;
    let checked = decoded.check_signature(&key);
    checked
        .map(|()| true)
        .map_err(|refusal| refusal.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::issuer::{Signer, claims_at, issuer, rule};

    #[tokio::test]
    async fn a_token_is_explained_in_the_words_of_the_audit_log() {
        let (signer, other) = (Signer::p256(), Signer::p256());
        let found = (rule("fdis_1"), issuer(vec![signer.jwk("k")]));
        let types = ["JWT".to_owned()];
        let good = decode(&signer.sign("k", &claims_at(now())), &types).unwrap();
        let object = explain(&good, Some(&found), now()).await;
        assert_eq!(
            (&object["accepted"], &object["reasons"]),
            (&json!(true), &json!([]))
        );
        assert_eq!(object["claims"]["sub"], "system:serviceaccount:mcp:setup");

        let old = decode(&signer.sign("k", &claims_at(now() - 660)), &types).unwrap();
        let object = explain(&old, Some(&found), now()).await;
        assert_eq!(object["accepted"], false);
        assert!(
            object["reasons"][0]
                .as_str()
                .unwrap()
                .starts_with("expired 6"),
            "{object}"
        );
        assert_eq!(object["signature"], "holds");

        let forged = decode(&other.sign("k", &claims_at(now())), &types).unwrap();
        let object = explain(&forged, Some(&found), now()).await;
        assert_eq!(object["accepted"], false);
        assert!(
            object["reasons"][0].as_str().unwrap().contains("signature"),
            "{object}"
        );

        let mut fetched = found.clone();
        fetched.1.keys = KeySource::ExplicitUrl {
            url: "https://issuer.test/jwks".to_owned(),
        };
        let object = explain(&good, Some(&fetched), now()).await;
        assert_eq!(object["accepted"], "if the signature holds");
    }
}
