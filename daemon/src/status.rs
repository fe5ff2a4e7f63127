//! The state of the daemon as one documented, stable JSON object: `keyward status --json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rotation::slots::Grade;

mod credential;

pub(crate) use credential::seconds_left;
pub use credential::{
    By, CredentialStatus, NextRotation, Outage, RemoteSays, RemoteState, ReplicaSays,
};

/// Everything that may be known without being asked who one is. Times are Unix seconds, UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version, commit and target of the daemon.
    pub build: String,
    /// When it was made. 0: the daemon has not recovered its state yet, and the rest says nothing.
    pub at: u64,
    /// The wall clock disagrees with the boot clock: nothing destructive is done.
    pub time_suspect: bool,
    /// What ends first of all tunnels if nothing rotates any more.
    #[serde(default)]
    pub first_outage: Option<Outage>,
    /// By tunnel name.
    pub tunnels: BTreeMap<String, TunnelStatus>,
    /// By replica name.
    pub replicas: BTreeMap<String, ReplicaStatus>,
    /// The last 64, oldest first.
    pub operations: Vec<Operation>,
}

impl Status {
    /// Whether the daemon has not recovered its state yet.
    pub fn is_starting(&self) -> bool {
        self.at == 0
    }
}

/// One tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// `<tunnel-domain>`.
    pub domain: String,
    /// `static` or `tunnels_api`.
    pub provider: String,
    /// `builtin`, `cloudflared`, `external`.
    #[serde(default)]
    pub connector: String,
    /// Number of the published credential.
    pub generation: u64,
    /// Lowest generation that may still be served.
    pub lowest: u64,
    /// The certificate that proxies serve.
    pub server_certificate: Option<CertificateStatus>,
    /// Phase of its rotation, as in the design: `serving`, `keyed`, `signed`, `published` …
    pub phase: String,
    /// When the next renewal is due.
    pub renew_at: Option<u64>,
    /// The CA that signs.
    pub ca: Option<CertificateStatus>,
    /// The CA that will sign next; its PEM is what verifiers have to hold before `rotate ca`.
    pub standby_ca: Option<CertificateStatus>,
    /// The remote's slots for the CA and its successor, where the remote can be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_slots: Option<SlotsStatus>,
    /// The CA for client certificates, where mutual inner TLS is on.
    pub client_ca: Option<CertificateStatus>,
    /// What connectors dial with, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_token: Option<TokenStatus>,
    /// The CA key lies unsealed on the same disk.
    pub ca_key_unsealed: bool,
    /// What needs a person, one sentence each.
    pub alarms: Vec<String>,
    /// What proxies dial a `keyward-edge` with, where they do.
    #[serde(default)]
    pub shared_secret: Option<SharedSecretStatus>,
    /// Rotations done since the state was made.
    pub rotations: Rotations,
    /// Each credential: what the journal, the other side and each replica say of it.
    #[serde(default)]
    pub credentials: Vec<CredentialStatus>,
    /// What ends first if nothing rotates any more.
    #[serde(default)]
    pub first_outage: Option<Outage>,
}

/// Where the CAs of a tunnel are registered, and how far a rotation of them is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsStatus {
    /// Of two, as last listed. Absent: not asked yet.
    pub used: Option<usize>,
    /// `stable`, `registering`, `settling`, `switched`, `archiving`, `archived`, `rolling_back`.
    pub phase: String,
    /// When a phase of a rotation began.
    pub since: Option<u64>,
    /// How well it is known that callers take the new CA, by replica in service: `settled`, `observed`, `probed`. Absent: it
    /// does not sign yet.
    pub proof: BTreeMap<String, Option<Grade>>,
    /// Who decided that the CA before is archived without proof.
    pub accepted_by: Option<String>,
}

/// How many rotations are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotations {
    /// Of the server certificate.
    pub server_certificate: u64,
    /// Of the CA.
    pub ca: u64,
    /// Of the tunnel token, by this daemon.
    #[serde(default)]
    pub tunnel_token: u64,
    /// Of the shared secret: the old one is gone.
    #[serde(default)]
    pub shared_secret: u64,
}

/// The tunnel token, without its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// What the other side calls it, once that was asked.
    pub id: Option<String>,
    /// Number of the value that connectors are given; 0: there is none.
    pub generation: u64,
    /// `empty`, `stable`, `intent`, `rotating`, `distributing`, `archived`.
    pub phase: String,
    /// When the other side last said that it is in force, in Unix seconds.
    pub verified_at: Option<u64>,
    /// Rotations by somebody else that were adopted.
    pub foreign_rotations: u64,
}

/// The shared secret that proxies are told to use, without its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedSecretStatus {
    /// Of the rotation that made it.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the value, as the edge lists it.
    pub sha256: String,
    /// Number of its publication.
    pub generation: u64,
    /// When it was made.
    pub made_at: u64,
    /// Phase of its rotation, as in the design: `stable`, `made`, `published`, `quiet`, `archiving` …
    pub phase: String,
}

/// One certificate, without anything secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Lower-case hexadecimal SHA-256 of the DER.
    pub sha256: String,
    /// Lower-case hexadecimal serial number.
    pub serial: String,
    /// First second of validity.
    pub not_before: u64,
    /// Last second of validity.
    pub not_after: u64,
    /// PEM.
    pub pem: String,
}

/// One subscriber.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// `proxy` or `connector`.
    pub role: control::Role,
    /// Version, commit and target.
    pub build: String,
    /// A subscription stands.
    pub connected: bool,
    /// When it was last heard.
    pub last_heard: u64,
    /// Generation acknowledged, by tunnel.
    pub acked: BTreeMap<String, u64>,
    /// Last refusal, by tunnel.
    pub refused: BTreeMap<String, control::Reason>,
    /// Its last report.
    pub report: control::Report,
}

/// One order and how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// Name of the operation, unique for ever.
    pub id: String,
    /// `rotate server-certificate`, `rotate ca`, `rotate tunnel-token`, `issue-client`.
    pub what: String,
    /// The tunnel.
    pub tunnel: String,
    /// Who asked.
    pub actor: String,
    /// How far it is.
    pub state: OperationState,
    /// One sentence.
    pub detail: String,
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: Option<u64>,
    /// PEM of the certificate that was issued, where that was the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}

/// How far an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    /// Begun, not ended.
    Running,
    /// Ended as asked.
    Done,
    /// Ended otherwise; `detail` says why.
    Failed,
}
