//! `keyward renew-cert`: the stock `setup renew-cert` with its documented flags, without a daemon.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueHint;
use pki::Fingerprint;
use process::{Clock, Failure, SystemClock};
use serde::Serialize;

use super::output;
use super::table::until;
use crate::config::{LONGEST_LEAF, SHORTEST_LEAF, parse_duration, write_duration};
use crate::renew::{Renewed, renew_cert as renew};

/// The stock flags and their stock defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The store: dir:PATH with ca.crt, ca.key and tunnel-domain
    #[arg(long, value_name = "dir:PATH", value_parser = store)]
    output: PathBuf,
    /// Life of the new certificate
    #[arg(long, default_value = "2160h", value_name = "DURATION", value_hint = ValueHint::Other, value_parser = cert_duration)]
    cert_duration: Duration,
    /// Renew only when less than this is left; 0 renews always
    #[arg(long, default_value = "720h", value_name = "DURATION", value_hint = ValueHint::Other, value_parser = parse_duration)]
    renew_before: Duration,
    /// Print what became of it as one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Outcome {
    renewed: bool,
    sha256: String,
    not_after: u64,
    shortened: bool,
}

pub(super) fn renew_cert(arguments: &Arguments) -> Result<(), Failure> {
    let now = SystemClock.wall();
    let renewed = renew(
        &arguments.output,
        arguments.cert_duration,
        arguments.renew_before,
        now,
    )?;
    let outcome = match renewed {
        Renewed::Kept { sha256, not_after } => outcome(false, sha256, not_after, not_after),
        Renewed::Replaced { sha256, not_after } => {
            let asked = now + arguments.cert_duration;
            outcome(true, sha256, not_after, asked)
        }
    };
    if outcome.shortened {
        output::note(&format!(
            "the certificate ends {}, sooner than --cert-duration {} asks for\n  \
             cause: the CA in the store ends, and no certificate of it lives longer\n  \
             next: make a new CA, and give it to the verifiers",
            until(outcome.not_after, unix(now)),
            write_duration(arguments.cert_duration)
        ));
    }
    if arguments.json {
        return output::json(&outcome);
    }
    output::text(&format!(
        "{}: sha256 {}, ends {}\n",
        if outcome.renewed { "renewed" } else { "kept" },
        outcome.sha256,
        until(outcome.not_after, unix(now))
    ))
}

fn outcome(
    renewed: bool,
    sha256: Fingerprint,
    not_after: SystemTime,
    asked: SystemTime,
) -> Outcome {
    Outcome {
        renewed,
        sha256: sha256.to_string(),
        not_after: unix(not_after),
        shortened: unix(not_after) < unix(asked),
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// The same limits as `server_certificate.lifetime` has.
pub(super) fn cert_duration(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if (SHORTEST_LEAF..=LONGEST_LEAF).contains(&duration) {
        // X.509 knows whole seconds only.
        return Ok(Duration::from_secs(duration.as_secs()));
    }
    let [shortest, longest] = [SHORTEST_LEAF, LONGEST_LEAF].map(write_duration);
    Err(format!("write something from {shortest} to {longest}"))
}

pub(super) fn store(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("dir:") {
        Some(path) if !path.is_empty() => Ok(PathBuf::from(path)),
        _ => Err(
            "write dir: and the path of a directory; this version knows no other store".to_owned(),
        ),
    }
}
