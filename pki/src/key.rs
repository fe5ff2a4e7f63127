//! Private keys: made, read, written, and used for one thing only, signing.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
};
use rustls_pki_types::pem::SectionKind;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::pem;
use crate::signature::KeyKind;

/// What kind of key to make. ECDSA P-256 unless told otherwise: everybody accepts it, and a handshake
/// with it costs a tenth of one with RSA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256, signing with SHA-256.
    #[default]
    EcdsaP256,
    /// ECDSA on P-384, signing with SHA-384.
    EcdsaP384,
    /// RSA with 2048 bits, signing with SHA-256 (PKCS #1 v1.5, as certificates have it).
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// RSA with 4096 bits.
    Rsa4096,
}

impl Algorithm {
    /// Every one, the default first.
    pub const ALL: [Self; 5] = [
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::Rsa2048,
        Self::Rsa3072,
        Self::Rsa4096,
    ];

    /// As it is written in a configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ecdsa-p256",
            Self::EcdsaP384 => "ecdsa-p384",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| UnknownAlgorithm(text.to_owned()))
    }
}

/// The text names no [`Algorithm`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown key algorithm '{0}': one of ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096")]
pub struct UnknownAlgorithm(String);

/// A private key. Clones share the one copy in memory, which AWS-LC erases when the last is dropped.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    algorithm: Algorithm,
    pair: Pair,
    public: Vec<u8>,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    ///
    /// [`KeyError::Generate`] if AWS-LC could not.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let pair = match algorithm {
            Algorithm::EcdsaP256 => {
                EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Pair::Ecdsa)
            }
            Algorithm::EcdsaP384 => {
                EcdsaKeyPair::generate(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Pair::Ecdsa)
            }
            Algorithm::Rsa2048 => RsaKeyPair::generate(KeySize::Rsa2048).map(Pair::Rsa),
            Algorithm::Rsa3072 => RsaKeyPair::generate(KeySize::Rsa3072).map(Pair::Rsa),
            Algorithm::Rsa4096 => RsaKeyPair::generate(KeySize::Rsa4096).map(Pair::Rsa),
        };
        let pair = pair.map_err(|Unspecified| KeyError::Generate)?;
        Self::new(algorithm, pair).map_err(|Unspecified| KeyError::Generate)
    }

    /// Reads the one private key in `text`: PKCS #8, SEC 1 (`EC PRIVATE KEY`) or PKCS #1
    /// (`RSA PRIVATE KEY`), not encrypted. Other sections, such as `EC PARAMETERS`, are passed over.
    ///
    /// # Errors
    ///
    /// [`KeyError`], by what the owner of the file can do.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.contains("ENCRYPTED") {
            return Err(KeyError::Encrypted);
        }
        let sections = pem::sections(text).ok_or(KeyError::Malformed)?;
        let mut keys = sections.into_iter().filter(|(kind, _)| {
            matches!(
                kind,
                SectionKind::PrivateKey | SectionKind::EcPrivateKey | SectionKind::RsaPrivateKey
            )
        });
        let (kind, der) = keys.next().ok_or(KeyError::Absent)?;
        if keys.next().is_some() {
            return Err(KeyError::Several);
        }
        Self::from_der(kind, &der)
    }

    /// PKCS #8 in PEM; erased when dropped.
    ///
    /// # Panics
    ///
    /// Never: a key that was made or read can be written.
    pub fn to_pem(&self) -> Zeroizing<String> {
        const LABEL: &str = "PRIVATE KEY";
        const WRITABLE: &str = "a key that was made or read can be written";
        match &self.0.pair {
            Pair::Ecdsa(pair) => pem::write(LABEL, pair.to_pkcs8v1().expect(WRITABLE).as_ref()),
            Pair::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().expect(WRITABLE);
                pem::write(LABEL, der.as_ref())
            }
        }
    }

    /// Which kind it is.
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// `SubjectPublicKeyInfo` of the public half in DER (RFC 5280 §4.1.2.7).
    pub fn public_key(&self) -> &[u8] {
        &self.0.public
    }

    /// The contents of the BIT STRING in [`PrivateKey::public_key`].
    pub(crate) fn public_key_bits(&self) -> &[u8] {
        match &self.0.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    /// The algorithm as a certificate shows it.
    pub(crate) fn kind(&self) -> KeyKind {
        match self.0.algorithm {
            Algorithm::EcdsaP256 => KeyKind::P256,
            Algorithm::EcdsaP384 => KeyKind::P384,
            Algorithm::Rsa2048 => KeyKind::Rsa(2048),
            Algorithm::Rsa3072 => KeyKind::Rsa(3072),
            Algorithm::Rsa4096 => KeyKind::Rsa(4096),
        }
    }

    /// Signs with the digest that belongs to the algorithm.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let random = SystemRandom::new();
        match &self.0.pair {
            Pair::Ecdsa(pair) => Ok(pair.sign(&random, message)?.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature)?;
                Ok(signature)
            }
        }
    }

    fn from_der(kind: SectionKind, der: &[u8]) -> Result<Self, KeyError> {
        let curves = [
            (Algorithm::EcdsaP256, &ECDSA_P256_SHA256_ASN1_SIGNING),
            (Algorithm::EcdsaP384, &ECDSA_P384_SHA384_ASN1_SIGNING),
        ];
        let on_curve = |(algorithm, curve): (Algorithm, &'static EcdsaSigningAlgorithm)| {
            let pair = EcdsaKeyPair::from_private_key_der(curve, der).ok()?;
            Some((algorithm, Pair::Ecdsa(pair)))
        };
        let rsa = || {
            let pair = match kind {
                SectionKind::RsaPrivateKey => RsaKeyPair::from_der(der),
                _ => RsaKeyPair::from_pkcs8(der),
            };
            let pair = pair.ok()?;
            let algorithm = match pair.public_modulus_len() {
                256 => Algorithm::Rsa2048,
                384 => Algorithm::Rsa3072,
                512 => Algorithm::Rsa4096,
                _ => return None,
            };
            Some((algorithm, Pair::Rsa(pair)))
        };
        let (algorithm, pair) = curves
            .into_iter()
            .find_map(on_curve)
            .or_else(rsa)
            .ok_or(KeyError::Unsupported)?;
        Self::new(algorithm, pair).map_err(|Unspecified| KeyError::Unsupported)
    }

    fn new(algorithm: Algorithm, pair: Pair) -> Result<Self, Unspecified> {
        let public: PublicKeyX509Der<'_> = match &pair {
            Pair::Ecdsa(pair) => pair.public_key().as_der()?,
            Pair::Rsa(pair) => pair.public_key().as_der()?,
        };
        Ok(Self(Arc::new(Inner {
            algorithm,
            public: public.as_ref().to_vec(),
            pair,
        })))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, ..)", self.0.algorithm)
    }
}

