//! The shared secret's machine, where the users are ours and the verifier is the remote.
//!
//! ```text
//! stable a ─▶ begun ─▶ made ─▶ published ─▶ quiet ─▶ archiving ─▶ stable b
//!              id       b in    b listed,    every    nobody of    a is not listed; then its value
//!                       custody proxies told proxy    ours on a    is destroyed
//!                                            on b
//! ```
//!
//! Verifiers first, users second, verifiers last: the remote lists b before a proxy is told of it, and a is
//! archived only once every proxy in service says that all its connections stand on b, the remote has seen b
//! used, and none of ours has used a for a while. The proxies' word decides who is ours: whoever else is
//! bound to a then holds nothing up, is told of, and is cut; but for the minute after a start, in which proxies
//! come back. Silence is no word: a proxy that is away holds the rotation up, and where there
//! is none nothing is archived. What the remote lists and this state does not know is never archived.
//!
//! Adding is idempotent by content and is done again whenever the remote does not list what proxies use. A
//! secret that the remote refuses, since somebody archived it, is given up for another one.

mod alarms;
mod seen;
mod state;

use std::collections::BTreeSet;

use control::Reason;

pub use alarms::alarms;
pub use seen::{Dialer, Listed, Remote, Seen};
pub use state::{Cause, Holder, Phase, Rotation, Secret, State, Strangers};

/// Seconds after which a list is too old at rest.
const LOOK_AT_REST: u64 = 3600;
/// The same while proxies are waited for, or one of them is refused.
const LOOK_WAITING: u64 = 300;
/// The same while the old secret is to fall silent.
const LOOK_QUIET: u64 = 60;
/// Seconds for which the remote may still show a connection on the secret that it has left. A proxy that
/// stands on another one by its own word is not the one that is shown after that.
const LAG: u64 = 60;
/// Seconds that a generation is behind the time at least, if proxies know a higher one than the state does.
const BEHIND: u64 = 60;

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this second, unless something else is seen.
    Wait(u64),
    /// Put what is presented on the board, in its generation.
    Republish,
    /// Record the proxies in service.
    Note(BTreeSet<String>),
    /// Record the time as the generation of what is presented: proxies know a higher one than the state.
    Renumber,
    /// Destroy the values that are not needed any more, record that.
    Destroy,
    /// Record a new rotation.
    Begin(Cause),
    /// Make the value, or take what a crash left of it; record it.
    Make,
    /// Ask the remote what it lists; again and again, more and more rarely, if nothing else changes.
    List,
    /// Add this digest at the remote.
    Add(String),
    /// Record the generation, send it out.
    Publish,
    /// Record that every proxy stands on the new one, from now on.
    Prove,
    /// Record that a proxy of ours was on the old one until now.
    Heard,
    /// Record that the old one is archived next, and who will be cut.
    Decide(Vec<Holder>),
    /// Archive the secret with this id at the remote.
    Archive(String),
    /// Record that the remote does not list the old one any more.
    Finish,
    /// Record that the new one is given up.
    Abandon,
    /// Record that proxies go back to the old one, in a new generation.
    Turn,
}

/// Decides.
pub fn next(state: &State, seen: &Seen, now: u64) -> Action {
    if let Some(secret) = state.presented()
        && seen.holds(secret)
        && seen.published != secret.generation
    {
        return Action::Republish;
    }
    if seen.paced {
        return Action::Wait(now + 1);
    }
    let roster = roster(state, seen);
    if roster != state.roster {
        return Action::Note(roster);
    }
    if is_behind(state, seen, now) {
        return Action::Renumber;
    }
    if !state.doomed.is_empty() && !seen.suspect {
        return Action::Destroy;
    }
    let action = match &state.rotation {
        None => rest(state, seen, now),
        Some(rotation) => match (rotation.phase, &state.active, &rotation.secret) {
            (Phase::Begun, _, _) => Action::Make,
            (Phase::Made, _, Some(new)) => add(state, seen, new, now),
            (Phase::Published, Some(old), Some(new)) => follow(state, seen, old, new, now),
            (Phase::Quiet | Phase::Archiving, Some(old), Some(new)) => {
                leave(state, rotation, seen, old, new, now)
            }
            // No record leads here.
            (_, _, _) => Action::Abandon,
        },
    };
    let calls = matches!(action, Action::List | Action::Add(_) | Action::Archive(_));
    if calls && seen.asking {
        return Action::Wait(now + 1);
    }
    action
}

