//! An agent at one of the two doors, and whether it may go on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateDer;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::rustls;

use super::Shared;
use super::link::Stream;
use super::pump::{self, Broken};
use super::quota::{Key, Place};
use crate::access::{Access, Caller, Denial, fingerprints};
use crate::directory::{Directory, Standing, TunnelEntry};

/// The wall clock, which may jump, is compared with the end of a certificate at least this often.
const LOOK: Duration = Duration::from_secs(30);

/// Who calls, as far as outer TLS has proved it.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) peer: SocketAddr,
    /// Empty on passthrough, and for those who showed none.
    pub(super) certificates: Arc<[CertificateDer<'static>]>,
    /// When each of them is over.
    ends: Arc<[SystemTime]>,
    /// Whom it counts as by where it comes from ...
    source: Key,
    /// ... and by what it has shown, once that was found good.
    shown: Option<Key>,
}

/// Why an agent gets nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Refused {
    #[error("no such tunnel")]
    Unknown,
    #[error("the tunnel is suspended")]
    Suspended,
    #[error("the tunnel is archived")]
    Archived,
    #[error("the edge cannot decide now")]
    Stale,
    #[error(transparent)]
    Denied(#[from] Denial),
}

impl Refused {
    /// For logs, metrics and error bodies: one word of a closed list.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_tunnel",
            Self::Suspended => "suspended",
            Self::Archived => "archived",
            Self::Stale => "stale",
            Self::Denied(denial) => denial.word(),
        }
    }
}

/// A way that is open: the tunnel, and the place that the agent takes up in it.
pub(super) struct Admitted {
    pub(super) tunnel: String,
    agent: Agent,
    entry: watch::Receiver<Arc<TunnelEntry>>,
    judged: Judged,
    _place: Place,
}

/// What an agent was let in by, beside the entry of its tunnel.
#[derive(Clone, Copy)]
struct Judged {
    at: SystemTime,
    /// Generation of the table of networks.
    asns: u64,
}

impl Judged {
    fn now(shared: &Shared) -> Self {
        Self {
            at: shared.directory.now(),
            asns: shared.asns.generation(),
        }
    }
}

impl Agent {
    /// One who comes from `peer` and has proved possession of the first of `certificates`.
    pub(super) fn new(peer: SocketAddr, certificates: &[CertificateDer<'_>]) -> Self {
        let own = certificates.iter().cloned().map(CertificateDer::into_owned);
        let read = certificates
            .iter()
            .map(|der| pki::Certificate::from_der(der.to_vec()));
        // The last second is part of it (RFC 5280 section 4.1.2.5).
        let over = |read: pki::Certificate| read.validity().not_after() + Duration::from_secs(1);
        // The holder may show it in two forms, and is one caller all the same.
        let one = certificates
            .first()
            .and_then(|leaf| fingerprints(leaf).min());
        Self {
            source: Key::of(peer.ip()),
            shown: one.map(Key::Certificate),
            peer,
            certificates: own.collect(),
            ends: read.flatten().map(over).collect(),
        }
    }

    /// Whether this agent may call `name` now.
    pub(super) fn admit(&self, shared: &Shared, name: &str) -> Result<Admitted, Refused> {
        let directory = &shared.directory;
        if directory.is_stale() {
            return Err(Refused::Stale);
        }
        let found = directory.tunnel_by_name(name).ok_or(Refused::Unknown)?;
        let mut entry = directory.watch(&found.id).ok_or(Refused::Unknown)?;
        let current = entry.borrow_and_update().clone();
        let judged = Judged::now(shared);
        let place = self.enter(shared, &current)?;
        Ok(Admitted {
            tunnel: current.id.clone(),
            agent: self.clone(),
            entry,
            judged,
            _place: place,
        })
    }

    /// A place within the limits of `entry`. Those who are refused count as well, and before anything of
    /// theirs is verified: by their source, since a certificate that nobody has judged costs nothing to make.
    fn enter(&self, shared: &Shared, entry: &TunnelEntry) -> Result<Place, Refused> {
        let (quotas, now) = (&shared.quotas, Instant::now());
        let limits = entry.access.limits();
        let enter = |key: &Key| {
            let place = quotas.enter(&entry.id, key, limits, now);
            place.ok_or(Refused::Denied(Denial::TooMany))
        };
        // Where no certificate is judged, none is a caller.
        let shown = self.shown.as_ref();
        let Some(shown) = shown.filter(|_| entry.access.has_client_rules()) else {
            let place = enter(&self.source)?;
            return self.judge(shared, entry).map(|()| place);
        };
        if quotas.knows(&entry.id, shown) {
            // Found good before: those who share its address cannot use up what is its own.
            let place = enter(shown)?;
            return self.judge(shared, entry).map(|()| place);
        }
        if !quotas.has_left(&entry.id, &self.source, limits, now) {
            return Err(Denial::TooMany.into());
        }
        if let Err(refused) = self.judge(shared, entry) {
            drop(enter(&self.source));
            return Err(refused);
        }
        enter(shown)
    }

    fn judge(&self, shared: &Shared, entry: &TunnelEntry) -> Result<(), Refused> {
        match entry.standing {
            Standing::Active => {}
            Standing::Suspended => return Err(Refused::Suspended),
            Standing::Archived => return Err(Refused::Archived),
        }
        let caller = Caller {
            address: self.peer.ip(),
            asn: shared.asns.find(self.peer.ip()),
            certificates: &self.certificates,
        };
        Ok(entry.access.admit(&caller, shared.directory.now())?)
    }
}

impl Admitted {
    /// Whether the tunnel asks for client certificates.
    pub(super) fn has_client_rules(&self) -> bool {
        self.entry.borrow().access.has_client_rules()
    }

