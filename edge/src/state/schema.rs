//! The schema, and the way to it from every earlier one.

use sqlx::{Any, AnyPool, Transaction};
use thiserror::Error;

/// Each is applied once, in order. A line is never changed after a release, only added.
const MIGRATIONS: &[&str] = &[
    include_str!("../../migrations/0001_state.sql"),
    include_str!("../../migrations/0002_instance_asns.sql"),
    include_str!("../../migrations/0003_credential_stamp.sql"),
];

/// Why the schema is not the one that this program needs.
#[derive(Debug, Error)]
pub enum SchemaError {
    /// A later release was here. Going back could lose what only that one knows.
    #[error("the schema is number {found}, this program knows up to {known}")]
    Newer {
        /// In the database.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// The database did not do what it should.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// The number of the schema of this program.
pub(super) fn current() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Brings the database forward, all of it or nothing. Several edges may do so at once.
pub(super) async fn migrate(pool: &AnyPool) -> Result<(), SchemaError> {
    Ok(forward(pool).await?.commit().await?)
}

/// A transaction in which the database is of this program's schema, and after it if it is committed.
pub(super) async fn forward(pool: &AnyPool) -> Result<Transaction<'static, Any>, SchemaError> {
    // SQLite: as a writer from the start, because a reader that turns into one may be refused.
    let begin = match pool.acquire().await?.backend_name() {
        "SQLite" => "BEGIN IMMEDIATE",
        _ => "BEGIN",
    };
    let mut transaction = pool.begin_with(begin).await?;
    exclude_others(&mut transaction).await?;
    let (found,): (i64,) = sqlx::query_as("SELECT number FROM schema_version")
        .fetch_one(&mut *transaction)
        .await?;
    if found > current() {
        return Err(SchemaError::Newer {
            found,
            known: current(),
        });
    }
    let done = usize::try_from(found).unwrap_or_default();
    for migration in MIGRATIONS.iter().skip(done) {
        for statement in statements(migration) {
            sqlx::query(&statement).execute(&mut *transaction).await?;
        }
    }
    sqlx::query("UPDATE schema_version SET number = $1")
        .bind(current())
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// The first of two waits for the second's end: `SQLite` has one writer, `PostgreSQL` a lock by number.
async fn exclude_others(transaction: &mut Transaction<'static, Any>) -> Result<(), sqlx::Error> {
    if transaction.backend_name() == "PostgreSQL" {
        // The letters of "keyw".
        sqlx::query("SELECT pg_advisory_xact_lock(1801812343)")
            .execute(&mut **transaction)
            .await?;
    }
    for statement in [
        "CREATE TABLE IF NOT EXISTS schema_version (only_row BIGINT PRIMARY KEY, number BIGINT NOT NULL)",
        "INSERT INTO schema_version (only_row, number) VALUES (1, 0) ON CONFLICT (only_row) DO NOTHING",
    ] {
        sqlx::query(statement).execute(&mut **transaction).await?;
    }
    Ok(())
}

/// One at a time, comments left out; no statement of ours has a semicolon inside.
pub(super) fn statements(migration: &str) -> Vec<String> {
    let lines: Vec<&str> = migration
        .lines()
        .filter(|line| !line.trim_start().starts_with("--"))
        .collect();
    lines
        .join("\n")
        .split(';')
        .map(|statement| statement.trim().to_owned())
        .filter(|statement| !statement.is_empty())
        .collect()
}
