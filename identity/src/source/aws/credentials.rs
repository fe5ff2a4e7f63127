//! The credentials with which AWS is asked, found in the order of the published libraries and anew for each token.
//!
//! | First match wins | If there is | Who gives them |
//! |---|---|---|
//! | 1 | `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN` beside them | the environment |
//! | 2 | `AWS_WEB_IDENTITY_TOKEN_FILE` and `AWS_ROLE_ARN` (EKS, IRSA) | STS, for the token in that file |
//! | 3 | `AWS_CONTAINER_CREDENTIALS_RELATIVE_URI` or `_FULL_URI` (ECS, EKS Pod Identity) | an agent on this machine |
//! | 4 | `AWS_EC2_METADATA_DISABLED` is not `true` | the instance metadata service, version 2 alone |
//!
//! Profiles, and version 1 of the metadata service, are not read.

use serde::Deserialize;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::signature::Keys;
use super::{NOTHING, VERSION, accepted, post};
use crate::form::form;
use crate::http::{Answer, Call, Verb};
use crate::source::said::{element, refusal};
use crate::source::{SourceError, optional, read, variable};
use crate::{Environment, Http, Secret};

/// Where ECS answers relative addresses.
const ECS: &str = "http://169.254.170.2";
const EC2: &str = "http://169.254.169.254";
const EC2_V6: &str = "http://[fd00:ec2::254]";

/// As agents and the metadata service write them.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "PascalCase")]
struct Reply {
    code: Option<String>,
    access_key_id: Option<String>,
    secret_access_key: Option<String>,
    token: Option<String>,
}

/// `sts` is the endpoint, for the second way.
pub(super) async fn find(
    http: &Http,
    environment: &Environment,
    sts: &str,
) -> Result<Keys, SourceError> {
    if optional(environment, "AWS_ACCESS_KEY_ID").is_some() {
        return own(environment);
    }
    if let Some(path) = optional(environment, "AWS_WEB_IDENTITY_TOKEN_FILE") {
        let token = read(std::path::Path::new(path.expose()))?;
        return assume(token.trim(), http, environment, sts).await;
    }
    if let Some(url) = container(environment) {
        return agent(&url, http, environment).await;
    }
    let disabled = optional(environment, "AWS_EC2_METADATA_DISABLED");
    if disabled.is_some_and(|value| value.expose().trim().eq_ignore_ascii_case("true")) {
        return Err(SourceError::Variable("AWS_ACCESS_KEY_ID".to_owned()));
    }
    machine(http, environment).await
}

fn own(environment: &Environment) -> Result<Keys, SourceError> {
    let id = variable(environment, "AWS_ACCESS_KEY_ID")?;
    let secret = variable(environment, "AWS_SECRET_ACCESS_KEY")?;
    let trimmed = |secret: &Secret| Secret::new(secret.expose().trim().to_owned());
    Ok(Keys {
        id: id.expose().trim().to_owned(),
        secret: trimmed(&secret),
        session: optional(environment, "AWS_SESSION_TOKEN").map(|token| trimmed(&token)),
    })
}

/// `AssumeRoleWithWebIdentity`, which is not signed.
async fn assume(
    token: &str,
    http: &Http,
    environment: &Environment,
    sts: &str,
) -> Result<Keys, SourceError> {
    let role = variable(environment, "AWS_ROLE_ARN")?;
    let session = optional(environment, "AWS_ROLE_SESSION_NAME");
    let session = session.as_ref().map_or("keyward", Secret::expose);
    let body = form(&[
        ("Action", "AssumeRoleWithWebIdentity"),
        VERSION,
        ("RoleArn", role.expose()),
        ("RoleSessionName", session),
        ("WebIdentityToken", token),
    ]);
    let answer = post(http, sts, &[], &body).await?;
    let text = accepted(&answer, token)?;
    let part = |name| element(text, name).map(str::to_owned).ok_or(NOTHING);
    Ok(Keys {
        id: part("AccessKeyId")?,
        secret: Secret::new(part("SecretAccessKey")?),
        session: Some(Secret::new(part("SessionToken")?)),
    })
}

