//! `keyward-edge check`: reads a configuration as `serve` would, and says what it means and what it needs.
//!
//! Nothing is opened but files: not the state, which `serve` would bring forward, and no socket.

use std::path::PathBuf;
use std::sync::Arc;

use process::{Exit, Failure, Firewall, SystemClock};
use serde_json::{Value, json};

use super::open::StateOptions;
use super::output;
use crate::asn::AsnTable;
use crate::config::Config;
use crate::directory::Directory;
use crate::fixed::Fixed;
use crate::relay::Front;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration
    #[arg(long, value_name = "PATH")]
    config: PathBuf,
    /// Print what a firewall has to let through instead: direction, protocol, host, port, purpose
    #[arg(long)]
    firewall: bool,
}

pub(super) fn run(arguments: &Arguments, options: &StateOptions) -> Result<(), Failure> {
    let config = Config::load(&arguments.config)?;
    if arguments.firewall {
        let text = firewall(&config, options)?.to_string();
        return output::write(text.as_bytes());
    }
    output::print(&checked(&config, options)?)
}

/// The configuration with every default written out, once everything that it names was read.
fn checked(config: &Config, options: &StateOptions) -> Result<Value, Failure> {
    Front::load(&config.certificate, &config.key).map_err(|error| {
        Failure::config("the edge's own certificate cannot be served").caused_by(&error)
    })?;
    if let Some(file) = &config.asns {
        AsnTable::load(file)
            .map_err(|error| Failure::config("asn_file cannot be used").caused_by(&error))?;
    }
    if let Some(file) = &config.tunnels {
        let directory = Directory::new(String::new(), Arc::new(SystemClock), None);
        Fixed::new(file.clone(), directory).load()?;
    }
    let tunnels = match &config.tunnels {
        Some(file) => json!({ "file": file }),
        None => json!({ "state": options.state, "database": database(options)? }),
    };
    Ok(json!({
        "name": config.name,
        "listen_addr": config.listen,
        "health": config.health,
        "certificate": certificate(config)?,
        "tunnels": tunnels,
        "asn_file": config.asns,
        "log_level": config.log_level,
        "shutdown_timeout_seconds": config.limits.drain.as_secs_f64(),
        "stale_limit_seconds": config.stale_limit.as_secs_f64(),
    }))
}

/// What it says of itself, and which names of the edge it does not cover.
fn certificate(config: &Config) -> Result<Value, Failure> {
    let text = output::read(&config.certificate)?;
    // The first of the chain is the edge's own (RFC 8446 section 4.4.2).
    let end = "-----END CERTIFICATE-----";
    let first = text.split_inclusive(end).next().unwrap_or_default();
    let leaf = pki::Certificate::from_pem(first).map_err(|error| {
        Failure::config("the edge's own certificate cannot be read").caused_by(&error)
    })?;
    let wildcard = format!("*.{}", config.name);
    let uncovered: Vec<String> = ["api", "agents"]
        .map(|label| format!("{label}.{}", config.name))
        .into_iter()
        .filter(|name| {
            let names = leaf.dns_names();
            !names
                .iter()
                .any(|known| known == name || *known == wildcard)
        })
        .collect();
    if !uncovered.is_empty() {
        let what = format!(
            "the edge's own certificate does not cover {}",
            uncovered.join(", ")
        );
        return Err(Failure::config(what).next("issue one for api. and agents. before its name"));
    }
    let end = leaf.validity().not_after_unix();
    Ok(json!({
        "sha256": leaf.fingerprint().to_string(),
        "names": leaf.dns_names(),
        "not_after": api::Timestamp::from_seconds(end),
    }))
}

/// Which database, without what its URL may hold.
fn database(options: &StateOptions) -> Result<String, Failure> {
    let url = options.url()?;
    let (scheme, rest) = url.split_once(':').unwrap_or((&url, ""));
    if scheme == "sqlite" {
        return Ok("sqlite".to_owned());
    }
    let (host, port) = server(rest).ok_or_else(|| {
        Failure::new(Exit::Config, "the database's URL has no host")
            .next("write postgres://USER@HOST/DATABASE")
    })?;
    Ok(format!("postgresql at {host}:{port}"))
}

/// Host and port of `//USER:PASSWORD@HOST:PORT/DATABASE`.
fn server(rest: &str) -> Option<(String, u16)> {
    let uri: http::Uri = format!("postgres:{rest}").parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty())?;
    let host = host.trim_matches(['[', ']']).to_owned();
    Some((host, uri.port_u16().unwrap_or(5432)))
}

fn firewall(config: &Config, options: &StateOptions) -> Result<Firewall, Failure> {
    let mut firewall = Firewall::default();
    firewall.listen(config.listen, "proxies, agents and the Tunnels API");
    firewall.listen(config.health, "health and metrics");
    if config.tunnels.is_some() {
        return Ok(firewall);
    }
    firewall.dial(
        "*",
        443,
        "keys of issuers that are not given inline, as issuer list shows",
    );
    let url = options.url()?;
    if let Some((_, rest)) = url
        .split_once(':')
        .filter(|(scheme, _)| *scheme != "sqlite")
        && let Some((host, port)) = server(rest)
    {
        firewall.dial(&host, port, "PostgreSQL");
    }
    Ok(firewall)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(file: Option<PathBuf>) -> StateOptions {
        StateOptions {
            state: PathBuf::from("/var/lib/keyward-edge"),
            database_url_file: file,
            no_reveal: false,
        }
    }

    fn config(more: &str) -> Config {
        let text = "listen_addr: 0.0.0.0:443\nname: edge.example\n\
                    certificate: {cert_file: /c, key_file: /k}\n";
        Config::from_text(&format!("{text}{more}")).unwrap()
    }

    #[test]
    fn an_edge_with_tunnels_from_a_file_opens_nothing_to_the_outside() {
        let firewall = firewall(&config("tunnels_file: /t\n"), &options(None)).unwrap();
        assert_eq!(
            firewall.to_string(),
            "in\ttcp\t*\t443\tproxies, agents and the Tunnels API\n\
             in\ttcp\t127.0.0.1\t9465\thealth and metrics, this machine alone\n"
        );
    }

    #[test]
    fn a_database_elsewhere_is_named_by_host_and_port_and_never_with_its_password() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = options(Some(file.path().to_owned()));
        for (url, line) in [
            (
                "postgres://edge:s3cret@db.example/edge\n",
                "db.example\t5432",
            ),
            ("postgresql://edge@10.0.0.7:6432/edge", "10.0.0.7\t6432"),
            ("postgres://edge@[2001:db8::7]/edge", "2001:db8::7\t5432"),
        ] {
            std::fs::write(file.path(), url).unwrap();
            let text = firewall(&config(""), &options).unwrap().to_string();
            assert!(
                text.contains(&format!("out\ttcp\t{line}\tPostgreSQL\n")),
                "{text}"
            );
            assert!(text.contains("out\ttcp\t*\t443\tkeys of issuers"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
            assert!(!database(&options).unwrap().contains("s3cret"));
        }
    }
}
