//! What the journal holds of the shared secret's machine, and how each step changes it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Digests of our own that are remembered after they were taken out of force.
const MOST_RETIRED: usize = 8;

/// What the journal says. There are digests and names in it, never a value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct State {
    /// The one that every proxy held before the rotation in flight.
    pub active: Option<Secret>,
    /// In flight.
    #[serde(default)]
    pub rotation: Option<Rotation>,
    /// Highest generation that was ever given away.
    #[serde(default)]
    pub generation: u64,
    /// Digests of our own that open nothing any more, newest first.
    #[serde(default)]
    pub retired: Vec<String>,
    /// Ids of secrets whose values are to be destroyed.
    #[serde(default)]
    pub doomed: Vec<String>,
    /// The proxies in service that dial, so that a restart does not take one that has not come back yet
    /// for one that never was.
    #[serde(default)]
    pub roster: BTreeSet<String>,
    /// Who was still bound to the last secret that was archived.
    #[serde(default)]
    pub strangers: Option<Strangers>,
    /// Rotations whose old secret is gone, since the state was made.
    #[serde(default)]
    pub done: u64,
}

/// A secret, by reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Secret {
    /// Rotation that made it; names its blob.
    pub id: String,
    /// Lower-case hexadecimal SHA-256 of the value.
    pub sha256: String,
    /// When it was made.
    pub made_at: u64,
    /// Generation that it is published in; 0 before it is.
    pub generation: u64,
}

/// A rotation in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rotation {
    /// ULID; names the blob.
    pub id: String,
    /// How far it is.
    pub phase: Phase,
    /// Why it began.
    pub cause: Cause,
    /// Who asked.
    pub actor: String,
    /// When it began.
    pub began: u64,
    /// What replaces the active one, once it is made.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// Since when no proxy of ours uses the old one; 0: one does, or nobody knows.
    #[serde(default)]
    pub quiet_since: u64,
}

/// How far a rotation is; the last record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has an id.
    Begun,
    /// The value is in custody.
    Made,
    /// The remote lists it, and it has a generation: proxies are told to use it.
    Published,
    /// Every proxy in service stands on it.
    Quiet,
    /// The old one is being archived.
    Archiving,
}

/// Why a rotation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// There is none.
    First,
    /// Somebody ordered it.
    Ordered,
    /// Its time has come.
    Scheduled,
    /// Its value is not in custody.
    Missing,
    /// The remote does not take it any more.
    Refused,
    /// Its successor came to nothing after it was published.
    TurnedBack,
}

/// A connection at the remote.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// Which proxy, as it calls itself.
    pub replica: String,
    /// Where it dialled from.
    pub address: String,
    /// The edge that it is connected to.
    pub instance: String,
}

/// Connections that were bound to a secret of ours and not ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Strangers {
    /// When they were last seen.
    pub at: u64,
    /// They.
    pub holders: Vec<Holder>,
}

impl Secret {
    /// One that is in custody and that nobody was told of.
    pub fn new(id: String, sha256: String, now: u64) -> Self {
        Self {
            id,
            sha256,
            made_at: now,
            generation: 0,
        }
    }
}

/// The records: each gives the state after a step.
impl State {
    /// [`super::Action::Begin`].
    #[must_use]
    pub fn begun(&self, id: String, cause: Cause, actor: &str, now: u64) -> Self {
        Self {
            rotation: Some(Rotation {
                id,
                phase: Phase::Begun,
                cause,
                actor: actor.to_owned(),
                began: now,
                secret: None,
                quiet_since: 0,
            }),
            ..self.clone()
        }
    }

    /// [`super::Action::Make`].
    #[must_use]
    pub fn made(&self, secret: Secret) -> Self {
        self.change(|rotation| {
            rotation.phase = Phase::Made;
            rotation.secret = Some(secret);
        })
    }

    /// [`super::Action::Publish`]. The first one replaces nothing, and its rotation is over; its generation is
    /// the time, which is above what a state that was lost had given away. `above`: the generation of the
    /// tunnel token, which proxies dial with while there is no secret and acknowledge by the same count.
    #[must_use]
    pub fn published(&self, now: u64, above: u64) -> Self {
        let mut next = self.clone();
        let Some(secret) = next.rotation.as_mut().and_then(|one| one.secret.as_mut()) else {
            return next;
        };
        let first = if next.generation == 0 { now } else { 0 };
        next.generation = first.max(next.generation.max(above) + 1);
        secret.generation = next.generation;
        if next.active.is_none() {
            next.active = next.rotation.take().and_then(|rotation| rotation.secret);
            return next;
        }
        next.change(|rotation| rotation.phase = Phase::Published)
    }