/// Who gives them, if that is neither the environment nor STS.
pub(super) fn server(environment: &Environment) -> Option<String> {
    let others = ["AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"];
    if others
        .iter()
        .any(|name| optional(environment, name).is_some())
    {
        return None;
    }
    container(environment).or_else(|| Some(metadata(environment)))
}

/// Where this container's agent answers, if it has one.
fn container(environment: &Environment) -> Option<String> {
    if let Some(path) = optional(environment, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
        return Some(format!("{ECS}{}", path.expose().trim()));
    }
    let url = optional(environment, "AWS_CONTAINER_CREDENTIALS_FULL_URI")?;
    Some(url.expose().trim().to_owned())
}

async fn agent(url: &str, http: &Http, environment: &Environment) -> Result<Keys, SourceError> {
    let right = match optional(environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
        Some(path) => Some(read(std::path::Path::new(path.expose()))?),
        None => optional(environment, "AWS_CONTAINER_AUTHORIZATION_TOKEN")
            .map(|token| Zeroizing::new(token.expose().to_owned())),
    };
    let right = right.as_ref().map(|text| text.trim());
    let mut headers = vec![("accept", "application/json")];
    headers.extend(right.map(|right| ("authorization", right)));
    let call = Call {
        url,
        query: &[],
        headers: &headers,
        verb: Verb::Get,
    };
    let answer = if url.starts_with("https://") {
        http.call(call).await?
    } else {
        http.call_near(call).await?
    };
    keys(&answer, right.unwrap_or_default())
}

/// A session first, and the credentials of the role with it.
async fn machine(http: &Http, environment: &Environment) -> Result<Keys, SourceError> {
    let base = metadata(environment);
    let ask = async |path: &str, header: (&'static str, &str), verb: Verb<'_>| {
        let url = format!("{base}/latest/{path}");
        let call = Call {
            url: &url,
            query: &[],
            headers: &[header],
            verb,
        };
        http.call_near(call).await
    };
    let life = ("x-aws-ec2-metadata-token-ttl-seconds", "60");
    let session = text(&ask("api/token", life, Verb::Put).await?)?;
    let right = ("x-aws-ec2-metadata-token", session.as_str());
    let path = "meta-data/iam/security-credentials/";
    let roles = text(&ask(path, right, Verb::Get).await?)?;
    let role = roles.lines().next().unwrap_or_default();
    let answer = ask(&format!("{path}{role}"), right, Verb::Get).await?;
    keys(&answer, &session)
}

fn metadata(environment: &Environment) -> String {
    if let Some(url) = optional(environment, "AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        return url.expose().trim().trim_end_matches('/').to_owned();
    }
    let mode = optional(environment, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE");
    let six = mode.is_some_and(|mode| mode.expose().trim().eq_ignore_ascii_case("ipv6"));
    let base = if six { EC2_V6 } else { EC2 };
    base.to_owned()
}

fn text(answer: &Answer) -> Result<Zeroizing<String>, SourceError> {
    if answer.status != 200 {
        return Err(refusal(answer, ""));
    }
    let text = std::str::from_utf8(&answer.body).map_err(|_| NOTHING)?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn keys(answer: &Answer, secret: &str) -> Result<Keys, SourceError> {
    if answer.status != 200 {
        return Err(refusal(answer, secret));
    }
    let reply: Result<Reply, _> = serde_json::from_slice(&answer.body);
    let mut reply = reply.map_err(|_| NOTHING)?;
    // The metadata service says so in an answer of status 200.
    if reply.code.as_deref().is_some_and(|code| code != "Success") {
        return Err(refusal(answer, secret));
    }
    Ok(Keys {
        id: reply.access_key_id.take().ok_or(NOTHING)?,
        secret: Secret::new(reply.secret_access_key.take().ok_or(NOTHING)?),
        session: reply.token.take().map(Secret::new),
    })
}
