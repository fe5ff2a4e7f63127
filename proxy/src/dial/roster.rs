//! Which connections there are to the edge, which are missing, and what that means for readiness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::Secret;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{EdgeCarrier, SecretSource};

/// A connection that ends before this was none.
const SHORT: Duration = Duration::from_secs(2);
/// Connections in excess stay for so long: instances hear of each other one after the other.
const SETTLE: Duration = Duration::from_secs(5);

/// The connections to one edge. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Roster(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// As the configuration calls it.
    edge: String,
    /// Connections that are wanted to each instance.
    each: usize,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    connections: BTreeMap<u64, Connection>,
    /// How many instances the edge says there are; zero: it has said nothing.
    instances: u32,
    /// Why the last attempt failed; empty: it did not.
    error: String,
    /// A connection has ended soon after it was made.
    short_lived: bool,
    /// Nobody has said with which secret to dial.
    unfed: bool,
    /// What the edge refused last, unless it took it later.
    refused: Option<Arc<Secret>>,
}

#[derive(Debug)]
struct Connection {
    instance: String,
    /// What it stands on, since the edge has said so.
    credential: Option<Arc<Secret>>,
    /// It will be cut, so another one is wanted in its place.
    leaving: bool,
    since: Instant,
    /// When the edge last said how many instances there are.
    heard: Instant,
    /// Cancelled when it is one too many.
    surplus: CancellationToken,
}

impl State {
    /// Connections that stay, by instance.
    fn staying(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for connection in self.connections.values().filter(|one| !one.leaving) {
            *counts.entry(&*connection.instance).or_default() += 1;
        }
        counts
    }

    fn bound(&self) -> usize {
        let all = self.connections.values();
        all.filter(|one| one.credential.is_some()).count()
    }

    /// Connections in excess, by number: those beyond `each` to an instance, and all to instances beyond as many
    /// as there are. What an instance said last counts most: one that is gone says nothing.
    fn surplus(&self, each: usize) -> Vec<u64> {
        let mut instances: BTreeMap<&str, (Instant, Vec<u64>)> = BTreeMap::new();
        for (number, connection) in self.connections.iter().filter(|(_, one)| !one.leaving) {
            let entry = instances.entry(&connection.instance);
            let (heard, numbers) = entry.or_insert((connection.heard, Vec::new()));
            *heard = connection.heard.max(*heard);
            numbers.push(*number);
        }
        let mut instances: Vec<_> = instances.into_values().collect();
        instances.sort_by_key(|(heard, _)| std::cmp::Reverse(*heard));
        let count = self.instances.max(1) as usize;
        let surplus = instances
            .into_iter()
            .enumerate()
            .flat_map(|(at, (_, numbers))| {
                let stay = if at < count { each } else { 0 };
                numbers.into_iter().skip(stay)
            });
        surplus.collect()
    }

    /// Whether all that there is stands on `secret`, or the edge has refused it; `None`: neither. What an edge said
    /// to a dial is of no matter any more when there is nothing to dial for.
    fn verdict(&self, secret: &Secret, each: usize) -> Option<bool> {
        let mut all = self.connections.values();
        let stand = !self.connections.is_empty()
            && all.all(|one| one.credential.as_deref() == Some(secret));
        let refused = self.refused.as_deref() == Some(secret);
        if refused && !(stand && self.missing(each) == 0) {
            return Some(false);
        }
        stand.then_some(true)
    }

    /// Instances without all their connections.
    fn missing(&self, each: usize) -> usize {
        let staying = self.staying();
        let full = staying.values().filter(|count| **count >= each).count();
        (self.instances.max(1) as usize).saturating_sub(full)
    }
}

impl Roster {
    pub(crate) fn new(edge: &EdgeCarrier) -> Self {
        Self(Arc::new(Shared {
            edge: edge.host.clone(),
            each: edge.connections,
            state: Mutex::new(State {
                unfed: matches!(edge.secret, SecretSource::Daemon(_)),
                ..State::default()
            }),
            changed: Notify::new(),
        }))
    }

    /// There is a secret to dial with.
    pub(super) fn fed(&self, secret: &Arc<Secret>) {
        let mut state = self.lock();
        state.unfed = false;
        state.refused.take_if(|refused| refused != secret);
    }

    /// The edge has refused `secret`, where a connection presented it or a new one was made with it.
    pub(crate) fn refused(&self, secret: Arc<Secret>) {
        self.lock().refused = Some(secret);
        self.0.changed.notify_waiters();
    }

