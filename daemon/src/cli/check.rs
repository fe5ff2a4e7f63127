//! `keyward check`: reads a configuration as `run` would and says what it means.

use std::path::PathBuf;

use process::{Failure, Firewall};
use serde::Serialize;

use super::{DEFAULT_CONFIG, output};
use crate::config::Config;

/// What is checked, and how strictly.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "PATH", default_value = DEFAULT_CONFIG)]
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
}

pub(super) fn check(arguments: &Arguments) -> Result<(), Failure> {
    let config = Config::load(&arguments.config)?;
    let (effective, warnings) = (config.effective(), config.warnings());
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
        // It dials nobody: what it makes is fetched over the control socket.
        let mut firewall = Firewall::default();
        firewall.listen(config.health.addr, "health and metrics");
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
        });
    }
    output::text(&effective)?;
    for note in config.notes() {
        output::text(&format!("# note: {note}\n"))?;
    }
    for warning in warnings {
        // A comment, so that the whole output can be used as a configuration.
        output::text(&format!("# warning: {warning}\n"))?;
    }
    Ok(())
}
