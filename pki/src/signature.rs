//! Which keys and signatures count, and checking one.
//!
//! The far end of a tunnel takes RSA from 2048 bits and ECDSA from P-256, with SHA-256 or better. The
//! table below has exactly those; everything else is read, named, and never verified.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P256_SHA512_ASN1, ECDSA_P384_SHA256_ASN1,
    ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA512_ASN1, ECDSA_P521_SHA256_ASN1, ECDSA_P521_SHA384_ASN1,
    ECDSA_P521_SHA512_ASN1, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521,
    OID_NIST_HASH_SHA256, OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
};
use x509_parser::public_key::PublicKey;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

/// RSA keys below this many bits are refused everywhere.
const SHORTEST_RSA: usize = 2048;
/// AWS-LC and every other verifier we know stop here.
const LONGEST_RSA: usize = 8192;

/// What kind of public key a certificate certifies.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// RSA with a modulus of so many bits.
    Rsa(usize),
    /// Anything else, by the object identifier of the algorithm or of its curve.
    Other(String),
}

impl KeyKind {
    pub(crate) fn of(info: &SubjectPublicKeyInfo<'_>) -> Self {
        let algorithm = &info.algorithm;
        if algorithm.algorithm == OID_PKCS1_RSAENCRYPTION {
            if let Ok(PublicKey::RSA(key)) = info.parsed() {
                return Self::Rsa(bits(key.modulus));
            }
        } else if algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = algorithm.parameters.as_ref();
            return match curve.and_then(|curve| curve.as_oid().ok()) {
                Some(curve) if curve == OID_EC_P256 => Self::P256,
                Some(curve) if curve == OID_NIST_EC_P384 => Self::P384,
                Some(curve) if curve == OID_NIST_EC_P521 => Self::P521,
                Some(curve) => Self::Other(curve.to_id_string()),
                None => Self::Other("an elliptic curve without a name".to_owned()),
            };
        }
        Self::Other(algorithm.algorithm.to_id_string())
    }

    /// RSA from 2048 bits, ECDSA from P-256.
    pub fn is_strong_enough(&self) -> bool {
        match self {
            Self::P256 | Self::P384 | Self::P521 => true,
            Self::Rsa(bits) => (SHORTEST_RSA..=LONGEST_RSA).contains(bits),
            Self::Other(_) => false,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("ECDSA P-256"),
            Self::P384 => f.write_str("ECDSA P-384"),
            Self::P521 => f.write_str("ECDSA P-521"),
            Self::Rsa(bits) => write!(f, "RSA with {bits} bits"),
            Self::Other(identifier) => f.write_str(identifier),
        }
    }
}

