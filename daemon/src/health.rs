//! What the daemon's health listener says: readiness, metrics, the status as a page.
//!
//! Figures about what is *served* come from what replicas reported, never from what the daemon meant
//! to have them serve: a new certificate beside a listener that still has the old one is the failure
//! that expiry metrics exist for.

mod page;
mod propagation;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use process::metrics::Exposition;
use process::{Clock, Health, Tasks};

use crate::board::{Board, Publications, Replicas};
use crate::credential::LintedCredential;
use crate::remote::Remote;
use crate::status::{
    CertificateStatus, CredentialStatus, RemoteState, Status, TunnelStatus, seconds_left,
};
use page::{generations, reports, rotations, subscribers};
use propagation::Propagation;

/// Leaves whose end is remembered: more than replicas can lag behind.
const LEAVES: usize = 1024;

/// Reads the board for whoever probes.
pub(crate) struct Observer {
    board: Board,
    clock: Arc<dyn Clock>,
    tunnels: BTreeSet<String>,
    /// Fingerprint of a leaf that was published to its last second.
    leaves: Mutex<BTreeMap<String, u64>>,
    propagation: Mutex<Propagation>,
    /// Counts calls; `None`: there is nobody to call.
    remote: Option<Remote>,
}

impl Observer {
    pub(crate) fn new(
        board: Board,
        clock: Arc<dyn Clock>,
        tunnels: BTreeSet<String>,
        remote: Option<Remote>,
    ) -> Self {
        Self {
            board,
            clock,
            tunnels,
            leaves: Mutex::default(),
            propagation: Mutex::default(),
            remote,
        }
    }

    /// What is served on the health listener, and tasks that remember published leaves and how CAs came about.
    pub(crate) fn health(self, tasks: &Tasks) -> Health {
        let this = Arc::new(self);
        let (remembering, stopping) = (this.clone(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = remembering.remember() => {}
                () = stopping.stopping() => {}
            }
        });
        let (watching, stopping) = (this.clone(), tasks.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = watching.watch() => {}
                () = stopping.stopping() => {}
            }
        });
        let (ready, metrics, page) = (this.clone(), this.clone(), this);
        Health {
            reasons: Arc::new(move || ready.reasons()),
            notes: Arc::new(Vec::new),
            metrics: Arc::new(move || metrics.metrics()),
            asked: Vec::new(),
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

    async fn watch(&self) {
        let mut status = self.board.status.subscribe();
        loop {
            let now = status.borrow_and_update().clone();
            self.propagation().see(&now);
            if status.changed().await.is_err() {
                return;
            }
        }
    }

    fn propagation(&self) -> MutexGuard<'_, Propagation> {
        let propagation = self.propagation.lock();
        propagation.unwrap_or_else(PoisonError::into_inner)
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
        rotations(&mut page, &status, unix(self.clock.wall()));
        self.propagation().write(&mut page);
        page::calls(&mut page, &status, self.remote.as_ref());
        subscribers(&mut page, &replicas);
        page.finish()
    }

    fn expiries(&self, page: &mut Exposition, status: &Status, replicas: &Replicas) {
        let name = "keyward_cred_expiry_seconds";
        let now = unix(self.clock.wall());
        page.family(
            name,
            "gauge",
            "Seconds until the credential ends, negative afterwards; where=remote: of one that the other side lists; where=served: the earliest that a connected replica serves.",
        );
        for (tunnel, one) in &status.tunnels {
            for (kind, certificate) in certificates(one) {
                let labels = [
                    ("tunnel", tunnel.as_str()),
                    ("kind", kind),
                    ("where", "journal"),
                ];
                page.sample(name, &labels, seconds_left(certificate.not_after, now));
            }
            for (kind, end) in listed(one) {
                let labels = [
                    ("tunnel", tunnel.as_str()),
                    ("kind", kind),
                    ("where", "remote"),
                ];
                page.sample(name, &labels, seconds_left(end, now));
            }
            if let Some(end) = self.served_until(replicas, tunnel, one) {
                let kind = ("kind", "server-certificate");
                let labels = [("tunnel", tunnel.as_str()), kind, ("where", "served")];
                page.sample(name, &labels, seconds_left(end, now));
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

/// Kind and end of what the other side lists.
fn listed(tunnel: &TunnelStatus) -> impl Iterator<Item = (&str, u64)> {
    let in_force = |one: &&CredentialStatus| {
        let remote = one.remote.as_ref();
        remote.is_some_and(|remote| remote.state == RemoteState::InForce)
    };
    let listed = tunnel.credentials.iter().filter(in_force);
    listed.filter_map(|one| Some((&*one.kind, one.not_after?)))
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
