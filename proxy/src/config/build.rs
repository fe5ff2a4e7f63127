//! Keys to meaning: defaults, exclusions, and what must not be missing.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use ipnet::IpNet;

use super::raw::{
    Raw, RawControl, RawHealth, RawLimits, RawRoutes, RawTls, RawTlsCarrier, RawUpstream, Scalar,
};
use super::{
    Config, ConfigError, ControlSource, CredentialFiles, HealthListener, Limits, RouteSource,
    TlsListener, UpstreamPolicy, edge, value,
};
use crate::route;

const DURATION: &str = "write a number with a unit, for instance 30s, 1m30s or 500ms";
const ADDRESS: &str = "write IP:PORT or :PORT, for instance \":8080\"";

pub(super) fn build(raw: Raw, tunnel_domain: Option<&str>) -> Result<Config, ConfigError> {
    let log_level = log_level(raw.log_level)?;
    let websocket = address("listen_addr", raw.listen_addr.as_ref())?;
    let carriers = raw.carriers.unwrap_or_default();
    let tls = tls_listener(carriers.tls)?;
    let control = raw.control.map(control).transpose()?;
    let edge = carriers.edge.map(|raw| edge::build(raw, control.as_ref()));
    let edge = edge.transpose()?;
    if websocket.is_none() && tls.is_none() && edge.is_none() {
        return Err(ConfigError::NoCarrier);
    }
    let files = files(raw.tls.unwrap_or_default())?;
    if control.is_none() && files.is_none() {
        return Err(ConfigError::NoCredentialSource);
    }
    if let (Some(edge), Some(files), None) = (&edge, &files, &control)
        && files.client_ca.is_none()
        && !edge.allow_without_client_certificate
    {
        return Err(ConfigError::EdgeWithoutClientCa);
    }
    let flag = tunnel_domain.filter(|text| !text.is_empty());
    let domain = domain(flag.or(raw.tunnel_domain.as_deref()))?;
    let upstream = upstream(raw.upstream.unwrap_or_default())?;
    // The daemon sends the tunnel's domain along with its credential.
    let bare = domain.is_some() || control.is_some();
    let routes = routes(raw.routes, control.is_some(), bare, &upstream)?;
    Ok(Config {
        log_level,
        websocket,
        tls,
        edge,
        tunnel_domain: domain,
        files,
        control,
        routes,
        upstream,
        health: health(&raw.health.unwrap_or_default())?,
        limits: limits(
            &raw.limits.unwrap_or_default(),
            raw.shutdown_timeout.as_ref(),
        )?,
    })
}

fn log_level(text: Option<Scalar>) -> Result<String, ConfigError> {
    let level = text.map_or_else(|| "info".to_owned(), |text| text.0);
    if process::log::parse(&level).is_ok() {
        return Ok(level);
    }
    Err(ConfigError::Value {
        key: "log_level",
        value: level,
        reason: "is no level",
        next: "write one of debug, info, warn, error",
    })
}

fn tls_listener(raw: Option<RawTlsCarrier>) -> Result<Option<TlsListener>, ConfigError> {
    let Some(raw) = raw else { return Ok(None) };
    let addr = address("carriers.tls.listen_addr", raw.listen_addr.as_ref())?;
    let addr = addr.ok_or(ConfigError::Missing {
        key: "carriers.tls.listen_addr",
        next: ADDRESS,
    })?;
    Ok(Some(TlsListener {
        addr,
        proxy_protocol: raw.proxy_protocol.unwrap_or_default(),
    }))
}

fn control(raw: RawControl) -> Result<ControlSource, ConfigError> {
    let socket = raw.socket.filter(|path| !path.is_empty());
    Ok(ControlSource {
        socket: socket.map(PathBuf::from).ok_or(ConfigError::Missing {
            key: "control.socket",
            next: "write the path of the daemon's control socket",
        })?,
        daemon_uid: raw.daemon_uid,
        tunnels: raw.tunnels.unwrap_or_default(),
        replica: raw.replica.unwrap_or_default(),
    })
}

/// A replica keeps its name over restarts, as a pod of a `StatefulSet` or a machine does.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "proxy".to_owned(),
        name => name.to_owned(),
    }
}

