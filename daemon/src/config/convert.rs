//! From what the file says to what the program needs.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use pki::Algorithm;
use process::Failure;

use super::raw::{RawAuthority, RawConfig, RawControl, RawRoute, RawServerCertificate, RawTunnel};
use super::{
    AuthorityConfig, CA_MARGIN, Config, ControlListener, DEFAULT_CA_LIFETIME,
    DEFAULT_CONTROL_SOCKET, DEFAULT_HEALTH, DEFAULT_LEAF_LIFETIME, DEFAULT_OPERATOR_SOCKET,
    DEFAULT_SETTLE, DEFAULT_STATE, DEFAULT_SUBSCRIBERS, Group, HealthListener, LONGEST_CA,
    LONGEST_LEAF, LONGEST_SETTLE, OperatorListener, SHORTEST_LEAF, ServerCertificateConfig,
    TunnelConfig, parse_duration, places, remote, rotate, write_duration,
};

pub(super) fn config(raw: RawConfig) -> Result<Config, Failure> {
    let log_level = raw.log_level.unwrap_or_else(|| "info".to_owned());
    process::log::parse(&log_level)?;
    if raw.tunnels.is_empty() {
        return Err(Failure::config("no tunnel is configured")
            .next("write tunnels: with at least one name, domain and store"));
    }
    let identity = raw
        .identity
        .value("identity", "write its keys below it, or leave it out")?;
    let tunnels = raw
        .tunnels
        .into_iter()
        .map(|(name, raw)| tunnel(&name, raw).map(|tunnel| (name, tunnel)));
    let config = Config {
        state: absolute("state", raw.state, DEFAULT_STATE)?,
        log_level,
        control: control(raw.control)?,
        operator: OperatorListener {
            socket: absolute(
                "operator.socket",
                raw.operator.socket,
                DEFAULT_OPERATOR_SOCKET,
            )?,
            operators: raw.operator.operators.unwrap_or_default(),
        },
        health: health(raw.health.listen_addr.as_deref())?,
        identity: identity.map(super::identity::convert).transpose()?,
        api: remote::api(raw.api)?,
        tunnels: tunnels.collect::<Result<_, _>>()?,
    };
    distinct_domains(&config)?;
    places::distinct(&config)?;
    Ok(config)
}

fn control(raw: RawControl) -> Result<ControlListener, Failure> {
    Ok(ControlListener {
        socket: absolute("control.socket", raw.socket, DEFAULT_CONTROL_SOCKET)?,
        group: raw.group.map(group).transpose()?,
        subscribers: raw
            .subscribers
            .unwrap_or_else(|| DEFAULT_SUBSCRIBERS.to_vec()),
    })
}

fn tunnel(name: &str, raw: RawTunnel) -> Result<TunnelConfig, Failure> {
    if !is_label(name) {
        return Err(Failure::config(format!("tunnels has the name {name:?}"))
            .next("write lower-case letters, digits and hyphens, at most 63"));
    }
    let key = |rest: &str| format!("tunnels.{name}.{rest}");
    let client_ca = raw.client_ca.value(
        &key("client_ca"),
        "write {} for its defaults, or leave it out if callers need no certificate",
    )?;
    let routes = raw.routes.value(
        &key("routes"),
        "write {} for no route, or leave it out if the proxy's own file has them",
    )?;
    let serve_dir = raw
        .serve_dir
        .value(&key("serve_dir"), "write an absolute path, or leave it out")?;
    let provider = remote::provider(&key, raw.provider.as_deref(), raw.tunnel_id)?;
    let connector = remote::connector(&key("connector"), raw.connector.as_deref())?;
    let restart = raw.restart.value(
        &key("restart"),
        "write a list, a program's absolute path and its arguments, or leave it out",
    )?;
    let restart = restart
        .map(|command| remote::restart(&key("restart"), command, (&provider, connector)))
        .transpose()?;
    let other = (&provider, connector, restart.is_some());
    let rotate = rotate::convert(&key, name, other, raw.rotate)?;
    let tunnel = TunnelConfig {
        provider,
        connector,
        restart,
        rotate,
        domain: domain(&key("domain"), raw.domain)?,
        store: store(&key("store"), raw.store)?,
        serve_dir: serve_dir
            .map(|dir| absolute(&key("serve_dir"), Some(dir), ""))
            .transpose()?,
        server_certificate: server_certificate(&key("server_certificate"), raw.server_certificate)?,
        ca: authority(&key("ca"), &raw.ca)?,
        client_ca: client_ca
            .map(|raw| client_authority(&key("client_ca"), &raw))
            .transpose()?,
        shared_secret: remote::shared_secret(
            &key("shared_secret.quiet"),
            raw.shared_secret.quiet.as_deref(),
        )?,
        routes: routes
            .map(|raw| self::routes(&key("routes"), raw))
            .transpose()?,
    };
    can_issue(key, &tunnel)?;
    Ok(tunnel)
}

