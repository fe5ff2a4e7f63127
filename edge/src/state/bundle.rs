//! Trust bundles: kept and passed on. The edge checks what keeps agents out of harm – signature, key
//! and sequence – and cannot make one.

use super::{By, ChangeError, DatabaseError, Entry, State, signed, unsigned};

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
    /// Keeps a bundle: the latest, and each that first names a next key.
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
        let target = bundle.sequence.to_string();
        let number = change
            .commit(Entry::of("tunnel_bundle_put", tunnel, &target))
            .await?;
        Ok(number)
    }

    /// Bundles with a sequence above `after`, oldest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn bundles(
        &self,
        tunnel: &str,
        after: u64,
    ) -> Result<Vec<api::Bundle>, DatabaseError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT sequence, jws FROM bundle WHERE tunnel = $1 AND sequence > $2
             ORDER BY sequence LIMIT 100",
        )
        .bind(tunnel)
        .bind(signed(after))
        .fetch_all(&self.pool)
        .await?;
        let bundle = |(sequence, bundle)| api::Bundle {
            r#type: "tunnel_bundle".to_owned(),
            sequence: unsigned(sequence),
            bundle,
        };
        Ok(rows.into_iter().map(bundle).collect())
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
