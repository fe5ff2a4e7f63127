//! `keyward-edge check`: reads a configuration as `serve` does, and says what it means and what it needs.
//!
//! Both begin with the same [`Prepared`], so that what passes here is what `serve` takes.
//! Nothing is opened but files: not the state, which `serve` would bring forward, and no socket.

use std::path::PathBuf;
use std::sync::Arc;

use process::{Exit, Failure, Firewall, SystemClock};
use serde_json::{Value, json};

use super::open::{StateOptions, unopened};
use super::output;
use crate::config::Config;
use crate::directory::TunnelEntry;
use crate::fixed::Fixed;
use crate::prepare::Prepared;
use crate::relay::leaf;
use crate::state::State;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration, a YAML file
    #[arg(long, value_name = "PATH")]
    config: PathBuf,
    /// Print what a firewall has to let through instead: direction, protocol, host, port, purpose.
    /// `agent` and `login` say the same of themselves with `--firewall`
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
    let prepared = Prepared::load(config, String::new(), Arc::new(SystemClock))?;
    let tunnels = match &config.tunnels {
        Some(file) => json!({ "file": file }),
        None => json!({ "state": options.state, "database": database(options)? }),
    };
    let limits = &config.limits;
    let seconds = |duration: std::time::Duration| duration.as_secs_f64();
    Ok(json!({
        "name": config.name,
        "listen_addr": config.listen,
        "health": config.health,
        "certificate": certificate(config, &prepared)?,
        "tunnels": tunnels,
        "warnings": prepared.tunnels.as_ref().map(warnings).unwrap_or_default(),
        "asn_file": config.asns,
        "log_level": config.log_level,
        "shutdown_timeout_seconds": seconds(limits.drain),
        "stale_limit_seconds": seconds(config.stale_limit),
        "limits": {
            "hello_timeout_seconds": seconds(limits.hello),
            "handshake_timeout_seconds": seconds(limits.handshake),
            "stall_timeout_seconds": seconds(limits.stall),
            "pending": limits.pending,
            "sockets": limits.sockets,
            "handshakes_per_minute": limits.handshakes_per_minute,
        },
    }))
}

/// What a tunnel's access means and its operator may not have meant. The edge cannot see whether a proxy asks for
/// client certificates, so it says where that alone decides.
fn warnings(tunnels: &Fixed) -> Vec<String> {
    let of = |tunnel: &TunnelEntry| {
        let why = if tunnel.access.is_closed() {
            "nobody may call: access has neither client_ca_files nor cidrs"
        } else if tunnel.access.is_open() {
            "anybody may call, because access.cidrs holds every address and there are no client_ca_files: \
             its proxies alone ask who it is, so none of them may have \
             carriers.edge.allow_without_client_certificate"
        } else {
            return None;
        };
        Some(format!("tunnel {:?}: {why}", tunnel.id))
    };
    tunnels.tunnels().filter_map(|tunnel| of(&tunnel)).collect()
}

/// Where it is, and what it says of itself.
fn certificate(config: &Config, prepared: &Prepared) -> Result<Value, Failure> {
    let unusable = |error: &dyn std::error::Error| {
        Failure::config("the edge's own certificate cannot be read").caused_by(error)
    };
    let chain = std::fs::read(&config.certificate).map_err(|error| unusable(&error))?;
    let leaf = leaf(&chain).map_err(|error| unusable(&error))?;
    let end = leaf.validity().not_after_unix();
    Ok(json!({
        "cert_file": config.certificate,
        "key_file": config.key,
        "ca_files": config.ca_files,
        "ca_certificates": prepared.cas.texts().len(),
        "sha256": leaf.fingerprint().to_string(),
        "names": leaf.dns_names(),
        "not_after": api::Timestamp::from_seconds(end),
    }))
}

/// Which database, without what its URL may hold.
fn database(options: &StateOptions) -> Result<String, Failure> {
    let url = options.url()?;
    State::check_url(&url).map_err(|error| unopened(&error))?;
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
    fn a_database_elsewhere_whose_certificate_is_not_checked_is_refused_with_what_to_write() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://edge:s3cret@db.example/edge\n").unwrap();
        let refused = database(&options(Some(file.path().to_owned()))).unwrap_err();
        assert_eq!(refused.exit(), Exit::Config);
        let said = refused.to_string();
        for part in ["db.example", "sslmode is prefer", "next: ", "verify-full"] {
            assert!(said.contains(part), "{said}");
        }
        assert!(!said.contains("s3cret"), "{said}");
    }

    #[test]
    fn a_database_elsewhere_is_named_by_host_and_port_and_never_with_its_password() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let options = options(Some(file.path().to_owned()));
        for (url, line) in [
            (
                "postgres://edge:s3cret@db.example/edge?sslmode=verify-full\n",
                "db.example\t5432",
            ),
            (
                "postgresql://edge@10.0.0.7:6432/edge?sslmode=disable",
                "10.0.0.7\t6432",
            ),
            (
                "postgres://edge@[2001:db8::7]/edge?sslmode=verify-full",
                "2001:db8::7\t5432",
            ),
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
