//! What the journal holds of the remote's two slots, and how each step changes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::rotation::authority::{Ca, State, Switch};

/// Fingerprints of CAs that are not used any more, the most that are remembered.
const MOST_SPENT: usize = 8;

/// What the journal says besides [`State`]'s own fields. Empty for a tunnel whose verifiers are told by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// The tunnel at the remote that all of it is about.
    #[serde(default)]
    pub tunnel_id: Option<String>,
    /// SHA-256 of a CA to what the remote calls its registration. Each was listed at least once, and we have
    /// not seen it gone.
    #[serde(default)]
    pub registered: BTreeMap<String, String>,
    /// A call that is about to be made, or was made, until a list shows what came of it.
    #[serde(default)]
    pub call: Option<Call>,
    /// In flight.
    #[serde(default)]
    pub rotation: Option<Rotation>,
    /// Names of the proxies in service.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub roster: BTreeSet<String>,
    /// SHA-256 of CAs that were ours and may have been registered, newest last. They are no strangers.
    #[serde(default)]
    pub spent: Vec<String>,
}

/// A call that cannot be repeated blindly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Which.
    pub what: What,
    /// SHA-256 of the CA that it is about.
    pub sha256: String,
    /// What the remote calls the registration: which is archived, or what it answered.
    #[serde(default)]
    pub id: Option<String>,
    /// When it was about to be made, or when it was last heard that nobody knows what came of it.
    pub asked: u64,
    /// The remote said that it did it.
    #[serde(default)]
    pub done: bool,
}

/// What a [`Call`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Takes a slot.
    Register,
    /// Empties one.
    Archive,
}

/// A rotation in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// ULID.
    pub id: String,
    /// Who asked.
    pub actor: String,
    /// Why it began.
    pub reason: Reason,
    /// When it began.
    pub began: u64,
    /// How far it is.
    pub phase: Phase,
    /// When the phase began.
    pub since: u64,
    /// What was seen at which replica under the new CA.
    #[serde(default)]
    pub proofs: BTreeMap<String, Grade>,
    /// Who decided that the old CA goes without proof of the new one.
    #[serde(default)]
    pub accepted: Option<String>,
    /// Why it is rolled back.
    #[serde(default)]
    pub failure: Option<String>,
}

/// How far a rotation is; the last record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The standby is to be registered.
    Registering,
    /// The remote lists it; its verifiers may not know it yet.
    Settling,
    /// It signs. The CA before is registered, and its leaf is the fallback.
    Switched,
    /// It is proven, and the CA before is to be archived.
    Archiving,
    /// The CA before is not listed any more; fallback and key are on their way out.
    Archived,
    /// The standby is to be archived, and was never signed with.
    RollingBack,
}

/// Why a rotation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Somebody ordered it.
    Ordered,
    /// Its time has come.
    Due,
    /// It was begun when the verifiers were still told by hand.
    TakenOver,
}

/// How well it is known that a replica's callers take the new CA (the ladder of proof).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Only time has passed.
    Settled,
    /// Handshakes of others were completed under it.
    Observed,
    /// A call of our own came back.
    Probed,
}

/// The records: each gives the state after a step.
impl State {
    /// [`super::Action::Register`] and [`super::Action::Archive`]: before the call is made.
    #[must_use]
    pub fn asking(&self, what: What, sha256: &str, id: Option<String>, now: u64) -> Self {
        self.with_slots(|slots| {
            slots.call = Some(Call {
                what,
                sha256: sha256.to_owned(),
                id,
                asked: now,
                done: false,
            });
        })
    }

    /// The remote said that it did what was asked, under this identifier.
    #[must_use]
    pub fn answered(&self, id: &str) -> Self {
        self.with_slots(|slots| {
            if let Some(call) = &mut slots.call {
                call.id = Some(id.to_owned());
                call.done = true;
            }
        })
    }

