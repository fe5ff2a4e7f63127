//! One tunnel: its state, what is loaded of it, and its turn.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, SystemTime};

use control::Role;
use pki::{Authority, Certificate, IssueError, Linted};
use thiserror::Error;

use super::calls::Calls;
use super::orders::Operations;
use super::pending::{Ordered, Orders};
use super::remote::Remote;
use super::schedule::{Due, Reviewed};
use super::secret::Shared;
use super::slots::Slots;
use super::token::Token;
use super::{Moment, TICK};
use crate::board::{Board, Publication, Replica, Replicas};
use crate::config::TunnelConfig;
use crate::custody::Custody;
use crate::disk::DiskError;
use crate::journal::{Entry, Journal, Kind};
use crate::rotation::slots::LATE;
use crate::rotation::{
    ISSUES_PER_HOUR, REPLICA_GRACE, Witness, authority, server_certificate, tunnel_token, ulid,
};
use crate::served::Served;
use crate::store::Store;
use crate::tunnels::{CallError, NotSent};

/// Steps in one turn. A rotation of everything takes about twenty; more is a loop, which ends here.
const STEPS: usize = 100;
/// How long proxies have for their acks until an operation ends without them.
pub(super) const ACK_LIMIT: Duration = Duration::from_secs(2);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// One tunnel.
pub(super) struct Tunnel {
    pub(super) name: String,
    pub(super) config: TunnelConfig,
    pub(super) custody: Custody,
    pub(super) store: Store,
    pub(super) served: Option<Served>,
    pub(super) leaf: server_certificate::State,
    pub(super) ca: authority::State,
    pub(super) client_ca: authority::State,
    pub(super) token: tunnel_token::State,
    /// CA certificates by id of the rotation that made them.
    pub(super) certificates: BTreeMap<String, Certificate>,
    /// The CA in force, ready to sign, by id.
    pub(super) signer: Option<(String, Authority)>,
    /// The same for client certificates.
    pub(super) client_signer: Option<(String, Authority)>,
    /// Pairs that passed lint, by id.
    pub(super) pairs: BTreeMap<String, Linted>,
    /// What the board has.
    pub(super) publication: Publication,
    pub(super) facts: Facts,
    pub(super) leaf_pace: Pace,
    pub(super) ca_pace: Pace,
    /// The other side.
    pub(super) remote: Remote,
    /// Its slots for CA certificates.
    pub(super) slots: Slots,
    pub(super) token_now: Token,
    /// What proxies dial with.
    pub(super) shared: Shared,
    pub(super) leaf_order: Option<Ordered>,
    pub(super) ca_order: Option<Ordered>,
    pub(super) token_order: Option<Ordered>,
    pub(super) secret_order: Option<Ordered>,
    /// They as the journal has them.
    pub(super) orders_noted: Orders,
    /// When something is due by itself.
    pub(super) due: Due,
    pub(super) reviewed: Reviewed,
}

/// What this process knows and the journal does not.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// When this process began to watch, since boot.
    pub(super) watching_since: Duration,
    /// When the generation in force went out, since boot.
    pub(super) published_at: Option<Duration>,
    /// The serial number was drawn by this process and has not been signed with.
    pub(super) serial_fresh: bool,
    /// Store and served directory lag behind.
    pub(super) files_stale: bool,
    /// Issues that nobody ordered, since boot.
    pub(super) issued: VecDeque<Duration>,
    /// Highest generation that a served directory was found with.
    pub(super) floor: u64,
    /// The store holds a CA that nobody here made: it is not written.
    pub(super) conflict: Option<String>,
    /// The policy has been looked at.
    pub(super) policy_published: bool,
    /// Trouble by topic; gone when the topic is well again.
    pub(super) troubles: BTreeMap<&'static str, String>,
}

/// How long to leave something alone after it failed.
#[derive(Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    until: Option<Duration>,
}

impl Pace {
    pub(super) fn is_on(&self, boot: Duration) -> bool {
        self.until.is_some_and(|until| boot < until)
    }

