//! `keyward check`: reads a configuration as `run` would and says what it means.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ::identity::{Environment, Place};
use clap::ValueHint;
use process::{Clock, Failure, Firewall, SystemClock, rfc3339};
use serde::Serialize;

use super::{DEFAULT_CONFIG, output};
use crate::config::{Config, Group};

/// Runs of a schedule that are shown.
const SHOWN: usize = 5;

/// What is checked, and how strictly.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Treat a warning as an error
    #[arg(long)]
    strict: bool,
    /// Print what a firewall has to let through instead: direction, protocol, host, port, purpose
    #[arg(long, conflicts_with = "json")]
    firewall: bool,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Serialize)]
struct Checked {
    config: PathBuf,
    effective: serde_json::Value,
    warnings: Vec<String>,
    notes: Vec<String>,
    /// By tunnel and kind, in Unix seconds.
    next_rotations: BTreeMap<String, BTreeMap<&'static str, Vec<u64>>>,
}

pub(super) fn check(arguments: &Arguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config)?;
    // The file may be right, and this host not.
    let group = config.control.group.as_ref();
    group.map(Group::resolve).transpose()?;
    let (effective, mut warnings) = (config.effective(), config.warnings());
    warnings.extend(shared_user(&config));
    let count = warnings.len();
    if arguments.strict && count > 0 {
        return Err(Failure::config(format!(
            "{} has {count} warning{}",
            arguments.config.display(),
            if count == 1 { "" } else { "s" }
        ))
        .cause(warnings.join("; "))
        .next("change what they name, or check without --strict"));
    }
    if arguments.firewall {
        // What it makes is fetched over the control socket; it dials the Tunnels API, and those that an identity needs.
        let mut firewall = Firewall::default();
        firewall.listen(config.health.addr, "health and metrics");
        for place in places(&config, &Environment::process()) {
            firewall.dial(&place.host, place.port, place.why);
        }
        return output::text(&firewall.to_string());
    }
    if arguments.json {
        let effective = serde_saphyr::from_str(&effective).map_err(|error| {
            Failure::internal("the effective configuration cannot be read back").caused_by(&error)
        })?;
        return output::json(&Checked {
            config: arguments.config.clone(),
            effective,
            warnings,
            notes: config.notes(),
            next_rotations: coming(&config),
        });
    }
    output::text(&effective)?;
    for note in config.notes() {
        output::text(&format!("# note: {note}\n"))?;
    }
    for (tunnel, kinds) in coming(&config) {
        for (kind, runs) in kinds {
            let runs: Vec<String> = runs.into_iter().map(instant).collect();
            let runs = runs.join(", ");
            output::text(&format!("# next: tunnels.{tunnel}.rotate.{kind}: {runs}\n"))?;
        }
    }
    for warning in warnings {
        // A comment, so that the whole output can be used as a configuration.
        output::text(&format!("# warning: {warning}\n"))?;
    }
    Ok(())
}

/// What runs by a clock, and when next.
fn coming(config: &Config) -> BTreeMap<String, BTreeMap<&'static str, Vec<u64>>> {
    let now = crate::rotator::unix(SystemClock.wall());
    let tunnels = config.tunnels.iter().map(|(name, tunnel)| {
        let coming = tunnel.rotate.coming(now, SHOWN);
        (name.clone(), coming.into_iter().collect::<BTreeMap<_, _>>())
    });
    tunnels.filter(|(_, coming)| !coming.is_empty()).collect()
}

fn instant(seconds: u64) -> String {
    rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Every server that the daemon calls.
fn places(config: &Config, environment: &Environment) -> Vec<Place> {
    let calls = config.tunnels.values().any(|one| one.remote().is_some());
    let given = match &config.identity {
        None if !calls => return Vec::new(),
        given => given.clone().unwrap_or_default(),
    };
    let api = config.api.url.as_ref().filter(|_| calls);
    let api = api.and_then(|url| Place::of(url, "Tunnels API"));
    let mut places = given.places(environment);
    places.extend(api);
    places
}

/// A subscriber of the daemon's own user, whom `run` refuses. Whoever owns the state is taken for that
/// user, and before the first start whoever checks.
fn shared_user(config: &Config) -> Option<String> {
    let own = config
        .state
        .metadata()
        .map_or_else(|_| rustix::process::geteuid().as_raw(), |state| state.uid());
    let shared = config.control.subscribers.contains(&own);
    shared.then(|| {
        format!(
            "control.subscribers lists uid {own}, the daemon's own: run refuses it without --single-user, since a proxy of that user could read the CA key"
        )
    })
}
