//! AWS: `GetWebIdentityToken` of the Security Token Service turns the credentials that a workload has into a JWT.
//!
//! The account has to have outbound web identity federation switched on, the role `sts:GetWebIdentityToken`, and the
//! endpoint is a regional one: the global one does not serve it. Each call gives another token.

mod credentials;
mod signature;

use std::time::{Duration, SystemTime};

use super::said::{element, refusal};
use super::{SourceError, optional, variable};
use crate::form::form;
use crate::http::{Answer, Call, Verb, host_header};
use crate::{Assertion, AssertionError, Environment, Http, HttpError};
use signature::{Request, sign};

/// Of the query interface.
const VERSION: (&str, &str) = ("Version", "2011-06-15");

/// For whom, from where and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aws {
    /// `aud`: one to ten.
    pub audiences: Vec<String>,
    /// Such as `eu-central-1`; otherwise `AWS_REGION` or `AWS_DEFAULT_REGION`.
    pub region: Option<String>,
    /// With what the token is signed.
    pub algorithm: AwsAlgorithm,
    /// 60 s to 3600 s, and no longer than the session that asks.
    pub duration: Duration,
}

/// What `SigningAlgorithm` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwsAlgorithm {
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
}

impl AwsAlgorithm {
    /// As AWS and the configuration call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es384 => "ES384",
        }
    }
}

impl Aws {
    pub(super) async fn fetch(
        &self,
        http: &Http,
        environment: &Environment,
        now: SystemTime,
    ) -> Result<Assertion, SourceError> {
        let region = self.region(environment)?;
        let url = server(&region, environment);
        let keys = credentials::find(http, environment, &url).await?;
        let body = self.body();
        let host = host_header(&url).ok_or_else(|| unusable("the endpoint of STS"))?;
        let request = Request {
            host: &host,
            region: &region,
            service: "sts",
            body: body.as_bytes(),
        };
        let signed = sign(&request, &keys, now).ok_or_else(|| unusable("this machine's clock"))?;
        let mut headers = vec![
            ("authorization", signed.authorization.as_str()),
            ("x-amz-date", &signed.date),
        ];
        let session = keys.session.as_ref();
        headers.extend(session.map(|token| ("x-amz-security-token", token.expose())));
        let answer = post(http, &url, &headers, &body).await?;
        let text = accepted(&answer, keys.secret.expose())?;
        let token = element(text, "WebIdentityToken").ok_or(NOTHING)?;
        Ok(Assertion::read(token)?)
    }

    /// For a firewall: STS, and whoever gives the credentials.
    pub(super) fn servers(&self, environment: &Environment) -> Vec<(String, &'static str)> {
        let region = self.region(environment).ok();
        let sts = region.map(|region| (server(&region, environment), "identity token, STS"));
        let credentials = credentials::server(environment);
        let credentials = credentials.map(|url| (url, "credentials for STS"));
        sts.into_iter().chain(credentials).collect()
    }

    fn region(&self, environment: &Environment) -> Result<String, SourceError> {
        if let Some(region) = &self.region {
            return Ok(region.clone());
        }
        let region = match optional(environment, "AWS_REGION") {
            Some(region) => region,
            None => variable(environment, "AWS_DEFAULT_REGION")
                .map_err(|_| SourceError::Variable("AWS_REGION".to_owned()))?,
        };
        let region = region.expose().trim();
        if is_region(region) {
            return Ok(region.to_owned());
        }
        Err(unusable("AWS_REGION"))
    }

    fn body(&self) -> zeroize::Zeroizing<String> {
        let seconds = self.duration.as_secs().to_string();
        let names: Vec<String> = (1..=self.audiences.len())
            .map(|number| format!("Audience.member.{number}"))
            .collect();
        let mut pairs = vec![("Action", "GetWebIdentityToken"), VERSION];
        let audiences = self.audiences.iter().map(String::as_str);
        pairs.extend(names.iter().map(String::as_str).zip(audiences));
        pairs.push(("SigningAlgorithm", self.algorithm.name()));
        pairs.push(("DurationSeconds", &seconds));
        form(&pairs)
    }
}

/// Whether `text` can be part of a host name as a region's code is.
pub fn is_region(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.contains('-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(fits)
}

const NOTHING: AssertionError = AssertionError::Malformed("the answer has none");

/// `AWS_ENDPOINT_URL_STS` and `AWS_ENDPOINT_URL` first, as in the published libraries; else by the partition's suffix.
fn server(region: &str, environment: &Environment) -> String {
    let given = ["AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL"];
    if let Some(url) = given.iter().find_map(|name| optional(environment, name)) {
        return url.expose().trim().trim_end_matches('/').to_owned();
    }
    let suffix = match region.split('-').next() {
        Some("cn") => "amazonaws.com.cn",
        Some("eusc") => "amazonaws.eu",
        _ => "amazonaws.com",
    };
    format!("https://sts.{region}.{suffix}")
}

async fn post(
    http: &Http,
    url: &str,
    headers: &[(&'static str, &str)],
    body: &str,
) -> Result<Answer, SourceError> {
    let call = Call {
        url,
        query: &[],
        headers,
        verb: Verb::Form(body),
    };
    Ok(http.call(call).await?)
}

fn accepted<'a>(answer: &'a Answer, secret: &str) -> Result<&'a str, SourceError> {
    if answer.status != 200 {
        return Err(refusal(answer, secret));
    }
    Ok(std::str::from_utf8(&answer.body).map_err(|_| NOTHING)?)
}

fn unusable(what: &str) -> SourceError {
    SourceError::Http(HttpError::Settings {
        what: what.to_owned(),
        why: "no request can be made of it".to_owned(),
    })
}
