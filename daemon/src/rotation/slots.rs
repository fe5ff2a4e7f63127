//! The CA's machine, for a tunnel whose remote has two slots for CA certificates and can be asked.
//!
//! ```text
//! stable ─▶ registering ─▶ settling ─▶ switched ─▶ archiving ─▶ archived ─▶ stable'
//!  one slot   standby is    listed;     leaf under   proven; old   old is     fallback withdrawn,
//!  is empty   given in      time for    the standby, is taken      not listed old key destroyed
//!      ▲          │         verifiers   fallback     out           any more
//!      └──────────┴─────────────┘       under the old
//!            rolling back
//! ```
//!
//! Neither call to the remote may be made twice, so both are journalled before and judged by a list after, whatever the
//! answer was: see [`Action::List`]. What the list shows and the journal cannot explain is a stranger's; it is never
//! archived and holds up nothing but the next rotation. The switch needs that verifiers had time; what destroys needs
//! proof that they used the successor, on every replica in service, and a clock that can be believed. Silence proves
//! nothing and rolls nothing back.

mod alarms;
mod decision;
mod state;

use std::collections::{BTreeMap, BTreeSet};

use self::decision::Decision;
use super::authority::{Ca, Role, State, fraction};

pub use alarms::alarms;
pub use state::{Call, Grade, Phase, Reason, Rotation, Slots, What};

const DAY: u64 = 86_400;
/// Slots of a tunnel at the remote.
pub const SLOTS: usize = 2;
/// The remote is asked at least this often what it lists, in seconds.
const EVERY: u64 = 3600;
/// What is asked of the remote follows from a list that is younger than this, in seconds.
const FRESH: u64 = 30;
/// A request that nobody answered may still arrive for this long, in seconds: twice the time limit of a call.
pub const LATE: u64 = 60;
/// A remote may list for this long, in seconds, what was before a call that it has answered.
const LAG: u64 = 900;
/// A standby that does not sign after this many seconds is given up.
const DEADLINE: u64 = DAY;
/// A CA is rotated while it lasts at least this many lives of a server certificate.
const LEAF_LIVES: u64 = 6;
/// Handshakes from which on their share of alerts says something.
const ENOUGH: u64 = 20;
/// How many points more than before, in per cent, speak against the new CA.
const POINTS: u64 = 5;

/// A registration, as the remote lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What the remote calls it.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the CA certificate.
    pub sha256: String,
}

/// What the remote lists, read after everything that was asked of it before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// When it was asked.
    pub at: u64,
    /// Not archived.
    pub registrations: Vec<Registration>,
}

/// A replica that is in service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Its name.
    pub name: String,
    /// It acknowledged the credential in force.
    pub acknowledged: bool,
    /// What it saw of callers under the CA in force.
    pub grade: Option<Grade>,
    /// Handshakes in which a certificate of the CA in force was shown.
    pub new: Tally,
    /// The same of the CA before, which may still be shown as the fallback.
    pub old: Tally,
}

/// How handshakes ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completed.
    pub completed: u64,
    /// With an alert about the certificate.
    pub alerts: u64,
}

