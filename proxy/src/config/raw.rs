//! What the file says, before it is known to make sense: every key optional, unknown keys refused.
//!
//! The stock proxy's keys and ours in one place; [`parse`] is pure and takes any text.

mod routes;

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

use super::ConfigError;
use super::edge::RawEdge;
use routes::UNFIT;

pub(super) use routes::RawRoutes;

/// Every key, with its sections, for the hint at a misspelt one.
pub(super) const KEYS: [&str; 50] = [
    "carriers",
    "carriers.edge",
    "carriers.edge.addresses",
    "carriers.edge.allow_without_client_certificate",
    "carriers.edge.ca_file",
    "carriers.edge.connections",
    "carriers.edge.forward_proxy",
    "carriers.edge.forward_proxy.credentials_file",
    "carriers.edge.forward_proxy.url",
    "carriers.edge.pin",
    "carriers.edge.replica",
    "carriers.edge.secret_file",
    "carriers.edge.tunnel",
    "carriers.edge.url",
    "carriers.tls",
    "carriers.tls.listen_addr",
    "carriers.tls.proxy_protocol",
    "control",
    "control.daemon_uid",
    "control.replica",
    "control.socket",
    "control.tunnels",
    "health",
    "health.listen_addr",
    "limits",
    "limits.concurrent_streams",
    "limits.connect_timeout",
    "limits.connections",
    "limits.drain",
    "limits.handshake_timeout",
    "limits.idle_comment",
    "limits.idle_timeout",
    "limits.pending_handshakes",
    "limits.swap_grace",
    "limits.upstream_idle",
    "limits.upstream_idle_connections",
    "listen_addr",
    "log_level",
    "routes",
    "shutdown_timeout",
    "tls",
    "tls.cert_file",
    "tls.client_ca",
    "tls.key_file",
    "tunnel_domain",
    "upstream",
    "upstream.allowed_ips",
    "upstream.disable_ip_validation",
    "upstream.tls.ca_file",
    "upstream.tls.include_system_cas",
];

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raw {
    pub(super) listen_addr: Option<Scalar>,
    pub(super) log_level: Option<Scalar>,
    pub(super) shutdown_timeout: Option<Scalar>,
    pub(super) tunnel_domain: Option<String>,
    pub(super) tls: Option<RawTls>,
    pub(super) routes: Option<RawRoutes>,
    pub(super) upstream: Option<RawUpstream>,
    pub(super) carriers: Option<RawCarriers>,
    pub(super) control: Option<RawControl>,
    pub(super) health: Option<RawHealth>,
    pub(super) limits: Option<RawLimits>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    #[serde(default, deserialize_with = "empty_or_text")]
    pub(super) client_ca: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) allowed_ips: Option<Vec<Scalar>>,
    pub(super) disable_ip_validation: Option<bool>,
    pub(super) tls: Option<RawUpstreamTls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstreamTls {
    pub(super) ca_file: Option<String>,
    pub(super) include_system_cas: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCarriers {
    pub(super) edge: Option<RawEdge>,
    pub(super) tls: Option<RawTlsCarrier>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTlsCarrier {
    pub(super) listen_addr: Option<Scalar>,
    pub(super) proxy_protocol: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawControl {
    pub(super) socket: Option<String>,
    pub(super) daemon_uid: Option<u32>,
    pub(super) tunnels: Option<Vec<String>>,
    pub(super) replica: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub(super) listen_addr: Option<Scalar>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) handshake_timeout: Option<Scalar>,
    pub(super) pending_handshakes: Option<usize>,
    pub(super) connections: Option<usize>,
    pub(super) swap_grace: Option<Scalar>,
    pub(super) drain: Option<Scalar>,
    pub(super) idle_comment: Option<Scalar>,
    pub(super) idle_timeout: Option<Scalar>,
    pub(super) connect_timeout: Option<Scalar>,
    pub(super) concurrent_streams: Option<u32>,
    pub(super) upstream_idle: Option<Scalar>,
    pub(super) upstream_idle_connections: Option<usize>,
}

/// For a key whose absence is the weaker choice: with nothing behind it, it is empty and not absent.
pub(super) fn empty_or_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer)
        .map(Option::unwrap_or_default)
        .map(Some)
}

/// Any scalar as text, so that `shutdown_timeout: 30` is refused for its missing unit and not for
/// being a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scalar(pub(super) String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;
        impl Visitor<'_> for AnyScalar {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.to_string()))
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}

/// Reads a configuration file. Pure, for any text: what it means is decided afterwards.
///
/// # Errors
///
/// Not YAML, an unknown key, a key given twice, or a value of the wrong shape.
pub fn parse(text: &str) -> Result<Raw, ConfigError> {
    // An empty file is no YAML mapping, but says something: nothing.
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options::<Option<Raw>>(text, options)
        .map(Option::unwrap_or_default)
        .map_err(|error| refusal(&error))
}

fn refusal(error: &serde_saphyr::Error) -> ConfigError {
    let line = error.location().map_or(0, |location| location.line());
    match error.without_snippet() {
        serde_saphyr::Error::SerdeUnknownField {
            field, expected, ..
        } => ConfigError::UnknownKey {
            key: field.clone(),
            line,
            nearest: nearest(field, expected),
        },
        serde_saphyr::Error::DuplicateMappingKey { key, .. } => ConfigError::TwiceTheKey {
            key: key.clone().unwrap_or_default(),
            line,
        },
        serde_saphyr::Error::Message { msg, .. } if msg.starts_with(UNFIT) => {
            ConfigError::RoutesShape {
                detail: msg.clone(),
                line,
            }
        }
        other => ConfigError::Syntax {
            detail: other.to_string(),
        },
    }
}

/// The known key that `key` was most likely meant to be: one of its own section, unless one of
/// another section is nearer and at least half of it.
fn nearest(key: &str, section: &[&'static str]) -> &'static str {
    let distance = |known: &str| distance(key, known.rsplit('.').next().unwrap_or(known));
    let near = section.iter().copied().min_by_key(|known| distance(known));
    let far = KEYS.into_iter().min_by_key(|known| distance(known));
    match (near, far) {
        (Some(near), Some(far))
            if distance(near) <= distance(far) || distance(far) * 2 > key.chars().count() =>
        {
            near
        }
        (_, Some(far)) => far,
        (near, None) => near.unwrap_or_default(),
    }
}

/// Levenshtein's distance: insertions, deletions and replacements of one character.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, a) in from.chars().enumerate() {
        let (mut diagonal, mut left) = (line, line + 1);
        for (cell, b) in row.iter_mut().skip(1).zip(&to) {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = *cell;
            left = replaced.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = line + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_textbook() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
        assert_eq!(distance("routes", "routes"), 0);
    }

    #[test]
    fn a_key_of_another_section_is_named_with_its_section() {
        assert_eq!(nearest("cert_file", &["listen_addr"]), "tls.cert_file");
        assert_eq!(
            nearest("listen_adr", &["listen_addr", "routes"]),
            "listen_addr"
        );
    }

    #[test]
    fn an_empty_file_is_an_empty_configuration() {
        for text in ["", "# nothing\n", "---\n", "{}"] {
            let raw = parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
            assert!(raw.routes.is_none());
        }
    }
}