fn domain(key: &str, text: Option<String>) -> Result<String, Failure> {
    let domain = text.ok_or_else(|| missing(key))?;
    if is_domain(&domain) {
        return Ok(domain);
    }
    Err(Failure::config(format!("{key} is {domain:?}")).next(
        "write the tunnel's domain in lower case, without wildcard, such as abcd.tunnel.example.com",
    ))
}

/// Whether the CA can sign what the tunnel is to serve: its names, and for as long as it is to live.
fn can_issue(key: impl Fn(&str) -> String, tunnel: &TunnelConfig) -> Result<(), Failure> {
    let TunnelConfig {
        domain,
        server_certificate: leaf,
        ca,
        ..
    } = tunnel;
    // Constraints are on DNS names alone.
    let outside = |name: &&String| {
        let inside = *name == domain || name.ends_with(&format!(".{domain}"));
        !inside && name.parse::<IpAddr>().is_err()
    };
    if ca.constrained
        && let Some(name) = leaf.extra_names.iter().find(outside)
    {
        return Err(Failure::config(format!(
            "{} has {name:?}, for which a CA that is constrained to {domain} cannot issue",
            key("server_certificate.extra_names")
        ))
        .next(format!(
            "take the name out, or {} off",
            key("ca.constrained")
        )));
    }
    let margin = if ca.lifetime < 2 * CA_MARGIN {
        Duration::ZERO
    } else {
        CA_MARGIN
    };
    if ca.lifetime < leaf.lifetime + margin {
        return Err(Failure::config(format!(
            "{} is {}, too short for a server certificate of {}",
            key("ca.lifetime"),
            write_duration(ca.lifetime),
            write_duration(leaf.lifetime),
        ))
        .next("lengthen the CA's life or shorten the server certificate's"));
    }
    Ok(())
}

fn server_certificate(
    key: &str,
    raw: RawServerCertificate,
) -> Result<ServerCertificateConfig, Failure> {
    let lifetime = lifetime(
        key,
        raw.lifetime.as_deref(),
        DEFAULT_LEAF_LIFETIME,
        LONGEST_LEAF,
    )?;
    if let Some(name) = raw.extra_names.iter().find(|name| !is_name(name)) {
        return Err(
            Failure::config(format!("{key}.extra_names has {name:?}")).next(
                "write DNS names in lower case or addresses, such as localhost or *.example.com",
            ),
        );
    }
    Ok(ServerCertificateConfig {
        lifetime,
        algorithm: algorithm(key, raw.algorithm.as_deref())?,
        extra_names: raw.extra_names,
    })
}

fn authority(key: &str, raw: &RawAuthority) -> Result<AuthorityConfig, Failure> {
    Ok(AuthorityConfig {
        lifetime: lifetime(
            key,
            raw.lifetime.as_deref(),
            DEFAULT_CA_LIFETIME,
            LONGEST_CA,
        )?,
        algorithm: algorithm(key, raw.algorithm.as_deref())?,
        constrained: raw.constrained,
        settle: settle(key, raw.settle.as_deref())?,
    })
}

/// Nobody registers it anywhere.
fn client_authority(key: &str, raw: &RawAuthority) -> Result<AuthorityConfig, Failure> {
    if raw.settle.is_some() {
        return Err(Failure::config(format!("{key}.settle has no meaning"))
            .next("leave it out, or write it below ca:"));
    }
    authority(key, raw)
}

fn settle(key: &str, text: Option<&str>) -> Result<Duration, Failure> {
    let Some(text) = text else {
        return Ok(DEFAULT_SETTLE);
    };
    let wrong = || Failure::config(format!("{key}.settle is {text:?}"));
    let settle = parse_duration(text).map_err(|error| wrong().next(error.to_string()))?;
    if settle > LONGEST_SETTLE {
        let longest = write_duration(LONGEST_SETTLE);
        return Err(wrong().next(format!("write something from 0s to {longest}")));
    }
    Ok(settle)
}

fn lifetime(
    key: &str,
    text: Option<&str>,
    default: Duration,
    longest: Duration,
) -> Result<Duration, Failure> {
    let Some(text) = text else {
        return Ok(default);
    };
    let wrong = || Failure::config(format!("{key}.lifetime is {text:?}"));
    let lifetime = parse_duration(text).map_err(|error| wrong().next(error.to_string()))?;
    if lifetime < SHORTEST_LEAF || lifetime > longest {
        return Err(wrong().next(format!(
            "write something from {} to {}",
            write_duration(SHORTEST_LEAF),
            write_duration(longest)
        )));
    }
    // X.509 knows whole seconds only.
    Ok(Duration::from_secs(lifetime.as_secs()))
}

