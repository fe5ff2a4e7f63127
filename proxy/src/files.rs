//! Source 2: certificate and key files, for third-party proxies' deployments and cold starts.
//!
//! Every file is read and hashed anew, whatever its dates say and however it was replaced (F13, F19,
//! F26, F27). What is read has to be the same twice in a row, the key has to belong to the certificate
//! and the manifest, where there is one, to both: a mixture of two generations is never used (F18).
//! What cannot be used is logged once and the last good credential stays. Once the control channel has
//! delivered a credential the files are not looked at any more.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{self, Digest};
use control::{Credential, Leaf, Manifest, Policy, Reason, Secret};
use process::{Failure, Tasks};
use thiserror::Error;

use crate::config::{Config, CredentialFiles, reason};
use crate::credential::{Credentials, Refused, Source, leaf_fingerprint};
use crate::forward::Forwarder;
use crate::route::RouteError;
use crate::secret_file;

/// How often the files are read; with [`SETTLE`] twice well within the second that is promised.
const INTERVAL: Duration = Duration::from_millis(250);
/// Between the two readings that have to agree.
const SETTLE: Duration = Duration::from_millis(20);
/// No certificate chain or key comes near it.
const LONGEST: usize = 1 << 20;
/// Stands beside the certificate in a directory that the daemon wrote.
const MANIFEST: &str = "manifest.json";
/// Name of the tunnel when nobody names it.
const UNNAMED: &str = "default";

/// Why what the files say was not taken up.
#[derive(Debug, Error)]
enum Unusable {
    /// A file is missing, may not be read, or is too long.
    #[error("open {}: {}", path.display(), reason(error))]
    Unreadable { path: PathBuf, error: io::Error },
    /// A file is no text.
    #[error("{} is not PEM", .0.display())]
    NotText(PathBuf),
    /// `manifest.json` is not one.
    #[error("{MANIFEST} is malformed at line {0}")]
    Manifest(usize),
    /// Half of the files have been replaced.
    #[error("{MANIFEST} belongs to another certificate")]
    Mixture,
    /// The routes of its policy.
    #[error(transparent)]
    Routes(#[from] RouteError),
    /// The other half of them, where there is no manifest that says so.
    #[error("the key in {} is not the one of the certificate in {}", key.display(), certificate.display())]
    Halves { certificate: PathBuf, key: PathBuf },
    /// The pair itself.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl Unusable {
    /// Of two generations, as somebody leaves it who replaces one file after the other.
    fn is_mixture(&self) -> bool {
        matches!(self, Self::Mixture | Self::Halves { .. })
    }
}

/// Certificate and key files, and what was made of them last.
pub(crate) struct Files {
    paths: CredentialFiles,
    tunnel: String,
    tunnel_domain: String,
    credentials: Credentials,
    forwarder: Option<Forwarder>,
    /// What needs no second look.
    decided: Option<Vec<u8>>,
    /// What was logged last.
    said: Option<String>,
}

impl Files {
    /// `forwarder` takes the routes of a manifest's policy, if routes come from the daemon.
    pub(crate) fn new(
        paths: CredentialFiles,
        config: &Config,
        credentials: Credentials,
        forwarder: Option<Forwarder>,
    ) -> Self {
        let named = config
            .control
            .as_ref()
            .and_then(|source| source.tunnels.first());
        Self {
            paths,
            tunnel: named.map_or(UNNAMED, String::as_str).to_owned(),
            tunnel_domain: config.tunnel_domain.clone().unwrap_or_default(),
            credentials,
            forwarder,
            decided: None,
            said: None,
        }
    }

    /// Takes up what the files say until the stop, or until the channel has taken over.
    pub(crate) async fn watch(mut self, tasks: Tasks) -> Result<(), Failure> {
        loop {
            if self.credentials.channel_won() {
                tracing::info!("the control channel has taken over, files are ignored");
                tasks.stopping().await;
                return Ok(());
            }
            self.look().await;
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => return Ok(()),
            }
        }
    }

