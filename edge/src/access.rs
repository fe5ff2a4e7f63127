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
        if self.verifier.is_none() && settings.cidrs.is_empty() {
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
mod tests {
    use std::time::Duration;

    use pki::{Algorithm, Authority, AuthorityProfile, ClientProfile, PrivateKey, Serial};
    use process::{Clock, SystemClock};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    struct Ca(Authority);

    impl Ca {
        fn new() -> Self {
            let profile = AuthorityProfile::client("client CA");
            Self(Authority::generate(&profile, SystemClock.wall()).unwrap())
        }

        fn der(&self) -> CertificateDer<'static> {
            self.0.certificate().der().clone()
        }

        fn client(&self, name: &str) -> CertificateDer<'static> {
            let key = PrivateKey::generate(Algorithm::default()).unwrap();
            let request = pki::request(&key, name).unwrap();
            let profile = ClientProfile {
                name: name.to_owned(),
                lifetime: HOUR,
            };
            let now = SystemClock.wall();
            let issued = self
                .0
                .issue_client(&profile, &request, Serial::random(), now);
            issued.unwrap().der().clone()
        }
    }

    fn ask(
        settings: AccessSettings,
        address: &str,
        certificates: &[CertificateDer<'static>],
    ) -> Result<(), Denial> {
        let caller = Caller {
            address: address.parse().unwrap(),
            asn: (address == "192.0.2.7").then_some(64500),
            certificates,
        };
        Access::new(settings)
            .unwrap()
            .admit(&caller, SystemClock.wall())
    }

    fn networks(cidrs: &[&str]) -> AccessSettings {
        AccessSettings {
            cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
            ..AccessSettings::default()
        }
    }

    #[test]
    fn nobody_may_call_until_somebody_is_let_in() {
        assert_eq!(
            ask(AccessSettings::default(), "127.0.0.1", &[]),
            Err(Denial::Closed)
        );
        let asns = AccessSettings {
            asns: [64500].into(),
            ..AccessSettings::default()
        };
        assert_eq!(ask(asns, "192.0.2.7", &[]), Err(Denial::Closed));
    }

    #[test]
    fn a_network_lets_its_addresses_in_and_no_others() {
        let settings = || networks(&["192.0.2.0/24", "2001:db8::/32"]);
        for good in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"] {
            assert_eq!(ask(settings(), good, &[]), Ok(()), "{good}");
        }
        for bad in ["192.0.3.1", "2001:db9::1", "::1"] {
            assert_eq!(ask(settings(), bad, &[]), Err(Denial::Address), "{bad}");
        }
        let asns = || AccessSettings {
            asns: [64500].into(),
            ..settings()
        };
        assert_eq!(ask(asns(), "192.0.2.7", &[]), Ok(()));
        assert_eq!(
            ask(asns(), "192.0.2.8", &[]),
            Err(Denial::Network),
            "of nobody known"
        );
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn a_certificate_counts_by_chain_denial_name_and_dates_and_network_besides() {
        let (ca, other) = (Ca::new(), Ca::new());
        let agent = ca.client("agent-1.example");
        let settings = || AccessSettings {
            client_ca_certificates: vec![ca.der()],
            ..AccessSettings::default()
        };
        let one = std::slice::from_ref(&agent);
        assert_eq!(ask(settings(), "::1", one), Ok(()));
        assert_eq!(
            ask(settings(), "::1", &[]),
            Err(Denial::CertificateRequired)
        );
        let foreign = [other.client("agent-1.example")];
        assert_eq!(ask(settings(), "::1", &foreign), Err(Denial::UnknownCa));
        let garbage = [CertificateDer::from(vec![1, 2, 3])];
        assert_eq!(
            ask(settings(), "::1", &garbage),
            Err(Denial::BadCertificate)
        );

        let two = AccessSettings {
            client_ca_certificates: vec![other.der(), ca.der()],
            ..settings()
        };
        assert_eq!(ask(two, "::1", one), Ok(()), "two slots");
        let denied = AccessSettings {
            denied: [fingerprint(&agent)].into(),
            ..settings()
        };
        assert_eq!(ask(denied.clone(), "::1", one), Err(Denial::Denied));
        let twin = [CertificateDer::from(process::twin(&agent).unwrap())];
        assert_ne!(twin, one, "another fingerprint");
        assert_eq!(
            ask(settings(), "::1", &twin),
            Ok(()),
            "as good as the first"
        );
        assert_eq!(ask(denied, "::1", &twin), Err(Denial::Denied));
        let named = |rule: &str| AccessSettings {
            clients: vec!["x.example".to_owned(), rule.to_owned()],
            ..settings()
        };
        for good in ["agent-1.example", "AGENT-1.example", "agent-*", "*"] {
            assert_eq!(ask(named(good), "::1", one), Ok(()), "{good}");
        }
        for bad in ["agent-1", "agent-2*", "gent-1.example"] {
            assert_eq!(ask(named(bad), "::1", one), Err(Denial::NotListed), "{bad}");
        }
        assert!(matches_uri(
            "spiffe://example.org/agent/*",
            "spiffe://example.org/agent/7"
        ));
        assert!(matches_uri(
            "spiffe://example.org/a",
            "spiffe://example.org/a"
        ));
        assert!(matches_uri("*", "spiffe://example.org/a"));
        for rule in [
            "spiffe://example.org/A",
            "spiffe://example.org/",
            "s*",
            "spiffe*",
        ] {
            assert!(!matches_uri(rule, "spiffe://example.org/a"), "{rule}");
        }
        let both = AccessSettings {
            client_ca_certificates: vec![ca.der()],
            ..networks(&["192.0.2.0/24"])
        };
        assert_eq!(ask(both, "::1", one), Err(Denial::Address));

        let caller = Caller {
            address: "::1".parse().unwrap(),
            asn: None,
            certificates: one,
        };
        let access = Access::new(settings()).unwrap();
        let now = SystemClock.wall();
        assert_eq!(access.admit(&caller, now + 2 * HOUR), Err(Denial::Expired));
        assert_eq!(
            access.admit(&caller, now - 24 * HOUR),
            Err(Denial::NotYetValid)
        );
    }
}
