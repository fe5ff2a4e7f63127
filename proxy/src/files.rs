//! Source 2: certificate and key files, for third-party proxies' deployments and cold starts.
//!
//! The key has to belong to the certificate and the manifest, where there is one, to both: a mixture of
//! two generations is never used (F18). Once the control channel has delivered a credential the files
//! are not looked at any more.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{self, Digest};
use control::{Credential, Leaf, Manifest, Policy, Reason, Secret};
use thiserror::Error;

use crate::config::{Config, ConfigError, CredentialFiles, check_pair};
use crate::credential::{Credentials, Refused, Source, leaf_fingerprint};
use crate::forward::Forwarder;
use crate::route::RouteError;
use crate::secret_file;
use crate::watched::Watched;

/// No certificate chain or key comes near it.
const LONGEST: usize = 1 << 20;
/// Stands beside the certificate in a directory that the daemon wrote.
const MANIFEST: &str = "manifest.json";
/// Name of the tunnel when nobody names it.
const UNNAMED: &str = "default";

/// Why what the files say was not taken up.
#[derive(Debug, Error)]
pub(crate) enum Unusable {
    /// What a start would refuse as well, in the same words.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `manifest.json` is not one.
    #[error("{} is malformed at line {line}", path.display())]
    Manifest { path: PathBuf, line: usize },
    /// Half of the files have been replaced.
    #[error("{} belongs to another certificate", .0.display())]
    Mixture(PathBuf),
    /// The routes of its policy.
    #[error("{}: {error}", path.display())]
    Routes { path: PathBuf, error: RouteError },
    /// The set of files is in order and may not be served.
    #[error("{}: {refused}", path.display())]
    Refused { path: PathBuf, refused: Refused },
}

impl Unusable {
    /// The next thing to do.
    pub(crate) fn next(&self) -> String {
        match self {
            Self::Config(error) => error.next(),
            Self::Manifest { .. } => {
                "let tls.cert_file be in a serve_dir of the daemon, or remove the file".to_owned()
            }
            Self::Mixture(_) => {
                "replace the other files too, with those of the same issuance".to_owned()
            }
            Self::Routes { error, .. } => error.next(),
            Self::Refused { .. } => {
                "put the files of a later issuance there, as keyward writes them".to_owned()
            }
        }
    }

    /// Of two generations, as somebody leaves it who replaces one file after the other.
    fn is_mixture(&self) -> bool {
        matches!(
            self,
            Self::Mixture(_) | Self::Config(ConfigError::KeyMismatch { .. })
        )
    }
}

/// Certificate and key files.
pub(crate) struct Files {
    paths: CredentialFiles,
    tunnel: String,
    tunnel_domain: String,
    credentials: Credentials,
    forwarder: Option<Forwarder>,
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
        }
    }

    /// What the daemon wrote beside the pair goes into `credential`, denials and routes into force.
    fn manifest(&self, text: &str, credential: &mut Credential) -> Result<(), Unusable> {
        let path = || self.paths.certificate.with_file_name(MANIFEST);
        let manifest: Manifest =
            serde_json::from_str(text).map_err(|error| Unusable::Manifest {
                path: path(),
                line: error.line(),
            })?;
        if leaf_fingerprint(&credential.leaf.chain).as_deref() != Some(&manifest.leaf_sha256) {
            return Err(Unusable::Mixture(path()));
        }
        credential.tunnel = manifest.tunnel;
        credential.tunnel_domain = manifest.tunnel_domain;
        credential.generation = manifest.generation;
        credential.lowest = manifest.lowest;
        credential.ca_certificates = manifest.ca_certificates;
        if !manifest.client_ca_certificates.is_empty() {
            credential.client_ca_certificates = manifest.client_ca_certificates;
        }
        // Denials first: between the two nobody who is denied gets in.
        let Some(policy) = manifest.policy else {
            return Ok(());
        };
        self.credentials
            .deny(&policy)
            .map_err(|refused| Unusable::Refused {
                path: path(),
                refused,
            })?;
        self.routes(policy).map_err(|error| Unusable::Routes {
            path: path(),
            error,
        })
    }

    fn routes(&self, policy: Policy) -> Result<(), RouteError> {
        match &self.forwarder {
            Some(forwarder) => forwarder.take_policy(&policy.tunnel, policy.routes),
            None => Ok(()),
        }
    }
}

impl Watched for Files {
    type Read = Snapshot;
    type Error = Unusable;
    const SETTLE: Duration = Duration::from_millis(20);

