//! What outlives the daemon's process: journal, custody and store, and what a power loss takes of them.

use std::collections::{BTreeMap, BTreeSet};

use daemon::rotation::authority::{self, Ca};
use daemon::rotation::{Leaf, server_certificate, shared_secret, tunnel_token};

use super::dice::Dice;

/// An order, until it is carried out.
#[derive(Clone, Debug)]
pub(super) struct Ordered {
    pub(super) taken: u64,
    /// A clock gave it.
    pub(super) scheduled: bool,
    pub(super) rotation: Option<String>,
}

impl Ordered {
    pub(super) fn is_waiting(&self) -> bool {
        self.rotation.is_none()
    }
}

/// Orders, and when the next is due by a clock.
#[derive(Clone, Debug, Default)]
pub(super) struct Orders {
    pub(super) ca: Option<Ordered>,
    pub(super) token: Option<Ordered>,
    pub(super) secret: Option<Ordered>,
    pub(super) token_due: Option<u64>,
    pub(super) secret_due: Option<u64>,
}

/// When a record was written, and in which boot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) wall: u64,
    pub(super) boot: u64,
    pub(super) boot_id: u32,
}

/// The last record of each kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    pub(super) leaf: server_certificate::State,
    pub(super) ca: authority::State,
    pub(super) token: tunnel_token::State,
    pub(super) secret: shared_secret::State,
    pub(super) orders: Orders,
    pub(super) newest: Option<Written>,
    /// When issues began that count, since boot.
    pub(super) issues: Vec<u64>,
}

/// A blob in custody.
#[derive(Clone, Debug)]
pub(super) enum Blob {
    /// Of a server certificate.
    LeafKey,
    /// With its key.
    Certificate(Leaf),
    /// Certificate and key.
    Ca(Ca),
    /// Its digest.
    Secret(String),
}

/// The state directory and the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// As the next process finds it.
    pub(super) journal: Records,
    /// As it is when the power fails, if that is something else.
    synced: Option<Box<Records>>,
    custody: BTreeMap<String, Blob>,
    unsettled: BTreeSet<String>,
    /// The token in the store.
    pub(super) token: Option<String>,
}

impl Disk {
    /// Changes the journal; durable.
    pub(super) fn record(&mut self, change: impl FnOnce(&mut Records)) {
        change(&mut self.journal);
        self.synced = None;
    }

    /// Changes the journal; a power loss may take it back.
    pub(super) fn note(&mut self, change: impl FnOnce(&mut Records)) {
        if self.synced.is_none() {
            self.synced = Some(Box::new(self.journal.clone()));
        }
        change(&mut self.journal);
    }

    /// The records that outlive a power loss for sure.
    pub(super) fn durable(&self) -> &Records {
        self.synced.as_deref().unwrap_or(&self.journal)
    }

    pub(super) fn put(&mut self, name: String, blob: Blob) {
        self.unsettled.insert(name.clone());
        self.custody.insert(name, blob);
    }

    pub(super) fn settle(&mut self, names: &[String]) {
        for name in names {
            self.unsettled.remove(name);
        }
    }

    pub(super) fn destroy(&mut self, name: &str) {
        self.custody.remove(name);
        self.unsettled.remove(name);
    }

    pub(super) fn read(&self, name: &str) -> Option<&Blob> {
        self.custody.get(name)
    }

    /// Whether it is there and stays there.
    pub(super) fn has_durable(&self, name: &str) -> bool {
        self.custody.contains_key(name) && !self.unsettled.contains(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.custody.contains_key(name)
    }

    pub(super) fn certificate(&self, id: &str) -> Option<&Leaf> {
        match self.custody.get(&certificate(id)) {
            Some(Blob::Certificate(leaf)) if self.has(&leaf_key(id)) => Some(leaf),
            _ => None,
        }
    }

    /// Removes server certificates that no record names.
    pub(super) fn clear(&mut self, named: &[&str]) {
        let is_named = |name: &str| {
            let leaf = name.strip_prefix("leaf-").or(name.strip_prefix("crt-"));
            leaf.is_none_or(|id| named.contains(&id))
        };
        self.custody.retain(|name, _| is_named(name));
        self.unsettled.retain(|name| is_named(name));
    }

    /// What was not synced may be gone.
    pub(super) fn lose_power(&mut self, dice: &mut Dice) {
        if let Some(synced) = self.synced.take()
            && dice.one_in(2)
        {
            self.journal = *synced;
        }
        for name in std::mem::take(&mut self.unsettled) {
            if dice.one_in(2) {
                self.custody.remove(&name);
            }
        }
    }
}

pub(super) fn leaf_key(id: &str) -> String {
    format!("leaf-{id}")
}

pub(super) fn certificate(id: &str) -> String {
    format!("crt-{id}")
}

pub(super) fn ca(id: &str) -> String {
    format!("ca-{id}")
}

pub(super) fn secret(id: &str) -> String {
    format!("secret-{id}")
}
