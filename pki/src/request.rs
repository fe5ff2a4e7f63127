//! Certificate requests (PKCS #10, RFC 2986): how a client shows its public key and that it has the
//! private one. Whatever else a request asks for is ignored.

use rustls_pki_types::pem::SectionKind;
use thiserror::Error;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::der::Signed;
use crate::key::PrivateKey;
use crate::pem;
use crate::profile::PublicHalf;
use crate::sign;
use crate::signature::{KeyKind, SignatureKind};

/// Longest text that is looked at, in bytes; RSA with 8192 bits and a long name needs half of it.
const LONGEST: usize = 16 * 1024;

/// A request in PEM for `key` that names `name`.
///
/// # Errors
///
/// [`RequestError::Sign`] if the name or the key cannot be encoded.
pub fn request(key: &PrivateKey, name: &str) -> Result<String, RequestError> {
    let der = sign::request(key, name).map_err(|_| RequestError::Sign)?;
    Ok(String::clone(&pem::write("CERTIFICATE REQUEST", &der)))
}

/// The public key of a request that proved that it has the private one.
#[derive(Debug)]
pub(crate) struct Requested {
    kind: KeyKind,
    bits: Vec<u8>,
}

impl Requested {
    pub(crate) fn from_pem(text: &str) -> Result<Self, RequestError> {
        if pem::holds_key(text) {
            return Err(RequestError::HoldsKey);
        }
        if text.len() > LONGEST {
            return Err(RequestError::Malformed);
        }
        let sections = pem::sections(text).ok_or(RequestError::Malformed)?;
        let mut requests = sections
            .iter()
            .filter(|(kind, _)| *kind == SectionKind::Csr);
        let (Some((_, der)), None) = (requests.next(), requests.next()) else {
            return Err(RequestError::Malformed);
        };
        Self::from_der(der)
    }

    pub(crate) fn public_half(&self) -> PublicHalf<'_> {
        PublicHalf {
            kind: &self.kind,
            bits: &self.bits,
        }
    }

    fn from_der(der: &[u8]) -> Result<Self, RequestError> {
        let signed = Signed::read(der).ok_or(RequestError::Malformed)?;
        let (_, request) =
            X509CertificationRequest::from_der(der).map_err(|_| RequestError::Malformed)?;
        let info = &request.certification_request_info;
        let kind = KeyKind::of(&info.subject_pki);
        if !matches!(kind, KeyKind::P256 | KeyKind::P384 | KeyKind::Rsa(_))
            || !kind.is_strong_enough()
        {
            return Err(RequestError::Key(kind));
        }
        let bits = &info.subject_pki.subject_public_key.data;
        let algorithm = SignatureKind::of(&request.signature_algorithm);
        if !algorithm.verifies(&kind, bits, signed.part, signed.signature) {
            return Err(RequestError::Signature);
        }
        let bits = bits.to_vec();
        Ok(Self { kind, bits })
    }
}

/// Why a request gets no certificate.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// Not one PKCS #10 request in PEM of at most 16 KiB.
    #[error("not a certificate request: exactly one in PEM is needed, of at most 16 KiB")]
    Malformed,
    /// A private key came along, which must stay where it was made.
    #[error("a private key in the request, where only the request belongs")]
    HoldsKey,
    /// Too weak, or of a kind that we do not certify.
    #[error("the key is {0}: ECDSA P-256 or P-384, or RSA from 2048 bits is needed")]
    Key(KeyKind),
    /// The sender does not have the private key, or signed with less than SHA-256.
    #[error("the signature of the request does not verify with SHA-256 or better")]
    Signature,
    /// The request could not be made.
    #[error("the request cannot be encoded")]
    Sign,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Algorithm;

    fn refused(text: &str) -> RequestError {
        Requested::from_pem(text).unwrap_err()
    }

    #[test]
    fn the_public_key_of_a_request_is_the_one_that_signed_it() {
        for algorithm in [
            Algorithm::EcdsaP256,
            Algorithm::EcdsaP384,
            Algorithm::Rsa2048,
        ] {
            let key = PrivateKey::generate(algorithm).unwrap();
            let requested = Requested::from_pem(&request(&key, "alice").unwrap()).unwrap();
            assert_eq!(requested.bits, key.public_key_bits());
            assert_eq!(requested.kind, key.kind());
        }
    }

    #[test]
    fn a_request_with_a_bit_changed_in_what_it_signs_or_in_the_signature_is_refused() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let der = sign::request(&key, "alice").unwrap();
        assert!(Requested::from_der(&der).is_ok());
        // What names the algorithm is not signed: to change it can only make a signature fail.
        let algorithm = Signed::read(&der).unwrap().algorithm;
        let start = algorithm.as_ptr().addr() - der.as_ptr().addr();
        let named = start..start + algorithm.len();
        for index in (0..der.len()).filter(|index| !named.contains(index)) {
            for bit in [0x01, 0x20, 0x80] {
                let mut changed = der.clone();
                changed[index] ^= bit;
                assert!(Requested::from_der(&changed).is_err(), "octet {index}");
            }
        }
        let longer = [der.as_slice(), &[0]].concat();
        assert_eq!(
            Requested::from_der(&longer).unwrap_err(),
            RequestError::Malformed
        );
    }

    #[test]
    fn no_request_two_requests_a_huge_one_and_one_with_a_key_are_refused() {
        let key = PrivateKey::generate(Algorithm::EcdsaP256).unwrap();
        let one = request(&key, "alice").unwrap();
        assert_eq!(refused(""), RequestError::Malformed);
        assert_eq!(refused(&one.repeat(2)), RequestError::Malformed);
        let huge = "x\n".repeat(LONGEST) + &one;
        assert_eq!(refused(&huge), RequestError::Malformed);
        assert_eq!(refused(&(one + &key.to_pem())), RequestError::HoldsKey);
    }
}
