//! What the configuration file of `keyward-edge serve` says, as types that cannot be wrong.
//!
//! Unknown keys are refused, durations have units. Nothing here listens or watches.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use process::Failure;
use serde::Deserialize;

use crate::directory::STALE_LIMIT;
use crate::relay::RelayLimits;

/// The level of a configuration that does not say one.
const LEVEL: &str = "info";
/// The longest duration: what is longer is a slip.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// Everything the edge needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `debug`, `info`, `warn`, `error`.
    pub log_level: String,
    /// The one port.
    pub listen: SocketAddr,
    /// EDGE, lower case: `api.` and `agents.` stand before it.
    pub name: String,
    /// PEM chain of the edge's own certificate.
    pub certificate: PathBuf,
    /// Its PEM key.
    pub key: PathBuf,
    /// CAs of that certificate, which proxies and agents are told; none: a public one.
    pub ca_files: Vec<PathBuf>,
    /// The file that says which tunnels there are; watched. None: the state says it.
    pub tunnels: Option<PathBuf>,
    /// The file that says which autonomous system an address belongs to.
    pub asns: Option<PathBuf>,
    /// Where health and metrics are read.
    pub health: SocketAddr,
    /// So long without the database, and new work is refused.
    pub stale_limit: Duration,
    /// How much and how long.
    pub limits: RelayLimits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    log_level: Option<String>,
    listen_addr: SocketAddr,
    name: String,
    certificate: RawCertificate,
    tunnels_file: Option<PathBuf>,
    asn_file: Option<PathBuf>,
    health: Option<RawHealth>,
    shutdown_timeout: Option<String>,
    stale_limit: Option<String>,
    limits: Option<RawLimits>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCertificate {
    cert_file: PathBuf,
    key_file: PathBuf,
    #[serde(default)]
    ca_files: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHealth {
    listen_addr: SocketAddr,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    hello_timeout: Option<String>,
    handshake_timeout: Option<String>,
    stall_timeout: Option<String>,
    pending: Option<usize>,
    sockets: Option<u64>,
    handshakes_per_minute: Option<u32>,
}

impl Config {
    /// Where health and metrics are read when the file does not say.
    pub const HEALTH: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9465);

    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// Exit code 78, with what is wrong.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let what = format!("{} cannot be read", path.display());
            Failure::config(what).caused_by(&error)
        })?;
        Self::from_text(&text)
    }

    /// What `text` means.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn from_text(text: &str) -> Result<Self, Failure> {
        let options = serde_saphyr::options! { with_snippet: false };
        let raw: Raw = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            Failure::config("the configuration cannot be used").caused_by(&error)
        })?;
        let defaults = RelayLimits::default();
        let limits = raw.limits.unwrap_or_default();
        // At the stop nothing is waited for if it says so; a limit of nothing lets nobody in.
        let drain = span("shutdown_timeout", raw.shutdown_timeout, defaults.drain)?;
        let limit = |key, text, default| match span(key, text, default) {
            Ok(Duration::ZERO) => Err(nothing(key, "write a duration, for instance 30s")),
            read => read,
        };
        let count = |key| nothing(key, "write how many, or leave it out");
        process::log::parse(raw.log_level.as_deref().unwrap_or(LEVEL))?;
        Ok(Self {
            log_level: raw.log_level.unwrap_or_else(|| LEVEL.to_owned()),
            listen: raw.listen_addr,
            name: raw.name.trim_matches('.').to_ascii_lowercase(),
            certificate: raw.certificate.cert_file,
            key: raw.certificate.key_file,
            ca_files: raw.certificate.ca_files,
            tunnels: raw.tunnels_file,
            asns: raw.asn_file,
            health: raw.health.map_or(Self::HEALTH, |health| health.listen_addr),
            stale_limit: limit("stale_limit", raw.stale_limit, STALE_LIMIT)?,
            limits: RelayLimits {
                hello: limit("limits.hello_timeout", limits.hello_timeout, defaults.hello)?,
                handshake: limit(
                    "limits.handshake_timeout",
                    limits.handshake_timeout,
                    defaults.handshake,
                )?,
                stall: limit("limits.stall_timeout", limits.stall_timeout, defaults.stall)?,
                pending: match limits.pending {
                    Some(0) => return Err(count("limits.pending")),
                    pending => pending.unwrap_or(defaults.pending),
                },
                sockets: match limits.sockets {
                    Some(0) => return Err(count("limits.sockets")),
                    sockets => sockets.unwrap_or(defaults.sockets),
                },
                handshakes_per_minute: match limits.handshakes_per_minute {
                    Some(0) => return Err(count("limits.handshakes_per_minute")),
                    handshakes => handshakes.unwrap_or(defaults.handshakes_per_minute),
                },
                drain,
            },
        })
    }
}

