//! Tunnels from a file: an edge without a control plane, for one tunnel and one shared secret, and for
//! tests. The file holds digests and no secret; it is hashed every 250 ms and taken as a whole, or not.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::digest;
use ipnet::IpNet;
use process::{Failure, Tasks};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use thiserror::Error;
use tokio_rustls::rustls;

use crate::access::{Access, AccessSettings, BadClientCa, Limits};
use crate::directory::{CredentialEntry, Directory, Standing, TunnelEntry};

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(250);

/// Why the file was not taken.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum FixedError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("not the YAML of a list of tunnels: {0}")]
    Syntax(String),
    #[error("two tunnels have the id or the domain {0:?}")]
    Twice(String),
    #[error("tunnel {tunnel:?}: {text:?} is no {what}")]
    Value {
        tunnel: String,
        text: String,
        what: &'static str,
    },
    #[error(transparent)]
    ClientCa(#[from] BadClientCa),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    /// Edges that serve this file, this one included.
    instances: Option<u32>,
    tunnels: Vec<RawTunnel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTunnel {
    id: String,
    domain: String,
    #[serde(default)]
    suspended: bool,
    #[serde(default)]
    secrets: Vec<RawSecret>,
    #[serde(default)]
    access: RawAccess,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    id: String,
    sha256: String,
    #[serde(default = "yes")]
    accepts: bool,
    /// Unix seconds.
    cut_at: Option<u64>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAccess {
    client_ca_files: Vec<PathBuf>,
    clients: Vec<String>,
    denied: Vec<String>,
    cidrs: Vec<String>,
    asns: Vec<u32>,
    streams: Option<u32>,
    connections_per_minute: Option<u32>,
}

/// A file of tunnels and the directory that it fills.
pub struct Fixed {
    path: PathBuf,
    directory: Directory,
}

impl Fixed {
    /// Nothing is read yet.
    pub fn new(path: PathBuf, directory: Directory) -> Self {
        Self { path, directory }
    }

    /// Fills the directory for the first time.
    ///
    /// # Errors
    ///
    /// The file cannot be used; exit code 78.
    pub fn load(&self) -> Result<(), Failure> {
        let said = self.read().and_then(|text| parse(&text));
        let said =
            said.map_err(|error| Failure::config("tunnels_file cannot be used").caused_by(&error))?;
        self.fill(said);
        Ok(())
    }

    /// Takes up what the file says until the stop.
    ///
    /// # Errors
    ///
    /// None: what cannot be used is logged once, and what was last good stays.
    pub async fn watch(self, tasks: Tasks) -> Result<(), Failure> {
        let (mut taken, mut said) = (None, String::new());
        let mut known = BTreeSet::new();
        while !tasks.is_stopping() {
            let error = match self.look(&mut taken, &mut known) {
                Ok(()) => String::new(),
                Err(error) => error.to_string(),
            };
            if error != said && !error.is_empty() {
                tracing::error!(error, "tunnels not taken, the last good ones are kept");
            }
            said = error;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => {}
            }
        }
        Ok(())
    }

    fn look(
        &self,
        taken: &mut Option<Vec<u8>>,
        known: &mut BTreeSet<String>,
    ) -> Result<(), FixedError> {
        let text = self.read()?;
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        if taken.as_deref() == Some(digest.as_ref()) {
            return Ok(());
        }
        let said = parse(&text)?;
        let ids: BTreeSet<_> = said.entries.iter().map(|entry| entry.id.clone()).collect();
        for gone in known.difference(&ids) {
            self.directory.remove(gone);
        }
        self.fill(said);
        tracing::info!(tunnels = ids.len(), "tunnels taken");
        *known = ids;
        *taken = Some(digest.as_ref().to_vec());
        Ok(())
    }

    fn fill(&self, said: Said) {
        self.directory.set_instances(said.instances);
        said.entries
            .into_iter()
            .for_each(|entry| self.directory.put(entry));
    }

    fn read(&self) -> Result<String, FixedError> {
        std::fs::read_to_string(&self.path).map_err(|error| FixedError::Unreadable {
            path: self.path.clone(),
            error,
        })
    }
}

/// What a file says.
struct Said {
    instances: u32,
    entries: Vec<TunnelEntry>,
}

fn parse(text: &str) -> Result<Said, FixedError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: Raw = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| FixedError::Syntax(error.to_string()))?;
    let mut seen = BTreeSet::new();
    let entries = raw.tunnels.into_iter().map(|raw| {
        let domain = raw.domain.trim_matches('.').to_ascii_lowercase();
        for name in [&raw.id, &domain] {
            if !seen.insert(name.clone()) {
                return Err(FixedError::Twice(name.clone()));
            }
        }
        let credentials = raw.secrets.iter().map(|secret| credential(&raw.id, secret));
        Ok(TunnelEntry {
            credentials: credentials.collect::<Result<_, _>>()?,
            access: access(&raw.id, &raw.access)?,
            standing: if raw.suspended {
                Standing::Suspended
            } else {
                Standing::Active
            },
            id: raw.id,
            domain,
        })
    });
    Ok(Said {
        instances: raw.instances.unwrap_or(1).max(1),
        entries: entries.collect::<Result<_, _>>()?,
    })
}

fn credential(tunnel: &str, raw: &RawSecret) -> Result<CredentialEntry, FixedError> {
    let bad = || FixedError::Value {
        tunnel: tunnel.to_owned(),
        text: raw.sha256.clone(),
        what: "SHA-256 in hexadecimal",
    };
    let at = |place: usize| {
        let pair = raw.sha256.get(2 * place..2 * place + 2);
        pair.and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    if raw.sha256.len() != 64 {
        return Err(bad());
    }
    let octets: Option<Vec<u8>> = (0..32).map(at).collect();
    let sha256 = octets.and_then(|octets| octets.try_into().ok());
    Ok(CredentialEntry {
        id: raw.id.clone(),
        sha256: sha256.ok_or_else(bad)?,
        accepts: raw.accepts,
        cut_at: raw
            .cut_at
            .map(|at| std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(at)),
    })
}

fn access(tunnel: &str, raw: &RawAccess) -> Result<Access, FixedError> {
    let mut certificates = Vec::new();
    for path in &raw.client_ca_files {
        let text = std::fs::read(path).map_err(|error| FixedError::Unreadable {
            path: path.clone(),
            error,
        })?;
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        certificates.extend(read.map_err(|_| FixedError::Value {
            tunnel: tunnel.to_owned(),
            text: path.display().to_string(),
            what: "PEM file of certificates",
        })?);
    }
    let cidrs = raw.cidrs.iter().map(|text| {
        text.parse::<IpNet>().map_err(|_| FixedError::Value {
            tunnel: tunnel.to_owned(),
            text: text.clone(),
            what: "network",
        })
    });
    let limits = Limits::default();
    Ok(Access::new(AccessSettings {
        client_ca_certificates: certificates,
        clients: raw.clients.clone(),
        denied: raw
            .denied
            .iter()
            .map(|text| text.to_ascii_lowercase())
            .collect(),
        cidrs: cidrs.collect::<Result<_, _>>()?,
        asns: raw.asns.iter().copied().collect(),
        limits: Limits {
            streams: raw.streams.unwrap_or(limits.streams),
            connections_per_minute: raw
                .connections_per_minute
                .unwrap_or(limits.connections_per_minute),
        },
    })?)
}
