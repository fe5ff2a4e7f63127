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

use control::Reason;
use serde::{Deserialize, Serialize};

use super::{HARD_DEADLINE, Leaf, Witness};

/// Leaves that are kept besides the one in force. Only a doubtful clock lets them become many.
const MOST_KEPT: usize = 8;
/// A scheduled renewal has to gain at least this part of a life, or the end of the CA would be
/// approached in ever shorter steps (F07).
const LEAST_GAIN: u64 = 8;
/// A replica that claims a generation further ahead than this is not believed.
const FARTHEST: u64 = 1 << 32;

/// What the journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Highest generation that was ever given away.
    pub generation: u64,
    /// In force.
    pub serving: Option<Leaf>,
    /// In force before, newest first, keys still in custody.
    #[serde(default)]
    pub kept: Vec<Leaf>,
    /// In flight.
    #[serde(default)]
    pub rotation: Option<Rotation>,
    /// Rotations adopted since the state was made.
    #[serde(default)]
    pub done: u64,
}

/// A rotation in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// ULID; names the blobs.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// Why it began.
    pub cause: Cause,
    /// Who asked.
    pub actor: String,
    /// SHA-256 of the CA that signs.
    pub issuer: String,
    /// When it began.
    pub began: u64,
    /// Drawn for the next signature.
    pub serial: Option<String>,
    /// Signed, or taken from what was there.
    pub leaf: Option<Leaf>,
}

/// How far a rotation is; the last record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has an id.
    Begun,
    /// The key is in custody and a serial number is drawn.
    Keyed,
    /// The certificate is in custody.
    Signed,
    /// It passed every check and has a generation.
    Checked,
    /// It is out.
    Published,
}

