//! Values that several keys of the section take.

use std::path::PathBuf;
use std::time::Duration;

use process::Failure;

use crate::config::{parse_duration, write_duration};

pub(super) fn duration(
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

/// A text that has to be there.
pub(super) fn required(
    key: &str,
    text: Option<String>,
    next: &'static str,
) -> Result<String, Failure> {
    match text {
        Some(text) if !text.trim().is_empty() => Ok(text),
        Some(text) => Err(Failure::config(format!("{key} is {text:?}")).next(next)),
        None => Err(Failure::config(format!("{key} is missing")).next(next)),
    }
}

/// Without the value: somebody may have written a password into it.
pub(super) fn url(key: &str, url: &str) -> Result<(), Failure> {
    ::identity::check_url(url)
        .map_err(|why| Failure::config(format!("{key} cannot be used")).next(why))
}

pub(super) fn absolute(key: &str, path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    match path {
        Some(path) if !path.is_absolute() => Err(Failure::config(format!(
            "{key} is {:?}",
            path.display().to_string()
        ))
        .next("write an absolute path: where the program is started from must not matter")),
        path => Ok(path),
    }
}
