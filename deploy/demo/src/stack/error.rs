//! Why the stack does not stand, in words that lead to the next step.

use std::path::PathBuf;

use process::{Exit, Failure};
use thiserror::Error;

use super::operator::OperatorError;
use super::program::Ended;
use crate::trust::TrustError;

/// Why the stack does not stand.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StackError {
    /// A program is not where it is looked for.
    #[error("{program} is not at {}", path.display())]
    Missing {
        /// Which one.
        program: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// A program ended.
    #[error("{} ended with {}", .0.program, .0.status)]
    Ended(Ended),
    /// A program runs and is not ready.
    #[error("{program} is not ready: {why}")]
    NotReady {
        /// Which one.
        program: &'static str,
        /// What it lacks.
        why: String,
        /// The end of its log.
        tail: String,
        /// The whole log.
        log: PathBuf,
    },
    /// The daemon refused or did not answer.
    #[error("the daemon did not do it")]
    Operator(#[from] OperatorError),
    /// What the daemon gave cannot be trusted.
    #[error("the daemon's CA cannot be used")]
    Trust(#[from] TrustError),
}

impl StackError {
    /// For the person who started it: what, the likely cause, the next step.
    pub fn failure(&self) -> Failure {
        let failure = Failure::new(self.exit(), self.to_string());
        match self {
            Self::Missing { .. } => failure
                .cause("it was not built, or this program was moved away from the others")
                .next("cargo build --bins"),
            Self::Io { error, .. } => failure.caused_by(error),
            Self::Ended(ended) => failure
                .cause(format!("the last of its log:\n{}", ended.tail))
                .next(format!("read {}", ended.log.display())),
            Self::NotReady { tail, log, .. } => failure
                .cause(format!("the last of its log:\n{tail}"))
                .next(format!("read {}", log.display())),
            Self::Operator(error) => match error {
                OperatorError::Refused { next, .. } => failure
                    .caused_by(error)
                    .next(next.clone().unwrap_or_else(|| "read its log".into())),
                other => failure.caused_by(other).next("read the log of keyward"),
            },
            Self::Trust(error) => failure.caused_by(error),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Self::Missing { .. } => Exit::Unavailable,
            _ => Exit::Internal,
        }
    }
}
