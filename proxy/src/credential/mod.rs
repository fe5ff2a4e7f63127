//! The credential in force, tunnel by tunnel, and the only way to replace it.
//!
//! An offer is checked as a peer would check it, becomes a whole new TLS configuration that shares
//! nothing with an earlier one, and is published by one `watch` send. Handshakes take the
//! configuration when their `ClientHello` is complete; the offer has settled when the last handshake of
//! an earlier generation has ended, after at most the swap grace. An offer that is refused touches
//! nothing. Where offers come from is decided in `control` and `files`.

mod gate;
mod publish;
mod report;
mod serving;
mod tickets;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use control::{Credential, Leaf as Offered, Policy, Reason};
use process::{Clock, Tasks};
use rustls::crypto::CryptoProvider;
use tokio::sync::watch;
use tokio_rustls::rustls;

pub use publish::Published;
pub(crate) use report::seconds_left;
pub(crate) use serving::{Begun, Established, Serving, Tunnel, Why};
pub use verify::Refused;
pub(crate) use verify::{fingerprint, leaf_fingerprint};

use serving::Served;
use tickets::Tickets;
use verify::Against;

/// How often expiry is looked at: tokio's timers stand still while the machine sleeps, so no timer is
/// set for the instant itself (F34).
const TICK: Duration = Duration::from_secs(1);

/// Where an offer comes from. The channel wins: after its first credential, files are ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The daemon's control channel.
    Channel,
    /// Files that the daemon wrote, with a manifest that gives the generation.
    Directory,
    /// Files of somebody else; the generation is counted here.
    Files,
}

impl Source {
    /// As the log calls it.
    fn word(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Directory => "directory",
            Self::Files => "files",
        }
    }
}

/// Every tunnel's credential. Clones share them.
#[derive(Clone)]
pub struct Credentials {
    shared: Arc<Shared>,
}

struct Shared {
    table: watch::Sender<Arc<Vec<Arc<Serving>>>>,
    ledger: Mutex<Ledger>,
    channel: AtomicBool,
    channel_lost: AtomicBool,
    provider: Arc<CryptoProvider>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    swap_grace: Duration,
}

/// What is remembered of what was published.
#[derive(Default)]
struct Ledger {
    tunnels: BTreeMap<String, Arc<Tunnel>>,
    lowest: BTreeMap<String, u64>,
    policies: BTreeMap<String, u64>,
    /// Tunnels that the daemon has, as it said last; `None`: it has said nothing yet.
    listed: Option<BTreeSet<String>>,
    /// Superseded generations; the dead ones are swept out at each publication and each second.
    past: Vec<Weak<Serving>>,
}

/// A handshake cannot begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotServed {
    /// There is no credential yet.
    Nothing,
    /// The server name belongs to no tunnel.
    UnknownName,
}

