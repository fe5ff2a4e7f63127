//! What the daemon's health listener says: readiness, metrics, the status as a page.
//!
//! Figures about what is *served* come from what replicas reported, never from what the daemon meant
//! to have them serve: a new certificate beside a listener that still has the old one is the failure
//! that expiry metrics exist for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use control::{Resource, Role};
use process::metrics::Exposition;
use process::{Clock, Health, Tasks};

use crate::board::{Board, Publications, Replicas};
use crate::credential::LintedCredential;
use crate::status::{CertificateStatus, Status, TunnelStatus};

/// Leaves whose end is remembered: more than replicas can lag behind.
const LEAVES: usize = 1024;

/// Reads the board for whoever probes.
pub(crate) struct Observer {
    board: Board,
    clock: Arc<dyn Clock>,
    tunnels: BTreeSet<String>,
    /// Fingerprint of a leaf that was published to its last second.
    leaves: Mutex<BTreeMap<String, u64>>,
}

impl Observer {
    pub(crate) fn new(board: Board, clock: Arc<dyn Clock>, tunnels: BTreeSet<String>) -> Self {
        Self {
            board,
            clock,
            tunnels,
            leaves: Mutex::default(),
        }
    }

    /// What is served on the health listener, and a task that remembers published leaves.
    pub(crate) fn health(self, tasks: &Tasks) -> Health {
        let this = Arc::new(self);
        let (remembering, stopping) = (this.clone(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = remembering.remember() => {}
                () = stopping.stopping() => {}
            }
        });
        let (ready, metrics, page) = (this.clone(), this.clone(), this);
        Health {
            reasons: Arc::new(move || ready.reasons()),
            notes: Arc::new(Vec::new),
            metrics: Arc::new(move || metrics.metrics()),
            pages: vec![("/v1/status", Arc::new(move || page.page()))],
        }
    }

    async fn remember(&self) {
        let mut publications = self.board.publications.subscribe();
        loop {
            let published = ends(&publications.borrow_and_update());
            {
                let mut leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
                leaves.extend(published);
                while leaves.len() > LEAVES {
                    let soonest = leaves.iter().min_by_key(|(_, end)| **end);
                    let Some(soonest) = soonest.map(|(leaf, _)| leaf.clone()) else {
                        break;
                    };
                    leaves.remove(&soonest);
                }
            }
            if publications.changed().await.is_err() {
                return;
            }
        }
    }

    /// Why the daemon is not ready: some tunnel has no published leaf in date.
    fn reasons(&self) -> Vec<String> {
        let now = unix(self.clock.wall());
        let publications = self.board.publications.borrow();
        let reason = |name: &String| {
            let credential = publications
                .get(name)
                .and_then(|publication| publication.credential.as_ref());
            match credential.map(|credential| credential.message().leaf.not_after) {
                None => Some(format!("tunnel {name}: no server certificate is published")),
                Some(end) if end < now => Some(format!(
                    "tunnel {name}: the server certificate is over since {} s",
                    now - end
                )),
                Some(_) => None,
            }
        };
        self.tunnels.iter().filter_map(reason).collect()
    }

    /// The status without who ordered what and for whom: whoever reaches this port is not asked who
    /// he is.
    fn page(&self) -> String {
        let status = self.board.status.borrow().clone();
        let mut page = serde_json::to_value(&*status).expect("our own types have string keys");
        let operations = page
            .get_mut("operations")
            .and_then(|all| all.as_array_mut());
        for operation in operations.into_iter().flatten() {
            if let Some(operation) = operation.as_object_mut() {
                operation.retain(|key, _| key != "actor" && key != "detail");
            }
        }
        page.to_string()
    }

    fn metrics(&self) -> String {
        let status = self.board.status.borrow().clone();
        let replicas = self.board.replicas.borrow().clone();
        let mut page = Exposition::default();
        process::metrics::build_info(&mut page);
        page.family(
            "keyward_time_suspect",
            "gauge",
            "1: the wall clock disagrees with the boot clock.",
        );
        page.sample("keyward_time_suspect", &[], u8::from(status.time_suspect));
        self.expiries(&mut page, &status, &replicas);
        generations(&mut page, &status, &replicas);
        rotations(&mut page, &status);
        subscribers(&mut page, &replicas);
        page.finish()
    }

    fn expiries(&self, page: &mut Exposition, status: &Status, replicas: &Replicas) {
        let name = "keyward_cred_expiry_seconds";
        let now = unix(self.clock.wall());
        page.family(
            name,
            "gauge",
            "Seconds until the credential ends, negative afterwards; where=served: the earliest that a connected replica serves.",
        );
        for (tunnel, one) in &status.tunnels {
            for (kind, certificate) in certificates(one) {
                let labels = [
                    ("tunnel", tunnel.as_str()),
                    ("kind", kind),
                    ("where", "journal"),
                ];
                page.sample(name, &labels, left(certificate.not_after, now));
            }
            if let Some(end) = self.served_until(replicas, tunnel, one) {
                let kind = ("kind", "server-certificate");
                let labels = [("tunnel", tunnel.as_str()), kind, ("where", "served")];
                page.sample(name, &labels, left(end, now));
            }
        }
    }

    /// The earliest end of a leaf that a connected replica reports to serve for `tunnel`.
    fn served_until(&self, replicas: &Replicas, tunnel: &str, one: &TunnelStatus) -> Option<u64> {
        let leaves = self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let end = |leaf: &String| {
            let current = one.server_certificate.as_ref();
            current
                .filter(|current| current.sha256 == *leaf)
                .map(|current| current.not_after)
                .or_else(|| leaves.get(leaf).copied())
        };
        reports(replicas, tunnel)
            .filter_map(|report| end(&report.leaf_sha256))
            .min()
    }
}

