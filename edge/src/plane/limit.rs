//! How often who may ask. Every limit is asked before anything costly: a signature, a digest, the
//! database.

use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use super::answer::Failed;
use crate::buckets::Buckets;
pub use crate::buckets::Rate;
use crate::source::network;

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
        taken(&self.requests, network(source), now)
    }

    pub(super) fn exchange(&self, source: IpAddr, now: Duration) -> Result<(), Failed> {
        taken(&self.exchanges, network(source), now)
    }

    pub(super) fn rule(&self, rule: &str, now: Duration) -> Result<(), Failed> {
        taken(&self.rules, rule.to_owned(), now)
    }

    /// Whether a source that failed too often may try again; takes nothing.
    pub(super) fn authentication(&self, source: IpAddr, now: Duration) -> Result<(), Failed> {
        if self.failures.peek(&network(source), now) {
            Ok(())
        } else {
            Err(too_often(self.failures.rate()))
        }
    }

    /// Counts a failure.
    pub(super) fn failure(&self, source: IpAddr, now: Duration) {
        let _ = self.failures.take(network(source), now);
    }

    /// Whether one more refusal is written down.
    pub(super) fn audit(&self, now: Duration) -> bool {
        self.audited.take((), now)
    }
}

fn taken<K: Eq + Hash>(buckets: &Buckets<K>, key: K, now: Duration) -> Result<(), Failed> {
    if buckets.take(key, now) {
        Ok(())
    } else {
        Err(too_often(buckets.rate()))
    }
}

fn too_often(rate: Rate) -> Failed {
    Failed::too_often(u64::from(60_u32.div_ceil(rate.per_minute.max(1))))
}
