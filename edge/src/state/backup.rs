//! Backup and restore, both while edges run, from either database to either.
//!
//! JSON lines: a head, one line a row, an end that counts them. Credentials are in it as in the
//! database: digests, and tokens sealed by the key file, which is not in it. Access tokens and what is
//! alive at the moment are left out. A restore never forgets: rows of the audit log and used assertions
//! that are newer than the backup stay, and what was ended since stays ended.

mod reopened;
mod table;

use std::io::{BufRead, Write};

use serde_json::{Map, Value, json};
use sqlx::{Any, Transaction};
use thiserror::Error;

use super::{By, DatabaseError, Entry, Outcome, SchemaError, State, audit, next, schema, signed};
use reopened::Before;
pub use reopened::Reopened;
use table::{DROPPED, TABLES, Table};

/// Why there is no backup, or nothing was restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// The file cannot be written or read.
    #[error("cannot write or read the backup")]
    File(#[from] std::io::Error),
    /// It is no backup, or not a whole one.
    #[error("line {line}: {what}")]
    Damaged {
        /// Counted from 1.
        line: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// It was made with another schema.
    #[error(
        "made with schema {found}, this program has {known}: restore it with the release that made it"
    )]
    Schema {
        /// In the backup.
        found: i64,
        /// In this program.
        known: i64,
    },
    /// Rows that cannot stand beside each other, or beside what is kept.
    #[error("the database refuses what the backup holds")]
    Refused(#[source] sqlx::Error),
    /// The database has another schema than this program.
    #[error(transparent)]
    Forward(#[from] SchemaError),
    /// The database did not do what it should.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<sqlx::Error> for BackupError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(DatabaseError::from(error))
    }
}

impl State {
    /// Writes what the database holds at one moment. The number of rows. The database is done with before
    /// the first line is written: whoever reads may take as long as they like.
    ///
    /// # Errors
    ///
    /// [`BackupError`]: then the file is no backup.
    pub async fn backup(&self, by: &By, out: &mut impl Write) -> Result<u64, BackupError> {
        let mut transaction = self.one_moment().await?;
        let (change,): (i64,) = sqlx::query_as("SELECT value FROM sequence WHERE name = 'change'")
            .fetch_one(&mut *transaction)
            .await?;
        let head = json!({
            "keyward_edge_backup": 1,
            "schema": schema::current(),
            "change": change,
            "taken_at": api::Timestamp::from_seconds(by.now).to_string(),
        });
        let mut lines = Vec::new();
        for table in TABLES {
            let query = format!("SELECT {} FROM {}", table.columns.join(", "), table.name);
            for row in sqlx::query(&query).fetch_all(&mut *transaction).await? {
                let line = json!({ "table": table.name, "row": table.read(&row)? });
                lines.push(line.to_string());
            }
        }
        transaction.rollback().await?;
        writeln!(out, "{head}")?;
        for line in &lines {
            writeln!(out, "{line}")?;
        }
        let rows = lines.len() as u64;
        writeln!(out, "{}", json!({ "end": rows }))?;
        let entry = Entry {
            action: "state_backed_up",
            ..Entry::default()
        };
        self.note(by, entry, Outcome::Done).await?;
        Ok(rows)
    }

    /// Puts back what a backup holds, and the schema around it where there is none: all of it or nothing. Edges
    /// that run act on it as on any change. What it put there.
    ///
    /// # Errors
    ///
    /// [`BackupError`]: then nothing has changed.
    pub async fn restore(&self, by: &By, backup: &Backup) -> Result<Restored, BackupError> {
        let Backup { head, rows } = backup;
        let mut whole = schema::forward(&self.pool).await?;
        let transaction = &mut whole;
        let change = next(transaction, "change").await?;
        let before = Before::read(transaction).await?;
        for table in DROPPED {
            let query = format!("DELETE FROM {table}");
            sqlx::query(&query).execute(&mut **transaction).await?;
        }
        for table in TABLES.iter().rev().filter(|table| !table.kept) {
            let query = format!("DELETE FROM {}", table.name);
            sqlx::query(&query).execute(&mut **transaction).await?;
        }
        let mut opened = Vec::new();
        for (table, row) in rows {
            let row = before.ended(table, row);
            table.insert(transaction, &row).await?;
            opened.extend(before.opened(table, &row, by.now));
        }
        let without_token = without_token(transaction).await?;
        // Above both, so that every edge reads anew and no position is given twice.
        let number = change.max(head.change.saturating_add(1));
        sqlx::query("UPDATE sequence SET value = $1 WHERE name = 'change'")
            .bind(number)
            .execute(&mut **transaction)
            .await?;
        let highest: (Option<i64>,) = sqlx::query_as("SELECT MAX(number) FROM audit")
            .fetch_one(&mut **transaction)
            .await?;
        sqlx::query("UPDATE sequence SET value = $1 WHERE name = 'audit' AND value < $1")
            .bind(highest.0.unwrap_or_default())
            .execute(&mut **transaction)
            .await?;
        let reason = format!("{}, {} open again", head.taken_at, opened.len());
        let entry = Entry {
            action: "state_restored",
            reason: Some(&reason),
            ..Entry::default()
        };
        audit::write(transaction, by, entry, Outcome::Done).await?;
        whole.commit().await?;
        Ok(Restored {
            rows: rows.len(),
            opened,
            without_token,
        })
    }
}

