//! The tunnel token's machine, for a remote that can be asked.
//!
//! ```text
//! stable ─▶ intent ─▶ rotating ─▶ distributing ─▶ stable'
//!            id        id before,   value stored,   every connector
//!                      then called  id and number   acknowledged it
//! ```
//!
//! | Call | May be repeated | After a crash or a lost answer |
//! |---|---|---|
//! | reveal | yes, but each one is in the remote's audit log | asked again |
//! | rotate | no: the second kills the value that the first one made | the id is revealed. Another one: it took place, that value is taken. The same: it may still be on its way, so that the id is looked at once more when [`LATE`] has passed; only then is it called again, under the same rotation |
//!
//! Reveals have an occasion: there is no value, somebody else put one into the store, a connector's edge
//! refuses it, a rotation is open. Without one they are a week apart. An id that no rotation of ours
//! explains is adopted, since the old value opens nothing any more, and alarms.
//!
//! With a provider that cannot be asked the machine only numbers what somebody puts into the store.

mod state;

use control::Reason;

use super::{HARD_DEADLINE, Witness};

pub use state::{Observed, Phase, Rotation, State, Trouble};

/// Twice as long as a call may take: what has not arrived by then never will. Seconds.
pub const LATE: u64 = 60;
/// So long, in seconds, an id that was just revealed may stand for what is in force before a call.
pub const FRESH: u64 = 30;
/// How long the other side of ours lets the old token open connections, in seconds.
pub const OVERLAP: u64 = 3600;
/// Seconds between reveals without an occasion, at least; at most a day more, by the value.
pub const WEEK: u64 = 7 * DAY;
/// Connectors that have not taken a new value after so many seconds alarm.
pub const DISTRIBUTION_LIMIT: u64 = 600;

/// A foreign rotation alarms for so long, or until the next rotation of ours.
const REMEMBERED: u64 = 7 * DAY;
const HOUR: u64 = 3600;
const DAY: u64 = 86_400;

/// What is so at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent observations, each named where it is made"
)]
pub struct Seen {
    /// There is a remote to ask.
    pub remote: bool,
    /// SHA-256 of the value in the store, if one of the right form is there.
    pub stored: Option<String>,
    /// Generation that this process has put on the board; 0 for none.
    pub published: u64,
    /// A value that the remote gave waits in memory to be stored.
    pub held: bool,
    /// A call is in flight.
    pub asked: bool,
    /// Nothing may be asked of the remote: it is not known yet to be the right tunnel.
    pub closed: bool,
    /// The connectors in service.
    pub connectors: Vec<Witness>,
    /// Connectors that are known not to be in service any more.
    pub left: Vec<String>,
    /// This process has watched for as long as a replica may be away.
    pub watched: bool,
    /// This process runs for less than [`LATE`]: a call of the one before may still arrive.
    pub young: bool,
    /// No connector has come back yet since this process started, and there should be one.
    pub awaited: bool,
    /// Somebody ordered a rotation that has not begun.
    pub ordered: bool,
    /// A CA rotation is switching.
    pub switching: bool,
    /// The last try failed a moment ago.
    pub paced: bool,
    /// The clock cannot be believed.
    pub suspect: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this second, unless something else is seen.
    Wait(u64),
    /// Record the value that somebody put into the store, and publish it.
    Take,
    /// Put the value in the store on the board, in its generation.
    Publish,
    /// Ask for the token in force.
    Reveal(Occasion),
    /// Store the value in memory, record it, publish it.
    Keep,
    /// Record that a rotation is wanted.
    Begin,
    /// Record the id in force and that the call is made; then make it.
    Call,
    /// Record that every connector has the value.
    Finish,
    /// Record that the rotation is given up; it was not made.
    Abandon(&'static str),
}

/// Why the token is revealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The store has none.
    Missing,
    /// The value in the store has no id yet, or is not the one that the journal knows.
    Unknown,
    /// A connector's edge refuses it.
    Refused,
    /// A week has passed.
    Weekly,
    /// It is about to be rotated.
    Before,
    /// It is not known whether it was rotated.
    Outcome,
}

impl Occasion {
    /// For the remote's audit log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Missing => "keyward: there is no token in the store",
            Self::Unknown => "keyward: the token in the store is not known here",
            Self::Refused => "keyward: a connector was refused with the token",
            Self::Weekly => "keyward: weekly check",
            Self::Before => "keyward: the token is about to be rotated",
            Self::Outcome => "keyward: the answer of a rotation was lost",
        }
    }
}