/// Without a rotation in flight.
fn rest(state: &State, seen: &Seen, now: u64) -> Action {
    let Some(active) = &state.active else {
        return Action::Begin(Cause::First);
    };
    if !seen.holds(active) {
        return Action::Begin(Cause::Missing);
    }
    let age = if is_refused(state, seen) {
        LOOK_WAITING
    } else {
        LOOK_AT_REST
    };
    let Some(remote) = seen.remote(now, age) else {
        return Action::List;
    };
    if remote.find(active).is_none() {
        if seen.refuses(active) && !remote.is_full() {
            return Action::Begin(Cause::Refused);
        }
        return seen.add(remote, active);
    }
    if let Some(action) = clear(state, seen, remote) {
        return action;
    }
    match seen.wanted {
        Some(cause) => Action::Begin(cause),
        None => Action::Wait(remote.asked_at.saturating_add(age)),
    }
}

/// Until the remote lists the new one.
fn add(state: &State, seen: &Seen, new: &Secret, now: u64) -> Action {
    if !seen.holds(new) {
        return Action::Abandon;
    }
    let Some(remote) = seen.remote(now, LOOK_WAITING) else {
        return Action::List;
    };
    // What every proxy uses comes first.
    let refused = |cause| cause == Some(Cause::Refused);
    if let Some(active) = &state.active
        && remote.find(active).is_none()
        && !remote.is_full()
        && !refused(state.rotation.as_ref().map(|rotation| rotation.cause))
        && !seen.refuses(active)
    {
        return seen.add(remote, active);
    }
    if remote.find(new).is_some() {
        return Action::Publish;
    }
    if let Some(action) = clear(state, seen, remote) {
        return action;
    }
    if seen.refuses(new) && !remote.is_full() {
        return Action::Abandon;
    }
    seen.add(remote, new)
}

/// Until every proxy stands on the new one.
fn follow(state: &State, seen: &Seen, old: &Secret, new: &Secret, now: u64) -> Action {
    let remote = seen.remote(now, LOOK_WAITING);
    if let Some(remote) = remote {
        if remote.find(new).is_none() {
            return replace(seen, remote, old, new);
        }
        // Its value was lost: back to the old one, or on to another.
        if !seen.holds(new) && remote.find(old).is_none() {
            return Action::Finish;
        }
        if !seen.holds(new) && seen.holds(old) {
            return Action::Turn;
        }
    }
    if everybody(state, seen, new.generation) {
        return Action::Prove;
    }
    let lately = |at: u64| at <= now && now - at < LOOK_WAITING;
    let wants = is_refused(state, seen) || !seen.holds(new);
    if remote.is_none() && (wants || !seen.looked_at.is_some_and(lately)) {
        return Action::List;
    }
    Action::Wait(now + 1)
}

/// Until the remote does not list the old one.
fn leave(
    state: &State,
    rotation: &Rotation,
    seen: &Seen,
    old: &Secret,
    new: &Secret,
    now: u64,
) -> Action {
    let archiving = rotation.phase == Phase::Archiving;
    if rotation.quiet_since > now && !archiving {
        // The clock was set back.
        return Action::Prove;
    }
    let Some(remote) = seen.remote(now, LOOK_QUIET) else {
        return Action::List;
    };
    let Some(used) = remote.find(new).map(|listed| listed.used) else {
        return replace(seen, remote, old, new);
    };
    let Some(left) = remote.find(old) else {
        return Action::Finish;
    };
    let due = rotation.quiet_since.saturating_add(seen.quiet);
    if !everybody(state, seen, new.generation) {
        // Its value was lost, and nobody can be told of it any more.
        if !seen.holds(new) && seen.holds(old) && !seen.asking {
            return Action::Turn;
        }
        let ours = |holder: &Holder| seen.is_behind(&holder.replica, new.generation);
        let heard = !archiving && left.live.iter().any(ours) && rotation.quiet_since < now;
        return if heard {
            Action::Heard
        } else {
            Action::Wait(now + 1)
        };
    }
    if !archiving && now < due {
        let again = remote.asked_at.saturating_add(LOOK_QUIET);
        return Action::Wait(due.min(again));
    }
    let lags = now < rotation.quiet_since.saturating_add(LAG);
    let may_be_ours = |holder: &Holder| {
        if is_ours(state, seen, holder) {
            lags
        } else {
            // One whose coming was not recorded for good has left no trace but this.
            seen.young
        }
    };
    if remote.asked_at < due || !used || left.live.iter().any(may_be_ours) {
        return Action::List;
    }
    if seen.suspect {
        return Action::Wait(now + 1);
    }
    if archiving {
        return seen.archive(left);
    }
    // Ours stand on the new one by their own word: these only say that they are.
    Action::Decide(left.live.clone())
}