    /// No answer came: it may have been sent as late as now, whenever it was meant to be.
    #[must_use]
    pub fn unanswered(&self, now: u64) -> Self {
        self.with_slots(|slots| {
            if let Some(call) = &mut slots.call {
                call.asked = now;
            }
        })
    }

    /// The call had no effect and will have none, or is not wanted any more.
    #[must_use]
    pub fn forgotten(&self) -> Self {
        self.with_slots(|slots| slots.call = None)
    }

    /// [`super::Action::Listed`].
    #[must_use]
    pub fn listed(&self, sha256: &str, id: &str, now: u64) -> Self {
        let next = self.with_slots(|slots| {
            slots.registered.insert(sha256.to_owned(), id.to_owned());
            let is_it = |call: &mut Call| call.what == What::Register && call.sha256 == sha256;
            slots.call.take_if(is_it);
        });
        match &next.standby {
            Some(standby) if standby.sha256 == sha256 && next.is_in(Phase::Registering) => {
                next.entering(Phase::Settling, now)
            }
            _ => next,
        }
    }

    /// [`super::Action::Gone`].
    #[must_use]
    pub fn gone(&self, sha256: &str, now: u64) -> Self {
        let next = self.with_slots(|slots| {
            slots.registered.remove(sha256);
            let is_it = |call: &mut Call| call.what == What::Archive && call.sha256 == sha256;
            slots.call.take_if(is_it);
        });
        let is_old = next.old.as_ref().is_some_and(|old| old.sha256 == sha256);
        if is_old && next.is_in(Phase::Archiving) {
            return next.entering(Phase::Archived, now);
        }
        next
    }

    /// [`super::Action::Rotate`].
    #[must_use]
    pub fn rotating(&self, id: String, actor: &str, reason: Reason, now: u64) -> Self {
        self.with_slots(|slots| {
            slots.rotation = Some(Rotation {
                id,
                actor: actor.to_owned(),
                reason,
                began: now,
                phase: Phase::Registering,
                since: now,
                proofs: BTreeMap::new(),
                accepted: None,
                failure: None,
            });
        })
    }

    /// [`super::Action::TakeOver`]: what was begun, or left trusted, by hand is proven and archived here.
    #[must_use]
    pub fn taken_over(&self, id: String, now: u64) -> Self {
        let mut next = self.rotating(id, "schedule", Reason::TakenOver, now);
        if let Some(switch) = next.switch.take()
            && let Some(rotation) = &mut next.slots.rotation
        {
            rotation.id = switch.id;
            rotation.actor = switch.actor;
        }
        next.old = next.old.or(next.retired.take());
        next.retired = None;
        next.entering(Phase::Switched, now)
    }

    /// [`super::Action::SwitchOver`].
    #[must_use]
    pub fn switched_over(&self, now: u64) -> Self {
        let mut next = self.clone();
        next.old = std::mem::replace(&mut next.active, next.standby.take());
        next.entering(Phase::Switched, now)
    }

    /// [`super::Action::Prove`].
    #[must_use]
    pub fn proven(&self, proofs: &BTreeMap<String, Grade>) -> Self {
        self.with_rotation(|rotation| rotation.proofs.clone_from(proofs))
    }

    /// [`super::Action::Note`].
    #[must_use]
    pub fn noted(&self, roster: BTreeSet<String>) -> Self {
        self.with_slots(|slots| slots.roster = roster)
    }

    /// An operator wants the CA before gone without proof.
    #[must_use]
    pub fn accepted(&self, actor: &str) -> Self {
        self.with_rotation(|rotation| rotation.accepted = Some(actor.to_owned()))
    }

    /// [`super::Action::Conclude`].
    #[must_use]
    pub fn concluded(&self, now: u64) -> Self {
        self.entering(Phase::Archiving, now)
    }

    /// [`super::Action::RollBack`].
    #[must_use]
    pub fn rolling_back(&self, why: &str, now: u64) -> Self {
        self.with_rotation(|rotation| rotation.failure = Some(why.to_owned()))
            .entering(Phase::RollingBack, now)
    }