fn span(key: &str, text: Option<String>, default: Duration) -> Result<Duration, Failure> {
    let Some(text) = text else {
        return Ok(default);
    };
    let read = duration(&text).filter(|read| *read <= LONGEST);
    read.ok_or_else(|| {
        Failure::config(format!("{key}: {text:?} is no duration of at most 168h"))
            .next("write a number with a unit, for instance 30s or 500ms")
    })
}

fn nothing(key: &str, next: &str) -> Failure {
    Failure::config(format!("{key} is 0"))
        .cause("nothing at all could be served")
        .next(next)
}

/// `30s`, `5m`, `500ms`: one number and its unit.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "listen_addr: 127.0.0.1:0\nname: Edge.Example.\n\
        certificate: {cert_file: /c, key_file: /k}\ntunnels_file: /t\n";

    #[test]
    fn what_is_not_said_has_a_default() {
        let config = Config::from_text(TEXT).unwrap();
        assert_eq!(config.name, "edge.example");
        assert_eq!(config.health, Config::HEALTH);
        assert_eq!(config.limits.stall, wire::STALL);
        assert_eq!(config.stale_limit, Duration::from_secs(60));
    }

    #[test]
    fn the_documented_configuration_is_accepted() {
        let page = include_str!("../../docs/edge.md");
        let (_, block) = page.split_once("```yaml\n").unwrap();
        let (block, _) = block.split_once("```").unwrap();
        Config::from_text(block).unwrap();
    }

    #[test]
    fn what_lets_nobody_in_is_refused_with_its_key() {
        let with = |line: &str| Config::from_text(&format!("{TEXT}{line}\n"));
        for (line, what) in [
            ("log_level: verbose", "log_level is \"verbose\""),
            ("stale_limit: 0s", "stale_limit is 0"),
            ("stale_limit: 9999999999999h", "stale_limit"),
            ("limits: {hello_timeout: 0s}", "limits.hello_timeout is 0"),
            (
                "limits: {handshake_timeout: 0ms}",
                "limits.handshake_timeout is 0",
            ),
            ("limits: {stall_timeout: 0s}", "limits.stall_timeout is 0"),
            ("limits: {pending: 0}", "limits.pending is 0"),
            ("limits: {sockets: 0}", "limits.sockets is 0"),
            (
                "limits: {handshakes_per_minute: 0}",
                "limits.handshakes_per_minute is 0",
            ),
        ] {
            let failure = with(line).unwrap_err();
            assert_eq!(failure.exit(), process::Exit::Config);
            let said = failure.to_string();
            assert!(said.starts_with(what) && said.contains("next: "), "{said}");
        }
        let config = with("shutdown_timeout: 0s").unwrap();
        assert_eq!(config.limits.drain, Duration::ZERO);
    }

    #[test]
    fn durations_have_units_and_unknown_keys_are_refused() {
        let with = |line: &str| Config::from_text(&format!("{TEXT}{line}\n"));
        let config = with("shutdown_timeout: 1500ms").unwrap();
        assert_eq!(config.limits.drain, Duration::from_millis(1500));
        for bad in [
            "shutdown_timeout: '30'",
            "shutdown_timeout: 5d",
            "tunnel_file: /t",
        ] {
            assert!(with(bad).is_err(), "{bad}");
        }
    }
}
