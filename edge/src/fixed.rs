//! Tunnels from a file: an edge without a control plane, for one tunnel and one shared secret, and for
//! tests. The file holds digests and no secret; it is hashed every 250 ms together with the files that it
//! names, and taken as a whole, or not. Who may call is checked as the Tunnels API checks it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use pki::Certificate;
use process::{Failure, Tasks};
use serde::Deserialize;
use thiserror::Error;

use crate::access::{Access, AccessSettings, BadClientCa, Limits};
use crate::ca_files::{self, CaFileError};
use crate::directory::{CredentialEntry, Directory, Standing, TunnelEntry};
use crate::state::check_access;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_millis(250);
/// Between the two readings that have to agree.
const SETTLE: Duration = Duration::from_millis(20);

/// Why the file was not taken.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum FixedError {
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        path: PathBuf,
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
    #[error("tunnel {tunnel:?}: access.client_ca_files: {error}")]
    ClientCaFile { tunnel: String, error: CaFileError },
    #[error("tunnel {tunnel:?}: access.{why}")]
    Access { tunnel: String, why: String },
    #[error(
        "tunnel {0:?}: access.asns would let nobody in, because no caller's number is known without asn_file"
    )]
    Asns(String),
    #[error(transparent)]
    ClientCa(#[from] BadClientCa),
}

impl FixedError {
    /// The next thing to do.
    fn next(&self) -> &'static str {
        match self {
            Self::ClientCaFile { .. } | Self::ClientCa(_) => {
                "write the PEM certificates of one or two CAs there, or take the file off the list"
            }
            Self::Asns(_) => "set asn_file in the configuration, or leave access.asns empty",
            _ => "mend the file, docs/edge.md lists its keys",
        }
    }
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
    /// Whether this edge has a table of autonomous systems.
    has_asns: bool,
    taken: Taken,
}

/// What was taken last: its digest, the files that it named, its tunnels.
struct Taken {
    digest: Vec<u8>,
    named: BTreeSet<PathBuf>,
    ids: BTreeSet<String>,
}

impl Fixed {
    /// Reads `path` and fills `directory` with what it says. `has_asns`: whether this edge has a table of
    /// autonomous systems, without which a list of them would let nobody in.
    ///
    /// # Errors
    ///
    /// The file, or one that it names, cannot be used; exit code 78.
    pub fn load(path: PathBuf, directory: Directory, has_asns: bool) -> Result<Self, Failure> {
        let (said, taken) = read(&path, has_asns).map_err(|error| {
            let next = error.next();
            Failure::config("tunnels_file cannot be used")
                .caused_by(&error)
                .next(next)
        })?;
        let this = Self {
            path,
            directory,
            has_asns,
            taken,
        };
        this.fill(said);
        Ok(this)
    }

    /// What is filled.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The tunnels that the file names, by id.
    pub fn tunnels(&self) -> impl Iterator<Item = Arc<TunnelEntry>> {
        let ids = self.taken.ids.iter();
        ids.filter_map(|id| self.directory.tunnel(id))
    }

