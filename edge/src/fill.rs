//! Keeps the relay's directory as the database has it.
//!
//! Every 300 ms the change counter is read; when it moved, everything is, and what differs is put. Times
//! that pass on their own – a token's overlap that ends – are looked at on every round, by this edge's
//! clock; what was ended at once is ended when it is read, whatever the time is here. A change counts
//! as acted on once every connection that it cuts is gone, and only then is it said so in the database. No
//! round waits for that: what is slow to go delays what is said of it, and no other change.
//! While the database does not answer the directory keeps what it has; after its stale limit it refuses
//! new work by itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use process::{Clock, Failure, Tasks};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::access::{Access, AccessSettings, Limits};
use crate::directory::{
    CredentialEntry, Directory, Load, Standing, TunnelEntry, Unanswered, Version,
};
use crate::state::{DatabaseError, LiveRow, Snapshot, SnapshotTunnel, State};

/// Between two readings of the change counter.
const POLL: Duration = Duration::from_millis(300);
/// Between two reports of what is connected.
const REPORT: Duration = Duration::from_secs(1);
/// Whoever has made a change waits so long for what it cuts; then a later round says that it was acted on.
const SETTLE: Duration = Duration::from_secs(1);

/// Fills a directory. Clones share the work.
#[derive(Clone)]
pub struct Filler {
    state: State,
    directory: Directory,
    clock: Arc<dyn Clock>,
    /// Whether this edge has a table of autonomous systems.
    has_asns: bool,
    round: Arc<Mutex<Round>>,
}

/// What the last round left.
#[derive(Default)]
struct Round {
    snapshot: Snapshot,
    put: BTreeMap<String, (SnapshotTunnel, Arc<TunnelEntry>)>,
    /// The last change of which nothing is left to do.
    applied: u64,
    reported: Option<Duration>,
    live: Vec<LiveRow>,
}

impl Filler {
    /// Nothing is put yet. `has_asns`: whether this edge has a table of autonomous systems.
    pub fn new(state: State, directory: Directory, clock: Arc<dyn Clock>, has_asns: bool) -> Self {
        Self {
            state,
            directory,
            clock,
            has_asns,
            round: Arc::default(),
        }
    }

    /// Reads one tunnel, for the directory's authentication of a proxy.
    pub fn load(state: State, clock: Arc<dyn Clock>) -> Load {
        Arc::new(move |id| {
            let (state, clock) = (state.clone(), clock.clone());
            async move {
                let (now, boot) = (seconds(clock.wall()), clock.boot());
                let found = state.snapshot_tunnel(&id, now).await;
                let (found, change) = found.map_err(|_| Unanswered)?;
                let found = found.map(|tunnel| entry(&id, &at(&tunnel, now), now));
                Ok((found, Version { change, at: boot }))
            }
            .boxed()
        })
    }

    /// Fills until the stop, then says that this edge is gone.
    ///
    /// # Errors
    ///
    /// None: a database that does not answer is asked again.
    pub async fn run(self, tasks: Tasks) -> Result<(), Failure> {
        loop {
            let mut acted = self.round().await;
            let next = Instant::now() + POLL;
            if let Ok(false) = acted
                && timeout_at(next, self.directory.settled()).await.is_ok()
            {
                acted = self.say().await;
            }
            if let Err(error) = acted {
                tracing::warn!(error = %error, "the database does not answer");
            }
            tokio::select! {
                () = sleep_until(next) => {}
                () = tasks.stopping() => break,
            }
        }
        let _ = self.state.leave(self.directory.instance()).await;
        Ok(())
    }

    /// One round, and a moment for what it cut to go. Dropped halfway, the next one does what is left.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: the directory keeps what it has.
    pub async fn refresh(&self) -> Result<(), DatabaseError> {
        let acted = self.round().await?;
        // Other rounds go on meanwhile.
        if !acted && timeout(SETTLE, self.directory.settled()).await.is_ok() {
            self.say().await?;
        }
        Ok(())
    }

    /// Whether the last change that was read was acted on.
    async fn round(&self) -> Result<bool, DatabaseError> {
        let mut round = self.round.lock().await;
        let (now, boot) = (seconds(self.clock.wall()), self.clock.boot());
        let change = self.state.last_change().await?;
        self.directory.heard();
        if change != round.snapshot.change || round.put.is_empty() {
            round.snapshot = self.state.snapshot(now).await?;
        }
        let version = Version {
            change: round.snapshot.change,
            at: boot,
        };
        self.put(&mut round, now, version);
        let acted = self.beat(&mut round).await?;
        let of = self.state.enforced(0).await?.of;
        self.directory.set_instances(of.max(1));
        self.report(&mut round).await?;
        Ok(acted)
    }

    /// Says how far this edge has come, between two rounds.
    async fn say(&self) -> Result<bool, DatabaseError> {
        let mut round = self.round.lock().await;
        self.beat(&mut round).await
    }

