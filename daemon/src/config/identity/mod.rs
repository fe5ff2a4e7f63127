//! The section `identity` of the file.

mod source;
mod value;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use ::identity::{Expectations, Given};
use process::Failure;
use serde::Deserialize;

use source::RawSource;
use value::{absolute, url};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawIdentity {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    federation_rule: Option<String>,
    organization: Option<String>,
    service_account: Option<String>,
    workspace: Option<String>,
    reusable: bool,
    source: Option<RawSource>,
    expect: RawExpect,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawExpect {
    issuer: Option<String>,
    subject: Option<String>,
    audience: Option<String>,
    claims: BTreeMap<String, String>,
}

pub(super) fn convert(raw: RawIdentity) -> Result<Given, Failure> {
    if let Some(text) = &raw.url {
        url("identity.url", text)?;
    }
    Ok(Given {
        url: raw.url,
        ca_file: absolute("identity.ca_file", raw.ca_file)?,
        rule: raw.federation_rule,
        organization: raw.organization,
        service_account: raw.service_account,
        workspace: raw.workspace,
        source: raw.source.map(source::convert).transpose()?,
        reusable: raw.reusable,
        expect: Expectations {
            issuer: raw.expect.issuer,
            subject: raw.expect.subject,
            audience: raw.expect.audience,
            claims: raw.expect.claims,
        },
    })
}

/// The section as a file has it, every value that there is.
pub(super) fn write(out: &mut String, given: &Given) -> std::fmt::Result {
    writeln!(out, "identity:")?;
    let ca_file = given
        .ca_file
        .as_ref()
        .map(|path| path.display().to_string());
    for (key, value) in [
        ("url", &given.url),
        ("ca_file", &ca_file),
        ("federation_rule", &given.rule),
        ("organization", &given.organization),
        ("service_account", &given.service_account),
        ("workspace", &given.workspace),
    ] {
        if let Some(value) = value {
            writeln!(out, "  {key}: {}", quoted(value))?;
        }
    }
    writeln!(out, "  reusable: {}", given.reusable)?;
    if let Some(source) = &given.source {
        writeln!(out, "  source: {}", source::json(source))?;
    }
    let expect = &given.expect;
    let mut wanted = serde_json::Map::new();
    for (key, value) in [
        ("issuer", &expect.issuer),
        ("subject", &expect.subject),
        ("audience", &expect.audience),
    ] {
        if let Some(value) = value {
            wanted.insert(key.to_owned(), value.as_str().into());
        }
    }
    wanted.insert("claims".to_owned(), serde_json::json!(expect.claims));
    writeln!(out, "  expect: {}", serde_json::Value::from(wanted))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
