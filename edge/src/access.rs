//! Who may call a tunnel: client certificates, addresses, networks, limits. Deny by default.
//!
//! Pure: whoever asks brings the certificate, the address and the time. Dates, chain and denial are
//! verified at each call ([`Access::admit`]), because the handshake in front proves possession of a key
//! and nothing else.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore};
use thiserror::Error;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;

/// What `PUT /v1/tunnels/{id}/access` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessSettings {
    /// DER, at most two. Not empty: a client certificate under one of them is required.
    pub client_ca_certificates: Vec<CertificateDer<'static>>,
    /// DNS names and URIs (SPIFFE IDs) of certificates that may call; a `*` at the end stands for anything.
    /// Empty: everybody under those CAs.
    pub clients: Vec<String>,
    /// Client certificates that are refused, as lower-case hexadecimal SHA-256 of the DER.
    pub denied: BTreeSet<String>,
    /// Source networks that may call. Empty: every network, if there are client CAs; else none.
    pub cidrs: Vec<IpNet>,
    /// Autonomous systems that may call. Empty: all.
    pub asns: BTreeSet<u32>,
    /// How much.
    pub limits: Limits,
}

/// How much one caller may do: for each client certificate, else for each source address (IPv6: /64).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streams open at once.
    pub streams: u32,
    /// Streams opened a minute, over time; as many as [`streams`](Self::streams) at once.
    pub connections_per_minute: u32,
}

impl Limits {
    /// As many as browsers and SDKs hold at once, with room.
    pub const STREAMS: u32 = 128;
    /// Fifty a second: a client that reconnects for each call, and not one that floods.
    pub const CONNECTIONS_PER_MINUTE: u32 = 3000;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: Self::STREAMS,
            connections_per_minute: Self::CONNECTIONS_PER_MINUTE,
        }
    }
}

/// [`AccessSettings`], ready to be asked. `Default` lets nobody in.
#[derive(Clone, Default)]
pub struct Access {
    settings: AccessSettings,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
}

/// The client CA certificates cannot be used.
#[derive(Debug, Error)]
#[error("a client CA certificate cannot be used")]
pub struct BadClientCa(#[source] rustls::Error);

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// Where from.
    pub address: IpAddr,
    /// Its autonomous system, where known.
    pub asn: Option<u32>,
    /// What it proved possession of, its own certificate first. Empty on passthrough.
    pub certificates: &'a [CertificateDer<'static>],
}

/// Why a caller is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denial {
    /// Nobody was let in yet.
    #[error("nobody may call this tunnel yet")]
    Closed,
    /// A certificate is required, and passthrough cannot carry one.
    #[error("this tunnel takes calls with a client certificate alone")]
    CertificateRequired,
    /// The certificate is not under a client CA of this tunnel.
    #[error("the client certificate is not under a client CA of this tunnel")]
    UnknownCa,
    /// Its last second is over.
    #[error("the client certificate has expired")]
    Expired,
    /// Its first second is to come.
    #[error("the client certificate is not yet valid")]
    NotYetValid,
    /// It is no usable client certificate.
    #[error("the client certificate cannot be used")]
    BadCertificate,
    /// It is on the list of those refused.
    #[error("the client certificate is denied")]
    Denied,
    /// Its names are not on the list.
    #[error("the client certificate names nobody who may call this tunnel")]
    NotListed,
    /// The address is in no network on the list.
    #[error("the source address may not call this tunnel")]
    Address,
    /// The autonomous system is not on the list, or not known.
    #[error("the source network may not call this tunnel")]
    Network,
    /// Too many streams at once, or too many in too little time.
    #[error("too many streams of this caller")]
    TooMany,
}

impl Denial {
    /// For logs and error bodies: one word of a closed list.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::CertificateRequired => "certificate_required",
            Self::UnknownCa => "unknown_ca",
            Self::Expired => "certificate_expired",
            Self::NotYetValid => "certificate_not_yet_valid",
            Self::BadCertificate => "bad_certificate",
            Self::Denied => "certificate_denied",
            Self::NotListed => "client_not_listed",
            Self::Address => "address",
            Self::Network => "network",
            Self::TooMany => "too_many",
        }
    }
}

impl Access {
    /// Compiles what was set.
    ///
    /// # Errors
    ///
    /// A client CA certificate that is none.
    pub fn new(settings: AccessSettings) -> Result<Self, BadClientCa> {
        let verifier = match settings.client_ca_certificates.as_slice() {
            [] => None,
            certificates => Some(verifier(certificates)?),
        };
        Ok(Self { settings, verifier })
    }

    /// What was set.
    pub fn settings(&self) -> &AccessSettings {
        &self.settings
    }

