//! What the proxy counts, and the page on which it is read.
//!
//! Names follow `rotation.md` 5.8 with the prefix `keyward_`. Nothing here decides anything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use process::Clock;
use process::metrics::{Counter, Exposition, Gauge};
use tokio::time::Instant;

use crate::credential::{Credentials, seconds_left};

/// Counters of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    /// Established connections.
    pub(crate) connections: Gauge,
    /// Sockets that a listener accepted.
    pub(crate) accepted: Counter,
    /// Connections refused because there are too many.
    pub(crate) refused: Counter,
    /// Handshakes ended because too many were pending.
    pub(crate) evicted: Counter,
    /// Handshakes that completed.
    pub(crate) handshakes: Counter,
    /// Handshakes completed by resuming a session.
    pub(crate) resumed: Counter,
    /// Connections of denied client certificates.
    pub(crate) denied: Counter,
    failures: Mutex<Failures>,
}

/// Failed handshakes by label and CA of the certificate that was shown.
#[derive(Debug, Default)]
struct Failures {
    counts: BTreeMap<(&'static str, Arc<str>), u64>,
    /// Those with counts of their own, the one that failed last at the end.
    cas: VecDeque<Arc<str>>,
}

impl Failures {
    /// CAs with counts of their own: those in force, of sixteen tunnels that change theirs, and the last
    /// few of fewer. What came of the others is counted together.
    const CAS: usize = 32;
    const OTHERS: &str = "other";

    fn count(&mut self, label: &'static str, ca: Arc<str>) {
        *self.counts.entry((label, ca.clone())).or_default() += 1;
        if ca.is_empty() || self.cas.back() == Some(&ca) {
            return;
        }
        self.cas.retain(|known| *known != ca);
        self.cas.push_back(ca);
        if self.cas.len() <= Self::CAS {
            return;
        }
        let Some(oldest) = self.cas.pop_front() else {
            return;
        };
        let others: Arc<str> = Self::OTHERS.into();
        let of_oldest = |(_, ca): &(&'static str, Arc<str>)| *ca == oldest;
        let labels: Vec<_> = self
            .counts
            .keys()
            .filter(|key| of_oldest(key))
            .cloned()
            .collect();
        for key in labels {
            let count = self.counts.remove(&key).unwrap_or_default();
            *self.counts.entry((key.0, others.clone())).or_default() += count;
        }
    }
}

impl Telemetry {
    /// Counts a failed handshake under its label and the CA of the certificate that was shown.
    pub(crate) fn failed(&self, label: &'static str, ca: Arc<str>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.count(label, ca);
    }

    /// Adds everything to `page`.
    pub(crate) fn page(&self, page: &mut Exposition, credentials: &Credentials, clock: &dyn Clock) {
        process::metrics::build_info(page);
        serving(page, credentials, clock);
        let counters = [
            (
                "keyward_accepted_total",
                "Sockets accepted.",
                &self.accepted,
            ),
            (
                "keyward_refused_total",
                "Connections refused: too many.",
                &self.refused,
            ),
            (
                "keyward_evicted_total",
                "Handshakes ended: too many pending.",
                &self.evicted,
            ),
            (
                "keyward_handshakes_total",
                "Handshakes completed.",
                &self.handshakes,
            ),
            (
                "keyward_resumed_total",
                "Handshakes that resumed a session.",
                &self.resumed,
            ),
            (
                "keyward_denied_total",
                "Connections of denied client certificates.",
                &self.denied,
            ),
        ];
        for (name, help, counter) in counters {
            page.family(name, "counter", help);
            page.sample(name, &[], counter.get());
        }
        page.family("keyward_connections", "gauge", "Established connections.");
        page.sample("keyward_connections", &[], self.connections.get());
        let name = "keyward_handshake_alerts_total";
        page.family(
            name,
            "counter",
            "Failed handshakes by alert received, io, timeout, evicted or other.",
        );
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        for ((alert, ca), count) in &failures.counts {
            page.sample(name, &[("alert", alert), ("ca", ca)], count);
        }
    }
}

/// What is served now: the credential that a handshake gets, not one that was published (F14).
fn serving(page: &mut Exposition, credentials: &Credentials, clock: &dyn Clock) {
    let current = credentials.current();
    let now = clock.wall();
    let labels = |tunnel| {
        [
            ("kind", "server-certificate"),
            ("where", "served"),
            ("tunnel", tunnel),
        ]
    };
    let name = "keyward_cred_expiry_seconds";
    page.family(name, "gauge", "Seconds until the credential expires.");
    for serving in current.iter() {
        let left = seconds_left(serving.leaf.not_after, now);
        page.sample(name, &labels(&*serving.tunnel.name), left);
    }
    let name = "keyward_cred_generation";
    page.family(name, "gauge", "Generation of the credential.");
    for serving in current.iter() {
        page.sample(name, &labels(&*serving.tunnel.name), serving.generation);
    }
}

/// Lets one log line through now and then and counts those in between, so that a peer who repeats
/// itself does not fill the log.
#[derive(Debug)]
pub(crate) struct Pace {
    every: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Pace {
    pub(crate) fn new(every: Duration) -> Self {
        Self {
            every,
            state: Mutex::default(),
        }
    }

    /// `Some(n)`: it is time to say that it happened `n` times since it was last said.
    pub(crate) fn due(&self) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = &mut *state;
        *count += 1;
        if last.is_some_and(|last| last.elapsed() < self.every) {
            return None;
        }
        *last = Some(Instant::now());
        Some(std::mem::take(count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_cas_have_counts_of_their_own_and_the_rest_are_counted_together() {
        let mut failures = Failures::default();
        let ca = |n: usize| -> Arc<str> { format!("{n:064x}").into() };
        failures.count("io", "".into());
        for n in 0..1000 {
            failures.count("unknown_ca", ca(n));
            failures.count("timeout", ca(n));
            // One that stays in force.
            failures.count("unknown_ca", ca(0));
        }
        let count = |label, ca: Arc<str>| failures.counts.get(&(label, ca)).copied();
        assert_eq!(failures.counts.len(), 1 + 2 * Failures::CAS + 2);
        assert_eq!(count("unknown_ca", ca(0)), Some(1001));
        assert_eq!(count("timeout", ca(999)), Some(1));
        let others = (1000 - Failures::CAS) as u64;
        assert_eq!(count("timeout", "other".into()), Some(others));
        assert_eq!(failures.counts.values().sum::<u64>(), 3001);
    }
}
