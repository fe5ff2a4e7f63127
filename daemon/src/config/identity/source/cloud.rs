//! `gcp` and `azure`: what a cloud gives its machines.

use ::identity::{Azure, Gcp};
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::identity::value::required;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawGcp {
    audience: Option<String>,
    service_account: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAzure {
    resource: Option<String>,
    client_id: Option<String>,
}

pub(super) fn gcp(raw: RawGcp) -> Result<Gcp, Failure> {
    if let Some(account) = &raw.service_account {
        // It becomes part of a path.
        let fits = |c: char| c.is_ascii_alphanumeric() || "-.@".contains(c);
        if !account.contains('@') || !account.chars().all(fits) {
            return Err(Failure::config(format!(
                "identity.source.gcp.service_account is {account:?}"
            ))
            .next("write its mail address, such as keyward@PROJECT.iam.gserviceaccount.com"));
        }
    }
    Ok(Gcp {
        audience: required(
            "identity.source.gcp.audience",
            raw.audience,
            "write what the rule wants as aud, such as https://api.anthropic.com",
        )?,
        service_account: raw.service_account,
    })
}

pub(super) fn gcp_json(gcp: &Gcp) -> Value {
    json!({"audience": gcp.audience, "service_account": gcp.service_account})
}

pub(super) fn azure(raw: RawAzure) -> Result<Azure, Failure> {
    let resource = required(
        "identity.source.azure.resource",
        raw.resource,
        "write the application that the token is for, api://ID",
    )?;
    if resource.ends_with("/.default") {
        return Err(
            Failure::config(format!("identity.source.azure.resource is {resource:?}"))
                .next("write it without /.default, which is added where Entra wants it"),
        );
    }
    Ok(Azure {
        resource,
        client_id: raw.client_id,
    })
}

pub(super) fn azure_json(azure: &Azure) -> Value {
    json!({"resource": azure.resource, "client_id": azure.client_id})
}