    /// [`super::Action::RolledBack`]: the standby may be known to somebody, so that another is made.
    #[must_use]
    pub fn rolled_back(&self) -> Self {
        let mut next = self.discarded();
        next.slots.rotation = None;
        next.slots.call = None;
        next
    }

    /// [`super::Action::Retire`].
    #[must_use]
    pub fn let_go(&self) -> Self {
        let mut next = self.clone();
        if let Some(old) = next.old.take() {
            next.slots.spend(&old);
        }
        next.slots.rotation = None;
        next.done += 1;
        next
    }

    /// What is left of it at another remote, or, with `None`, where verifiers are told by hand: no registration there
    /// is known, and what was asked of the remote before is of no interest any more.
    #[must_use]
    pub fn at_remote(&self, tunnel_id: Option<&str>, now: u64) -> Self {
        let Some(tunnel_id) = tunnel_id else {
            return self.by_hand();
        };
        let known = self.slots.tunnel_id.as_deref();
        if known == Some(tunnel_id) {
            return self.clone();
        }
        let next = self.with_slots(|slots| {
            // An older build wrote no id: the first one that is seen is the one it meant.
            if known.is_some() {
                (slots.registered, slots.call) = (BTreeMap::new(), None);
            }
            slots.tunnel_id = Some(tunnel_id.to_owned());
        });
        // Nobody has proven anything there, and nothing has settled.
        let phase = self.slots.rotation.as_ref().map(|rotation| rotation.phase);
        match phase.filter(|_| known.is_some()) {
            Some(Phase::Settling) => next.entering(Phase::Registering, now),
            Some(phase @ Phase::Switched) => next
                .with_rotation(|rotation| (rotation.proofs, rotation.accepted) = Default::default())
                .entering(phase, now),
            _ => next,
        }
    }

    /// A rotation whose CA signs already is a switch now; one before that is none.
    fn by_hand(&self) -> Self {
        let mut next = self.clone();
        let slots = std::mem::take(&mut next.slots);
        let switched = slots.rotation.filter(|_| next.old.is_some());
        next.switch = next.switch.or(switched.map(|rotation| Switch {
            id: rotation.id,
            actor: rotation.actor,
            began: rotation.began,
            adopted: false,
        }));
        next
    }

    /// Whether a rotation is in this phase.
    pub fn is_in(&self, phase: Phase) -> bool {
        let rotation = self.slots.rotation.as_ref();
        rotation.is_some_and(|rotation| rotation.phase == phase)
    }

    /// The CA before, as long as its leaf is to be there for callers who do not know the new one.
    pub fn fallback(&self) -> Option<&Ca> {
        let wanted = self.is_in(Phase::Switched) || self.is_in(Phase::Archiving);
        self.old.as_ref().filter(|_| wanted)
    }

    fn entering(&self, phase: Phase, now: u64) -> Self {
        self.with_rotation(|rotation| {
            rotation.phase = phase;
            rotation.since = now;
        })
    }

    fn with_slots(&self, change: impl FnOnce(&mut Slots)) -> Self {
        let mut next = self.clone();
        change(&mut next.slots);
        next
    }

    fn with_rotation(&self, change: impl FnOnce(&mut Rotation)) -> Self {
        self.with_slots(|slots| {
            if let Some(rotation) = &mut slots.rotation {
                change(rotation);
            }
        })
    }
}

impl Slots {
    /// Whether there is nothing to write down.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Remembers a CA that is not used any more.
    pub fn spend(&mut self, ca: &Ca) {
        self.spent.retain(|sha256| *sha256 != ca.sha256);
        self.spent.push(ca.sha256.clone());
        let surplus = self.spent.len().saturating_sub(MOST_SPENT);
        self.spent.drain(..surplus);
    }
}

impl Phase {
    /// Word for it, as the journal has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Registering => "registering",
            Self::Settling => "settling",
            Self::Switched => "switched",
            Self::Archiving => "archiving",
            Self::Archived => "archived",
            Self::RollingBack => "rolling_back",
        }
    }
}
