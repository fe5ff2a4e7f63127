//! Opening the state for an operator.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use process::{Clock, Exit, Failure, SystemClock};

use super::output::{failed, print};
use crate::state::{
    By, ChangeError, Identifier, OpenError, Seal, Settings, State, random_identifier,
};

/// Where the state lies unless told otherwise.
const DEFAULT_DIRECTORY: &str = "/var/lib/keyward-edge";
/// Its files.
const SEAL: &str = "seal.key";
const DATABASE: &str = "edge.db";
/// Under which the help of every command that has a use for the state names it, after its own words.
const STATE: &str = "State";
/// How long an operator waits for the edges to act on a change.
const ENFORCEMENT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// Where the state is.
#[derive(Clone, Debug, clap::Args)]
pub struct StateOptions {
    /// Directory of the database and of the key file that seals tokens
    #[arg(
        long,
        global = true,
        help_heading = STATE,
        value_name = "DIRECTORY",
        default_value = DEFAULT_DIRECTORY
    )]
    pub state: PathBuf,
    /// A file with the URL of a `PostgreSQL` database, which may hold a password [default: `SQLite`,
    /// `edge.db` in the state's directory]
    #[arg(
        long,
        global = true,
        help_heading = STATE,
        value_name = "PATH",
        help = "A file with the URL of a PostgreSQL database, which may hold a password [default: SQLite, edge.db in the state's directory]"
    )]
    pub database_url_file: Option<PathBuf>,
    /// Do not keep tokens, not even sealed: they can be had by rotating alone
    #[arg(long, global = true, help_heading = STATE)]
    pub no_reveal: bool,
}

/// An operator at work.
pub(super) struct Session {
    pub(super) state: State,
    pub(super) by: By,
}

impl Session {
    /// Prints the object that a change made, and how far the change has come.
    pub(super) async fn changed(
        &self,
        number: u64,
        object: &impl serde::Serialize,
    ) -> Result<(), Failure> {
        let object = serde_json::to_value(object).expect("plain data has a JSON form");
        let mut enforced = self.enforced(number).await?;
        for _ in 0..ENFORCEMENT.as_millis() / POLL.as_millis() {
            if enforced.instances >= enforced.of {
                break;
            }
            tokio::time::sleep(POLL).await;
            enforced = self.enforced(number).await?;
        }
        let mut object = object.as_object().cloned().unwrap_or_default();
        object.insert("enforced".to_owned(), serde_json::json!(enforced));
        print(&object)
    }

    async fn enforced(&self, number: u64) -> Result<api::Enforced, Failure> {
        let enforced = self.state.enforced(number).await;
        enforced.map_err(|error| failed(&error.into()))
    }
}

impl StateOptions {
    /// Opens the state as it is configured.
    ///
    /// # Errors
    ///
    /// 78 for a key file or URL that cannot be used, 69 if the database cannot be reached.
    pub async fn open(&self, edge: &str) -> Result<State, Failure> {
        let (seal, settings) = self.sealed(edge)?;
        let opened = State::open(&self.url()?, seal, settings).await;
        opened.map_err(|error| unopened(&error))
    }

    /// What a state is opened with.
    fn sealed(&self, edge: &str) -> Result<(Seal, Settings), Failure> {
        let seal_file = self.state.join(SEAL);
        let seal = Seal::open(&seal_file).map_err(|error| {
            let what = format!("cannot use {}", seal_file.display());
            Failure::config(what)
                .caused_by(&error)
                .next("run as the edge's user, or name the state's directory with --state")
        })?;
        let settings = Settings {
            edge: edge.to_owned(),
            reveal: !self.no_reveal,
        };
        Ok((seal, settings))
    }

    /// The key file, and what `SQLite` writes if it is that.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.state.join(SEAL)];
        if self.database_url_file.is_none() {
            let endings = ["", "-wal", "-shm", "-journal"].into_iter();
            files.extend(endings.map(|ending| self.state.join(format!("{DATABASE}{ending}"))));
        }
        files
    }

    /// Opens the state of the edge `name`, and makes it at the first start.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open), and 78 if the state belongs to another edge.
    pub async fn open_as(&self, name: &str, by: &By) -> Result<State, Failure> {
        make_private(&self.state)?;
        let state = self.open(name).await?;
        match state.initialise(by, name).await {
            Ok(_) => Ok(state),
            Err(error @ ChangeError::Database(_)) => Err(failed(&error)),
            Err(error) => Err(Failure::config("the state is not this edge's").caused_by(&error)),
        }
    }

    pub(super) fn url(&self) -> Result<String, Failure> {
        let Some(file) = &self.database_url_file else {
            return Ok(State::file_url(&self.state.join(DATABASE)));
        };
        let text = std::fs::read_to_string(file).map_err(|error| {
            Failure::config(format!("cannot read {}", file.display())).caused_by(&error)
        })?;
        Ok(text.trim().to_owned())
    }
}

/// Why the state is not opened.
pub(super) fn unopened(error: &OpenError) -> Failure {
    let exit = match error {
        OpenError::Connect(_) | OpenError::Unreachable { .. } => Exit::Unavailable,
        _ => Exit::Config,
    };
    let failure = Failure::new(exit, "cannot open the state").caused_by(error);
    match error {
        OpenError::Unprotected { .. } => failure.next(
            "add ?sslmode=verify-full to the database's URL, and &sslrootcert=PATH unless a public CA signed its certificate; sslmode=disable where nobody can stand in between",
        ),
        OpenError::Unreachable { .. } => failure.next(
            "see whether it runs there and whether a firewall lets this machine in, or correct the URL in the file that --database-url-file names",
        ),
        _ => failure,
    }
}

/// Makes the state of a new edge, or says what is there.
pub(super) async fn initialise(options: &StateOptions, name: &str) -> Result<(), Failure> {
    make_private(&options.state)?;
    let state = options.open(name).await?;
    let identity = state
        .initialise(&by(), name)
        .await
        .map_err(|error| failed(&error))?;
    state.close().await;
    print(&identity)
}

/// Opens the state of an edge that has a name.
pub(super) async fn open(options: &StateOptions) -> Result<Session, Failure> {
    let nameless = options.open("").await?;
    let identity = nameless.identity().await;
    nameless.close().await;
    let identity = identity.map_err(|error| failed(&ChangeError::from(error)))?;
    let identity = identity.ok_or_else(|| {
        Failure::config("this state has no edge yet").next("keyward-edge init --name NAME")
    })?;
    Ok(Session {
        state: options.open(&identity.edge).await?,
        by: by(),
    })
}

/// Opens the state to put a backup into it, and makes what is not there, but for the schema and the edge's name.
pub(super) async fn restorable(options: &StateOptions) -> Result<State, Failure> {
    make_private(&options.state)?;
    let (seal, settings) = options.sealed("")?;
    let connected = State::connect(&options.url()?, seal, settings).await;
    connected.map_err(|error| unopened(&error))
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    let since = SystemClock.wall().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// The operator, now.
pub(super) fn by() -> By {
    By {
        actor: format!("operator:{}", rustix::process::getuid().as_raw()),
        request_id: random_identifier(Identifier::Request),
        now: now(),
    }
}

fn make_private(directory: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|error| {
            Failure::config(format!("cannot make {}", directory.display())).caused_by(&error)
        })
}
