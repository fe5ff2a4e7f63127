//! Logs: one JSON object a line on standard error, constant messages, values as fields.

use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;

use crate::Failure;

/// What is to be said once the level is known. There is one log in a process, and so one of these.
static EARLY: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

/// Keeps a line for [`init`], for what is found out before the level is known.
pub fn later(line: impl FnOnce() + Send + 'static) {
    let mut early = EARLY.lock().unwrap_or_else(PoisonError::into_inner);
    early.push(Box::new(line));
}

/// Starts logging, with the lines that were kept [`later`]. Called once, as soon as the level is known.
///
/// # Errors
///
/// `level` is not one of `debug`, `info`, `warn`, `error`.
pub fn init(level: &str) -> Result<(), Failure> {
    let level = parse(level)?;
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .finish();
    // A second call, as by two programs in one test process, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let early = std::mem::take(&mut *EARLY.lock().unwrap_or_else(PoisonError::into_inner));
    for line in early {
        line();
    }
    Ok(())
}

/// Reads a level as the configuration writes it.
///
/// # Errors
///
/// It is not one of `debug`, `info`, `warn`, `error`.
pub fn parse(level: &str) -> Result<LevelFilter, Failure> {
    match level {
        "debug" => Ok(LevelFilter::DEBUG),
        "info" => Ok(LevelFilter::INFO),
        "warn" => Ok(LevelFilter::WARN),
        "error" => Ok(LevelFilter::ERROR),
        other => Err(Failure::config(format!("log_level is {other:?}"))
            .next("write one of debug, info, warn, error")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn what_is_found_out_before_the_log_begins_is_said_when_it_does() {
        let heard = Arc::new(AtomicBool::new(false));
        let said = Arc::clone(&heard);
        later(move || {
            let enabled = tracing::enabled!(tracing::Level::WARN);
            said.store(enabled, Ordering::Relaxed);
        });
        init("warn").unwrap();
        assert!(heard.load(Ordering::Relaxed), "said, and to a subscriber");
    }
}