/// Why there is no key. Never says anything of its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyError {
    /// AWS-LC could not make one.
    #[error("no key could be made")]
    Generate,
    /// The text has no private key.
    #[error("no private key in the PEM text")]
    Absent,
    /// The text has more than one.
    #[error("more than one private key in the PEM text")]
    Several,
    /// The key is behind a passphrase, which nobody could type at a renewal.
    #[error("the private key is encrypted")]
    Encrypted,
    /// Not PEM, or cut off.
    #[error("the PEM text is damaged")]
    Malformed,
    /// Damaged, or of a kind that we do not use.
    #[error("not a private key of a supported kind (ECDSA P-256 or P-384, RSA 2048, 3072 or 4096)")]
    Unsupported,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_is_made_written_and_read_as_itself() {
        for algorithm in Algorithm::ALL {
            let key = PrivateKey::generate(algorithm).unwrap();
            let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
            assert_eq!(again.algorithm(), algorithm);
            assert_eq!(again.public_key(), key.public_key());
            assert_eq!(*again.to_pem(), *key.to_pem());
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        assert!("ed25519".parse::<Algorithm>().is_err());
    }

    #[test]
    fn debug_shows_the_kind_and_nothing_else() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        assert_eq!(format!("{key:?}"), "PrivateKey(ecdsa-p256, ..)");
    }

    #[test]
    fn a_text_with_no_two_broken_or_encrypted_keys_is_refused() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap().to_pem();
        let refused = |text: &str| PrivateKey::from_pem(text).unwrap_err();
        assert_eq!(refused(""), KeyError::Absent);
        assert_eq!(refused(&pem::write("CERTIFICATE", b"x")), KeyError::Absent);
        assert_eq!(refused(&format!("{}{}", *key, *key)), KeyError::Several);
        assert_eq!(refused(&key[..key.len() / 2]), KeyError::Malformed);
        assert_eq!(
            refused(&pem::write("ENCRYPTED PRIVATE KEY", b"x")),
            KeyError::Encrypted
        );
        assert_eq!(
            refused(&pem::write("PRIVATE KEY", b"x")),
            KeyError::Unsupported
        );
    }
}