/// What is so at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent observations, each named where it is made"
)]
pub struct Seen {
    /// `None`: it has to be asked.
    pub listing: Option<Listing>,
    /// A call is on its way.
    pub calling: bool,
    /// The remote is left alone for now.
    pub closed: bool,
    /// Seconds until every verifier knows a CA that is listed.
    pub settle: u64,
    /// Life of a server certificate in seconds.
    pub leaf: u64,
    /// The issuer of the leaf in force, if no rotation of it is in flight.
    pub settled_issuer: Option<String>,
    /// The credential in force has a fallback.
    pub fallback: bool,
    /// The proxies that are in service.
    pub served: Vec<Served>,
    /// Proxies that are known not to be in service any more.
    pub left: Vec<String>,
    /// This process has watched for as long as a replica may be away.
    pub watched: bool,
    /// This process runs for less than [`LATE`]: a call of the one before may still arrive.
    pub young: bool,
    /// Somebody ordered a rotation that has not begun.
    pub ordered: bool,
    /// One that nobody ordered may begin now.
    pub by_itself: bool,
    /// The last step on this machine failed a moment ago.
    pub paced: bool,
    /// The clock cannot be believed.
    pub suspect: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this second, unless something else is seen.
    Wait(u64),
    /// Record that a CA is to be made.
    Begin(Role),
    /// Make it, or take what a crash left of it; record it.
    Make,
    /// Forget a standby that cannot be of use, with its key; another is made.
    Discard,
    /// Ask the remote what it lists. Nothing is recorded.
    List,
    /// Record that this CA is about to be registered, then ask for that.
    Register(Ca),
    /// Record that this registration is about to be archived, then ask for that.
    Archive(Registration),
    /// Record that the last call had no effect.
    Forget,
    /// Record under which name a CA of ours is listed.
    Listed(Registration),
    /// Record that a CA of ours is not listed any more.
    Gone(String),
    /// Record that a rotation begins.
    Rotate(Reason),
    /// Record that one that was begun by hand is finished here.
    TakeOver,
    /// Record that the standby signs from now on.
    SwitchOver,
    /// Record what was seen of callers under the new CA.
    Prove(BTreeMap<String, Grade>),
    /// Record the proxies in service.
    Note(BTreeSet<String>),
    /// Record that the CA before is to be archived.
    Conclude,
    /// Destroy the key of the CA before, record that it is over.
    Retire,
    /// Record that it is rolled back.
    RollBack(&'static str),
    /// Destroy the key of the standby, record that it is over.
    RolledBack,
}

/// Decides.
pub fn next(state: &State, seen: &Seen, now: u64) -> Action {
    if seen.paced {
        return Action::Wait(now + 1);
    }
    let roster = roster(state, seen);
    if roster != state.slots.roster {
        return Action::Note(roster);
    }
    if let Some(action) = at_home(state, seen, now) {
        return action;
    }
    if seen.calling || seen.closed {
        return Action::Wait(now + 1);
    }
    // What came of a call is looked at ever more rarely.
    let call = state.slots.call.as_ref();
    let every = call.map_or(EVERY, |call| {
        (now.abs_diff(call.asked) / 4).clamp(FRESH, EVERY)
    });
    let listing = seen.listing.as_ref();
    let Some(listing) = listing.filter(|listing| now.abs_diff(listing.at) < every) else {
        return Action::List;
    };
    let action = Decision {
        state,
        seen,
        listing,
        now,
    }
    .next();
    let acts = !matches!(
        action,
        Action::Wait(_) | Action::Forget | Action::Prove(_) | Action::Listed(_)
    );
    if acts && now.abs_diff(listing.at) >= FRESH {
        return Action::List;
    }
    action
}

/// Whether what the CA in force is refused with is more than chance, or somebody with a tool and no CA.
pub fn speaks_against(new: Tally, old: Tally) -> bool {
    let total = |tally: Tally| tally.completed.saturating_add(tally.alerts);
    let share = |tally: Tally| tally.alerts.saturating_mul(100) / total(tally).max(1);
    let before = if total(old) >= ENOUGH { share(old) } else { 0 };
    total(new) >= ENOUGH && share(new) > before + POINTS
}

/// Whether the CA in force should have a successor.
pub fn is_due(state: &State, leaf: u64, now: u64) -> bool {
    let active = state.active.as_ref();
    active.is_some_and(|active| {
        let left = active.not_after.saturating_sub(now);
        fraction(active, now) >= 50 || left < leaf.saturating_mul(LEAF_LIVES)
    })
}

/// Whether it needs one whatever anybody planned: before long it could not sign a server certificate for its whole life.
fn is_pressing(state: &State, leaf: u64, now: u64) -> bool {
    state.active.as_ref().is_some_and(|active| {
        let left = active.not_after.saturating_sub(now);
        let life = active.not_after.saturating_sub(active.not_before);
        // However long a server certificate lives: a CA is not always near its end.
        left < leaf.saturating_mul(LEAF_LIVES).min(life / 4)
    })
}

/// When it should have one at the latest: from then on [`is_due`] says so.
pub fn due_at(ca: &Ca, leaf: u64) -> u64 {
    let half = ca.not_after.saturating_sub(ca.not_before).div_ceil(2);
    let last = leaf.saturating_mul(LEAF_LIVES);
    let short = ca.not_after.saturating_sub(last).saturating_add(1);
    ca.not_before.saturating_add(half).min(short)
}

/// What needs nobody else.
fn at_home(state: &State, seen: &Seen, now: u64) -> Option<Action> {
    if state.making.is_some() {
        return Some(Action::Make);
    }
    let Some(active) = &state.active else {
        return Some(Action::Begin(Role::Active));
    };
    let rotation = state.slots.rotation.as_ref();
    if rotation.is_none() && (state.old.is_some() || state.retired.is_some()) {
        return Some(Action::TakeOver);
    }
    if state.is_in(Phase::Archived) {
        let settled = seen.settled_issuer.as_ref() == Some(&active.sha256) && !seen.fallback;
        let followed = seen.served.iter().all(|served| served.acknowledged);
        return Some(if settled && followed && !seen.suspect {
            Action::Retire
        } else {
            Action::Wait(now + 1)
        });
    }
    // In those the standby is what the rotation is about.
    let in_use = [Phase::Registering, Phase::Settling, Phase::RollingBack];
    if in_use.into_iter().any(|phase| state.is_in(phase)) {
        return None;
    }
    let Some(standby) = &state.standby else {
        return Some(Action::Begin(Role::Standby));
    };
    // Or somebody registered it ahead: one slot stays empty.
    let useless = standby.is_useless(now) || state.slots.registered.contains_key(&standby.sha256);
    (useless && !seen.suspect && rotation.is_none()).then_some(Action::Discard)
}

/// Whether the journal can explain a registration.
fn is_ours(state: &State, sha256: &str) -> bool {
    let mut cas = [&state.active, &state.standby, &state.old]
        .into_iter()
        .flatten();
    cas.any(|ca| ca.sha256 == sha256) || state.slots.spent.iter().any(|spent| spent == sha256)
}

/// Whether callers of any replica refuse the CA in force.
fn is_held(served: &[Served]) -> bool {
    served
        .iter()
        .any(|served| speaks_against(served.new, served.old))
}

/// Whether the CA in force is known to work at every replica in service, or somebody answers for it.
fn is_proven(state: &State, rotation: &Rotation, seen: &Seen) -> bool {
    // Nobody is no evidence.
    rotation.accepted.is_some()
        || !seen.served.is_empty() && unproven(state, rotation, seen).is_empty()
}

/// The replicas in service of which it is not known that their callers take the CA in force.
fn unproven(state: &State, rotation: &Rotation, seen: &Seen) -> BTreeSet<String> {
    let mut unproven = roster(state, seen);
    unproven.retain(|name| {
        let grade = rotation.proofs.get(name);
        grade.is_none_or(|grade| *grade < Grade::Observed)
    });
    unproven
}

/// The replicas in service: those that are here, and those that an earlier process knew and that have not come back yet.
fn roster(state: &State, seen: &Seen) -> BTreeSet<String> {
    let absent = state.slots.roster.iter();
    let absent = absent.filter(|name| !seen.watched && !seen.left.contains(name));
    let here = seen.served.iter().map(|served| &served.name);
    absent.chain(here).cloned().collect()
}

#[cfg(test)]
mod search;
#[cfg(test)]
mod tests;
