//! How often who may ask. Every limit is asked before anything costly: a signature, a digest, the
//! database.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::answer::Failed;
use crate::source::network;

/// Most sources that are told apart; those beyond share one place.
const MOST: usize = 50_000;

/// So many at once, and then so many a minute.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// At once.
    pub burst: u32,
    /// Each minute.
    pub per_minute: u32,
}

/// The limits. A source is an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Requests of a source.
    pub requests: Rate,
    /// Token exchanges of a source.
    pub exchanges: Rate,
    /// Token exchanges under a rule, from everywhere.
    pub rule: Rate,
    /// Requests of a source with a token that proves nothing.
    pub failures: Rate,
    /// Refusals that are written into the audit log, from everywhere.
    pub audited: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |burst, per_minute| Rate { burst, per_minute };
        Self {
            requests: rate(600, 1200),
            exchanges: rate(60, 60),
            rule: rate(120, 240),
            failures: rate(20, 20),
            audited: rate(200, 120),
        }
    }
}

/// The state of all limits.
#[derive(Debug)]
pub(super) struct RateLimits {
    requests: Buckets<IpAddr>,
    exchanges: Buckets<IpAddr>,
    rules: Buckets<String>,
    failures: Buckets<IpAddr>,
    audited: Buckets<()>,
}

impl RateLimits {
    pub(super) fn new(rates: Rates) -> Self {
        Self {
            requests: Buckets::new(rates.requests),
            exchanges: Buckets::new(rates.exchanges),
            rules: Buckets::new(rates.rule),
            failures: Buckets::new(rates.failures),
            audited: Buckets::new(rates.audited),
        }
    }

    pub(super) fn request(&self, source: IpAddr, now: Duration) -> Result<(), Failed> {
        self.requests.take(network(source), now)
    }

    pub(super) fn exchange(&self, source: IpAddr, now: Duration) -> Result<(), Failed> {
        self.exchanges.take(network(source), now)
    }

    pub(super) fn rule(&self, rule: &str, now: Duration) -> Result<(), Failed> {
        self.rules.take(rule.to_owned(), now)
    }

    /// Whether a source that failed too often may try again; takes nothing.
    pub(super) fn authentication(&self, source: IpAddr, now: Duration) -> Result<(), Failed> {
        self.failures.peek(&network(source), now)
    }

    /// Counts a failure.
    pub(super) fn failure(&self, source: IpAddr, now: Duration) {
        let _ = self.failures.take(network(source), now);
    }

    /// Whether one more refusal is written down.
    pub(super) fn audit(&self, now: Duration) -> bool {
        self.audited.take((), now).is_ok()
    }
}

/// Token buckets, one a key.
#[derive(Debug)]
struct Buckets<K> {
    rate: Rate,
    levels: Mutex<Levels<K>>,
}

#[derive(Debug)]
struct Levels<K> {
    known: HashMap<K, Level>,
    rest: Level,
}

#[derive(Clone, Copy, Debug)]
struct Level {
    tokens: f64,
    at: Duration,
}

impl<K: Eq + Hash> Buckets<K> {
    fn new(rate: Rate) -> Self {
        let rest = Level {
            tokens: f64::from(rate.burst),
            at: Duration::ZERO,
        };
        Self {
            rate,
            levels: Mutex::new(Levels {
                known: HashMap::new(),
                rest,
            }),
        }
    }

    fn take(&self, key: K, now: Duration) -> Result<(), Failed> {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        if levels.known.len() >= MOST && !levels.known.contains_key(&key) {
            // Full ones say nothing that a new one would not.
            levels
                .known
                .retain(|_, level| self.refilled(*level, now) < f64::from(self.rate.burst));
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
        if taken { Ok(()) } else { Err(self.too_often()) }
    }

    fn peek(&self, key: &K, now: Duration) -> Result<(), Failed> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        match levels.known.get(key) {
            Some(level) if self.refilled(*level, now) < 1.0 => Err(self.too_often()),
            _ => Ok(()),
        }
    }

    fn refilled(&self, level: Level, now: Duration) -> f64 {
        let passed = now.saturating_sub(level.at).as_secs_f64();
        let gained = passed * f64::from(self.rate.per_minute) / 60.0;
        (level.tokens + gained).min(f64::from(self.rate.burst))
    }

    fn too_often(&self) -> Failed {
        Failed::too_often(u64::from(60_u32.div_ceil(self.rate.per_minute.max(1))))
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
        assert!(buckets.take(1, at(0)).is_ok() && buckets.take(1, at(0)).is_ok());
        assert!(buckets.take(1, at(500)).is_err());
        assert!(buckets.take(2, at(500)).is_ok(), "another has its own");
        assert!(buckets.take(1, at(1001)).is_ok());
        assert!(buckets.take(1, at(1002)).is_err());
    }

    #[test]
    fn more_sources_than_can_be_told_apart_share_one_place() {
        let buckets = Buckets::new(Rate {
            burst: 1,
            per_minute: 1,
        });
        for source in 0..MOST {
            assert!(buckets.take(source, Duration::ZERO).is_ok());
        }
        assert!(buckets.take(MOST, Duration::ZERO).is_ok());
        assert!(buckets.take(MOST + 1, Duration::ZERO).is_err());
        assert_eq!(buckets.levels.lock().unwrap().known.len(), MOST);
        assert!(buckets.take(MOST + 2, Duration::from_secs(60)).is_ok());
        assert_eq!(buckets.levels.lock().unwrap().known.len(), 1);
    }
}
