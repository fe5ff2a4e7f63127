//! Where a workload's own token comes from. It is read again for every use: whatever wrote it may have replaced it.

mod aws;
mod azure;
mod exec;
mod gcp;
mod github;
mod kubernetes;
mod said;
mod spiffe;
mod vault;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{Assertion, AssertionError, Environment, Http, HttpError, LONGEST};

pub use aws::{Aws, AwsAlgorithm, is_region};
pub use azure::Azure;
pub use exec::Exec;
pub use gcp::Gcp;
pub use kubernetes::{BoundObject, Kubernetes};
pub use spiffe::{Spiffe, workload_socket};
pub use vault::{Vault, VaultAuth};

/// A place that gives tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, such as a projected `ServiceAccount` token. The same token until somebody replaces it.
    File(PathBuf),
    /// A variable. The same token for as long as this process runs.
    Environment(String),
    /// A program that prints one.
    Exec(Exec),
    /// The `TokenRequest` API of a cluster: a fresh token each time.
    Kubernetes(Kubernetes),
    /// A job on GitHub Actions, or on Forgejo, with `permissions: id-token: write`: a fresh token each time.
    GitHubActions {
        /// `aud`; without one the issuer puts its own default.
        audience: Option<String>,
    },
    /// A job of GitLab CI with `id_tokens`: the same token for as long as the job runs.
    GitLab {
        /// The variable that the job declares.
        variable: String,
    },
    /// The metadata server of Google's cloud.
    Gcp(Gcp),
    /// A managed identity or a workload identity of Azure.
    Azure(Azure),
    /// A web identity token of AWS: a fresh one each time.
    Aws(Aws),
    /// An identity token of Vault or `OpenBao`: a fresh one each time.
    Vault(Vault),
    /// A JWT-SVID of the SPIFFE Workload API; an agent may give the same one again while it is young.
    Spiffe(Spiffe),
}

/// Why a source gave no token. No variant holds one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file of the source.
    #[error("cannot read {}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// A variable that the source needs.
    #[error("the variable {0} is not set, or is empty")]
    Variable(String),
    /// The program of the source.
    #[error("{program} gave no token: {why}")]
    Exec {
        /// Its path.
        program: String,
        /// What it did instead.
        why: String,
    },
    /// The server of the source was not heard.
    #[error("the source was asked in vain")]
    Http(#[from] HttpError),
    /// The server of the source refused.
    #[error("the source answered {status}{}{}", after(" ", .code.as_ref()), after(": ", .message.as_ref()))]
    Refused {
        /// HTTP status, or gRPC's where that is spoken.
        status: u16,
        /// What it calls its reason.
        code: Option<String>,
        /// What it said, shortened.
        message: Option<String>,
    },
    /// The socket of the source was not heard.
    #[error("no answer came through {}", .path.display())]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// What failed.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Something else stands in its place.
    #[error("what answered is not the source: {0}")]
    Impostor(&'static str),
    /// What it gave cannot be sent.
    #[error("what the source gave cannot be used")]
    Assertion(#[from] AssertionError),
}

impl Source {
    /// Asks for a token; `now` is what a request is signed with. Dropped, a program that runs is killed.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn fetch(
        &self,
        http: &Http,
        environment: &Environment,
        now: SystemTime,
    ) -> Result<Assertion, SourceError> {
        let assertion = match self {
            Self::File(path) => Assertion::read(&read(path)?)?,
            Self::Environment(name) | Self::GitLab { variable: name } => {
                Assertion::read(variable(environment, name)?.expose())?
            }
            Self::Exec(exec) => Assertion::read(&exec.run(environment).await?)?,
            Self::Kubernetes(kubernetes) => kubernetes.fetch(http, environment).await?,
            Self::GitHubActions { audience } => {
                github::fetch(audience.as_deref(), http, environment).await?
            }
            Self::Gcp(gcp) => gcp.fetch(http, environment).await?,
            Self::Azure(azure) => azure.fetch(http, environment).await?,
            Self::Aws(aws) => aws.fetch(http, environment, now).await?,
            Self::Vault(vault) => vault.fetch(http).await?,
            Self::Spiffe(spiffe) => spiffe.fetch(environment).await?,
        };
        Ok(assertion)
    }

    /// As the configuration calls it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Environment(_) => "environment",
            Self::Exec(_) => "exec",
            Self::Kubernetes(_) => "kubernetes",
            Self::GitHubActions { .. } => "github_actions",
            Self::GitLab { .. } => "gitlab",
            Self::Gcp(_) => "gcp",
            Self::Azure(_) => "azure",
            Self::Aws(_) => "aws",
            Self::Vault(_) => "vault",
            Self::Spiffe(_) => "spiffe",
        }
    }

    /// The URLs of its servers, and what they are called for.
    pub(crate) fn servers(&self, environment: &Environment) -> Vec<(String, &'static str)> {
        match self {
            Self::File(_)
            | Self::Environment(_)
            | Self::Exec(_)
            | Self::GitLab { .. }
            | Self::Spiffe(_) => Vec::new(),
            Self::Kubernetes(kubernetes) => {
                let url = kubernetes.server(environment);
                url.map(|url| vec![(url, "identity token, TokenRequest")])
                    .unwrap_or_default()
            }
            Self::GitHubActions { .. } => optional(environment, github::URL)
                .map(|url| (url.expose().to_owned(), "identity token, GitHub Actions"))
                .into_iter()
                .collect(),
            Self::Gcp(_) => vec![(gcp::server(environment), "identity token, metadata server")],
            Self::Azure(_) => vec![(azure::server(environment), "identity token, Azure")],
            Self::Aws(aws) => aws.servers(environment),
            Self::Vault(vault) => vec![(vault.address.clone(), "identity token, Vault")],
        }
    }
}

/// A whole small file, one byte more than a token may have at most, so that a longer one is noticed.
fn read(path: &Path) -> Result<Zeroizing<String>, SourceError> {
    let most = LONGEST as u64 + 1024;
    let mut text = Zeroizing::new(String::with_capacity(LONGEST + 1024));
    let result = File::open(path).and_then(|file| file.take(most).read_to_string(&mut text));
    match result {
        Ok(_) => Ok(text),
        Err(error) => Err(SourceError::File {
            path: path.to_owned(),
            error,
        }),
    }
}

fn variable(environment: &Environment, name: &str) -> Result<crate::Secret, SourceError> {
    optional(environment, name).ok_or_else(|| SourceError::Variable(name.to_owned()))
}

/// A variable that says something.
fn optional(environment: &Environment, name: &str) -> Option<crate::Secret> {
    let value = environment.text(name);
    value.filter(|value| !value.expose().trim().is_empty())
}

fn after(before: &str, text: Option<&String>) -> String {
    text.map(|text| format!("{before}{text}"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
