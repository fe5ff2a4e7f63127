//! CA certificates out of files that an operator names and may replace.
//!
//! A file without a certificate is refused: without one a list of CAs would mean "nobody is asked". So is a
//! private key, which must not lie beside what is told to others.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use pki::Certificate;
use process::{Failure, Tasks};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use thiserror::Error;
use tokio_rustls::rustls;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_millis(250);
/// Most certificates of one list: the one in force, and the one before or after it.
pub(crate) const MOST: usize = 2;

/// Why a file of CA certificates was not taken.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum CaFileError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} is no PEM file of certificates", .0.display())]
    Malformed(PathBuf),
    #[error("{} holds a private key", .0.display())]
    HoldsKey(PathBuf),
    #[error("{} holds no certificate", .0.display())]
    Absent(PathBuf),
    #[error("{} holds a certificate that is no CA's, or may not sign certificates", .0.display())]
    NoAuthority(PathBuf),
    #[error("the files hold {0} certificates, at most two are taken")]
    TooMany(usize),
}

/// All certificates of `files`, in their order.
///
/// # Errors
///
/// The first file that cannot be used, or there are more than two in all.
pub(crate) fn load(files: &[PathBuf]) -> Result<Vec<Certificate>, CaFileError> {
    let mut found = Vec::new();
    for path in files {
        found.extend(parse(path, &read(path)?)?);
    }
    if found.len() > MOST {
        return Err(CaFileError::TooMany(found.len()));
    }
    Ok(found)
}

/// What `path` holds.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, CaFileError> {
    std::fs::read(path).map_err(|error| CaFileError::Unreadable {
        path: path.to_owned(),
        error,
    })
}

/// The certificates in `content`, at least one, each of a CA.
pub(crate) fn parse(path: &Path, content: &[u8]) -> Result<Vec<Certificate>, CaFileError> {
    let own = || path.to_owned();
    let text = std::str::from_utf8(content).map_err(|_| CaFileError::Malformed(own()))?;
    if text.contains("PRIVATE KEY-----") {
        return Err(CaFileError::HoldsKey(own()));
    }
    let mut found = Vec::new();
    for section in CertificateDer::pem_slice_iter(content) {
        let der = section.map_err(|_| CaFileError::Malformed(own()))?;
        let certificate =
            Certificate::from_der(der.to_vec()).map_err(|_| CaFileError::Malformed(own()))?;
        if !certificate.is_authority() || !certificate.may_sign_certificates() {
            return Err(CaFileError::NoAuthority(own()));
        }
        found.push(certificate);
    }
    if found.is_empty() {
        return Err(CaFileError::Absent(own()));
    }
    Ok(found)
}

/// The CAs of the edge's own certificate, as they are told to whoever asks. Clones share them.
#[derive(Clone, Debug)]
pub struct OwnCas {
    files: Arc<Vec<PathBuf>>,
    taken: Arc<RwLock<Vec<String>>>,
}

impl OwnCas {
    /// Reads `files` for the first time; none: the certificate is a public one.
    ///
    /// # Errors
    ///
    /// They cannot be used.
    pub fn load(files: Vec<PathBuf>) -> Result<Self, CaFileError> {
        let taken = texts(&files)?;
        Ok(Self {
            files: Arc::new(files),
            taken: Arc::new(RwLock::new(taken)),
        })
    }

    /// One PEM text each.
    pub fn texts(&self) -> Vec<String> {
        let taken = self.taken.read().unwrap_or_else(PoisonError::into_inner);
        taken.clone()
    }

    /// Takes up what the files say until the stop.
    ///
    /// # Errors
    ///
    /// None: what cannot be used is logged once, and the last good ones are kept.
    pub async fn watch(self, tasks: Tasks) -> Result<(), Failure> {
        let mut said = String::new();
        while !tasks.is_stopping() {
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => break,
            }
            let error = match texts(&self.files) {
                Ok(texts) => {
                    self.take(texts);
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            if error != said && !error.is_empty() {
                tracing::error!(error, "ca_files not taken, the last good ones are kept");
            }
            said = error;
        }
        Ok(())
    }

    fn take(&self, texts: Vec<String>) {
        let mut taken = self.taken.write().unwrap_or_else(PoisonError::into_inner);
        if *taken != texts {
            tracing::info!(certificates = texts.len(), "ca_files taken");
            *taken = texts;
        }
    }
}

fn texts(files: &[PathBuf]) -> Result<Vec<String>, CaFileError> {
    let certificates = load(files)?;
    Ok(certificates.iter().map(Certificate::to_pem).collect())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use pki::{Authority, AuthorityProfile};
    use process::{Clock, SystemClock};

    use super::*;

    fn now() -> SystemTime {
        SystemClock.wall()
    }

    #[test]
    fn ca_files_that_cannot_be_used_are_named_with_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let profile = AuthorityProfile::server("CA");
        let ca = Authority::generate(&profile, now()).unwrap();
        let pem = ca.certificate().to_pem();
        let key = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
        let good = write("good", &pem);
        assert_eq!(
            OwnCas::load(vec![good.clone(), good.clone()])
                .unwrap()
                .texts(),
            [pem.clone(), pem.clone()]
        );
        for (path, what) in [
            (folder.path().join("absent"), "cannot read"),
            (write("empty", ""), "holds no certificate"),
            (write("words", "none here\n"), "holds no certificate"),
            (
                write(
                    "cut",
                    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
                ),
                "is no PEM file",
            ),
            (write("key", &format!("{pem}{key}")), "holds a private key"),
            (write("three", &pem.repeat(3)), "hold 3 certificates"),
        ] {
            let said = OwnCas::load(vec![path]).unwrap_err().to_string();
            assert!(said.contains(what), "{said} for {what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ca_file_that_breaks_keeps_the_last_good_one_and_a_good_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca");
        let make = || {
            let profile = AuthorityProfile::server("CA");
            let ca = Authority::generate(&profile, now()).unwrap();
            ca.certificate().to_pem()
        };
        let (one, other) = (make(), make());
        std::fs::write(&path, &one).unwrap();
        let cas = OwnCas::load(vec![path.clone()]).unwrap();
        let tasks = Tasks::new();
        tasks.essential("cas", cas.clone().watch(tasks.clone()));
        std::fs::write(&path, "").unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cas.texts(), [one], "kept");
        std::fs::write(&path, &other).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(cas.texts(), [other], "taken");
        tasks.stop();
    }
}
