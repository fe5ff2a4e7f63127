//! The edges that serve on one database: who is alive, how far each has come, what it carries.
//!
//! Who is alive is decided by one clock, the database's: an edge whose own is wrong is counted all the same.

use super::{DatabaseError, State, signed, unsigned};

/// An edge that was not seen for so long is not counted, seconds.
pub(super) const SILENCE: u64 = 10;

/// The time in seconds since 1970 where the database is, in its own SQL.
pub(super) fn clock(backend: &str) -> &'static str {
    match backend {
        "SQLite" => "CAST(strftime('%s', 'now') AS INTEGER)",
        _ => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS BIGINT)",
    }
}

/// One connection of a proxy, for the list of secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveRow {
    /// The credential that it is bound to.
    pub credential: String,
    /// The proxy, as it calls itself.
    pub replica: String,
    /// Where it dialled from.
    pub address: String,
}

impl State {
    /// Says that this edge is alive and acts on every change up to `applied`, and whether it has a table of
    /// autonomous systems.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn beat(
        &self,
        instance: &str,
        applied: u64,
        has_asns: bool,
    ) -> Result<(), DatabaseError> {
        sqlx::query(&format!(
            "INSERT INTO instance (id, applied, seen_at, asns) VALUES ($1, $2, {0}, $3)
             ON CONFLICT (id) DO UPDATE SET applied = $2, seen_at = {0}, asns = $3",
            self.clock
        ))
        .bind(instance)
        .bind(signed(applied))
        .bind(i64::from(has_asns))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Says that this edge ends, so that nobody waits for it.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn leave(&self, instance: &str) -> Result<(), DatabaseError> {
        for statement in [
            "DELETE FROM live_connection WHERE instance = $1",
            "DELETE FROM instance WHERE id = $1",
        ] {
            sqlx::query(statement)
                .bind(instance)
                .execute(&self.pool)
                .await?;
        }
        Ok(())
    }

    /// How many edges act on the change `number` already, of how many.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn enforced(&self, number: u64) -> Result<api::Enforced, DatabaseError> {
        let rows: Vec<(i64,)> = sqlx::query_as(&format!(
            "SELECT applied FROM instance WHERE seen_at > {} - {SILENCE}",
            self.clock
        ))
        .fetch_all(&self.pool)
        .await?;
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let applied = |(applied,): &&(i64,)| unsigned(*applied) >= number;
        Ok(api::Enforced {
            instances: count(rows.iter().filter(applied).count()),
            of: count(rows.len()),
        })
    }

    /// Replaces what is written of this edge's connections, and deletes what silent edges left.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn report_live(&self, instance: &str, rows: &[LiveRow]) -> Result<(), DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        sqlx::query(&format!(
            "DELETE FROM live_connection WHERE instance = $1
             OR instance NOT IN (SELECT id FROM instance WHERE seen_at > {} - {SILENCE})",
            self.clock
        ))
        .bind(instance)
        .execute(&mut *transaction)
        .await?;
        for (connection, row) in (0_i64..).zip(rows) {
            sqlx::query(
                "INSERT INTO live_connection (instance, connection, credential, replica, address)
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(instance)
            .bind(connection)
            .bind(&row.credential)
            .bind(&row.replica)
            .bind(&row.address)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
