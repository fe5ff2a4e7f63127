//! Shared secrets, of which the edge knows the digest only. *Ours.*

use serde::{Deserialize, Serialize};

use crate::{Enforced, Timestamp};

/// `POST /v1/tunnels/{id}/secrets`; the same digest again gives the same object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateSecret {
    /// Lower-case hexadecimal SHA-256 of the value, which is 256 random bits.
    pub sha256: String,
}

/// A shared secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// `tsec_…`.
    pub id: String,
    /// Always `tunnel_secret`.
    pub r#type: String,
    /// `tnl_…`.
    pub tunnel_id: String,
    /// As it was given.
    pub sha256: String,
    /// When it was added.
    pub created_at: Timestamp,
    /// When it was archived: from then on it opens nothing.
    pub archived_at: Option<Timestamp>,
    /// When a connection was last bound to it.
    pub last_used_at: Option<Timestamp>,
    /// Connections bound to it now, on every edge.
    pub live: Vec<LiveConnection>,
    /// Answers to a change: how far it has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
}

/// One connection of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveConnection {
    /// Which proxy, as it calls itself.
    pub replica: String,
    /// Where it dialled from.
    pub address: String,
    /// Which edge it is connected to.
    pub instance: String,
}
