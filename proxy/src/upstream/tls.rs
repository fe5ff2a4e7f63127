//! Who vouches for https upstreams.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::config::{ConfigError, UpstreamPolicy, authorities};

/// The client side of TLS to upstreams: HTTP/1.1 over TLS 1.2 or 1.3, verified.
#[derive(Clone, Debug)]
pub struct Trust(pub(super) Arc<ClientConfig>);

impl Trust {
    /// Reads the certificate authorities that `policy` names.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or holds no usable certificate, or no authority at all.
    ///
    /// # Panics
    ///
    /// Never: the provider serves both versions of TLS.
    pub fn load(policy: &UpstreamPolicy) -> Result<Self, ConfigError> {
        let listed = policy.ca_file.as_deref().map(authorities).transpose()?;
        let mut roots = listed.unwrap_or_else(RootCertStore::empty);
        if policy.include_system_cas {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "system certificate authority not read");
            }
            roots.add_parsable_certificates(found.certs);
        }
        if roots.is_empty() {
            return Err(ConfigError::NoSystemAuthorities);
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider serves both versions of TLS")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }
}
