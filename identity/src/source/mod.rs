//! Where a workload's own token comes from. It is read again for every use: whatever wrote it may have replaced it.

mod exec;
mod github;
mod kubernetes;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{Assertion, AssertionError, Environment, Http, HttpError, LONGEST};

pub use exec::Exec;
pub use kubernetes::{BoundObject, Kubernetes};

/// A place that gives tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file, such as a projected `ServiceAccount` token. The same token until somebody replaces it.
    File(PathBuf),
    /// A variable, such as one of GitLab's `id_tokens`. The same token for as long as this process runs.
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
    #[error("the source answered {status}{}", .message.as_deref().map(|m| format!(": {m}")).unwrap_or_default())]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said, shortened.
        message: Option<String>,
    },
    /// What it gave cannot be sent.
    #[error("what the source gave cannot be used")]
    Assertion(#[from] AssertionError),
}

impl Source {
    /// Asks for a token. Dropped, a program that runs is killed.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub async fn fetch(
        &self,
        http: &Http,
        environment: &Environment,
    ) -> Result<Assertion, SourceError> {
        let assertion = match self {
            Self::File(path) => Assertion::read(&read(path)?)?,
            Self::Environment(name) => Assertion::read(variable(environment, name)?.expose())?,
            Self::Exec(exec) => Assertion::read(&exec.run(environment).await?)?,
            Self::Kubernetes(kubernetes) => kubernetes.fetch(http, environment).await?,
            Self::GitHubActions { audience } => {
                github::fetch(audience.as_deref(), http, environment).await?
            }
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
    let value = environment.text(name);
    value
        .filter(|value| !value.expose().trim().is_empty())
        .ok_or_else(|| SourceError::Variable(name.to_owned()))
}

/// What a server said, if it is JSON with a `message`, shortened and without control characters.
fn message(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    let text = body.get("message")?.as_str()?;
    let printable = text.chars().filter(|c| !c.is_control());
    Some(printable.take(200).collect())
}

#[cfg(test)]
mod tests;