fn algorithm(key: &str, text: Option<&str>) -> Result<Algorithm, Failure> {
    let Some(text) = text else {
        return Ok(Algorithm::default());
    };
    text.parse().map_err(|_| {
        let known = Algorithm::ALL.map(Algorithm::name);
        Failure::config(format!("{key}.algorithm is {text:?}"))
            .next(format!("write one of {}", known.join(", ")))
    })
}

fn routes(
    key: &str,
    raw: BTreeMap<String, RawRoute>,
) -> Result<BTreeMap<String, control::Route>, Failure> {
    raw.into_iter()
        .map(|(name, raw)| {
            if !is_domain(&name) {
                return Err(Failure::config(format!("{key} has the name {name:?}"))
                    .next("write the first label of the host, such as docs, or a whole host"));
            }
            upstream(&raw.upstream).map_err(|next| {
                Failure::config(format!("{key}.{name} is {:?}", raw.upstream)).next(next)
            })?;
            let route = control::Route {
                upstream: raw.upstream,
                preserve_host: raw.preserve_host,
            };
            Ok((name, route))
        })
        .collect()
}

/// `scheme://host:port` and nothing after it; the proxy says the same of its own file.
fn upstream(text: &str) -> Result<(), &'static str> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"))
        .ok_or("begin with http:// or https://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err("write scheme://host:port without a path: the caller's path is passed on");
    }
    if authority.contains('@') {
        return Err("take user and password out: this file holds no secret");
    }
    let (host, port) = authority
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && !host.ends_with(':'))
        .ok_or("add the port: scheme://host:port")?;
    if port.parse::<u16>().ok().is_none_or(|port| port == 0) {
        return Err("write a port from 1 to 65535");
    }
    let bracketed = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(address) if address.parse::<std::net::Ipv6Addr>().is_ok() => Ok(()),
        None if host.parse::<IpAddr>().is_ok() || is_host(host) => Ok(()),
        _ => Err("write a host name or an address, IPv6 in brackets"),
    }
}

fn store(key: &str, text: Option<String>) -> Result<PathBuf, Failure> {
    let text = text.ok_or_else(|| missing(key).next("write store: dir:/var/lib/keyward/NAME"))?;
    let path = text.strip_prefix("dir:").ok_or_else(|| {
        Failure::config(format!("{key} is {text:?}"))
            .next("write dir: and an absolute path; this build knows no other store")
    })?;
    absolute(key, Some(PathBuf::from(path)), "")
}

fn absolute(key: &str, path: Option<PathBuf>, default: &str) -> Result<PathBuf, Failure> {
    let path = path.unwrap_or_else(|| PathBuf::from(default));
    if path.is_absolute() {
        return Ok(path);
    }
    Err(
        Failure::config(format!("{key} is {:?}", path.display().to_string()))
            .next("write an absolute path: where the daemon is started from must not matter"),
    )
}

fn health(listen_addr: Option<&str>) -> Result<HealthListener, Failure> {
    let text = listen_addr.unwrap_or(DEFAULT_HEALTH);
    let addr = text.parse().map_err(|_| {
        Failure::config(format!("health.listen_addr is {text:?}"))
            .next("write an address and a port, such as 127.0.0.1:9463 or [::1]:9463")
    })?;
    Ok(HealthListener {
        explicit: listen_addr.is_some(),
        addr,
    })
}

fn group(text: String) -> Result<Group, Failure> {
    if text.is_empty() || text.contains(':') {
        return Err(Failure::config(format!("control.group is {text:?}"))
            .next("write the name or the number of a group"));
    }
    Ok(text.parse().map_or(Group::Name(text), Group::Id))
}

/// A proxy knows its tunnel by the domain that a caller names.
fn distinct_domains(config: &Config) -> Result<(), Failure> {
    let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, tunnel) in &config.tunnels {
        if let Some(other) = seen.insert(&tunnel.domain, name) {
            return Err(Failure::config(format!(
                "tunnels.{other}.domain and tunnels.{name}.domain are both {}",
                tunnel.domain
            ))
            .next("give each tunnel the domain that its provider shows for it"));
        }
    }
    Ok(())
}

pub(super) fn missing(key: &str) -> Failure {
    Failure::config(format!("{key} is missing"))
}

/// One label of a DNS name in lower case (RFC 1123 §2.1).
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// A DNS name in lower case, without a final dot, that no parser takes for an IPv4 address.
fn is_domain(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(is_label)
        && name
            .rsplit('.')
            .next()
            .is_some_and(|last| !last.bytes().all(|byte| byte.is_ascii_digit()))
}

/// As [`is_domain`], and the underscores that container networks put into host names.
fn is_host(host: &str) -> bool {
    is_domain(&host.to_ascii_lowercase().replace('_', "-"))
}

fn is_name(name: &str) -> bool {
    is_domain(name.strip_prefix("*.").unwrap_or(name)) || name.parse::<IpAddr>().is_ok()
}
