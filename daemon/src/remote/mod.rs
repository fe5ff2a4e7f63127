//! The other side of the tunnels, asked on the rotator's behalf.
//!
//! The rotator decides and never waits: it leaves an [`Ask`], and takes what came of it, a [`Told`], into a later turn.
//! This module makes the calls in between, each once. What may be repeated, and what an outcome means, is for the
//! machines in [`crate::rotation`] to say.

mod client;
mod outcome;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use process::Tasks;
use tokio::sync::{Semaphore, mpsc};

use crate::tunnels::{CallError, Rotation, TunnelToken, Tunnels};

pub(crate) use client::{configuration, no_rule};
pub use client::{connect, unreachable_or_unusable};
pub use outcome::Outcome;

/// Calls under way at a time, of all tunnels.
const AT_ONCE: usize = 8;

/// Which of a tunnel's affairs a call belongs to. Each has one call under way at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// The tunnel itself.
    Tunnel,
    /// Its CA certificates.
    Ca,
    /// Its token.
    Token,
    /// Its shared secrets.
    Secret,
}

/// A call that the rotator wants made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Name of the tunnel in the configuration.
    pub tunnel: String,
    /// `tnl_…`.
    pub tunnel_id: String,
    /// What it is for.
    pub lane: Lane,
    /// The call.
    pub call: Call,
}

/// A call of the Tunnels API, about one tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// The tunnel.
    Tunnel,
    /// The CA certificates in force.
    Certificates,
    /// Register one; it may be made twice only if the list says that it is not there.
    AddCertificate {
        /// The certificate.
        pem: String,
    },
    /// Take one out of force.
    ArchiveCertificate {
        /// Its id at the other side.
        id: String,
        /// For the other side's audit log.
        reason: String,
    },
    /// The shared secrets in force.
    Secrets,
    /// Add one; the same digest again is the same secret.
    AddSecret {
        /// Lower-case hexadecimal.
        sha256: String,
    },
    /// Take one out of force, and cut what is bound to it.
    ArchiveSecret {
        /// Its id at the other side.
        id: String,
        /// For the other side's audit log.
        reason: String,
    },
    /// The token in force.
    RevealToken {
        /// For the other side's audit log.
        reason: String,
    },
    /// Another token; never made twice.
    RotateToken(Rotation),
}

/// What a call that went well brought.
#[derive(Debug)]
pub enum Answer {
    /// [`Call::Tunnel`].
    Tunnel(api::Tunnel),
    /// [`Call::Certificates`].
    Certificates(Vec<api::Certificate>),
    /// [`Call::AddCertificate`], [`Call::ArchiveCertificate`]: as it is now.
    Certificate(api::Certificate),
    /// [`Call::Secrets`].
    Secrets(Vec<api::Secret>),
    /// [`Call::AddSecret`], [`Call::ArchiveSecret`]: as it is now.
    Secret(api::Secret),
    /// [`Call::RevealToken`], [`Call::RotateToken`].
    Token(TunnelToken),
}

/// What came of an [`Ask`].
#[derive(Debug)]
pub struct Told {
    /// What was asked.
    pub ask: Ask,
    /// What came of it.
    pub result: Result<Answer, CallError>,
}

/// Makes calls; clones share the remote's pace.
#[derive(Clone, Debug)]
pub struct Remote {
    api: Arc<Tunnels>,
    at_once: Arc<Semaphore>,
    outcomes: Arc<Mutex<BTreeMap<Outcome, u64>>>,
}

impl Remote {
    /// Calls nobody yet.
    pub fn new(api: Tunnels) -> Self {
        Self {
            api: Arc::new(api),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            outcomes: Arc::default(),
        }
    }

    /// How many calls came to what, since the start.
    pub fn outcomes(&self) -> BTreeMap<Outcome, u64> {
        let outcomes = self.outcomes.lock();
        outcomes.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes the call on a task of its own; what came of it goes to `told`, if anybody is left there.
    pub(crate) fn ask(&self, ask: Ask, told: mpsc::Sender<Told>, tasks: &Tasks) {
        let remote = self.clone();
        tasks.spawn(async move {
            let Ok(_permit) = remote.at_once.acquire().await else {
                return;
            };
            let result = call(&remote.api, &ask.tunnel_id, &ask.call).await;
            remote.count(Outcome::of(&ask, &result));
            // Nobody: the daemon is ending, and the next one finds out by reading.
            let _ = told.send(Told { ask, result }).await;
        });
    }
}

impl Remote {
    fn count(&self, outcome: Outcome) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        *outcomes.entry(outcome).or_default() += 1;
    }
}

async fn call(api: &Tunnels, id: &str, call: &Call) -> Result<Answer, CallError> {
    Ok(match call {
        Call::Tunnel => Answer::Tunnel(api.tunnel(id).await?),
        Call::Certificates => Answer::Certificates(api.certificates(id).await?),
        Call::AddCertificate { pem } => Answer::Certificate(api.add_certificate(id, pem).await?),
        Call::ArchiveCertificate {
            id: certificate,
            reason,
        } => Answer::Certificate(api.archive_certificate(id, certificate, reason).await?),
        Call::Secrets => Answer::Secrets(api.secrets(id).await?),
        Call::AddSecret { sha256 } => Answer::Secret(api.add_secret(id, sha256).await?),
        Call::ArchiveSecret { id: secret, reason } => {
            Answer::Secret(api.archive_secret(id, secret, reason).await?)
        }
        Call::RevealToken { reason } => Answer::Token(api.reveal_token(id, reason).await?),
        Call::RotateToken(rotation) => Answer::Token(api.rotate_token(id, rotation).await?),
    })
}
