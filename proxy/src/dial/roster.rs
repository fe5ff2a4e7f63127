//! Which connections there are to the edge, which are missing, and what that means for readiness.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::EdgeCarrier;

/// A connection that ends before this was none.
const SHORT: Duration = Duration::from_secs(2);

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
}

#[derive(Debug)]
struct Connection {
    instance: String,
    /// The edge has said which credential it stands on.
    credential: Option<String>,
    /// It will be cut, so another one is wanted in its place.
    leaving: bool,
    since: Instant,
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

    /// Instances without all their connections.
    fn missing(&self, each: usize) -> usize {
        let staying = self.staying();
        let full = staying.values().filter(|count| **count >= each).count();
        (self.instances.max(1) as usize).saturating_sub(full)
    }
}

impl Roster {
    pub(super) fn new(edge: &EdgeCarrier) -> Self {
        Self(Arc::new(Shared {
            edge: edge.host.clone(),
            each: edge.connections,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
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

    /// A place for a new connection to `instance`, which says that there are `instances`. `None`: it has
    /// all its connections.
    pub(super) fn enter(&self, instance: &str, instances: u32) -> Option<Entry> {
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
        let (missing, of) = (state.missing(self.0.each), state.instances);
        if missing > 0 {
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
pub(super) struct Entry {
    roster: Roster,
    number: u64,
}

impl Entry {
    /// It stands on a credential.
    pub(super) fn bound(&self, credential: &str) {
        self.change(|connection| {
            connection.credential = Some(credential.to_owned());
            connection.leaving = false;
        });
    }

    /// It will be cut: another one is wanted.
    pub(super) fn leaving(&self) {
        self.change(|connection| connection.leaving = true);
    }

    /// There are `count` instances.
    pub(super) fn instances(&self, count: u32) {
        self.roster.lock().instances = count;
        self.roster.0.changed.notify_waiters();
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
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn roster(each: usize) -> Roster {
        Roster(Arc::new(Shared {
            edge: "api.edge.example".to_owned(),
            each,
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    fn wants(roster: &Roster) -> bool {
        roster.wanting().now_or_never().is_some()
    }

    #[test]
    fn every_instance_gets_its_number_and_no_more() {
        let roster = roster(2);
        assert!(wants(&roster));
        let first = roster.enter("a", 1).unwrap();
        assert!(wants(&roster));
        let _second = roster.enter("a", 1).unwrap();
        assert!(!wants(&roster));
        first.instances(2);
        assert!(wants(&roster), "to the other instance");
        assert!(roster.enter("a", 2).is_none(), "exceeds the number");
        let _third = roster.enter("b", 2).unwrap();
        let _fourth = roster.enter("b", 2).unwrap();
        assert!(!wants(&roster));
        drop(first);
        assert!(wants(&roster));
    }

    #[test]
    fn a_connection_that_leaves_is_replaced_before_it_goes() {
        let roster = roster(1);
        let old = roster.enter("a", 1).unwrap();
        old.bound("one");
        assert!(!wants(&roster));
        old.leaving();
        assert!(wants(&roster));
        let _new = roster.enter("a", 1).unwrap();
        assert!(!wants(&roster));
        assert_eq!(roster.reason(), None, "the old one still serves");
    }

    #[test]
    fn it_says_what_is_missing() {
        let roster = roster(2);
        assert!(roster.failed("nobody listens"));
        assert!(!roster.failed("nobody listens"), "said already");
        let reason = roster.reason().unwrap();
        assert!(
            reason.contains("api.edge.example: nobody listens"),
            "{reason}"
        );
        let entry = roster.enter("a", 2).unwrap();
        assert!(roster.reason().is_some(), "not bound yet");
        entry.bound("one");
        assert_eq!(roster.reason(), None);
        let notes = roster.notes();
        assert!(notes[0].contains("instance a: 1 of 2"), "{notes:?}");
        assert!(notes[1].contains("2 of 2 instances"), "{notes:?}");
    }
}
