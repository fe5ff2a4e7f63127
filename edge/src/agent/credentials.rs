//! The agent's files: its certificate and key, the tunnel's CA and the edge's own.
//!
//! All are read and hashed anew every 250 ms, whatever their dates say and however they were replaced.
//! What is read has to be the same twice in a row, the key has to belong to the certificate, and both to
//! be in date: then every connection from there on is made with it. What cannot be used is logged once,
//! and the last good one stays. Connections that run are the pool's business.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use pki::{Certificate, Fingerprint};
use process::{Clock, Failure, Tasks};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;
use tokio::sync::watch;
use tokio_rustls::rustls;
use zeroize::Zeroizing;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_millis(250);
/// Between the two readings that have to agree.
const SETTLE: Duration = Duration::from_millis(20);
/// No certificate chain or key comes near it.
const LONGEST: usize = 1 << 20;

/// Why what the files say was not taken up.
#[derive(Debug, Error)]
pub(super) enum Unusable {
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{} holds no PEM {what}", path.display())]
    Empty { path: PathBuf, what: &'static str },
    #[error("the client certificate in {} is out of date", .0.display())]
    OutOfDate(PathBuf),
    #[error("certificate and key do not belong together, or cannot be used")]
    Pair(#[source] rustls::Error),
    #[error("a CA certificate in {} cannot be used", path.display())]
    Ca {
        path: PathBuf,
        #[source]
        error: rustls::Error,
    },
    #[error("this machine has no certificate authorities")]
    NoAuthorities,
}

/// Where they are.
#[derive(Clone, Debug)]
pub struct CredentialFiles {
    /// PEM chain of the client certificate, shown to the edge and to the proxy.
    pub certificate: PathBuf,
    /// Its PEM key.
    pub key: PathBuf,
    /// CA certificates of the tunnel: inner TLS ends under one of these.
    pub tunnel_ca: PathBuf,
    /// CA certificates of the edge; none: those of the machine.
    pub edge_ca: Option<PathBuf>,
}

/// TLS as it is spoken now.
#[derive(Debug)]
pub(super) struct Material {
    /// To the edge.
    pub(super) outer: Arc<ClientConfig>,
    /// To the proxy, HTTP/2 preferred.
    pub(super) inner: Arc<ClientConfig>,
    /// To the proxy, HTTP/1.1 alone: what is upgraded there.
    pub(super) plain: Arc<ClientConfig>,
    /// Which reading of the files it is.
    pub(super) generation: u64,
}

/// The files and what was made of them last.
pub(super) struct Credentials {
    files: CredentialFiles,
    clock: Arc<dyn Clock>,
    current: watch::Sender<Arc<Material>>,
    taken: Vec<u8>,
}

impl Credentials {
    /// Reads everything for the first time.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub(super) fn load(files: CredentialFiles, clock: Arc<dyn Clock>) -> Result<Self, Unusable> {
        let texts = Texts::read(&files)?;
        let material = texts.material(&files, clock.as_ref(), 1)?;
        texts.say(1);
        Ok(Self {
            files,
            clock,
            current: watch::Sender::new(Arc::new(material)),
            taken: texts.digest(),
        })
    }

    /// What connections are made with.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Material>> {
        self.current.subscribe()
    }

    /// Takes up what the files say until the stop.
    pub(super) async fn watch(mut self, tasks: Tasks) -> Result<(), Failure> {
        let mut said = String::new();
        while !tasks.is_stopping() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => break,
            }
            let error = match self.look().await {
                Ok(()) => String::new(),
                Err(error) => crate::causes::causes(&error),
            };
            if error != said && !error.is_empty() {
                tracing::error!(error, "files not taken, the last good ones are kept");
            }
            said = error;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), Unusable> {
        let first = self.read().await?.digest();
        if first == self.taken {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
        let texts = self.read().await?;
        if texts.digest() != first {
            // Somebody is writing: it is looked at again in a moment.
            return Ok(());
        }
        let generation = self.current.borrow().generation + 1;
        let material = texts.material(&self.files, self.clock.as_ref(), generation)?;
        self.current.send_replace(Arc::new(material));
        self.taken = first;
        texts.say(generation);
        Ok(())
    }

    /// Off the threads that carry calls: the files may lie on a network.
    async fn read(&self) -> Result<Texts, Unusable> {
        let files = self.files.clone();
        let read = tokio::task::spawn_blocking(move || Texts::read(&files)).await;
        read.unwrap_or_else(|error| {
            Err(Unusable::Unreadable {
                path: self.files.certificate.clone(),
                error: io::Error::other(error),
            })
        })
    }
}

