//! What goes to standard output: text, or one JSON object.

use std::io::{ErrorKind, Write};

use process::Failure;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::operator::{ClientError, Problem};

/// A command that failed, and what it has to show besides.
pub(super) struct Ended {
    pub(super) failure: Failure,
    /// Keys of the JSON object beside `error` and `exit`.
    pub(super) besides: Map<String, Value>,
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            besides: Map::new(),
        }
    }
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Self {
        Failure::from(error).into()
    }
}

#[derive(Serialize)]
struct Failed<'a> {
    #[serde(flatten)]
    besides: &'a Map<String, Value>,
    error: Problem,
    exit: u8,
}

/// Prints `text` as it is.
pub(super) fn text(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read us has had enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::internal("cannot write to standard output").caused_by(&error)),
        Ok(()) => Ok(()),
    }
}

/// Says to standard error what a person has to know besides, and no script.
pub(super) fn note(text: &str) {
    // Whoever closed it does not want to know.
    let _ = writeln!(std::io::stderr().lock(), "note: {text}");
}

/// Prints `value` as one line of JSON.
pub(super) fn json(value: &impl Serialize) -> Result<(), Failure> {
    let mut line = serde_json::to_string(value).expect("our own types have string keys");
    line.push('\n');
    text(&line)
}

/// Prints why a command failed as one object; standard error has it as text.
pub(super) fn failure(ended: &Ended) -> Result<(), Failure> {
    let (what, why, next) = ended.failure.parts();
    let error = Problem {
        what: what.to_owned(),
        why: why.map(str::to_owned),
        next: next.map(str::to_owned),
    };
    json(&Failed {
        besides: &ended.besides,
        error,
        exit: ended.failure.exit() as u8,
    })
}
