//! An identity token buys an access token: RFC 7523 §2.1, in the JSON form of Anthropic's `POST /v1/oauth/token`, which
//! `keyward-edge` serves, too.
//!
//! Tried once. A second try needs another assertion, because the first may have been used up although its answer was
//! lost; [`Tokens`](crate::Tokens) sees to that.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::http::{Answer, Call, Verb};
use crate::shown::shown;
use crate::{Assertion, Http, HttpError, Secret};

/// Where tokens are bought unless told otherwise.
pub const DEFAULT_URL: &str = "https://api.anthropic.com";

/// RFC 7523 §2.1.
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// What the published SDKs send with this grant.
const BETA: &str = "oauth-2025-04-20,oidc-federation-2026-04-01";

/// Which rule lets us in, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Federation {
    /// `https://HOST`, or `http` to this machine.
    pub url: String,
    /// `fdrl_…`.
    pub rule: String,
    /// A UUID. Anthropic wants it, an edge has one at most.
    pub organization: Option<String>,
    /// `svac_…`.
    pub service_account: Option<String>,
    /// `wrkspc_…` or `default`, where the rule has several.
    pub workspace: Option<String>,
}

/// What was bought. Erased when dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minted {
    /// For `Authorization: Bearer`.
    pub token: Secret,
    /// From the moment the request was begun, at least a second. `None`: a ready token, of which nobody said.
    pub life: Option<Duration>,
    /// Space separated; may be empty.
    pub scope: String,
    /// What the other side calls the exchange in its log.
    pub request_id: Option<String>,
}

/// Why nothing was bought.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// It answered, and not with a token.
    #[error("the token exchange was refused: {0}")]
    Refused(Refused),
    /// Nothing of it was sent; the assertion is as good as before.
    #[error("the token exchange was not sent")]
    NotSent(#[source] HttpError),
    /// It may have been sent; the assertion counts as used.
    #[error("the token exchange was sent, and nobody knows what became of it")]
    Unknown(#[source] HttpError),
    /// It answered 200, with something that is no token with a life.
    #[error("the token exchange was answered with {why}")]
    Unusable {
        /// What is wrong with it.
        why: &'static str,
        /// As in [`Minted`].
        request_id: Option<String>,
    },
}

/// A refusal in either dialect: `{"error":{"type","message"}}`, or RFC 6749 §5.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status.
    pub status: u16,
    /// `authentication_error`, `invalid_grant` … if it said one.
    pub error: Option<String>,
    /// For a person; without any part of the assertion.
    pub message: Option<String>,
    /// As in [`Minted`].
    pub request_id: Option<String>,
    /// Seconds, with 429 and 503.
    pub retry_after: Option<u64>,
}

#[derive(Serialize)]
struct Request<'a> {
    grant_type: &'static str,
    assertion: &'a str,
    federation_rule_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    organization_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    workspace_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Reply {
    access_token: String,
    token_type: String,
    expires_in: Option<u64>,
    #[serde(default)]
    scope: String,
}

/// Sends `assertion` and reads what it bought. Dropped, nobody knows whether it was used up.
///
/// # Errors
///
/// [`ExchangeError`].
///
/// # Panics
///
/// Never: strings have a JSON form.
pub async fn exchange(
    http: &Http,
    federation: &Federation,
    assertion: &Assertion,
) -> Result<Minted, ExchangeError> {
    let body = serde_json::to_vec(&Request {
        grant_type: GRANT,
        assertion: assertion.expose(),
        federation_rule_id: &federation.rule,
        organization_id: federation.organization.as_deref(),
        service_account_id: federation.service_account.as_deref(),
        workspace_id: federation.workspace.as_deref(),
    });
    let body = Zeroizing::new(body.expect("strings have a JSON form"));
    let answer = http
        .call(Call {
            url: &format!("{}/v1/oauth/token", federation.url.trim_end_matches('/')),
            query: &[],
            headers: &[("anthropic-beta", BETA), ("accept", "application/json")],
            verb: Verb::Json(&body),
        })
        .await
        .map_err(|error| match error {
            HttpError::NotSent { .. } | HttpError::Settings { .. } => ExchangeError::NotSent(error),
            _ => ExchangeError::Unknown(error),
        })?;
    if answer.status == 200 {
        return minted(answer);
    }
    Err(ExchangeError::Refused(refused(&answer, assertion)))
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        for (before, text) in [
            (" ", &self.error),
            (": ", &self.message),
            (", request ", &self.request_id),
        ] {
            if let Some(text) = text {
                write!(f, "{before}{text}")?;
            }
        }
        Ok(())
    }
}

fn minted(answer: Answer) -> Result<Minted, ExchangeError> {
    let Answer {
        request_id, body, ..
    } = answer;
    let unusable = |why, request_id| Err(ExchangeError::Unusable { why, request_id });
    let Ok(mut reply) = serde_json::from_slice::<Reply>(&body) else {
        return unusable("no access token", request_id);
    };
    let token = Secret::new(std::mem::take(&mut reply.access_token));
    let visible = token.expose().bytes().all(|byte| byte.is_ascii_graphic());
    if token.expose().is_empty() || !visible {
        return unusable("an access token that fits into no header", request_id);
    }
    if !reply.token_type.eq_ignore_ascii_case("bearer") {
        return unusable("a token of another type than Bearer", request_id);
    }
    match reply.expires_in {
        Some(seconds @ 1..) => Ok(Minted {
            token,
            life: Some(Duration::from_secs(seconds)),
            scope: reply.scope,
            request_id,
        }),
        // Kept for ever, it would fail one day, and nobody would know why.
        _ => unusable("a token that does not say how long it lives", request_id),
    }
}

fn refused(answer: &Answer, assertion: &Assertion) -> Refused {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let clean = |value: Option<&Value>| Some(shown(value?.as_str()?, assertion.expose()));
    let error = body.get("error");
    let (name, message) = match error {
        Some(Value::Object(detail)) => (clean(detail.get("type")), clean(detail.get("message"))),
        _ => (clean(error), clean(body.get("error_description"))),
    };
    let request_id = answer.request_id.clone();
    Refused {
        status: answer.status,
        error: name,
        message,
        request_id: request_id.or_else(|| clean(body.get("request_id"))),
        retry_after: answer.retry_after,
    }
}

#[cfg(test)]
mod tests;
