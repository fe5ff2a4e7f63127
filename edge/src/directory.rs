//! What the relay knows about tunnels, and what it tells about their connections: the seam between data
//! plane and control plane.
//!
//! The control plane fills it ([`put`](Directory::put), [`remove`](Directory::remove),
//! [`heard`](Directory::heard), [`set_instances`](Directory::set_instances)) and reads who is connected
//! ([`live`](Directory::live), [`take_used`](Directory::take_used), [`settled`](Directory::settled)). The
//! relay asks ([`tunnel_by_name`](Directory::tunnel_by_name), [`authenticate`](Directory::authenticate))
//! and watches ([`watch`](Directory::watch)): an entry that changes is enforced on open connections and
//! streams by whoever watches it. Everything is in memory; the one thing that may be asked elsewhere is
//! the entry of a tunnel whose proxy presents a credential (`edge.md` section 3). Nothing here listens,
//! dials or stores, and no credential is ever held: only SHA-256 of it.

mod live;
mod tables;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use futures_util::future::BoxFuture;
use process::Clock;
use thiserror::Error;
use tokio::sync::watch;

use crate::access::Access;

pub use live::{Live, LiveConnection};
pub use tables::Version;

use live::Lives;
use tables::Tables;

/// `edge.md` section 5: this long without the database, and new work is refused.
pub const STALE_LIMIT: Duration = Duration::from_secs(60);
/// How long [`Directory::authenticate`] waits for the database before it decides from memory.
const LOAD_LIMIT: Duration = Duration::from_secs(2);

/// One tunnel as the relay sees it.
#[derive(Clone, Debug)]
pub struct TunnelEntry {
    /// `tnl_…`.
    pub id: String,
    /// `<tunnel-domain>`, lower case, without a leading or trailing dot. Unique.
    pub domain: String,
    /// Whether it may be used.
    pub standing: Standing,
    /// Those that are not cut. One that is missing is cut: connections bound to it end at once.
    pub credentials: Vec<CredentialEntry>,
    /// Who may call.
    pub access: Access,
}

/// Whether a tunnel may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may.
    Active,
    /// Not now: proxies and callers are refused, and what is open ends.
    Suspended,
    /// Never again.
    Archived,
}

/// A connector credential: tunnel token or shared secret, which the relay treats alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialEntry {
    /// Identifier of the row; it is told to the proxy and not secret.
    pub id: String,
    /// SHA-256 of the value as it stands in `Authorization: Bearer`.
    pub sha256: [u8; 32],
    /// Whether new connections may use it. `false` after `rotate_token`, which leaves live ones alone.
    pub accepts: bool,
    /// When connections bound to it end. Told to the proxy at once, enforced by the relay.
    pub cut_at: Option<SystemTime>,
}

/// What a proxy's connection stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// [`TunnelEntry::id`].
    pub tunnel: String,
    /// [`CredentialEntry::id`].
    pub credential: String,
}

/// Why a proxy is not let in. One who has no valid credential learns nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such tunnel, or a credential that it does not take. 401.
    #[error("the credential is not valid for this tunnel")]
    Credential,
    /// The tunnel is suspended. 403.
    #[error("the tunnel is suspended")]
    Suspended,
    /// The tunnel is archived. 404.
    #[error("the tunnel is archived")]
    Archived,
    /// Too many connections or attempts. 429.
    #[error("too many connections or attempts")]
    TooMany,
    /// The database has been silent for too long. 503.
    #[error("the edge cannot decide now")]
    Unavailable,
}

/// The database did not answer.
#[derive(Clone, Copy, Debug, Error)]
#[error("the database does not answer")]
pub struct Unanswered;

/// Reads one tunnel by its id, and how new that is. Called for each credential that a proxy presents.
pub type Load = Arc<
    dyn Fn(String) -> BoxFuture<'static, Result<(Option<TunnelEntry>, Version), Unanswered>>
        + Send
        + Sync,
>;

/// The table. Clones share it.
#[derive(Clone)]
pub struct Directory {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    instance: String,
    load: Option<Load>,
    tables: RwLock<Tables>,
    instances: watch::Sender<u32>,
    /// Boot time at which the database last answered; none behind it, and it is never stale.
    heard: RwLock<Option<Duration>>,
    stale_limit: Duration,
    lives: Lives,
}

