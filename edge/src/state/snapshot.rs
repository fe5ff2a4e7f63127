//! Everything that the relay decides by, read at one moment.

use std::collections::BTreeMap;

use sqlx::{Any, Transaction};

use super::credential::{COLUMNS, credential};
use super::{Credential, DatabaseError, State, access, signed, unsigned};

/// What all tunnels were at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The last change that it has seen.
    pub change: u64,
    /// By id. Archived ones are there too, so that the relay can tell them from unknown ones.
    pub tunnels: BTreeMap<String, SnapshotTunnel>,
}

/// One tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotTunnel {
    /// `<tunnel-domain>`.
    pub domain: String,
    /// Whether it is suspended.
    pub suspended: bool,
    /// Whether it is archived.
    pub archived: bool,
    /// Whether a CA certificate is registered: a tunnel without one carries nothing.
    pub certified: bool,
    /// Those to which something may be bound; ones that were cut are left out.
    pub credentials: Vec<Credential>,
    /// Who may call.
    pub access: api::Access,
}

impl State {
    /// Reads everything.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn snapshot(&self, now: u64) -> Result<Snapshot, DatabaseError> {
        self.read_tunnels(None, now).await
    }

    /// Reads one tunnel, and the number of the last change that is in it.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn snapshot_tunnel(
        &self,
        id: &str,
        now: u64,
    ) -> Result<(Option<SnapshotTunnel>, u64), DatabaseError> {
        let mut snapshot = self.read_tunnels(Some(id), now).await?;
        Ok((snapshot.tunnels.remove(id), snapshot.change))
    }

    async fn read_tunnels(&self, only: Option<&str>, now: u64) -> Result<Snapshot, DatabaseError> {
        let only = only.unwrap_or_default();
        let mut transaction = self.one_moment().await?;
        let (change,): (i64,) = sqlx::query_as("SELECT value FROM sequence WHERE name = 'change'")
            .fetch_one(&mut *transaction)
            .await?;
        let mut tunnels = bare(&mut transaction, only).await?;
        let rows = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM connector_credential
             WHERE ($1 = '' OR tunnel = $1)
             AND (cut_at IS NULL OR (cut_at > $2 AND cut_at > COALESCE(stamped_at, 0)))
             ORDER BY position"
        ))
        .bind(only)
        .bind(signed(now))
        .fetch_all(&mut *transaction)
        .await?;
        for row in &rows {
            let credential = credential(row)?;
            if let Some(tunnel) = tunnels.get_mut(&credential.tunnel) {
                tunnel.credentials.push(credential);
            }
        }
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT tunnel, version, document FROM access WHERE ($1 = '' OR tunnel = $1)",
        )
        .bind(only)
        .fetch_all(&mut *transaction)
        .await?;
        for (id, version, document) in rows {
            if let Some(tunnel) = tunnels.get_mut(&id) {
                tunnel.access = access::versioned((version, document)).access;
            }
        }
        transaction.rollback().await?;
        let change = unsigned(change);
        Ok(Snapshot { change, tunnels })
    }
}

async fn bare(
    transaction: &mut Transaction<'static, Any>,
    only: &str,
) -> Result<BTreeMap<String, SnapshotTunnel>, DatabaseError> {
    let rows: Vec<(String, String, Option<i64>, Option<i64>)> = sqlx::query_as(
        "SELECT id, domain, suspended_at, archived_at FROM tunnel WHERE ($1 = '' OR id = $1)",
    )
    .bind(only)
    .fetch_all(&mut **transaction)
    .await?;
    let certified: Vec<(String, i64)> = sqlx::query_as(
        "SELECT tunnel, COUNT(*) FROM certificate
         WHERE archived_at IS NULL AND ($1 = '' OR tunnel = $1) GROUP BY tunnel",
    )
    .bind(only)
    .fetch_all(&mut **transaction)
    .await?;
    let certified: BTreeMap<String, u64> = certified
        .into_iter()
        .map(|(tunnel, count)| (tunnel, unsigned(count)))
        .collect();
    let tunnel = |(id, domain, suspended, archived): (String, String, Option<i64>, Option<i64>)| {
        let tunnel = SnapshotTunnel {
            domain,
            suspended: suspended.is_some(),
            archived: archived.is_some(),
            certified: certified.contains_key(&id),
            ..SnapshotTunnel::default()
        };
        (id, tunnel)
    };
    Ok(rows.into_iter().map(tunnel).collect())
}
