//! What proxies and connectors have and do.

use std::collections::{BTreeMap, BTreeSet};

use control::Reason;

use super::process::{Credential, Subscriber};
use super::time::HOUR;

/// A proxy, or a connector.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named where it is kept"
)]
pub(super) struct Replica {
    pub(super) name: String,
    pub(super) is_connector: bool,
    pub(super) alive: bool,
    /// Its subscription stands.
    pub(super) linked: bool,
    /// When the last one began.
    pub(super) since: u64,
    /// When the last one ended.
    pub(super) unlinked: u64,
    /// Until when it does not reach the daemon.
    pub(super) away: u64,
    /// Whether there was one in this life.
    pub(super) known: bool,
    /// It was sent what is in force since it started.
    pub(super) fresh: bool,
    pub(super) credential: Option<Credential>,
    /// Generation and value of what it dials with.
    pub(super) told: Option<(u64, String)>,
    /// What its connection was opened with; `None`: there is none.
    pub(super) bound: Option<String>,
    /// Handshakes by CA, in this life.
    pub(super) handshakes: BTreeMap<String, u64>,
    /// CAs under which it was called, ever.
    pub(super) used: BTreeSet<String>,
}

impl Replica {
    pub(super) fn new(name: String, is_connector: bool) -> Self {
        Self {
            name,
            is_connector,
            alive: true,
            ..Self::default()
        }
    }

    /// Whether the daemon has to count with it.
    pub(super) fn is_in_service(&self, now: u64) -> bool {
        self.alive && self.known && (self.linked || now < self.unlinked + HOUR)
    }

    /// Ends; `files`: what it finds when it starts again.
    pub(super) fn end(&mut self, files: Option<Credential>) {
        self.alive = false;
        self.linked = false;
        self.known = false;
        self.fresh = false;
        self.told = None;
        self.bound = None;
        self.handshakes.clear();
        if !self.is_connector {
            self.credential = files;
        }
    }

    /// Takes the credential that it was sent, by its own clock.
    pub(super) fn take(&mut self, sent: &Credential, clock: u64) -> Result<(), (u64, Reason)> {
        let leaf = &sent.leaf;
        if clock < leaf.not_before {
            return Err((sent.generation, Reason::NotYetValid));
        }
        if clock > leaf.not_after {
            return Err((sent.generation, Reason::Expired));
        }
        let own = self.credential.as_ref().map_or(0, |one| one.generation);
        if own > sent.generation {
            return Err((sent.generation, Reason::Stale));
        }
        self.credential = Some(sent.clone());
        Ok(())
    }

    /// As it is shown when it comes.
    pub(super) fn introduce(&self, wall: u64) -> Subscriber {
        Subscriber {
            is_connector: self.is_connector,
            connected: true,
            last_heard: wall,
            serves: self.credential.as_ref().map_or(0, |one| one.generation),
            handshakes: self.handshakes.clone(),
            ..Subscriber::default()
        }
    }
}
