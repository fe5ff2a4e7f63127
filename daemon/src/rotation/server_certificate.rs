//! The server certificate's machine.
//!
//! ```text
//! serving g ─▶ begun ─▶ keyed ─▶ signed ─▶ checked ─▶ published ─▶ adopted ─▶ soak ─▶ serving g+1
//!               id       key      leaf      number      g+1 out      acks      old key kept
//!                       serial                                                 while in doubt
//! ```
//!
//! Each name stands for a record in the journal; the step after it is done once more if a crash came
//! before the next record. A serial number is journalled before it is signed and never used twice: if
//! it is not known whether it was, another is drawn. An older leaf is kept until the newer one is
//! adopted *and* the clock can be believed, and comes back if the newer one turns out to be of the
//! future or is refused by every proxy.

mod state;

use control::Reason;

use super::{HARD_DEADLINE, Leaf, Witness};

pub use state::{Cause, Phase, Rotation, State};

/// A scheduled renewal has to gain at least this part of a life, or the end of the CA would be
/// approached in ever shorter steps (F07).
const LEAST_GAIN: u64 = 8;
/// A replica that claims a generation further ahead than this is not believed.
const FARTHEST: u64 = 1 << 32;

/// The CA that signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// SHA-256 of its certificate.
    pub sha256: String,
    /// Last second that a leaf of it may have.
    pub last_second: u64,
}