    /// Doubles with each failure, from one second on.
    pub(super) fn fail(&mut self, boot: Duration) {
        let pause = Duration::from_secs(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        self.failures += 1;
        self.until = Some(boot + pause);
    }

    /// After a call that failed; whether that is trouble. To be told to wait is none.
    pub(super) fn after(&mut self, boot: Duration, error: &CallError) -> bool {
        if let CallError::NotSent(NotSent::Paced(left)) = error {
            self.until = Some(boot + *left);
            return false;
        }
        self.fail(boot);
        true
    }

    /// Whether it is on because something failed.
    pub(super) fn is_failing(&self, boot: Duration) -> bool {
        self.failures > 0 && self.is_on(boot)
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn left(&self, boot: Duration) -> Duration {
        self.until
            .map_or(TICK, |until| until.saturating_sub(boot))
            .max(Duration::from_millis(10))
    }
}

/// What a turn works with.
pub(super) struct Desk<'a> {
    pub(super) journal: &'a mut Journal,
    pub(super) operations: &'a mut Operations,
    pub(super) calls: &'a mut Calls,
    pub(super) board: &'a Board,
    pub(super) moment: Moment,
}

impl Desk<'_> {
    /// Appends; durable before this returns.
    pub(super) fn record(
        &mut self,
        tunnel: &str,
        kind: Kind,
        entry: Entry,
    ) -> Result<(), DiskError> {
        let now = (self.moment.wall, self.moment.boot);
        self.journal.append(tunnel, kind, entry, now, true)
    }

    /// Appends what announces nothing that is seen outside of the state directory: it survives the end of
    /// the process, and if the power fails, the step before it is done once more.
    pub(super) fn note(&mut self, tunnel: &str, kind: Kind, entry: Entry) -> Result<(), DiskError> {
        let now = (self.moment.wall, self.moment.boot);
        self.journal.append(tunnel, kind, entry, now, false)
    }
}

