//! `keyward-edge audit`, `backup` and `restore`.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use process::{Exit, Failure};
use serde_json::{Value, json};

use super::open::{self, Session, StateOptions};
use super::output::{failed, print};
use crate::state::{Backup, BackupError, SchemaError, State};

/// To whom a restore opened what was not open.
const OPENED: &str = "go through opened: it was not open here before, and whatever of it was ended after the backup was taken must be ended again (keyward-edge secret archive, token rotate, access set, rule archive)";
/// To somebody whose proxies have no token after it.
const WITHOUT_TOKEN: &str = "the token of each of tunnels_without_token was rotated after the backup was taken, and neither opens anything: keyward-edge token rotate TUNNEL makes one";
/// To somebody whose tokens do not open after it.
const NEXT: &str = "put the seal.key that was beside the backed-up state into this state's directory, mode 0600, and start the edge again; without it these tokens still connect but cannot be revealed: keyward-edge token rotate TUNNEL makes new ones";

#[derive(Debug, clap::Args)]
pub(super) struct AuditArguments {
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Only what has a number below this
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
}

pub(super) async fn audit(arguments: AuditArguments, session: &Session) -> Result<(), Failure> {
    let before = arguments.before.unwrap_or(u64::MAX);
    let rows = session.state.audit(before, arguments.limit).await;
    let data = rows.map_err(|error| failed(&error.into()))?;
    print(&json!({ "data": data }))
}

/// Under another name first: what has the name is whole.
pub(super) async fn backup(file: &Path, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    if file == Path::new("-") {
        let mut out = BufWriter::new(std::io::stdout());
        let written = state.backup(by, &mut out).await;
        let flushed = written.and_then(|_| Ok(out.flush()?));
        return flushed.map_err(|error| ended(&error));
    }
    let draft = file.with_extension("part");
    let written = write(&draft, session).await;
    let placed = written.and_then(|rows| {
        std::fs::hard_link(&draft, file)?;
        Ok(rows)
    });
    let _ = std::fs::remove_file(&draft);
    let rows = placed.map_err(|error| ended(&error))?;
    print(&json!({ "file": file, "rows": rows }))
}

async fn write(draft: &Path, session: &Session) -> Result<u64, BackupError> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(draft)?;
    let mut out = BufWriter::new(file);
    let rows = session.state.backup(&session.by, &mut out).await?;
    let file = out
        .into_inner()
        .map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    Ok(rows)
}

/// Also into a state that is made by it: the edge's name is in the backup. One that is no good must not leave
/// an empty state, which the edge would then start on: so all of it is read first, and what was made for
/// one that the database refuses is taken away again.
pub(super) async fn restore(file: &Path, options: &StateOptions) -> Result<(), Failure> {
    let backup = read(file).map_err(|error| ended(&error))?;
    let absent = Absent::of(options);
    let state = &open::restorable(options).await?;
    let restored = put_back(file, &backup, state).await;
    // Another edge may have begun there meanwhile.
    let bare = restored.is_err() && state.is_bare().await;
    state.close().await;
    if bare {
        absent.restore();
    }
    print(&restored?)
}

/// What of a state was not there.
struct Absent {
    files: Vec<PathBuf>,
    directory: Option<PathBuf>,
}

impl Absent {
    fn of(options: &StateOptions) -> Self {
        let files = options.files().into_iter();
        Self {
            files: files.filter(|file| !file.exists()).collect(),
            directory: Some(options.state.clone()).filter(|directory| !directory.exists()),
        }
    }

    /// As it was. What cannot be taken away is private, and empty but for a key that has sealed nothing.
    fn restore(self) {
        for file in self.files {
            let _ = std::fs::remove_file(file);
        }
        if let Some(directory) = self.directory {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

fn read(file: &Path) -> Result<Backup, BackupError> {
    if file == Path::new("-") {
        return Backup::read(BufReader::new(std::io::stdin()));
    }
    Backup::read(BufReader::new(File::open(file)?))
}

async fn put_back(file: &Path, backup: &Backup, state: &State) -> Result<Value, Failure> {
    let restored = state.restore(&open::by(), backup).await;
    let restored = restored.map_err(|error| ended(&error))?;
    let closed = state.closed_tokens().await;
    let closed = closed.map_err(|error| failed(&error.into()))?;
    let next = [
        (closed > 0, NEXT),
        (!restored.opened.is_empty(), OPENED),
        (!restored.without_token.is_empty(), WITHOUT_TOKEN),
    ];
    let next = next.into_iter().filter(|(is, _)| *is).map(|(_, text)| text);
    let next = next.collect::<Vec<_>>().join(". ");
    let mut told = json!({
        "file": file,
        "rows": restored.rows,
        "tokens_sealed_with_another_key": closed,
        "opened": restored.opened,
        "tunnels_without_token": restored.without_token,
    });
    if let Some(members) = told.as_object_mut().filter(|_| !next.is_empty()) {
        members.insert("next".to_owned(), next.into());
    }
    Ok(told)
}

fn ended(error: &BackupError) -> Failure {
    let exit = match error {
        BackupError::Database(_) | BackupError::Forward(SchemaError::Database(_)) => {
            Exit::Unavailable
        }
        BackupError::Forward(SchemaError::Newer { .. }) => Exit::Config,
        _ => Exit::Usage,
    };
    let next = match error {
        BackupError::File(_) => {
            "name a file that this user can read, or for backup one that is not there yet"
        }
        BackupError::Damaged { .. } | BackupError::Refused(_) => {
            "take another backup: this one is not whole, and nothing was changed"
        }
        BackupError::Schema { .. } => {
            "restore it with that release, then start this one on the state"
        }
        BackupError::Forward(SchemaError::Newer { .. }) => {
            "use the release that this state belongs to, or another state"
        }
        BackupError::Database(_) | BackupError::Forward(_) => {
            "see whether the database runs, and whether this user may use it"
        }
    };
    Failure::new(exit, "it was not done")
        .caused_by(error)
        .next(next)
}
