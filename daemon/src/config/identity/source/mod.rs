//! The key `source`: exactly one of the places that give tokens.

mod aws;
mod cloud;
mod exec;
mod kubernetes;
mod spiffe;
mod vault;

use std::path::PathBuf;

use ::identity::Source;
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use super::value::{absolute, required};
use aws::RawAws;
use cloud::{RawAzure, RawGcp};
use exec::RawExec;
use kubernetes::RawKubernetes;
use spiffe::RawSpiffe;
use vault::RawVault;

/// As the file calls them.
const KINDS: [&str; 11] = [
    "file",
    "environment",
    "exec",
    "kubernetes",
    "github_actions",
    "gitlab",
    "gcp",
    "azure",
    "aws",
    "vault",
    "spiffe",
];

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSource {
    file: Option<PathBuf>,
    environment: Option<String>,
    exec: Option<RawExec>,
    kubernetes: Option<RawKubernetes>,
    github_actions: Option<RawGitHubActions>,
    gitlab: Option<RawGitLab>,
    gcp: Option<RawGcp>,
    azure: Option<RawAzure>,
    aws: Option<RawAws>,
    vault: Option<RawVault>,
    spiffe: Option<RawSpiffe>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGitHubActions {
    audience: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGitLab {
    variable: Option<String>,
}

pub(super) fn convert(raw: RawSource) -> Result<Source, Failure> {
    let github = raw.github_actions.map(|raw| Source::GitHubActions {
        audience: raw.audience,
    });
    let all = [
        absolute("identity.source.file", raw.file)?.map(Source::File),
        raw.environment
            .map(|name| variable("environment", name).map(Source::Environment))
            .transpose()?,
        raw.exec.map(exec::convert).transpose()?.map(Source::Exec),
        raw.kubernetes
            .map(kubernetes::convert)
            .transpose()?
            .map(Source::Kubernetes),
        github,
        raw.gitlab.map(gitlab).transpose()?,
        raw.gcp.map(cloud::gcp).transpose()?.map(Source::Gcp),
        raw.azure.map(cloud::azure).transpose()?.map(Source::Azure),
        raw.aws.map(aws::convert).transpose()?.map(Source::Aws),
        raw.vault
            .map(vault::convert)
            .transpose()?
            .map(Source::Vault),
        raw.spiffe
            .map(spiffe::convert)
            .transpose()?
            .map(Source::Spiffe),
    ];
    let mut named = all.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(source), None) => Ok(source),
        _ => Err(
            Failure::config("identity.source names not exactly one source")
                .next(format!("write one of {}", KINDS.join(", "))),
        ),
    }
}

fn gitlab(raw: RawGitLab) -> Result<Source, Failure> {
    let name = required(
        "identity.source.gitlab.variable",
        raw.variable,
        "write the name under id_tokens of the job",
    )?;
    let variable = variable("gitlab.variable", name)?;
    Ok(Source::GitLab { variable })
}

fn variable(key: &str, name: String) -> Result<String, Failure> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(
            Failure::config(format!("identity.source.{key} is {name:?}"))
                .next("write the name of a variable, not its value"),
        );
    }
    Ok(name)
}

/// As the file has it. JSON is YAML.
pub(super) fn json(source: &Source) -> Value {
    let value = match source {
        Source::File(path) => json!({ "file": path }),
        Source::Environment(name) => json!({ "environment": name }),
        Source::Exec(exec) => json!({"exec": exec::json(exec)}),
        Source::Kubernetes(kubernetes) => json!({"kubernetes": kubernetes::json(kubernetes)}),
        Source::GitHubActions { audience } => json!({"github_actions": {"audience": audience}}),
        Source::GitLab { variable } => json!({"gitlab": {"variable": variable}}),
        Source::Gcp(gcp) => json!({"gcp": cloud::gcp_json(gcp)}),
        Source::Azure(azure) => json!({"azure": cloud::azure_json(azure)}),
        Source::Aws(aws) => json!({"aws": aws::json(aws)}),
        Source::Vault(vault) => json!({"vault": vault::json(vault)}),
        Source::Spiffe(spiffe) => json!({"spiffe": spiffe::json(spiffe)}),
    };
    written(value)
}

/// Without the keys that nobody wrote.
fn written(value: Value) -> Value {
    let Value::Object(object) = value else {
        return value;
    };
    let there = object.into_iter().filter(|(_, value)| !value.is_null());
    Value::Object(there.map(|(key, value)| (key, written(value))).collect())
}
