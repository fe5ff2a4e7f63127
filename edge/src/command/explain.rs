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
    let types = found
        .as_ref()
        .map(|(_, issuer)| issuer.accepted_types.clone());
    let types =
        types.unwrap_or_else(|| vec!["JWT".to_owned(), "JOSE".to_owned(), "at+jwt".to_owned()]);
    let object = match decode(text.trim(), &types) {
        Err(refusal) => json!({ "accepted": false, "reason": refusal.to_string() }),
        Ok(decoded) => explain(&decoded, found.as_ref()).await,
    };
    print(&object)
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

async fn explain(decoded: &Decoded, found: Option<&(Rule, Issuer)>) -> Value {
    let mut object = json!({ "header": decoded.header, "claims": decoded.claims });
    let Some((rule, issuer)) = found else {
        object["next"] = "name a rule with --rule to compare".into();
        return object;
    };
    let signature = signature(decoded, issuer).await;
    let claims = compare(decoded, rule, issuer, now()).map(|_| ());
    let claims = claims.map_err(|refusal| refusal.to_string());
    object["compared"] = json!({
        "issuer": issuer.issuer_url,
        "match": rule.r#match,
        "max_jwt_lifetime_seconds": issuer.max_jwt_lifetime_seconds,
    });
    object["accepted"] = match (&signature, &claims) {
        (Ok(true), Ok(())) => true.into(),
        (Ok(false), Ok(())) => "if the signature holds".into(),
        _ => false.into(),
    };
    object["signature"] = match &signature {
        Ok(true) => "holds".into(),
        Ok(false) => {
            "not checked: the keys are fetched from the issuer, and nothing is fetched here".into()
        }
        Err(reason) => reason.clone().into(),
    };
    object["reason"] = claims
        .err()
        .or(signature.err())
        .map_or(Value::Null, Value::from);
    object
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
