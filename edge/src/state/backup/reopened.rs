//! What a restore must not open again, and what it does.
//!
//! A backup knows nothing of what was ended after it was taken. What is in the state and ended there stays
//! ended; what is open afterwards and was not before is told, for the operator to end it anew.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::{Any, Transaction};

use super::{BackupError, TABLES, Table};

/// Tables with an end, and the columns that say when it was: of two times the earlier stays.
const ENDS: [(&str, &[&str]); 5] = [
    ("tunnel", &["archived_at"]),
    ("connector_credential", &["refused_at", "cut_at"]),
    ("certificate", &["archived_at"]),
    ("issuer", &["archived_at"]),
    ("rule", &["archived_at"]),
];

/// Something that is open after a restore and was not before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reopened {
    /// `tunnel`, `token`, `secret`, `certificate`, `issuer`, `rule`; `access` if it lets in somebody else.
    pub kind: String,
    /// Its id; of access its tunnel's.
    pub id: String,
    /// Whose it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<String>,
}

/// The rows that a restore replaces, by table and id.
pub(super) struct Before(BTreeMap<(&'static str, String), Map<String, Value>>);

impl Before {
    pub(super) async fn read(
        transaction: &mut Transaction<'static, Any>,
    ) -> Result<Self, BackupError> {
        let mut rows = BTreeMap::new();
        let ends = |name: &str| name == "access" || ends(name).is_some();
        for table in TABLES.iter().filter(|table| ends(table.name)) {
            let query = format!("SELECT {} FROM {}", table.columns.join(", "), table.name);
            for row in sqlx::query(&query).fetch_all(&mut **transaction).await? {
                let row = table.read(&row)?;
                rows.insert((table.name, id(&row)), row);
            }
        }
        Ok(Self(rows))
    }

    /// The row of a backup with the ends that it has here.
    pub(super) fn ended(&self, table: &Table, row: &Map<String, Value>) -> Map<String, Value> {
        let mut ended = row.clone();
        let (Some(columns), Some(before)) = (ends(table.name), self.of(table, row)) else {
            return ended;
        };
        let both = |column: &str| [time(row, column), time(before, column)];
        let mut set = |column: &str, time: Option<i64>| {
            if let Some(time) = time {
                ended.insert(column.to_owned(), time.into());
            }
        };
        for column in columns {
            set(column, both(column).into_iter().flatten().min());
        }
        // Of those that are not later than it, none begins again.
        set("stamped_at", both("stamped_at").into_iter().flatten().max());
        ended
    }

    /// What is open by `row`, which was put back, and was not open before.
    pub(super) fn opened(
        &self,
        table: &Table,
        row: &Map<String, Value>,
        now: u64,
    ) -> Option<Reopened> {
        let before = self.of(table, row);
        let opened = if table.name == "access" {
            before.is_some_and(|before| before.get("document") != row.get("document"))
        } else {
            let columns = ends(table.name)?;
            is_open(columns, row, now)
                && !before.is_some_and(|before| is_open(columns, before, now))
        };
        let text = |column| row.get(column).and_then(Value::as_str);
        opened.then(|| Reopened {
            kind: text("kind").unwrap_or(table.name).to_owned(),
            id: id(row),
            tunnel: text("tunnel").map(str::to_owned),
        })
    }

    fn of(&self, table: &Table, row: &Map<String, Value>) -> Option<&Map<String, Value>> {
        self.0.get(&(table.name, id(row)))
    }
}

fn ends(table: &str) -> Option<&'static [&'static str]> {
    let found = ENDS.iter().find(|(name, _)| *name == table);
    found.map(|(_, columns)| *columns)
}

/// Access has its tunnel's.
fn id(row: &Map<String, Value>) -> String {
    let id = row.get("id").or_else(|| row.get("tunnel"));
    id.and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn time(row: &Map<String, Value>, column: &str) -> Option<i64> {
    row.get(column).and_then(Value::as_i64)
}

/// Whether none of the ends has come, and nobody suspended it.
fn is_open(columns: &[&str], row: &Map<String, Value>, now: u64) -> bool {
    let now = time(row, "stamped_at").max(i64::try_from(now).ok());
    // What is archived is so whatever the time.
    let come = |column: &&str| {
        time(row, column).is_some_and(|at| *column == "archived_at" || Some(at) <= now)
    };
    !columns.iter().any(come) && time(row, "suspended_at").is_none()
}
