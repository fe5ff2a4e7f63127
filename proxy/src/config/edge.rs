//! `carriers.edge`: the edge that this proxy dials.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::build::{host_name, not_empty};
use super::raw::empty_or_text;
use super::{ConfigError, ControlSource};

/// Connections to each instance when the file does not say: one may break, and nobody notices.
const CONNECTIONS: usize = 2;
/// More would only be more to keep alive.
const MOST_CONNECTIONS: usize = 16;

/// The carrier `edge`.
#[derive(Clone, Debug)]
pub struct EdgeCarrier {
    /// `api.EDGE`, as its certificate names it.
    pub host: String,
    /// 443 unless the URL says otherwise.
    pub port: u16,
    /// Where it is dialled; empty: wherever its name leads.
    pub addresses: Vec<SocketAddr>,
    /// PEM certificates that its certificate must chain to. Neither this nor a pin: the system's.
    pub ca_file: Option<PathBuf>,
    /// SHA-256 of the key (`SubjectPublicKeyInfo`) of the CA that its certificate must chain to.
    pub pin: Option<[u8; 32]>,
    /// `tnl_…`.
    pub tunnel: String,
    /// Where the shared secret or tunnel token comes from.
    pub secret: SecretSource,
    /// Name of this replica; default: the host's name.
    pub replica: String,
    /// Connections to each instance of the edge.
    pub connections: usize,
    /// Stands between us and the edge.
    pub forward_proxy: Option<ForwardProxy>,
    /// The switch that turns mutual inner TLS off.
    pub allow_without_client_certificate: bool,
}

/// Where the carrier's credential comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// A file, watched. Where there is one the daemon is not asked: whoever wrote it down means it, and of two
    /// sources nobody could say which one is newer.
    File(PathBuf),
    /// The daemon, over the control channel, for the tunnel that it calls by this name.
    Daemon(String),
}

/// An HTTP proxy that is asked for CONNECT.
#[derive(Clone, Debug)]
pub struct ForwardProxy {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `user:password`, for `Proxy-Authorization: Basic`; read at each dial.
    pub credentials_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEdge {
    url: Option<String>,
    addresses: Option<Vec<String>>,
    #[serde(default, deserialize_with = "empty_or_text")]
    ca_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "empty_or_text")]
    pin: Option<String>,
    tunnel: Option<String>,
    #[serde(default, deserialize_with = "empty_or_text")]
    secret_file: Option<PathBuf>,
    replica: Option<String>,
    connections: Option<usize>,
    forward_proxy: Option<RawForward>,
    allow_without_client_certificate: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawForward {
    url: Option<String>,
    credentials_file: Option<PathBuf>,
}

pub(super) fn build(
    raw: RawEdge,
    control: Option<&ControlSource>,
) -> Result<EdgeCarrier, ConfigError> {
    let (host, port) = authority("carriers.edge.url", raw.url.as_deref(), "https", 443)?;
    let addresses = raw.addresses.unwrap_or_default();
    let addresses = addresses.into_iter().map(|text| {
        text.parse().map_err(|_| ConfigError::Value {
            key: "carriers.edge.addresses",
            value: text,
            reason: "is no address",
            next: "write IP:PORT, for instance \"192.0.2.1:443\"",
        })
    });
    if let Some(path) = &raw.ca_file {
        not_empty("carriers.edge.ca_file", path)?;
    }
    let connections = raw.connections.unwrap_or(CONNECTIONS);
    if connections == 0 || connections > MOST_CONNECTIONS {
        return Err(ConfigError::Value {
            key: "carriers.edge.connections",
            value: connections.to_string(),
            reason: "is out of range",
            next: "write a number from 1 to 16",
        });
    }
    let forward_proxy = raw.forward_proxy.map(|raw| {
        let key = "carriers.edge.forward_proxy.url";
        let (host, port) = authority(key, raw.url.as_deref(), "http", 80)?;
        Ok::<_, ConfigError>(ForwardProxy {
            host,
            port,
            credentials_file: raw.credentials_file,
        })
    });
    Ok(EdgeCarrier {
        host,
        port,
        addresses: addresses.collect::<Result<_, _>>()?,
        ca_file: raw.ca_file,
        pin: raw.pin.map(pin).transpose()?,
        tunnel: raw.tunnel.ok_or(ConfigError::Missing {
            key: "carriers.edge.tunnel",
            next: "write the tunnel's id, tnl_...",
        })?,
        secret: secret(raw.secret_file, control)?,
        replica: raw.replica.unwrap_or_else(host_name),
        connections,
        forward_proxy: forward_proxy.transpose()?,
        allow_without_client_certificate: raw.allow_without_client_certificate.unwrap_or_default(),
    })
}

fn secret(
    file: Option<PathBuf>,
    control: Option<&ControlSource>,
) -> Result<SecretSource, ConfigError> {
    if let Some(path) = file {
        not_empty("carriers.edge.secret_file", &path)?;
        return Ok(SecretSource::File(path));
    }
    // The edge's id of a tunnel says nothing to a daemon that has never asked an edge, so its own name is needed.
    let control = control.ok_or(ConfigError::NoSecretSource)?;
    match control.tunnels.as_slice() {
        [name] => Ok(SecretSource::Daemon(name.clone())),
        _ => Err(ConfigError::Missing {
            key: "carriers.edge.secret_file",
            next: "write the one tunnel whose secret the daemon is to send into control.tunnels, as the daemon \
                   calls it, or the path of the file that holds the shared secret",
        }),
    }
}

