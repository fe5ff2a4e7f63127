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
mod tests;
