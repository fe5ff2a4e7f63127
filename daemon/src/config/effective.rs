//! What `keyward check` says about a configuration that can be used.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use super::{AuthorityConfig, Config, DAY, Group, TunnelConfig, write_duration};

/// A longer life than this makes a stolen server key worth more than the renewal costs.
const LONG_LEAF: Duration = Duration::from_secs(90 * DAY);
/// Five years is what the stock setup makes; nobody practises what happens once in five years.
const LONG_CA: Duration = Duration::from_secs(2 * 365 * DAY);

/// Every key, with its value or its default; one whose default is nothing is `null`.
pub(super) fn yaml(config: &Config) -> String {
    let mut out = String::new();
    write(&mut out, config).expect("writing to a string cannot fail");
    out
}

fn write(out: &mut String, config: &Config) -> std::fmt::Result {
    writeln!(out, "state: {}", path(&config.state))?;
    writeln!(out, "log_level: {}", config.log_level)?;
    writeln!(out, "control:")?;
    writeln!(out, "  socket: {}", path(&config.control.socket))?;
    match &config.control.group {
        Some(Group::Id(id)) => writeln!(out, "  group: {id}")?,
        Some(Group::Name(name)) => writeln!(out, "  group: {}", quoted(name))?,
        None => writeln!(out, "  group: null # the daemon's own")?,
    }
    writeln!(out, "  subscribers: {:?}", config.control.subscribers)?;
    writeln!(out, "operator:")?;
    writeln!(out, "  socket: {}", path(&config.operator.socket))?;
    writeln!(out, "  operators: {:?}", config.operator.operators)?;
    writeln!(out, "health:")?;
    writeln!(out, "  listen_addr: \"{}\"", config.health.addr)?;
    match &config.identity {
        Some(given) => super::identity::write(out, given)?,
        None => writeln!(out, "identity: null # none")?,
    }
    writeln!(out, "api:")?;
    match &config.api.url {
        Some(url) => writeln!(out, "  url: {}", quoted(url))?,
        None => writeln!(out, "  url: null # where tokens are bought")?,
    }
    let addresses: Vec<String> = config
        .api
        .addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    writeln!(out, "  addresses: {addresses:?}")?;
    writeln!(out, "  calls_per_minute: {}", config.api.calls_per_minute)?;
    writeln!(out, "tunnels:")?;
    for (name, tunnel) in &config.tunnels {
        writeln!(out, "  {}:", quoted(name))?;
        write_tunnel(out, tunnel)?;
    }
    Ok(())
}

fn write_tunnel(out: &mut String, tunnel: &TunnelConfig) -> std::fmt::Result {
    match tunnel.remote() {
        None => writeln!(
            out,
            "    provider: static\n    tunnel_id: null # with tunnels_api"
        )?,
        Some(id) => {
            writeln!(out, "    provider: tunnels_api")?;
            writeln!(out, "    tunnel_id: {}", quoted(id))?;
        }
    }
    writeln!(out, "    connector: {}", tunnel.connector.name())?;
    match &tunnel.restart {
        Some(command) => writeln!(out, "    restart: {command:?}")?,
        None => writeln!(out, "    restart: null # with connector: external")?,
    }
    writeln!(out, "    domain: {}", quoted(&tunnel.domain))?;
    let store = format!("dir:{}", tunnel.store.display());
    writeln!(out, "    store: {}", quoted(&store))?;
    match &tunnel.serve_dir {
        Some(dir) => writeln!(out, "    serve_dir: {}", path(dir))?,
        None => writeln!(out, "    serve_dir: null # none")?,
    }
    let leaf = &tunnel.server_certificate;
    writeln!(out, "    server_certificate:")?;
    writeln!(out, "      lifetime: {}", write_duration(leaf.lifetime))?;
    writeln!(out, "      algorithm: {}", leaf.algorithm)?;
    writeln!(out, "      extra_names: {:?}", leaf.extra_names)?;
    write_authority(out, "ca", tunnel.ca)?;
    match tunnel.client_ca {
        Some(ca) => write_authority(out, "client_ca", ca)?,
        None => writeln!(out, "    client_ca: null # callers need no certificate")?,
    }
    let quiet = write_duration(tunnel.shared_secret.quiet);
    writeln!(out, "    shared_secret:\n      quiet: {quiet}")?;
    match &tunnel.routes {
        Some(routes) => write_routes(out, routes)?,
        None => writeln!(out, "    routes: null # the proxy's own file has them")?,
    }
    tunnel.rotate.write(out, "    ")
}

fn write_routes(out: &mut String, routes: &BTreeMap<String, control::Route>) -> std::fmt::Result {
    let opening = if routes.is_empty() { " {}" } else { "" };
    writeln!(out, "    routes:{opening}")?;
    for (name, route) in routes {
        writeln!(out, "      {}:", quoted(name))?;
        writeln!(out, "        upstream: {}", quoted(&route.upstream))?;
        writeln!(out, "        preserve_host: {}", route.preserve_host)?;
    }
    Ok(())
}

fn write_authority(out: &mut String, key: &str, ca: AuthorityConfig) -> std::fmt::Result {
    writeln!(out, "    {key}:")?;
    writeln!(out, "      lifetime: {}", write_duration(ca.lifetime))?;
    writeln!(out, "      algorithm: {}", ca.algorithm)?;
    writeln!(out, "      constrained: {}", ca.constrained)?;
    if key == "ca" {
        writeln!(out, "      settle: {}", write_duration(ca.settle))?;
    }
    Ok(())
}

/// Sentences for a person.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.control.subscribers.is_empty() {
        warnings.push("control.subscribers is empty: no proxy can subscribe".to_owned());
    }
    if !config.health.addr.ip().is_loopback() {
        warnings.push(format!(
            "health.listen_addr {} is not loopback: everybody who reaches it may read metrics and status",
            config.health.addr
        ));
    }
    for (name, tunnel) in &config.tunnels {
        warn_of_tunnel(&mut warnings, name, tunnel);
    }
    warnings
}

/// Sentences for a person, about what no configuration of this version can change.
pub(super) fn notes(config: &Config) -> Vec<String> {
    let unsealed = |(name, tunnel): (&String, &TunnelConfig)| {
        format!(
            "tunnels.{name}: the CA key is unsealed on the disk that holds {}",
            tunnel.store.display()
        )
    };
    config.tunnels.iter().map(unsealed).collect()
}

fn warn_of_tunnel(warnings: &mut Vec<String>, name: &str, tunnel: &TunnelConfig) {
    let mut warn = |text: String| warnings.push(format!("tunnels.{name}: {text}"));
    let leaf = tunnel.server_certificate.lifetime;
    let cas = [("ca", Some(tunnel.ca)), ("client_ca", tunnel.client_ca)];
    if leaf > LONG_LEAF {
        warn(format!(
            "server_certificate.lifetime is {}: a stolen key serves that long",
            write_duration(leaf)
        ));
    }
    for (key, ca) in cas {
        let Some(ca) = ca else { continue };
        if ca.lifetime > LONG_CA {
            warn(format!(
                "{key}.lifetime is {}: a switch that is never practised",
                write_duration(ca.lifetime)
            ));
        }
    }
    // At the switch, half way through its life, a CA shall outlive six of its leaves (SPIRE's ratio).
    if tunnel.ca.lifetime < leaf * 12 {
        warn(format!(
            "ca.lifetime is {}, less than twelve lives of a server certificate: the switch will be urgent",
            write_duration(tunnel.ca.lifetime)
        ));
    }
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// A JSON string is a YAML string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
