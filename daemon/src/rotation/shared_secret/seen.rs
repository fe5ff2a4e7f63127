//! What the shared secret's machine decides by, besides the journal.

use control::Reason;

use super::{Action, Cause, Holder, Secret};

/// Active secrets that the remote has room for.
pub(super) const SLOTS: usize = 2;

/// What is so at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent observations, each named where it is made"
)]
pub struct Seen {
    /// What the remote lists, asked since the last record, the last call that changed something there, and
    /// the last change among the proxies.
    pub remote: Option<Remote>,
    /// When the remote was last asked, however much has changed since.
    pub looked_at: Option<u64>,
    /// Digests that were added and ids that were archived with success, a moment ago.
    pub called: Vec<String>,
    /// Digests that the remote refused to add.
    pub refused: Vec<String>,
    /// Ids of the secrets whose values are in custody.
    pub held: Vec<String>,
    /// Generation that this process has put on the board; 0 for none.
    pub published: u64,
    /// The proxies in service that dial.
    pub dialers: Vec<Dialer>,
    /// Names of replicas that this process saw and that are in service no more, or do not dial.
    pub gone: Vec<String>,
    /// This process has watched for as long as a proxy may be away.
    pub watched: bool,
    /// This process has watched for less time than proxies take to come back from a restart.
    pub young: bool,
    /// A rotation is ordered, or due, and has not begun.
    pub wanted: Option<Cause>,
    /// How long the old secret has to be unused, seconds.
    pub quiet: u64,
    /// The remote cannot be called now: a call is in flight, or one failed a moment ago.
    pub asking: bool,
    /// The last step failed a moment ago.
    pub paced: bool,
    /// The clock cannot be believed.
    pub suspect: bool,
}

/// What the remote lists as active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// When it was asked.
    pub asked_at: u64,
    /// The secrets.
    pub secrets: Vec<Listed>,
}

/// A secret that the remote lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Its id there.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the value.
    pub sha256: String,
    /// A connection was bound to it, now or ever.
    pub used: bool,
    /// Connections that are bound to it.
    pub live: Vec<Holder>,
}

/// A proxy that dials, connected or gone without a farewell for less than [`REPLICA_GRACE`](crate::rotation::REPLICA_GRACE).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dialer {
    /// Name of the replica.
    pub name: String,
    /// Highest generation that all its connections stand on; 0 for none.
    pub acked: u64,
    /// The last refusal, with its generation.
    pub refused: Option<(u64, Reason)>,
}

impl Seen {
    pub(super) fn remote(&self, now: u64, age: u64) -> Option<&Remote> {
        let remote = self.remote.as_ref();
        remote.filter(|remote| remote.asked_at <= now && now - remote.asked_at < age)
    }

    pub(super) fn holds(&self, secret: &Secret) -> bool {
        self.held.contains(&secret.id)
    }

    pub(super) fn refuses(&self, secret: &Secret) -> bool {
        self.refused.contains(&secret.sha256)
    }

    pub(super) fn is_behind(&self, name: &str, generation: u64) -> bool {
        let mut dialers = self.dialers.iter();
        dialers.any(|dialer| dialer.name == name && dialer.acked < generation)
    }

    /// Adds it, if there is room, and looks whether it is there.
    pub(super) fn add(&self, remote: &Remote, secret: &Secret) -> Action {
        if remote.is_full() || self.called.contains(&secret.sha256) {
            return Action::List;
        }
        Action::Add(secret.sha256.clone())
    }

    pub(super) fn archive(&self, listed: &Listed) -> Action {
        if self.called.contains(&listed.id) {
            return Action::List;
        }
        Action::Archive(listed.id.clone())
    }
}

impl Remote {
    pub(super) fn find(&self, secret: &Secret) -> Option<&Listed> {
        let mut listed = self.secrets.iter();
        listed.find(|listed| listed.sha256 == secret.sha256)
    }

    pub(super) fn is_full(&self) -> bool {
        self.secrets.len() >= SLOTS
    }
}
