//! Issuers of identity tokens, and the rules by which their tokens buy access, in the database.
//!
//! Both are made by the operator alone.

use serde::Serialize;

use super::trust::{check_issuer, check_pinned, check_rule};
use super::{
    By, ChangeError, DatabaseError, Entry, Identifier, Issuer, KeySource, Rule, State,
    random_identifier, signed, unsigned,
};

impl State {
    /// Believes an issuer from now on. Gives it its id.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] for a document that cannot work, [`ChangeError::Conflict`] for a name
    /// that is taken.
    pub async fn add_issuer(&self, by: &By, issuer: &Issuer) -> Result<Issuer, ChangeError> {
        let mut issuer = issuer.clone();
        check_issuer(&issuer).map_err(ChangeError::Invalid)?;
        issuer.id = random_identifier(Identifier::Issuer);
        let mut change = self.change(by).await?;
        change.free_name("issuer", &issuer.name).await?;
        sqlx::query(
            "INSERT INTO issuer (id, position, name, document, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(&issuer.id)
        .bind(change.number)
        .bind(&issuer.name)
        .bind(document(&issuer))
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        let entry = made("federation_issuer_created", &issuer.id);
        change.commit(entry).await?;
        Ok(issuer)
    }

    /// Lets tokens that match buy access from now on. Gives the rule its id.
    ///
    /// # Errors
    ///
    /// As [`add_issuer`](Self::add_issuer), and [`ChangeError::NotFound`] for its issuer or tunnel.
    pub async fn add_rule(&self, by: &By, rule: &Rule) -> Result<Rule, ChangeError> {
        let mut rule = rule.clone();
        check_rule(&rule).map_err(ChangeError::Invalid)?;
        rule.id = random_identifier(Identifier::Rule);
        let mut change = self.change(by).await?;
        change.free_name("rule", &rule.name).await?;
        let issuer: Option<(String,)> =
            sqlx::query_as("SELECT document FROM issuer WHERE id = $1 AND archived_at IS NULL")
                .bind(&rule.issuer_id)
                .fetch_optional(&mut *change.transaction)
                .await?;
        let (issuer,) = issuer.ok_or(ChangeError::NotFound("issuer"))?;
        if let Ok(issuer) = serde_json::from_str(&issuer) {
            check_pinned(&rule, &issuer).map_err(ChangeError::Invalid)?;
        }
        if let Some(tunnel) = &rule.tunnel_id {
            change.usable_tunnel(tunnel).await?;
        }
        sqlx::query(
            "INSERT INTO rule (id, position, name, issuer, document, created_at)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&rule.id)
        .bind(change.number)
        .bind(&rule.name)
        .bind(&rule.issuer_id)
        .bind(document(&rule))
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        change
            .commit(made("federation_rule_created", &rule.id))
            .await?;
        Ok(rule)
    }

    /// Ends a rule and every access token that was bought by it.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_rule(&self, by: &By, id: &str) -> Result<(), ChangeError> {
        self.archive_federation(by, "rule", id).await
    }

    /// Ends an issuer, its rules, and every access token that was bought by them.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`].
    pub async fn archive_issuer(&self, by: &By, id: &str) -> Result<(), ChangeError> {
        self.archive_federation(by, "issuer", id).await
    }

    /// What was fetched of an issuer's keys serves no more, on no edge: they are fetched anew by whoever comes
    /// next.
    ///
    /// # Errors
    ///
    /// [`ChangeError::NotFound`], and [`ChangeError::Invalid`] where nothing is fetched.
    pub async fn refresh_issuer(&self, by: &By, id: &str) -> Result<(), ChangeError> {
        let mut change = self.change(by).await?;
        let found: Option<(String,)> =
            sqlx::query_as("SELECT document FROM issuer WHERE id = $1 AND archived_at IS NULL")
                .bind(id)
                .fetch_optional(&mut *change.transaction)
                .await?;
        let (text,) = found.ok_or(ChangeError::NotFound("issuer"))?;
        let invalid = |text: &str| ChangeError::Invalid(text.to_owned());
        let issuer = serde_json::from_str(&text);
        let mut issuer: Issuer = issuer.map_err(|_| invalid("made by another release"))?;
        if matches!(issuer.keys, KeySource::Inline { .. }) {
            let text = "keys: are in the issuer itself and never fetched: archive it, and add it with the new ones";
            return Err(invalid(text));
        }
        issuer.keys_number = unsigned(change.number);
        sqlx::query("UPDATE issuer SET document = $1 WHERE id = $2")
            .bind(document(&issuer))
            .bind(id)
            .execute(&mut *change.transaction)
            .await?;
        change
            .commit(made("federation_issuer_refreshed", id))
            .await?;
        Ok(())
    }

    async fn archive_federation(
        &self,
        by: &By,
        table: &'static str,
        id: &str,
    ) -> Result<(), ChangeError> {
        let mut change = self.change(by).await?;
        let done = sqlx::query(&format!(
            "UPDATE {table} SET archived_at = $1 WHERE id = $2 AND archived_at IS NULL"
        ))
        .bind(signed(by.now))
        .bind(id)
        .execute(&mut *change.transaction)
        .await?;
        if done.rows_affected() == 0 {
            return Err(ChangeError::NotFound(table));
        }
        if table == "issuer" {
            let rules =
                "UPDATE rule SET archived_at = $1 WHERE issuer = $2 AND archived_at IS NULL";
            change.stamp(rules, id).await?;
        }
        let action = format!("federation_{table}_archived");
        change.commit(made(&action, id)).await?;
        Ok(())
    }

    /// A rule that is in force, with its issuer.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn rule(&self, id: &str) -> Result<Option<(Rule, Issuer)>, DatabaseError> {
        let row: Option<(String, String)> = sqlx::query_as(
            "SELECT r.document, i.document FROM rule r JOIN issuer i ON i.id = r.issuer
             WHERE r.id = $1 AND r.archived_at IS NULL AND i.archived_at IS NULL",
        )
        .bind(id)
        .fetch_optional(&self.pool)
        .await?;
        // A document that this release cannot read is no rule: it opens nothing.
        Ok(row.and_then(|(rule, issuer)| {
            Some((
                serde_json::from_str(&rule).ok()?,
                serde_json::from_str(&issuer).ok()?,
            ))
        }))
    }