/// How a certificate or a request is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SignatureKind {
    Ecdsa(Digest),
    Pkcs1(Digest),
    Pss(Digest),
    /// SHA-1, MD5, Ed25519 and all else, by object identifier.
    Other(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digest {
    Sha256,
    Sha384,
    Sha512,
}

impl SignatureKind {
    pub(crate) fn of(algorithm: &AlgorithmIdentifier<'_>) -> Self {
        let known = [
            (OID_SIG_ECDSA_WITH_SHA256, Self::Ecdsa(Digest::Sha256)),
            (OID_SIG_ECDSA_WITH_SHA384, Self::Ecdsa(Digest::Sha384)),
            (OID_SIG_ECDSA_WITH_SHA512, Self::Ecdsa(Digest::Sha512)),
            (OID_PKCS1_SHA256WITHRSA, Self::Pkcs1(Digest::Sha256)),
            (OID_PKCS1_SHA384WITHRSA, Self::Pkcs1(Digest::Sha384)),
            (OID_PKCS1_SHA512WITHRSA, Self::Pkcs1(Digest::Sha512)),
        ];
        let identifier = &algorithm.algorithm;
        if let Some((_, kind)) = known.into_iter().find(|(known, _)| known == identifier) {
            return kind;
        }
        let pss = (*identifier == OID_PKCS1_RSASSAPSS)
            .then(|| pss_digest(algorithm))
            .flatten();
        pss.map_or_else(|| Self::Other(identifier.to_id_string()), Self::Pss)
    }

    /// SHA-256 or better.
    pub(crate) fn is_strong_enough(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Whether `signature` over `message` was made by the key with these `key_bits`.
    pub(crate) fn verifies(
        &self,
        key: &KeyKind,
        key_bits: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        self.algorithm(key).is_some_and(|algorithm| {
            let key = UnparsedPublicKey::new(algorithm, key_bits);
            key.verify(message, signature).is_ok()
        })
    }

    fn algorithm(&self, key: &KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
        use Digest::{Sha256, Sha384, Sha512};
        Some(match (self, key) {
            (Self::Ecdsa(Sha256), KeyKind::P256) => &ECDSA_P256_SHA256_ASN1,
            (Self::Ecdsa(Sha384), KeyKind::P256) => &ECDSA_P256_SHA384_ASN1,
            (Self::Ecdsa(Sha512), KeyKind::P256) => &ECDSA_P256_SHA512_ASN1,
            (Self::Ecdsa(Sha256), KeyKind::P384) => &ECDSA_P384_SHA256_ASN1,
            (Self::Ecdsa(Sha384), KeyKind::P384) => &ECDSA_P384_SHA384_ASN1,
            (Self::Ecdsa(Sha512), KeyKind::P384) => &ECDSA_P384_SHA512_ASN1,
            (Self::Ecdsa(Sha256), KeyKind::P521) => &ECDSA_P521_SHA256_ASN1,
            (Self::Ecdsa(Sha384), KeyKind::P521) => &ECDSA_P521_SHA384_ASN1,
            (Self::Ecdsa(Sha512), KeyKind::P521) => &ECDSA_P521_SHA512_ASN1,
            (Self::Pkcs1(Sha256), KeyKind::Rsa(_)) => &RSA_PKCS1_2048_8192_SHA256,
            (Self::Pkcs1(Sha384), KeyKind::Rsa(_)) => &RSA_PKCS1_2048_8192_SHA384,
            (Self::Pkcs1(Sha512), KeyKind::Rsa(_)) => &RSA_PKCS1_2048_8192_SHA512,
            (Self::Pss(Sha256), KeyKind::Rsa(_)) => &RSA_PSS_2048_8192_SHA256,
            (Self::Pss(Sha384), KeyKind::Rsa(_)) => &RSA_PSS_2048_8192_SHA384,
            (Self::Pss(Sha512), KeyKind::Rsa(_)) => &RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}

impl fmt::Display for SignatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ecdsa(digest) => write!(f, "ECDSA with {digest:?}"),
            Self::Pkcs1(digest) => write!(f, "RSA with {digest:?}"),
            Self::Pss(digest) => write!(f, "RSA-PSS with {digest:?}"),
            Self::Other(identifier) => f.write_str(identifier),
        }
    }
}

/// RFC 4055 §3.1; the default digest of PSS is SHA-1.
fn pss_digest(algorithm: &AlgorithmIdentifier<'_>) -> Option<Digest> {
    let parameters = algorithm.parameters.as_ref()?;
    let parameters = RsaSsaPssParams::try_from(parameters).ok()?;
    let digest = parameters.hash_algorithm_oid();
    let known = [
        (OID_NIST_HASH_SHA256, Digest::Sha256),
        (OID_NIST_HASH_SHA384, Digest::Sha384),
        (OID_NIST_HASH_SHA512, Digest::Sha512),
    ];
    let mut known = known.into_iter();
    known
        .find(|(known, _)| known == digest)
        .map(|(_, digest)| digest)
}

fn bits(modulus: &[u8]) -> usize {
    let mut octets = modulus.iter().skip_while(|octet| **octet == 0);
    octets.next().map_or(0, |first| {
        let top = 8 - usize::try_from(first.leading_zeros()).unwrap_or(0);
        octets.count() * 8 + top
    })
}
