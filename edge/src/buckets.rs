//! Token buckets: so many at once, and then so many a minute, for each of many keys.
//!
//! What a bucket is asked for is decided elsewhere, and so is what becomes of whoever finds it empty.
//! `now` is any time that only grows.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Most keys that are told apart; those beyond share one place.
const MOST: usize = 50_000;
/// Where all places are taken, full buckets are looked for so often at most: it costs a look at each.
const SWEEP: Duration = Duration::from_secs(1);

/// So many at once, and then so many a minute.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Each minute.
    pub per_minute: u32,
}

/// Token buckets, one a key.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: Rate,
    levels: Mutex<Levels<K>>,
}

#[derive(Debug)]
struct Levels<K> {
    known: HashMap<K, Level>,
    rest: Level,
    swept: Option<Duration>,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Duration,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(rate: Rate) -> Self {
        let rest = Level {
            tokens: f64::from(rate.burst),
            at: Duration::ZERO,
        };
        Self {
            rate,
            levels: Mutex::new(Levels {
                known: HashMap::new(),
                rest,
                swept: None,
            }),
        }
    }

    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// Takes one; `false`: there is none.
    pub(crate) fn take(&self, key: K, now: Duration) -> bool {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let swept = levels.swept.map(|swept| now.saturating_sub(swept));
        if levels.known.len() >= MOST
            && swept.is_none_or(|since| since >= SWEEP)
            && !levels.known.contains_key(&key)
        {
            // Full ones say nothing that a new one would not.
            levels
                .known
                .retain(|_, level| self.refilled(*level, now) < f64::from(self.rate.burst));
            levels.swept = Some(now);
        }
        let crowded = levels.known.len() >= MOST && !levels.known.contains_key(&key);
        let level = if crowded {
            &mut levels.rest
        } else {
            levels.known.entry(key).or_insert(Level {
                tokens: f64::from(self.rate.burst),
                at: now,
            })
        };
        let tokens = self.refilled(*level, now);
        let taken = tokens >= 1.0;
        *level = Level {
            tokens: if taken { tokens - 1.0 } else { tokens },
            at: now,
        };
        taken
    }

    /// Whether there is one; takes nothing.
    pub(crate) fn peek(&self, key: &K, now: Duration) -> bool {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let level = levels.known.get(key);
        level.is_none_or(|level| self.refilled(*level, now) >= 1.0)
    }

    fn refilled(&self, level: Level, now: Duration) -> f64 {
        let passed = now.saturating_sub(level.at).as_secs_f64();
        let gained = passed * f64::from(self.rate.per_minute) / 60.0;
        (level.tokens + gained).min(f64::from(self.rate.burst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills_again() {
        let buckets = Buckets::new(Rate {
            burst: 2,
            per_minute: 60,
        });
        let at = Duration::from_millis;
        assert!(buckets.take(1, at(0)) && buckets.take(1, at(0)));
        assert!(!buckets.take(1, at(500)));
        assert!(buckets.take(2, at(500)), "another has its own");
        assert!(buckets.take(1, at(1001)));
        assert!(!buckets.take(1, at(1002)));
    }

    #[test]
    fn more_keys_than_can_be_told_apart_share_one_place() {
        let buckets = Buckets::new(Rate {
            burst: 1,
            per_minute: 1,
        });
        for source in 0..MOST {
            assert!(buckets.take(source, Duration::ZERO));
        }
        assert!(buckets.take(MOST, Duration::ZERO));
        assert!(!buckets.take(MOST + 1, Duration::ZERO));
        assert_eq!(buckets.levels.lock().unwrap().known.len(), MOST);
        assert!(buckets.take(MOST + 2, Duration::from_secs(60)));
        assert_eq!(buckets.levels.lock().unwrap().known.len(), 1);
    }
}