    /// Relays until both sides have ended, or until the agent may not go on.
    pub(super) async fn relay<R, W>(self, shared: &Shared, agent: (R, W), stream: Stream)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let Self {
            tunnel,
            agent: who,
            mut entry,
            judged,
            _place,
        } = self;
        let _open = shared.telemetry.streams.hold();
        let ended = tokio::select! {
            ended = pump::pump(agent, stream, shared.limits.stall) => ended,
            refused = who.watched(shared, &mut entry, judged) => {
                tracing::info!(tunnel, peer = %who.peer, reason = refused.word(), "stream cut");
                shared.telemetry.cut.increment();
                return;
            }
            () = shared.cut.cancelled() => return,
        };
        if let Err(broken) = ended {
            if matches!(broken, Broken::Stalled) {
                shared.telemetry.stalled.increment();
            }
            tracing::debug!(tunnel, peer = %who.peer, error = %broken, "stream broke");
        }
    }
}

impl Agent {
    /// Resolves once a change of the tunnel, or of what is known about this agent, or the time keeps it from
    /// going on.
    async fn watched(
        &self,
        shared: &Shared,
        entry: &mut watch::Receiver<Arc<TunnelEntry>>,
        mut judged: Judged,
    ) -> Refused {
        let mut before = entry.borrow().clone();
        loop {
            let (changed, ended) = tokio::select! {
                changed = entry.changed() => (changed, false),
                () = self.ended(&shared.directory, judged.at) => (Ok(()), true),
            };
            let now = entry.borrow_and_update().clone();
            let known = Judged::now(shared);
            // A change of credentials alone, the commonest, says nothing about agents.
            let same = Access::is_same(&before.access, &now.access)
                && before.standing == now.standing
                && known.asns == judged.asns;
            if (ended || !same)
                && let Err(refused) = self.judge(shared, &now)
            {
                return refused;
            }
            if changed.is_err() {
                return Refused::Archived;
            }
            if ended || !same {
                judged = known;
            }
            before = now;
        }
    }

    /// Resolves when the next of the certificates is over that was not at `since`.
    async fn ended(&self, directory: &Directory, since: SystemTime) {
        let Some(end) = self.ends.iter().filter(|end| **end > since).min() else {
            return std::future::pending().await;
        };
        while let Ok(left) = end.duration_since(directory.now()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}