/// The remote does not list the new one, which proxies were told to use.
fn replace(seen: &Seen, remote: &Remote, old: &Secret, new: &Secret) -> Action {
    if !seen.refuses(new) || remote.is_full() {
        return seen.add(remote, new);
    }
    match remote.find(old) {
        Some(_) if seen.holds(old) => Action::Turn,
        Some(_) => Action::Abandon,
        None if !seen.refuses(old) => seen.add(remote, old),
        // Both are of the past; another one is made.
        None => Action::Finish,
    }
}

/// Archives what is ours and should open nothing, so that it takes no slot: a value that was lost before
/// anybody was told of it, or an old one that the remote has restored.
fn clear(state: &State, seen: &Seen, remote: &Remote) -> Option<Action> {
    let is_retired = |listed: &&Listed| state.retired.contains(&listed.sha256);
    let left = remote.secrets.iter().find(is_retired)?;
    if seen.suspect {
        return None;
    }
    let harmless = state.active.as_ref().is_none_or(|active| {
        let used = remote.find(active).is_some_and(|listed| listed.used);
        used && everybody(state, seen, active.generation)
    });
    harmless.then(|| seen.archive(left))
}

/// Whether all connections of every proxy in service stand on this generation. Nobody is no evidence, and
/// nobody answers for what was not sent to them.
fn everybody(state: &State, seen: &Seen, generation: u64) -> bool {
    let mut dialers = seen.dialers.iter();
    seen.published == generation
        && !seen.dialers.is_empty()
        && dialers.all(|dialer| dialer.acked >= generation)
        && missing(state, seen).next().is_none()
}

/// The proxies that an earlier process knew and that have not come back yet.
fn missing<'a>(state: &'a State, seen: &'a Seen) -> impl Iterator<Item = &'a String> {
    let back = |name: &String| seen.dialers.iter().any(|dialer| dialer.name == *name);
    let is_missing =
        move |name: &&String| !seen.watched && !seen.gone.contains(name) && !back(name);
    state.roster.iter().filter(is_missing)
}

/// The proxies in service.
fn roster(state: &State, seen: &Seen) -> BTreeSet<String> {
    let here = seen.dialers.iter().map(|dialer| &dialer.name);
    missing(state, seen).chain(here).cloned().collect()
}

/// Whether the connection is of a proxy in service, as it says.
fn is_ours(state: &State, seen: &Seen, holder: &Holder) -> bool {
    let mut dialers = seen.dialers.iter();
    dialers.any(|dialer| dialer.name == holder.replica)
        || missing(state, seen).any(|name| *name == holder.replica)
}

/// Whether the remote does not let a proxy in with what is presented.
fn is_refused(state: &State, seen: &Seen) -> bool {
    nacks(state, seen).any(|reason| reason == Reason::TokenRefused)
}

/// Whether proxies hold a higher generation than was ever given away: the state is of an earlier day.
fn is_behind(state: &State, seen: &Seen, now: u64) -> bool {
    let is_newer = |reason| reason == Reason::Stale;
    state.generation.saturating_add(BEHIND) < now && nacks(state, seen).any(is_newer)
}

/// Why proxies refuse what is presented.
fn nacks<'a>(state: &'a State, seen: &'a Seen) -> impl Iterator<Item = Reason> + 'a {
    let generation = state.presented().map(|secret| secret.generation);
    let refused = seen.dialers.iter().filter_map(|dialer| dialer.refused);
    refused
        .filter(move |(refused, _)| Some(*refused) == generation)
        .map(|(_, reason)| reason)
}

#[cfg(test)]
mod tests;
