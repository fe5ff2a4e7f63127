//! Tunnels.

use sqlx::Row;
use sqlx::any::AnyRow;

use super::identifier::random_letters;
use super::{
    By, Change, ChangeError, DatabaseError, Entry, Identifier, State, random_identifier, signed,
    timestamp, token,
};

/// Which part of a list.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// Only what is older than this position.
    pub before: Option<u64>,
    /// At most so many.
    pub limit: u32,
    /// Archived ones too.
    pub include_archived: bool,
}

/// Objects, and the position to go on from if there are more.
pub type Listed<T> = (Vec<T>, Option<u64>);

const COLUMNS: &str = "id, position, domain, display_name, created_at, archived_at, suspended_at";

impl State {
    /// Makes a tunnel with a domain that no tunnel had before, and its first token.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] for a name that is not 1 to 255 characters long.
    pub async fn create_tunnel(
        &self,
        by: &By,
        display_name: Option<&str>,
    ) -> Result<(api::Tunnel, u64), ChangeError> {
        let shown = |name: &str| {
            (1..=255).contains(&name.chars().count()) && !name.chars().any(char::is_control)
        };
        if !display_name.is_none_or(shown) {
            let text = "display_name: must be 1 to 255 characters that can be shown, or null";
            return Err(ChangeError::Invalid(text.to_owned()));
        }
        let id = random_identifier(Identifier::Tunnel);
        let domain = format!("t{}.{}", random_letters(), self.settings.edge);
        let mut change = self.change(by).await?;
        sqlx::query(
            "INSERT INTO tunnel (id, position, domain, display_name, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&id)
        .bind(change.number)
        .bind(&domain)
        .bind(display_name)
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        token::mint(self, &mut change, &id).await?;
        let tunnel = change.tunnel(&id).await?;
        let number = change.commit(Entry::of("tunnel_created", &id, &id)).await?;
        Ok((tunnel, number))
    }

    /// The tunnel of this id, if there is one.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn tunnel(&self, id: &str) -> Result<Option<api::Tunnel>, DatabaseError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM tunnel WHERE id = $1"))
            .bind(id)
            .fetch_optional(&self.pool)
            .await?;
        Ok(row.as_ref().map(tunnel).transpose()?)
    }

    /// A page of tunnels, newest first; with `only`, of that one at most.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn tunnels(
        &self,
        page: Page,
        only: Option<&str>,
    ) -> Result<Listed<api::Tunnel>, DatabaseError> {
        let rows = sqlx::query(&format!(
            "SELECT {COLUMNS} FROM tunnel
             WHERE position < $1 AND ($2 = 1 OR archived_at IS NULL) AND ($3 = '' OR id = $3)
             ORDER BY position DESC LIMIT $4"
        ))
        .bind(page.below())
        .bind(i64::from(page.include_archived))
        .bind(only.unwrap_or_default())
        .bind(page.one_more())
        .fetch_all(&self.pool)
        .await?;
        page.listed(&rows, tunnel)
    }

    /// Archives a tunnel for good, with its certificates and credentials: what is connected is cut. Twice
    /// is as good as once.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_tunnel(
        &self,
        by: &By,
        id: &str,
        reason: Option<&str>,
    ) -> Result<(api::Tunnel, u64), ChangeError> {
        let mut change = self.change(by).await?;
        let before = change.tunnel(id).await?;
        if before.archived_at.is_some() {
            return Ok((before, change.nothing().await?));
        }
        for statement in [
            "UPDATE tunnel SET archived_at = $1 WHERE id = $2",
            "UPDATE certificate SET archived_at = $1 WHERE tunnel = $2 AND archived_at IS NULL",
        ] {
            change.stamp(statement, id).await?;
        }
        let both = ["refused_at", "cut_at"];
        change.end_credentials(id, None, &both, by.now).await?;
        change.finish(id, "tunnel_archived", reason).await
    }

    /// Suspends a tunnel: it carries nothing until it is resumed, and nothing of it is lost.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`], and [`ChangeError::Conflict`] if it is archived.
    pub async fn suspend_tunnel(
        &self,
        by: &By,
        id: &str,
        reason: Option<&str>,
    ) -> Result<(api::Tunnel, u64), ChangeError> {
        let mut change = self.change(by).await?;
        change.usable_tunnel(id).await?;
        let statement =
            "UPDATE tunnel SET suspended_at = $1 WHERE id = $2 AND suspended_at IS NULL";
        change.stamp(statement, id).await?;
        change.finish(id, "tunnel_suspended", reason).await
    }

    /// Lets a suspended tunnel carry again.
    ///
    /// # Errors
    ///
    /// As [`suspend_tunnel`](Self::suspend_tunnel).
    pub async fn resume_tunnel(
        &self,
        by: &By,
        id: &str,
        reason: Option<&str>,
    ) -> Result<(api::Tunnel, u64), ChangeError> {
        let mut change = self.change(by).await?;
        change.usable_tunnel(id).await?;
        sqlx::query("UPDATE tunnel SET suspended_at = NULL WHERE id = $1")
            .bind(id)
            .execute(&mut *change.transaction)
            .await?;
        change.finish(id, "tunnel_resumed", reason).await
    }
}

