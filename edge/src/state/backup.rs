//! Backup and restore, both while edges run, from either database to either.
//!
//! JSON lines: a head, one line a row, an end that counts them. Credentials are in it as in the
//! database: digests, and tokens sealed by the key file, which is not in it. Access tokens and what is
//! alive at the moment are left out. A restore never forgets: rows of the audit log and used assertions
//! that are newer than the backup stay.

use std::io::{BufRead, Write};

use serde_json::{Map, Value, json};
use sqlx::any::AnyRow;
use sqlx::error::ErrorKind;
use sqlx::{Any, Row, Transaction};
use thiserror::Error;

use super::{
    By, DatabaseError, Entry, Outcome, SchemaError, State, audit, next, schema, signed, unsigned,
};

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

/// A table and its columns; those named in `numbers` hold integers.
struct Table {
    name: &'static str,
    columns: &'static [&'static str],
    numbers: &'static [&'static str],
    /// Rows that are there stay.
    kept: bool,
}

/// In an order in which each finds what it refers to.
const TABLES: &[Table] = &[
    Table {
        name: "setting",
        columns: &["name", "value"],
        numbers: &[],
        kept: false,
    },
    Table {
        name: "tunnel",
        columns: &[
            "id",
            "position",
            "domain",
            "display_name",
            "created_at",
            "archived_at",
            "suspended_at",
        ],
        numbers: &["position", "created_at", "archived_at", "suspended_at"],
        kept: false,
    },
    Table {
        name: "connector_credential",
        columns: &[
            "id",
            "position",
            "tunnel",
            "kind",
            "sha256",
            "sealed",
            "created_at",
            "refused_at",
            "cut_at",
            "last_used_at",
        ],
        numbers: &[
            "position",
            "created_at",
            "refused_at",
            "cut_at",
            "last_used_at",
        ],
        kept: false,
    },
    Table {
        name: "certificate",
        columns: &[
            "id",
            "position",
            "tunnel",
            "fingerprint",
            "pem",
            "created_at",
            "expires_at",
            "archived_at",
        ],
        numbers: &["position", "created_at", "expires_at", "archived_at"],
        kept: false,
    },
    Table {
        name: "access",
        columns: &["tunnel", "version", "document", "changed_at"],
        numbers: &["version", "changed_at"],
        kept: false,
    },
    Table {
        name: "bundle",
        columns: &[
            "tunnel",
            "sequence",
            "jws",
            "signer",
            "next_signer",
            "created_at",
        ],
        numbers: &["sequence", "created_at"],
        kept: false,
    },
    Table {
        name: "issuer",
        columns: &[
            "id",
            "position",
            "name",
            "document",
            "created_at",
            "archived_at",
        ],
        numbers: &["position", "created_at", "archived_at"],
        kept: false,
    },
    Table {
        name: "rule",
        columns: &[
            "id",
            "position",
            "name",
            "issuer",
            "document",
            "created_at",
            "archived_at",
        ],
        numbers: &["position", "created_at", "archived_at"],
        kept: false,
    },
    Table {
        name: "used_assertion",
        columns: &["issuer", "mark", "expires_at"],
        numbers: &["expires_at"],
        kept: true,
    },
    Table {
        name: "audit",
        columns: &[
            "number",
            "at",
            "actor",
            "action",
            "tunnel",
            "target",
            "outcome",
            "reason",
            "request_id",
        ],
        numbers: &["number", "at"],
        kept: true,
    },
];

/// What refers to rows that a restore replaces, and is not worth keeping.
const DROPPED: [&str; 2] = ["access_token", "idempotency"];

