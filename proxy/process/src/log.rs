//! Logs: one JSON object a line on standard error, constant messages, values as fields.

use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;

use crate::Failure;

/// The crates whose lines are ours, by the first part of a target. What a library says below `warn` is
/// kept out: it is not constant, it is not listed anywhere, and it may hold what no log of ours may.
const OURS: [&str; 11] = [
    "api", "control", "daemon", "demo", "edge", "harness", "identity", "pki", "process", "proxy",
    "wire",
];

/// What is to be said once the level is known. There is one log in a process, and so one of these.
static EARLY: Mutex<Vec<Box<dyn FnOnce() + Send>>> = Mutex::new(Vec::new());

/// Keeps a line for [`init`], for what is found out before the level is known.
pub fn later(line: impl FnOnce() + Send + 'static) {
    let mut early = EARLY.lock().unwrap_or_else(PoisonError::into_inner);
    early.push(Box::new(line));
}

/// Starts logging, with the lines that were kept [`later`]. Called once, as soon as the level is known.
/// `level` is that of our own crates; libraries are heard from `warn` on.
///
/// # Errors
///
/// `level` is not one of `debug`, `info`, `warn`, `error`.
pub fn init(level: &str) -> Result<(), Failure> {
    let level = parse(level)?;
    let subscriber = subscriber(level, std::io::stderr);
    // A second call, as by two programs in one test process, keeps the first subscriber.
    let _ = tracing::subscriber::set_global_default(subscriber);
    let early = std::mem::take(&mut *EARLY.lock().unwrap_or_else(PoisonError::into_inner));
    for line in early {
        line();
    }
    Ok(())
}

fn subscriber<W>(level: LevelFilter, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_max_level(level)
        .with_writer(writer)
        .finish()
        .with(filter_fn(is_heard))
}

/// The level aside: whether it is ours, or a library has something to warn of.
fn is_heard(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::WARN || is_ours(line.target())
}

/// Programs are crates, too, and begin with the project's name.
fn is_ours(target: &str) -> bool {
    let name = target.split("::").next().unwrap_or_default();
    OURS.contains(&name) || name.starts_with("keyward")
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
            let enabled = tracing::enabled!(Level::WARN);
            said.store(enabled, Ordering::Relaxed);
        });
        init("warn").unwrap();
        assert!(heard.load(Ordering::Relaxed), "said, and to a subscriber");
    }

    #[test]
    fn what_libraries_say_below_warn_is_kept_out_of_the_log() {
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let log = {
            let written = Arc::clone(&written);
            subscriber(LevelFilter::DEBUG, move || Sink(Arc::clone(&written)))
        };
        tracing::subscriber::with_default(log, || {
            tracing::debug!(target: "sqlx::query", "library below");
            tracing::info!(target: "h2::codec", "library below");
            tracing::info!(target: "edgewise", "library below");
            tracing::warn!(target: "sqlx::pool", "library warns");
            tracing::debug!("ours");
            tracing::debug!(target: "edge::relay", "ours");
        });
        let written = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let count = |text: &str| written.matches(text).count();
        assert_eq!(count("library below"), 0, "{written}");
        assert_eq!((count("library warns"), count("ours")), (1, 2), "{written}");
    }

    #[test]
    fn every_crate_of_the_workspace_is_heard() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let read = |path: String| std::fs::read_to_string(path).unwrap();
        let manifest = read(format!("{root}/Cargo.toml"));
        let (_, members) = manifest.split_once("members = [").unwrap();
        let (members, _) = members.split_once(']').unwrap();
        let members: Vec<_> = members.split('"').skip(1).step_by(2).collect();
        assert!(members.len() >= OURS.len(), "{members:?}");
        for member in members {
            let manifest = read(format!("{root}/{member}/Cargo.toml"));
            let library = manifest.split("[lib]").nth(1).unwrap();
            let name = library.split('"').nth(1).unwrap();
            assert!(is_ours(name), "{name} of {member}");
        }
    }

    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Sink {
        fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
}
