//! One published generation of one tunnel, and those who came in under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use control::{TunnelReport, Verdicts};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;

use super::Source;
use super::gate::Gate;
use super::tickets::Tickets;
use crate::alert;

/// Certificate alerts after which a new leaf is taken to be unknown to those who verify it.
const ENOUGH_ALERTS: u64 = 3;
/// The name that the daemon dials to see the newest leaf (`rotation.md` 5.3a).
const PROBE: &str = "keyward-probe";

/// What outlives the generations of a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) name: Arc<str>,
    /// Fingerprints of client certificates that are refused.
    pub(crate) denied: watch::Sender<Arc<BTreeSet<String>>>,
    pub(super) use_: Mutex<Use>,
}

/// How handshakes went since the start.
#[derive(Debug, Default)]
pub(super) struct Use {
    /// By the name of the alert, or `io`, `timeout`, `other`.
    pub(super) failures: BTreeMap<&'static str, u64>,
    /// What callers thought of each CA's certificates, the CA that came last at the end.
    pub(super) verdicts: Vec<(Arc<str>, Verdicts)>,
    /// When the last certificate alerts came, in boot time; at most [`Use::KEPT`].
    refusals: Vec<Duration>,
    last_success: Option<Duration>,
}

impl Use {
    /// Real use counts against readiness after this many failures ...
    const FAILURES: usize = 3;
    /// ... over this long ...
    const OVER: Duration = Duration::from_secs(30);
    /// ... within this long, with no success in it.
    const WINDOW: Duration = Duration::from_secs(60);
    /// One entry a second at most, so the window always fits.
    const KEPT: usize = 61;

    pub(super) fn succeeded(&mut self, ca: &Arc<str>, boot: Duration) {
        self.last_success = Some(boot);
        self.refusals.clear();
        self.verdict(ca, |verdicts| verdicts.accepted += 1);
    }

    /// On a certificate of `ca`.
    fn verdict(&mut self, ca: &Arc<str>, add: fn(&mut Verdicts)) {
        let all = &mut self.verdicts;
        if let Some((_, known)) = all.iter_mut().find(|(known, _)| known == ca) {
            return add(known);
        }
        if all.len() >= TunnelReport::CAS {
            all.remove(0);
        }
        let mut first = Verdicts::default();
        add(&mut first);
        all.push((Arc::clone(ca), first));
    }

    pub(super) fn failed(&mut self, name: &'static str, ca: &Arc<str>, boot: Duration) {
        *self.failures.entry(name).or_default() += 1;
        if !alert::is_about_certificate(name) {
            return;
        }
        self.verdict(ca, |verdicts| verdicts.refused += 1);
        self.refusals.retain(|at| *at + Self::WINDOW > boot);
        let crowded = self.refusals.len() >= Self::FAILURES
            && self
                .refusals
                .last()
                .is_some_and(|last| boot.as_secs() == last.as_secs());
        if !crowded && self.refusals.len() < Self::KEPT {
            self.refusals.push(boot);
        }
    }

    /// Whether those who call refuse what is served: `architecture.md`, *Observability*.
    pub(super) fn is_refused(&self, boot: Duration) -> bool {
        let recent: Vec<_> = self
            .refusals
            .iter()
            .filter(|at| **at + Self::WINDOW > boot)
            .collect();
        let spread = match (recent.first(), recent.last()) {
            (Some(first), Some(last)) => last.saturating_sub(**first),
            _ => Duration::ZERO,
        };
        let succeeded = self.last_success.is_some_and(|at| at + Self::WINDOW > boot);
        recent.len() >= Self::FAILURES && spread >= Self::OVER && !succeeded
    }
}

