//! Trust bundles: kept and passed on. The edge checks what keeps agents out of harm – signature, key
//! and sequence – and cannot make one.

use futures_util::TryStreamExt;

use super::{By, ChangeError, DatabaseError, Entry, Listed, State, signed, unsigned};

/// Kept of one tunnel: whoever has slept over as many rolls of its key has to pin the next one by hand.
const MOST: i64 = 16;
/// Bytes of bundles in one answer; a longer one comes alone.
const PAGE: usize = 192 * 1024;

/// What the caller found out about a bundle before it is kept.
#[derive(Clone, Debug)]
pub struct CheckedBundle {
    /// Compact JWS.
    pub jws: String,
    /// Counts up.
    pub sequence: u64,
    /// RFC 7638 thumbprint of the key that signed it.
    pub signer: String,
    /// Thumbprint of the key that may sign the next ones.
    pub next_signer: Option<String>,
}

type Row = (i64, String, String, Option<String>);

impl State {
    /// Keeps a bundle: the latest, and each that first names a next key, up to 16 in all, the newest.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Conflict`] if the sequence is not higher than the last, or if the key is neither
    /// the one that signed the last nor the one that this one named.
    pub async fn put_bundle(
        &self,
        by: &By,
        tunnel: &str,
        bundle: &CheckedBundle,
    ) -> Result<u64, ChangeError> {
        let mut change = self.change(by).await?;
        change.usable_tunnel(tunnel).await?;
        let last: Option<Row> = sqlx::query_as(
            "SELECT sequence, jws, signer, next_signer FROM bundle
             WHERE tunnel = $1 ORDER BY sequence DESC LIMIT 1",
        )
        .bind(tunnel)
        .fetch_optional(&mut *change.transaction)
        .await?;
        if let Some((sequence, jws, signer, next)) = &last {
            if unsigned(*sequence) == bundle.sequence && *jws == bundle.jws {
                return Ok(change.nothing().await?);
            }
            refuse(bundle, unsigned(*sequence), signer, next.as_deref())?;
        }
        if let Some((sequence, ..)) = last {
            change.forget(tunnel, sequence).await?;
        }
        sqlx::query(
            "INSERT INTO bundle (tunnel, sequence, jws, signer, next_signer, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(tunnel)
        .bind(signed(bundle.sequence))
        .bind(&bundle.jws)
        .bind(&bundle.signer)
        .bind(&bundle.next_signer)
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        sqlx::query(
            "DELETE FROM bundle WHERE tunnel = $1 AND sequence NOT IN (
                 SELECT sequence FROM bundle WHERE tunnel = $1 ORDER BY sequence DESC LIMIT $2)",
        )
        .bind(tunnel)
        .bind(MOST)
        .execute(&mut *change.transaction)
        .await?;
        let target = bundle.sequence.to_string();
        let number = change
            .commit(Entry::of("tunnel_bundle_put", tunnel, &target))
            .await?;
        Ok(number)
    }

    /// Bundles with a sequence above `after`, oldest first, as many as fit into one answer; and after which
    /// to ask for the others.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn bundles(
        &self,
        tunnel: &str,
        after: u64,
    ) -> Result<Listed<api::Bundle>, DatabaseError> {
        let mut rows = sqlx::query_as::<_, (i64, String)>(
            "SELECT sequence, jws FROM bundle WHERE tunnel = $1 AND sequence > $2 ORDER BY sequence",
        )
        .bind(tunnel)
        .bind(signed(after))
        .fetch(&self.pool);
        let (mut data, mut bytes, mut last) = (Vec::new(), 0, after);
        while let Some((sequence, bundle)) = rows.try_next().await? {
            bytes += bundle.len();
            if bytes > PAGE && !data.is_empty() {
                return Ok((data, Some(last)));
            }
            last = unsigned(sequence);
            data.push(api::Bundle {
                r#type: "tunnel_bundle".to_owned(),
                sequence: last,
                bundle,
            });
        }
        Ok((data, None))
    }
}

impl super::Change<'_> {
    /// Deletes a bundle, unless it was the first that named its next key.
    async fn forget(&mut self, tunnel: &str, sequence: i64) -> Result<(), DatabaseError> {
        sqlx::query(
            "DELETE FROM bundle WHERE tunnel = $1 AND sequence = $2
             AND (next_signer IS NULL OR EXISTS (
                 SELECT 1 FROM bundle AS earlier
                 WHERE earlier.tunnel = $1 AND earlier.sequence < $2
                 AND earlier.next_signer = bundle.next_signer))",
        )
        .bind(tunnel)
        .bind(sequence)
        .execute(&mut *self.transaction)
        .await?;
        Ok(())
    }
}

fn refuse(
    bundle: &CheckedBundle,
    last: u64,
    signer: &str,
    next: Option<&str>,
) -> Result<(), ChangeError> {
    if bundle.sequence <= last {
        let text = format!("bundle: sequence {} is not above {last}", bundle.sequence);
        return Err(ChangeError::Conflict(text));
    }
    if bundle.signer != signer && Some(bundle.signer.as_str()) != next {
        let text = "bundle: its key is neither the last one nor the next one that was named";
        return Err(ChangeError::Conflict(text.to_owned()));
    }
    Ok(())
}
