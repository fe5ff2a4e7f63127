//! How often who may ask. Every limit is asked before anything costly: a signature, a digest, the
//! database.

use std::hash::Hash;
use std::net::IpAddr;
use std::time::Duration;

use super::answer::Failed;
use super::share::Shares;
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
    /// Token exchanges under a rule: so many each for sources that bought something under it lately, for
    /// those of which nothing is known, and for the others.
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
    rules: Shares,
    failures: Buckets<IpAddr>,
    audited: Buckets<()>,
}

impl RateLimits {
    pub(super) fn new(rates: Rates) -> Self {
        Self {
            requests: Buckets::new(rates.requests),
            exchanges: Buckets::new(rates.exchanges),
            rules: Shares::new(rates.rule),
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

    pub(super) fn rule(&self, rule: &str, source: IpAddr, now: Duration) -> Result<(), Failed> {
        if self.rules.take(rule, network(source), now) {
            Ok(())
        } else {
            Err(too_often(self.rules.rate()))
        }
    }

    /// What a source buys makes it known to the rule.
    pub(super) fn bought(&self, rule: &str, source: IpAddr, now: Duration) {
        self.rules.bought(rule, network(source), now);
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
