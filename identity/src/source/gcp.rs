//! The metadata server of Google's cloud: Compute Engine, GKE with workload identity, Cloud Run, Cloud Functions.
//!
//! The server gives the token as plain text, and the same one again while it is young. A request without
//! `Metadata-Flavor: Google` is refused by it, and an answer without it is none of its own.

use super::said::refusal;
use super::{SourceError, optional};
use crate::http::{Call, Verb};
use crate::{Assertion, AssertionError, Environment, Http};

/// Where it is unless `GCE_METADATA_HOST` says otherwise; by address, as the published libraries do, to ask no resolver.
const HOST: &str = "169.254.169.254";
const FLAVOR: &str = "Google";

/// Whose token, for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gcp {
    /// `aud`.
    pub audience: String,
    /// Its mail address; otherwise the machine's default account.
    pub service_account: Option<String>,
}

impl Gcp {
    pub(super) async fn fetch(
        &self,
        http: &Http,
        environment: &Environment,
    ) -> Result<Assertion, SourceError> {
        let account = self.service_account.as_deref().unwrap_or("default");
        let url = format!(
            "{}/computeMetadata/v1/instance/service-accounts/{account}/identity",
            server(environment)
        );
        let answer = http
            .call_near(Call {
                url: &url,
                // Full: with `email`, which a rule has to match beside the number in `sub`.
                query: &[("audience", &self.audience), ("format", "full")],
                headers: &[("metadata-flavor", FLAVOR)],
                verb: Verb::Get,
            })
            .await?;
        if answer.flavor.as_deref() != Some(FLAVOR) {
            return Err(SourceError::Impostor(
                "its answer has no Metadata-Flavor: Google",
            ));
        }
        if answer.status != 200 {
            return Err(refusal(&answer, ""));
        }
        let text = std::str::from_utf8(&answer.body);
        let text = text.map_err(|_| AssertionError::Malformed("it is no text"))?;
        Ok(Assertion::read(text)?)
    }
}

pub(super) fn server(environment: &Environment) -> String {
    match optional(environment, "GCE_METADATA_HOST") {
        Some(host) => format!("http://{}", host.expose()),
        None => format!("http://{HOST}"),
    }
}