/// What is so at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent observations, each named where it is made"
)]
pub struct Seen {
    /// Whom the authority's machine wants to sign; `None`: nobody can.
    pub issuer: Option<Issuer>,
    /// Configured life in seconds.
    pub lifetime: u64,
    /// Pair and issuer of the leaf in force are in custody and belong together.
    pub serving_usable: bool,
    /// The leaf in force has every configured name.
    pub fits: bool,
    /// It is published with the client CA that is configured, or with none if none is.
    pub client_ca_fits: bool,
    /// The CA whose leaf is to be the fallback of the one in force, while both are trusted.
    pub fallback: Option<Issuer>,
    /// Its key is in custody.
    pub fallback_signs: bool,
    /// Ids of kept leaves whose pair is in custody and whose CA is still trusted.
    pub restorable: Vec<String>,
    /// The key of the rotation in flight is in custody.
    pub key_usable: bool,
    /// A certificate for it is in custody, with the serial number drawn last.
    pub certificate_usable: bool,
    /// The serial number was drawn by this process and has not been signed with.
    pub serial_fresh: bool,
    /// Generation that this process has put on the board; 0 for none.
    pub published: u64,
    /// The proxies that are in service.
    pub witnesses: Vec<Witness>,
    /// The time for acks is over.
    pub overdue: bool,
    /// Somebody ordered a rotation that has not begun.
    pub ordered: bool,
    /// The last try failed a moment ago.
    pub paced: bool,
    /// [`super::ISSUES_PER_HOUR`] is used up.
    pub capped: bool,
    /// The clock cannot be believed.
    pub suspect: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this second, unless something else is seen.
    Wait(u64),
    /// Put the leaf in force on the board, in its generation.
    Republish,
    /// Record a new rotation.
    Begin(Cause),
    /// Make the key, draw a serial number, record both.
    MakeKey,
    /// Record that the serial number counts as used, and another one.
    DrawSerial,
    /// Sign, keep the certificate, record it.
    Sign,
    /// Record the certificate that a crash left unrecorded.
    TakeCertificate,
    /// Check as a peer would, record the generation.
    Check,
    /// Send it out, record that.
    Publish,
    /// Record that it is adopted, except by these.
    Adopt {
        /// Replicas that did not acknowledge.
        missing: Vec<String>,
    },
    /// Destroy the keys of kept leaves but so many of the newest, record that.
    Retire(usize),
    /// Publish this kept leaf, or the one in force, in a new generation.
    Restore {
        /// Its id.
        id: String,
        /// Why.
        cause: Cause,
        /// The generation is above this one.
        above: u64,
    },
    /// Issue another fallback, record it with a new generation of the leaf in force.
    IssueFallback,
    /// Record that the rotation is given up.
    Abandon(&'static str),
}

/// Decides.
pub fn next(state: &State, seen: &Seen, now: u64) -> Action {
    if let Some(serving) = &state.serving
        && seen.serving_usable
        && seen.published < serving.generation
    {
        return Action::Republish;
    }
    match &state.rotation {
        Some(rotation) if rotation.phase == Phase::Published => {
            acknowledged(state, rotation, seen, now)
        }
        Some(rotation) => proceed(rotation, seen, now),
        None => rest(state, seen, now),
    }
}

/// Up to the publication.
fn proceed(rotation: &Rotation, seen: &Seen, now: u64) -> Action {
    if rotation.phase == Phase::Checked {
        return Action::Publish;
    }
    if seen.paced {
        return Action::Wait(now + 1);
    }
    if seen.issuer.as_ref().map(|issuer| &issuer.sha256) != Some(&rotation.issuer) {
        return Action::Abandon("another CA signs now");
    }
    // A clock that was set back makes `began` lie in the future, and counts as well.
    if now.abs_diff(rotation.began) > HARD_DEADLINE {
        return Action::Abandon("it was not published in time");
    }
    match rotation.phase {
        Phase::Begun => Action::MakeKey,
        Phase::Keyed | Phase::Signed if !seen.key_usable => Action::Abandon("its key is lost"),
        Phase::Keyed if seen.certificate_usable => Action::TakeCertificate,
        Phase::Keyed if seen.serial_fresh => Action::Sign,
        Phase::Signed if seen.certificate_usable => Action::Check,
        _ => Action::DrawSerial,
    }
}

/// From the publication to the last ack.
fn acknowledged(state: &State, rotation: &Rotation, seen: &Seen, now: u64) -> Action {
    let Some(serving) = &state.serving else {
        return Action::Abandon("it was published without a certificate");
    };
    // Those that are away hold up no rotation, only the end of what they may still serve.
    let here = seen.witnesses.iter().filter(|witness| witness.connected);
    let missing: Vec<&Witness> = here
        .clone()
        .filter(|witness| witness.acked < serving.generation)
        .collect();
    let refusing = |witness: &&Witness| {
        witness.refused.is_some_and(|(generation, reason)| {
            generation == serving.generation && is_about_the_leaf(reason)
        })
    };
    let nobody_takes_it =
        !missing.is_empty() && missing.len() == here.count() && missing.iter().all(refusing);
    if nobody_takes_it
        && rotation.cause != Cause::Refused
        && let Some(leaf) = restorable(state, seen, now)
    {
        return Action::Restore {
            id: leaf.id.clone(),
            cause: Cause::Refused,
            above: state.generation,
        };
    }
    if missing.iter().all(refusing) || seen.overdue {
        let missing = missing.into_iter().map(|witness| witness.name.clone());
        return Action::Adopt {
            missing: missing.collect(),
        };
    }
    Action::Wait(now + 1)
}

/// Without a rotation in flight.
fn rest(state: &State, seen: &Seen, now: u64) -> Action {
    if let Some(serving) = state.serving.as_ref().filter(|_| seen.serving_usable) {
        let here = seen.witnesses.iter().filter(|witness| witness.connected);
        let claims = here.map(|witness| witness.serves);
        let above = claims
            .filter(|claim| claim.saturating_sub(state.generation) < FARTHEST)
            .max()
            .unwrap_or_default();
        if above > state.generation {
            return Action::Restore {
                id: serving.id.clone(),
                cause: Cause::Renumbered,
                above,
            };
        }
        if serving.not_before > now
            && let Some(leaf) = restorable(state, seen, now)
        {
            return Action::Restore {
                id: leaf.id.clone(),
                cause: Cause::NotYetValid,
                above: state.generation,
            };
        }
    }
    if let Some(action) = fallback(state, seen, now) {
        return action;
    }
    let keep = still_needed(state, seen);
    if state.kept.len() > keep && !seen.suspect {
        return Action::Retire(keep);
    }
    let Some(cause) = due(state, seen, now) else {
        return Action::Wait(state.serving.as_ref().map_or(now + 1, |leaf| leaf.rekey_at));
    };
    let ordered = matches!(cause, Cause::Ordered);
    // A new CA was ordered too, and who may call is not to be decided late: neither waits for what was
    // issued before.
    let counted = !ordered && !matches!(cause, Cause::IssuerChanged | Cause::ClientCaChanged);
    if seen.issuer.is_none() || seen.paced && !ordered || seen.capped && counted {
        return Action::Wait(now + 1);
    }
    Action::Begin(cause)
}

/// What is to be done about the fallback, unless the leaf in force is replaced anyway.
fn fallback(state: &State, seen: &Seen, now: u64) -> Option<Action> {
    let serving = state.serving.as_ref().filter(|_| seen.serving_usable)?;
    let republish = || Action::Restore {
        id: serving.id.clone(),
        cause: Cause::FallbackChanged,
        above: state.generation,
    };
    let changing = seen
        .issuer
        .as_ref()
        .is_some_and(|issuer| issuer.sha256 != serving.issuer);
    let Some(issuer) = &seen.fallback else {
        // It goes with the leaf that it is beside, if that goes.
        return (state.fallback.is_some() && !changing).then(republish);
    };
    if changing || issuer.sha256 == serving.issuer {
        return None;
    }
    let best = state.leaf_of(Some(&issuer.sha256), now);
    let published = state.fallback.as_ref().map(|leaf| &leaf.id);
    if let Some(best) = best.filter(|best| now < best.rekey_at || !gains(issuer, best, seen, now)) {
        return (Some(&best.id) != published).then(republish);
    }
    (seen.fallback_signs && !seen.paced && !seen.capped && now < issuer.last_second)
        .then_some(Action::IssueFallback)
}

/// Whether a successor of `leaf` would last for longer. Only the end of the CA can make it futile; a shorter life is what
/// was configured.
fn gains(issuer: &Issuer, leaf: &Leaf, seen: &Seen, now: u64) -> bool {
    issuer.last_second >= now + seen.lifetime
        || issuer.last_second >= leaf.not_after + seen.lifetime / LEAST_GAIN
}

/// How many kept leaves may still be served: none when every proxy in service has acknowledged the
/// one in force, all while one has not. Without a proxy nothing is proven, and the newest stays.
fn still_needed(state: &State, seen: &Seen) -> usize {
    let generation = state.serving.as_ref().map_or(0, |leaf| leaf.generation);
    let behind = |witness: &Witness| witness.acked < generation;
    match seen.witnesses.as_slice() {
        [] => 1,
        witnesses if witnesses.iter().any(behind) => state.kept.len(),
        _ => 0,
    }
}

/// Why the leaf in force needs a successor, if it does.
pub fn due(state: &State, seen: &Seen, now: u64) -> Option<Cause> {
    if seen.ordered {
        return Some(Cause::Ordered);
    }
    let Some(serving) = state.serving.as_ref().filter(|_| seen.serving_usable) else {
        return Some(Cause::Missing);
    };
    let issuer = seen.issuer.as_ref();
    let gains = issuer.is_none_or(|issuer| gains(issuer, serving, seen, now));
    if issuer.is_some_and(|issuer| issuer.sha256 != serving.issuer) {
        Some(Cause::IssuerChanged)
    } else if !seen.client_ca_fits {
        Some(Cause::ClientCaChanged)
    } else if !seen.fits {
        Some(Cause::NamesChanged)
    } else if serving.not_before > now {
        Some(Cause::NotYetValid)
    } else if now >= serving.rekey_at && gains {
        Some(Cause::Scheduled)
    } else {
        None
    }
}

/// The newest kept leaf that would do now.
fn restorable<'a>(state: &'a State, seen: &Seen, now: u64) -> Option<&'a Leaf> {
    state
        .kept
        .iter()
        .find(|leaf| leaf.is_valid_at(now) && seen.restorable.contains(&leaf.id))
}

/// Whether another leaf might be taken where this one was refused.
fn is_about_the_leaf(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Malformed
            | Reason::KeyMismatch
            | Reason::UnknownCa
            | Reason::NotYetValid
            | Reason::Expired
            | Reason::WrongNames
    )
}

#[cfg(test)]
mod tests;