    /// As [`Pushed::judged`](super::Pushed::judged).
    pub(super) async fn judged(&self, secret: &Secret, said: Option<bool>) -> bool {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let verdict = self.lock().verdict(secret, self.0.each);
            match verdict {
                Some(verdict) if said != Some(verdict) => return verdict,
                _ => changed.await,
            }
        }
    }

    /// Resolves while a connection is missing.
    pub(super) async fn wanting(&self) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.lock().missing(self.0.each) > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Tells connections that are in excess for a while to go, until it is dropped.
    pub(super) async fn trim(&self) {
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            if self.lock().surplus(self.0.each).is_empty() {
                changed.await;
                continue;
            }
            tokio::time::sleep(SETTLE).await;
            let mut state = self.lock();
            for number in state.surplus(self.0.each) {
                if let Some(connection) = state.connections.get_mut(&number) {
                    connection.leaving = true;
                    connection.surplus.cancel();
                }
            }
        }
    }

    /// A place for a new connection to `instance`, which says that there are `instances`. `None`: it has
    /// all its connections.
    pub(crate) fn enter(&self, instance: &str, instances: u32) -> Option<Entry> {
        let mut state = self.lock();
        state.instances = instances;
        if state.staying().get(instance).copied().unwrap_or_default() >= self.0.each {
            return None;
        }
        state.error.clear();
        state.next += 1;
        let number = state.next;
        let connection = Connection {
            instance: instance.to_owned(),
            credential: None,
            leaving: false,
            since: Instant::now(),
            heard: Instant::now(),
            surplus: CancellationToken::new(),
        };
        state.connections.insert(number, connection);
        Some(Entry {
            roster: self.clone(),
            number,
        })
    }

    /// Notes a failure; whether it is another one than before.
    pub(super) fn failed(&self, error: &str) -> bool {
        let mut state = self.lock();
        let news = state.error != error;
        error.clone_into(&mut state.error);
        news
    }

    /// Whether a connection has ended soon after it was made, since this was last asked.
    pub(super) fn take_short_lived(&self) -> bool {
        std::mem::take(&mut self.lock().short_lived)
    }

    /// Whether the edge has bound a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().bound() > 0
    }

    /// Why nothing can come in by this carrier; `None`: something can.
    pub(crate) fn reason(&self) -> Option<String> {
        let state = self.lock();
        if state.bound() > 0 {
            return None;
        }
        if state.unfed {
            return Some("carrier edge: no secret yet".to_owned());
        }
        let (edge, error) = (&self.0.edge, &state.error);
        Some(match error.as_str() {
            "" => format!("carrier edge: no connection to {edge} yet"),
            error => format!("carrier edge: no connection to {edge}: {error}"),
        })
    }

    /// What is up and what is missing, a line each.
    pub(crate) fn notes(&self) -> Vec<String> {
        let state = self.lock();
        let mut notes: Vec<_> = state
            .staying()
            .into_iter()
            .map(|(instance, count)| {
                let each = self.0.each;
                format!("carrier edge: instance {instance}: {count} of {each} connections")
            })
            .collect();
        let missing = state.missing(self.0.each);
        if missing > 0 {
            // Before the first answer nobody has said how many there are.
            let of = state.instances.max(1);
            notes.push(format!(
                "carrier edge: {missing} of {of} instances want connections"
            ));
        }
        notes
    }

    /// Connections that the edge has bound.
    pub(crate) fn connections(&self) -> usize {
        self.lock().bound()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Entry {
    roster: Roster,
    number: u64,
}

impl Entry {
    /// It stands on `secret`.
    pub(crate) fn bound(&self, secret: &Arc<Secret>) {
        let mut state = self.roster.lock();
        state.refused.take_if(|refused| refused == secret);
        drop(state);
        self.change(|connection| {
            connection.credential = Some(Arc::clone(secret));
            connection.leaving = connection.surplus.is_cancelled();
        });
    }

    /// It will be cut: another one is wanted.
    pub(super) fn leaving(&self) {
        self.change(|connection| connection.leaving = true);
    }

    /// There are `count` instances.
    pub(super) fn instances(&self, count: u32) {
        self.roster.lock().instances = count;
        self.change(|connection| connection.heard = Instant::now());
    }

    /// Resolves when it is one too many: it takes nothing new, and what runs on it may end.
    pub(super) fn surplus(&self) -> CancellationToken {
        let state = self.roster.lock();
        let own = state.connections.get(&self.number);
        own.map(|connection| connection.surplus.clone())
            .unwrap_or_default()
    }

    fn change(&self, change: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.roster.lock().connections.get_mut(&self.number) {
            change(connection);
        }
        self.roster.0.changed.notify_waiters();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.roster.lock();
        let ended = state.connections.remove(&self.number);
        state.short_lived |= ended.is_some_and(|one| one.since.elapsed() < SHORT);
        drop(state);
        self.roster.0.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
