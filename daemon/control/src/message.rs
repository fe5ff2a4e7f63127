//! What the two sides say to each other.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Secret;

/// Protocol version, written `"major.minor"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Changes when an old peer could misunderstand a message.
    pub major: u16,
    /// Changes when something was added that an old peer may ignore.
    pub minor: u16,
}

impl Version {
    /// What this build speaks.
    pub const CURRENT: Self = Self { major: 1, minor: 0 };

    /// Whether a peer that speaks `other` can be talked to: the same major version, any minor.
    pub fn accepts(self, other: Self) -> bool {
        self.major == other.major
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for Version {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.split_once('.')
            .and_then(|(major, minor)| {
                Some(Self {
                    major: major.parse().ok()?,
                    minor: minor.parse().ok()?,
                })
            })
            .ok_or_else(|| serde::de::Error::custom("a protocol version is written MAJOR.MINOR"))
    }
}

/// What a subscriber sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FromSubscriber {
    /// First line of a connection.
    Hello(Hello),
    /// A resource is in force.
    Ack(Ack),
    /// A resource was refused; the last good one stays in force.
    Nack(Nack),
    /// How things stand, at most once a second.
    Report(Report),
    /// The subscriber leaves on purpose, so that its silence is not mistaken for a failure.
    Bye(Bye),
    /// A kind of a newer minor version: ignored.
    #[serde(other)]
    Unknown,
}

/// What the daemon sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum FromDaemon {
    /// The subscription stands.
    Welcome(Welcome),
    /// The subscription is refused and the connection ends.
    Refused(Refused),
    /// What a proxy serves.
    Credential(Credential),
    /// What a proxy lets through.
    Policy(Policy),
    /// What a connector dials with, or a proxy that dials.
    Tunnel(Tunnel),
    /// A kind of a newer minor version: ignored.
    #[serde(other)]
    Unknown,
}

/// What kind of subscriber speaks; decides what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Ends inner TLS: gets `credential` and `policy`, and `tunnel` for what [`Hello::dials`] names.
    Proxy,
    /// Dials out: gets `tunnel`.
    Connector,
}

/// First line of a subscriber.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// What the subscriber speaks.
    pub protocol: Version,
    /// What it is.
    pub role: Role,
    /// The tunnels it serves. Empty: every tunnel that the daemon has.
    pub tunnels: Vec<String>,
    /// Name of this replica, stable over restarts.
    pub replica: String,
    /// Version, commit and target of the build.
    pub build: String,
    /// What it serves already, so that a restart of the daemon publishes nothing anew.
    #[serde(default)]
    pub serving: Vec<Serving>,
    /// The tunnels among [`tunnels`](Self::tunnels) whose edge this proxy dials with what the daemon sends: it
    /// gets their `tunnel`. Of a connector nobody asks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dials: Vec<String>,
}

/// One credential in force at a subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// The tunnel.
    pub tunnel: String,
    /// Its generation.
    pub generation: u64,
    /// Lower-case hexadecimal SHA-256 of the leaf's DER.
    pub leaf_sha256: String,
}

/// The subscription stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// What the daemon speaks.
    pub protocol: Version,
    /// The tunnels that will be sent.
    pub tunnels: Vec<String>,
}

/// The subscription is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// The same for a person, with what to do next.
    pub detail: String,
}

/// Why a subscription is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The subscriber speaks another major version.
    Protocol,
    /// The daemon has no such tunnel.
    UnknownTunnel,
    /// The first line was not a `hello`.
    Malformed,
    /// The peer may not subscribe.
    Permission,
    /// A newer subscription of the same name has taken over this one. Sent last, not first.
    Replaced,
    /// A reason of a newer minor version.
    #[serde(other)]
    Unknown,
}

/// The wire's word for a value of a closed list, for logs: who reads one finds it in the documents.
pub fn word<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

/// Certificate chain and private key: one object, published as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// PEM, the server certificate first.
    pub chain: String,
    /// PKCS#8 PEM.
    pub key: Secret,
    /// Unix seconds, UTC; the last second of the certificate.
    pub not_after: u64,
}

/// What a proxy serves for one tunnel. Replaces the earlier one as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Name of the tunnel in the daemon's configuration.
    pub tunnel: String,
    /// Counts up by each publication for this tunnel; never reused.
    pub generation: u64,
    /// `<tunnel-domain>`: the leaf covers `*.<tunnel-domain>`.
    pub tunnel_domain: String,
    /// Served to every handshake.
    pub leaf: Leaf,
    /// Served while nobody has accepted `leaf` yet and at least three peers said it is not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Leaf>,
    /// Share of the handshakes that get `leaf`, in per cent, the others get `fallback`. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_share: Option<u8>,
    /// PEM certificates that verifiers of this tunnel trust; `leaf` must chain to one of them.
    pub ca_certificates: Vec<String>,
    /// PEM certificates; not empty: a client certificate under one of them is required.
    #[serde(default)]
    pub client_ca_certificates: Vec<String>,
    /// Generations below this one are not served any more and their connections end.
    pub lowest: u64,
}