/// Decides.
pub fn next(state: &State, seen: &Seen, now: u64) -> Action {
    if seen.held && !seen.paced {
        return Action::Keep;
    }
    if let Some(stored) = &seen.stored {
        let known = *stored == state.sha256;
        if known && seen.published < state.generation {
            return Action::Publish;
        }
        // What the remote says counts for more than what lies there; before it was asked, it is what there is.
        if !known && !seen.paced && (!seen.remote || seen.published == 0) {
            return Action::Take;
        }
    }
    if !seen.remote || seen.held || seen.asked || seen.paced {
        return Action::Wait(now + HOUR);
    }
    let action = match &state.rotation {
        None => rest(state, seen, now),
        Some(rotation) => match rotation.phase {
            Phase::Intent => intent(state, rotation, seen, now),
            Phase::Rotating => unknown(state, rotation, seen, now),
            Phase::Distributing => distributing(state, rotation, seen, now),
        },
    };
    match action {
        Action::Reveal(_) | Action::Call | Action::Begin if seen.closed => Action::Wait(now + HOUR),
        action => action,
    }
}

/// What speaks against a rotation now.
pub fn obstacle(state: &State, seen: &Seen) -> Option<&'static str> {
    let holds = |connector: &Witness| {
        connector.connected && (connector.acked >= state.generation || is_refused(state, connector))
    };
    if seen.suspect {
        Some("the clock cannot be believed")
    } else if seen.switching {
        Some("a CA rotation is switching")
    } else if is_archived(state) {
        Some("the remote says that the tunnel is archived")
    } else if seen.awaited {
        Some("no connector has come back yet since the daemon started")
    } else if !seen.connectors.iter().all(holds) {
        // With the value before it could not come back.
        Some("a connector is away, or has not taken the token in force yet")
    } else {
        None
    }
}

/// Connectors that do not have the value in force, by name.
pub fn pending(state: &State, seen: &Seen) -> Vec<String> {
    let here = |name: &String| seen.connectors.iter().any(|one| one.name == *name);
    let behind = seen.connectors.iter();
    let behind = behind.filter(|connector| connector.acked < state.generation);
    let expected = state
        .rotation
        .iter()
        .flat_map(|rotation| &rotation.expected);
    // After a start they take their time to come back.
    let absent = expected.filter(|name| !seen.watched && !here(name) && !seen.left.contains(name));
    let behind = behind.map(|connector| &connector.name);
    behind.chain(absent).cloned().collect()
}

/// Whether what was called has arrived by now, or never will.
pub fn is_late(state: &State, seen: &Seen, now: u64) -> bool {
    let called = state.rotation.as_ref().and_then(|rotation| rotation.called);
    !seen.suspect && !seen.young && called.is_some_and(|called| now.abs_diff(called) >= LATE)
}

/// Whether there is an occasion that the remote's word would settle.
pub fn is_doubted(state: &State, seen: &Seen) -> bool {
    matches!(
        occasion(state, seen),
        Some(Occasion::Missing | Occasion::Unknown | Occasion::Refused)
    )
}

/// What needs a person, one sentence each.
pub fn alarms(state: &State, seen: &Seen, now: u64) -> Vec<String> {
    let mut alarms = Vec::new();
    if let Some(foreign) = &state.foreign
        && now.abs_diff(foreign.seen_at) < REMEMBERED
    {
        alarms.push(format!(
            "FOREIGN_ROTATION: somebody else rotated the tunnel token, {} is in force and was adopted; if it was nobody of yours, look at the provider's audit log, then run: keyward rotate tunnel-token",
            foreign.id
        ));
    }
    match state.trouble {
        Some(Trouble::Archived) => alarms.push(
            "the remote says that the tunnel is archived or not there: what is in service goes on, and nothing is rotated; see whether tunnel_id: is right".to_owned(),
        ),
        Some(Trouble::Malformed) => alarms.push(
            "the remote gave a tunnel token that is not of the documented form: it was not stored, and the one before goes on".to_owned(),
        ),
        Some(Trouble::RotationRefused { status }) => alarms.push(format!(
            "the remote refused to rotate the tunnel token ({status}): nothing was changed; see the log, then order it again"
        )),
        None => {}
    }
    if let Some(rotation) = &state.rotation
        && now.abs_diff(rotation.began) >= DISTRIBUTION_LIMIT
    {
        let pending = pending(state, seen);
        alarms.push(match rotation.phase {
            Phase::Distributing if pending.is_empty() => return alarms,
            Phase::Distributing => format!(
                "the tunnel token was rotated, and these connectors have not taken it: {}",
                pending.join(", ")
            ),
            Phase::Rotating => {
                "it is not known yet whether the tunnel token was rotated: the remote has to be reached".to_owned()
            }
            Phase::Intent => "the tunnel token waits to be rotated".to_owned(),
        });
    }
    alarms
}

