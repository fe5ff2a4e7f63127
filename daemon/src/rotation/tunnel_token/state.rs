//! What the journal holds of the tunnel token's machine, and how each step changes it. Ids and digests, never a value.

use serde::{Deserialize, Serialize};

use super::OVERLAP;

/// What the journal says. An older build wrote the first two fields alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct State {
    /// Number of the value that is given to connectors; 0 before there is one. Never given again.
    pub generation: u64,
    /// SHA-256 of that value, lower-case hexadecimal.
    pub sha256: String,
    /// The tunnel at the remote that all of it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_id: Option<String>,
    /// What the remote calls it; `None`: it was not asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When the remote last said that it is in force; 0: never, for this value.
    #[serde(default)]
    pub verified: u64,
    /// When the remote last answered at all.
    #[serde(default)]
    pub asked: u64,
    /// How often in a row it said that a value is in force which somebody had a reason to doubt.
    #[serde(default)]
    pub doubts: u32,
    /// In flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Until when the other side lets the value before open connections, as was asked of it.
    #[serde(default)]
    pub overlap_until: u64,
    /// Rotations of ours that every connector followed, since the state was made.
    #[serde(default)]
    pub done: u64,
    /// Rotations by somebody else that were adopted.
    #[serde(default)]
    pub foreign_count: u64,
    /// The last of them, until a rotation of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// What is wrong with the remote or what it gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

/// A rotation in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rotation {
    /// ULID. All its calls are made under it.
    pub id: String,
    /// Who asked.
    pub actor: String,
    /// When it began.
    pub began: u64,
    /// How far it is.
    pub phase: Phase,
    /// Id of the token in force before the last call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// When that was about to be made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<u64>,
    /// How often it was.
    #[serde(default)]
    pub calls: u32,
    /// The token in force was revealed since the phase began.
    #[serde(default)]
    pub looked: bool,
    /// The new value was found while the call could still be on its way.
    #[serde(default)]
    pub unsettled: bool,
    /// The other side is asked to let the old value open connections for a while; the same in each call.
    #[serde(default)]
    pub overlaps: bool,
    /// Connectors that were in service.
    #[serde(default)]
    pub expected: Vec<String>,
}

/// How far a rotation is; the last record of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has an id; nothing was called, or what was called never arrived.
    Intent,
    /// It may have been called.
    Rotating,
    /// The new value is in the store.
    Distributing,
}

/// A rotation by somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Foreign {
    /// Id of the token that it made.
    pub id: String,
    /// When that was seen.
    pub seen_at: u64,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Trouble {
    /// The tunnel is archived, or not there at all.
    Archived,
    /// The last token that the remote gave is not of the documented form.
    Malformed,
    /// The remote refused the last rotation.
    RotationRefused {
        /// HTTP status.
        status: u16,
    },
}

/// What the remote said of the token in force.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Its id.
    pub id: &'a str,
    /// SHA-256 of its value.
    pub sha256: &'a str,
    /// When it was asked.
    pub at: u64,
    /// It was asked when the call of the rotation in flight could not be on its way any more.
    pub late: bool,
    /// It was asked because somebody had a reason to doubt.
    pub doubted: bool,
}

/// The records: each gives the state after a step.
impl State {
    /// [`super::Action::Take`].
    #[must_use]
    pub fn taken(&self, sha256: &str, now: u64) -> Self {
        let mut next = self.clone();
        next.give(sha256, now);
        next.verified = 0;
        next
    }

    /// [`super::Action::Begin`].
    #[must_use]
    pub fn begun(&self, id: String, actor: &str, now: u64) -> Self {
        let rotation = Rotation {
            id,
            actor: actor.to_owned(),
            began: now,
            phase: Phase::Intent,
            before: None,
            called: None,
            calls: 0,
            looked: false,
            unsettled: false,
            // Two values open connections at a time, never three.
            overlaps: now >= self.overlap_until,
            expected: Vec::new(),
        };
        let mut next = self.clone();
        next.rotation = Some(rotation);
        next.trouble = next.trouble.filter(|trouble| !is_refusal(*trouble));
        next
    }

    /// [`super::Action::Call`]; durable before the call. The connectors in service are to take what comes of it.
    #[must_use]
    pub fn called(&self, connectors: &[String], now: u64) -> Self {
        let before = self.id.clone();
        self.change(|rotation| {
            rotation.phase = Phase::Rotating;
            rotation.before = before;
            rotation.called = Some(now);
            rotation.calls += 1;
            rotation.looked = false;
            for name in connectors {
                if !rotation.expected.contains(name) {
                    rotation.expected.push(name.clone());
                }
            }
        })
    }

    /// [`super::Action::Keep`], of what a reveal gave. The value is in the store.
    #[must_use]
    pub fn revealed(&self, token: &Observed<'_>) -> Self {
        let mut next = self.clone();
        let changed = self.id.as_deref() != Some(token.id);
        let ours = match &mut next.rotation {
            Some(rotation) => rotation.explains(token),
            None => false,
        };
        if changed && !ours && self.id.is_some() {
            next.foreign_count += 1;
            next.foreign = Some(Foreign {
                id: token.id.to_owned(),
                seen_at: token.at,
            });
        }
        if changed && ours {
            next.own(token.at);
        }
        next.doubts = if token.doubted && !changed {
            self.doubts + 1
        } else {
            0
        };
        next.adopt(token.id, token.sha256, token.at);
        next
    }

