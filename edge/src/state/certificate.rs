//! CA certificates registered for a tunnel: two at most are active.

use std::time::{Duration, UNIX_EPOCH};

use sqlx::Row;
use sqlx::any::AnyRow;

use super::tunnel::{Listed, Page};
use super::{
    By, Change, ChangeError, DatabaseError, Entry, Identifier, State, random_identifier, signed,
    timestamp,
};

/// Most certificates of a tunnel that are active at once.
const MOST: usize = 2;
const COLUMNS: &str = "id, position, tunnel, fingerprint, created_at, expires_at, archived_at";

/// What stands in the state for a CA that was found to keep every rule.
#[derive(Clone, Debug)]
pub struct RegisteredCa {
    fingerprint: String,
    pem: String,
    expires_at: u64,
}

impl RegisteredCa {
    /// Reads an upload by the rules for one (`pki::lint_authority`).
    ///
    /// # Errors
    ///
    /// One sentence for each rule that it breaks, joined: what is so, why it must not be, what to do.
    pub fn read(text: &str, now: u64) -> Result<Self, ChangeError> {
        let now = UNIX_EPOCH + Duration::from_secs(now);
        let ca = pki::lint_authority(text, now).map_err(|findings| {
            let sentences: Vec<String> = findings.iter().map(ToString::to_string).collect();
            ChangeError::Invalid(format!("ca_certificate_pem: {}", sentences.join(" | ")))
        })?;
        Ok(Self {
            fingerprint: ca.fingerprint().to_string(),
            pem: ca.to_pem(),
            expires_at: ca.validity().not_after_unix(),
        })
    }
}

impl State {
    /// Registers a CA certificate.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Conflict`] if two are active, or this one is registered already.
    pub async fn create_certificate(
        &self,
        by: &By,
        tunnel: &str,
        ca: &RegisteredCa,
    ) -> Result<(api::Certificate, u64), ChangeError> {
        let mut change = self.change(by).await?;
        change.usable_tunnel(tunnel).await?;
        let active = change.active(tunnel).await?;
        if let Some(same) = active.iter().find(|c| c.fingerprint == ca.fingerprint) {
            let text = format!("this certificate is registered already, as {}", same.id);
            return Err(ChangeError::Conflict(text));
        }
        if active.len() >= MOST {
            let ids: Vec<&str> = active.iter().map(|c| c.id.as_str()).collect();
            let text = format!(
                "two certificates are active already: archive {} first",
                ids.join(" or ")
            );
            return Err(ChangeError::Conflict(text));
        }
        let id = random_identifier(Identifier::Certificate);
        sqlx::query(
            "INSERT INTO certificate
             (id, position, tunnel, fingerprint, pem, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&id)
        .bind(change.number)
        .bind(tunnel)
        .bind(&ca.fingerprint)
        .bind(&ca.pem)
        .bind(signed(by.now))
        .bind(signed(ca.expires_at))
        .execute(&mut *change.transaction)
        .await?;
        let entry = ("tunnel_certificate_added", id.as_str());
        change.finish_certificate(tunnel, entry).await
    }

    /// Archives a certificate, also the last one. Twice is as good as once.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_certificate(
        &self,
        by: &By,
        tunnel: &str,
        id: &str,
    ) -> Result<(api::Certificate, u64), ChangeError> {
        let mut change = self.change(by).await?;
        change.tunnel(tunnel).await?;
        let found = change.certificate(tunnel, id).await?;
        if found.archived_at.is_some() {
            return Ok((found, change.nothing().await?));
        }
        let archive = "UPDATE certificate SET archived_at = $1 WHERE id = $2";
        change.stamp(archive, id).await?;
        let entry = ("tunnel_certificate_revoked", id);
        change.finish_certificate(tunnel, entry).await
    }

    /// One certificate of a tunnel.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn certificate(
        &self,
        tunnel: &str,
        id: &str,
    ) -> Result<Option<api::Certificate>, DatabaseError> {
        let row = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM certificate WHERE tunnel = $1 AND id = $2"
        ))
        .bind(tunnel)
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(certificate).transpose()?)
    }

    /// A page of a tunnel's certificates, newest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn certificates(
        &self,
        tunnel: &str,
        page: Page,
    ) -> Result<Listed<api::Certificate>, DatabaseError> {
        let rows = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM certificate
             WHERE tunnel = $1 AND position < $2 AND ($3 = 1 OR archived_at IS NULL)
             ORDER BY position DESC LIMIT $4"
        ))
        .bind(tunnel)
        .bind(page.below())
        .bind(i64::from(page.include_archived))
        .bind(page.one_more())
        .fetch_all(&self.pool)
        .await?;
        page.listed(&rows, certificate)
    }
}

impl Change<'_> {
    async fn active(&mut self, tunnel: &str) -> Result<Vec<api::Certificate>, DatabaseError> {
        let rows = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM certificate WHERE tunnel = $1 AND archived_at IS NULL
             ORDER BY position"
        ))
        .bind(tunnel)
        .fetch_all(&mut *self.transaction)
        .await?;
        Ok(rows.iter().map(certificate).collect::<Result<_, _>>()?)
    }

    async fn certificate(
        &mut self,
        tunnel: &str,
        id: &str,
    ) -> Result<api::Certificate, ChangeError> {
        let row = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM certificate WHERE tunnel = $1 AND id = $2"
        ))
        .bind(tunnel)
        .bind(id)
        .fetch_optional(&mut *self.transaction)
        .await?;
        let row = row.ok_or(ChangeError::NotFound("certificate"))?;
        Ok(certificate(&row)?)
    }

    async fn finish_certificate(
        mut self,
        tunnel: &str,
        (action, id): (&str, &str),
    ) -> Result<(api::Certificate, u64), ChangeError> {
        let certificate = self.certificate(tunnel, id).await?;
        let number = self.commit(Entry::of(action, tunnel, id)).await?;
        Ok((certificate, number))
    }
}

fn certificate(row: &AnyRow) -> Result<api::Certificate, sqlx::Error> {
    let archived: Option<i64> = row.try_get("archived_at")?;
    Ok(api::Certificate {
        id: row.try_get("id")?,
        r#type: "tunnel_certificate".to_owned(),
        tunnel_id: row.try_get("tunnel")?,
        fingerprint: row.try_get("fingerprint")?,
        expires_at: timestamp(row.try_get("expires_at")?),
        created_at: timestamp(row.try_get("created_at")?),
        archived_at: archived.map(timestamp),
        enforced: None,
    })
}
