//! The CA's machine, for a tunnel whose verifiers are told by hand.
//!
//! ```text
//! empty ─▶ prepared ─▶ stable ─▶ switching ─▶ adopted ─▶ stable'
//!           key, CA     standby    leaf under    every      old key destroyed, old certificate
//!           in custody  ready      the standby   ack in     trusted until the next switch
//! ```
//!
//! The standby CA is always made ahead, so that its certificate can be with the verifiers long before
//! it signs anything. An operator orders the switch and asserts that it is; there is no trial and no
//! way back after it. At most two CAs are trusted at a time.

use serde::{Deserialize, Serialize};

use super::slots::{Phase, Slots};

/// Days before the end of the CA in force at which the alarm grows more urgent (F37).
const ALARM_DAYS: [u64; 5] = [1, 3, 7, 14, 30];
const DAY: u64 = 86_400;

/// A CA, by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ca {
    /// Rotation that made it; names its blobs.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the DER.
    pub sha256: String,
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

impl Ca {
    /// Whether it was made by a clock that was ahead of the one that says `now`: it cannot sign yet.
    pub(super) fn is_of_the_future(&self, now: u64) -> bool {
        self.not_before > now
    }

    /// Whether nobody should switch to it: it cannot sign yet, or three quarters of its life have passed
    /// while it waited.
    pub(super) fn is_useless(&self, now: u64) -> bool {
        self.is_of_the_future(now) || fraction(self, now) >= 75
    }
}

/// What the journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Signs.
    pub active: Option<Ca>,
    /// Signs next.
    #[serde(default)]
    pub standby: Option<Ca>,
    /// Signed before the switch in flight; its key is there until the switch is over.
    #[serde(default)]
    pub old: Option<Ca>,
    /// Signed before the last switch: trusted for running verifiers, its key is gone.
    #[serde(default)]
    pub retired: Option<Ca>,
    /// Being made.
    #[serde(default)]
    pub making: Option<Making>,
    /// In flight.
    #[serde(default)]
    pub switch: Option<Switch>,
    /// Switches adopted since the state was made.
    #[serde(default)]
    pub done: u64,
    /// Where they are registered, for [`super::slots`].
    #[serde(default, skip_serializing_if = "Slots::is_empty")]
    pub slots: Slots,
}

/// A CA that is being made. Its key has the id for a name, so that a hundred crashes leave one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Making {
    /// ULID.
    pub id: String,
    /// What it is for.
    pub role: Role,
}

/// What a CA is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// There is none.
    Active,
    /// To be next.
    Standby,
}

/// A switch in flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    /// ULID.
    pub id: String,
    /// Who asked.
    pub actor: String,
    /// When it began.
    pub began: u64,
    /// Every proxy serves a leaf of the new CA; the old key waits for a clock that can be believed.
    #[serde(default)]
    pub adopted: bool,
}

/// What is so at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent observations, each named where it is made"
)]
pub struct Seen {
    /// The issuer of the leaf in force, if no rotation of it is in flight.
    pub settled_issuer: Option<String>,
    /// There are proxies in service, and every one acknowledged that leaf.
    pub acknowledged: bool,
    /// No proxy has been in service for as long as one may be away.
    pub deserted: bool,
    /// Somebody ordered a switch that has not begun.
    pub ordered: bool,
    /// The last try failed a moment ago.
    pub paced: bool,
    /// The clock cannot be believed.
    pub suspect: bool,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, unless something else is seen.
    Wait,
    /// Record that a CA is to be made.
    Begin(Role),
    /// Make it, or take what a crash left of it; record it.
    Make,
    /// Record that the standby signs from now on.
    Switch,
    /// Record that every proxy serves a leaf of it.
    Adopt,
    /// Destroy the key of the old CA, record that.
    Retire,
    /// Forget a standby that is too old to be of use; another is made.
    Discard,
}

/// Decides.
pub fn next(state: &State, seen: &Seen, now: u64) -> Action {
    if seen.paced {
        return Action::Wait;
    }
    if state.making.is_some() {
        return Action::Make;
    }
    let Some(active) = &state.active else {
        return Action::Begin(Role::Active);
    };
    if let Some(switch) = &state.switch {
        let settled = seen.settled_issuer.as_ref() == Some(&active.sha256);
        // Nobody is there to prove anything: the old key is kept until the next switch, which is
        // ordered by somebody who knows that.
        let superseded = seen.deserted && seen.ordered && !seen.suspect && state.standby.is_some();
        return match (switch.adopted, seen.suspect) {
            (false, _) if settled && (seen.acknowledged || superseded) => Action::Adopt,
            (true, false) if seen.acknowledged || seen.deserted => Action::Retire,
            (false, _) if settled && seen.deserted && state.standby.is_none() => {
                Action::Begin(Role::Standby)
            }
            _ => Action::Wait,
        };
    }
    match &state.standby {
        None => Action::Begin(Role::Standby),
        Some(_) if seen.ordered => Action::Switch,
        Some(standby) if !seen.suspect && standby.is_useless(now) => Action::Discard,
        Some(_) => Action::Wait,
    }
}