impl Change<'_> {
    pub(super) async fn tunnel(&mut self, id: &str) -> Result<api::Tunnel, ChangeError> {
        let row = sqlx::query(&format!("SELECT {COLUMNS} FROM tunnel WHERE id = $1"))
            .bind(id)
            .fetch_optional(&mut *self.transaction)
            .await?;
        let row = row.ok_or(ChangeError::NotFound("tunnel"))?;
        Ok(tunnel(&row)?)
    }

    /// One that is not archived.
    pub(super) async fn usable_tunnel(&mut self, id: &str) -> Result<api::Tunnel, ChangeError> {
        let tunnel = self.tunnel(id).await?;
        if tunnel.archived_at.is_some() {
            return Err(ChangeError::Conflict("the tunnel is archived".to_owned()));
        }
        Ok(tunnel)
    }

    /// Runs a statement of the time and an id.
    pub(super) async fn stamp(&mut self, statement: &str, id: &str) -> Result<(), DatabaseError> {
        sqlx::query(statement)
            .bind(signed(self.by.now))
            .bind(id)
            .execute(&mut *self.transaction)
            .await?;
        Ok(())
    }

    async fn finish(
        mut self,
        id: &str,
        action: &str,
        reason: Option<&str>,
    ) -> Result<(api::Tunnel, u64), ChangeError> {
        let tunnel = self.tunnel(id).await?;
        let entry = Entry::of(action, id, id).because(reason);
        let number = self.commit(entry).await?;
        Ok((tunnel, number))
    }
}

impl Page {
    /// The newest, as many as one page may hold.
    pub fn newest(include_archived: bool) -> Self {
        Self {
            before: None,
            limit: api::MAX_LIMIT,
            include_archived,
        }
    }

    pub(super) fn below(self) -> i64 {
        self.before.map_or(i64::MAX, signed)
    }

    /// One more than asked for tells whether there is another page.
    pub(super) fn one_more(self) -> i64 {
        i64::from(self.limit) + 1
    }

    /// Reads the rows; they have a column `position`.
    pub(super) fn listed<T>(
        self,
        rows: &[AnyRow],
        read: impl Fn(&AnyRow) -> Result<T, sqlx::Error>,
    ) -> Result<Listed<T>, DatabaseError> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let shown = rows.get(..limit).unwrap_or(rows);
        let objects = shown.iter().map(read).collect::<Result<_, _>>()?;
        let last = shown.last().filter(|_| rows.len() > shown.len());
        let next = last
            .map(|row| row.try_get::<i64, _>("position"))
            .transpose()?;
        Ok((objects, next.map(super::unsigned)))
    }
}

fn tunnel(row: &AnyRow) -> Result<api::Tunnel, sqlx::Error> {
    let moment = |name| -> Result<Option<api::Timestamp>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(name)?.map(timestamp))
    };
    Ok(api::Tunnel {
        id: row.try_get("id")?,
        r#type: "tunnel".to_owned(),
        display_name: row.try_get("display_name")?,
        domain: row.try_get("domain")?,
        created_at: timestamp(row.try_get("created_at")?),
        archived_at: moment("archived_at")?,
        suspended_at: moment("suspended_at")?,
        enforced: None,
    })
}
