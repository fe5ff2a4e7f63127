//! The edge's state as its operator works on it: by the program's own command line, beside the edge that serves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokio::process::Command;

use super::StackError;

/// The state of an edge, and the tunnel in it.
#[derive(Clone, Debug)]
pub struct EdgeState {
    /// Id of the tunnel, `tnl_…`.
    pub tunnel: String,
    /// Where its edge serves.
    pub address: SocketAddr,
    pub(super) program: PathBuf,
    folder: PathBuf,
}

impl EdgeState {
    /// The state in `folder`, worked on by `program`; no tunnel is named yet.
    pub(super) fn new(program: &Path, folder: &Path, address: SocketAddr) -> Self {
        Self {
            tunnel: String::new(),
            address,
            program: program.to_owned(),
            folder: folder.to_owned(),
        }
    }

    /// Runs `keyward-edge` with these words and gives the object that it printed.
    ///
    /// # Errors
    ///
    /// It did not end well, with what it said.
    pub async fn command(&self, words: &[&str]) -> Result<Value, StackError> {
        let failed = |error| StackError::Io {
            what: format!("run keyward-edge {}", words.join(" ")),
            error,
        };
        let ended = Command::new(&self.program)
            .args(words)
            .arg("--state")
            .arg(&self.folder)
            .env_clear()
            .kill_on_drop(true)
            .output()
            .await
            .map_err(failed)?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            return Err(failed(std::io::Error::other(said)));
        }
        serde_json::from_slice(&ended.stdout).map_err(|error| failed(error.into()))
    }

    /// A member of the answer that is text; empty: there is none.
    pub(super) async fn text(&self, words: &[&str], key: &str) -> Result<String, StackError> {
        let answer = self.command(words).await?;
        Ok(text(&answer, key))
    }
}

/// A member that is text; empty: there is none.
pub(super) fn text(answer: &Value, key: &str) -> String {
    let text = answer.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}
