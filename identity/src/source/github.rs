//! A job on GitHub Actions: the runner's own endpoint and the right to ask it are in its environment.

use serde::Deserialize;
use zeroize::Zeroize;

use super::said::refusal;
use super::{SourceError, variable};
use crate::http::{Call, Verb};
use crate::{Assertion, AssertionError, Environment, Http, Secret};

/// The variable with the runner's endpoint.
pub(super) const URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";

#[derive(Deserialize)]
struct Reply {
    value: String,
}

pub(super) async fn fetch(
    audience: Option<&str>,
    http: &Http,
    environment: &Environment,
) -> Result<Assertion, SourceError> {
    let url = variable(environment, URL)?;
    let token = variable(environment, "ACTIONS_ID_TOKEN_REQUEST_TOKEN")?;
    let authorization = Secret::new(format!("Bearer {}", token.expose()));
    let query: Vec<(&str, &str)> = audience
        .map(|value| ("audience", value))
        .into_iter()
        .collect();
    let answer = http
        .call(Call {
            url: url.expose(),
            query: &query,
            headers: &[
                ("authorization", authorization.expose()),
                ("accept", "application/json"),
            ],
            verb: Verb::Get,
        })
        .await?;
    if answer.status != 200 {
        return Err(refusal(&answer, authorization.expose()));
    }
    let reply: Result<Reply, _> = serde_json::from_slice(&answer.body);
    let mut reply = reply.map_err(|_| AssertionError::Malformed("the answer has none"))?;
    let assertion = Assertion::read(&reply.value);
    reply.value.zeroize();
    Ok(assertion?)
}