/// Without a rotation in flight.
fn rest(state: &State, seen: &Seen, now: u64) -> Action {
    if seen.ordered && obstacle(state, seen).is_none() {
        return Action::Begin;
    }
    look(state, seen, now).unwrap_or(Action::Wait(now + HOUR))
}

/// Before the call.
fn intent(state: &State, rotation: &Rotation, seen: &Seen, now: u64) -> Action {
    let obstacle = obstacle(state, seen);
    if now.abs_diff(rotation.began) > HARD_DEADLINE {
        return Action::Abandon(obstacle.unwrap_or("the remote could not be reached in time"));
    }
    match obstacle {
        Some(why) if is_archived(state) => return Action::Abandon(why),
        // It passes: after a start connectors take their time to come back.
        Some(_) => return Action::Wait(rotation.began + HARD_DEADLINE + 1),
        None => {}
    }
    if rotation.looked && state.id.is_some() && now.abs_diff(state.asked) < FRESH {
        return Action::Call;
    }
    Action::Reveal(Occasion::Before)
}

/// After a call whose answer nobody has.
fn unknown(state: &State, rotation: &Rotation, seen: &Seen, now: u64) -> Action {
    if !rotation.looked || is_late(state, seen, now) {
        return Action::Reveal(Occasion::Outcome);
    }
    Action::Wait(settled_at(rotation, now))
}

/// With the new value.
fn distributing(state: &State, rotation: &Rotation, seen: &Seen, now: u64) -> Action {
    // What was adopted may be another's, with our call still on its way.
    if rotation.unsettled && is_late(state, seen, now) {
        return Action::Reveal(Occasion::Outcome);
    }
    if let Some(action) = look(state, seen, now) {
        return action;
    }
    if rotation.unsettled {
        return Action::Wait(settled_at(rotation, now));
    }
    if pending(state, seen).is_empty() {
        return Action::Finish;
    }
    Action::Wait(now + HOUR)
}

/// When the call has arrived or never will; later, if the clock says that it was made in the future.
fn settled_at(rotation: &Rotation, now: u64) -> u64 {
    let at = rotation.called.unwrap_or_default() + LATE;
    if at > now { at } else { now + LATE }
}

/// A reveal, if there is an occasion and the last one is long enough ago.
fn look(state: &State, seen: &Seen, now: u64) -> Option<Action> {
    let weekly = now.abs_diff(state.verified) >= WEEK + state.spread(DAY);
    let occasion = occasion(state, seen).or(weekly.then_some(Occasion::Weekly))?;
    let distance = match state.trouble {
        Some(Trouble::Archived | Trouble::Malformed) => HOUR,
        // The remote has said that it is right: asking again at once would not help.
        _ if state.doubts > 0 => (LATE << (state.doubts - 1).min(16)).min(DAY),
        _ => 0,
    };
    (now.abs_diff(state.asked) >= distance).then_some(Action::Reveal(occasion))
}

fn occasion(state: &State, seen: &Seen) -> Option<Occasion> {
    match &seen.stored {
        None => Some(Occasion::Missing),
        Some(stored) if *stored != state.sha256 || state.verified == 0 => Some(Occasion::Unknown),
        _ if seen.connectors.iter().any(|one| is_refused(state, one)) => Some(Occasion::Refused),
        // The last word was that there is no token, or none that is one.
        _ if matches!(state.trouble, Some(Trouble::Archived | Trouble::Malformed)) => {
            Some(Occasion::Unknown)
        }
        _ => None,
    }
}

fn is_archived(state: &State) -> bool {
    matches!(state.trouble, Some(Trouble::Archived))
}

/// Whether the edge refused this connector with the value in force.
fn is_refused(state: &State, connector: &Witness) -> bool {
    connector.refused == Some((state.generation, Reason::TokenRefused))
}

#[cfg(test)]
mod tests;