/// Why a step was not done.
#[derive(Debug, Error)]
pub(super) enum StepError {
    /// The state cannot be written; everything stays as it is and is tried again.
    #[error("the state cannot be written")]
    Disk(#[from] DiskError),
    /// The CA refuses; the rotation is given up.
    #[error("no certificate could be issued")]
    Issue(#[from] IssueError),
    /// No key could be made; the rotation is given up.
    #[error("no key could be made")]
    Key(#[from] pki::KeyError),
    /// What was issued must not be published; the rotation is given up.
    #[error("the certificate is refused: {0}")]
    Lint(String),
    /// Store and served directory still hold what is to be destroyed; it is tried again.
    #[error("store and served directory cannot be written")]
    Stale,
    /// Something is not where the journal says.
    #[error("{0} is not in custody")]
    Lost(&'static str),
}

/// Topic of a CA that cannot sign.
pub(super) const SIGNER: &str = "signer";

impl StepError {
    /// For the journal.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Disk(_) | Self::Stale => "disk",
            Self::Issue(_) => "issue",
            Self::Key(_) => "key",
            Self::Lint(_) => "lint",
            Self::Lost(_) => "lost",
        }
    }

    /// With its causes, on one line.
    pub(super) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}

impl Tunnel {
    /// Does everything that can be done now; gives how long nothing more will be due.
    pub(super) fn turn(&mut self, desk: &mut Desk<'_>) -> Duration {
        self.step_schedule(desk);
        let witnesses = self.witnesses(desk);
        let mut pause = TICK;
        for _ in 0..STEPS {
            if self.step_ca(desk, &witnesses) {
                continue;
            }
            match self.step_leaf(desk, &witnesses) {
                None => {}
                Some(until) => {
                    pause = Duration::from_secs(until.saturating_sub(desk.moment.unix()));
                    break;
                }
            }
        }
        self.step_remote(desk);
        let until = self.step_token(desk);
        pause = pause.min(Duration::from_secs(
            until.saturating_sub(desk.moment.unix()),
        ));
        pause = pause.min(self.step_secret(desk));
        self.settle_orders(desk, &witnesses);
        if let Err(error) = self.note_orders(desk) {
            // Tried again in each turn; if it never works a carried out order is looked at once more.
            let text = format!("orders: {}", StepError::from(error).chain());
            self.trouble("orders", text);
        } else {
            self.well("orders");
        }
        self.refresh_files();
        self.publish_rest(desk);
        let boot = desk.moment.boot;
        let [lists, calls] = self.slots.paces();
        for pace in [
            &self.leaf_pace,
            &self.ca_pace,
            &self.remote.pace,
            &self.token_now.pace,
            lists,
            calls,
        ] {
            if pace.is_on(boot) {
                pause = pause.min(pace.left(boot));
            }
        }
        pause = pause.min(self.slots.left(desk.moment));
        if let Some(published_at) = self.facts.published_at
            && let Some(left) = (published_at + ACK_LIMIT).checked_sub(boot)
        {
            pause = pause.min(left);
        }
        pause.clamp(Duration::from_millis(10), TICK)
    }

    /// The proxies that are in service for this tunnel.
    pub(super) fn witnesses(&self, desk: &Desk<'_>) -> Vec<Witness> {
        self.proxies(desk).0
    }

    /// The proxies that are in service for this tunnel, and the names of those that are known not to be any more.
    pub(super) fn proxies(&self, desk: &Desk<'_>) -> (Vec<Witness>, Vec<String>) {
        let replicas = desk.board.replicas.borrow();
        let (role, resource) = (Role::Proxy, control::Resource::Credential);
        self.subscribers(&replicas, desk.moment, role, resource)
    }

    /// The subscribers of a role that are in service for this tunnel, by what they say of a resource, and the names of those
    /// that are known not to be any more.
    pub(super) fn subscribers(
        &self,
        replicas: &Replicas,
        moment: Moment,
        role: Role,
        resource: control::Resource,
    ) -> (Vec<Witness>, Vec<String>) {
        let resource = (self.name.clone(), resource);
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (name, replica) in replicas {
            if replica.role != role || !replica.tunnels.contains(&self.name) {
                continue;
            }
            if !is_in_service(replica, moment.wall) {
                gone.push(name.clone());
                continue;
            }
            let acked = replica.acks.get(&resource).copied().unwrap_or_default();
            let mut reports = replica.report.tunnels.iter();
            let report = reports.find(|report| report.tunnel == self.name);
            here.push(Witness {
                name: name.clone(),
                connected: replica.connected,
                acked,
                refused: replica.nacks.get(&resource).copied(),
                serves: report.map_or(acked, |report| acked.max(report.generation)),
            });
        }
        (here, gone)
    }

    /// Whether no proxy is in service, and this process has watched for long enough to know: after a
    /// restart they take their time to come back.
    pub(super) fn is_deserted(&self, witnesses: &[Witness], boot: Duration) -> bool {
        witnesses.is_empty() && self.until_deserted(boot).is_zero()
    }

    /// How long until no proxy means that none comes back.
    pub(super) fn until_deserted(&self, boot: Duration) -> Duration {
        REPLICA_GRACE.saturating_sub(boot.saturating_sub(self.facts.watching_since))
    }

    /// Whether a call of an earlier process may still be on its way.
    pub(super) fn is_young(&self, boot: Duration) -> bool {
        boot.saturating_sub(self.facts.watching_since) < Duration::from_secs(LATE)
    }

    /// Whether the time for acks is over.
    pub(super) fn is_overdue(&self, boot: Duration) -> bool {
        self.facts
            .published_at
            .is_none_or(|at| boot >= at + ACK_LIMIT)
    }

    /// Whether no more may be issued for now without an order.
    pub(super) fn is_capped(&mut self, boot: Duration) -> bool {
        let issued = &mut self.facts.issued;
        issued.retain(|at| boot.saturating_sub(*at) < HOUR);
        issued.len() >= ISSUES_PER_HOUR
    }

    /// Notes that something does not work; logged when it is news.
    pub(super) fn trouble(&mut self, topic: &'static str, text: String) {
        if self.facts.troubles.get(topic) != Some(&text) {
            tracing::error!(tunnel = self.name, topic, error = text, "step failed");
        }
        self.facts.troubles.insert(topic, text);
    }

    /// Notes that it works again.
    pub(super) fn well(&mut self, topic: &'static str) {
        if self.facts.troubles.remove(topic).is_some() {
            tracing::info!(tunnel = self.name, topic, "step works again");
        }
    }
}

/// Whether a replica is there, or went without a farewell a short while ago.
pub(super) fn is_in_service(replica: &Replica, wall: SystemTime) -> bool {
    // A clock that was set back makes it lie in the future, and counts as well.
    let silent = wall.duration_since(replica.last_heard);
    let is_forgotten = silent.is_ok_and(|silent| silent >= REPLICA_GRACE);
    replica.connected || !replica.left && !is_forgotten
}

/// A name for a new rotation.
pub(super) fn fresh_id(moment: Moment) -> String {
    fresh_id_at(moment.wall)
}

/// A name that no other has, which sorts by `wall`.
pub(crate) fn fresh_id_at(wall: SystemTime) -> String {
    let mut random = [0; 10];
    getrandom::fill(&mut random).expect("a kernel that runs us has randomness");
    let milliseconds = wall
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis();
    ulid(u64::try_from(milliseconds).unwrap_or_default(), random)
}
