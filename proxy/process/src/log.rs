//! Logs: one JSON object a line on standard error, constant messages, values as fields.

use tracing::level_filters::LevelFilter;

use crate::Failure;

/// Starts logging. Called once, as soon as the level is known.
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
