//! The key `source`: exactly one of the places that give tokens.

mod exec;
mod kubernetes;

use std::path::PathBuf;

use ::identity::Source;
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use super::value::absolute;
use exec::RawExec;
use kubernetes::RawKubernetes;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSource {
    file: Option<PathBuf>,
    environment: Option<String>,
    exec: Option<RawExec>,
    kubernetes: Option<RawKubernetes>,
    github_actions: Option<RawGitHubActions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGitHubActions {
    audience: Option<String>,
}

pub(super) fn convert(raw: RawSource) -> Result<Source, Failure> {
    let file = absolute("identity.source.file", raw.file)?.map(Source::File);
    let variable = raw.environment.map(variable).transpose()?;
    let exec = raw.exec.map(exec::convert).transpose()?.map(Source::Exec);
    let kubernetes = raw.kubernetes.map(kubernetes::convert).transpose()?;
    let github = raw.github_actions.map(|raw| Source::GitHubActions {
        audience: raw.audience,
    });
    let all = [
        file,
        variable,
        exec,
        kubernetes.map(Source::Kubernetes),
        github,
    ];
    let mut named = all.into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(source), None) => Ok(source),
        _ => Err(
            Failure::config("identity.source names not exactly one source")
                .next("write one of file, environment, exec, kubernetes, github_actions"),
        ),
    }
}

fn variable(name: String) -> Result<Source, Failure> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(
            Failure::config(format!("identity.source.environment is {name:?}"))
                .next("write the name of a variable, not its value"),
        );
    }
    Ok(Source::Environment(name))
}

/// As the file has it. JSON is YAML.
pub(super) fn json(source: &Source) -> Value {
    let value = match source {
        Source::File(path) => json!({ "file": path }),
        Source::Environment(name) => json!({ "environment": name }),
        Source::Exec(exec) => json!({"exec": exec::json(exec)}),
        Source::Kubernetes(kubernetes) => json!({"kubernetes": kubernetes::json(kubernetes)}),
        Source::GitHubActions { audience } => json!({"github_actions": {"audience": audience}}),
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
