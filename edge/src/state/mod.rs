//! What the edge remembers: tunnels, digests of credentials, CA certificates, who may call, who may
//! exchange tokens, and what was done by whom.
//!
//! `SQLite` in a file, or `PostgreSQL` by a URL; the statements are the same for both, in the part of SQL
//! that both speak, over text and 64-bit integers. Every change is one transaction that begins by
//! counting up one row, so that writers come one after the other on both, and ends by writing one
//! audit row: `Change` has no other way to be committed. Other edges see the count and read anew.
//!
//! What it does not do: it never holds the value of a shared secret, and the value of a token only
//! sealed; it knows no HTTP; it reads no clock (`now` comes with [`By`]).

mod access;
mod audit;
mod backup;
mod bundle;
mod certificate;
mod credential;
mod database;
mod error;
mod federation;
mod grant;
mod idempotency;
mod identifier;
mod instance;
mod schema;
mod seal;
mod setting;
mod snapshot;
#[cfg(test)]
mod tests;
mod token;
mod transport;
mod trust;
mod tunnel;

use std::sync::Arc;

use sqlx::{Any, AnyPool, Transaction};

pub use access::Versioned;
pub(crate) use access::check as check_access;
pub use audit::{Audited, Entry, Outcome};
pub use backup::{Backup, BackupError, Reopened, Restored};
pub use bundle::CheckedBundle;
pub use certificate::RegisteredCa;
pub use credential::{Credential, Kind};
pub use database::OpenError;
pub use error::{ChangeError, DatabaseError};
pub use grant::{Grant, Mark};
pub use identifier::{Identifier, random_identifier};
pub use instance::LiveRow;
pub use schema::SchemaError;
pub use seal::{Seal, SealError};
pub use setting::EdgeIdentity;
pub use snapshot::{Snapshot, SnapshotTunnel};
pub use token::{LONGEST_OVERLAP, Rotation, Value, sha256};
pub use trust::{Issuer, KeySource, Matcher, Rule, Scope, WithoutJti};
pub use tunnel::{Listed, Page};

/// The state. Clones share it.
#[derive(Clone, Debug)]
pub struct State {
    pool: AnyPool,
    /// The database's time, in its own SQL.
    clock: &'static str,
    seal: Arc<Seal>,
    settings: Arc<Settings>,
}

/// What the state must know of the edge's configuration.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The edge's name: tunnels get a domain under it.
    pub edge: String,
    /// Whether tokens are kept sealed, so that `reveal_token` can answer.
    pub reveal: bool,
}

/// Who does something, when, and under which request.
#[derive(Clone, Debug)]
pub struct By {
    /// `rule:fdrl_…:SUBJECT`, `operator:UID`, `edge`.
    pub actor: String,
    /// `req_…`.
    pub request_id: String,
    /// Seconds since 1970.
    pub now: u64,
}

/// A change that has begun and counts only once [`commit`](Self::commit) wrote its audit row.
/// Dropped, it has not happened.
struct Change<'a> {
    transaction: Transaction<'static, Any>,
    number: i64,
    by: &'a By,
}

impl State {
    /// Waits for whoever is changing something, then takes the next number.
    async fn change<'a>(&self, by: &'a By) -> Result<Change<'a>, DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        let number = next(&mut transaction, "change").await?;
        Ok(Change {
            transaction,
            number,
            by,
        })
    }

    /// A transaction that only reads, all of it from one moment. `SQLite` gives no other.
    async fn one_moment(&self) -> Result<Transaction<'static, Any>, DatabaseError> {
        let mut transaction = self.pool.begin().await?;
        if transaction.backend_name() == "PostgreSQL" {
            sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction)
    }

    /// The number of the last change.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn last_change(&self) -> Result<u64, DatabaseError> {
        let (value,): (i64,) = sqlx::query_as("SELECT value FROM sequence WHERE name = 'change'")
            .fetch_one(&self.pool)
            .await?;
        Ok(unsigned(value))
    }

    /// The edge's name and what is set for it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// For tests that look behind it.
    #[cfg(test)]
    pub(crate) fn pool(&self) -> &AnyPool {
        &self.pool
    }

    /// Closes the connections to the database.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

impl Change<'_> {
    /// Writes the one audit row and makes it all so. The number of the change.
    async fn commit(mut self, entry: Entry<'_>) -> Result<u64, DatabaseError> {
        audit::write(&mut self.transaction, self.by, entry, Outcome::Done).await?;
        self.transaction.commit().await?;
        Ok(unsigned(self.number))
    }

    /// Gives up, because what was asked for is so already. The number of the last change, which is the
    /// one before: nobody counts up while this one is open.
    async fn nothing(self) -> Result<u64, DatabaseError> {
        self.transaction.rollback().await?;
        Ok(unsigned(self.number - 1))
    }
}

/// Counts up a row of `sequence`; whoever comes later waits for the end of this transaction.
async fn next(
    transaction: &mut Transaction<'static, Any>,
    name: &str,
) -> Result<i64, DatabaseError> {
    let (value,): (i64,) =
        sqlx::query_as("UPDATE sequence SET value = value + 1 WHERE name = $1 RETURNING value")
            .bind(name)
            .fetch_one(&mut **transaction)
            .await?;
    Ok(value)
}

/// As it is stored: times and counts stay far below 2⁶³.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// As it was stored; negative values are never written.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

fn timestamp(seconds: i64) -> api::Timestamp {
    api::Timestamp::from_seconds(unsigned(seconds))
}