impl TunnelEntry {
    fn is_same(&self, other: &Self) -> bool {
        self.domain == other.domain
            && self.standing == other.standing
            && self.credentials == other.credentials
            && Access::is_same(&self.access, &other.access)
    }
}

impl Directory {
    /// An empty table of the edge `instance` (told to proxies; different on each edge, not secret).
    /// `load`: `None`, what was [`put`](Self::put) is all there is and never stale.
    pub fn new(instance: String, clock: Arc<dyn Clock>, load: Option<Load>) -> Self {
        Self::with_stale_limit(instance, clock, load, STALE_LIMIT)
    }

    /// The same, stale after `stale_limit` without the database.
    pub fn with_stale_limit(
        instance: String,
        clock: Arc<dyn Clock>,
        load: Option<Load>,
        stale_limit: Duration,
    ) -> Self {
        let heard = load.is_some().then(|| clock.boot());
        Self {
            shared: Arc::new(Shared {
                clock,
                instance,
                load,
                tables: RwLock::default(),
                instances: watch::Sender::new(1),
                heard: RwLock::new(heard),
                stale_limit,
                lives: Lives::default(),
            }),
        }
    }

    /// Adds or replaces a tunnel, however new it is. Returns when everybody who watches it has been told;
    /// what they do about it is [`settled`](Self::settled).
    pub fn put(&self, entry: TunnelEntry) {
        let mut tables = self.write();
        let version = tables.version(&entry.id).unwrap_or_default();
        tables.put(Arc::new(entry), version);
    }

    /// As [`put`](Self::put), unless what is known about this tunnel is newer. `true`: something changed.
    pub fn put_at(&self, entry: Arc<TunnelEntry>, version: Version) -> bool {
        let mut tables = self.write();
        tables.version(&entry.id) <= Some(version) && tables.put(entry, version)
    }

    /// Forgets a tunnel; whatever is open on it ends as if it were archived.
    pub fn remove(&self, id: &str) {
        let mut tables = self.write();
        let version = tables.version(id).unwrap_or_default();
        tables.remove(id, version);
    }

    /// As [`remove`](Self::remove), unless what is known about this tunnel is newer. `true`: it was there.
    pub fn remove_at(&self, id: &str, version: Version) -> bool {
        let mut tables = self.write();
        tables.version(id) <= Some(version) && tables.remove(id, version)
    }

    /// Wakes everybody who watches a tunnel: something has changed by which they decide, and which is not in
    /// an entry.
    pub fn touch(&self) {
        for slot in self.read().slots() {
            slot.send_modify(|_| ());
        }
    }

    /// The database answered just now: to be called for each successful reading of the change counter.
    pub fn heard(&self) {
        let mut heard = write(&self.shared.heard);
        if heard.is_some() {
            *heard = Some(self.shared.clock.boot());
        }
    }

    /// How many edges serve these tunnels, this one included. Proxies are told.
    pub fn set_instances(&self, count: u32) {
        self.shared.instances.send_if_modified(|known| {
            let changed = *known != count;
            *known = count;
            changed
        });
    }

    /// How many edges there are, and every change of it.
    pub fn instances(&self) -> watch::Receiver<u32> {
        self.shared.instances.subscribe()
    }

    /// Name of this edge among them.
    pub fn instance(&self) -> &str {
        &self.shared.instance
    }

    /// Whether new work is to be refused, because what is known may be too old.
    pub fn is_stale(&self) -> bool {
        read(&self.shared.heard)
            .is_some_and(|at| self.shared.clock.boot() > at + self.shared.stale_limit)
    }

    /// The tunnel that `name` belongs to, whatever its standing: exactly one label before its domain, in
    /// any case, with or without a trailing dot.
    pub fn tunnel_by_name(&self, name: &str) -> Option<Arc<TunnelEntry>> {
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let (route, domain) = name.split_once('.')?;
        if route.is_empty() {
            return None;
        }
        self.read().of_domain(domain)
    }

