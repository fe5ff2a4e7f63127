//! Connections that have not said yet what they want, oldest first: of too many the oldest goes, so that
//! whoever says nothing harms nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// Those that wait. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Pending(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self(Arc::new(Shared {
            limit,
            state: Mutex::default(),
        }))
    }

    /// A place; of too many the oldest is told to go.
    pub(super) fn wait(&self) -> Waiting {
        let evicted = CancellationToken::new();
        let mut state = self.lock();
        state.next += 1;
        let number = state.next;
        state.waiting.insert(number, evicted.clone());
        if state.waiting.len() > self.0.limit
            && let Some((_, oldest)) = state.waiting.pop_first()
        {
            oldest.cancel();
        }
        drop(state);
        Waiting {
            pending: self.clone(),
            number,
            evicted,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place among those that wait, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    pending: Pending,
    number: u64,
    evicted: CancellationToken,
}

impl Waiting {
    /// Resolves when this one has to go.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pending.lock().waiting.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_the_oldest_has_to_go_and_one_that_has_spoken_makes_room() {
        let pending = Pending::new(2);
        let [first, second, third] = [(); 3].map(|()| pending.wait());
        let gone = |one: &Waiting| one.evicted.is_cancelled();
        assert!(gone(&first) && !gone(&second) && !gone(&third));
        drop(second);
        let fourth = pending.wait();
        assert!(!gone(&third) && !gone(&fourth));
        drop((first, third, fourth));
        assert!(pending.lock().waiting.is_empty());
    }
}
