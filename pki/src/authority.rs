//! A CA certificate with its key, and what it signs.

use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::certificate::Certificate;
use crate::identifier::Serial;
use crate::key::{KeyError, PrivateKey};
use crate::pair::CertifiedKey;
use crate::profile::{
    AuthorityKind, AuthorityProfile, BACKDATE, BadName, ClientProfile, MARGIN, PublicHalf,
    ServerProfile, Template, Usage,
};
use crate::request::{RequestError, Requested};
use crate::sign::{self, Issuer, SignError};
use crate::validity::Validity;

/// Shorter than this is not issued when the end of the CA is what cuts it short.
const SHORTEST: Duration = Duration::from_secs(60);

/// A CA certificate and the key that belongs to it.
#[derive(Clone, Debug)]
pub struct Authority {
    certificate: Certificate,
    key: PrivateKey,
    issuer: Issuer,
}

impl Authority {
    /// Makes a new key and a certificate for it, valid from five minutes ago.
    ///
    /// # Errors
    ///
    /// [`IssueError::Name`], [`IssueError::Lifetime`], [`IssueError::Key`] or [`IssueError::Sign`].
    pub fn generate(profile: &AuthorityProfile, now: SystemTime) -> Result<Self, IssueError> {
        let not_after = end(now, profile.lifetime)?;
        let validity = Validity::new(now - BACKDATE, not_after);
        let template = profile.template(Serial::random(), validity)?;
        let key = PrivateKey::generate(profile.algorithm)?;
        let certificate = written(sign::self_sign(&template, &key)?)?;
        let issuer = Issuer::new(&certificate, key.clone())?;
        Ok(Self {
            certificate,
            key,
            issuer,
        })
    }

    /// Takes a stored CA certificate and its key, after one signature on trial.
    ///
    /// # Errors
    ///
    /// [`LoadError`]: everything that would make the certificates it signs worthless.
    pub fn load(
        certificate: Certificate,
        key: PrivateKey,
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        let validity = certificate.validity();
        if certificate.public_key() != key.public_key() {
            return Err(LoadError::KeyMismatch);
        }
        if !certificate.is_authority() {
            return Err(LoadError::NotAuthority);
        }
        if !certificate.may_sign_certificates() {
            return Err(LoadError::MayNotSign);
        }
        if certificate.subject_key_id().is_none() {
            return Err(LoadError::NoKeyIdentifier);
        }
        if validity.begins_after(now) {
            return Err(LoadError::NotYetValid(validity));
        }
        if validity.ended_before(now) {
            return Err(LoadError::Expired(validity));
        }
        let issuer = Issuer::new(&certificate, key.clone()).map_err(|_| LoadError::Subject)?;
        let authority = Self {
            certificate,
            key,
            issuer,
        };
        authority.try_out()?;
        Ok(authority)
    }

    /// The CA certificate: what verifiers hold.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The CA key, to store it. Nothing else may leave the process.
    pub fn private_key(&self) -> &PrivateKey {
        &self.key
    }

    /// What it signs: client certificates if `extKeyUsage` says so, server certificates otherwise.
    pub fn kind(&self) -> AuthorityKind {
        match self.certificate.extensions.extended_key_usage {
            Some(usage) if usage.client && !usage.server => AuthorityKind::Client,
            _ => AuthorityKind::Server,
        }
    }

    /// Certifies `key` for a tunnel, valid from five minutes ago, the CA's own first second at the
    /// earliest, for `profile.lifetime` from now. The last second is at latest one day before the CA's
    /// own; for a CA that lives less than two days it is at latest the CA's own.
    ///
    /// `serial` is drawn and journalled by the caller before the call, and used once.
    ///
    /// # Errors
    ///
    /// [`IssueError`]. A CA that is out of date or about to be is refused, each time anew: whoever
    /// calls in a loop needs another CA, not another try.
    pub fn issue(
        &self,
        profile: &ServerProfile,
        key: PrivateKey,
        serial: Serial,
        now: SystemTime,
    ) -> Result<CertifiedKey, IssueError> {
        self.expect_kind(AuthorityKind::Server)?;
        let validity = self.clamp(profile.lifetime, now)?;
        let template = profile.template(serial, validity)?;
        let kind = key.kind();
        let half = PublicHalf {
            kind: &kind,
            bits: key.public_key_bits(),
        };
        let certificate = self.sign(&template, half)?;
        Ok(CertifiedKey::new(certificate, key))
    }

