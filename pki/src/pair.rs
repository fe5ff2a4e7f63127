//! A certificate together with a private key.

use thiserror::Error;
use zeroize::Zeroizing;

use crate::certificate::{Certificate, CertificateError, certificates};
use crate::key::{KeyError, PrivateKey};

/// A certificate, what is sent along with it, and a private key: not yet known to belong together.
#[derive(Clone, Debug)]
pub struct CertifiedKey {
    certificate: Certificate,
    others: Vec<Certificate>,
    key: PrivateKey,
}

impl CertifiedKey {
    /// A certificate that is sent alone.
    pub fn new(certificate: Certificate, key: PrivateKey) -> Self {
        Self {
            certificate,
            others: Vec::new(),
            key,
        }
    }

    /// Reads a chain, the certificate of `key` first, and its key, as `tls.crt` and `tls.key` hold them.
    ///
    /// # Errors
    ///
    /// [`PairError`] says which of the two texts is at fault. That the two belong together is not
    /// checked here.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, PairError> {
        let mut chain = certificates(chain)?.into_iter();
        Ok(Self {
            certificate: chain.next().ok_or(CertificateError::Absent)?,
            others: chain.collect(),
            key: PrivateKey::from_pem(key)?,
        })
    }

    /// The certificate of the key.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// What is sent after the certificate; empty in all that we issue.
    pub fn others(&self) -> &[Certificate] {
        &self.others
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// All certificates in PEM, that of the key first.
    pub fn chain_pem(&self) -> String {
        let all = std::iter::once(&self.certificate).chain(&self.others);
        all.map(Certificate::to_pem).collect()
    }

    /// The key as PKCS #8 in PEM; erased when dropped.
    pub fn key_pem(&self) -> Zeroizing<String> {
        self.key.to_pem()
    }
}

/// Which half of a pair could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PairError {
    /// The chain.
    #[error("the certificate chain cannot be used")]
    Certificate(#[from] CertificateError),
    /// The key.
    #[error("the private key cannot be used")]
    Key(#[from] KeyError),
}