impl Tunnel {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            denied: watch::Sender::default(),
            use_: Mutex::default(),
        }
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, Use> {
        self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A leaf that can be served, and how often it was.
#[derive(Debug)]
pub(crate) struct Served {
    pub(super) config: Arc<ServerConfig>,
    pub(super) tickets: Arc<Tickets>,
    /// A client certificate is required.
    pub(super) mutual: bool,
    pub(crate) certificate: CertificateDer<'static>,
    /// Lower-case hexadecimal.
    pub(crate) sha256: String,
    pub(crate) not_after: SystemTime,
    /// SHA-256 of its CA certificate, lower-case hexadecimal; empty: nobody has named it.
    pub(super) ca: Arc<str>,
    pub(super) completed: AtomicU64,
    pub(super) refused: AtomicU64,
}

impl Served {
    /// Whether its last second, which belongs to it (RFC 5280 section 4.1.2.5), is over.
    pub(crate) fn is_over(&self, now: SystemTime) -> bool {
        now >= self.not_after + Duration::from_secs(1)
    }

    /// Takes and makes no more tickets where it is over at `now`: whoever comes makes a full handshake.
    pub(super) fn end_tickets(&self, now: SystemTime) {
        if self.is_over(now) {
            self.tickets.end();
        }
    }
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Its generation fell below `lowest`, or its certificate has expired.
    Retired,
    /// The program stops.
    Stopping,
}

/// Tells connections to end; told once.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    why: OnceLock<Why>,
    told: Notify,
}

impl Ending {
    pub(super) fn tell(&self, why: Why) {
        let _ = self.why.set(why);
        self.told.notify_waiters();
    }

    /// Resolves once it was told. One short lock a poll: this is polled with every request.
    pub(crate) async fn told(&self) -> Why {
        let mut told = std::pin::pin!(self.told.notified());
        told.as_mut().enable();
        if let Some(why) = self.why.get() {
            return *why;
        }
        told.await;
        // It was set before anybody was notified.
        self.why.get().copied().unwrap_or(Why::Retired)
    }
}

/// One generation of one tunnel. Freed when it is superseded and its last connection has ended.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) tunnel: Arc<Tunnel>,
    pub(crate) tunnel_domain: Option<Arc<str>>,
    /// As the daemon counts; counted here for files that come without a manifest.
    pub(crate) generation: u64,
    pub(super) source: Source,
    /// PEM certificates, as they were offered.
    pub(super) client_cas: Vec<String>,
    pub(crate) leaf: Served,
    pub(super) fallback: Option<Served>,
    pub(super) canary_share: Option<u8>,
    pub(super) begun: AtomicU64,
    pub(super) gate: Gate,
    /// Of those who were shown the leaf.
    pub(super) ending: Mutex<Arc<Ending>>,
    /// Of those who were shown the fallback.
    pub(super) fallback_ending: Mutex<Arc<Ending>>,
    pub(super) expired: AtomicBool,
    pub(super) fallback_expired: AtomicBool,
    pub(super) connections: AtomicU64,
    /// Cancelled once no handshake ends on an earlier generation any more.
    pub(super) settled: CancellationToken,
}

impl Serving {
    /// Resolves once no handshake ends on an earlier generation any more: time for the ack.
    pub(crate) async fn settled(&self) {
        self.settled.cancelled().await;
    }

    /// Whether `generation` is the daemon's.
    pub(super) fn counted_by_daemon(&self) -> bool {
        self.source != Source::Files
    }

