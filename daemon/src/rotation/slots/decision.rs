//! What follows from a list of the remote's slots.

use std::collections::BTreeMap;

use super::{
    Action, DEADLINE, EVERY, Grade, LATE, Listing, Phase, Reason, Registration, Rotation, SLOTS,
    Seen, Served, State, What, is_due, is_held, is_ours, is_pressing, is_proven,
};
use crate::rotation::authority::Ca;

/// What is decided on.
pub(super) struct Decision<'a> {
    pub(super) state: &'a State,
    pub(super) seen: &'a Seen,
    pub(super) listing: &'a Listing,
    pub(super) now: u64,
}

impl Decision<'_> {
    pub(super) fn next(&self) -> Action {
        self.last_call()
            .or_else(|| self.names())
            .or_else(|| self.surplus())
            .or_else(|| self.missing())
            .unwrap_or_else(|| self.rotation())
    }

    /// What came of the last call, as the list shows it.
    fn last_call(&self) -> Option<Action> {
        let call = self.state.slots.call.as_ref()?;
        let listed = self.listed(&call.sha256);
        let age = self.now.abs_diff(call.asked);
        // It may be on its way, or the remote says that it is done and does not list it so yet.
        let lags = |answered| age < LATE || self.seen.young || call.done && age < answered;
        match call.what {
            What::Register => match listed {
                Some(registration) => Some(Action::Listed(registration.clone())),
                None if lags(DEADLINE) => Some(Action::Wait(self.now + 1)),
                None if self.is_wanted(&call.sha256) => None,
                None => Some(Action::Forget),
            },
            What::Archive => {
                let there = self
                    .registrations()
                    .any(|one| Some(&one.id) == call.id.as_ref());
                match (there, listed) {
                    (false, None) => Some(Action::Gone(call.sha256.clone())),
                    (false, Some(_)) => Some(Action::Forget),
                    (true, _) => lags(EVERY).then(|| Action::Wait(self.now + 1)),
                }
            }
        }
    }

    /// A registration of ours that the journal has under no name, or under another one.
    fn names(&self) -> Option<Action> {
        let known = &self.state.slots.registered;
        let news = self.registrations().find(|one| {
            let named = known.get(&one.sha256);
            let stands = |id: &String| self.registrations().any(|other| other.id == *id);
            self.is_ours(&one.sha256) && !named.is_some_and(stands)
        });
        news.cloned().map(Action::Listed)
    }

    /// A registration of ours that is not needed: of a CA that is not used any more, or a second one of one that is.
    /// Only while the CA in force is listed.
    fn surplus(&self) -> Option<Action> {
        let active = self.state.active.as_ref()?;
        self.listed(&active.sha256)?;
        let surplus = self.registrations().find(|one| {
            let needed = self.is_wanted(&one.sha256)
                && self.state.slots.registered.get(&one.sha256) == Some(&one.id);
            self.is_ours(&one.sha256) && !needed
        })?;
        Some(if self.seen.suspect {
            Action::Wait(self.now + 1)
        } else {
            Action::Archive(surplus.clone())
        })
    }

    /// The CA in force, if it was never registered. One that was, somebody archived, and may have had a reason.
    fn missing(&self) -> Option<Action> {
        let active = self.state.active.as_ref()?;
        let known = self.state.slots.registered.contains_key(&active.sha256);
        if known || self.listed(&active.sha256).is_some() {
            return None;
        }
        Some(if self.has_room() {
            Action::Register(active.clone())
        } else {
            Action::Wait(self.listing.at + EVERY)
        })
    }

    fn rotation(&self) -> Action {
        let (state, seen, now) = (self.state, self.seen, self.now);
        let rest = Action::Wait(self.listing.at + EVERY);
        let Some(rotation) = &state.slots.rotation else {
            let active = state.active.as_ref();
            let wanted = is_pressing(state, seen.leaf, now)
                || active.is_some_and(|active| active.is_of_the_future(now))
                || seen.by_itself && is_due(state, seen.leaf, now);
            let due = wanted && !seen.suspect;
            return match (seen.ordered, due) {
                (true, _) if self.has_room() => Action::Rotate(Reason::Ordered),
                (_, true) if self.has_room() => Action::Rotate(Reason::Due),
                _ => rest,
            };
        };
        let age = now.abs_diff(rotation.since);
        match (rotation.phase, &state.standby) {
            (Phase::Registering | Phase::Settling, None) => {
                Action::RollBack("the key of the standby CA is lost")
            }
            (Phase::Registering | Phase::Settling, Some(standby))
                if standby.is_of_the_future(now) && !seen.suspect =>
            {
                Action::RollBack("the standby CA was made while the clock was ahead")
            }
            (Phase::Registering, Some(standby)) => self.registering(rotation, standby),
            (Phase::Settling, Some(standby)) => {
                if self.listed(&standby.sha256).is_none() {
                    Action::RollBack("somebody archived the standby CA")
                } else if seen.suspect {
                    Action::Wait(now + 1)
                } else if age >= seen.settle {
                    Action::SwitchOver
                } else {
                    Action::Wait(rotation.since + seen.settle)
                }
            }
            (Phase::Switched, _) => self.switched(rotation),
            (Phase::Archiving, _) => match &state.old {
                Some(old) if self.listed(&old.sha256).is_none() => Action::Gone(old.sha256.clone()),
                _ => Action::Wait(now + 1),
            },
            (Phase::RollingBack, Some(standby)) if self.listed(&standby.sha256).is_some() => rest,
            (Phase::RollingBack, _) if seen.suspect => Action::Wait(now + 1),
            (Phase::RollingBack, _) => Action::RolledBack,
            (Phase::Archived, _) => rest,
        }
    }

    fn registering(&self, rotation: &Rotation, standby: &Ca) -> Action {
        let late = !self.seen.suspect && self.now.abs_diff(rotation.began) >= DEADLINE;
        if late {
            Action::RollBack("the standby CA was not registered within a day")
        } else if self.has_room() {
            Action::Register(standby.clone())
        } else {
            Action::Wait(self.listing.at + EVERY)
        }
    }

    fn switched(&self, rotation: &Rotation) -> Action {
        let (state, seen, now) = (self.state, self.seen, self.now);
        if let Some(proofs) = news(rotation, &seen.served) {
            return Action::Prove(proofs);
        }
        let held = rotation.accepted.is_none() && is_held(&seen.served);
        let sound = self.listed_active() && !held && !seen.suspect;
        let age = now.abs_diff(rotation.since);
        if self.is_followed() && is_proven(state, rotation, seen) && sound {
            return if age >= seen.settle {
                Action::Conclude
            } else {
                Action::Wait(rotation.since + seen.settle)
            };
        }
        Action::Wait((now + 1).max(self.listing.at))
    }

    /// Every replica in service has the leaf of the CA in force.
    fn is_followed(&self) -> bool {
        let active = self.state.active.as_ref().map(|active| &active.sha256);
        let settled = self.seen.settled_issuer.as_ref();
        settled.is_some()
            && settled == active
            && self.seen.served.iter().all(|served| served.acknowledged)
    }

    fn listed_active(&self) -> bool {
        let active = self.state.active.as_ref();
        active.is_some_and(|active| self.listed(&active.sha256).is_some())
    }

    fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.listing.registrations.iter()
    }

    fn listed(&self, sha256: &str) -> Option<&Registration> {
        self.registrations().find(|one| one.sha256 == sha256)
    }

    fn has_room(&self) -> bool {
        self.listing.registrations.len() < SLOTS
    }

    fn is_ours(&self, sha256: &str) -> bool {
        is_ours(self.state, sha256)
    }

    /// Whether it is to be registered as things stand.
    fn is_wanted(&self, sha256: &str) -> bool {
        let state = self.state;
        let second = match state.slots.rotation.as_ref().map(|rotation| rotation.phase) {
            Some(Phase::Registering | Phase::Settling) => state.standby.as_ref(),
            Some(Phase::Switched) => state.old.as_ref(),
            _ => None,
        };
        let mut wanted = state.active.iter().chain(second);
        wanted.any(|ca| ca.sha256 == sha256)
    }
}

/// What is known of the replicas in service, if it is more than the journal has.
fn news(rotation: &Rotation, served: &[Served]) -> Option<BTreeMap<String, Grade>> {
    let mut proofs = rotation.proofs.clone();
    for one in served {
        if let Some(grade) = one.grade.max(proofs.get(&one.name).copied()) {
            proofs.insert(one.name.clone(), grade);
        }
    }
    (proofs != rotation.proofs).then_some(proofs)
}