    /// Whether both let the same callers in.
    pub fn is_same(one: &Self, other: &Self) -> bool {
        one.settings == other.settings
    }

    /// How much one caller may do.
    pub fn limits(&self) -> Limits {
        self.settings.limits
    }

    /// Whether nobody may call at all.
    pub fn is_closed(&self) -> bool {
        self.verifier.is_none() && self.settings.cidrs.is_empty()
    }

    /// Whether anybody may call, from wherever, without a client certificate.
    pub fn is_open(&self) -> bool {
        let all = |net: &IpNet| net.prefix_len() == 0;
        self.verifier.is_none()
            && self.settings.asns.is_empty()
            && IpNet::aggregate(&self.settings.cidrs).iter().any(all)
    }

    /// Whether a client certificate is required, so that passthrough is refused.
    pub fn has_client_rules(&self) -> bool {
        self.verifier.is_some()
    }

    /// Whether `caller` may call at `now`, its limits aside.
    ///
    /// # Errors
    ///
    /// Why not: the first of network, certificate, name.
    pub fn admit(&self, caller: &Caller<'_>, now: SystemTime) -> Result<(), Denial> {
        let settings = &self.settings;
        if self.is_closed() {
            return Err(Denial::Closed);
        }
        let address = caller.address.to_canonical();
        if !settings.cidrs.is_empty() && !settings.cidrs.iter().any(|net| net.contains(&address)) {
            return Err(Denial::Address);
        }
        if !settings.asns.is_empty() && caller.asn.is_none_or(|asn| !settings.asns.contains(&asn)) {
            return Err(Denial::Network);
        }
        match &self.verifier {
            Some(verifier) => self.certificate(verifier.as_ref(), caller.certificates, now),
            None => Ok(()),
        }
    }

    fn certificate(
        &self,
        verifier: &dyn ClientCertVerifier,
        certificates: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<(), Denial> {
        let (leaf, others) = certificates
            .split_first()
            .ok_or(Denial::CertificateRequired)?;
        let denied = &self.settings.denied;
        if !denied.is_empty() && fingerprints(leaf).any(|shown| denied.contains(&shown)) {
            return Err(Denial::Denied);
        }
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
        verifier
            .verify_client_cert(leaf, others, now)
            .map_err(|error| verdict(&error))?;
        if self.settings.clients.is_empty() {
            return Ok(());
        }
        let certificate =
            pki::Certificate::from_der(leaf.to_vec()).map_err(|_| Denial::BadCertificate)?;
        let rules = || self.settings.clients.iter();
        let named = |name: &String| rules().any(|rule| matches(rule, name));
        let identified = |uri: &String| rules().any(|rule| matches_uri(rule, uri));
        if certificate.dns_names().iter().any(named) || certificate.uris().iter().any(identified) {
            Ok(())
        } else {
            Err(Denial::NotListed)
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Access").field(&self.settings).finish()
    }
}

/// Fingerprints under which the holder of a certificate can show it.
pub fn fingerprints(certificate: &CertificateDer<'_>) -> impl Iterator<Item = String> {
    let twin = process::twin(certificate).map(CertificateDer::from);
    let twin = twin.map(|twin| fingerprint(&twin));
    std::iter::once(fingerprint(certificate)).chain(twin)
}

/// Lower-case hexadecimal SHA-256 of a certificate.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    pki::Fingerprint::of(certificate).to_string()
}

fn verifier(
    certificates: &[CertificateDer<'static>],
) -> Result<Arc<dyn ClientCertVerifier>, BadClientCa> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate.clone()).map_err(BadClientCa)?;
    }
    let provider = Arc::new(default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| BadClientCa(rustls::Error::General(error.to_string())))
}

fn verdict(error: &rustls::Error) -> Denial {
    let rustls::Error::InvalidCertificate(error) = error else {
        return Denial::BadCertificate;
    };
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Denial::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            Denial::NotYetValid
        }
        // The latter: a certificate of another CA with the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Denial::UnknownCa,
        _ => Denial::BadCertificate,
    }
}

/// Whether `rule`, perhaps with a `*` at its end, means `name`.
fn matches(rule: &str, name: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(start) => name
            .get(..start.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(start)),
        None => rule.eq_ignore_ascii_case(name),
    }
}

/// Whether `rule`, perhaps with a `*` at its end, means `uri`. To the letter, because the path of a URI is;
/// and a rule for DNS names, which has no colon, means none but for the `*` that means everybody.
fn matches_uri(rule: &str, uri: &str) -> bool {
    match rule.strip_suffix('*') {
        Some("") => true,
        Some(start) => start.contains(':') && uri.starts_with(start),
        None => rule == uri,
    }
}

#[cfg(test)]
mod tests;