/// What a restore did.
#[derive(Clone, Debug)]
pub struct Restored {
    /// How many rows it put there.
    pub rows: usize,
    /// What is open now and was not before: what was ended after the backup was taken, and is not in this
    /// state any more, is among it.
    pub opened: Vec<Reopened>,
    /// Tunnels of which the token in force was made after the backup, and is gone.
    pub without_token: Vec<String>,
}

async fn without_token(
    transaction: &mut Transaction<'static, Any>,
) -> Result<Vec<String>, sqlx::Error> {
    let query = "SELECT id FROM tunnel WHERE archived_at IS NULL AND id NOT IN
        (SELECT tunnel FROM connector_credential WHERE kind = 'token' AND refused_at IS NULL)
        ORDER BY position";
    let found: Vec<(String,)> = sqlx::query_as(query).fetch_all(&mut **transaction).await?;
    Ok(found.into_iter().map(|(id,)| id).collect())
}

struct Head {
    change: i64,
    taken_at: String,
}

/// What [`State::backup`] wrote, read to its end before anything is touched.
pub struct Backup {
    head: Head,
    rows: Rows,
}

type Rows = Vec<(&'static Table, Map<String, Value>)>;

impl Backup {
    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// [`BackupError`]: it cannot be read, is not whole, or was made with another schema.
    pub fn read(input: impl BufRead) -> Result<Self, BackupError> {
        let (head, rows) = read(input)?;
        Ok(Self { head, rows })
    }
}

fn read(input: impl BufRead) -> Result<(Head, Rows), BackupError> {
    let mut lines = (1..).zip(input.lines());
    let damaged = |line, what| BackupError::Damaged { line, what };
    let (_, first) = lines.next().ok_or(damaged(1, "the file is empty"))?;
    let head = read_head(&first?)?;
    let mut rows = Vec::new();
    for (line, text) in lines {
        let value: Value =
            serde_json::from_str(&text?).map_err(|_| damaged(line, "this is not JSON"))?;
        if let Some(end) = value.get("end").and_then(Value::as_u64) {
            return if end == rows.len() as u64 {
                Ok((head, rows))
            } else {
                Err(damaged(line, "rows are missing"))
            };
        }
        let table = TABLES
            .iter()
            .find(|table| value.get("table").is_some_and(|name| name == table.name));
        let table = table.ok_or(damaged(line, "there is no such table"))?;
        let row = value
            .get("row")
            .and_then(Value::as_object)
            .filter(|row| table.holds(row));
        let row = row.ok_or(damaged(line, "this is no row of its table"))?;
        rows.push((table, row.clone()));
    }
    Err(damaged(rows.len() + 2, "the end is missing"))
}

fn read_head(text: &str) -> Result<Head, BackupError> {
    let damaged = BackupError::Damaged {
        line: 1,
        what: "this is no backup of an edge",
    };
    let Ok(head) = serde_json::from_str::<Value>(text) else {
        return Err(damaged);
    };
    let number = |name| head.get(name).and_then(Value::as_i64);
    let (Some(1), Some(schema), Some(change)) = (
        number("keyward_edge_backup"),
        number("schema"),
        number("change"),
    ) else {
        return Err(damaged);
    };
    if schema != schema::current() {
        return Err(BackupError::Schema {
            found: schema,
            known: schema::current(),
        });
    }
    let taken_at = head.get("taken_at").and_then(Value::as_str);
    let taken_at = taken_at.unwrap_or_default().to_owned();
    let change = change.clamp(0, signed(u64::MAX) / 2);
    Ok(Head { change, taken_at })
}
