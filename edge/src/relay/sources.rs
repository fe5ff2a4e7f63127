//! How many sockets one source has open, so that none can take them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::quota::Key;

/// Sources with open sockets. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sources(Arc<Mutex<HashMap<Key, u64>>>);

impl Sources {
    /// A place for one more socket of `source`, held until it is dropped. `None`: it has `most` already.
    pub(super) fn enter(&self, source: Key, most: u64) -> Option<Open> {
        let mut known = self.lock();
        let open = known.entry(source.clone()).or_default();
        if *open >= most {
            return None;
        }
        *open += 1;
        drop(known);
        Some(Open {
            sources: self.clone(),
            source,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket that counts.
#[derive(Debug)]
pub(super) struct Open {
    sources: Sources,
    source: Key,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut known = self.sources.lock();
        if let Some(open) = known.get_mut(&self.source) {
            *open -= 1;
            if *open == 0 {
                known.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_gets_so_many_and_is_forgotten_with_its_last() {
        let sources = Sources::default();
        let key = |text: &str| Key::of(text.parse().unwrap());
        let held: Vec<_> = (0..3)
            .map_while(|_| sources.enter(key("2001:db8::1"), 2))
            .collect();
        assert_eq!(held.len(), 2);
        assert!(
            sources.enter(key("2001:db8::2"), 2).is_none(),
            "of the same network"
        );
        assert!(sources.enter(key("192.0.2.1"), 2).is_some(), "another");
        drop(held);
        assert!(sources.lock().is_empty());
    }
}
