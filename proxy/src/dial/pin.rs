//! The edge's certificate, verified against a CA file, the system's authorities, or the pin of the edge
//! CA's key.
//!
//! A pin says: one certificate that the edge shows has this key and signs the rest. It is what a join code
//! carries, so that no file has to be brought along.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use thiserror::Error;
use tokio_rustls::rustls;

use crate::config::{ConfigError, EdgeCarrier, authorities};

/// Why the edge could not be verified, whatever it showed.
#[derive(Debug, Error)]
pub(super) enum TrustError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the provider serves no version of TLS")]
    Versions(#[source] rustls::Error),
    #[error("the system has no certificate authorities")]
    None,
}

/// The client side of TLS to the edge. Read anew for each dial, so that a new CA file counts at once.
pub(super) fn client(edge: &EdgeCarrier) -> Result<Arc<ClientConfig>, TrustError> {
    let provider = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TrustError::Versions)?;
    let builder = match edge.pin {
        Some(pin) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { pin, provider })),
        None => builder.with_root_certificates(roots(edge)?),
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(edge: &EdgeCarrier) -> Result<RootCertStore, TrustError> {
    if let Some(path) = &edge.ca_file {
        return Ok(authorities(path)?);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TrustError::None);
    }
    Ok(roots)
}

/// Takes the one CA whose key is pinned, out of what the edge shows.
#[derive(Debug)]
struct Pinned {
    /// SHA-256 of its `SubjectPublicKeyInfo`.
    pin: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let pinned = intermediates.iter().find(|one| self.is_pinned(one));
        let unknown = CertificateError::UnknownIssuer;
        let pinned = pinned.ok_or(rustls::Error::InvalidCertificate(unknown))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        let provider = Arc::clone(&self.provider);
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

impl Pinned {
    fn is_pinned(&self, certificate: &CertificateDer<'_>) -> bool {
        webpki::EndEntityCert::try_from(certificate).is_ok_and(|certificate| {
            let info = certificate.subject_public_key_info();
            digest::digest(&digest::SHA256, &info).as_ref() == self.pin
        })
    }
}

#[cfg(test)]
mod tests {
    use pki::{Authority, AuthorityProfile};
    use process::{Clock, SystemClock};

    use super::*;

    fn authority() -> Authority {
        Authority::generate(&AuthorityProfile::client("CA"), SystemClock.wall()).unwrap()
    }

    #[test]
    fn whoever_shows_the_pinned_certificate_beside_its_own_is_not_the_edge() {
        let (ours, other) = (authority(), authority());
        let shown = ours.certificate().der().clone();
        let info = webpki::EndEntityCert::try_from(&shown)
            .unwrap()
            .subject_public_key_info();
        let pin = digest::digest(&digest::SHA256, &info);
        let pinned = Pinned {
            pin: pin.as_ref().try_into().unwrap(),
            provider: Arc::new(default_provider()),
        };
        let leaf = other.certificate().der();
        let name = ServerName::try_from("api.edge.example").unwrap();
        assert!(pinned.is_pinned(&shown) && !pinned.is_pinned(leaf));
        let chain = [shown];
        let since = SystemClock.wall().duration_since(std::time::UNIX_EPOCH);
        let now = UnixTime::since_unix_epoch(since.unwrap());
        let verified = pinned.verify_server_cert(leaf, &chain, &name, &[], now);
        assert!(verified.is_err(), "{verified:?}");
    }
}
