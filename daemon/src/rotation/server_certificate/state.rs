//! What the journal holds of the server certificate's machine, and how each step changes it.

use serde::{Deserialize, Serialize};

use crate::rotation::Leaf;

/// Leaves that are kept besides the one in force. Only a doubtful clock lets them become many.
const MOST_KEPT: usize = 8;

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
    /// For callers who do not know the CA of the one in force yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Leaf>,
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
    /// Another client CA is configured, or one at all, or none any more. Proxies take what they get with a
    /// generation once, so that needs a new one.
    ClientCaChanged,
    /// It begins in the future: the clock was set back.
    NotYetValid,
    /// Every proxy refused its successor.
    Refused,
    /// A proxy serves a higher generation already: the state was lost.
    Renumbered,
    /// Another tool wrote it into the store.
    Adopted,
    /// There is another fallback, one at all, or none any more, which needs a new generation.
    FallbackChanged,
}

/// The records: each gives the state after a step.
impl State {
    /// [`super::Action::Begin`].
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

    /// [`super::Action::MakeKey`] and [`super::Action::DrawSerial`].
    #[must_use]
    pub fn keyed(&self, serial: String) -> Self {
        self.change(|rotation| {
            rotation.phase = Phase::Keyed;
            rotation.serial = Some(serial);
            rotation.leaf = None;
        })
    }

    /// [`super::Action::Sign`] and [`super::Action::TakeCertificate`].
    #[must_use]
    pub fn signed(&self, leaf: Leaf) -> Self {
        self.change(|rotation| {
            rotation.phase = Phase::Signed;
            rotation.leaf = Some(leaf);
        })
    }

    /// [`super::Action::Check`]. Gives the leaf the next generation, which is never given again.
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

    /// [`super::Action::Restore`], and a leaf that another tool made.
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

    /// What is published next has the newest leaf of `issuer` for a fallback that is not over yet, if there is one;
    /// `None`: it has none.
    #[must_use]
    pub fn beside(&self, issuer: Option<&str>, now: u64) -> Self {
        Self {
            fallback: self.leaf_of(issuer, now).cloned(),
            ..self.clone()
        }
    }

    /// The newest leaf of `issuer` that could be a fallback.
    pub fn leaf_of(&self, issuer: Option<&str>, now: u64) -> Option<&Leaf> {
        let leaves = self.serving.iter().chain(&self.kept).chain(&self.fallback);
        leaves
            .filter(|leaf| Some(leaf.issuer.as_str()) == issuer && leaf.not_after > now)
            .max_by_key(|leaf| leaf.issued_at)
    }

    /// [`super::Action::IssueFallback`]: before [`restored`](Self::restored).
    #[must_use]
    pub fn with_fallback(&self, leaf: Leaf) -> Self {
        Self {
            fallback: Some(leaf),
            ..self.clone()
        }
    }

    /// [`super::Action::Publish`].
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

    /// [`super::Action::Adopt`].
    #[must_use]
    pub fn adopted(&self) -> Self {
        Self {
            rotation: None,
            done: self.done + 1,
            ..self.clone()
        }
    }

    /// [`super::Action::Retire`].
    #[must_use]
    pub fn retired(&self, keep: usize) -> Self {
        let mut next = self.clone();
        next.kept.truncate(keep);
        next
    }

    /// [`super::Action::Abandon`].
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
        let leaves = self.serving.iter().chain(&self.kept).chain(&self.fallback);
        let serving = leaves.map(|leaf| &leaf.id);
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
