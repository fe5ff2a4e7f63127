//! Access tokens that were minted, and assertions that were used up by it.

use super::token::{Value, sha256};
use super::{By, DatabaseError, Entry, Outcome, Scope, State, audit, signed};

/// What an access token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The rule that it was bought by.
    pub rule: String,
    /// `sub` of the assertion.
    pub subject: String,
    /// What it may do.
    pub scope: Scope,
    /// To which tunnel; `None`: all.
    pub tunnel: Option<String>,
    /// From this second on it is worth nothing.
    pub expires_at: u64,
}

/// What makes an assertion unusable a second time.
#[derive(Clone, Debug)]
pub struct Mark {
    /// `fdis_…`.
    pub issuer: String,
    /// Digest of the `jti`.
    pub mark: String,
    /// When it may be forgotten, because the assertion has expired anyway.
    pub expires_at: u64,
}

impl State {
    /// Whether an assertion with this mark was used already.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn is_used(&self, mark: &Mark) -> Result<bool, DatabaseError> {
        let row: Option<(String,)> =
            sqlx::query_as("SELECT mark FROM used_assertion WHERE issuer = $1 AND mark = $2")
                .bind(&mark.issuer)
                .bind(&mark.mark)
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.is_some())
    }

    /// Mints an access token, and uses up the assertion in the same transaction. `None`: the assertion
    /// was used before, on this edge or another. `names`: what tells the assertion in the audit log.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: then nothing was minted, and the assertion is not used up.
    pub async fn mint(
        &self,
        by: &By,
        grant: &Grant,
        mark: Option<&Mark>,
        names: Option<&str>,
    ) -> Result<Option<Value>, DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        if let Some(mark) = mark {
            let inserted = sqlx::query(
                "INSERT INTO used_assertion (issuer, mark, expires_at) VALUES ($1, $2, $3)
                 ON CONFLICT (issuer, mark) DO NOTHING",
            )
            .bind(&mark.issuer)
            .bind(&mark.mark)
            .bind(signed(mark.expires_at))
            .execute(&mut *transaction)
            .await?;
            if inserted.rows_affected() == 0 {
                return Ok(None);
            }
        }
        let value = Value::random("kwa-");
        sqlx::query(
            "INSERT INTO access_token (sha256, rule, subject, scope, tunnel, created_at, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(sha256(value.expose()))
        .bind(&grant.rule)
        .bind(&grant.subject)
        .bind(grant.scope.as_str())
        .bind(&grant.tunnel)
        .bind(signed(by.now))
        .bind(signed(grant.expires_at))
        .execute(&mut *transaction)
        .await?;
        let entry = Entry {
            action: "tunnel_access_token_minted",
            tunnel: grant.tunnel.as_deref(),
            target: Some(&grant.rule),
            reason: names,
        };
        audit::write(&mut transaction, by, entry, Outcome::Done).await?;
        transaction.commit().await?;
        Ok(Some(value))
    }

    /// What an access token proves now: nothing once it has expired or its rule is archived.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn grant(&self, token: &str, now: u64) -> Result<Option<Grant>, DatabaseError> {
        let row: Option<(String, String, String, Option<String>, i64)> = sqlx::query_as(
            "SELECT t.rule, t.subject, t.scope, t.tunnel, t.expires_at FROM access_token t
             JOIN rule r ON r.id = t.rule JOIN issuer i ON i.id = r.issuer
             WHERE t.sha256 = $1 AND t.expires_at > $2
             AND r.archived_at IS NULL AND i.archived_at IS NULL",
        )
        .bind(sha256(token))
        .bind(signed(now))
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.and_then(|(rule, subject, scope, tunnel, expires_at)| {
            Some(Grant {
                rule,
                subject,
                scope: Scope::parse(&scope)?,
                tunnel,
                expires_at: super::unsigned(expires_at),
            })
        }))
    }

    /// Deletes what has expired.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn sweep(&self, now: u64) -> Result<(), DatabaseError> {
        for statement in [
            "DELETE FROM access_token WHERE expires_at <= $1",
            "DELETE FROM used_assertion WHERE expires_at <= $1",
            "DELETE FROM idempotency WHERE expires_at <= $1",
        ] {
            sqlx::query(statement)
                .bind(signed(now))
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }
}
