//! The daemon's process: what a crash takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use daemon::rotation::authority;
use daemon::rotation::shared_secret::{Dialer, Remote};
use daemon::rotation::slots::{LATE, Listing, Phase};
use daemon::rotation::{
    ISSUES_PER_HOUR, Leaf, REPLICA_GRACE, Witness, server_certificate, shared_secret, tunnel_token,
};

use super::disk::{self, Blob, Disk, Ordered, Orders};
use super::far::Call;
use super::time::{Doubt, HOUR, Pace};

/// What the tunnel is called at the remote.
const TUNNEL: &str = "tnl_simulated";

/// A call's affair; one is under way at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Tunnel,
    Ca,
    Token,
    Secret,
}

/// A call that a turn wants made.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) lane: Lane,
    pub(super) call: Call,
}

/// What is sent to whom dials or serves.
#[derive(Clone, Debug, Default)]
pub(super) struct Board {
    pub(super) credential: Option<Credential>,
    /// Generation and value.
    pub(super) token: Option<(u64, String)>,
    /// Generation and digest.
    pub(super) secret: Option<(u64, String)>,
}

/// A server certificate with what is beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Credential {
    pub(super) generation: u64,
    pub(super) leaf: Leaf,
    pub(super) fallback: Option<Leaf>,
}

/// A subscriber, as the publisher shows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Subscriber {
    pub(super) is_connector: bool,
    pub(super) connected: bool,
    pub(super) left: bool,
    /// By the wall clock.
    pub(super) last_heard: u64,
    pub(super) credential: u64,
    pub(super) tunnel: u64,
    pub(super) credential_refused: Option<(u64, control::Reason)>,
    pub(super) tunnel_refused: Option<(u64, control::Reason)>,
    /// What it says that it serves.
    pub(super) serves: u64,
    /// Handshakes by CA.
    pub(super) handshakes: BTreeMap<String, u64>,
}

/// A token that waits in memory.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) id: String,
    pub(super) value: String,
    /// How it was asked; `None`: a rotation gave it.
    pub(super) asked: Option<Asked>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    pub(super) at: u64,
    pub(super) late: bool,
    pub(super) doubted: bool,
}

/// What is known of the remote's secrets besides the journal.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    pub(super) held: BTreeSet<String>,
    pub(super) calls: Pace,
    pub(super) spoilt: Pace,
    pub(super) list: Option<Remote>,
    pub(super) looking: Option<u64>,
    pub(super) looked_at: Option<u64>,
    pub(super) next_look: (u64, u64),
    pub(super) dialers: Vec<Dialer>,
    pub(super) called: BTreeMap<String, u64>,
    pub(super) refused: BTreeSet<String>,
    pub(super) published_at: u64,
}

impl Shared {
    pub(super) fn forget(&mut self) {
        (self.list, self.looking) = (None, None);
        self.next_look = (0, 0);
    }
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub(super) boot_id: u32,
    pub(super) leaf: server_certificate::State,
    pub(super) ca: authority::State,
    pub(super) token: tunnel_token::State,
    pub(super) secret: shared_secret::State,
    pub(super) orders: Orders,
    pub(super) doubt: Doubt,
    pub(super) watching_since: u64,
    pub(super) subscribers: BTreeMap<String, Subscriber>,
    pub(super) board: Board,
    pub(super) under_way: BTreeSet<Lane>,
    /// The tunnel was read, and is the one that is meant.
    pub(super) is_ours: bool,
    pub(super) tunnel_pace: Pace,
    pub(super) leaf_pace: Pace,
    pub(super) ca_pace: Pace,
    pub(super) list_pace: Pace,
    pub(super) call_pace: Pace,
    pub(super) token_pace: Pace,
    pub(super) listing: Option<Listing>,
    pub(super) held: Option<Held>,
    pub(super) asked: Asked,
    pub(super) shared: Shared,
    pub(super) issued: VecDeque<u64>,
    pub(super) serial_fresh: bool,
    pub(super) published_at: Option<u64>,
}

impl Process {
    /// Starting is recovery.
    pub(super) fn open(boot_id: u32, disk: &mut Disk, wall: u64, boot: u64) -> Self {
        let doubt = Doubt::since(disk.journal.newest, boot_id, wall, boot);
        if let Some(standby) = &disk.journal.ca.standby
            && !disk.has(&disk::ca(&standby.id))
        {
            let next = disk.journal.ca.discarded();
            disk.record(|records| records.ca = next);
        }
        let records = disk.journal.clone();
        let issues = records.issues.iter().copied();
        let mut process = Self {
            boot_id,
            doubt,
            watching_since: boot,
            issued: issues.filter(|at| boot - at < HOUR).collect(),
            leaf: records.leaf,
            ca: records.ca.at_remote(Some(TUNNEL), wall),
            token: records.token.at_remote(Some(TUNNEL)),
            secret: records.secret,
            orders: records.orders,
            ..Self::default()
        };
        for secret in process.secret.active.iter().chain(process.secret.new_one()) {
            if let Some(Blob::Secret(sha256)) = disk.read(&disk::secret(&secret.id))
                && *sha256 == secret.sha256
            {
                process.shared.held.insert(secret.id.clone());
            }
        }
        disk.clear(&process.leaf.blobs());
        process.attach_orders();
        process
    }

