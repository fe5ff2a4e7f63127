//! From a checked offer to a published generation: where it stands among the others, what it ends, and
//! when it has settled.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, Weak};

use control::{Credential, Reason};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::gate::Gate;
use super::serving::{Serving, Why};
use super::{Checked, Credentials, Ledger, Refused, Source};

impl Credentials {
    /// Where the offer stands among what was published: `Some` for what is served already.
    pub(super) fn placed(
        &self,
        ledger: &mut Ledger,
        credential: &Credential,
        source: Source,
        checked: &Checked,
    ) -> Result<Option<Arc<Serving>>, Refused> {
        if source == Source::Files {
            return Ok(None);
        }
        let known = ledger.lowest.get(&credential.tunnel).copied().unwrap_or(0);
        if credential.generation < known.max(credential.lowest) {
            return Err(Refused::new(
                Reason::Stale,
                "its generation is below the lowest allowed",
            ));
        }
        let table = self.current();
        let Some(current) = table.iter().find(|serving| {
            *serving.tunnel.name == *credential.tunnel && serving.counted_by_daemon()
        }) else {
            return Ok(None);
        };
        if credential.generation > current.generation {
            return Ok(None);
        }
        if credential.generation < current.generation || checked.leaf.sha256 != current.leaf.sha256
        {
            return Err(Refused::new(
                Reason::Stale,
                format!("generation {} is in force", current.generation),
            ));
        }
        // Beside a manifest that names no client CA a file does, and that is replaced on its own.
        if credential.client_ca_certificates != current.client_cas {
            return Ok(None);
        }
        self.raise_lowest(ledger, current, credential.lowest);
        Ok(Some(Arc::clone(current)))
    }

    pub(super) fn publish(
        &self,
        ledger: &mut Ledger,
        credential: &Credential,
        source: Source,
        checked: Checked,
    ) -> Arc<Serving> {
        let table = self.current();
        let before = table.iter().find(|s| *s.tunnel.name == *credential.tunnel);
        let generation = match (source, before) {
            (Source::Channel | Source::Directory, _) => credential.generation,
            (Source::Files, Some(before)) => before.generation + 1,
            (Source::Files, None) => 1,
        };
        let serving = Arc::new(Serving {
            tunnel: ledger.tunnel(&credential.tunnel),
            tunnel_domain: checked.domain.map(Into::into),
            generation,
            source,
            client_cas: credential.client_ca_certificates.clone(),
            leaf: checked.leaf,
            fallback: checked.fallback,
            canary_share: credential.canary_share,
            begun: AtomicU64::new(0),
            gate: Gate::default(),
            ending: Mutex::default(),
            fallback_ending: Mutex::default(),
            expired: AtomicBool::new(false),
            fallback_expired: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            settled: CancellationToken::new(),
        });
        let (replaced, mut next): (Vec<_>, Vec<_>) = table
            .iter()
            .cloned()
            .partition(|other| serving.replaces(other));
        next.push(Arc::clone(&serving));
        // The longest domain first, so that a tunnel may live under another one's domain.
        next.sort_by_key(|s| std::cmp::Reverse(s.tunnel_domain.as_ref().map_or(0, |d| d.len())));
        self.shared.table.send_replace(Arc::new(next));

        ledger.past.retain(|past| past.strong_count() > 0);
        for old in &replaced {
            old.gate.close();
            ledger.past.push(Arc::downgrade(old));
        }
        self.raise_lowest(ledger, &serving, credential.lowest);
        self.settle(replaced, &serving);
        tracing::info!(
            tunnel = credential.tunnel,
            generation,
            leaf_sha256 = serving.leaf.sha256,
            source = source.word(),
            "credential published"
        );
        serving
    }

    /// Ends what may not be served any more once `serving` came with `lowest`, its handshakes at once.
    fn raise_lowest(&self, ledger: &mut Ledger, serving: &Serving, lowest: u64) {
        // Whoever writes plain files counts nothing and withdraws nothing.
        if !serving.counted_by_daemon() {
            return;
        }
        let name = serving.tunnel.name.to_string();
        let known = ledger.lowest.entry(name).or_default();
        *known = lowest.max(*known);
        let lowest = *known;
        let current = self.current();
        for old in ledger.past.iter().filter_map(Weak::upgrade) {
            let below = if old.counted_by_daemon() && Arc::ptr_eq(&old.tunnel, &serving.tunnel) {
                old.generation < lowest
            } else {
                // Not comparable, but it was there before: it goes when nothing earlier may stay.
                serving.replaces(&old) && lowest >= serving.generation
            };
            if below && !current.iter().any(|serving| Arc::ptr_eq(serving, &old)) {
                old.gate.shut();
                old.end(Why::Retired);
            }
        }
    }

    /// Marks `serving` as settled when no handshake is left under what it `replaced`, nor under what that
    /// had replaced: now, or after the swap grace at the latest, when those that are left are shut out.
    fn settle(&self, mut replaced: Vec<Arc<Serving>>, serving: &Arc<Serving>) {
        replaced.retain(|old| !old.gate.is_empty() || !old.settled.is_cancelled());
        let settled = serving.settled.clone();
        if replaced.is_empty() {
            settled.cancel();
            return;
        }
        let deadline = Instant::now() + self.shared.swap_grace;
        self.shared.tasks.spawn(async move {
            for old in replaced {
                if tokio::time::timeout_at(deadline, old.gate.emptied())
                    .await
                    .is_err()
                {
                    old.gate.shut();
                }
                // Its own grace began earlier, so that this adds nothing to ours.
                old.settled().await;
            }
            settled.cancel();
        });
    }
}

impl Serving {
    /// Whether this is published in the place of `other`, so that no handshake may get that any more.
    fn replaces(&self, other: &Self) -> bool {
        let files = match self.source {
            // Once the channel speaks, what files of somebody else said is over.
            Source::Channel => !other.counted_by_daemon(),
            // There is one set of files: what it said before is over, whoever wrote it.
            Source::Directory | Source::Files => other.source != Source::Channel,
        };
        // A caller names a domain and no tunnel: of two tunnels of one domain he would get either. The
        // daemon has no two such; it is one that was renamed.
        files
            || Arc::ptr_eq(&self.tunnel, &other.tunnel)
            || self.tunnel_domain == other.tunnel_domain
    }
}

/// An offer that was taken up.
#[derive(Clone, Debug)]
pub struct Published(pub(super) Arc<Serving>);

impl Published {
    /// Resolves once no handshake ends on an earlier generation any more.
    pub async fn settled(&self) {
        self.0.settled().await;
    }

    /// The generation, counted here for files without a manifest.
    pub fn generation(&self) -> u64 {
        self.0.generation
    }

    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub fn leaf_sha256(&self) -> &str {
        &self.0.leaf.sha256
    }
}