/// Everything that the files say, as it was read once.
struct Texts {
    chain: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    tunnel_ca: Vec<u8>,
    edge_ca: Option<Vec<u8>>,
}

impl Texts {
    fn read(files: &CredentialFiles) -> Result<Self, Unusable> {
        let plain = |path: &Path| read(path).map(|mut text| std::mem::take(&mut *text));
        Ok(Self {
            chain: plain(&files.certificate)?,
            key: read(&files.key)?,
            tunnel_ca: plain(&files.tunnel_ca)?,
            edge_ca: files.edge_ca.as_deref().map(plain).transpose()?,
        })
    }

    fn digest(&self) -> Vec<u8> {
        let mut context = digest::Context::new(&digest::SHA256);
        let edge_ca = self.edge_ca.as_deref().unwrap_or_default();
        for part in [&*self.chain, &*self.key, &*self.tunnel_ca, edge_ca] {
            // The length before each part: no two sets of files hash alike by moving a boundary.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.finish().as_ref().to_vec()
    }

    /// Which files they are, without what is in them.
    fn say(&self, generation: u64) {
        let leaf = CertificateDer::from_pem_slice(&self.chain).unwrap_or_else(|_| vec![].into());
        let certificate = Fingerprint::of(&leaf);
        let tunnel_ca_file = Fingerprint::of(&self.tunnel_ca);
        tracing::info!(generation, %certificate, %tunnel_ca_file, "files taken");
    }

    fn material(
        &self,
        files: &CredentialFiles,
        clock: &dyn Clock,
        generation: u64,
    ) -> Result<Material, Unusable> {
        let chain = certificates(&files.certificate, &self.chain)?;
        let leaf = chain
            .first()
            .and_then(|leaf| Certificate::from_der(leaf.to_vec()).ok());
        if leaf.is_some_and(|leaf| !leaf.validity().contains(clock.wall())) {
            return Err(Unusable::OutOfDate(files.certificate.clone()));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| Unusable::Empty {
            path: files.key.clone(),
            what: "private key",
        })?;
        let tunnel = roots(&files.tunnel_ca, &self.tunnel_ca)?;
        let edge = match (&files.edge_ca, &self.edge_ca) {
            (Some(path), Some(text)) => roots(path, text)?,
            _ => machine()?,
        };
        let client = |roots: &RootCertStore, alpn: &[&[u8]]| {
            let provider = Arc::new(default_provider());
            let mut config = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(Unusable::Pair)?
                .with_root_certificates(roots.clone())
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(Unusable::Pair)?;
            config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
            // A resumed session would show neither certificate anew.
            config.resumption = Resumption::disabled();
            Ok(Arc::new(config))
        };
        Ok(Material {
            outer: client(&edge, &[b"http/1.1"])?,
            inner: client(&tunnel, &[b"h2", b"http/1.1"])?,
            plain: client(&tunnel, &[b"http/1.1"])?,
            generation,
        })
    }
}

/// Read into a buffer that does not grow, so that no part of a key stays behind in a smaller one.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Unusable> {
    let unreadable = |error| Unusable::Unreadable {
        path: path.to_owned(),
        error,
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let said = file.metadata().map_err(unreadable)?.len();
    let length = usize::try_from(said).unwrap_or(LONGEST).min(LONGEST);
    let mut text = Zeroizing::new(vec![0; length + 1]);
    let mut filled = 0;
    while let Some(room) = text.get_mut(filled..).filter(|room| !room.is_empty()) {
        match file.read(room) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if filled > length {
        return Err(unreadable(io::Error::other(
            "it grows, or is longer than 1 MiB",
        )));
    }
    text.truncate(filled);
    Ok(text)
}

fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let read = read.unwrap_or_default();
    if read.is_empty() {
        return Err(Unusable::Empty {
            path: path.to_owned(),
            what: "certificate",
        });
    }
    Ok(read)
}

fn roots(path: &Path, text: &[u8]) -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        roots.add(certificate).map_err(|error| Unusable::Ca {
            path: path.to_owned(),
            error,
        })?;
    }
    Ok(roots)
}

fn machine() -> Result<RootCertStore, Unusable> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Unusable::NoAuthorities);
    }
    Ok(roots)
}
