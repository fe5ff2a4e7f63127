//! Certificates as they are read: ours and other people's, looked at once and kept with what was seen.
//!
//! Reading checks the form alone (RFC 5280 §4.1). Whether a certificate may be used is for
//! [`lint`](crate::lint()) to say.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::SectionKind;
use thiserror::Error;
use x509_parser::x509::X509Version;

use crate::der::Signed;
use crate::extensions::Extensions;
use crate::identifier::{Fingerprint, Serial};
use crate::pem;
use crate::signature::{KeyKind, SignatureKind};
use crate::validity::Validity;

/// One certificate: its DER and what stands in it.
#[derive(Clone)]
pub struct Certificate {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
    serial: Serial,
    validity: Validity,
    subject_text: String,
    subject: Range<usize>,
    issuer: Range<usize>,
    public_key: Range<usize>,
    public_key_bits: Range<usize>,
    signed_part: Range<usize>,
    signature: Range<usize>,
    pub(crate) key_kind: KeyKind,
    pub(crate) signature_kind: SignatureKind,
    pub(crate) extensions: Extensions,
}

impl Certificate {
    /// Reads a text with exactly one certificate and no private key.
    ///
    /// # Errors
    ///
    /// [`CertificateError`], by what is wrong with the text.
    pub fn from_pem(text: &str) -> Result<Self, CertificateError> {
        if pem::holds_key(text) {
            return Err(CertificateError::HoldsKey);
        }
        let mut all = certificates(text)?.into_iter();
        match (all.next(), all.next()) {
            (Some(certificate), None) => Ok(certificate),
            (None, _) => Err(CertificateError::Absent),
            (Some(_), Some(_)) => Err(CertificateError::Several),
        }
    }

    /// Reads DER, nothing behind it.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Malformed`] if it is not the certificate of RFC 5280 §4.1.
    pub fn from_der(der: Vec<u8>) -> Result<Self, CertificateError> {
        read(der).ok_or(CertificateError::Malformed)
    }

    /// One PEM section.
    pub fn to_pem(&self) -> String {
        String::clone(&pem::write("CERTIFICATE", &self.der))
    }

    /// The encoded certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// SHA-256 of the DER.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The number its CA gave it.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// First and last second.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// The subject for a person, as `CN=example`.
    pub fn subject(&self) -> &str {
        &self.subject_text
    }

    /// DNS names of `subjectAltName`, as they are written there.
    pub fn dns_names(&self) -> &[String] {
        &self.extensions.dns_names
    }

    /// Addresses of `subjectAltName`.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.extensions.addresses
    }

    /// URIs of `subjectAltName`, as they are written there; a SPIFFE ID is one.
    pub fn uris(&self) -> &[String] {
        &self.extensions.uris
    }

    /// Whether `basicConstraints` says that the subject is a CA.
    pub fn is_authority(&self) -> bool {
        let constraints = self.extensions.basic_constraints;
        constraints.is_some_and(|constraints| constraints.authority)
    }

    /// Domains that `nameConstraints` permits, subtrees and all; empty: every name, unless excluded.
    pub fn permitted_domains(&self) -> &[String] {
        let constraints = self.extensions.name_constraints.as_ref();
        constraints.map_or(&[], |constraints| constraints.permitted.as_slice())
    }

    /// Whether `keyUsage` lets the key sign certificates.
    pub fn may_sign_certificates(&self) -> bool {
        let usage = self.extensions.key_usage;
        usage.is_some_and(|usage| usage.certificate_signing)
    }

    /// `subjectKeyIdentifier`.
    pub fn subject_key_id(&self) -> Option<&[u8]> {
        self.extensions.subject_key_id.as_deref()
    }

    /// `keyIdentifier` of `authorityKeyIdentifier`.
    pub fn authority_key_id(&self) -> Option<&[u8]> {
        self.extensions.authority_key_id.as_deref()
    }

    /// `SubjectPublicKeyInfo` in DER.
    pub fn public_key(&self) -> &[u8] {
        self.slice(&self.public_key)
    }

    /// Kind and size of the public key.
    pub fn key_kind(&self) -> &KeyKind {
        &self.key_kind
    }

    /// `subject` in DER.
    pub(crate) fn subject_der(&self) -> &[u8] {
        self.slice(&self.subject)
    }

    /// `issuer` in DER.
    pub(crate) fn issuer_der(&self) -> &[u8] {
        self.slice(&self.issuer)
    }

    /// Whether the key of `authority` made the signature. Names and dates are not looked at.
    pub(crate) fn is_signed_by(&self, authority: &Self) -> bool {
        self.signature_kind.verifies(
            &authority.key_kind,
            authority.slice(&authority.public_key_bits),
            self.slice(&self.signed_part),
            self.slice(&self.signature),
        )
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.der
            .get(range.clone())
            .expect("ranges are made from slices of this DER")
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Certificate({}, {})",
            self.subject_text, self.fingerprint
        )
    }
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for Certificate {}

