//! The audit log: who did what when, and why somebody was refused.

use sqlx::{Any, Transaction};

use super::{By, DatabaseError, State, next, signed, timestamp, unsigned};

/// What is written about one event. Never a value of a credential.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry<'a> {
    /// As the product's compliance log has it, such as `tunnel_created`.
    pub action: &'a str,
    /// Whose tunnel.
    pub tunnel: Option<&'a str>,
    /// Id of what it was done to.
    pub target: Option<&'a str>,
    /// Why: what the caller gave as its reason, or what was wrong.
    pub reason: Option<&'a str>,
}

impl<'a> Entry<'a> {
    /// `action` was done to `target`, a part of `tunnel` or the tunnel itself.
    pub(super) fn of(action: &'a str, tunnel: &'a str, target: &'a str) -> Self {
        Self {
            action,
            tunnel: Some(tunnel),
            target: Some(target),
            reason: None,
        }
    }

    pub(super) fn because(self, reason: Option<&'a str>) -> Self {
        Self { reason, ..self }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused.
    Refused,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Audited {
    /// Counts up by one.
    pub number: u64,
    /// When.
    pub at: api::Timestamp,
    /// Who, as far as that was proven.
    pub actor: String,
    /// What.
    pub action: String,
    /// Whose tunnel.
    pub tunnel: Option<String>,
    /// To what.
    pub target: Option<String>,
    /// `done` or `refused`.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
    /// The header `request-id` of the answer.
    pub request_id: String,
}

type Row = (
    i64,
    i64,
    String,
    String,
    Option<String>,
    Option<String>,
    String,
    Option<String>,
    String,
);

impl State {
    /// Writes one row about something that changes nothing: a token revealed, a caller refused.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`]: then it is not written.
    pub async fn note(
        &self,
        by: &By,
        entry: Entry<'_>,
        outcome: Outcome,
    ) -> Result<(), DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        write(&mut transaction, by, entry, outcome).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Rows with a number below `before`, newest first.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn audit(&self, before: u64, limit: u32) -> Result<Vec<Audited>, DatabaseError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT number, at, actor, action, tunnel, target, outcome, reason, request_id
             FROM audit WHERE number < $1 ORDER BY number DESC LIMIT $2",
        )
        .bind(signed(before))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(audited).collect())
    }
}

/// Within a transaction, as its last statement: the numbers then follow the order of the commits.
pub(super) async fn write(
    transaction: &mut Transaction<'static, Any>,
    by: &By,
    entry: Entry<'_>,
    outcome: Outcome,
) -> Result<(), DatabaseError> {
    let number = next(transaction, "audit").await?;
    sqlx::query(
        "INSERT INTO audit
         (number, at, actor, action, tunnel, target, outcome, reason, request_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(number)
    .bind(signed(by.now))
    .bind(&by.actor)
    .bind(entry.action)
    .bind(entry.tunnel)
    .bind(entry.target)
    .bind(match outcome {
        Outcome::Done => "done",
        Outcome::Refused => "refused",
    })
    .bind(entry.reason)
    .bind(&by.request_id)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

fn audited(row: Row) -> Audited {
    let (number, at, actor, action, tunnel, target, outcome, reason, request_id) = row;
    Audited {
        number: unsigned(number),
        at: timestamp(at),
        actor,
        action,
        tunnel,
        target,
        outcome,
        reason,
        request_id,
    }
}
