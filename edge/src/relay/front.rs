//! The edge's own certificate, and TLS as it is ended for `api.EDGE` and `agents.EDGE`.
//!
//! Files are hashed every 250 ms and a new pair is served from the next handshake on; one that cannot be
//! used changes nothing. On `agents.EDGE` a client's certificate is asked for without a hint at any CA and
//! proves possession of its key only: whether it may call is decided for each CONNECT, against the tunnel
//! that is named there. So nothing is resumed there either.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use process::{Clock, Failure, Tasks};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use thiserror::Error;
use tokio::sync::watch;
use tokio_rustls::rustls;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_millis(250);
/// Between the two readings that have to agree.
const SETTLE: Duration = Duration::from_millis(20);

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum FrontError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable { path: PathBuf, error: io::Error },
    #[error("no PEM certificate chain")]
    NoCertificate,
    #[error("no PEM private key")]
    NoKey,
    #[error("certificate and key cannot be served: {0}")]
    Unusable(rustls::Error),
    #[error("the certificate cannot be read")]
    Unknown,
    #[error("the certificate does not cover {0}")]
    Uncovered(String),
    #[error("the certificate has expired")]
    Expired,
}

/// Both configurations of one certificate.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) api: Arc<ServerConfig>,
    pub(super) agents: Arc<ServerConfig>,
}

/// What is served now. Clones share it.
#[derive(Clone, Debug)]
pub struct Front {
    served: watch::Sender<Arc<Served>>,
    files: Option<Arc<Files>>,
}

/// Where the pair is, and what it has to be good for.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    edge: String,
    clock: Arc<dyn Clock>,
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl Files {
    fn load(&self) -> Result<Served, FrontError> {
        let chain = read(&self.certificate)?;
        let served = served(&chain, &read(&self.key)?)?;
        let leaf = leaf(&chain)?;
        let wildcard = format!("*.{}", self.edge);
        let covers = |name: &str| {
            let mut names = leaf.dns_names().iter();
            names.any(|known| {
                known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(&wildcard)
            })
        };
        let names = ["api", "agents"].map(|label| format!("{label}.{}", self.edge));
        let uncovered: Vec<String> = names.into_iter().filter(|name| !covers(name)).collect();
        if !uncovered.is_empty() {
            return Err(FrontError::Uncovered(uncovered.join(", ")));
        }
        // A clock that is slow must not keep an edge from starting; one that is over is over.
        if leaf.validity().ended_before(self.clock.wall()) {
            return Err(FrontError::Expired);
        }
        Ok(served)
    }
}

/// The edge's own certificate, which stands first (RFC 8446 section 4.4.2).
pub(crate) fn leaf(chain: &[u8]) -> Result<pki::Certificate, FrontError> {
    let first = CertificateDer::pem_slice_iter(chain).next();
    let first = first
        .and_then(Result::ok)
        .ok_or(FrontError::NoCertificate)?;
    pki::Certificate::from_der(first.to_vec()).map_err(|_| FrontError::Unknown)
}

impl Front {
    /// From PEM texts: the chain, its server certificate first, and the key.
    ///
    /// # Errors
    ///
    /// They cannot be served.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, FrontError> {
        let served = served(chain.as_bytes(), key.as_bytes())?;
        Ok(Self {
            served: watch::Sender::new(Arc::new(served)),
            files: None,
        })
    }

    /// From files, which [`watch`](Self::watch) looks after.
    ///
    /// # Errors
    ///
    /// They cannot be read, or what they hold cannot be served: the certificate is over, or does not
    /// cover `api.` and `agents.` before `edge`.
    pub fn load(
        certificate: &Path,
        key: &Path,
        edge: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, FrontError> {
        let files = Files {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            edge: edge.to_owned(),
            clock,
        };
        Ok(Self {
            served: watch::Sender::new(Arc::new(files.load()?)),
            files: Some(Arc::new(files)),
        })
    }

    /// Serves another pair from the next handshake on.
    ///
    /// # Errors
    ///
    /// It cannot be served; the one before still is.
    pub fn swap(&self, chain: &str, key: &str) -> Result<(), FrontError> {
        let served = served(chain.as_bytes(), key.as_bytes())?;
        self.served.send_replace(Arc::new(served));
        Ok(())
    }

    /// Takes up what the files say until the stop.
    ///
    /// # Errors
    ///
    /// None: what cannot be used is logged once, and the last good pair is kept.
    pub async fn watch(self, tasks: Tasks) -> Result<(), Failure> {
        let (mut taken, mut said) = (self.digest().ok(), String::new());
        while !tasks.is_stopping() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => break,
            }
            let error = match self.look(&mut taken).await {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            if error != said && !error.is_empty() {
                tracing::error!(
                    error,
                    "front certificate not taken, the last good one is kept"
                );
            }
            said = error;
        }
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<Served> {
        self.served.borrow().clone()
    }

    async fn look(&self, taken: &mut Option<Vec<u8>>) -> Result<(), FrontError> {
        let Some(files) = &self.files else {
            return Ok(());
        };
        let first = self.digest()?;
        if taken.as_ref() == Some(&first) {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
        if self.digest()? != first {
            // Somebody is writing: it is looked at again in a moment.
            return Ok(());
        }
        self.served.send_replace(Arc::new(files.load()?));
        tracing::info!("front certificate swapped");
        *taken = Some(first);
        Ok(())
    }

    fn digest(&self) -> Result<Vec<u8>, FrontError> {
        let mut context = digest::Context::new(&digest::SHA256);
        let paths = self.files.iter();
        for path in paths.flat_map(|files| [&files.certificate, &files.key]) {
            context.update(&read(path)?);
        }
        Ok(context.finish().as_ref().to_vec())
    }
}

fn read(path: &Path) -> Result<Vec<u8>, FrontError> {
    std::fs::read(path).map_err(|error| FrontError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

fn served(chain: &[u8], key: &[u8]) -> Result<Served, FrontError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|_| FrontError::NoCertificate)?;
    if chain.is_empty() {
        return Err(FrontError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| FrontError::NoKey)?;
    let provider = Arc::new(default_provider());
    let builder = || {
        ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(FrontError::Unusable)
    };
    let alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut api = builder()?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(FrontError::Unusable)?;
    api.alpn_protocols.clone_from(&alpn);
    let verifier = Arc::new(Possession(Arc::clone(&provider)));
    let mut agents = builder()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(FrontError::Unusable)?;
    agents.alpn_protocols = alpn;
    agents.session_storage = Arc::new(NoServerSessionStorage {});
    agents.send_tls13_tickets = 0;
    Ok(Served {
        api: Arc::new(api),
        agents: Arc::new(agents),
    })
}

/// Takes any certificate whose key the client proves to have; everything else is decided later.
#[derive(Debug)]
struct Possession(Arc<CryptoProvider>);

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