/// What connected replicas report about `tunnel`.
fn reports<'a>(
    replicas: &'a Replicas,
    tunnel: &'a str,
) -> impl Iterator<Item = &'a control::TunnelReport> {
    replicas
        .values()
        .filter(|replica| replica.connected)
        .flat_map(|replica| &replica.report.tunnels)
        .filter(move |report| report.tunnel == tunnel)
}

fn ends(publications: &Publications) -> BTreeMap<String, u64> {
    let leaf = |credential: &Arc<LintedCredential>| {
        (
            credential.leaf_sha256(),
            credential.message().leaf.not_after,
        )
    };
    let credentials = publications
        .values()
        .filter_map(|publication| publication.credential.as_ref());
    credentials.map(leaf).collect()
}

fn certificates(tunnel: &TunnelStatus) -> Vec<(&'static str, &CertificateStatus)> {
    let all = [
        ("server-certificate", &tunnel.server_certificate),
        ("ca", &tunnel.ca),
        ("standby-ca", &tunnel.standby_ca),
        ("client-ca", &tunnel.client_ca),
    ];
    all.into_iter()
        .filter_map(|(kind, certificate)| Some((kind, certificate.as_ref()?)))
        .collect()
}

fn generations(page: &mut Exposition, status: &Status, replicas: &Replicas) {
    let name = "keyward_cred_generation";
    page.family(
        name,
        "gauge",
        "Generation published, and the lowest that a connected replica reports.",
    );
    for (tunnel, one) in &status.tunnels {
        let labels = |place| [("tunnel", tunnel.as_str()), ("where", place)];
        page.sample(name, &labels("journal"), one.generation);
        let lowest = reports(replicas, tunnel)
            .map(|report| report.generation)
            .min();
        if let Some(lowest) = lowest {
            page.sample(name, &labels("served"), lowest);
        }
    }
}

fn rotations(page: &mut Exposition, status: &Status) {
    page.family(
        "keyward_rotation_phase",
        "gauge",
        "1 for the phase that the rotation is in.",
    );
    for (tunnel, one) in &status.tunnels {
        let token = one.tunnel_token.as_ref().map(|token| &token.phase);
        let secret = one.shared_secret.as_ref().map(|secret| &secret.phase);
        let ca = one.ca_slots.as_ref().map(|slots| &slots.phase);
        for (kind, phase) in [
            ("server-certificate", Some(&one.phase)),
            ("ca", ca),
            ("tunnel-token", token),
            ("shared-secret", secret),
        ] {
            let Some(phase) = phase else { continue };
            let labels = [
                ("tunnel", tunnel.as_str()),
                ("kind", kind),
                ("phase", phase),
            ];
            page.sample("keyward_rotation_phase", &labels, 1);
        }
    }
    slots(page, status);
    page.family(
        "keyward_issuance_total",
        "counter",
        "Rotations done since the state was made.",
    );
    for (tunnel, one) in &status.tunnels {
        let counts = [
            ("server-certificate", one.rotations.server_certificate),
            ("ca", one.rotations.ca),
            ("tunnel-token", one.rotations.tunnel_token),
            ("shared-secret", one.rotations.shared_secret),
        ];
        for (kind, count) in counts {
            let labels = [("tunnel", tunnel.as_str()), ("kind", kind)];
            page.sample("keyward_issuance_total", &labels, count);
        }
    }
    page.family("keyward_alarms", "gauge", "What needs a person.");
    for (tunnel, one) in &status.tunnels {
        let labels = [("tunnel", tunnel.as_str())];
        page.sample("keyward_alarms", &labels, one.alarms.len());
    }
}

fn slots(page: &mut Exposition, status: &Status) {
    page.family(
        "keyward_ca_slots_used",
        "gauge",
        "Slots of the remote that hold a CA, of two.",
    );
    for (tunnel, one) in &status.tunnels {
        if let Some(used) = one.ca_slots.as_ref().and_then(|slots| slots.used) {
            let labels = [("tunnel", tunnel.as_str())];
            page.sample("keyward_ca_slots_used", &labels, used);
        }
    }
}

fn subscribers(page: &mut Exposition, replicas: &Replicas) {
    page.family(
        "keyward_replicas",
        "gauge",
        "Subscribers known, by whether a subscription stands.",
    );
    for (role, name) in [(Role::Proxy, "proxy"), (Role::Connector, "connector")] {
        for (connected, state) in [(true, "connected"), (false, "gone")] {
            let count = replicas
                .values()
                .filter(|replica| (replica.role, replica.connected) == (role, connected))
                .count();
            page.sample(
                "keyward_replicas",
                &[("role", name), ("state", state)],
                count,
            );
        }
    }
    page.family(
        "keyward_replica_generation",
        "gauge",
        "Generation that a replica has acknowledged.",
    );
    for (name, replica) in replicas {
        let credentials = replica
            .acks
            .iter()
            .filter(|((_, resource), _)| *resource == Resource::Credential);
        for ((tunnel, _), generation) in credentials {
            let labels = [("replica", name.as_str()), ("tunnel", tunnel.as_str())];
            page.sample("keyward_replica_generation", &labels, generation);
        }
    }
}

/// Seconds from `now` to `end`, negative when it is over.
fn left(end: u64, now: u64) -> i64 {
    end.cast_signed().saturating_sub(now.cast_signed())
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