/// Why a rotation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// There is no certificate, or its key is lost.
    Missing,
    /// Somebody ordered it.
    Ordered,
    /// Its time has come.
    Scheduled,
    /// Another CA signs now.
    IssuerChanged,
    /// The configuration has names that it lacks.
    NamesChanged,
    /// It begins in the future: the clock was set back.
    NotYetValid,
    /// Every proxy refused its successor.
    Refused,
    /// A proxy serves a higher generation already: the state was lost.
    Renumbered,
    /// Another tool wrote it into the store.
    Adopted,
}

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
    /// The proxies that are connected.
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
    /// Destroy the keys of kept leaves, record that.
    Retire,
    /// Publish this kept leaf, or the one in force, in a new generation.
    Restore {
        /// Its id.
        id: String,
        /// Why.
        cause: Cause,
        /// The generation is above this one.
        above: u64,
    },
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
    let missing: Vec<&Witness> = seen
        .witnesses
        .iter()
        .filter(|witness| witness.acked < serving.generation)
        .collect();
    let refusing = |witness: &&Witness| {
        witness.refused.is_some_and(|(generation, reason)| {
            generation == serving.generation && is_about_the_leaf(reason)
        })
    };
    let nobody_takes_it = !missing.is_empty()
        && missing.len() == seen.witnesses.len()
        && missing.iter().all(refusing);
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
        let claims = seen.witnesses.iter().map(|witness| witness.serves);
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
    if !state.kept.is_empty() && !seen.suspect {
        return Action::Retire;
    }
    let Some(cause) = due(state, seen, now) else {
        return Action::Wait(state.serving.as_ref().map_or(now + 1, |leaf| leaf.rekey_at));
    };
    let ordered = matches!(cause, Cause::Ordered);
    // The new CA was ordered too, and is not to be delayed by what was issued under the old one.
    let counted = !ordered && cause != Cause::IssuerChanged;
    if seen.issuer.is_none() || seen.paced && !ordered || seen.capped && counted {
        return Action::Wait(now + 1);
    }
    Action::Begin(cause)
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
    let gains = issuer.is_none_or(|issuer| {
        // Only the end of the CA can make it futile; a shorter life is what was configured.
        issuer.last_second >= now + seen.lifetime
            || issuer.last_second >= serving.not_after + seen.lifetime / LEAST_GAIN
    });
    if issuer.is_some_and(|issuer| issuer.sha256 != serving.issuer) {
        Some(Cause::IssuerChanged)
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

/// The records: each gives the state after a step.
impl State {
    /// [`Action::Begin`].
    #[must_use]
    pub fn begun(&self, id: String, cause: Cause, actor: &str, issuer: &str, now: u64) -> Self {
        self.with(Rotation {
            id,
            phase: Phase::Begun,
            cause,
            actor: actor.to_owned(),
            issuer: issuer.to_owned(),
            began: now,
            serial: None,
            leaf: None,
        })
    }

    /// [`Action::MakeKey`] and [`Action::DrawSerial`].
    #[must_use]
    pub fn keyed(&self, serial: String) -> Self {
        self.change(|rotation| {
            rotation.phase = Phase::Keyed;
            rotation.serial = Some(serial);
            rotation.leaf = None;
        })
    }

    /// [`Action::Sign`] and [`Action::TakeCertificate`].
    #[must_use]
    pub fn signed(&self, leaf: Leaf) -> Self {
        self.change(|rotation| {
            rotation.phase = Phase::Signed;
            rotation.leaf = Some(leaf);
        })
    }

    /// [`Action::Check`]. Gives the leaf the next generation, which is never given again.
    #[must_use]
    pub fn checked(&self, above: u64) -> Self {
        let generation = self.generation.max(above) + 1;
        let mut next = self.change(|rotation| {
            rotation.phase = Phase::Checked;
            if let Some(leaf) = &mut rotation.leaf {
                leaf.generation = generation;
            }
        });
        next.generation = generation;
        next
    }

    /// [`Action::Restore`], and a leaf that another tool made.
    #[must_use]
    pub fn restored(&self, leaf: Leaf, cause: Cause, actor: &str, above: u64, now: u64) -> Self {
        let rotation = Rotation {
            id: leaf.id.clone(),
            phase: Phase::Signed,
            cause,
            actor: actor.to_owned(),
            issuer: leaf.issuer.clone(),
            began: now,
            serial: None,
            leaf: Some(leaf),
        };
        self.with(rotation).checked(above)
    }

    /// [`Action::Publish`].
    #[must_use]
    pub fn published(&self) -> Self {
        let mut next = self.change(|rotation| rotation.phase = Phase::Published);
        let leaf = self
            .rotation
            .as_ref()
            .and_then(|rotation| rotation.leaf.clone());
        if let Some(leaf) = leaf {
            next.kept.retain(|kept| kept.id != leaf.id);
            if let Some(old) = next.serving.replace(leaf.clone())
                && old.id != leaf.id
            {
                next.kept.insert(0, old);
            }
        }
        // The oldest is the one that a clock set back asks for; the newest one a refusal.
        while next.kept.len() > MOST_KEPT {
            next.kept.remove(MOST_KEPT / 2);
        }
        next
    }

    /// [`Action::Adopt`].
    #[must_use]
    pub fn adopted(&self) -> Self {
        Self {
            rotation: None,
            done: self.done + 1,
            ..self.clone()
        }
    }

    /// [`Action::Retire`].
    #[must_use]
    pub fn retired(&self) -> Self {
        Self {
            kept: Vec::new(),
            ..self.clone()
        }
    }

    /// [`Action::Abandon`].
    #[must_use]
    pub fn abandoned(&self) -> Self {
        Self {
            rotation: None,
            ..self.clone()
        }
    }

    /// Word for where it stands.
    pub fn phase(&self) -> &'static str {
        match &self.rotation {
            Some(rotation) => match rotation.phase {
                Phase::Begun => "begun",
                Phase::Keyed => "keyed",
                Phase::Signed => "signed",
                Phase::Checked => "checked",
                Phase::Published => "published",
            },
            None if !self.kept.is_empty() => "soak",
            None if self.serving.is_none() => "empty",
            None => "serving",
        }
    }

    /// Ids of all blobs that the state refers to.
    pub fn blobs(&self) -> Vec<&str> {
        let serving = self.serving.iter().chain(&self.kept).map(|leaf| &leaf.id);
        let rotation = self.rotation.iter().map(|rotation| &rotation.id);
        serving.chain(rotation).map(String::as_str).collect()
    }

    fn with(&self, rotation: Rotation) -> Self {
        Self {
            rotation: Some(rotation),
            ..self.clone()
        }
    }

    fn change(&self, change: impl FnOnce(&mut Rotation)) -> Self {
        let mut next = self.clone();
        if let Some(rotation) = &mut next.rotation {
            change(rotation);
        }
        next
    }
}

#[cfg(test)]
mod tests;
