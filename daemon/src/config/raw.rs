//! What the file says, field by field; nothing here is checked beyond its YAML type.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use process::Failure;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::identity::RawIdentity;
use super::refusal::refusal;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) state: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    pub(super) control: RawControl,
    pub(super) operator: RawOperator,
    pub(super) health: RawHealth,
    pub(super) identity: Optional<RawIdentity>,
    pub(super) api: RawApi,
    pub(super) tunnels: BTreeMap<String, RawTunnel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawControl {
    pub(super) socket: Option<PathBuf>,
    pub(super) group: Option<String>,
    pub(super) subscribers: Option<Vec<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOperator {
    pub(super) socket: Option<PathBuf>,
    pub(super) operators: Option<Vec<u32>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawHealth {
    pub(super) listen_addr: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawApi {
    pub(super) url: Option<String>,
    pub(super) addresses: Vec<String>,
    pub(super) calls_per_minute: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTunnel {
    pub(super) provider: Option<String>,
    pub(super) tunnel_id: Option<String>,
    pub(super) connector: Option<String>,
    pub(super) restart: Optional<Vec<String>>,
    pub(super) domain: Option<String>,
    pub(super) store: Option<String>,
    pub(super) serve_dir: Optional<PathBuf>,
    pub(super) server_certificate: RawServerCertificate,
    pub(super) ca: RawAuthority,
    pub(super) client_ca: Optional<RawAuthority>,
    pub(super) routes: Optional<BTreeMap<String, RawRoute>>,
    pub(super) shared_secret: RawSharedSecret,
    pub(super) rotate: RawRotate,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRotate {
    pub(super) certificate: Option<String>,
    pub(super) ca: Option<String>,
    pub(super) token: Option<String>,
    pub(super) secret: Option<String>,
    pub(super) window: Option<String>,
    pub(super) freeze: Vec<String>,
    pub(super) timezone: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSharedSecret {
    pub(super) quiet: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawServerCertificate {
    pub(super) lifetime: Option<String>,
    pub(super) algorithm: Option<String>,
    pub(super) extra_names: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAuthority {
    pub(super) lifetime: Option<String>,
    pub(super) settle: Option<String>,
    pub(super) algorithm: Option<String>,
    pub(super) constrained: bool,
}

/// A key that turns something on by being there. Left empty, as by a template that was not filled in, it
/// says neither on nor off; `null` says off.
#[derive(Debug, Default)]
pub(super) enum Optional<T> {
    #[default]
    Absent,
    Empty,
    Given(T),
}

impl<T> Optional<T> {
    /// What was given.
    ///
    /// # Errors
    ///
    /// `key` is there and empty; `next` says what to write.
    pub(super) fn value(self, key: &str, next: &str) -> Result<Option<T>, Failure> {
        match self {
            Self::Given(value) => Ok(Some(value)),
            Self::Absent => Ok(None),
            Self::Empty => Err(Failure::config(format!("{key} is empty"))
                .cause("a key without a value says neither on nor off; null says off")
                .next(next)),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Optional<T> {
    /// YAML takes an empty place for `null` (1.2.2, 10.3.2): only its length tells the two apart.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = serde_saphyr::Spanned::<Option<T>>::deserialize(deserializer)?;
        Ok(match found.value {
            Some(value) => Self::Given(value),
            None if found.referenced.span().is_empty() => Self::Empty,
            None => Self::Absent,
        })
    }
}

/// `http://host:port`, or a table.
#[derive(Debug)]
pub(super) struct RawRoute {
    pub(super) upstream: String,
    pub(super) preserve_host: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRouteTable {
    upstream: String,
    #[serde(default)]
    preserve_host: bool,
}

impl<'de> Deserialize<'de> for RawRoute {
    /// By hand, because an untagged enum would hide which key is wrong.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Route;
        impl<'de> Visitor<'de> for Route {
            type Value = RawRoute;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an upstream such as http://127.0.0.1:8000")
            }

            fn visit_str<E>(self, upstream: &str) -> Result<RawRoute, E> {
                Ok(RawRoute {
                    upstream: upstream.to_owned(),
                    preserve_host: false,
                })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawRoute, A::Error> {
                let table = RawRouteTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RawRoute {
                    upstream: table.upstream,
                    preserve_host: table.preserve_host,
                })
            }
        }
        deserializer.deserialize_any(Route)
    }
}

/// Reads the file's text. `path` is for the message alone.
pub(super) fn parse(text: &str, path: &str) -> Result<RawConfig, Failure> {
    serde_saphyr::from_str(text).map_err(|error| refusal(&error, text, path))
}
