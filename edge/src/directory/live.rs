//! Who is connected, by credential: what `GET …/secrets` shows as `live` and `last_used`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::Notify;

use super::Bound;

/// One live connection of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveConnection {
    /// What it stands on now.
    pub bound: Bound,
    /// As the proxy calls itself.
    pub replica: String,
    /// Where it comes from.
    pub address: SocketAddr,
    /// When it was made.
    pub since: SystemTime,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Lives(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: HashMap<u64, LiveConnection>,
    used: HashMap<String, SystemTime>,
}

impl Lives {
    pub(super) fn hold(
        &self,
        bound: Bound,
        replica: String,
        address: SocketAddr,
        since: SystemTime,
    ) -> Live {
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        let connection = LiveConnection {
            bound,
            replica,
            address,
            since,
        };
        state.connections.insert(number, connection);
        Live {
            lives: self.clone(),
            number,
        }
    }

    pub(super) fn of(&self, credential: &str) -> Vec<LiveConnection> {
        let state = self.lock();
        let all = state.connections.values();
        all.filter(|live| live.bound.credential == credential)
            .cloned()
            .collect()
    }

    pub(super) fn all(&self) -> Vec<LiveConnection> {
        self.lock().connections.values().cloned().collect()
    }

    pub(super) fn used(&self, credential: &str, now: SystemTime) {
        self.lock().used.insert(credential.to_owned(), now);
    }

    pub(super) fn take_used(&self) -> HashMap<String, SystemTime> {
        std::mem::take(&mut self.lock().used)
    }

    /// Whether every connection is bound to what `known` takes.
    pub(super) fn is_settled(&self, known: impl Fn(&Bound) -> bool) -> bool {
        let state = self.lock();
        state.connections.values().all(|live| known(&live.bound))
    }

    /// Resolves once it is so.
    pub(super) async fn settled(&self, known: impl Fn(&Bound) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.is_settled(&known) {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts as live until this is dropped.
#[derive(Debug)]
pub struct Live {
    lives: Lives,
    number: u64,
}

impl Live {
    /// It stands on another credential of the same tunnel from now on.
    pub fn rebind(&self, bound: Bound) {
        if let Some(live) = self.lives.lock().connections.get_mut(&self.number) {
            live.bound = bound;
        }
        self.lives.0.changed.notify_waiters();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.lives.lock().connections.remove(&self.number);
        self.lives.0.changed.notify_waiters();
    }
}
