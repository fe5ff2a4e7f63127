//! Connector credentials: what a proxy presents to serve a tunnel. Tunnel token and shared secret are
//! one table; here are the secrets, and what the relay asks about both.

use std::collections::HashMap;

use sqlx::Row;
use sqlx::any::AnyRow;

use super::tunnel::{Listed, Page};
use super::{
    By, Change, ChangeError, DatabaseError, Entry, Identifier, State, random_identifier, signed,
    timestamp, unsigned,
};

/// Most secrets of a tunnel that are active at once.
const MOST: usize = 2;

/// Which form of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One value, made by the edge.
    Token,
    /// Made by the daemon; the edge has its digest.
    Secret,
}

/// A connector credential, without its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// `ttok_…` or `tsec_…`.
    pub id: String,
    /// `tnl_…`.
    pub tunnel: String,
    /// Which form.
    pub kind: Kind,
    /// Lower-case hexadecimal.
    pub sha256: String,
    /// From this second on it opens nothing new.
    pub refused_at: Option<u64>,
    /// From this second on what is bound to it is closed.
    pub cut_at: Option<u64>,
    /// When both were last written, by the clocks of those who wrote them.
    pub stamped_at: Option<u64>,
}

impl Credential {
    /// Whether it opens something new where it is `now`.
    pub fn opens(&self, now: u64) -> bool {
        self.refused_at.is_none_or(|at| self.time(now) < at)
    }

    /// Whether what is bound to it goes on where it is `now`.
    pub fn carries(&self, now: u64) -> bool {
        self.cut_at.is_none_or(|at| self.time(now) < at)
    }

    /// What was written has happened, also where the clock has not come so far: what was ended at once is
    /// ended on every edge, however their clocks differ.
    fn time(&self, now: u64) -> u64 {
        self.stamped_at.map_or(now, |at| at.max(now))
    }
}

pub(super) const COLUMNS: &str = "id, tunnel, kind, sha256, refused_at, cut_at, stamped_at";
/// To be set with `refused_at` or `cut_at`; `$3` is the time of whoever writes. It never goes back, or what
/// a fast clock ended at once would begin again.
const STAMPED: &str = "stamped_at = CASE WHEN stamped_at > $3 THEN stamped_at ELSE $3 END";
const SECRET: &str = "id, position, tunnel, sha256, created_at, refused_at, last_used_at";

impl State {
    /// Adds a shared secret by its digest. The same digest again gives the same secret.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] for what is no digest, [`ChangeError::Conflict`] if two are active, or
    /// if this one was archived: an archived secret does not come back.
    pub async fn create_secret(
        &self,
        by: &By,
        tunnel: &str,
        sha256: &str,
    ) -> Result<(api::Secret, u64), ChangeError> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if sha256.len() != 64 || !sha256.bytes().all(digit) {
            let text = "sha256: must be 64 lower-case hexadecimal digits";
            return Err(ChangeError::Invalid(text.to_owned()));
        }
        let mut change = self.change(by).await?;
        change.usable_tunnel(tunnel).await?;
        let existing = change.secrets(tunnel).await?;
        // Whatever the time: one is archived at once or not at all.
        let ended = |secret: &api::Secret| secret.archived_at.is_some();
        if let Some(secret) = existing.iter().find(|secret| secret.sha256 == sha256) {
            if ended(secret) {
                let text = "this secret is archived and does not come back: make a new one";
                return Err(ChangeError::Conflict(text.to_owned()));
            }
            return Ok((secret.clone(), change.nothing().await?));
        }
        if existing.iter().filter(|secret| !ended(secret)).count() >= MOST {
            let text = "two secrets are active already: archive one first";
            return Err(ChangeError::Conflict(text.to_owned()));
        }
        let id = random_identifier(Identifier::Secret);
        sqlx::query(
            "INSERT INTO connector_credential (id, position, tunnel, kind, sha256, created_at)
             VALUES ($1, $2, $3, 'secret', $4, $5)",
        )
        .bind(&id)
        .bind(change.number)
        .bind(tunnel)
        .bind(sha256)
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        change
            .finish_secret(tunnel, &id, "tunnel_secret_added")
            .await
    }

    /// Archives a shared secret: it opens nothing new, and what is bound to it is cut. Twice is as good
    /// as once.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_secret(
        &self,
        by: &By,
        tunnel: &str,
        id: &str,
    ) -> Result<(api::Secret, u64), ChangeError> {
        let mut change = self.change(by).await?;
        change.tunnel(tunnel).await?;
        let secrets = change.secrets(tunnel).await?;
        let found = secrets.into_iter().find(|secret| secret.id == id);
        let secret = found.ok_or(ChangeError::NotFound("secret"))?;
        if secret.archived_at.is_some() {
            return Ok((secret, change.nothing().await?));
        }
        sqlx::query(&format!(
            "UPDATE connector_credential SET refused_at = $1, cut_at = $1, {STAMPED} WHERE id = $2"
        ))
        .bind(signed(by.now))
        .bind(id)
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        change
            .finish_secret(tunnel, id, "tunnel_secret_archived")
            .await
    }

    /// A page of a tunnel's secrets, newest first, each with what is bound to it.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn secrets(
        &self,
        tunnel: &str,
        page: Page,
    ) -> Result<Listed<api::Secret>, DatabaseError> {
        let rows = sqlx::query(&format!(
            "SELECT {SECRET} FROM connector_credential
             WHERE tunnel = $1 AND kind = 'secret' AND position < $2
             AND ($3 = 1 OR refused_at IS NULL)
             ORDER BY position DESC LIMIT $4"
        ))
        .bind(tunnel)
        .bind(page.below())
        .bind(i64::from(page.include_archived))
        .bind(page.one_more())
        .fetch_all(&self.pool)
        .await?;
        let (mut secrets, next) = page.listed(&rows, secret)?;
        let mut live = self.live(tunnel).await?;
        for secret in &mut secrets {
            secret.live = live.remove(&secret.id).unwrap_or_default();
        }
        Ok((secrets, next))
    }

    /// The credential with this digest for this tunnel, whatever its state.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn credential(
        &self,
        tunnel: &str,
        sha256: &str,
    ) -> Result<Option<Credential>, DatabaseError> {
        let row = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM connector_credential WHERE tunnel = $1 AND sha256 = $2"
        ))
        .bind(tunnel)
        .bind(sha256)
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.as_ref().map(credential).transpose()?)
    }

    /// Writes down that a credential was used. The latest use stays, whichever edge tells of it first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn used(&self, credential: &str, now: u64) -> Result<(), DatabaseError> {
        sqlx::query(
            "UPDATE connector_credential SET last_used_at = $1
             WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)",
        )
        .bind(signed(now))
        .bind(credential)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Connections by the credential that they are bound to.
    async fn live(
        &self,
        tunnel: &str,
    ) -> Result<HashMap<String, Vec<api::LiveConnection>>, DatabaseError> {
        let rows: Vec<(String, String, String, String)> = sqlx::query_as(
            "SELECT l.credential, l.replica, l.address, l.instance FROM live_connection l
             JOIN connector_credential c ON c.id = l.credential
             WHERE c.tunnel = $1 ORDER BY l.replica, l.instance, l.connection",
        )
        .bind(tunnel)
        .fetch_all(&self.pool)
        .await?;
        let mut live: HashMap<_, Vec<_>> = HashMap::new();
        for (credential, replica, address, instance) in rows {
            live.entry(credential)
                .or_default()
                .push(api::LiveConnection {
                    replica,
                    address,
                    instance,
                });
        }
        Ok(live)
    }
}

