//! The other side: what it holds, when its verifiers know, and what it says.

use std::collections::BTreeMap;

use daemon::rotation::shared_secret::{Holder, Listed};
use daemon::rotation::slots::{Registration, SLOTS};

use super::dice::Dice;
use super::time::HOUR;

/// Those who check what proxies serve; each learns of a change in its own time.
pub(super) const VERIFIERS: usize = 2;
/// The longest that takes, in seconds: the settle time of the configuration.
pub(super) const PROPAGATION: u64 = 900;
/// How the fingerprint of a CA that is not ours begins.
pub(super) const STRANGER: &str = "stranger";

/// A call, by what it does there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Tunnel,
    Certificates,
    AddCertificate(String),
    ArchiveCertificate(String),
    Secrets,
    AddSecret(String),
    ArchiveSecret(String),
    RevealToken,
    /// With the id of the rotation.
    RotateToken(String),
}

/// What it says of one that it took.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Certificates(Vec<Registration>),
    Certificate(String),
    Secrets(Vec<Listed>),
    Done,
    /// Id and value.
    Token(String, String),
    Refused(u16),
}

/// A CA certificate there.
#[derive(Clone, Debug)]
struct Slot {
    id: String,
    sha256: String,
    added: u64,
    archived: Option<u64>,
    known: [u64; VERIFIERS],
    unknown: [u64; VERIFIERS],
}

/// A shared secret there.
#[derive(Clone, Debug)]
struct Secret {
    id: String,
    sha256: String,
    archived: bool,
    used: bool,
}

/// The whole of it.
#[derive(Clone, Debug)]
pub(super) struct Far {
    /// How old its lists of CAs are.
    pub(super) lag: u64,
    /// It takes a CA that it has once more, into another slot.
    pub(super) doubles: bool,
    /// It knows a rotation that it carried out, and lets the value before open connections for a while.
    pub(super) of_ours: bool,
    slots: Vec<Slot>,
    secrets: Vec<Secret>,
    token: (String, String),
    before: Option<(String, u64)>,
    serial: u64,
    /// How often a rotation of the token took place.
    pub(super) rotated: BTreeMap<String, u32>,
}

impl Far {
    pub(super) fn new(lag: u64, doubles: bool, of_ours: bool) -> Self {
        Self {
            lag,
            doubles,
            of_ours,
            slots: Vec::new(),
            secrets: Vec::new(),
            token: ("tok-0".to_owned(), value(0)),
            before: None,
            serial: 0,
            rotated: BTreeMap::new(),
        }
    }

    /// Does what is asked. `holders`: who is bound to which secret.
    pub(super) fn carry_out(
        &mut self,
        call: &Call,
        holders: &[(String, Holder)],
        now: u64,
        dice: &mut Dice,
    ) -> Answer {
        match call {
            Call::Tunnel => Answer::Done,
            Call::Certificates => Answer::Certificates(self.registrations(now)),
            Call::AddCertificate(sha256) => self.register(sha256, now, dice),
            Call::ArchiveCertificate(id) => self.archive(id, now, dice),
            Call::Secrets => Answer::Secrets(self.list_secrets(holders)),
            Call::AddSecret(sha256) => self.add_secret(sha256),
            Call::ArchiveSecret(id) => {
                if let Some(secret) = self.secrets.iter_mut().find(|one| one.id == *id) {
                    secret.archived = true;
                    return Answer::Done;
                }
                Answer::Refused(404)
            }
            Call::RevealToken => Answer::Token(self.token.0.clone(), self.token.1.clone()),
            Call::RotateToken(rotation) => {
                let times = self.rotated.entry(rotation.clone()).or_default();
                if !(self.of_ours && *times > 0) {
                    *times += 1;
                    self.rotate(now);
                }
                Answer::Token(self.token.0.clone(), self.token.1.clone())
            }
        }
    }

    /// Another token, ours or somebody else's doing.
    pub(super) fn rotate(&mut self, now: u64) {
        self.serial += 1;
        let next = (format!("tok-{}", self.serial), value(self.serial));
        let old = std::mem::replace(&mut self.token, next);
        self.before = self.of_ours.then_some((old.1, now + HOUR));
    }

    /// Whether a connector is let in with it.
    pub(super) fn takes_token(&self, value: &str, now: u64) -> bool {
        let overlap = |(old, until): &(String, u64)| old == value && now < *until;
        self.token.1 == value || self.before.as_ref().is_some_and(overlap)
    }

    pub(super) fn takes_secret(&self, sha256: &str) -> bool {
        self.secrets
            .iter()
            .any(|one| one.sha256 == sha256 && !one.archived)
    }

    pub(super) fn bind(&mut self, sha256: &str) {
        for secret in &mut self.secrets {
            secret.used |= secret.sha256 == sha256;
        }
    }

    pub(super) fn secret(&self, id: &str) -> Option<&str> {
        let secret = self.secrets.iter().find(|one| one.id == id)?;
        Some(&secret.sha256)
    }

