//! Opening the database.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::{AnyConnection, Connection, Executor};
use thiserror::Error;

use super::schema::{self, SchemaError};
use super::{Seal, Settings, State};

/// Connections at once. Writers wait for each other anyway.
const CONNECTIONS: u32 = 8;
/// A question waits so long for a connection before the database counts as not answering.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why the state cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Neither `sqlite:` nor `postgres:`.
    #[error("the state's URL must begin with sqlite: or postgres:")]
    Url,
    /// The database cannot be reached or opened.
    #[error("cannot open the database")]
    Connect(#[source] sqlx::Error),
    /// Its schema is not ours.
    #[error("cannot bring the database to this program's schema")]
    Schema(#[from] SchemaError),
}

impl State {
    /// Opens the database at `url` and brings its schema forward. An `SQLite` file is made if absent.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a schema that is newer than this program is refused and left as it is.
    pub async fn open(url: &str, seal: Seal, settings: Settings) -> Result<Self, OpenError> {
        if !["sqlite:", "postgres:", "postgresql:"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err(OpenError::Url);
        }
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = url.parse().map_err(OpenError::Connect)?;
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect_with(options)
            .await
            .map_err(OpenError::Connect)?;
        schema::migrate(&pool).await?;
        Ok(Self {
            pool,
            seal: Arc::new(seal),
            settings: Arc::new(settings),
        })
    }

    /// The URL of an `SQLite` file that is made when it is absent.
    pub fn file_url(path: &Path) -> String {
        format!("sqlite://{}?mode=rwc", path.display())
    }
}

/// `SQLite`: readers do not wait for the writer, and what was committed survives a power cut.
/// `PostgreSQL`: no statement of ours takes long, so one that does is stuck.
async fn prepare(connection: &mut AnyConnection) -> Result<(), sqlx::Error> {
    let statements: &[&str] = match connection.backend_name() {
        "SQLite" => &[
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "PRAGMA busy_timeout = 5000",
            "PRAGMA foreign_keys = ON",
        ],
        _ => &[
            "SET statement_timeout = '10s'",
            "SET lock_timeout = '5s'",
            "SET idle_in_transaction_session_timeout = '10s'",
        ],
    };
    for statement in statements {
        connection.execute(*statement).await?;
    }
    connection.ping().await
}
