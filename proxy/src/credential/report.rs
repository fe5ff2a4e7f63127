//! How things stand, for those who ask: the daemon, the health listener, the metrics page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use control::TunnelReport;
use process::rfc3339;

use super::serving::Serving;
use super::{Credentials, verify};

impl Credentials {
    /// What is in force, for the `hello` of a subscription. Waits until it has settled, since it
    /// stands for an ack.
    pub async fn serving(&self) -> Vec<control::Serving> {
        let table = Arc::clone(&self.shared.table.borrow());
        let mut serving = Vec::new();
        for entry in table.iter().filter(|entry| entry.counted_by_daemon()) {
            entry.settled().await;
            serving.push(control::Serving {
                tunnel: entry.tunnel.name.to_string(),
                generation: entry.generation,
                leaf_sha256: entry.leaf.sha256.clone(),
            });
        }
        serving
    }

    /// Why this is not ready; empty: it is.
    pub fn reasons(&self) -> Vec<String> {
        let table = self.current();
        if table.is_empty() {
            return vec!["no credential yet".to_owned()];
        }
        let (now, boot) = (self.shared.clock.wall(), self.boot());
        let mut reasons = Vec::new();
        for serving in table.iter() {
            let name = &serving.tunnel.name;
            if serving.leaf.is_over(now) {
                reasons.push(format!("tunnel {name}: the certificate has expired"));
            }
            if serving.tunnel.seen().is_refused(boot) {
                reasons.push(format!("tunnel {name}: callers refuse the certificate"));
            }
        }
        reasons
    }

    /// Where the daemon does not renew what is served, because it is away or has the tunnel no longer: until
    /// when that can be used, a line for each tunnel.
    pub fn notes(&self) -> Vec<String> {
        let lost = self.shared.channel_lost.load(Ordering::Relaxed);
        let ledger = self.ledger();
        let note = |serving: &Arc<Serving>| {
            let why = match &ledger.listed {
                _ if lost => "control channel lost",
                Some(listed) if is_unlisted(serving, listed) => "the daemon has it no longer",
                _ => return None,
            };
            let (name, until) = (&serving.tunnel.name, rfc3339(serving.leaf.not_after));
            Some(format!(
                "tunnel {name}: {why}, the certificate kept is valid until {until}"
            ))
        };
        self.current().iter().filter_map(note).collect()
    }

    /// Notes which tunnels the daemon has. One that it has no longer goes on with what it has: a daemon
    /// with a wrong configuration must not cut a tunnel that works. It is told once.
    pub(crate) fn listed(&self, tunnels: Vec<String>) {
        let listed: BTreeSet<String> = tunnels.into_iter().collect();
        let before = self.ledger().listed.replace(listed.clone());
        for serving in self.current().iter() {
            let told = before
                .as_ref()
                .is_some_and(|before| is_unlisted(serving, before));
            if is_unlisted(serving, &listed) && !told {
                tracing::warn!(
                    tunnel = &*serving.tunnel.name,
                    valid_until = rfc3339(serving.leaf.not_after),
                    "the daemon has this tunnel no longer, its last certificate is kept"
                );
            }
        }
    }

    /// The end of the certificate that ends first; `None`: there is none.
    pub fn valid_until(&self) -> Option<SystemTime> {
        let table = self.current();
        table.iter().map(|serving| serving.leaf.not_after).min()
    }

    /// How each tunnel stands, with those of `routes` that its leaf does not cover.
    pub fn report(&self, routes: &[String]) -> Vec<TunnelReport> {
        let alive = self.alive();
        let table = self.current();
        table
            .iter()
            .map(|serving| report(serving, &alive, routes))
            .collect()
    }
}

/// Whether the daemon gave it, and would not give it now.
fn is_unlisted(serving: &Serving, listed: &BTreeSet<String>) -> bool {
    serving.counted_by_daemon() && !listed.contains(&*serving.tunnel.name)
}

fn report(serving: &Serving, alive: &[Arc<Serving>], routes: &[String]) -> TunnelReport {
    let mut handshakes = BTreeMap::new();
    let mut connections = BTreeMap::new();
    let same = |other: &&Arc<Serving>| Arc::ptr_eq(&other.tunnel, &serving.tunnel);
    for other in alive.iter().filter(same) {
        for served in std::iter::once(&other.leaf).chain(&other.fallback) {
            let completed = served.completed.load(Ordering::Relaxed);
            *handshakes.entry(served.sha256.clone()).or_default() += completed;
        }
        let live = other.connections.load(Ordering::Relaxed);
        if live > 0 || other.generation == serving.generation {
            // One generation may have been published twice, with other client CAs.
            *connections.entry(other.generation).or_default() += live;
        }
    }
    let (failures, verdicts) = {
        let seen = serving.tunnel.seen();
        (seen.failures.clone(), seen.verdicts.clone())
    };
    TunnelReport {
        tunnel: serving.tunnel.name.to_string(),
        generation: serving.generation,
        leaf_sha256: serving.leaf.sha256.clone(),
        handshakes,
        failures: failures
            .into_iter()
            .map(|(name, n)| (name.to_owned(), n))
            .collect(),
        verdicts: verdicts
            .into_iter()
            .map(|(ca, verdicts)| (ca.to_string(), verdicts))
            .collect(),
        connections,
        uncovered_routes: uncovered(serving, routes),
    }
}

/// Routes whose host a caller would find to be not covered by the certificate.
fn uncovered(serving: &Serving, routes: &[String]) -> Vec<String> {
    let covered = |host: &str| verify::covers(&serving.leaf.certificate, host).is_ok();
    let reachable = |route: &&String| {
        let below = serving.tunnel_domain.as_deref();
        covered(route) || below.is_some_and(|domain| covered(&format!("{route}.{domain}")))
    };
    routes
        .iter()
        .filter(|route| !reachable(route))
        .cloned()
        .collect()
}

/// For logs and metrics: seconds from `now` to `not_after`, negative when it is over.
pub(crate) fn seconds_left(not_after: SystemTime, now: SystemTime) -> i64 {
    let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match not_after.duration_since(now) {
        Ok(left) => seconds(left),
        Err(over) => -seconds(over.duration()),
    }
}