    async fn read(&self) -> Result<(Digest, Snapshot), Unusable> {
        let paths = self.paths.clone();
        // Off the threads that carry traffic: the files may lie on a network.
        let read = tokio::task::spawn_blocking(move || Snapshot::read(&paths)).await;
        let failed = |error| unreadable(&self.paths.certificate, io::Error::other(error));
        let snapshot = read.unwrap_or_else(|error| Err(failed(error)))?;
        Ok((snapshot.digest(), snapshot))
    }

    fn take(&mut self, read: Snapshot) -> Result<(), Unusable> {
        let clients = read.client_ca.clone();
        let mut credential = Credential {
            tunnel: self.tunnel.clone(),
            generation: 0,
            tunnel_domain: self.tunnel_domain.clone(),
            leaf: leaf(read.chain, read.key),
            fallback: None,
            canary_share: None,
            ca_certificates: Vec::new(),
            client_ca_certificates: clients.into_iter().collect(),
            lowest: 0,
        };
        let (source, path) = match &read.manifest {
            None => (Source::Files, self.paths.certificate.clone()),
            Some(text) => {
                self.manifest(text, &mut credential)?;
                let path = self.paths.certificate.with_file_name(MANIFEST);
                (Source::Directory, path)
            }
        };
        let Err(refused) = self.credentials.offer(&credential, source) else {
            return Ok(());
        };
        // Whatever a start would refuse is told as a start tells it, with the file that is to blame.
        let (leaf, clients) = (&credential.leaf, read.client_ca.as_deref());
        let now = self.credentials.now();
        check_pair(&self.paths, &leaf.chain, &leaf.key, clients, now)?;
        Err(Unusable::Refused { path, refused })
    }

    fn tell(&self, error: &Unusable) {
        let next = error.next();
        if error.is_mixture() {
            tracing::warn!(%error, next, "credential files are half replaced, last good ones kept");
        } else {
            tracing::error!(%error, next, "credential files not taken, last good ones kept");
        }
    }

    fn recovered(&self) {
        let path = self.paths.certificate.display();
        tracing::info!(%path, "credential files taken again");
    }

    /// What is out of date is looked at again: it begins later, or the clock is set back (F35).
    fn is_dated(error: &Unusable) -> bool {
        match error {
            Unusable::Config(error) => matches!(
                error,
                ConfigError::Expired { .. } | ConfigError::NotYetValid { .. }
            ),
            Unusable::Refused { refused, .. } => {
                matches!(refused.reason, Reason::NotYetValid | Reason::Expired)
            }
            _ => false,
        }
    }

    fn is_over(&self) -> bool {
        let over = self.credentials.channel_won();
        if over {
            tracing::info!("the control channel has taken over, files are ignored");
        }
        over
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
pub(crate) struct Snapshot {
    chain: String,
    key: Secret,
    client_ca: Option<String>,
    manifest: Option<String>,
}

impl Snapshot {
    fn read(paths: &CredentialFiles) -> Result<Self, Unusable> {
        let manifest = match text(&paths.certificate.with_file_name(MANIFEST)) {
            Err(Unusable::Config(ConfigError::Open { error, .. }))
                if error.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            read => Some(read?),
        };
        let key = secret_file::read(&paths.key, LONGEST);
        Ok(Self {
            manifest,
            chain: text(&paths.certificate)?,
            key: key.map_err(|error| unreadable(&paths.key, error))?,
            client_ca: paths.client_ca.as_deref().map(text).transpose()?,
        })
    }

    fn digest(&self) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        let parts = [
            Some(self.chain.as_str()),
            Some(self.key.expose()),
            self.client_ca.as_deref(),
            self.manifest.as_deref(),
        ];
        for part in parts {
            // The length before each part: no two sets of files hash alike by moving a boundary.
            let part = part.unwrap_or_default();
            context.update(&part.len().to_be_bytes());
            context.update(part.as_bytes());
        }
        context.finish()
    }
}

fn unreadable(path: &Path, error: io::Error) -> Unusable {
    let path = path.to_owned();
    Unusable::Config(ConfigError::Open { path, error })
}

fn text(path: &Path) -> Result<String, Unusable> {
    let failed = |error| unreadable(path, error);
    let mut text = String::new();
    let file = File::open(path).map_err(failed)?;
    file.take(LONGEST as u64 + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() > LONGEST {
        return Err(failed(io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}
