//! The tables that a backup holds, and their rows as JSON.

use serde_json::{Map, Value};
use sqlx::any::AnyRow;
use sqlx::error::ErrorKind;
use sqlx::{Any, Row, Transaction};

use super::BackupError;

/// A table and its columns; those named in `numbers` hold integers.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [&'static str],
    numbers: &'static [&'static str],
    /// Rows that are there stay.
    pub(super) kept: bool,
}

/// In an order in which each finds what it refers to.
pub(super) const TABLES: &[Table] = &[
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
            "stamped_at",
        ],
        numbers: &[
            "position",
            "created_at",
            "refused_at",
            "cut_at",
            "last_used_at",
            "stamped_at",
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
pub(super) const DROPPED: [&str; 2] = ["access_token", "idempotency"];

impl Table {
    pub(super) fn read(&self, row: &AnyRow) -> Result<Map<String, Value>, sqlx::Error> {
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

    pub(super) async fn insert(
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
    pub(super) fn holds(&self, row: &Map<String, Value>) -> bool {
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
