//! What the demo's clients trust: the CA certificates of the tunnel, and nothing else.
//!
//! A rotation of the CA goes well because every verifier holds both certificates before the first
//! leaf of the new one is served. The set is looked up when a certificate is verified, not when a
//! client is made, so that one order of events holds for every handshake in flight.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use thiserror::Error;
use tokio_rustls::rustls;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Why certificates cannot be trusted.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrustError {
    /// What the daemon gave is no PEM certificate.
    #[error("not a PEM certificate")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// What the daemon gave cannot anchor trust.
    #[error("not a usable CA certificate")]
    Unusable(#[from] rustls::Error),
    /// What is to be shown is no certificate with its key.
    #[error("not a usable client certificate")]
    Client(#[source] rustls::Error),
    /// There is none to trust.
    #[error("no CA certificate to trust")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The set of CA certificates in force. Shared by all clients.
pub struct Trust {
    provider: Arc<CryptoProvider>,
    held: RwLock<Held>,
    shown: RwLock<Option<Shown>>,
    seen: Mutex<HashSet<Vec<u8>>>,
}

/// The clients' own certificate.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

#[derive(Default)]
struct Held {
    verifier: Option<Arc<WebPkiServerVerifier>>,
    pem: String,
}

impl Trust {
    /// Trusts nobody yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            provider: Arc::new(aws_lc_rs::default_provider()),
            held: RwLock::default(),
            shown: RwLock::default(),
            seen: Mutex::default(),
        })
    }

    /// From now on trusts exactly these PEM certificates.
    ///
    /// # Errors
    ///
    /// One of them is not usable; the set stays as it was.
    pub fn hold<S: AsRef<str>>(&self, certificates: &[S]) -> Result<(), TrustError> {
        let mut roots = RootCertStore::empty();
        let mut pem = String::new();
        for certificate in certificates {
            for certificate in CertificateDer::pem_slice_iter(certificate.as_ref().as_bytes()) {
                roots.add(certificate?)?;
            }
            pem.push_str(certificate.as_ref());
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&self.provider),
        )
        .build()?;
        *self.held.write().unwrap_or_else(PoisonError::into_inner) = Held {
            verifier: Some(verifier),
            pem,
        };
        Ok(())
    }

    /// From now on clients show this certificate, PEM, where they are asked for one.
    ///
    /// # Errors
    ///
    /// It is none, or the key is none.
    pub fn show(&self, certificate: &str, key: &str) -> Result<(), TrustError> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(certificate.as_bytes()).collect();
        let shown = Shown {
            chain: chain?,
            key: PrivateKeyDer::from_pem_slice(key.as_bytes())?,
        };
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(())
    }

    /// The certificates in force as one PEM text, for programs that read a CA file.
    pub fn pem(&self) -> String {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.pem.clone()
    }

    /// How many different server certificates were verified so far: that a rotation reached the
    /// clients, whatever the daemon says of it.
    pub fn seen(&self) -> usize {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A TLS client that offers `alpn` and verifies against the set in force.
    ///
    /// # Errors
    ///
    /// The provider has no suite for TLS 1.2 and 1.3, or the clients' own certificate is unusable.
    pub fn client(self: &Arc<Self>, alpn: &[u8]) -> Result<Arc<ClientConfig>, TrustError> {
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Self>::clone(self));
        let shown = self.shown.read().unwrap_or_else(PoisonError::into_inner);
        let mut config = match &*shown {
            Some(Shown { chain, key }) => config
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(TrustError::Client)?,
            None => config.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }

    fn verifier(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        let verifier = held.verifier.clone();
        verifier.ok_or_else(|| rustls::Error::General("no CA certificate is trusted yet".into()))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trust(..)")
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.verifier()?.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        let seen = self.seen.lock();
        let mut seen = seen.unwrap_or_else(PoisonError::into_inner);
        if !seen.contains(end_entity.as_ref()) {
            seen.insert(end_entity.to_vec());
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier()?.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
