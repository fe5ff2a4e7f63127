//! CA certificates that are registered for a tunnel.

use serde::{Deserialize, Serialize};

use crate::{Enforced, Timestamp};

/// `POST /v1/tunnels/{id}/certificates`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateCertificate {
    /// One CA certificate, PEM, at most 8 kB, no key beside it.
    pub ca_certificate_pem: String,
}

/// A registered CA certificate; the PEM text is not given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// `tcrt_…`.
    pub id: String,
    /// Always `tunnel_certificate`.
    pub r#type: String,
    /// `tnl_…`.
    pub tunnel_id: String,
    /// SHA-256 of the DER, lower-case hexadecimal.
    pub fingerprint: String,
    /// Its last second.
    pub expires_at: Timestamp,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// Answers to a change: how far it has come. *Ours.*
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
}