impl ForwardProxy {
    /// What `HTTPS_PROXY` and `NO_PROXY`, or their names in lower case, say about `host`. Credentials are
    /// taken from a file alone, so a URL with some is refused.
    ///
    /// # Errors
    ///
    /// A URL that is none.
    pub(crate) fn from_environment(host: &str) -> Result<Option<Self>, ConfigError> {
        let variable = |name: &str| {
            let lower = name.to_ascii_lowercase();
            let value = std::env::var(lower).or_else(|_| std::env::var(name));
            value.ok().filter(|value| !value.is_empty())
        };
        let (url, except) = (variable("HTTPS_PROXY"), variable("NO_PROXY"));
        Self::for_host(url.as_deref(), except.as_deref().unwrap_or_default(), host)
    }

    fn for_host(url: Option<&str>, except: &str, host: &str) -> Result<Option<Self>, ConfigError> {
        let excepted = except.split(',').map(str::trim).any(|name| {
            let name = name.trim_start_matches('.');
            let under = host.strip_suffix(name);
            !name.is_empty()
                && (name == "*" || under.is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
        });
        let Some(url) = url.filter(|_| !excepted) else {
            return Ok(None);
        };
        let (host, port) = authority("HTTPS_PROXY", Some(url), "http", 80)?;
        Ok(Some(Self {
            host,
            port,
            credentials_file: None,
        }))
    }
}

fn authority(
    key: &'static str,
    url: Option<&str>,
    scheme: &'static str,
    port: u16,
) -> Result<(String, u16), ConfigError> {
    const NEXT: &str = "write scheme://host or scheme://host:port, \
         for instance https://api.edge.example, or http://proxy.example:3128 for a forward proxy";
    let url = url.ok_or(ConfigError::Missing { key, next: NEXT })?;
    let bad = |reason| ConfigError::Value {
        key,
        // What stands before an @ is a password, wherever a wrong URL has it.
        value: (if url.contains('@') { "…@…" } else { url }).to_owned(),
        reason,
        next: NEXT,
    };
    let parsed: http::Uri = url.parse().map_err(|_| bad("is no URL"))?;
    if parsed.scheme_str() != Some(scheme) {
        return Err(bad("has another scheme"));
    }
    let plain = parsed
        .authority()
        .is_some_and(|name| !name.as_str().contains('@'));
    let bare = parsed.path_and_query().is_none_or(|path| path == "/");
    match parsed.host() {
        Some(host) if plain && bare => {
            Ok((host.to_ascii_lowercase(), parsed.port_u16().unwrap_or(port)))
        }
        _ => Err(bad("is more than scheme, host and port")),
    }
}

fn pin(text: String) -> Result<[u8; 32], ConfigError> {
    let digits = text.strip_prefix("sha256:").unwrap_or(&text);
    let octet = |place: usize| {
        let pair = digits.get(2 * place..2 * place + 2)?;
        // A sign is read as well.
        let plain = pair.bytes().all(|byte| byte.is_ascii_hexdigit());
        u8::from_str_radix(pair, 16).ok().filter(|_| plain)
    };
    let octets: Option<Vec<u8>> = (0..32).map(octet).collect();
    let whole = octets.filter(|_| digits.len() == 64);
    whole
        .and_then(|octets| octets.try_into().ok())
        .ok_or(ConfigError::Value {
            key: "carriers.edge.pin",
            value: text,
            reason: "is no SHA-256",
            next: "write sha256: and 64 hexadecimal digits",
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_sixty_four_digits() {
        let good = "0f".repeat(32);
        assert_eq!(pin(format!("sha256:{good}")).unwrap(), [15; 32]);
        for wrong in ["+f".repeat(32), good[2..].to_owned(), format!("{good}0f")] {
            assert!(pin(wrong.clone()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_environments_forward_proxy_is_used_unless_the_edge_is_excepted() {
        let url = Some("http://proxy.corp:3128");
        let used = |except| {
            let found = ForwardProxy::for_host(url, except, "api.edge.example").unwrap();
            found.is_some_and(|proxy| proxy.host == "proxy.corp" && proxy.port == 3128)
        };
        for except in ["", "example.com", "pi.edge.example", "other.edge.example,x"] {
            assert!(used(except), "{except}");
        }
        for except in ["api.edge.example", ".edge.example", "x, edge.example", "*"] {
            assert!(!used(except), "{except}");
        }
        for url in [
            "http://user:canary@proxy.corp",
            "user:canary@[",
            "socks5://user:canary@x:1",
        ] {
            let error = ForwardProxy::for_host(Some(url), "", "api.edge.example").unwrap_err();
            assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
        }
        let none = ForwardProxy::for_host(None, "", "api.edge.example").unwrap();
        assert!(none.is_none());
    }
}
