//! `exec`: a program that prints a token.

use std::path::PathBuf;
use std::time::Duration;

use ::identity::Exec;
use process::Failure;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::identity::value::duration;
use crate::config::write_duration;

/// A program that prints a token gets this long unless told otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawExec {
    command: Vec<String>,
    environment: Vec<String>,
    timeout: Option<String>,
}

pub(super) fn convert(raw: RawExec) -> Result<Exec, Failure> {
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

pub(super) fn json(exec: &Exec) -> Value {
    let mut command = vec![exec.program.display().to_string()];
    command.extend(exec.arguments.iter().cloned());
    json!({"command": command, "environment": exec.environment, "timeout": write_duration(exec.timeout)})
}
