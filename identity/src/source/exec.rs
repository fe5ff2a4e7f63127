//! A program that prints a token. Our own contract: an absolute path with arguments, no shell, no variable but those
//! that are named, a time limit, and nothing but the token on standard output. What it says on standard error is
//! dropped, because nobody knows what is in it.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::SourceError;
use crate::{Environment, LONGEST};

/// Which program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// Absolute.
    pub program: PathBuf,
    /// Passed as they are.
    pub arguments: Vec<String>,
    /// Variables that it gets, by name; no other.
    pub environment: Vec<String>,
    /// From start to exit; killed then.
    pub timeout: Duration,
}

impl Exec {
    pub(super) async fn run(
        &self,
        environment: &Environment,
    ) -> Result<Zeroizing<String>, SourceError> {
        let failed = |why: String| SourceError::Exec {
            program: self.program.display().to_string(),
            why,
        };
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        for name in &self.environment {
            if let Some(value) = environment.raw(name) {
                command.env(name, value);
            }
        }
        let mut child = command
            .spawn()
            .map_err(|error| failed(format!("it cannot be started: {error}")))?;
        match tokio::time::timeout(self.timeout, printed(&mut child)).await {
            Ok(Ok(text)) => Ok(text),
            Ok(Err(why)) => Err(failed(why)),
            Err(_) => Err(failed(format!(
                "it did not end within {} s",
                self.timeout.as_secs_f64()
            ))),
        }
    }
}

/// Its output, once it has ended well.
async fn printed(child: &mut Child) -> Result<Zeroizing<String>, String> {
    let stdout = child.stdout.take().expect("standard output is piped");
    let most = LONGEST + 1024;
    let mut octets = Zeroizing::new(Vec::with_capacity(most + 1));
    let read = stdout.take(most as u64 + 1).read_to_end(&mut octets).await;
    read.map_err(|error| format!("its output cannot be read: {error}"))?;
    if octets.len() > most {
        return Err(format!("it printed more than {most} bytes"));
    }
    let status = child
        .wait()
        .await
        .map_err(|error| format!("it cannot be waited for: {error}"))?;
    if !status.success() {
        return Err(format!("{status}"));
    }
    let text = std::str::from_utf8(&octets).map_err(|_| "it printed no text".to_owned())?;
    Ok(Zeroizing::new(text.to_owned()))
}
