//! Tunnels and their tokens.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Enforced, Timestamp};

/// `POST /v1/tunnels`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateTunnel {
    /// 1 to 255 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// `tnl_…`.
    pub id: String,
    /// Always `tunnel`.
    pub r#type: String,
    /// For a person.
    pub display_name: Option<String>,
    /// `<tunnel-domain>`; routes stand before it.
    pub domain: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was archived, for good.
    pub archived_at: Option<Timestamp>,
    /// When it was suspended, until it is resumed. *Ours.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspended_at: Option<Timestamp>,
    /// Answers to a change: how far it has come. *Ours.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
}

/// `POST …/rotate_token`; an empty body will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RotateToken {
    /// For the audit log, at most 1000 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Absent: the old token opens nothing new, and what is connected stays. Given: the old token goes
    /// on for so many seconds (0 to 604800), then everything bound to it is cut. *Ours.*
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cut_old_after_seconds: Option<u64>,
}

/// Body of `archive`, `suspend`, `resume` and `reveal_token`; an empty one will do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Reason {
    /// For the audit log, at most 1000 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What `reveal_token` and `rotate_token` answer.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// `ttok_…`; another after each rotation.
    pub id: String,
    /// Always `tunnel_token`.
    pub r#type: String,
    /// The value.
    pub tunnel_token: String,
    /// Answers to a change: how far it has come. *Ours.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}