/// The host's name with a mark of this instance: where its file is and where it listens. So two proxies
/// of one host have two names, and each keeps its own over restarts without a file to remember it.
pub(super) fn instance(config: &Config, path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let tls = config.tls.map(|listener| listener.addr);
    let place = format!(
        "{} {:?} {tls:?} {}",
        path.display(),
        config.websocket,
        config.health.addr
    );
    let mut name = host_name();
    name.push('-');
    for octet in digest(&SHA256, place.as_bytes()).as_ref().iter().take(4) {
        let _ = write!(name, "{octet:02x}");
    }
    name
}

fn files(raw: RawTls) -> Result<Option<CredentialFiles>, ConfigError> {
    let client_ca = raw.client_ca.map(PathBuf::from);
    if let Some(path) = &client_ca {
        not_empty("tls.client_ca", path)?;
    }
    match (raw.cert_file, raw.key_file) {
        (Some(certificate), Some(key)) => Ok(Some(CredentialFiles {
            certificate: certificate.into(),
            key: key.into(),
            client_ca,
        })),
        (None, None) if client_ca.is_none() => Ok(None),
        (None, _) => Err(ConfigError::Missing {
            key: "tls.cert_file",
            next: "write the path of the PEM certificate chain, or leave out the section tls",
        }),
        (_, None) => Err(ConfigError::Missing {
            key: "tls.key_file",
            next: "write the path of the PEM private key",
        }),
    }
}

/// An empty path is a template that was not filled in, and must not turn anything off.
pub(super) fn not_empty(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.as_os_str().is_empty() {
        return Err(ConfigError::Value {
            key,
            value: String::new(),
            reason: "is empty",
            next: "write the path of the file, or leave the line out",
        });
    }
    Ok(())
}

fn domain(text: Option<&str>) -> Result<Option<String>, ConfigError> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let name = value::domain(text).ok_or_else(|| ConfigError::Value {
        key: "tunnel_domain",
        value: text.to_owned(),
        reason: "is no domain name",
        next: "write the tunnel's domain, for instance abcd1234.tunnel.anthropic.com",
    })?;
    Ok(Some(name))
}

fn upstream(raw: RawUpstream) -> Result<UpstreamPolicy, ConfigError> {
    let allowed_ips = raw.allowed_ips.map(networks).transpose()?;
    let disabled = raw.disable_ip_validation.unwrap_or_default();
    if disabled && allowed_ips.is_some() {
        return Err(ConfigError::BothAddressRules);
    }
    let tls = raw.tls.unwrap_or_default();
    Ok(UpstreamPolicy {
        allowed_ips,
        validate: !disabled,
        // As with `tunnel_domain`, an empty path is none.
        ca_file: tls
            .ca_file
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        include_system_cas: tls.include_system_cas.unwrap_or_default(),
    })
}

/// What the list says replaces the private ranges, so an empty one would leave nothing: whoever writes
/// it means that, or means no list, and neither may be guessed.
fn networks(list: Vec<Scalar>) -> Result<Vec<IpNet>, ConfigError> {
    if list.is_empty() {
        return Err(ConfigError::NothingAllowed);
    }
    let networks = list.into_iter().map(|text| {
        value::network(&text.0).ok_or(ConfigError::Value {
            key: "upstream.allowed_ips",
            value: text.0,
            reason: "is neither an address nor a network",
            next: "write addresses or CIDR networks, for instance 192.0.2.0/24",
        })
    });
    networks.collect()
}

/// `daemon`: whether there is one to send them; `bare`: whether a subdomain alone says enough.
fn routes(
    raw: Option<RawRoutes>,
    daemon: bool,
    bare: bool,
    upstream: &UpstreamPolicy,
) -> Result<RouteSource, ConfigError> {
    match raw {
        Some(RawRoutes::Map(map)) => listed(map, bare, upstream),
        Some(RawRoutes::Daemon) if daemon => Ok(RouteSource::Daemon),
        Some(RawRoutes::Daemon) => Err(ConfigError::DaemonRoutesWithoutControl),
        None => Err(ConfigError::Missing {
            key: "routes",
            next: "write one line for each upstream, name: scheme://host:port",
        }),
    }
}

