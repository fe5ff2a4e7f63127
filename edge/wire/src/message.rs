//! What the two sides say to each other on the control stream.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What a proxy sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FromProxy {
    /// Binds this connection to another credential. Refused, it stays bound to the one before.
    Present {
        /// Counts up on a connection, from 1; 0 was the credential of the upgrade.
        seq: u64,
        /// As it would stand in `Authorization: Bearer`.
        credential: Value,
    },
    /// The proxy stops: no new streams, please; those that run may end.
    Draining,
    /// A kind of a newer version: ignored.
    #[serde(other)]
    Unknown,
}

/// What the edge sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FromEdge {
    /// The connection stands on this credential now.
    Bound {
        /// Of the `present` that it answers; 0: of the upgrade.
        seq: u64,
        /// Identifier of the credential; no secret.
        credential_id: String,
    },
    /// A `present` was refused.
    Refused {
        /// Of the `present` that it answers.
        seq: u64,
        /// Why.
        reason: Refused,
    },
    /// This connection ends then, whatever runs on it: time to make another one.
    CutAt {
        /// Unix seconds, UTC.
        time: u64,
    },
    /// How many instances of the edge there are.
    Instances {
        /// At least 1.
        count: u32,
    },
    /// A kind of a newer version: ignored.
    #[serde(other)]
    Unknown,
}

/// Why a `present` was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// The tunnel does not take this credential.
    Credential,
    /// The edge cannot decide now: try again later.
    Unavailable,
    /// A reason of a newer version.
    #[serde(other)]
    Unknown,
}

/// A credential in transit: erased when dropped, silent in `Debug`, without `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Zeroizing<String>);

impl Value {
    /// Wraps `value`; the caller's own copy, if it kept one, is the caller's to erase.
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The value itself. Named so that a reviewer can search for every place where a secret is read.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value(..)")
    }
}

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kinds_fields_and_reasons_are_ignored() {
        let kind = serde_json::from_str::<FromEdge>(r#"{"kind":"weather","x":{"y":2}}"#);
        assert_eq!(kind.unwrap(), FromEdge::Unknown);
        let field = r#"{"kind":"draining","until":"tomorrow"}"#;
        let read = serde_json::from_str::<FromProxy>(field).unwrap();
        assert_eq!(read, FromProxy::Draining);
        let reason = r#"{"kind":"refused","seq":3,"reason":"mood"}"#;
        let read = serde_json::from_str::<FromEdge>(reason).unwrap();
        let reason = Refused::Unknown;
        assert_eq!(read, FromEdge::Refused { seq: 3, reason });
    }

    #[test]
    fn no_credential_shows_in_debug() {
        let message = FromProxy::Present {
            seq: 1,
            credential: Value::new("canary".to_owned()),
        };
        assert!(!format!("{message:?}").contains("canary"));
    }
}
