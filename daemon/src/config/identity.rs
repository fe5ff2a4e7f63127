//! The section `identity` of the file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use ::identity::{BoundObject, Exec, Expectations, Given, Kubernetes, Source};
use process::Failure;
use serde::Deserialize;

use super::{parse_duration, write_duration};

/// A program that prints a token gets this long unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// Life of a token that a cluster is asked for unless told otherwise: the least that it gives.
const DEFAULT_EXPIRATION: Duration = Duration::from_secs(600);

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
struct RawSource {
    file: Option<PathBuf>,
    environment: Option<String>,
    exec: Option<RawExec>,
    kubernetes: Option<RawKubernetes>,
    github_actions: Option<RawGitHubActions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawExec {
    command: Vec<String>,
    environment: Vec<String>,
    timeout: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawKubernetes {
    url: Option<String>,
    ca_file: Option<PathBuf>,
    token_file: Option<PathBuf>,
    namespace: Option<String>,
    service_account: Option<String>,
    audiences: Vec<String>,
    expiration: Option<String>,
    bound_object: Option<RawBoundObject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBoundObject {
    kind: String,
    name: String,
    uid: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawGitHubActions {
    audience: Option<String>,
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
    if let Some(url) = &raw.url {
        url_of("identity.url", url)?;
    }
    Ok(Given {
        url: raw.url,
        ca_file: absolute("identity.ca_file", raw.ca_file)?,
        rule: raw.federation_rule,
        organization: raw.organization,
        service_account: raw.service_account,
        workspace: raw.workspace,
        source: raw.source.map(source).transpose()?,
        reusable: raw.reusable,
        expect: Expectations {
            issuer: raw.expect.issuer,
            subject: raw.expect.subject,
            audience: raw.expect.audience,
            claims: raw.expect.claims,
        },
    })
}

fn source(raw: RawSource) -> Result<Source, Failure> {
    let file = absolute("identity.source.file", raw.file)?.map(Source::File);
    let variable = raw.environment.map(variable).transpose()?;
    let exec = raw.exec.map(exec).transpose()?.map(Source::Exec);
    let kubernetes = raw.kubernetes.map(kubernetes).transpose()?;
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

fn exec(raw: RawExec) -> Result<Exec, Failure> {
    let mut words = raw.command.into_iter();
    let program = words.next().map(PathBuf::from);
    let Some(program) = program.filter(|program| program.is_absolute()) else {
        return Err(Failure::config(
            "identity.source.exec.command does not begin with an absolute path",
        )
        .next("write a list: the program's path, then its arguments; no shell reads it"));
    };
    let timeout = duration(
        "identity.source.exec.timeout",
        raw.timeout,
        DEFAULT_TIMEOUT,
        Duration::from_secs(1),
    )?;
    Ok(Exec {
        program,
        arguments: words.collect(),
        environment: raw.environment,
        timeout,
    })
}

fn kubernetes(raw: RawKubernetes) -> Result<Kubernetes, Failure> {
    let key = |name: &str| format!("identity.source.kubernetes.{name}");
    if let Some(url) = &raw.url {
        url_of(&key("url"), url)?;
    }
    let account = raw.service_account.unwrap_or_default();
    for (name, value) in [
        ("service_account", Some(&account)),
        ("namespace", raw.namespace.as_ref()),
    ] {
        // They become part of a path.
        let good = |value: &String| {
            let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            value.starts_with(|c: char| c.is_ascii_alphanumeric()) && value.chars().all(fits)
        };
        if let Some(value) = value
            && !good(value)
        {
            return Err(Failure::config(format!("{} is {value:?}", key(name))).next(
                "write the name as the cluster has it: lower-case letters, digits, - and .",
            ));
        }
    }
    Ok(Kubernetes {
        url: raw.url,
        ca_file: absolute(&key("ca_file"), raw.ca_file)?,
        token_file: absolute(&key("token_file"), raw.token_file)?,
        namespace: raw.namespace,
        service_account: account,
        audiences: raw.audiences,
        expiration: duration(
            &key("expiration"),
            raw.expiration,
            DEFAULT_EXPIRATION,
            DEFAULT_EXPIRATION,
        )?,
        bound_object: raw.bound_object.map(|raw| BoundObject {
            kind: raw.kind,
            name: raw.name,
            uid: raw.uid,
        }),
    })
}

fn duration(
    key: &str,
    text: Option<String>,
    default: Duration,
    least: Duration,
) -> Result<Duration, Failure> {
    let Some(text) = text else {
        return Ok(default);
    };
    let wrong = || Failure::config(format!("{key} is {text:?}"));
    let duration = parse_duration(&text).map_err(|error| wrong().next(error.to_string()))?;
    if duration < least {
        return Err(wrong().next(format!("write at least {}", write_duration(least))));
    }
    Ok(duration)
}

/// Without the value: somebody may have written a password into it.
fn url_of(key: &str, url: &str) -> Result<(), Failure> {
    ::identity::check_url(url)
        .map_err(|why| Failure::config(format!("{key} cannot be used")).next(why))
}

fn absolute(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    match path {
        Some(path) if !path.is_absolute() => Err(Failure::config(format!(
            "{key} is {:?}",
            path.display().to_string()
        ))
        .next("write an absolute path: where the program is started from must not matter")),
        path => Ok(path),
    }
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
        writeln!(out, "  source: {}", source_json(source))?;
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

/// JSON is YAML.
fn source_json(source: &Source) -> serde_json::Value {
    use serde_json::json;
    let mut value = match source {
        Source::File(path) => json!({ "file": path }),
        Source::Environment(name) => json!({ "environment": name }),
        Source::Exec(exec) => {
            let mut command = vec![exec.program.display().to_string()];
            command.extend(exec.arguments.iter().cloned());
            json!({"exec": {"command": command, "environment": exec.environment,
                            "timeout": write_duration(exec.timeout)}})
        }
        Source::Kubernetes(kubernetes) => {
            let bound = kubernetes
                .bound_object
                .as_ref()
                .map(|bound| json!({"kind": bound.kind, "name": bound.name, "uid": bound.uid}));
            json!({"kubernetes": {
                "url": kubernetes.url, "ca_file": kubernetes.ca_file,
                "token_file": kubernetes.token_file, "namespace": kubernetes.namespace,
                "service_account": kubernetes.service_account, "audiences": kubernetes.audiences,
                "expiration": write_duration(kubernetes.expiration), "bound_object": bound,
            }})
        }
        Source::GitHubActions { audience } => json!({"github_actions": {"audience": audience}}),
    };
    if let Some(section) = value.as_object_mut() {
        for part in section
            .values_mut()
            .filter_map(serde_json::Value::as_object_mut)
        {
            part.retain(|_, value| !value.is_null());
            if let Some(bound) = part.get_mut("bound_object").and_then(|b| b.as_object_mut()) {
                bound.retain(|_, value| !value.is_null());
            }
        }
    }
    value
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    const TUNNEL: &str =
        "tunnels: {main: {provider: static, domain: t.example, store: 'dir:/s'}}\n";

    fn parse(section: &str) -> Result<Config, Failure> {
        Config::parse(&format!("{TUNNEL}identity:\n{section}"), "keyward.yaml")
    }

    #[test]
    fn every_source_is_understood_and_written_back() {
        for source in [
            "file: /token",
            "environment: ID_TOKEN",
            "exec: {command: [/bin/cat, /token], environment: [HOME], timeout: 5s}",
            "kubernetes: {service_account: keyward, audiences: [a], expiration: 1h, bound_object: {kind: Pod, name: p}}",
            "kubernetes: {url: 'https://k:6443', ca_file: /ca, token_file: /t, namespace: n, service_account: s}",
            "github_actions: {audience: a}",
        ] {
            let text = format!(
                "  url: https://api.edge.example\n  ca_file: /ca.pem\n  federation_rule: fdrl_1\n  organization: o\n  \
                 service_account: svac_1\n  workspace: default\n  reusable: true\n  source: {{{source}}}\n  \
                 expect: {{issuer: i, subject: 's*', audience: a, claims: {{x: y}}}}\n"
            );
            let mut config = parse(&text).unwrap();
            assert!(config.identity.as_ref().unwrap().source.is_some());
            let effective = config.effective();
            config.health.explicit = true;
            let again = Config::parse(&effective, "again").unwrap();
            assert_eq!(again, config, "{effective}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_what_to_write() {
        for (section, what, next) in [
            (
                "  sourc: {}\n",
                "unknown key \"sourc\"",
                "did you mean \"source\"?",
            ),
            (
                "  source: {file: /a, environment: B}\n",
                "not exactly one",
                "write one of",
            ),
            ("  source: {}\n", "not exactly one", "write one of"),
            (
                "  source: {exec: {command: [cat]}}\n",
                "absolute path",
                "no shell",
            ),
            (
                "  source: {file: token}\n",
                "identity.source.file",
                "absolute",
            ),
            ("  url: http://api.example\n", "identity.url", "https"),
            (
                "  source: {kubernetes: {service_account: '../x'}}\n",
                "service_account is \"../x\"",
                "as the cluster has it",
            ),
            (
                "  source: {kubernetes: {service_account: x, expiration: 1m}}\n",
                "expiration is \"1m\"",
                "at least 10m",
            ),
        ] {
            let failure = parse(section).unwrap_err();
            assert_eq!(failure.exit(), process::Exit::Config);
            let text = failure.to_string();
            assert!(text.contains(what) && text.contains(next), "{text}");
        }
        let failure = parse("  url: 'https://u:canary@h'\n").unwrap_err();
        assert!(!failure.to_string().contains("canary"));
    }
}