    /// An order whose rotation was recorded before the order was.
    fn attach_orders(&mut self) {
        let attach = |order: &mut Option<Ordered>, rotation: Option<(&String, u64)>| {
            if let (Some(order), Some((id, began))) = (order, rotation)
                && order.is_waiting()
                && began >= order.taken
            {
                order.rotation = Some(id.clone());
            }
        };
        let ca = self.ca.slots.rotation.as_ref();
        attach(&mut self.orders.ca, ca.map(|one| (&one.id, one.began)));
        let token = self.token.rotation.as_ref();
        attach(
            &mut self.orders.token,
            token.map(|one| (&one.id, one.began)),
        );
        let secret = self.secret.rotation.as_ref();
        attach(
            &mut self.orders.secret,
            secret.map(|one| (&one.id, one.began)),
        );
        // Its rotation is over, or far enough.
        let over = |order: &Option<Ordered>, rotation: Option<&String>| {
            let order = order.as_ref().and_then(|order| order.rotation.as_ref());
            order.is_some() && order != rotation
        };
        if over(&self.orders.ca, ca.map(|one| &one.id)) {
            self.orders.ca = None;
        }
        if over(&self.orders.token, token.map(|one| &one.id)) {
            self.orders.token = None;
        }
        if over(&self.orders.secret, secret.map(|one| &one.id)) {
            self.orders.secret = None;
        }
    }

    /// Whether a subscriber is there, or went without a farewell a short while ago.
    pub(super) fn is_in_service(one: &Subscriber, wall: u64) -> bool {
        let silent = wall.checked_sub(one.last_heard);
        let forgotten = silent.is_some_and(|silent| silent >= REPLICA_GRACE.as_secs());
        one.connected || !one.left && !forgotten
    }

    /// Proxies in service, by what they say of the credential, and the names of those that are not any more.
    pub(super) fn witnesses(&self, wall: u64) -> (Vec<Witness>, Vec<String>) {
        let (mut here, mut left) = (Vec::new(), Vec::new());
        for (name, one) in self.subscribers.iter().filter(|(_, one)| !one.is_connector) {
            if Self::is_in_service(one, wall) {
                here.push(Witness {
                    name: name.clone(),
                    connected: one.connected,
                    acked: one.credential,
                    refused: one.credential_refused,
                    serves: one.serves.max(one.credential),
                });
            } else {
                left.push(name.clone());
            }
        }
        (here, left)
    }

    /// Connectors in service, by what they say of the token, and the names of everybody else.
    pub(super) fn connectors(&self, wall: u64) -> (Vec<Witness>, Vec<String>) {
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (name, one) in &self.subscribers {
            if one.is_connector && Self::is_in_service(one, wall) {
                here.push(Witness {
                    name: name.clone(),
                    connected: one.connected,
                    acked: one.tunnel,
                    refused: one.tunnel_refused,
                    serves: one.tunnel,
                });
            } else {
                gone.push(name.clone());
            }
        }
        (here, gone)
    }

    /// Proxies in service that dial, and the names of everybody else.
    pub(super) fn dialers(&self, wall: u64) -> (Vec<Dialer>, Vec<String>) {
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (name, one) in &self.subscribers {
            if !one.is_connector && Self::is_in_service(one, wall) {
                here.push(Dialer {
                    name: name.clone(),
                    acked: one.tunnel,
                    refused: one.tunnel_refused,
                });
            } else {
                gone.push(name.clone());
            }
        }
        (here, gone)
    }

    /// Whether it has watched for as long as a replica may be away.
    pub(super) fn has_watched(&self, boot: u64) -> bool {
        boot.saturating_sub(self.watching_since) >= REPLICA_GRACE.as_secs()
    }

    /// Whether a call of an earlier process may still be on its way.
    pub(super) fn is_young(&self, boot: u64) -> bool {
        boot.saturating_sub(self.watching_since) < LATE
    }

    pub(super) fn is_capped(&mut self, boot: u64) -> bool {
        self.issued.retain(|at| boot.saturating_sub(*at) < HOUR);
        self.issued.len() >= ISSUES_PER_HOUR
    }

    /// The CA before has to be archived yet.
    pub(super) fn is_proving(&self) -> bool {
        self.ca.is_in(Phase::Switched)
    }
}