    /// Says that this edge is alive and how far it has come; whether that is as far as it has read.
    async fn beat(&self, round: &mut Round) -> Result<bool, DatabaseError> {
        let change = round.snapshot.change;
        if round.applied != change && self.directory.is_settled() {
            round.applied = change;
        }
        let instance = self.directory.instance();
        let beating = self.state.beat(instance, round.applied, self.has_asns);
        beating.await?;
        Ok(round.applied == change)
    }

    /// Puts everything, as new as `version`.
    fn put(&self, round: &mut Round, now: u64, version: Version) {
        let mut before = std::mem::take(&mut round.put);
        for (id, tunnel) in &round.snapshot.tunnels {
            let tunnel = at(tunnel, now);
            let wanted = match before.remove(id) {
                Some((seen, entry)) if seen == tunnel => entry,
                _ => {
                    self.warn(id, &tunnel);
                    Arc::new(entry(id, &tunnel, now))
                }
            };
            self.directory.put_at(Arc::clone(&wanted), version);
            round.put.insert(id.clone(), (tunnel, wanted));
        }
        for id in before.into_keys() {
            self.directory.remove_at(&id, version);
        }
    }

    /// Of a list that was put while no edge served, or one with a table: nobody else says it.
    fn warn(&self, id: &str, tunnel: &SnapshotTunnel) {
        if !tunnel.access.asns.is_empty() && !self.has_asns {
            tracing::error!(
                tunnel = id,
                "access by asns lets nobody in here: the configuration has no asn_file"
            );
        }
    }

    async fn report(&self, round: &mut Round) -> Result<(), DatabaseError> {
        let boot = self.clock.boot();
        if round.reported.is_some_and(|at| boot < at + REPORT) {
            return Ok(());
        }
        round.reported = Some(boot);
        let used: HashMap<String, SystemTime> = self.directory.take_used();
        for (credential, at) in used {
            self.state.used(&credential, seconds(at)).await?;
        }
        let live: Vec<LiveRow> = self.directory.all_live().into_iter().map(row).collect();
        if live != round.live {
            let instance = self.directory.instance();
            self.state.report_live(instance, &live).await?;
            round.live = live;
        }
        Ok(())
    }
}

fn row(connection: crate::directory::LiveConnection) -> LiveRow {
    LiveRow {
        credential: connection.bound.credential,
        replica: connection.replica,
        address: connection.address.to_string(),
    }
}

/// As it is at `now`: what was cut is gone, and what opens nothing more says so by a time that is past.
fn at(tunnel: &SnapshotTunnel, now: u64) -> SnapshotTunnel {
    let mut tunnel = tunnel.clone();
    tunnel
        .credentials
        .retain(|credential| credential.carries(now));
    for credential in &mut tunnel.credentials {
        if !credential.opens(now) {
            credential.refused_at = Some(0);
        }
    }
    tunnel
}

fn entry(id: &str, tunnel: &SnapshotTunnel, now: u64) -> TunnelEntry {
    let standing = match (tunnel.archived, tunnel.suspended) {
        (true, _) => Standing::Archived,
        (false, true) => Standing::Suspended,
        (false, false) => Standing::Active,
    };
    let credentials = tunnel.credentials.iter().filter_map(|credential| {
        Some(CredentialEntry {
            id: credential.id.clone(),
            sha256: *credential.sha256.parse::<pki::Fingerprint>().ok()?.octets(),
            accepts: credential.opens(now),
            cut_at: credential
                .cut_at
                .map(|at| UNIX_EPOCH + Duration::from_secs(at)),
        })
    });
    TunnelEntry {
        id: id.to_owned(),
        domain: tunnel.domain.clone(),
        standing,
        credentials: credentials.collect(),
        // Until a CA is registered nobody can know whom they reach: nobody may call.
        access: if tunnel.certified {
            compiled(id, &tunnel.access)
        } else {
            Access::default()
        },
    }
}

/// The list as it was checked when it was put. If it cannot be used now, nobody may call.
fn compiled(id: &str, access: &api::Access) -> Access {
    let certificates = access.client_ca_certificates.iter();
    let certificates = certificates
        .map(|pem| Ok(pki::Certificate::from_pem(pem)?.der().clone()))
        .collect::<Result<_, pki::CertificateError>>();
    let Ok(client_ca_certificates) = certificates else {
        tracing::error!(
            tunnel = id,
            "a client CA certificate in the state cannot be read"
        );
        return Access::default();
    };
    let settings = AccessSettings {
        client_ca_certificates,
        clients: access.clients.clone(),
        denied: access.denied.iter().cloned().collect(),
        cidrs: access
            .cidrs
            .iter()
            .filter_map(|cidr| cidr.parse().ok())
            .collect(),
        asns: access.asns.iter().copied().collect(),
        limits: Limits {
            streams: access.limits.streams.unwrap_or(Limits::STREAMS),
            connections_per_minute: access
                .limits
                .connections_per_minute
                .unwrap_or(Limits::CONNECTIONS_PER_MINUTE),
        },
    };
    Access::new(settings).unwrap_or_else(|error| {
        tracing::error!(tunnel = id, %error, "the access list in the state cannot be used");
        Access::default()
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests;