/// What a proxy lets through for one tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The tunnel.
    pub tunnel: String,
    /// Counts up by each publication for this tunnel.
    pub generation: u64,
    /// Route name to upstream. Absent: the proxy's own configuration has the routes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<BTreeMap<String, Route>>,
    /// Client certificates that are refused, as lower-case hexadecimal SHA-256 of the DER.
    #[serde(default)]
    pub denied: Vec<String>,
}

/// One upstream MCP server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// `scheme://host:port`.
    pub upstream: String,
    /// Send the caller's `Host` upstream instead of the upstream's authority.
    #[serde(default)]
    pub preserve_host: bool,
}

/// The file `manifest.json` that stands beside `tls.crt` and `tls.key` in a served directory: what a
/// proxy that starts without the daemon has to know besides the pair. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The tunnel.
    pub tunnel: String,
    /// `<tunnel-domain>`.
    pub tunnel_domain: String,
    /// Generation of the pair.
    pub generation: u64,
    /// A pair of a generation below this one is refused.
    pub lowest: u64,
    /// SHA-256 of the leaf that this manifest belongs to, lower-case hexadecimal.
    pub leaf_sha256: String,
    /// As in [`Credential`].
    pub ca_certificates: Vec<String>,
    /// As in [`Credential`].
    #[serde(default)]
    pub client_ca_certificates: Vec<String>,
    /// As sent over the channel.
    #[serde(default)]
    pub policy: Option<Policy>,
}

/// What a connector dials with, or a proxy that dials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The tunnel.
    pub tunnel: String,
    /// Counts up by each publication for this tunnel.
    pub generation: u64,
    /// The tunnel token; for a proxy also a shared secret of its edge.
    pub token: Secret,
}

/// Kinds of resource, each with generations of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// [`Credential`].
    Credential,
    /// [`Policy`].
    Policy,
    /// [`Tunnel`].
    Tunnel,
}

/// A resource is in force: every handshake from now on uses it, and every connection that a proxy has dialled stands
/// on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// What is acknowledged.
    pub resource: Resource,
    /// Of which tunnel.
    pub tunnel: String,
    /// In which generation.
    pub generation: u64,
    /// Lower-case hexadecimal SHA-256 of the leaf's DER, for a `credential`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaf_sha256: Option<String>,
}

/// A resource was refused; the last good one stays in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// What is refused.
    pub resource: Resource,
    /// Of which tunnel.
    pub tunnel: String,
    /// In which generation.
    pub generation: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a resource was refused. A closed list, so that it can label a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not PEM, not a certificate, not a key.
    Malformed,
    /// The key does not belong to the certificate.
    KeyMismatch,
    /// The leaf does not chain to `ca_certificates`.
    UnknownCa,
    /// The leaf's validity begins later.
    NotYetValid,
    /// The leaf's validity is over.
    Expired,
    /// The leaf does not cover `*.<tunnel_domain>`.
    WrongNames,
    /// The generation is not above the one in force, or below `lowest`.
    Stale,
    /// A route that cannot be used.
    BadRoute,
    /// The tunnel's edge does not accept the token.
    TokenRefused,
    /// A reason of a newer minor version.
    #[serde(other)]
    Unknown,
}

/// How things stand at a subscriber. Counters count from its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// One entry a tunnel.
    pub tunnels: Vec<TunnelReport>,
    /// Carriers that are up, by name.
    #[serde(default)]
    pub carriers: Vec<String>,
}

/// The report of one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TunnelReport {
    /// The tunnel.
    pub tunnel: String,
    /// Generation in force.
    pub generation: u64,
    /// SHA-256 of the leaf in force, lower-case hexadecimal.
    #[serde(default)]
    pub leaf_sha256: String,
    /// Handshakes completed, by SHA-256 of the leaf served: the current one and those before it that
    /// still have connections.
    #[serde(default)]
    pub handshakes: BTreeMap<String, u64>,
    /// Handshakes failed, by the name of the TLS alert received, or `io`, `timeout`, `other`.
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    /// What callers thought of the certificates of a CA, by SHA-256 of the CA certificate: the last
    /// [`TunnelReport::CAS`] that were served.
    #[serde(default)]
    pub verdicts: BTreeMap<String, Verdicts>,
    /// Live connections by generation.
    #[serde(default, deserialize_with = "numbered")]
    pub connections: BTreeMap<u64, u64>,
    /// Names of routes that the leaf does not cover.
    #[serde(default)]
    pub uncovered_routes: Vec<String>,
}

impl TunnelReport {
    /// CAs in `verdicts` at most: two that are trusted, and those before them.
    pub const CAS: usize = 4;
}

/// How handshakes in which certificates of one CA were shown ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Completed.
    pub accepted: u64,
    /// With an alert about the certificate.
    pub refused: u64,
}

/// JSON has only texts as keys, and serde does not read numbers out of them inside a tagged enum.
fn numbered<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<u64, u64>, D::Error> {
    let texts = BTreeMap::<String, u64>::deserialize(deserializer)?;
    let numbers = texts.into_iter().map(|(text, count)| {
        let number = text.parse().map_err(serde::de::Error::custom)?;
        Ok((number, count))
    });
    numbers.collect()
}

/// The subscriber leaves on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bye {
    /// Why, for a person.
    #[serde(default)]
    pub why: String,
}

#[cfg(test)]
mod tests;