    /// [`super::Action::Keep`], of what a rotation gave. The value is in the store.
    #[must_use]
    pub fn rotated(&self, id: &str, sha256: &str, now: u64) -> Self {
        let mut next = self.change(|rotation| {
            rotation.phase = Phase::Distributing;
            rotation.looked = true;
            rotation.unsettled = false;
        });
        next.own(now);
        next.doubts = 0;
        next.adopt(id, sha256, now);
        next
    }

    /// No answer came: the call may have been sent as late as now, whenever it was meant to be.
    #[must_use]
    pub fn unanswered(&self, now: u64) -> Self {
        self.change(|rotation| rotation.called = Some(now))
    }

    /// What is left of it at another remote: a value of which nobody knows what it opens. What was asked of the remote
    /// before is of no interest any more.
    #[must_use]
    pub fn at_remote(&self, tunnel_id: Option<&str>) -> Self {
        let known = self.tunnel_id.as_deref();
        if known == tunnel_id {
            return self.clone();
        }
        let tunnel_id = tunnel_id.map(str::to_owned);
        // An older build wrote none: the first one that is seen is the one it meant.
        if known.is_none() {
            return Self {
                tunnel_id,
                ..self.clone()
            };
        }
        Self {
            tunnel_id,
            generation: self.generation,
            sha256: self.sha256.clone(),
            done: self.done,
            foreign_count: self.foreign_count,
            ..Self::default()
        }
    }

    /// The call was not made, or was turned away for a while: it may be made again, after another look.
    #[must_use]
    pub fn unsent(&self) -> Self {
        self.change(|rotation| {
            rotation.phase = Phase::Intent;
            rotation.looked = false;
        })
    }

    /// The remote refused the rotation, for good.
    #[must_use]
    pub fn refused(&self, status: u16) -> Self {
        self.ended(Trouble::RotationRefused { status })
    }

    /// The remote says that the tunnel is archived.
    #[must_use]
    pub fn archived(&self, now: u64) -> Self {
        let mut next = self.ended(Trouble::Archived);
        next.asked = now;
        next
    }

    /// The remote gave what is no token, with this id. If a rotation of ours made it, that is over: there is nothing
    /// that could be done once more.
    #[must_use]
    pub fn malformed(&self, token: &Observed<'_>) -> Self {
        let mut next = self.clone();
        next.trouble = Some(Trouble::Malformed);
        next.asked = token.at;
        if let Some(rotation) = &mut next.rotation {
            if rotation.explains(token) {
                next.id = Some(token.id.to_owned());
            }
            let may_arrive = rotation.phase == Phase::Rotating || rotation.unsettled;
            next.rotation = next.rotation.filter(|_| may_arrive);
        }
        next
    }

    /// [`super::Action::Finish`].
    #[must_use]
    pub fn finished(&self) -> Self {
        Self {
            rotation: None,
            done: self.done + 1,
            ..self.clone()
        }
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
        match (&self.rotation, self.trouble) {
            (Some(rotation), _) => match rotation.phase {
                Phase::Intent => "intent",
                Phase::Rotating => "rotating",
                Phase::Distributing => "distributing",
            },
            (None, Some(Trouble::Archived)) => "archived",
            (None, _) if self.generation == 0 => "empty",
            (None, _) => "stable",
        }
    }

    /// Less than `most`, drawn once for each value, so that a fleet does not ask at once.
    pub(super) fn spread(&self, most: u64) -> u64 {
        let digits = self.sha256.get(..4);
        let drawn = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        (drawn.unwrap_or_default() * most) >> 16
    }

    fn ended(&self, trouble: Trouble) -> Self {
        Self {
            rotation: None,
            trouble: Some(trouble),
            ..self.clone()
        }
    }

    fn adopt(&mut self, id: &str, sha256: &str, now: u64) {
        self.give(sha256, now);
        self.id = Some(id.to_owned());
        self.verified = now;
        self.asked = now;
        self.trouble = self.trouble.filter(|trouble| is_refusal(*trouble));
    }

    /// A rotation of ours took place.
    fn own(&mut self, now: u64) {
        self.foreign = None;
        if self
            .rotation
            .as_ref()
            .is_some_and(|rotation| rotation.overlaps)
        {
            // A minute more, since the other side has a clock of its own.
            self.overlap_until = now + OVERLAP + 60;
        }
    }

    /// The same value keeps its number.
    fn give(&mut self, sha256: &str, now: u64) {
        if self.sha256 != sha256 || self.generation == 0 {
            // The first one is the time: above what a state that was lost had given away.
            self.generation = match self.generation {
                0 => now.max(1),
                last => last + 1,
            };
            sha256.clone_into(&mut self.sha256);
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

impl Rotation {
    /// Takes note of what is in force; whether another id than before is this rotation's doing.
    fn explains(&mut self, token: &Observed<'_>) -> bool {
        self.looked = true;
        match self.phase {
            Phase::Intent => false,
            Phase::Rotating if self.before.as_deref() != Some(token.id) => {
                self.phase = Phase::Distributing;
                self.unsettled = !token.late;
                true
            }
            Phase::Rotating => {
                if token.late {
                    // It never arrived. What was just seen is in force before the next call.
                    self.phase = Phase::Intent;
                }
                false
            }
            Phase::Distributing => {
                let open = self.unsettled;
                self.unsettled &= !token.late;
                open
            }
        }
    }
}

fn is_refusal(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::RotationRefused { .. })
}