/// Why a text is not the certificate that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// No `CERTIFICATE` section.
    #[error("no certificate in the PEM text")]
    Absent,
    /// More than one.
    #[error("more than one certificate in the PEM text")]
    Several,
    /// A private key beside it, which must not travel with a certificate.
    #[error("a private key in the PEM text, where only a certificate belongs")]
    HoldsKey,
    /// Not PEM, not DER, or not as RFC 5280 §4.1 has it.
    #[error("the certificate is damaged")]
    Malformed,
}

/// Every certificate in the text, in order.
pub(crate) fn certificates(text: &str) -> Result<Vec<Certificate>, CertificateError> {
    pem::sections(text)
        .ok_or(CertificateError::Malformed)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| Certificate::from_der(der.to_vec()))
        .collect()
}

fn read(der: Vec<u8>) -> Option<Certificate> {
    let signed = Signed::read(&der)?;
    let (rest, parsed) = x509_parser::parse_x509_certificate(&der).ok()?;
    // RFC 5280 §4.1.2.2: positive, so without a sign bit.
    let serial = parsed.raw_serial();
    let negative = serial.first().is_none_or(|octet| octet & 0x80 != 0);
    if !rest.is_empty() || negative || parsed.version() != X509Version::V3 {
        return None;
    }
    let within = |part: &[u8]| {
        let start = part.as_ptr().addr().checked_sub(der.as_ptr().addr())?;
        let range = start..start + part.len();
        (der.get(range.clone())? == part).then_some(range)
    };
    // RFC 5280 §4.1.2.3: the algorithm stands behind the serial once more, where it is signed.
    let behind_serial = der.get(within(serial)?.end..)?;
    if !behind_serial.starts_with(signed.algorithm) {
        return None;
    }
    let dates = parsed.validity();
    let info = parsed.public_key();
    Some(Certificate {
        fingerprint: Fingerprint::of(&der),
        serial: Serial::from_octets(serial).ok()?,
        validity: Validity::from_unix(dates.not_before.timestamp(), dates.not_after.timestamp()),
        subject_text: parsed.subject().to_string(),
        subject: within(parsed.subject().as_raw())?,
        issuer: within(parsed.issuer().as_raw())?,
        public_key: within(info.raw)?,
        public_key_bits: within(&info.subject_public_key.data)?,
        signed_part: within(signed.part)?,
        signature: within(signed.signature)?,
        key_kind: KeyKind::of(info),
        signature_kind: SignatureKind::of(&parsed.signature_algorithm),
        extensions: Extensions::read(&parsed)?,
        der: CertificateDer::from(der),
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::authority::Authority;
    use crate::profile::AuthorityProfile;

    fn authority() -> Authority {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Authority::generate(&AuthorityProfile::server("tunnel CA"), now).unwrap()
    }

    #[test]
    fn exactly_one_certificate_and_no_key_is_read() {
        let authority = authority();
        let one = authority.certificate().to_pem();
        let read = Certificate::from_pem(&format!("in front\n{one}behind\n"));
        assert_eq!(read.as_ref(), Ok(authority.certificate()));
        let refused = |text: &str| Certificate::from_pem(text).unwrap_err();
        assert_eq!(refused(""), CertificateError::Absent);
        assert_eq!(refused(&one.repeat(2)), CertificateError::Several);
        let key = authority.private_key().to_pem();
        assert_eq!(
            refused(&format!("{one}{}", *key)),
            CertificateError::HoldsKey
        );
        assert_eq!(refused(&one[..one.len() / 2]), CertificateError::Malformed);
    }

    #[test]
    fn no_octet_can_be_changed_cut_or_added_unnoticed() {
        let authority = authority();
        let ca = authority.certificate();
        assert!(ca.is_signed_by(ca));
        for index in 0..ca.der().len() {
            for bit in [0x01, 0x20, 0x80] {
                let mut der = ca.der().to_vec();
                der[index] ^= bit;
                let changed = Certificate::from_der(der);
                // Changed in its key, it would have to verify under the changed one.
                let passes = changed.is_ok_and(|changed| changed.is_signed_by(&changed));
                assert!(!passes, "octet {index}");
            }
        }
        for length in 0..ca.der().len() {
            assert!(Certificate::from_der(ca.der()[..length].to_vec()).is_err());
        }
        assert!(Certificate::from_der([ca.der().as_ref(), &[0]].concat()).is_err());
    }

    #[test]
    fn debug_names_the_certificate_and_no_more() {
        let authority = authority();
        let ca = authority.certificate();
        let expected = format!("Certificate(CN=tunnel CA, {})", ca.fingerprint());
        assert_eq!(format!("{ca:?}"), expected);
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