fn listed(
    map: BTreeMap<String, control::Route>,
    bare: bool,
    upstream: &UpstreamPolicy,
) -> Result<RouteSource, ConfigError> {
    let trust = upstream.ca_file.is_some() || upstream.include_system_cas;
    let compiled = route::compile(&map, trust)?;
    if !bare && let Some(rule) = compiled.iter().find(|rule| !rule.name.contains('.')) {
        return Err(ConfigError::BareRoute {
            route: rule.name.to_string(),
        });
    }
    Ok(RouteSource::File(map))
}

fn health(raw: &RawHealth) -> Result<HealthListener, ConfigError> {
    let addr = address("health.listen_addr", raw.listen_addr.as_ref())?;
    Ok(HealthListener {
        addr: addr.unwrap_or(Config::HEALTH),
        explicit: addr.is_some(),
    })
}

fn limits(raw: &RawLimits, shutdown_timeout: Option<&Scalar>) -> Result<Limits, ConfigError> {
    let mut limits = spans(raw)?;
    limits.shutdown_timeout = span(
        "shutdown_timeout",
        shutdown_timeout,
        limits.shutdown_timeout,
    )?;
    if limits.swap_grace > Limits::LONGEST_SWAP_GRACE {
        return Err(ConfigError::Value {
            key: "limits.swap_grace",
            value: value::write_duration(limits.swap_grace),
            reason: "would hold an ack back for more than a minute",
            next: "write 60s or less; 500ms is the default",
        });
    }
    let pending = raw.pending_handshakes;
    limits.pending_handshakes = pending.unwrap_or(limits.pending_handshakes);
    limits.connections = raw.connections.unwrap_or(limits.connections);
    let streams = raw.concurrent_streams;
    limits.concurrent_streams = streams.unwrap_or(limits.concurrent_streams);
    let idle = raw.upstream_idle_connections;
    limits.upstream_idle_connections = idle.unwrap_or(limits.upstream_idle_connections);
    for (key, zero) in [
        ("limits.concurrent_streams", limits.concurrent_streams == 0),
        ("limits.pending_handshakes", limits.pending_handshakes == 0),
        ("limits.connections", limits.connections == 0),
    ] {
        if zero {
            return Err(refuses_everything(key, "write a number above zero"));
        }
    }
    Ok(limits)
}

/// The defaults, with the durations that are given.
fn spans(raw: &RawLimits) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    let l = &mut limits;
    let (handshake, grace) = (&raw.handshake_timeout, &raw.swap_grace);
    let (connect, idle) = (&raw.connect_timeout, &raw.upstream_idle);
    let comment = &raw.idle_comment;
    for (key, text, limit, may_be_zero) in [
        (
            "limits.handshake_timeout",
            handshake,
            &mut l.handshake_timeout,
            false,
        ),
        (
            "limits.idle_timeout",
            &raw.idle_timeout,
            &mut l.idle_timeout,
            false,
        ),
        (
            "limits.connect_timeout",
            connect,
            &mut l.connect_timeout,
            false,
        ),
        ("limits.swap_grace", grace, &mut l.swap_grace, true),
        ("limits.drain", &raw.drain, &mut l.drain, true),
        ("limits.idle_comment", comment, &mut l.idle_comment, true),
        ("limits.upstream_idle", idle, &mut l.upstream_idle, true),
    ] {
        *limit = span(key, text.as_ref(), *limit)?;
        if limit.is_zero() && !may_be_zero {
            return Err(refuses_everything(key, DURATION));
        }
    }
    Ok(limits)
}

fn refuses_everything(key: &'static str, next: &'static str) -> ConfigError {
    ConfigError::Value {
        key,
        value: "0".to_owned(),
        reason: "would refuse everything",
        next,
    }
}

fn span(
    key: &'static str,
    text: Option<&Scalar>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let Some(text) = text else { return Ok(default) };
    value::duration(&text.0).map_err(|reason| ConfigError::Value {
        key,
        value: text.0.clone(),
        reason,
        next: DURATION,
    })
}

fn address(key: &'static str, text: Option<&Scalar>) -> Result<Option<SocketAddr>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    match value::listen_address(&text.0) {
        Some(address) => Ok(Some(address)),
        None => Err(ConfigError::Value {
            key,
            value: text.0.clone(),
            reason: "is no address to listen on",
            next: ADDRESS,
        }),
    }
}
