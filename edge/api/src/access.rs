//! Who may call a tunnel. *Ours.*

use serde::{Deserialize, Serialize};

use crate::Enforced;

/// `GET` and `PUT /v1/tunnels/{id}/access`: everything at once, guarded by `If-Match`. Empty lists
/// let nobody in by that means.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// CAs of agents' certificates, one PEM text each, at most two.
    pub client_ca_certificates: Vec<String>,
    /// Which of their certificates: a DNS name, a URI, or a name ending in `*`; empty: all.
    pub clients: Vec<String>,
    /// Fingerprints that are refused although their chain holds: lower-case hexadecimal SHA-256.
    pub denied: Vec<String>,
    /// Source networks, IPv4 and IPv6.
    pub cidrs: Vec<String>,
    /// Source networks by number of the autonomous system.
    pub asns: Vec<u32>,
    /// What one caller may use.
    pub limits: Limits,
    /// Answers only: how far a change has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
}

/// Per client certificate, else per source address (IPv6: /64). Absent: the edge's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Streams open at once. Default 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<u32>,
    /// New connections a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_minute: Option<u32>,
}