    /// A tunnel by its id.
    pub fn tunnel(&self, id: &str) -> Option<Arc<TunnelEntry>> {
        self.read().slot(id).map(|slot| slot.borrow().clone())
    }

    /// The entry of a tunnel and every change of it; after [`remove`](Self::remove) an archived one, then
    /// the end.
    pub fn watch(&self, id: &str) -> Option<watch::Receiver<Arc<TunnelEntry>>> {
        self.read().slot(id).map(watch::Sender::subscribe)
    }

    /// Whether `credential` opens a connection of tunnel `id` now. Reads the database where there is one;
    /// from memory only while that does not answer. Counts as a use when it succeeds.
    ///
    /// # Errors
    ///
    /// Why not.
    pub async fn authenticate(&self, id: &str, credential: &[u8]) -> Result<Bound, Refusal> {
        let entry = self.newest(id).await?.ok_or(Refusal::Credential)?;
        let digest = digest::digest(&digest::SHA256, credential);
        // Every one is compared, so that the time taken tells nothing.
        let mut found = None;
        for known in &entry.credentials {
            let equal = verify_slices_are_equal(&known.sha256, digest.as_ref()).is_ok();
            if equal && known.accepts {
                found = Some(known.id.clone());
            }
        }
        let credential = found.ok_or(Refusal::Credential)?;
        match entry.standing {
            Standing::Active => {}
            Standing::Suspended => return Err(Refusal::Suspended),
            Standing::Archived => return Err(Refusal::Archived),
        }
        let now = self.shared.clock.wall();
        self.shared.lives.used(&credential, now);
        Ok(Bound {
            tunnel: entry.id.clone(),
            credential,
        })
    }

    /// Counts a connection of a proxy as live until the guard is dropped.
    pub fn hold(&self, bound: Bound, replica: String, address: std::net::SocketAddr) -> Live {
        let since = self.shared.clock.wall();
        self.shared.lives.hold(bound, replica, address, since)
    }

    /// Connections that are bound to a credential now.
    pub fn live(&self, credential: &str) -> Vec<LiveConnection> {
        self.shared.lives.of(credential)
    }

    /// Every connection of a proxy that is live now.
    pub fn all_live(&self) -> Vec<LiveConnection> {
        self.shared.lives.all()
    }

    /// When each credential was last used, for those used since this was last called.
    pub fn take_used(&self) -> HashMap<String, SystemTime> {
        self.shared.lives.take_used()
    }

    /// Whether no connection is bound to a credential that its tunnel's entry does not list: every cut that
    /// is known here is enforced on this edge.
    pub fn is_settled(&self) -> bool {
        self.shared.lives.is_settled(|bound| self.carries(bound))
    }

    /// Resolves once [it is so](Self::is_settled), which is up to the last of those connections.
    pub async fn settled(&self) {
        let carries = |bound: &Bound| self.carries(bound);
        self.shared.lives.settled(carries).await;
    }

    fn carries(&self, bound: &Bound) -> bool {
        self.tunnel(&bound.tunnel).is_some_and(|entry| {
            let mut listed = entry.credentials.iter();
            entry.standing == Standing::Active && listed.any(|known| known.id == bound.credential)
        })
    }

    /// The wall clock that decides here.
    pub fn now(&self) -> SystemTime {
        self.shared.clock.wall()
    }

    async fn newest(&self, id: &str) -> Result<Option<Arc<TunnelEntry>>, Refusal> {
        let Some(load) = &self.shared.load else {
            return Ok(self.tunnel(id));
        };
        match tokio::time::timeout(LOAD_LIMIT, load(id.to_owned())).await {
            Ok(Ok((found, version))) => {
                match found {
                    Some(entry) => self.put_at(Arc::new(entry), version),
                    None => self.remove_at(id, version),
                };
                // Which may be newer than what was found.
                Ok(self.tunnel(id))
            }
            Ok(Err(Unanswered)) | Err(_) if self.is_stale() => Err(Refusal::Unavailable),
            Ok(Err(Unanswered)) | Err(_) => Ok(self.tunnel(id)),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        read(&self.shared.tables)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        write(&self.shared.tables)
    }
}

// Held for plain bookkeeping that does not panic.
fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
