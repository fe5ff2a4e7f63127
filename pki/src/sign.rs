//! Writes certificates and requests down and signs them. The only file that names rcgen.
//!
//! rcgen's defaults are never used: they are valid from 1975 to 4096, have no authority key
//! identifier, and repeat the serial number with the key. Nor is anything checked here: rcgen signs
//! under a key that does not belong to the CA and under certificates that are no CA, so
//! [`Authority`](crate::Authority) checks before and [`lint`](crate::lint()) after.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, KeyIdMethod, KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_RSA_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, SigningKey,
};
use thiserror::Error;
use time::OffsetDateTime;

use crate::certificate::Certificate;
use crate::identifier::sha256;
use crate::key::{Algorithm, PrivateKey};
use crate::profile::{AuthorityKind, PublicHalf, Template, Usage};
use crate::signature::KeyKind;

/// A CA, ready to sign: its name and key identifier as they stand in its certificate, and its key.
#[derive(Clone, Debug)]
pub(crate) struct Issuer(Arc<rcgen::Issuer<'static, Signer>>);

/// The certificate could not be written down: a date, name or key that the encoding cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the certificate cannot be encoded: {0}")]
pub struct SignError(String);

impl Issuer {
    pub(crate) fn new(certificate: &Certificate, key: PrivateKey) -> Result<Self, SignError> {
        let issuer = rcgen::Issuer::from_ca_cert_der(certificate.der(), Signer(key))?;
        Ok(Self(Arc::new(issuer)))
    }

    /// DER of a certificate for `subject`.
    pub(crate) fn sign(
        &self,
        template: &Template,
        subject: PublicHalf<'_>,
    ) -> Result<Vec<u8>, SignError> {
        let subject = Subject::new(subject)?;
        let params = params(template, subject.bits)?;
        let certificate = params.signed_by(&subject, &self.0)?;
        Ok(certificate.der().to_vec())
    }
}

/// DER of a certificate that `key` signs for itself.
pub(crate) fn self_sign(template: &Template, key: &PrivateKey) -> Result<Vec<u8>, SignError> {
    let mut params = params(template, key.public_key_bits())?;
    // RFC 5280 §4.2.1.1 lets a self-signed certificate go without, and the SKI says the same.
    params.use_authority_key_identifier_extension = false;
    let certificate = params.self_signed(&Signer(key.clone()))?;
    Ok(certificate.der().to_vec())
}

/// DER of a PKCS #10 request (RFC 2986) that asks for `name`.
pub(crate) fn request(key: &PrivateKey, name: &str) -> Result<Vec<u8>, SignError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(Some(name));
    let request = params.serialize_request(&Signer(key.clone()))?;
    Ok(request.der().to_vec())
}

fn params(template: &Template, public_key_bits: &[u8]) -> Result<CertificateParams, SignError> {
    let mut params = CertificateParams::default();
    params.not_before = date(template.validity.not_before_unix())?;
    params.not_after = date(template.validity.not_after_unix())?;
    params.serial_number = Some(SerialNumber::from_slice(template.serial.octets()));
    params.distinguished_name = common_name(template.common_name.as_deref());
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_identifier(public_key_bits));
    for name in &template.names {
        params.subject_alt_names.push(match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    match &template.usage {
        Usage::Server => leaf(&mut params, ExtendedKeyUsagePurpose::ServerAuth),
        Usage::Client => leaf(&mut params, ExtendedKeyUsagePurpose::ClientAuth),
        Usage::Authority {
            kind,
            constrained_to,
        } => authority(&mut params, *kind, constrained_to.as_deref()),
    }
    Ok(params)
}

fn leaf(params: &mut CertificateParams, usage: ExtendedKeyUsagePurpose) {
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
}

fn authority(params: &mut CertificateParams, kind: AuthorityKind, constrained_to: Option<&str>) {
    params.is_ca = IsCa::Ca(match constrained_to {
        Some(_) => BasicConstraints::Constrained(0),
        None => BasicConstraints::Unconstrained,
    });
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    if kind == AuthorityKind::Client {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    }
    params.name_constraints = constrained_to.map(|domain| NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(domain.to_owned())],
        excluded_subtrees: Vec::new(),
    });
}

fn common_name(name: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(name) = name {
        distinguished.push(DnType::CommonName, name);
    }
    distinguished
}

/// RFC 7093 §2 method 1: the leftmost 160 bits of SHA-256 over the BIT STRING of the public key.
fn key_identifier(public_key_bits: &[u8]) -> Vec<u8> {
    sha256(public_key_bits).iter().take(20).copied().collect()
}

fn date(seconds: u64) -> Result<OffsetDateTime, SignError> {
    let seconds = i64::try_from(seconds).ok();
    seconds
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .ok_or_else(|| SignError("a date beyond the year 9999".to_owned()))
}

impl From<rcgen::Error> for SignError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// Our key as rcgen wants to see it.
#[derive(Debug)]
struct Signer(PrivateKey);

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key_bits()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.0.algorithm() {
            Algorithm::EcdsaP256 => &PKCS_ECDSA_P256_SHA256,
            Algorithm::EcdsaP384 => &PKCS_ECDSA_P384_SHA384,
            Algorithm::Rsa2048 | Algorithm::Rsa3072 | Algorithm::Rsa4096 => &PKCS_RSA_SHA256,
        }
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.0.sign(message);
        signature.map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// Somebody's public key as rcgen wants to see it.
struct Subject<'a> {
    bits: &'a [u8],
    algorithm: &'static SignatureAlgorithm,
}

impl<'a> Subject<'a> {
    fn new(half: PublicHalf<'a>) -> Result<Self, SignError> {
        let algorithm = match half.kind {
            KeyKind::P256 => &PKCS_ECDSA_P256_SHA256,
            KeyKind::P384 => &PKCS_ECDSA_P384_SHA384,
            KeyKind::Rsa(_) => &PKCS_RSA_SHA256,
            other => return Err(SignError(format!("a public key of kind {other}"))),
        };
        Ok(Self {
            bits: half.bits,
            algorithm,
        })
    }
}

impl PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}