    /// Whether verifier `number` knows it.
    pub(super) fn trusts(&self, sha256: &str, number: usize, now: u64) -> bool {
        self.slots.iter().any(|slot| {
            let known = slot.known.get(number).is_some_and(|at| *at <= now);
            let until = slot.unknown.get(number).copied().unwrap_or_default();
            slot.sha256 == sha256 && known && (slot.archived.is_none() || now < until)
        })
    }

    /// Not archived now, whatever the lists show.
    pub(super) fn active(&self) -> impl Iterator<Item = (&str, &str)> {
        let active = self.slots.iter().filter(|slot| slot.archived.is_none());
        active.map(|slot| (slot.id.as_str(), slot.sha256.as_str()))
    }

    /// When the last registration of a CA was archived; `None`: it is active or was never there.
    pub(super) fn archived_at(&self, sha256: &str) -> Option<u64> {
        let of = || self.slots.iter().filter(|slot| slot.sha256 == sha256);
        if of().any(|slot| slot.archived.is_none()) {
            return None;
        }
        of().filter_map(|slot| slot.archived).max()
    }

    pub(super) fn sha256(&self, id: &str) -> Option<&str> {
        let slot = self.slots.iter().find(|slot| slot.id == id)?;
        Some(&slot.sha256)
    }

    /// Somebody takes a slot, if there is one.
    pub(super) fn intrude(&mut self, now: u64, dice: &mut Dice) {
        let name = format!("{STRANGER}-{}", self.serial);
        self.register(&name, now, dice);
    }

    /// Somebody archives CAs by hand.
    pub(super) fn archive_by_hand(&mut self, is_it: impl Fn(&str) -> bool, now: u64) {
        for slot in &mut self.slots {
            if slot.archived.is_none() && is_it(&slot.sha256) {
                slot.archived = Some(now);
                slot.unknown = [now; VERIFIERS];
            }
        }
    }

    /// Secrets that are not ours are archived.
    pub(super) fn drop_foreign_secrets(&mut self) {
        for secret in &mut self.secrets {
            secret.archived |= secret.sha256.starts_with(STRANGER);
        }
    }

    fn registrations(&self, now: u64) -> Vec<Registration> {
        let then = now.saturating_sub(self.lag);
        let is_shown = |slot: &&Slot| {
            slot.added <= then && slot.archived.is_none_or(|archived| archived > then)
        };
        let shown = self.slots.iter().filter(is_shown);
        shown
            .map(|slot| Registration {
                id: slot.id.clone(),
                sha256: slot.sha256.clone(),
            })
            .collect()
    }

    fn register(&mut self, sha256: &str, now: u64, dice: &mut Dice) -> Answer {
        let there = self.active().any(|(_, one)| one == sha256);
        if self.active().count() >= SLOTS || there && !self.doubles {
            return Answer::Refused(409);
        }
        // What nobody can trust any more is forgotten.
        let long_ago = now.saturating_sub(24 * HOUR);
        self.slots
            .retain(|slot| slot.archived.is_none_or(|archived| archived > long_ago));
        self.serial += 1;
        let id = format!("crt-{}", self.serial);
        self.slots.push(Slot {
            id: id.clone(),
            sha256: sha256.to_owned(),
            added: now,
            archived: None,
            known: [(); VERIFIERS].map(|()| now + dice.below(PROPAGATION)),
            unknown: [now; VERIFIERS],
        });
        Answer::Certificate(id)
    }

    fn archive(&mut self, id: &str, now: u64, dice: &mut Dice) -> Answer {
        let slot = self.slots.iter_mut().find(|slot| slot.id == id);
        match slot.filter(|slot| slot.archived.is_none()) {
            Some(slot) => {
                slot.archived = Some(now);
                slot.unknown = [(); VERIFIERS].map(|()| now + dice.below(PROPAGATION));
                Answer::Certificate(id.to_owned())
            }
            None => Answer::Refused(404),
        }
    }

    fn add_secret(&mut self, sha256: &str) -> Answer {
        let known = self.secrets.iter().find(|one| one.sha256 == sha256);
        if let Some(known) = known {
            return if known.archived {
                Answer::Refused(409)
            } else {
                Answer::Done
            };
        }
        if self.secrets.iter().filter(|one| !one.archived).count() >= SLOTS {
            return Answer::Refused(409);
        }
        self.serial += 1;
        let surplus = self.secrets.len().saturating_sub(16);
        self.secrets.drain(..surplus);
        self.secrets.push(Secret {
            id: format!("sec-{}", self.serial),
            sha256: sha256.to_owned(),
            archived: false,
            used: false,
        });
        Answer::Done
    }

    fn list_secrets(&self, holders: &[(String, Holder)]) -> Vec<Listed> {
        let active = self.secrets.iter().filter(|one| !one.archived);
        active
            .map(|one| Listed {
                id: one.id.clone(),
                sha256: one.sha256.clone(),
                used: one.used,
                live: holders
                    .iter()
                    .filter(|(sha256, _)| *sha256 == one.sha256)
                    .map(|(_, holder)| holder.clone())
                    .collect(),
            })
            .collect()
    }
}

/// Its first digits spread what is drawn by them.
fn value(serial: u64) -> String {
    format!("{:04x}-value-{serial}", (serial * 40_503) & 0xffff)
}