impl State {
    /// Writes what the database holds at one moment. The number of rows.
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
        writeln!(out, "{head}")?;
        let mut rows = 0;
        for table in TABLES {
            let query = format!("SELECT {} FROM {}", table.columns.join(", "), table.name);
            for row in sqlx::query(&query).fetch_all(&mut *transaction).await? {
                let line = json!({ "table": table.name, "row": table.read(&row)? });
                writeln!(out, "{line}")?;
                rows += 1;
            }
        }
        transaction.rollback().await?;
        writeln!(out, "{}", json!({ "end": rows }))?;
        let entry = Entry {
            action: "state_backed_up",
            ..Entry::default()
        };
        self.note(by, entry, Outcome::Done).await?;
        Ok(rows)
    }

    /// Puts back what a backup holds, and the schema around it where there is none: all of it or nothing. Edges
    /// that run act on it as on any change. The number of rows.
    ///
    /// # Errors
    ///
    /// [`BackupError`]: then nothing has changed.
    pub async fn restore(&self, by: &By, backup: &Backup) -> Result<u64, BackupError> {
        let Backup { head, rows } = backup;
        let mut whole = schema::forward(&self.pool).await?;
        let transaction = &mut whole;
        let change = next(transaction, "change").await?;
        for table in DROPPED {
            let query = format!("DELETE FROM {table}");
            sqlx::query(&query).execute(&mut **transaction).await?;
        }
        for table in TABLES.iter().rev().filter(|table| !table.kept) {
            let query = format!("DELETE FROM {}", table.name);
            sqlx::query(&query).execute(&mut **transaction).await?;
        }
        for (table, row) in rows {
            table.insert(transaction, row).await?;
        }
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
        let entry = Entry {
            action: "state_restored",
            reason: Some(&head.taken_at),
            ..Entry::default()
        };
        audit::write(transaction, by, entry, Outcome::Done).await?;
        whole.commit().await?;
        Ok(unsigned(i64::try_from(rows.len()).unwrap_or(i64::MAX)))
    }
}

impl Table {
    fn read(&self, row: &AnyRow) -> Result<Map<String, Value>, sqlx::Error> {
        let mut object = Map::new();
        for column in self.columns {
            let value = if self.numbers.contains(column) {
                row.try_get::<Option<i64>, _>(*column)?.map(Value::from)
            } else {
                row.try_get::<Option<String>, _>(*column)?.map(Value::from)
            };
            object.insert((*column).to_owned(), value.unwrap_or(Value::Null));
        }
        Ok(object)
    }

    async fn insert(
        &self,
        transaction: &mut Transaction<'static, Any>,
        row: &Map<String, Value>,
    ) -> Result<(), BackupError> {
        let places: Vec<String> = (1..=self.columns.len()).map(|n| format!("${n}")).collect();
        let kept = if self.kept {
            " ON CONFLICT DO NOTHING"
        } else {
            ""
        };
        let query = format!(
            "INSERT INTO {} ({}) VALUES ({}){kept}",
            self.name,
            self.columns.join(", "),
            places.join(", ")
        );
        let mut query = sqlx::query(&query);
        for column in self.columns {
            let value = row.get(*column);
            query = if self.numbers.contains(column) {
                query.bind(value.and_then(Value::as_i64))
            } else {
                query.bind(value.and_then(Value::as_str).map(str::to_owned))
            };
        }
        query.execute(&mut **transaction).await.map_err(refused)?;
        Ok(())
    }

    /// Whether every column is there and of its kind.
    fn holds(&self, row: &Map<String, Value>) -> bool {
        row.len() == self.columns.len()
            && self.columns.iter().all(|column| {
                let number = self.numbers.contains(column);
                row.get(*column).is_some_and(|v| {
                    v.is_null() || v.is_i64() == number && (number || v.is_string())
                })
            })
    }
}

/// Of a row: whether it is at fault, or the database.
fn refused(error: sqlx::Error) -> BackupError {
    let breach = error.as_database_error().is_some_and(|error| {
        error.is_foreign_key_violation()
            || error.is_unique_violation()
            || error.is_check_violation()
            || matches!(error.kind(), ErrorKind::NotNullViolation)
    });
    if breach {
        BackupError::Refused(error)
    } else {
        error.into()
    }
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