    /// Reads everything once, and again if something is new.
    pub(crate) async fn look(&mut self) {
        let first = self.read().await;
        if let Ok(read) = &first
            && self.decided.as_deref() == Some(read.digest.as_ref())
        {
            return;
        }
        let result = match first {
            Ok(first) => {
                tokio::time::sleep(SETTLE).await;
                match self.read().await {
                    // Somebody is writing: it is looked at again in a moment.
                    Ok(second) if second.digest.as_ref() != first.digest.as_ref() => return,
                    Ok(second) => self.take(second),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        let said = result.as_ref().err().map(ToString::to_string);
        if said != self.said
            && let Err(error) = result
        {
            tell(&error);
        }
        self.said = said;
    }

    fn take(&mut self, read: Snapshot) -> Result<(), Unusable> {
        let digest = read.digest.as_ref().to_vec();
        let result = self.offer(read).map_err(|error| match error {
            Unusable::Refused(refused) if refused.reason == Reason::KeyMismatch => {
                let CredentialFiles {
                    certificate, key, ..
                } = self.paths.clone();
                Unusable::Halves { certificate, key }
            }
            error => error,
        });
        let dated = matches!(
            &result,
            Err(Unusable::Refused(refused))
                if matches!(refused.reason, Reason::NotYetValid | Reason::Expired)
        );
        // What is out of date is looked at again: it begins later, or the clock is set back (F35). All
        // else is decided until it changes.
        self.decided = (!dated).then_some(digest);
        result
    }

    fn offer(&self, read: Snapshot) -> Result<(), Unusable> {
        let Some(manifest) = read.manifest else {
            let credential = Credential {
                tunnel: self.tunnel.clone(),
                generation: 0,
                tunnel_domain: self.tunnel_domain.clone(),
                leaf: leaf(read.chain, read.key),
                fallback: None,
                canary_share: None,
                ca_certificates: Vec::new(),
                client_ca_certificates: read.client_ca.into_iter().collect(),
                lowest: 0,
            };
            self.credentials.offer(&credential, Source::Files)?;
            return Ok(());
        };
        let manifest: Manifest =
            serde_json::from_str(&manifest).map_err(|error| Unusable::Manifest(error.line()))?;
        if leaf_fingerprint(&read.chain).as_deref() != Some(&manifest.leaf_sha256) {
            return Err(Unusable::Mixture);
        }
        let mut clients = manifest.client_ca_certificates;
        if clients.is_empty() {
            clients.extend(read.client_ca);
        }
        let credential = Credential {
            tunnel: manifest.tunnel,
            generation: manifest.generation,
            tunnel_domain: manifest.tunnel_domain,
            leaf: leaf(read.chain, read.key),
            fallback: None,
            canary_share: None,
            ca_certificates: manifest.ca_certificates,
            client_ca_certificates: clients,
            lowest: manifest.lowest,
        };
        // Denials first: between the two nobody who is denied gets in.
        if let Some(policy) = manifest.policy {
            self.policy(policy)?;
        }
        self.credentials.offer(&credential, Source::Directory)?;
        Ok(())
    }

    fn policy(&self, policy: Policy) -> Result<(), Unusable> {
        self.credentials.deny(&policy)?;
        if let (Some(forwarder), Some(routes)) = (&self.forwarder, policy.routes) {
            forwarder.set_routes(Some(&policy.tunnel), routes)?;
        }
        Ok(())
    }

    async fn read(&self) -> Result<Snapshot, Unusable> {
        let paths = self.paths.clone();
        // Off the threads that carry traffic: the files may lie on a network.
        let read = tokio::task::spawn_blocking(move || Snapshot::read(&paths)).await;
        read.unwrap_or_else(|error| {
            Err(Unusable::Unreadable {
                path: self.paths.certificate.clone(),
                error: io::Error::other(error),
            })
        })
    }
}

fn tell(error: &Unusable) {
    if error.is_mixture() {
        tracing::warn!(
            %error,
            next = "replace the other file too, with the one of the same issuance",
            "credential files are half replaced, last good ones kept"
        );
    } else {
        tracing::error!(%error, "credential files not taken, last good ones kept");
    }
}

fn leaf(chain: String, key: Secret) -> Leaf {
    Leaf {
        chain,
        key,
        not_after: 0,
    }
}

/// Everything that the files say, as it was read once.
struct Snapshot {
    chain: String,
    key: Secret,
    client_ca: Option<String>,
    manifest: Option<String>,
    digest: Digest,
}

impl Snapshot {
    fn read(paths: &CredentialFiles) -> Result<Self, Unusable> {
        let manifest = paths.certificate.with_file_name(MANIFEST);
        let manifest = match text(&manifest) {
            Err(Unusable::Unreadable { error, .. }) if error.kind() == io::ErrorKind::NotFound => {
                None
            }
            read => Some(read?),
        };
        let chain = text(&paths.certificate)?;
        let key = secret(&paths.key)?;
        let client_ca = paths.client_ca.as_deref().map(text).transpose()?;
        let mut context = digest::Context::new(&digest::SHA256);
        let parts = [
            Some(chain.as_str()),
            Some(key.expose()),
            client_ca.as_deref(),
            manifest.as_deref(),
        ];
        for part in parts {
            // The length before each part: no two sets of files hash alike by moving a boundary.
            let part = part.unwrap_or_default();
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        Ok(Self {
            digest: context.finish(),
            chain,
            key,
            client_ca,
            manifest,
        })
    }
}

fn secret(path: &Path) -> Result<Secret, Unusable> {
    secret_file::read(path, LONGEST).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => Unusable::NotText(path.to_owned()),
        _ => Unusable::Unreadable {
            path: path.to_owned(),
            error,
        },
    })
}

fn text(path: &Path) -> Result<String, Unusable> {
    let unreadable = |error| Unusable::Unreadable {
        path: path.to_owned(),
        error,
    };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LONGEST as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() > LONGEST {
        return Err(unreadable(io::Error::other("longer than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|_| Unusable::NotText(path.to_owned()))
}
