//! A look at the files that the configuration names, before traffic comes.
//!
//! This finds at start what would otherwise be found by the first caller. It is not the check that
//! guards a swap: `credential` verifies every pair again as a peer would.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use control::Secret;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, RootCertStore};
use webpki::{EndEntityCert, KeyUsage};

use super::{Config, ConfigError, CredentialFiles, RouteSource};
use crate::route;
use crate::secret_file;
use crate::upstream::Trust;

/// No key comes near it.
const LONGEST: usize = 1 << 20;

/// Reads a file, worded as the stock proxy words it when that fails.
pub(super) fn open(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| ConfigError::Open {
        path: path.to_owned(),
        error,
    })
}

pub(super) fn files(config: &Config, now: SystemTime) -> Result<(), ConfigError> {
    if let Some(files) = &config.files {
        let checked = pair(files, now);
        match checked {
            Err(error) if config.control.is_some() => {
                // The daemon's credential is on its way: bad files are no reason to refuse it.
                // The log begins when the configuration is known.
                let error = error.to_string();
                process::log::later(move || {
                    tracing::warn!(
                        error,
                        "certificate files cannot be used, waiting for the daemon"
                    );
                });
            }
            checked => checked?,
        }
    }
    if let RouteSource::File(map) = &config.routes
        && route::compile(map, true)?
            .iter()
            .any(|rule| rule.target.tls)
    {
        Trust::load(&config.upstream)?;
    }
    Ok(())
}

fn pair(files: &CredentialFiles, now: SystemTime) -> Result<(), ConfigError> {
    let chain = open(&files.certificate)?;
    let key = secret_file::read(&files.key, LONGEST).map_err(|error| ConfigError::Open {
        path: files.key.clone(),
        error,
    })?;
    let clients = files.client_ca.as_deref().map(open).transpose()?;
    check_pair(files, &chain, &key, clients.as_deref(), now)
}

/// What is wrong with what `files` say, each error with the path of its file.
pub(crate) fn check_pair(
    files: &CredentialFiles,
    chain: &str,
    key: &Secret,
    client_ca: Option<&str>,
    now: SystemTime,
) -> Result<(), ConfigError> {
    let chain = certificates(chain).ok_or_else(|| ConfigError::NoCertificate {
        path: files.certificate.clone(),
    })?;
    let key =
        PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| ConfigError::NoKey {
            path: files.key.clone(),
        })?;
    let provider = Arc::new(default_provider());
    match CertifiedKey::from_der(chain.clone(), key, &provider) {
        Ok(_) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(ConfigError::KeyMismatch {
                certificate: files.certificate.clone(),
                key: files.key.clone(),
            });
        }
        Err(rustls::Error::InvalidCertificate(error)) => {
            return Err(ConfigError::BadCertificate {
                path: files.certificate.clone(),
                detail: error.to_string(),
            });
        }
        Err(_) => {
            return Err(ConfigError::BadKey {
                path: files.key.clone(),
            });
        }
    }
    if let Some(leaf) = chain.first() {
        dates(leaf, &files.certificate, now)?;
    }
    if let (Some(path), Some(text)) = (&files.client_ca, client_ca) {
        authorities_of(path, text)?;
    }
    Ok(())
}

/// The certificate authorities of a PEM bundle, at least one.
pub(crate) fn authorities(path: &Path) -> Result<RootCertStore, ConfigError> {
    authorities_of(path, &open(path)?)
}

fn authorities_of(path: &Path, text: &str) -> Result<RootCertStore, ConfigError> {
    let found = certificates(text).ok_or_else(|| ConfigError::NoAuthority {
        path: path.to_owned(),
    })?;
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots
            .add(certificate)
            .map_err(|error| ConfigError::BadAuthority {
                path: path.to_owned(),
                detail: error.to_string(),
            })?;
    }
    Ok(roots)
}

/// The certificates of PEM; `None`: it has none.
fn certificates(text: &str) -> Option<Vec<CertificateDer<'static>>> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    certificates.ok().filter(|found| !found.is_empty())
}

/// Dates are checked before the chain is built, so without any trust anchor a certificate in date
/// ends at `UnknownIssuer` and one out of date does not get that far.
fn dates(leaf: &CertificateDer<'_>, path: &Path, now: SystemTime) -> Result<(), ConfigError> {
    let bad = |detail: webpki::Error| ConfigError::BadCertificate {
        path: path.to_owned(),
        detail: detail.to_string(),
    };
    let leaf = EndEntityCert::try_from(leaf).map_err(bad)?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH);
    let now = UnixTime::since_unix_epoch(since.unwrap_or_default());
    let algorithms = default_provider().signature_verification_algorithms;
    match leaf.verify_for_usage(
        algorithms.all,
        &[],
        &[],
        now,
        KeyUsage::server_auth(),
        None,
        None,
    ) {
        Err(webpki::Error::CertExpired { .. }) => Err(ConfigError::Expired {
            path: path.to_owned(),
        }),
        Err(webpki::Error::CertNotValidYet { .. }) => Err(ConfigError::NotYetValid {
            path: path.to_owned(),
        }),
        Ok(_) | Err(webpki::Error::UnknownIssuer) => Ok(()),
        // What `openssl req -x509` makes by default. The stock proxy serves it, and callers that were
        // given this very certificate accept it.
        Err(webpki::Error::CaUsedAsEndEntity) => {
            let path = path.display().to_string();
            process::log::later(move || {
                tracing::warn!(
                    path,
                    "the certificate is a CA's own, callers that verify strictly refuse it"
                );
            });
            Ok(())
        }
        Err(error) => Err(bad(error)),
    }
}