impl Credentials {
    /// None yet: every handshake is refused until the first offer.
    pub fn new(clock: Arc<dyn Clock>, tasks: Tasks, swap_grace: Duration) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        Self {
            shared: Arc::new(Shared {
                table: watch::Sender::default(),
                ledger: Mutex::default(),
                channel: AtomicBool::new(false),
                channel_lost: AtomicBool::new(false),
                provider,
                clock,
                tasks,
                swap_grace,
            }),
        }
    }

    /// Checks `credential` and serves it. It is in force at once; it has settled, and may be
    /// acknowledged, when [`Published::settled`] resolves. The identical one again changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refused`]; what was in force stays in force.
    pub fn offer(&self, credential: &Credential, source: Source) -> Result<Published, Refused> {
        let checked = self.check(credential, source)?;
        let mut ledger = self.ledger();
        if source != Source::Channel && self.channel_won() {
            let detail = "the control channel has taken over";
            return Err(Refused::new(Reason::Stale, detail));
        }
        let serving = match self.placed(&mut ledger, credential, source, &checked)? {
            Some(same) => same,
            None => self.publish(&mut ledger, credential, source, checked),
        };
        if source == Source::Channel {
            self.shared.channel.store(true, Ordering::Relaxed);
        }
        Ok(Published(serving))
    }

    /// Whether the channel has delivered a credential, upon which files are ignored.
    pub fn channel_won(&self) -> bool {
        self.shared.channel.load(Ordering::Relaxed)
    }

    /// Notes whether the daemon is away, for those who ask how things stand.
    pub(crate) fn channel_lost(&self, lost: bool) {
        self.shared.channel_lost.store(lost, Ordering::Relaxed);
    }

    /// Client certificates that `policy` refuses are refused from now on; their connections end.
    ///
    /// # Errors
    ///
    /// Its generation is below the one in force.
    pub fn deny(&self, policy: &Policy) -> Result<(), Refused> {
        let denied = policy.denied.iter().map(|text| text.to_ascii_lowercase());
        let mut ledger = self.ledger();
        let known = ledger.policies.entry(policy.tunnel.clone()).or_default();
        if policy.generation < *known {
            let detail = format!("generation {known} is in force");
            return Err(Refused::new(Reason::Stale, detail));
        }
        *known = policy.generation;
        let tunnel = ledger.tunnel(&policy.tunnel);
        tunnel.denied.send_replace(Arc::new(denied.collect()));
        Ok(())
    }

    /// Begins a handshake for `server_name`, as the `ClientHello` gives it.
    pub(crate) fn begin(&self, server_name: Option<&str>) -> Result<Begun, NotServed> {
        loop {
            let table = Arc::clone(&self.shared.table.borrow());
            let serving = pick(&table, server_name)?;
            // A gate closes only after its successor was published, so this ends.
            if serving.gate.enter() {
                let now = self.shared.clock.wall();
                let leaf = serving.choose(server_name, now);
                serving.served(leaf).end_tickets(now);
                return Ok(Begun::new(Arc::clone(serving), leaf));
            }
        }
    }

    /// Tells every connection to end.
    pub(crate) fn end_all(&self, why: Why) {
        for serving in self.alive() {
            serving.end(why);
        }
    }

    /// Ends connections when their own certificate has expired (F15), until the stop.
    pub(crate) async fn watch_expiry(self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.shared.tasks.stopping() => return,
            }
            let now = self.now();
            for serving in self.alive() {
                if serving.expire(now) {
                    tracing::warn!(
                        tunnel = &*serving.tunnel.name,
                        generation = serving.generation,
                        "certificate expired, ending its connections"
                    );
                }
            }
        }
    }

    /// Every generation that is served or still has connections, the served ones first.
    pub(crate) fn alive(&self) -> Vec<Arc<Serving>> {
        let mut ledger = self.ledger();
        ledger.past.retain(|past| past.strong_count() > 0);
        let mut alive: Vec<_> = self.shared.table.borrow().iter().map(Arc::clone).collect();
        alive.extend(ledger.past.iter().filter_map(Weak::upgrade));
        alive
    }

    /// The generation in force of each tunnel.
    pub(crate) fn current(&self) -> Arc<Vec<Arc<Serving>>> {
        Arc::clone(&self.shared.table.borrow())
    }

    /// The wall clock, by which credentials are in date or not.
    pub(crate) fn now(&self) -> SystemTime {
        self.shared.clock.wall()
    }

    /// Time since boot, with which the use of a credential is told.
    pub(crate) fn boot(&self) -> Duration {
        self.shared.clock.boot()
    }

    fn check(&self, credential: &Credential, source: Source) -> Result<Checked, Refused> {
        let provider = &self.shared.provider;
        let domain = normal(&credential.tunnel_domain);
        let name = domain.as_ref().map(|domain| format!("probe.{domain}"));
        let against = Against {
            ca_certificates: &credential.ca_certificates,
            known: &credential.ca_certificates,
            // Files of somebody else may hold a certificate for single routes.
            name: name.as_deref().filter(|_| source != Source::Files),
            now: self.now(),
        };
        let serve = |offered: &Offered, against: &Against<'_>| {
            let pair = verify::pair(provider, &offered.chain, offered.key.expose(), against)?;
            let clients = &credential.client_ca_certificates;
            let tickets = Tickets::new()
                .map_err(|error| Refused::new(Reason::Malformed, error.to_string()))?;
            Ok::<_, Refused>(Served {
                config: verify::server_config(provider, &pair.key, clients, Arc::clone(&tickets))?,
                tickets,
                mutual: !clients.is_empty(),
                certificate: pair.certificate,
                sha256: pair.sha256,
                not_after: pair.not_after,
                ca: pair.ca,
                completed: AtomicU64::new(0),
                refused: AtomicU64::new(0),
            })
        };
        let leaf = serve(&credential.leaf, &against)?;
        // The fallback stands under a CA that is on its way out, so it is not held to the list; and it
        // is of an earlier generation, so it is not served when nothing earlier may be.
        let lenient = Against {
            ca_certificates: &[],
            ..against
        };
        let wanted = credential
            .fallback
            .as_ref()
            .filter(|_| credential.lowest < credential.generation);
        let fallback = match wanted.map(|offered| serve(offered, &lenient)).transpose() {
            Err(refused) if refused.reason == Reason::Expired => {
                tracing::warn!(
                    tunnel = credential.tunnel,
                    "fallback certificate has expired"
                );
                None
            }
            other => other?,
        };
        Ok(Checked {
            domain,
            leaf,
            fallback,
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Held for plain bookkeeping that does not panic.
        self.shared
            .ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An offer that can be taken up.
struct Checked {
    domain: Option<String>,
    leaf: Served,
    fallback: Option<Served>,
}

impl Ledger {
    fn tunnel(&mut self, name: &str) -> Arc<Tunnel> {
        let entry = self.tunnels.entry(name.to_owned());
        Arc::clone(entry.or_insert_with(|| Arc::new(Tunnel::new(name))))
    }
}

/// One tunnel serves any name and none; several are told apart by the end of the name.
fn pick<'a>(
    table: &'a [Arc<Serving>],
    server_name: Option<&str>,
) -> Result<&'a Arc<Serving>, NotServed> {
    match table {
        [] => Err(NotServed::Nothing),
        [only] => Ok(only),
        several => several
            .iter()
            .find(|serving| server_name.is_some_and(|name| serving.covers(name)))
            .ok_or(NotServed::UnknownName),
    }
}

fn normal(domain: &str) -> Option<String> {
    let domain = domain.trim_matches('.').to_ascii_lowercase();
    (!domain.is_empty()).then_some(domain)
}
