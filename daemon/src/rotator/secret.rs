//! Carries out what the shared secret's machine decides, for a tunnel whose proxies dial a `keyward-edge`.
//!
//! The value is made here and is nowhere but in custody and on the board; the remote gets its digest. What the
//! remote lists is looked at when the machine wants to, at most a few times a second and ever more rarely
//! while nothing changes; a list that was asked before a record, a change at the remote or a change among the
//! proxies says nothing of what is so after it, and is dropped.

mod order;
mod perform;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use control::{Resource, Role};
use pki::Fingerprint;
use zeroize::Zeroizing;

use super::tunnel::{Desk, Pace, Tunnel, is_in_service};
use super::{Moment, TICK};
use crate::board::Replicas;
use crate::config::Connector;
use crate::custody::{Blob, Custody};
use crate::disk::DiskError;
use crate::remote::{Call, Lane};
use crate::rotation::shared_secret::{Action, Cause, Dialer, Remote, Secret, Seen, State, next};

/// Topic of its alarms.
const TOPIC: &str = "shared secret";
/// Pause between the first looks at the remote that show nothing new.
const FIRST_LOOKS: Duration = Duration::from_millis(250);
/// So many of them are as close: an edge says of what is connected a second late. Then the pause doubles.
const CLOSE_LOOKS: u32 = 5;
/// The longest.
const LAST_LOOKS: Duration = Duration::from_secs(60);
/// How long the remote may list something else than it answered.
const LISTED_WITHIN: Duration = Duration::from_secs(60);
/// Proxies have come back within this after a restart.
const COME_BACK: Duration = Duration::from_secs(60);
/// Steps in one turn. A rotation takes about ten, in several turns.
const STEPS: usize = 32;

/// The shared secret of a tunnel: what the journal says of it, and what this process knows besides.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) state: State,
    /// Ids of the secrets whose values are in custody.
    held: BTreeSet<String>,
    /// After failures of the disk.
    pace: Pace,
    /// After failures of calls.
    calls: Pace,
    /// After secrets that came to nothing.
    spoilt: Pace,
    /// What the remote lists, as far as nothing has changed since.
    list: Option<Remote>,
    /// What it listed last, for a person.
    shown: Option<Remote>,
    /// When a look was begun that is still worth something, in Unix seconds.
    looking: Option<u64>,
    /// When the last one was begun.
    looked_at: Option<u64>,
    /// Not before, since boot.
    next_look: Duration,
    /// Looks that showed nothing new.
    looks: u32,
    /// The proxies, when the list was asked.
    dialers: Vec<Dialer>,
    /// What was added and archived, and when, since boot.
    called: BTreeMap<String, Duration>,
    /// Digests that the remote does not take.
    refused: BTreeSet<String>,
    /// When what is presented went out, since boot.
    published_at: Duration,
}

impl Shared {
    /// What a state says, with the values that are in custody.
    pub(super) fn resume(state: State, custody: &Custody) -> Result<Self, DiskError> {
        let mut held = BTreeSet::new();
        for secret in state.active.iter().chain(state.new_one()) {
            if value(custody, secret)?.is_some() {
                held.insert(secret.id.clone());
            }
        }
        Ok(Self {
            state,
            held,
            ..Self::default()
        })
    }

    /// What the remote listed last, for a person.
    pub(super) fn shown(&self) -> Option<&Remote> {
        self.shown.as_ref()
    }

    /// What was seen of the remote is of the past.
    fn forget(&mut self) {
        (self.list, self.looking) = (None, None);
        (self.next_look, self.looks) = (Duration::ZERO, 0);
    }

    /// Somebody is there and wants to see what is wrong now.
    pub(super) fn retry(&mut self) {
        self.pace.reset();
        self.calls.reset();
        self.spoilt.reset();
    }

    /// Until the next look.
    fn pause(&mut self, boot: Duration) {
        self.looks = self.looks.saturating_add(1);
        let doubled = 1 << self.looks.saturating_sub(CLOSE_LOOKS).min(16);
        self.next_look = boot + (FIRST_LOOKS * doubled).min(LAST_LOOKS);
    }
}

impl Tunnel {
    /// Whether its other side takes shared secrets, and its proxies dial with them.
    pub(super) fn has_secrets(&self) -> bool {
        self.config.connector == Connector::Builtin && self.config.remote().is_some()
    }

