//! Opening the database.

use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AnyConnection, Connection, Executor};
use thiserror::Error;

use super::schema::{self, SchemaError};
use super::{Seal, Settings, State, instance, transport};

/// Connections at once. Writers wait for each other anyway.
const CONNECTIONS: u32 = 8;
/// A question waits so long for a connection before the database counts as not answering.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `SQLite` writes: the database, and what it keeps beside it while it is open.
const BESIDE: [&str; 4] = ["", "-wal", "-shm", "-journal"];

/// Why the state cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Neither `sqlite:` nor `postgres:`.
    #[error("the state's URL must begin with sqlite: or postgres:")]
    Url,
    /// A file of the database is readable by others, and its mode cannot be changed.
    #[error("cannot keep {} for this user alone", path.display())]
    Private {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// On another machine, where the server's certificate would not be checked.
    #[error(
        "PostgreSQL at {host} is on another machine, and its certificate would not be checked: sslmode is {mode}"
    )]
    Unprotected {
        /// Where it is.
        host: String,
        /// `sslmode` as it is.
        mode: &'static str,
    },
    /// The database cannot be reached or opened.
    #[error("cannot open the database")]
    Connect(#[source] sqlx::Error),
    /// The server did not take a connection within three seconds.
    #[error("PostgreSQL at {at} takes no connection")]
    Unreachable {
        /// Host and port, or directory of the socket.
        at: String,
        /// What the last try ended in.
        #[source]
        source: sqlx::Error,
    },
    /// Its schema is not ours.
    #[error("cannot bring the database to this program's schema")]
    Schema(#[from] SchemaError),
}

impl State {
    /// Opens the database at `url` and brings its schema forward. An `SQLite` file is made if absent; it
    /// and what lies beside it are for this user alone, whatever the mode of the directory.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; a schema that is newer than this program is refused and left as it is.
    pub async fn open(url: &str, seal: Seal, settings: Settings) -> Result<Self, OpenError> {
        let this = Self::connect(url, seal, settings).await?;
        schema::migrate(&this.pool).await?;
        Ok(this)
    }

    /// The same, and its schema is left as it is: for [`restore`](Self::restore), which brings it forward
    /// together with what it puts there, or not at all.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub async fn connect(url: &str, seal: Seal, settings: Settings) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let options = transport::options(url)?;
        if url.starts_with("sqlite:") && !url.contains(":memory:") {
            let file: SqliteConnectOptions = url.parse().map_err(OpenError::Connect)?;
            make_private(file.get_filename(), url.contains("mode=rwc"))?;
        }
        let pool = AnyPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(PATIENCE)
            .after_connect(|connection, _| Box::pin(prepare(connection)))
            .connect_with(options.clone());
        let pool = match pool.await {
            Err(sqlx::Error::PoolTimedOut) => return Err(unreachable(url, &options).await),
            pool => pool.map_err(OpenError::Connect)?,
        };
        let kind = if url.starts_with("sqlite:") {
            "SQLite"
        } else {
            "PostgreSQL"
        };
        Ok(Self {
            pool,
            clock: instance::clock(kind),
            seal: Arc::new(seal),
            settings: Arc::new(settings),
        })
    }

    /// Whether nothing was ever put there: not even the schema.
    pub async fn is_bare(&self) -> bool {
        let asked = sqlx::query("SELECT number FROM schema_version");
        asked.fetch_one(&self.pool).await.is_err()
    }

    /// Whether [`open`](Self::open) would connect by `url` at all; nothing is opened.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn check_url(url: &str) -> Result<(), OpenError> {
        transport::options(url).map(drop)
    }

    /// The URL of an `SQLite` file that is made when it is absent.
    pub fn file_url(path: &Path) -> String {
        format!("sqlite://{}?mode=rwc", path.display())
    }
}

/// The pool knows that it has waited, and not for what: one try outside it does.
async fn unreachable(url: &str, options: &AnyConnectOptions) -> OpenError {
    let tried = tokio::time::timeout(PATIENCE, AnyConnection::connect_with(options)).await;
    let source = match tried {
        Ok(Err(error)) => error,
        Ok(Ok(_)) => sqlx::Error::PoolTimedOut,
        Err(_) => sqlx::Error::Io(ErrorKind::TimedOut.into()),
    };
    match transport::address(url) {
        Some(at) => OpenError::Unreachable { at, source },
        None => OpenError::Connect(source),
    }
}

/// Mode 0600 before `SQLite` opens it: what `SQLite` makes later takes the mode of the database.
fn make_private(file: &Path, create: bool) -> Result<(), OpenError> {
    if create {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file);
        if let Err(error) = made
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(OpenError::Connect(error.into()));
        }
    }
    for ending in BESIDE {
        let mut path = file.as_os_str().to_owned();
        path.push(ending);
        let path = PathBuf::from(path);
        // One that went away meanwhile is readable by nobody.
        let open = std::fs::metadata(&path).is_ok_and(|found| found.mode() & 0o077 != 0);
        if !open {
            continue;
        }
        match std::fs::set_permissions(&path, Permissions::from_mode(0o600)) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                return Err(OpenError::Private { path, source });
            }
            _ => tracing::warn!(path = %path.display(), "the state was readable by others"),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(file: &Path) -> State {
        let settings = Settings {
            edge: "edge.test".to_owned(),
            reveal: true,
        };
        let seal = Seal::new(&[7; 32]).unwrap();
        let url = State::file_url(file);
        State::open(&url, seal, settings).await.unwrap()
    }

    fn modes(directory: &Path) -> Vec<(String, u32)> {
        let mut found: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let name = entry.file_name().into_string().unwrap();
                (name, entry.metadata().unwrap().mode() & 0o777)
            })
            .collect();
        found.sort();
        found
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_with_its_address_and_the_cause() {
        // Free again at the end of the statement.
        let free = std::net::TcpListener::bind("127.0.0.1:0").map(|listener| listener.local_addr());
        let port = free.unwrap().unwrap().port();
        let url = format!("postgres://edge:canary@127.0.0.1:{port}/edge");
        let settings = Settings {
            edge: "edge.test".to_owned(),
            reveal: true,
        };
        let error = State::open(&url, Seal::new(&[7; 32]).unwrap(), settings).await;
        let error = error.unwrap_err();
        let wanted = format!("PostgreSQL at 127.0.0.1:{port} takes no connection");
        assert_eq!(error.to_string(), wanted);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains("onnection refused"), "{cause}");
        assert!(!format!("{error:?}").contains("canary"));
    }

    #[tokio::test]
    async fn the_database_and_what_lies_beside_it_are_for_its_user_alone_in_any_directory() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let file = directory.path().join("edge.db");
        let names = ["edge.db", "edge.db-shm", "edge.db-wal"];
        let wanted = names.map(|name| (name.to_owned(), 0o600));
        let state = open(&file).await;
        assert_eq!(modes(directory.path()), wanted);
        // As an earlier release left them.
        for name in names {
            let path = directory.path().join(name);
            std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
        }
        let again = open(&file).await;
        assert_eq!(modes(directory.path()), wanted);
        again.close().await;
        state.close().await;
    }
}