impl Change<'_> {
    /// Sets when those of the tunnel's credentials end that do not end earlier: all of them, or of one
    /// kind. `columns`: `refused_at`, `cut_at`.
    pub(super) async fn end_credentials(
        &mut self,
        tunnel: &str,
        kind: Option<Kind>,
        columns: &[&str],
        at: u64,
    ) -> Result<(), DatabaseError> {
        let of_kind = match kind {
            Some(Kind::Token) => "AND kind = 'token'",
            Some(Kind::Secret) => "AND kind = 'secret'",
            None => "",
        };
        for column in columns {
            sqlx::query(&format!(
                "UPDATE connector_credential SET {column} = $1, {STAMPED}
                 WHERE tunnel = $2 {of_kind} AND ({column} IS NULL OR {column} > $1)"
            ))
            .bind(signed(at))
            .bind(tunnel)
            .bind(signed(self.by.now))
            .execute(&mut *self.transaction)
            .await?;
        }
        Ok(())
    }

    async fn secrets(&mut self, tunnel: &str) -> Result<Vec<api::Secret>, DatabaseError> {
        let rows = sqlx::query(&format!(
            "SELECT {SECRET} FROM connector_credential WHERE tunnel = $1 AND kind = 'secret'"
        ))
        .bind(tunnel)
        .fetch_all(&mut *self.transaction)
        .await?;
        Ok(rows.iter().map(secret).collect::<Result<_, _>>()?)
    }

    async fn finish_secret(
        mut self,
        tunnel: &str,
        id: &str,
        action: &str,
    ) -> Result<(api::Secret, u64), ChangeError> {
        let secrets = self.secrets(tunnel).await?;
        let found = secrets.into_iter().find(|secret| secret.id == id);
        let secret = found.ok_or(ChangeError::NotFound("secret"))?;
        let number = self.commit(Entry::of(action, tunnel, id)).await?;
        Ok((secret, number))
    }
}

pub(super) fn credential(row: &AnyRow) -> Result<Credential, sqlx::Error> {
    let kind: String = row.try_get("kind")?;
    let moment = |name| -> Result<Option<u64>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(unsigned))
    };
    Ok(Credential {
        id: row.try_get("id")?,
        tunnel: row.try_get("tunnel")?,
        kind: if kind == "token" {
            Kind::Token
        } else {
            Kind::Secret
        },
        sha256: row.try_get("sha256")?,
        refused_at: moment("refused_at")?,
        cut_at: moment("cut_at")?,
        stamped_at: moment("stamped_at")?,
    })
}

fn secret(row: &AnyRow) -> Result<api::Secret, sqlx::Error> {
    let moment = |name| -> Result<Option<api::Timestamp>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(timestamp))
    };
    Ok(api::Secret {
        id: row.try_get("id")?,
        r#type: "tunnel_secret".to_owned(),
        tunnel_id: row.try_get("tunnel")?,
        sha256: row.try_get("sha256")?,
        created_at: timestamp(row.try_get("created_at")?),
        archived_at: moment("refused_at")?,
        last_used_at: moment("last_used_at")?,
        live: Vec::new(),
        enforced: None,
    })
}
