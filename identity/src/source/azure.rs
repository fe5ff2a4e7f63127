//! Azure's three ways to a token of Entra ID, of which the first is taken that this workload has.
//!
//! | Way | If there is | What is asked |
//! |---|---|---|
//! | workload identity of AKS | `AZURE_FEDERATED_TOKEN_FILE` | Entra, with the cluster's token as client assertion (RFC 7523 §2.2) |
//! | App Service, Functions, Container Apps | `IDENTITY_ENDPOINT` | that address, with `IDENTITY_HEADER` |
//! | virtual machine | neither | the Instance Metadata Service |
//!
//! Entra's tokens have no `jti`; `uti` is another thing, which nobody counts. A virtual machine gets the same token for
//! up to a day.

use std::path::PathBuf;

use serde::Deserialize;
use zeroize::Zeroize;

use super::said::refusal;
use super::{SourceError, optional, read, variable};
use crate::form::form;
use crate::http::{Answer, Call, Verb};
use crate::{Assertion, AssertionError, Environment, Http};

/// The metadata service, unless `AZURE_POD_IDENTITY_AUTHORITY_HOST` says otherwise, as the published libraries have it.
const MACHINE: &str = "http://169.254.169.254";
/// Entra of the public cloud, unless `AZURE_AUTHORITY_HOST` says otherwise.
const AUTHORITY: &str = "https://login.microsoftonline.com";
/// RFC 7523 §2.2.
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// For what, and as whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Azure {
    /// Which application the token is for: `api://ID`, or its id.
    pub resource: String,
    /// The managed identity, where there are several; for workload identity otherwise `AZURE_CLIENT_ID`.
    pub client_id: Option<String>,
}

#[derive(Deserialize)]
struct Reply {
    access_token: String,
}

enum Way {
    Workload { file: PathBuf },
    AppService { url: String },
    Machine { url: String },
}

impl Azure {
    pub(super) async fn fetch(
        &self,
        http: &Http,
        environment: &Environment,
    ) -> Result<Assertion, SourceError> {
        match way(environment) {
            Way::Workload { file } => {
                let assertion = read(&file)?;
                self.workload(assertion.trim(), http, environment).await
            }
            Way::AppService { url } => {
                let secret = variable(environment, "IDENTITY_HEADER")?;
                let headers = [("x-identity-header", secret.expose())];
                let answer = self.ask(http, &url, "2019-08-01", &headers).await?;
                token(&answer, secret.expose())
            }
            Way::Machine { url } => {
                let url = format!("{url}/metadata/identity/oauth2/token");
                let headers = [("metadata", "true")];
                let answer = self.ask(http, &url, "2018-02-01", &headers).await?;
                token(&answer, "")
            }
        }
    }

    async fn ask(
        &self,
        http: &Http,
        url: &str,
        version: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, SourceError> {
        let mut query = vec![("api-version", version), ("resource", &self.resource)];
        query.extend(self.client_id.as_deref().map(|id| ("client_id", id)));
        let call = Call {
            url,
            query: &query,
            headers,
            verb: Verb::Get,
        };
        Ok(http.call_near(call).await?)
    }

    async fn workload(
        &self,
        assertion: &str,
        http: &Http,
        environment: &Environment,
    ) -> Result<Assertion, SourceError> {
        let own = self.client_id.clone().map(crate::Secret::new);
        let client = own.map_or_else(|| variable(environment, "AZURE_CLIENT_ID"), Ok)?;
        let tenant = variable(environment, "AZURE_TENANT_ID")?;
        let body = form(&[
            ("grant_type", "client_credentials"),
            ("client_id", client.expose()),
            ("scope", &format!("{}/.default", self.resource)),
            ("client_assertion_type", ASSERTION_TYPE),
            ("client_assertion", assertion),
        ]);
        let url = format!(
            "{}/{}/oauth2/v2.0/token",
            authority(environment),
            tenant.expose()
        );
        let answer = http
            .call(Call {
                url: &url,
                query: &[],
                headers: &[("accept", "application/json")],
                verb: Verb::Form(&body),
            })
            .await?;
        token(&answer, assertion)
    }
}

/// Where the way that is taken leads, for a firewall.
pub(super) fn server(environment: &Environment) -> String {
    match way(environment) {
        Way::Workload { .. } => authority(environment),
        Way::AppService { url } | Way::Machine { url } => url,
    }
}

fn way(environment: &Environment) -> Way {
    if let Some(file) = optional(environment, "AZURE_FEDERATED_TOKEN_FILE") {
        let file = PathBuf::from(file.expose());
        return Way::Workload { file };
    }
    if let Some(url) = optional(environment, "IDENTITY_ENDPOINT") {
        let url = url.expose().to_owned();
        return Way::AppService { url };
    }
    let url = optional(environment, "AZURE_POD_IDENTITY_AUTHORITY_HOST");
    let url = url.map_or(MACHINE.to_owned(), |url| without_slash(url.expose()));
    Way::Machine { url }
}

fn authority(environment: &Environment) -> String {
    let host = optional(environment, "AZURE_AUTHORITY_HOST");
    host.map_or(AUTHORITY.to_owned(), |host| without_slash(host.expose()))
}

fn without_slash(url: &str) -> String {
    url.trim_end_matches('/').to_owned()
}

fn token(answer: &Answer, secret: &str) -> Result<Assertion, SourceError> {
    if answer.status != 200 {
        return Err(refusal(answer, secret));
    }
    let reply: Result<Reply, _> = serde_json::from_slice(&answer.body);
    let mut reply = reply.map_err(|_| AssertionError::Malformed("the answer has none"))?;
    let assertion = Assertion::read(&reply.access_token);
    reply.access_token.zeroize();
    Ok(assertion?)
}