    pub(super) fn covers(&self, server_name: &str) -> bool {
        self.tunnel_domain.as_deref().is_some_and(|domain| {
            server_name
                .strip_suffix(domain)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
    }

    /// The leaf for the next handshake: the new one, unless it is known to be unknown.
    pub(super) fn choose(&self, server_name: Option<&str>, now: SystemTime) -> Leaf {
        let Some(fallback) = &self.fallback else {
            return Leaf::Newest;
        };
        if fallback.is_over(now) {
            return Leaf::Newest;
        }
        let probed = server_name
            .and_then(|name| name.strip_prefix(PROBE))
            .is_some_and(|rest| rest.starts_with('.'));
        if probed {
            return Leaf::Newest;
        }
        if self.leaf.completed.load(Ordering::Relaxed) == 0
            && self.leaf.refused.load(Ordering::Relaxed) >= ENOUGH_ALERTS
        {
            return Leaf::Fallback;
        }
        let Some(share) = self.canary_share else {
            return Leaf::Newest;
        };
        // Spread evenly rather than drawn: with few handshakes a share is still a share.
        let n = self.begun.fetch_add(1, Ordering::Relaxed);
        let share = u64::from(share.min(100));
        if (n + 1) * share / 100 > n * share / 100 {
            Leaf::Newest
        } else {
            Leaf::Fallback
        }
    }

    pub(super) fn served(&self, leaf: Leaf) -> &Served {
        match (leaf, &self.fallback) {
            (Leaf::Fallback, Some(fallback)) => fallback,
            _ => &self.leaf,
        }
    }

    /// Tells every connection of this generation to end.
    pub(super) fn end(&self, why: Why) {
        self.ending(Leaf::Newest).tell(why);
        self.ending(Leaf::Fallback).tell(why);
    }

    /// The same for those that were shown a certificate which is over at `now`, once for each, while
    /// later ones are left alone: whoever connects to an expired certificate was shown it. `true`:
    /// some were told.
    pub(super) fn expire(&self, now: SystemTime) -> bool {
        let mut told = false;
        for leaf in [Leaf::Newest, Leaf::Fallback] {
            let expired = match leaf {
                Leaf::Newest => &self.expired,
                Leaf::Fallback => &self.fallback_expired,
            };
            if self.served(leaf).is_over(now) && !expired.swap(true, Ordering::Relaxed) {
                let before = std::mem::take(&mut *self.lock_ending(leaf));
                before.tell(Why::Retired);
                told |= leaf == Leaf::Newest || self.fallback.is_some();
            }
        }
        told
    }

    fn ending(&self, leaf: Leaf) -> Arc<Ending> {
        Arc::clone(&self.lock_ending(leaf))
    }

    fn lock_ending(&self, leaf: Leaf) -> MutexGuard<'_, Arc<Ending>> {
        let ending = match leaf {
            Leaf::Newest => &self.ending,
            Leaf::Fallback => &self.fallback_ending,
        };
        ending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    Newest,
    Fallback,
}

/// A handshake that has begun: its `ClientHello` is complete and its generation is chosen. Dropping it
/// gives the handshake up.
#[derive(Debug)]
pub(crate) struct Begun {
    serving: Arc<Serving>,
    leaf: Leaf,
    inside: bool,
}

impl Begun {
    /// To be made only for a handshake that has entered the gate of `serving`.
    pub(super) fn new(serving: Arc<Serving>, leaf: Leaf) -> Self {
        Self {
            serving,
            leaf,
            inside: true,
        }
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.serving.served(self.leaf).config)
    }

    /// The CA of the certificate that is shown, as [`Served`] has it.
    pub(crate) fn ca(&self) -> Arc<str> {
        Arc::clone(&self.serving.served(self.leaf).ca)
    }

    /// Whether the handshake will ask for a client certificate, and insist on it.
    pub(crate) fn asks_for_clients(&self) -> bool {
        self.serving.served(self.leaf).mutual
    }

    /// Resolves once the handshake may not end any more.
    pub(crate) async fn too_late(&self) {
        self.serving.gate.shutting().await;
    }

    /// The handshake is complete. `None`: too late, the connection must not live.
    pub(crate) fn complete(mut self, boot: Duration) -> Option<Established> {
        self.inside = false;
        if !self.serving.gate.leave() {
            return None;
        }
        let served = self.serving.served(self.leaf);
        served.completed.fetch_add(1, Ordering::Relaxed);
        self.serving.tunnel.seen().succeeded(&served.ca, boot);
        self.serving.connections.fetch_add(1, Ordering::Relaxed);
        Some(Established {
            ending: self.serving.ending(self.leaf),
            serving: Arc::clone(&self.serving),
        })
    }

    /// The handshake failed, for a reason that [`alert`] names.
    pub(crate) fn failed(self, name: &'static str, boot: Duration) {
        let served = self.serving.served(self.leaf);
        if alert::is_about_certificate(name) {
            served.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.serving.tunnel.seen().failed(name, &served.ca, boot);
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.inside {
            self.serving.gate.leave();
        }
    }
}

/// A connection that came in under a generation; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) serving: Arc<Serving>,
    pub(crate) ending: Arc<Ending>,
}

impl Drop for Established {
    fn drop(&mut self) {
        self.serving.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