    /// Certifies the key of a PKCS #10 request in PEM for a client. The signature of the request is
    /// verified, and nothing but its public key is taken from it. Dates as in [`Authority::issue`].
    ///
    /// # Errors
    ///
    /// [`IssueError`], with [`IssueError::Request`] for what is wrong with the request.
    pub fn issue_client(
        &self,
        profile: &ClientProfile,
        request: &str,
        serial: Serial,
        now: SystemTime,
    ) -> Result<Certificate, IssueError> {
        self.expect_kind(AuthorityKind::Client)?;
        let validity = self.clamp(profile.lifetime, now)?;
        let template = profile.template(serial, validity)?;
        let requested = Requested::from_pem(request)?;
        self.sign(&template, requested.public_half())
    }

    fn expect_kind(&self, wanted: AuthorityKind) -> Result<(), IssueError> {
        let kind = self.kind();
        if kind == wanted {
            Ok(())
        } else {
            Err(IssueError::Kind(kind))
        }
    }

    /// The dates of a certificate, inside those of the CA.
    fn clamp(&self, lifetime: Duration, now: SystemTime) -> Result<Validity, IssueError> {
        let own = self.certificate.validity();
        if !own.contains(now) {
            return Err(IssueError::OutOfDate(own));
        }
        let wanted = end(now, lifetime)?;
        let latest = last_second(&own);
        let not_after = wanted.min(latest);
        let left = not_after.duration_since(now).unwrap_or(Duration::ZERO);
        if left < lifetime.min(SHORTEST) {
            return Err(IssueError::Ending(own));
        }
        Ok(Validity::new(
            (now - BACKDATE).max(own.not_before()),
            not_after,
        ))
    }

    fn sign(&self, template: &Template, half: PublicHalf<'_>) -> Result<Certificate, IssueError> {
        if let Some(constraints) = &self.certificate.extensions.name_constraints {
            let is_address = |name: &str| name.parse::<std::net::IpAddr>().is_ok();
            let mut names = template.names.iter();
            let outside = names.find(|name| !is_address(name) && !constraints.allow(name));
            if let Some(name) = outside {
                return Err(IssueError::NotPermitted(name.clone()));
            }
        }
        written(self.issuer.sign(template, half)?)
    }

    /// One signature that is thrown away: shows that the key works and that the issuer's name, which
    /// is written anew in each certificate, comes out as the CA has it.
    fn try_out(&self) -> Result<(), LoadError> {
        let template = Template {
            serial: Serial::random(),
            validity: self.certificate.validity(),
            common_name: None,
            names: Vec::new(),
            usage: Usage::Client,
        };
        let kind = self.key.kind();
        let half = PublicHalf {
            kind: &kind,
            bits: self.key.public_key_bits(),
        };
        let der = self.issuer.sign(&template, half);
        let der = der.map_err(|SignError { .. }| LoadError::Unusable)?;
        let trial = Certificate::from_der(der).map_err(|_| LoadError::Unusable)?;
        if trial.issuer_der() != self.certificate.subject_der() {
            return Err(LoadError::Subject);
        }
        let linked = trial.authority_key_id() == self.certificate.subject_key_id();
        if linked && trial.is_signed_by(&self.certificate) {
            Ok(())
        } else {
            Err(LoadError::Unusable)
        }
    }
}

/// The last second that a certificate under a CA with these dates may have.
pub(crate) fn last_second(authority: &Validity) -> SystemTime {
    let life = authority.remaining(authority.not_before());
    let margin = if life < 2 * MARGIN {
        Duration::ZERO
    } else {
        MARGIN
    };
    authority.not_after() - margin
}