    /// Rules in force, with their issuers, oldest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn rules(&self) -> Result<Vec<(Rule, Issuer)>, DatabaseError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT r.id FROM rule r JOIN issuer i ON i.id = r.issuer
             WHERE r.archived_at IS NULL AND i.archived_at IS NULL ORDER BY r.position",
        )
        .fetch_all(&self.pool)
        .await?;
        let mut rules = Vec::with_capacity(rows.len());
        for (id,) in rows {
            rules.extend(self.rule(&id).await?);
        }
        Ok(rules)
    }

    /// Issuers in force, oldest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn issuers(&self) -> Result<Vec<Issuer>, DatabaseError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT document FROM issuer WHERE archived_at IS NULL ORDER BY position",
        )
        .fetch_all(&self.pool)
        .await?;
        let read = |(document,): (String,)| serde_json::from_str(&document).ok();
        Ok(rows.into_iter().filter_map(read).collect())
    }
}

impl super::Change<'_> {
    async fn free_name(&mut self, table: &'static str, name: &str) -> Result<(), ChangeError> {
        let taken: Option<(String,)> =
            sqlx::query_as(&format!("SELECT id FROM {table} WHERE name = $1"))
                .bind(name)
                .fetch_optional(&mut *self.transaction)
                .await?;
        match taken {
            None => Ok(()),
            Some((id,)) => Err(ChangeError::Conflict(format!(
                "name: is taken by {id}, which may be archived"
            ))),
        }
    }
}

fn document(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("plain data has a JSON form")
}

fn made<'a>(action: &'a str, id: &'a str) -> Entry<'a> {
    Entry {
        action,
        target: Some(id),
        ..Entry::default()
    }
}
