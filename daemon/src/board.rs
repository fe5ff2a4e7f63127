//! What the daemon's tasks tell each other: what is published, who serves it, what is ordered.
//!
//! The rotator is the only writer of publications, the publisher of replicas; everything else reads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use control::{Policy, Reason, Report, Resource, Role, Tunnel};
use tokio::sync::{mpsc, oneshot, watch};

use crate::credential::LintedCredential;
use crate::status::{Operation, Status};

/// What is in force for one tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publication {
    /// For proxies.
    pub credential: Option<Arc<LintedCredential>>,
    /// For proxies.
    pub policy: Option<Arc<Policy>>,
    /// For connectors, and for proxies that dial while there is no `secret`.
    pub token: Option<Arc<Tunnel>>,
    /// A shared secret of the tunnel's edge, for proxies that dial. Its generations are above all that `token` ever had:
    /// to them the two are one resource, and an acknowledgement says nothing but its generation.
    pub secret: Option<Arc<Tunnel>>,
}

/// Tunnel name to what is in force for it.
pub type Publications = BTreeMap<String, Publication>;

/// One subscriber, as the publisher knows it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// What it is.
    pub role: Role,
    /// The uid behind the socket.
    pub uid: u32,
    /// What it said of its build.
    pub build: String,
    /// The tunnels that it is sent.
    pub tunnels: Vec<String>,
    /// Those of them whose edge it dials with what it is sent: it acknowledges [`Resource::Tunnel`] of these when
    /// every connection of its own stands on it.
    pub dials: Vec<String>,
    /// A subscription stands now.
    pub connected: bool,
    /// It said `bye`.
    pub left: bool,
    /// When it was last heard.
    pub last_heard: SystemTime,
    /// Highest generation acknowledged, by tunnel and resource.
    pub acks: BTreeMap<(String, Resource), u64>,
    /// Last refusal, by tunnel and resource, until a later ack.
    pub nacks: BTreeMap<(String, Resource), (u64, Reason)>,
    /// Its last report.
    pub report: Report,
}

/// Replica name to replica.
pub type Replicas = BTreeMap<String, Replica>;

/// What somebody asks of the rotator. Answered at once with an operation that can be followed.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub order: Order,
    /// Who asks, for the journal: `uid:1000`, `schedule`.
    pub actor: String,
    /// Gets the operation as it was accepted, or the refusal.
    pub answer: oneshot::Sender<Result<Operation, Refusal>>,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new key and certificate now.
    RotateServerCertificate {
        /// Which tunnel.
        tunnel: String,
    },
    /// Switch to the standby CA.
    RotateCa {
        /// Which tunnel.
        tunnel: String,
        /// The operator asserts that the verifiers hold both CAs. Without it the order is refused
        /// with the standby CA and where it has to go.
        trusted: bool,
        /// SHA-256 of the standby CA that they hold, if the operator named it.
        standby: Option<String>,
        /// The rotation in flight need not wait for proof that callers take the new CA.
        accept_unproven: bool,
    },
    /// Another tunnel token, once.
    RotateTunnelToken {
        /// Which tunnel.
        tunnel: String,
    },
    /// Another shared secret for the proxies that dial.
    RotateSharedSecret {
        /// Which tunnel.
        tunnel: String,
    },
    /// A client certificate of the client CA, for mutual inner TLS.
    IssueClient {
        /// Which tunnel.
        tunnel: String,
        /// Common name and DNS name of the client.
        name: String,
        /// PKCS#10 request in PEM: the key is made where it will be used and never comes here.
        csr: String,
        /// Life of the certificate in seconds.
        lifetime_seconds: u64,
    },
}

/// Why an order was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Who has to change something.
    pub fault: Fault,
    /// What is wrong, one line.
    pub what: String,
    /// What to do.
    pub next: String,
}

/// What an order was refused for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It can never be carried out as it is worded: whoever ordered has to word it otherwise.
    Words,
    /// The configuration, or the state of things, does not allow it now.
    State,
}

/// The ends that each task holds. Clones share them.
#[derive(Clone, Debug)]
pub struct Board {
    /// Rotator to publisher.
    pub publications: watch::Sender<Publications>,
    /// Publisher to rotator and status.
    pub replicas: watch::Sender<Replicas>,
    /// Rotator to whoever asks.
    pub status: watch::Sender<Arc<Status>>,
    /// Whoever asks to rotator.
    pub requests: mpsc::Sender<Request>,
}