/// What needs a person, one sentence each. `leaf` is the life of a server certificate in seconds.
pub fn alarms(state: &State, now: u64, leaf: u64) -> Vec<String> {
    let Some(active) = &state.active else {
        return Vec::new();
    };
    let left = active.not_after.saturating_sub(now);
    let days = left / DAY;
    let next = "give the standby CA to the verifiers, then run: keyward rotate ca --trusted";
    if let Some(alarm) = urgent(active, now, next) {
        return vec![alarm];
    }
    if fraction(active, now) >= 50 || left < leaf.saturating_mul(6) {
        return vec![format!(
            "the CA has {days} days left and is due for a switch; {next}"
        )];
    }
    Vec::new()
}

/// What the dates of the CA in force say, if that cannot wait, and what is to be done `next`.
pub(super) fn urgent(active: &Ca, now: u64, next: &str) -> Option<String> {
    let left = active.not_after.saturating_sub(now);
    if left == 0 {
        return Some(format!("the CA has expired; {next}"));
    }
    if now < active.not_before {
        return Some("the CA is not valid yet: check the clock".to_owned());
    }
    let step = ALARM_DAYS.iter().find(|step| left / DAY < **step)?;
    Some(format!("the CA expires in less than {step} days; {next}"))
}

/// How much of a life has passed, in per cent.
pub(super) fn fraction(ca: &Ca, now: u64) -> u64 {
    let life = ca.not_after.saturating_sub(ca.not_before).max(1);
    now.saturating_sub(ca.not_before).saturating_mul(100) / life
}

/// The records: each gives the state after a step.
impl State {
    /// [`Action::Begin`].
    #[must_use]
    pub fn begun(&self, id: String, role: Role) -> Self {
        Self {
            making: Some(Making { id, role }),
            ..self.clone()
        }
    }

    /// [`Action::Make`].
    #[must_use]
    pub fn made(&self, ca: Ca) -> Self {
        let mut next = self.clone();
        match next.making.take().map(|making| making.role) {
            Some(Role::Standby) => next.standby = Some(ca),
            Some(Role::Active) | None => next.active = Some(ca),
        }
        next
    }

    /// [`Action::Switch`].
    #[must_use]
    pub fn switched(&self, id: String, actor: &str, now: u64) -> Self {
        let mut next = self.clone();
        next.old = std::mem::replace(&mut next.active, next.standby.take());
        next.switch = Some(Switch {
            id,
            actor: actor.to_owned(),
            began: now,
            adopted: false,
        });
        next
    }

    /// [`Action::Adopt`].
    #[must_use]
    pub fn adopted(&self) -> Self {
        let mut next = self.clone();
        if let Some(switch) = &mut next.switch {
            switch.adopted = true;
        }
        next.done += 1;
        next
    }

    /// [`Action::Retire`].
    #[must_use]
    pub fn retired(&self) -> Self {
        let mut next = self.clone();
        next.retired = next.old.take();
        next.switch = None;
        next
    }

    /// [`Action::Discard`].
    #[must_use]
    pub fn discarded(&self) -> Self {
        let mut next = self.clone();
        if let Some(standby) = next.standby.take()
            && !next.slots.is_empty()
        {
            next.slots.spend(&standby);
        }
        next
    }

    /// The CAs that verifiers are to trust for what is served: at most two, the signing one first.
    pub fn trusted(&self) -> impl Iterator<Item = &Ca> {
        let second = self.old.as_ref().or(self.retired.as_ref());
        let second = second.filter(|_| !self.is_in(Phase::Archived));
        self.active.iter().chain(second)
    }

    /// Word for where it stands.
    pub fn phase(&self) -> &'static str {
        if let Some(rotation) = &self.slots.rotation {
            return rotation.phase.word();
        }
        match (&self.switch, &self.making) {
            (Some(switch), _) if switch.adopted => "adopted",
            (Some(_), _) => "switching",
            (None, Some(_)) => "preparing",
            (None, None) if self.active.is_none() => "empty",
            (None, None) => "stable",
        }
    }
}

#[cfg(test)]
mod tests;
