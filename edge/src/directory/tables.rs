//! The table itself: entries by id and by domain, each with how new it is.
//!
//! Two read the database and write here: the filler, which reads everything, and whoever authenticates a
//! proxy, which reads one tunnel. Either may hold what it read while the other writes what is newer, so
//! an entry never gives way to an older one.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{Standing, TunnelEntry};

/// How new what was read is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The number of the last change that was seen, exactly: neither an earlier nor a later state.
    pub change: u64,
    /// Boot time when it was read, because some of an entry ends by itself at a time.
    pub at: Duration,
}

#[derive(Default)]
pub(super) struct Tables {
    by_id: HashMap<String, (Slot, Version)>,
    /// Domain to id.
    by_domain: HashMap<String, String>,
    /// What was here once and is not: only a restore takes tunnels away, so these are few.
    gone: HashMap<String, Version>,
}

type Slot = watch::Sender<Arc<TunnelEntry>>;

impl Tables {
    pub(super) fn slot(&self, id: &str) -> Option<&Slot> {
        self.by_id.get(id).map(|(slot, _)| slot)
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.by_id.values().map(|(slot, _)| slot)
    }

    pub(super) fn of_domain(&self, domain: &str) -> Option<Arc<TunnelEntry>> {
        let slot = self.slot(self.by_domain.get(domain)?)?;
        Some(slot.borrow().clone())
    }

    /// How new what is known about `id` is, be it that it is gone.
    pub(super) fn version(&self, id: &str) -> Option<Version> {
        let present = self.by_id.get(id).map(|(_, version)| *version);
        present.or_else(|| self.gone.get(id).copied())
    }

    /// Whether something changed by that.
    pub(super) fn put(&mut self, entry: Arc<TunnelEntry>, version: Version) -> bool {
        let (domain, id) = (entry.domain.clone(), entry.id.clone());
        self.gone.remove(&entry.id);
        if let Some((slot, known)) = self.by_id.get_mut(&entry.id) {
            *known = version;
            let before = slot.borrow().clone();
            if before.is_same(&entry) {
                return false;
            }
            if before.domain != entry.domain {
                self.by_domain.remove(&before.domain);
            }
            slot.send_replace(entry);
        } else {
            self.by_id.insert(id.clone(), (Slot::new(entry), version));
        }
        self.by_domain.insert(domain, id);
        true
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, id: &str, version: Version) -> bool {
        let Some((slot, _)) = self.by_id.remove(id) else {
            return false;
        };
        self.gone.insert(id.to_owned(), version);
        let last = slot.borrow().clone();
        self.by_domain.remove(&last.domain);
        slot.send_replace(Arc::new(TunnelEntry {
            standing: Standing::Archived,
            credentials: Vec::new(),
            ..TunnelEntry::clone(&last)
        }));
        true
    }
}