    /// [`super::Action::Renumber`].
    #[must_use]
    pub fn renumbered(&self, now: u64, above: u64) -> Self {
        let mut next = self.clone();
        next.generation = now.max(next.generation.max(above) + 1);
        let generation = next.generation;
        let published = |secret: &&mut Secret| secret.generation > 0;
        let new = next.rotation.as_mut().and_then(|one| one.secret.as_mut());
        let presented = new.filter(published).or(next.active.as_mut());
        if let Some(secret) = presented {
            secret.generation = generation;
        }
        next
    }

    /// [`super::Action::Prove`] and [`super::Action::Heard`].
    #[must_use]
    pub fn proven(&self, now: u64) -> Self {
        self.change(|rotation| {
            rotation.phase = rotation.phase.max(Phase::Quiet);
            rotation.quiet_since = now;
        })
    }

    /// [`super::Action::Decide`].
    #[must_use]
    pub fn decided(&self, holders: Vec<Holder>, now: u64) -> Self {
        let mut next = self.change(|rotation| rotation.phase = Phase::Archiving);
        next.strangers = (!holders.is_empty()).then_some(Strangers { at: now, holders });
        next
    }

    /// [`super::Action::Finish`].
    #[must_use]
    pub fn finished(&self) -> Self {
        let mut next = self.clone();
        let Some(rotation) = next.rotation.take() else {
            return next;
        };
        next.done += u64::from(rotation.phase >= Phase::Quiet);
        let old = std::mem::replace(&mut next.active, rotation.secret);
        next.with_retired(old)
    }

    /// [`super::Action::Abandon`].
    #[must_use]
    pub fn abandoned(&self) -> Self {
        let mut next = self.clone();
        let dropped = next.rotation.take().and_then(|rotation| rotation.secret);
        next.with_retired(dropped)
    }

    /// [`super::Action::Turn`]: back to the old one, by the same way.
    #[must_use]
    pub fn turned(&self, above: u64) -> Self {
        let mut next = self.clone();
        let Some(mut rotation) = next.rotation.take() else {
            return next;
        };
        next.generation = next.generation.max(above) + 1;
        let new = std::mem::replace(&mut next.active, rotation.secret.take());
        rotation.secret = new.map(|secret| Secret {
            generation: next.generation,
            ..secret
        });
        rotation.phase = Phase::Published;
        rotation.cause = Cause::TurnedBack;
        rotation.quiet_since = 0;
        next.rotation = Some(rotation);
        next
    }

    /// [`super::Action::Destroy`].
    #[must_use]
    pub fn destroyed(&self) -> Self {
        Self {
            doomed: Vec::new(),
            ..self.clone()
        }
    }

    /// [`super::Action::Note`].
    #[must_use]
    pub fn noted(&self, roster: BTreeSet<String>) -> Self {
        Self {
            roster,
            ..self.clone()
        }
    }

    /// What proxies are told to use.
    pub fn presented(&self) -> Option<&Secret> {
        self.new_one()
            .filter(|secret| secret.generation > 0)
            .or(self.active.as_ref())
    }

    /// What replaces the active one, if it is made.
    pub fn new_one(&self) -> Option<&Secret> {
        self.rotation.as_ref()?.secret.as_ref()
    }

    /// Ids of the values that have to stay in custody.
    pub fn blobs(&self) -> Vec<&str> {
        let making = self.rotation.as_ref().map(|rotation| rotation.id.as_str());
        let secrets = self.active.iter().chain(self.new_one());
        making
            .into_iter()
            .chain(secrets.map(|secret| secret.id.as_str()))
            .collect()
    }

    /// Word for where it stands.
    pub fn phase(&self) -> &'static str {
        match self.rotation.as_ref().map(|rotation| rotation.phase) {
            Some(Phase::Begun) => "begun",
            Some(Phase::Made) => "made",
            Some(Phase::Published) => "published",
            Some(Phase::Quiet) => "quiet",
            Some(Phase::Archiving) => "archiving",
            None if self.active.is_none() => "empty",
            None => "stable",
        }
    }

    fn change(&self, change: impl FnOnce(&mut Rotation)) -> Self {
        let mut next = self.clone();
        next.rotation.as_mut().map(change);
        next
    }

    fn with_retired(mut self, secret: Option<Secret>) -> Self {
        if let Some(secret) = secret {
            self.retired.insert(0, secret.sha256);
            self.retired.truncate(MOST_RETIRED);
            self.doomed.push(secret.id);
        }
        self
    }
}
