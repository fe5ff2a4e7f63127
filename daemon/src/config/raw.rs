//! What the file says, field by field; nothing here is checked beyond its YAML type.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use process::Failure;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) state: Option<PathBuf>,
    pub(super) log_level: Option<String>,
    pub(super) control: RawControl,
    pub(super) operator: RawOperator,
    pub(super) health: RawHealth,
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
pub(super) struct RawTunnel {
    pub(super) provider: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) store: Option<String>,
    pub(super) serve_dir: Option<PathBuf>,
    pub(super) server_certificate: RawServerCertificate,
    pub(super) ca: RawAuthority,
    pub(super) client_ca: Option<RawAuthority>,
    pub(super) routes: Option<BTreeMap<String, RawRoute>>,
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
    pub(super) algorithm: Option<String>,
    pub(super) constrained: bool,
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
    serde_saphyr::from_str(text).map_err(|error| refusal(&error, path))
}

/// One line that names the place, without quoting the file's content around it.
fn refusal(error: &serde_saphyr::Error, path: &str) -> Failure {
    let place = match error.location() {
        Some(at) => format!("{path}:{}:{}", at.line(), at.column()),
        None => path.to_owned(),
    };
    let serde_saphyr::Error::SerdeUnknownField {
        field, expected, ..
    } = error.without_snippet()
    else {
        return Failure::config(format!("{place}: cannot be read"))
            .cause(error.without_snippet().to_string())
            .next("correct that line; docs/config.md has every key and what it takes");
    };
    let failure = Failure::config(format!("{place}: unknown key {field:?}"));
    match nearest(field, expected) {
        Some(known) => failure.next(format!("did you mean {known:?}?")),
        None => failure.next(format!("known keys here: {}", expected.join(", "))),
    }
}

/// The known key that most likely was meant; none if every one differs in more than a third of its letters.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(key.len()) / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("lifetme", "lifetime", 1),
            ("same", "same", 0),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }
}
