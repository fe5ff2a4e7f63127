//! `keyward-edge audit`, `backup` and `restore`.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use process::{Exit, Failure};
use serde_json::json;

use super::open::Session;
use super::output::{failed, print};
use crate::state::BackupError;

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

pub(super) async fn restore(file: &Path, session: &Session) -> Result<(), Failure> {
    let (state, by) = (&session.state, &session.by);
    let restored = if file == Path::new("-") {
        state.restore(by, BufReader::new(std::io::stdin())).await
    } else {
        match File::open(file) {
            Ok(file) => state.restore(by, BufReader::new(file)).await,
            Err(error) => Err(error.into()),
        }
    };
    let rows = restored.map_err(|error| ended(&error))?;
    print(&json!({ "file": file, "rows": rows }))
}

fn ended(error: &BackupError) -> Failure {
    let exit = match error {
        BackupError::Database(_) => Exit::Unavailable,
        _ => Exit::Usage,
    };
    Failure::new(exit, "it was not done").caused_by(error)
}