    /// Takes up what the files say until the stop.
    ///
    /// # Errors
    ///
    /// None: what cannot be used is logged once, and what was last good stays.
    pub async fn watch(mut self, tasks: Tasks) -> Result<(), Failure> {
        let mut said = String::new();
        while !tasks.is_stopping() {
            let error = match self.look().await {
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

    async fn look(&mut self) -> Result<(), FixedError> {
        let seen = digest(&self.path, &self.taken.named);
        if seen == self.taken.digest {
            return Ok(());
        }
        tokio::time::sleep(SETTLE).await;
        if digest(&self.path, &self.taken.named) != seen {
            // Somebody is writing: it is looked at again in a moment.
            return Ok(());
        }
        let (said, taken) = read(&self.path, self.has_asns)?;
        for gone in self.taken.ids.difference(&taken.ids) {
            self.directory.remove(gone);
        }
        self.taken = taken;
        self.fill(said);
        Ok(())
    }

    fn fill(&self, said: Said) {
        self.directory.set_instances(said.instances);
        said.entries
            .into_iter()
            .for_each(|entry| self.directory.put(entry));
        tracing::info!(tunnels = self.taken.ids.len(), "tunnels taken");
    }
}

/// The file at `path` and all that it names, as they are now.
fn read(path: &Path, has_asns: bool) -> Result<(Said, Taken), FixedError> {
    let text = std::fs::read_to_string(path).map_err(|error| FixedError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let options = serde_saphyr::options! { with_snippet: false };
    let raw: Raw = serde_saphyr::from_str_with_options(&text, options)
        .map_err(|error| FixedError::Syntax(error.to_string()))?;
    let mut cas = BTreeMap::new();
    for tunnel in &raw.tunnels {
        if !tunnel.access.asns.is_empty() && !has_asns {
            return Err(FixedError::Asns(tunnel.id.clone()));
        }
        for file in &tunnel.access.client_ca_files {
            let content =
                ca_files::read(file).map_err(|error| client_ca_file(&tunnel.id, error))?;
            cas.insert(file.clone(), content);
        }
    }
    let contents = cas.values().map(|content| Some(content.as_slice()));
    let digest = digest_of(std::iter::once(Some(text.as_bytes())).chain(contents));
    let said = parse(raw, &cas)?;
    let ids = said.entries.iter().map(|entry| entry.id.clone()).collect();
    let taken = Taken {
        digest,
        named: cas.into_keys().collect(),
        ids,
    };
    Ok((said, taken))
}

/// Of the file at `path` and those that it named when it was taken.
fn digest(path: &Path, named: &BTreeSet<PathBuf>) -> Vec<u8> {
    let files = std::iter::once(path).chain(named.iter().map(PathBuf::as_path));
    let contents: Vec<_> = files.map(|file| std::fs::read(file).ok()).collect();
    digest_of(contents.iter().map(Option::as_deref))
}

/// Of contents in their order; `None`: one that cannot be read.
fn digest_of<'a>(contents: impl Iterator<Item = Option<&'a [u8]>>) -> Vec<u8> {
    let mut context = digest::Context::new(&digest::SHA256);
    for content in contents {
        // The length, so that what moves from one file to the next is seen.
        let length = content.map_or(-1, |content| i128::try_from(content.len()).unwrap_or(-1));
        context.update(&length.to_be_bytes());
        context.update(content.unwrap_or_default());
    }
    context.finish().as_ref().to_vec()
}

fn client_ca_file(tunnel: &str, error: CaFileError) -> FixedError {
    FixedError::ClientCaFile {
        tunnel: tunnel.to_owned(),
        error,
    }
}

/// What a file says.
struct Said {
    instances: u32,
    entries: Vec<TunnelEntry>,
}

/// `cas`: what the files that it names hold.
fn parse(raw: Raw, cas: &BTreeMap<PathBuf, Vec<u8>>) -> Result<Said, FixedError> {
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
            access: access(&raw.id, &raw.access, cas)?,
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
    let sha256: pki::Fingerprint = raw.sha256.parse().map_err(|_| bad())?;
    let cut_at = raw.cut_at.map(|at| {
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(at));
        time.ok_or_else(|| FixedError::Value {
            tunnel: tunnel.to_owned(),
            text: at.to_string(),
            what: "time in Unix seconds",
        })
    });
    Ok(CredentialEntry {
        id: raw.id.clone(),
        sha256: *sha256.octets(),
        accepts: raw.accepts,
        cut_at: cut_at.transpose()?,
    })
}

fn access(
    tunnel: &str,
    raw: &RawAccess,
    cas: &BTreeMap<PathBuf, Vec<u8>>,
) -> Result<Access, FixedError> {
    let mut certificates = Vec::new();
    for path in &raw.client_ca_files {
        let content = cas.get(path).map(Vec::as_slice).unwrap_or_default();
        let read = ca_files::parse(path, content);
        certificates.extend(read.map_err(|error| client_ca_file(tunnel, error))?);
    }
    if certificates.len() > ca_files::MOST {
        let error = CaFileError::TooMany(certificates.len());
        return Err(client_ca_file(tunnel, error));
    }
    let lower = |text: &String| text.to_ascii_lowercase();
    let list = api::Access {
        client_ca_certificates: certificates.iter().map(Certificate::to_pem).collect(),
        clients: raw.clients.clone(),
        denied: raw.denied.iter().map(lower).collect(),
        cidrs: raw.cidrs.clone(),
        asns: raw.asns.clone(),
        limits: api::Limits {
            streams: raw.streams,
            connections_per_minute: raw.connections_per_minute,
        },
        enforced: None,
    };
    check_access(&list).map_err(|why| FixedError::Access {
        tunnel: tunnel.to_owned(),
        // The key is called otherwise here.
        why: why.replace("client_ca_certificates", "client_ca_files"),
    })?;
    let limits = Limits::default();
    Ok(Access::new(AccessSettings {
        client_ca_certificates: certificates.iter().map(|ca| ca.der().clone()).collect(),
        clients: list.clients,
        denied: list.denied.into_iter().collect(),
        // Checked above.
        cidrs: list
            .cidrs
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
        asns: list.asns.into_iter().collect(),
        limits: Limits {
            streams: raw.streams.unwrap_or(limits.streams),
            connections_per_minute: raw
                .connections_per_minute
                .unwrap_or(limits.connections_per_minute),
        },
    })?)
}

#[cfg(test)]
mod tests;
