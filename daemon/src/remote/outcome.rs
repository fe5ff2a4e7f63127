//! What came of calls, for the metrics page.

use super::{Answer, Ask, Call};
use crate::tunnels::CallError;

/// A call of one tunnel and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Outcome {
    /// Name of the tunnel.
    pub tunnel: String,
    /// As [`Call::name`] has it.
    pub call: &'static str,
    /// `done`, `refused`, `not_sent`, `unknown`.
    pub outcome: &'static str,
}

impl Outcome {
    /// Nobody answered, so that it may have been carried out.
    pub const UNKNOWN: &str = "unknown";

    pub(super) fn of(ask: &Ask, result: &Result<Answer, CallError>) -> Self {
        Self {
            tunnel: ask.tunnel.clone(),
            call: ask.call.name(),
            outcome: match result {
                Ok(_) => "done",
                Err(CallError::Refused(_)) => "refused",
                Err(CallError::NotSent(_)) => "not_sent",
                Err(_) => Self::UNKNOWN,
            },
        }
    }
}

impl Call {
    /// The calls that are journalled before they are made, since a second one would not be the first.
    pub const NOT_TWICE: [&str; 3] = ["add_certificate", "archive_certificate", "rotate_token"];

    /// Word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Certificates => "certificates",
            Self::AddCertificate { .. } => "add_certificate",
            Self::ArchiveCertificate { .. } => "archive_certificate",
            Self::Secrets => "secrets",
            Self::AddSecret { .. } => "add_secret",
            Self::ArchiveSecret { .. } => "archive_secret",
            Self::RevealToken { .. } => "reveal_token",
            Self::RotateToken(_) => "rotate_token",
        }
    }
}
