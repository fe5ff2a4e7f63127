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
            *serving.tunnel.name == *credential.tunnel && serving.counted_by_daemon
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
        let current = Arc::clone(current);
        self.raise_lowest(ledger, credential);
        Ok(Some(current))
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
        let counted_by_daemon = source != Source::Files;
        let generation = match before {
            Some(before) if !counted_by_daemon => before.generation + 1,
            None if !counted_by_daemon => 1,
            _ => credential.generation,
        };
        let serving = Arc::new(Serving {
            tunnel: ledger.tunnel(&credential.tunnel),
            tunnel_domain: checked.domain.map(Into::into),
            generation,
            counted_by_daemon,
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
        // Once the channel speaks, what files said is over, under whatever name they said it.
        let superseded = |other: &Arc<Serving>| {
            *other.tunnel.name == *credential.tunnel
                || (source == Source::Channel && !other.counted_by_daemon)
        };
        let mut next: Vec<_> = table.iter().filter(|s| !superseded(s)).cloned().collect();
        next.push(Arc::clone(&serving));
        // The longest domain first, so that a tunnel may live under another one's domain.
        next.sort_by_key(|s| std::cmp::Reverse(s.tunnel_domain.as_ref().map_or(0, |d| d.len())));
        self.shared.table.send_replace(Arc::new(next));

        ledger.past.retain(|past| past.strong_count() > 0);
        for old in table.iter().filter(|old| superseded(old)) {
            old.gate.close();
            ledger.past.push(Arc::downgrade(old));
        }
        self.raise_lowest(ledger, credential);
        self.settle(ledger, &serving);
        tracing::info!(
            tunnel = credential.tunnel,
            generation,
            leaf_sha256 = serving.leaf.sha256,
            source = source.word(),
            "credential published"
        );
        serving
    }

    /// Ends what the credential does not allow any more, its handshakes at once.
    fn raise_lowest(&self, ledger: &mut Ledger, credential: &Credential) {
        let lowest = ledger.lowest.entry(credential.tunnel.clone()).or_default();
        *lowest = credential.lowest.max(*lowest);
        let lowest = *lowest;
        let current = self.current();
        for old in ledger.past.iter().filter_map(Weak::upgrade) {
            let below = if old.counted_by_daemon {
                *old.tunnel.name == *credential.tunnel && old.generation < lowest
            } else {
                // Not comparable, but it was there before: it goes when nothing earlier may stay.
                lowest >= credential.generation
            };
            if below && !current.iter().any(|serving| Arc::ptr_eq(serving, &old)) {
                old.gate.shut();
                old.end(Why::Retired);
            }
        }
    }

    /// Marks `serving` as settled when no handshake is left under an earlier generation: now, or
    /// after the swap grace at the latest, when those that are left are shut out.
    fn settle(&self, ledger: &Ledger, serving: &Arc<Serving>) {
        let busy: Vec<_> = ledger
            .past
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|old| Arc::ptr_eq(&old.tunnel, &serving.tunnel) || !old.counted_by_daemon)
            .filter(|old| !old.gate.is_empty())
            .collect();
        let settled = serving.settled.clone();
        if busy.is_empty() {
            settled.cancel();
            return;
        }
        let deadline = Instant::now() + self.shared.swap_grace;
        self.shared.tasks.spawn(async move {
            for old in busy {
                if tokio::time::timeout_at(deadline, old.gate.emptied())
                    .await
                    .is_err()
                {
                    old.gate.shut();
                }
            }
            settled.cancel();
        });
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
