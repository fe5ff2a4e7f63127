//! What the relay counts, and the pace of what it logs.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use process::metrics::{Counter, Exposition, Gauge};
use tokio::time::Instant;

/// A repeated cause is logged this often.
const LOG_PACE: Duration = Duration::from_secs(60);

/// Counters of one edge.
#[derive(Debug, Default)]
pub(super) struct Telemetry {
    /// Sockets accepted.
    pub(super) accepted: Counter,
    /// Sockets open.
    pub(super) sockets: Gauge,
    /// Agents' streams open.
    pub(super) streams: Gauge,
    /// Streams cut because access changed.
    pub(super) cut: Counter,
    /// Streams closed because a write made no progress.
    pub(super) stalled: Counter,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
}

impl Telemetry {
    /// Counts a refusal under `reason`, which is of a closed list.
    pub(super) fn refuse(&self, reason: &'static str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry(reason).or_default() += 1;
    }

    /// Adds everything to `page`; `links` are the connections of proxies.
    pub(super) fn page(&self, page: &mut Exposition, links: usize) {
        let counters = [
            (
                "keyward_edge_accepted_total",
                "Sockets accepted.",
                &self.accepted,
            ),
            (
                "keyward_edge_cut_total",
                "Streams cut: access changed.",
                &self.cut,
            ),
            (
                "keyward_edge_stalled_total",
                "Streams closed: no progress.",
                &self.stalled,
            ),
        ];
        for (name, help, counter) in counters {
            page.family(name, "counter", help);
            page.sample(name, &[], counter.get());
        }
        let gauges = [
            ("keyward_edge_sockets", "Sockets open.", self.sockets.get()),
            (
                "keyward_edge_streams",
                "Agents' streams open.",
                self.streams.get(),
            ),
            (
                "keyward_edge_links",
                "Connections of proxies.",
                links as u64,
            ),
        ];
        for (name, help, value) in gauges {
            page.family(name, "gauge", help);
            page.sample(name, &[], value);
        }
        let name = "keyward_edge_refusals_total";
        page.family(name, "counter", "Agents refused, by reason.");
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        for (reason, count) in &*refusals {
            page.sample(name, &[("reason", reason)], count);
        }
    }
}

/// Lets one log line of each kind through now and then, so that a peer who repeats itself does not fill
/// the log and hides nothing else.
#[derive(Debug, Default)]
pub(super) struct Paces(Mutex<BTreeMap<&'static str, (Instant, u64)>>);

impl Paces {
    /// `Some(n)`: it is time to say that `kind` happened `n` times since it was last said.
    pub(super) fn due(&self, kind: &'static str) -> Option<u64> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((last, count)) = paces.get_mut(kind) else {
            paces.insert(kind, (Instant::now(), 0));
            return Some(1);
        };
        *count += 1;
        if last.elapsed() < LOG_PACE {
            return None;
        }
        *last = Instant::now();
        Some(std::mem::take(count))
    }
}