fn end(now: SystemTime, lifetime: Duration) -> Result<SystemTime, IssueError> {
    if lifetime < Duration::from_secs(1) {
        return Err(IssueError::Lifetime);
    }
    now.checked_add(lifetime).ok_or(IssueError::Lifetime)
}

/// Reads what was just written, once; everything after looks at the result.
fn written(der: Vec<u8>) -> Result<Certificate, IssueError> {
    Certificate::from_der(der).map_err(|_| IssueError::Unreadable)
}

/// Why a stored CA cannot sign.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The key is another certificate's.
    #[error("the private key does not belong to the CA certificate")]
    KeyMismatch,
    /// `basicConstraints` is absent or says that it is none.
    #[error("the certificate is not a CA certificate")]
    NotAuthority,
    /// `keyUsage` is absent or lacks keyCertSign.
    #[error("the CA certificate does not allow its key to sign certificates (keyCertSign)")]
    MayNotSign,
    /// No `subjectKeyIdentifier`, to which every certificate must refer.
    #[error("the CA certificate has no subject key identifier")]
    NoKeyIdentifier,
    /// Its first second is in the future.
    #[error("the CA certificate is not yet valid: {0}")]
    NotYetValid(Validity),
    /// Its last second is over.
    #[error("the CA certificate has expired: {0}")]
    Expired(Validity),
    /// Its subject has a part twice, or one of a kind that we cannot write, and certificates would name
    /// another issuer.
    #[error("the subject of the CA certificate cannot be written again as it stands")]
    Subject,
    /// A signature on trial did not verify.
    #[error("the CA certificate or its key cannot be used to sign")]
    Unusable,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IssueError {
    /// The CA is not valid now.
    #[error("the CA certificate is out of date: {0}")]
    OutOfDate(Validity),
    /// What the CA has left is too short for a certificate that is worth issuing.
    #[error("the CA certificate ends too soon to sign: {0}")]
    Ending(Validity),
    /// It is an authority of this kind, and signs nothing else.
    #[error("the CA signs for {0} and for nobody else")]
    Kind(AuthorityKind),
    /// Less than a second, or beyond the calendar.
    #[error("the lifetime is below one second or beyond the calendar")]
    Lifetime,
    /// Not a host name, or too long for the field.
    #[error("'{0}' cannot stand as a name in a certificate")]
    Name(String),
    /// Outside of the CA's name constraint.
    #[error("the CA is constrained to other names than '{0}'")]
    NotPermitted(String),
    /// The client's request.
    #[error("the certificate request is refused")]
    Request(#[from] RequestError),
    /// No key could be made.
    #[error("no key for the CA")]
    Key(#[from] KeyError),
    /// The certificate could not be encoded.
    #[error("the certificate could not be signed")]
    Sign(#[from] SignError),
    /// What was signed does not read as a certificate: a fault of ours.
    #[error("the certificate that was just signed cannot be read")]
    Unreadable,
}

impl From<BadName> for IssueError {
    fn from(BadName(name): BadName) -> Self {
        Self::Name(name)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use x509_parser::extensions::ParsedExtension;

    use super::*;
    use crate::key::Algorithm;
    use crate::lint::{Expectation, Origin, lint, lint_authority};
    use crate::request::request;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(86_400);
    const DOMAIN: &str = "tunnel.example";

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_800_000_000_700)
    }

    fn key() -> PrivateKey {
        PrivateKey::generate(Algorithm::EcdsaP256).unwrap()
    }

    fn authority(lifetime: Duration) -> Authority {
        let profile = AuthorityProfile {
            lifetime,
            ..AuthorityProfile::server("tunnel CA")
        };
        Authority::generate(&profile, now()).unwrap()
    }

    fn issue(authority: &Authority, at: SystemTime) -> Result<CertifiedKey, IssueError> {
        authority.issue(&ServerProfile::new(DOMAIN), key(), Serial::random(), at)
    }

    /// `extension critical? contents` in order, as an independent look at the encoding.
    fn shown(certificate: &Certificate) -> Vec<String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
        let one = |extension: &x509_parser::extensions::X509Extension<'_>| {
            let critical = if extension.critical { "critical " } else { "" };
            let contents = match extension.parsed_extension() {
                ParsedExtension::AuthorityKeyIdentifier(_) => "AKI".to_owned(),
                ParsedExtension::SubjectKeyIdentifier(key) => format!("SKI of {}", key.0.len()),
                ParsedExtension::KeyUsage(usage) => usage.to_string(),
                ParsedExtension::BasicConstraints(constraints) => {
                    format!(
                        "CA {} {:?}",
                        constraints.ca, constraints.path_len_constraint
                    )
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    let names: Vec<_> = names
                        .general_names
                        .iter()
                        .map(ToString::to_string)
                        .collect();
                    names.join(" ")
                }
                ParsedExtension::NameConstraints(names) => {
                    let subtrees = names.permitted_subtrees.iter().flatten();
                    let names: Vec<_> = subtrees.map(|tree| tree.base.to_string()).collect();
                    names.join(" ")
                }
                ParsedExtension::ExtendedKeyUsage(usage) => {
                    format!("server {} client {}", usage.server_auth, usage.client_auth)
                }
                other => format!("{other:?}"),
            };
            format!("{critical}{contents}")
        };
        parsed.extensions().iter().map(one).collect()
    }

    #[test]
    fn a_server_certificate_has_every_field_of_its_profile_and_no_other() {
        let authority = authority(365 * DAY);
        let mut profile = ServerProfile::new(DOMAIN);
        profile.extra_names = vec!["localhost".into(), "127.0.0.1".into(), DOMAIN.into()];
        let serial = Serial::random();
        let pair = authority
            .issue(&profile, key(), serial.clone(), now())
            .unwrap();
        let leaf = pair.certificate();
        let expected = [
            "AKI",
            "DNSName(*.tunnel.example) DNSName(tunnel.example) DNSName(localhost) IPAddress(7f:00:00:01)",
            "critical Digital Signature",
            "server true client false",
            "SKI of 20",
            "critical CA false None",
        ];
        assert_eq!(shown(leaf), expected);
        assert_eq!(leaf.subject(), "CN=tunnel.example");
        assert_eq!(leaf.serial(), &serial);
        assert_eq!(
            leaf.authority_key_id(),
            authority.certificate().subject_key_id()
        );
        assert_eq!(leaf.issuer_der(), authority.certificate().subject_der());
        assert_eq!(
            leaf.validity(),
            Validity::new(now() - 5 * MINUTE, now() + 7 * DAY)
        );
        assert_eq!(leaf.public_key(), pair.key().public_key());
    }

    #[test]
    fn a_ca_certificate_has_every_field_of_its_profile_and_no_other() {
        let bare = authority(365 * DAY);
        let usage = "critical Key Cert Sign, CRL Sign";
        let expected = [usage, "SKI of 20", "critical CA true None"];
        assert_eq!(shown(bare.certificate()), expected);
        assert_eq!(bare.kind(), AuthorityKind::Server);
        let profile = AuthorityProfile {
            constrained_to: Some(DOMAIN.to_owned()),
            ..AuthorityProfile::client("client CA")
        };
        let constrained = Authority::generate(&profile, now()).unwrap();
        let expected = [
            usage,
            "server false client true",
            "critical DNSName(tunnel.example)",
            "SKI of 20",
            "critical CA true Some(0)",
        ];
        assert_eq!(shown(constrained.certificate()), expected);
        assert_eq!(constrained.kind(), AuthorityKind::Client);
        for made in [bare, constrained] {
            let linted = lint_authority(&made.certificate().to_pem(), now());
            assert_eq!(linted.as_ref(), Ok(made.certificate()));
        }
    }

    #[test]
    fn a_client_certificate_takes_only_the_public_key_from_the_request() {
        let authority = Authority::generate(&AuthorityProfile::client("client CA"), now()).unwrap();
        let profile = ClientProfile {
            name: "alice.example".to_owned(),
            lifetime: DAY,
        };
        let key = key();
        let request = request(&key, "mallory.example").unwrap();
        let certificate = authority
            .issue_client(&profile, &request, Serial::random(), now())
            .unwrap();
        let expected = [
            "AKI",
            "DNSName(alice.example)",
            "critical Digital Signature",
            "server false client true",
            "SKI of 20",
            "critical CA false None",
        ];
        assert_eq!(shown(&certificate), expected);
        assert_eq!(certificate.subject(), "CN=alice.example");
        assert_eq!(certificate.public_key(), key.public_key());
    }

    #[test]
    fn an_authority_signs_only_certificates_of_its_kind() {
        let servers = authority(365 * DAY);
        let clients = Authority::generate(&AuthorityProfile::client("client CA"), now()).unwrap();
        let profile = ClientProfile {
            name: "alice".to_owned(),
            lifetime: DAY,
        };
        let request = request(&key(), "alice").unwrap();
        assert_eq!(
            servers.issue_client(&profile, &request, Serial::random(), now()),
            Err(IssueError::Kind(AuthorityKind::Server))
        );
        let refused = issue(&clients, now()).unwrap_err();
        assert_eq!(refused, IssueError::Kind(AuthorityKind::Client));
    }

    #[test]
    fn a_certificate_ends_a_day_before_its_ca_or_with_a_ca_that_is_short() {
        let ends = |life: Duration| {
            let pair = issue(&authority(life), now()).unwrap();
            pair.certificate().validity().remaining(now())
        };
        let whole = |duration: Duration| duration.saturating_sub(Duration::from_millis(700));
        assert_eq!(ends(365 * DAY), whole(7 * DAY));
        assert_eq!(ends(5 * DAY), whole(4 * DAY));
        assert_eq!(ends(DAY), whole(DAY));
        assert_eq!(ends(2 * MINUTE), whole(2 * MINUTE));
    }

    #[test]
    fn renewals_under_a_ca_that_ends_are_few_and_then_refused() {
        let authority = authority(30 * DAY);
        let mut at = now() + 20 * DAY;
        let mut issued = 0;
        let end = loop {
            match issue(&authority, at) {
                Ok(pair) => {
                    let leaf = pair.certificate();
                    let next = leaf.validity().rekey_at(at, leaf.serial());
                    assert!(next > at, "due at once");
                    issued += 1;
                    at = next;
                }
                Err(error) => break error,
            }
        };
        assert_eq!(end, IssueError::Ending(authority.certificate().validity()));
        assert!(
            (9..40).contains(&issued),
            "{issued} certificates in nine days"
        );
    }

    #[test]
    fn a_ca_out_of_date_signs_nothing_and_is_not_loaded() {
        let authority = authority(DAY);
        let dates = authority.certificate().validity();
        let load = |at| {
            let key = authority.private_key().clone();
            Authority::load(authority.certificate().clone(), key, at).err()
        };
        let (early, late) = (now() - 6 * MINUTE, now() + DAY + MINUTE);
        assert_eq!(load(now()), None);
        assert_eq!(load(early), Some(LoadError::NotYetValid(dates)));
        assert_eq!(load(late), Some(LoadError::Expired(dates)));
        for at in [early, late] {
            assert_eq!(
                issue(&authority, at).unwrap_err(),
                IssueError::OutOfDate(dates)
            );
        }
    }

    #[test]
    fn a_key_of_another_certificate_and_a_certificate_that_is_no_ca_are_not_loaded() {
        let authority = authority(DAY);
        let load = |certificate: &Certificate, key| {
            Authority::load(certificate.clone(), key, now()).unwrap_err()
        };
        let mismatch = load(authority.certificate(), key());
        assert_eq!(mismatch, LoadError::KeyMismatch);
        let pair = issue(&authority, now()).unwrap();
        let leaf = load(pair.certificate(), pair.key().clone());
        assert_eq!(leaf, LoadError::NotAuthority);
    }

    #[test]
    fn a_loaded_authority_signs_like_the_one_that_was_stored() {
        for algorithm in [
            Algorithm::EcdsaP256,
            Algorithm::EcdsaP384,
            Algorithm::Rsa2048,
        ] {
            let profile = AuthorityProfile {
                algorithm,
                ..AuthorityProfile::server("tunnel CA")
            };
            let made = Authority::generate(&profile, now()).unwrap();
            let certificate = Certificate::from_pem(&made.certificate().to_pem()).unwrap();
            let key = PrivateKey::from_pem(&made.private_key().to_pem()).unwrap();
            let loaded = Authority::load(certificate, key, now()).unwrap();
            let pair = issue(&loaded, now()).unwrap();
            let ca = made.certificate();
            let expectation = Expectation::new(DOMAIN);
            let linted = lint(&pair, ca, &expectation, now(), Origin::Ours).unwrap();
            assert!(linted.advice().is_empty());
        }
    }

    #[test]
    fn a_key_that_is_certified_again_gets_another_serial() {
        let authority = authority(365 * DAY);
        let (profile, key) = (ServerProfile::new(DOMAIN), key());
        let issue = || authority.issue(&profile, key.clone(), Serial::random(), now());
        let serials: HashSet<_> = (0..100)
            .map(|_| issue().unwrap().certificate().serial().clone())
            .collect();
        assert_eq!(serials.len(), 100);
    }

    #[test]
    fn names_that_cannot_stand_in_a_certificate_or_under_the_ca_are_refused() {
        let profile = AuthorityProfile {
            constrained_to: Some(DOMAIN.to_owned()),
            ..AuthorityProfile::server("tunnel CA")
        };
        let constrained = Authority::generate(&profile, now()).unwrap();
        let issue = |domain: &str, extra: &[&str]| {
            let mut profile = ServerProfile::new(domain);
            profile.extra_names = extra.iter().map(ToString::to_string).collect();
            constrained
                .issue(&profile, key(), Serial::random(), now())
                .err()
        };
        let refused = |name: &str| Some(IssueError::NotPermitted(name.to_owned()));
        assert_eq!(issue(DOMAIN, &["a.tunnel.example", "::1"]), None);
        assert_eq!(issue("other.example", &[]), refused("*.other.example"));
        assert_eq!(issue(DOMAIN, &["localhost"]), refused("localhost"));
        let bad = |name: &str| Some(IssueError::Name(name.to_owned()));
        assert_eq!(issue("tunnel example", &[]), bad("tunnel example"));
        assert_eq!(issue("", &[]), bad(""));
        assert_eq!(issue(DOMAIN, &["a_b"]), bad("a_b"));
        let nameless = Authority::generate(&AuthorityProfile::server(""), now());
        assert_eq!(nameless.err(), bad(""));
    }

    #[test]
    fn a_tunnel_domain_too_long_for_a_common_name_leaves_the_subject_empty() {
        let domain = format!("{}.example", "a".repeat(60));
        let profile = ServerProfile::new(&domain);
        let pair = authority(DAY).issue(&profile, key(), Serial::random(), now());
        let pair = pair.unwrap();
        assert_eq!(pair.certificate().subject(), "");
        // RFC 5280 §4.1.2.6: then the names are critical.
        let names = format!("critical DNSName(*.{domain}) DNSName({domain})");
        assert!(shown(pair.certificate()).contains(&names));
    }

    #[test]
    fn a_lifetime_of_nothing_or_of_ages_is_refused() {
        let authority = authority(365 * DAY);
        for lifetime in [Duration::ZERO, Duration::MAX] {
            let profile = ServerProfile {
                lifetime,
                ..ServerProfile::new(DOMAIN)
            };
            let refused = authority.issue(&profile, key(), Serial::random(), now());
            assert_eq!(refused.unwrap_err(), IssueError::Lifetime);
            let profile = AuthorityProfile {
                lifetime,
                ..AuthorityProfile::server("tunnel CA")
            };
            let refused = Authority::generate(&profile, now());
            assert_eq!(refused.unwrap_err(), IssueError::Lifetime);
        }
        let profile = AuthorityProfile {
            lifetime: 10_000 * 365 * DAY,
            ..AuthorityProfile::server("tunnel CA")
        };
        let refused = Authority::generate(&profile, now());
        assert!(matches!(refused, Err(IssueError::Sign(_))));
    }
}