    /// Does what can be done now; gives how long nothing more will be due.
    pub(super) fn step_secret(&mut self, desk: &mut Desk<'_>) -> Duration {
        let mut pause = TICK;
        if !self.has_secrets() {
            return pause;
        }
        for _ in 0..STEPS {
            let asking = desk.calls.is_under_way(&self.name, Lane::Secret);
            let seen = {
                let replicas = desk.board.replicas.borrow();
                self.outdate(&replicas, desk.moment);
                self.see_secret(&replicas, desk.moment, asking)
            };
            match next(&self.shared.state, &seen, desk.moment.unix()) {
                Action::Wait(until) => {
                    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
                    pause = until.duration_since(desk.moment.wall).unwrap_or_default();
                    break;
                }
                Action::List => {
                    let left = self.shared.next_look.saturating_sub(desk.moment.boot);
                    if !left.is_zero() {
                        pause = left;
                        break;
                    }
                    self.look(desk, seen.dialers);
                }
                action => {
                    if !self.take_step(desk, &action) {
                        break;
                    }
                }
            }
        }
        self.settle_secret_order(desk);
        let boot = desk.moment.boot;
        for pace in [&self.shared.pace, &self.shared.calls, &self.shared.spoilt] {
            if pace.is_on(boot) {
                pause = pause.min(pace.left(boot));
            }
        }
        pause
    }

    /// Drops what is of the past.
    fn outdate(&mut self, replicas: &Replicas, moment: Moment) {
        let (dialers, _) = self.dialers(replicas, moment.wall);
        let shared = &mut self.shared;
        if shared.dialers != dialers && (shared.list.is_some() || shared.looking.is_some()) {
            shared.forget();
        }
        let lately = |at: &Duration| moment.boot < *at + LISTED_WITHIN;
        shared.called.retain(|_, at| lately(at));
    }

    /// What the machine decides by.
    fn see_secret(&self, replicas: &Replicas, moment: Moment, asking: bool) -> Seen {
        let Moment {
            wall,
            boot,
            suspect,
        } = moment;
        let (dialers, gone) = self.dialers(replicas, wall);
        let shared = &self.shared;
        let published = self.publication.secret.as_ref();
        let wanted = self.secret_order.as_ref().filter(|one| one.is_waiting());
        Seen {
            remote: shared.list.clone(),
            looked_at: shared.looked_at,
            called: shared.called.keys().cloned().collect(),
            refused: shared.refused.iter().cloned().collect(),
            held: shared.held.iter().cloned().collect(),
            published: published.map_or(0, |secret| secret.generation),
            dialers,
            gone,
            watched: self.until_deserted(boot).is_zero(),
            young: boot < self.facts.watching_since + COME_BACK,
            wanted: wanted.map(|_| Cause::Ordered),
            quiet: self.config.shared_secret.quiet.as_secs(),
            asking: asking || !self.remote.is_ours() || shared.calls.is_on(boot),
            paced: shared.pace.is_on(boot) || shared.spoilt.is_on(boot),
            suspect,
        }
    }

    /// The proxies in service that dial this tunnel's edge, and the replicas that are known not to be.
    pub(super) fn dialers(
        &self,
        replicas: &Replicas,
        wall: SystemTime,
    ) -> (Vec<Dialer>, Vec<String>) {
        let key = (self.name.clone(), Resource::Tunnel);
        let mut dialers = Vec::new();
        let mut gone = Vec::new();
        for (name, replica) in replicas {
            let dials = replica.role == Role::Proxy && replica.dials.contains(&self.name);
            if dials && is_in_service(replica, wall) {
                dialers.push(Dialer {
                    name: name.clone(),
                    acked: replica.acks.get(&key).copied().unwrap_or_default(),
                    refused: replica.nacks.get(&key).copied(),
                });
            } else {
                gone.push(name.clone());
            }
        }
        (dialers, gone)
    }

    /// Asks the remote what it lists.
    fn look(&mut self, desk: &mut Desk<'_>, dialers: Vec<Dialer>) {
        let now = desk.moment.unix();
        self.shared.pause(desk.moment.boot);
        self.shared.looking = Some(now);
        self.shared.looked_at = Some(now);
        self.shared.dialers = dialers;
        desk.calls.ask(self, Lane::Secret, Call::Secrets);
    }
}

/// The value, if it is in custody and is the one that the journal means.
fn value(custody: &Custody, secret: &Secret) -> Result<Option<Zeroizing<String>>, DiskError> {
    let value = custody.read(Blob::Secret(&secret.id))?;
    let is_it =
        |text: &Zeroizing<String>| Fingerprint::of(text.as_bytes()).to_string() == secret.sha256;
    Ok(value.filter(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remote_is_looked_at_four_times_a_second_at_first_and_once_a_minute_in_the_end() {
        let (start, mut shared) = (Duration::from_secs(100), Shared::default());
        let mut looks = vec![start];
        while looks.last().unwrap().saturating_sub(start) < Duration::from_secs(3600) {
            shared.pause(*looks.last().unwrap());
            looks.push(shared.next_look);
        }
        let within = |limit: Duration| looks.iter().filter(|at| **at < start + limit).count();
        assert_eq!(within(Duration::from_millis(1300)), 6);
        assert!(within(Duration::from_secs(60)) <= 14, "{looks:?}");
        assert!(within(Duration::from_secs(3600)) <= 73, "{looks:?}");
        shared.forget();
        assert_eq!(shared.next_look, Duration::ZERO);
    }
}
