//! The shared secret, out of a file that is replaced when it is rotated.
//!
//! Read and hashed anew every 250 ms, whatever its dates say. What cannot be used is logged once, and the
//! last good value stays.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control::Secret;
use thiserror::Error;
use tokio::sync::watch;

/// How often the file is read.
const INTERVAL: Duration = Duration::from_millis(250);
/// No credential comes near it.
const LONGEST: usize = 4096;

/// Why what the file says is no secret.
#[derive(Debug, Error)]
pub(super) enum SecretError {
    #[error("{} cannot be read", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    #[error("{} holds no secret: one line of visible ASCII", .0.display())]
    Unusable(PathBuf),
}

/// The file and what it said last.
pub(super) struct Secrets {
    path: PathBuf,
    newest: watch::Sender<Arc<Secret>>,
}

impl Secrets {
    pub(super) fn load(path: &Path) -> Result<Self, SecretError> {
        Ok(Self {
            path: path.to_owned(),
            newest: watch::Sender::new(Arc::new(read(path)?)),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Secret>> {
        self.newest.subscribe()
    }

    /// Takes up what the file says, for ever.
    pub(super) async fn watch(&self) {
        let mut said = String::new();
        loop {
            tokio::time::sleep(INTERVAL).await;
            let error = match read(&self.path) {
                Ok(secret) => {
                    self.newest.send_if_modified(|newest| {
                        let changed = **newest != secret;
                        if changed {
                            *newest = Arc::new(secret);
                        }
                        changed
                    });
                    String::new()
                }
                Err(error) => error.to_string(),
            };
            if error != said && !error.is_empty() {
                tracing::error!(error, "secret not taken, the last good one is kept");
            }
            said = error;
        }
    }
}

fn read(path: &Path) -> Result<Secret, SecretError> {
    let unreadable = |error| SecretError::Unreadable {
        path: path.to_owned(),
        error,
    };
    let file = File::open(path).map_err(unreadable)?;
    // Room for all of it, so that nothing is left behind in a smaller buffer.
    let mut text = String::with_capacity(LONGEST + 1);
    let read = file.take(LONGEST as u64 + 1).read_to_string(&mut text);
    // Erased when this function ends, in whatever way.
    let text = Secret::new(text);
    if let Err(error) = read
        && error.kind() != io::ErrorKind::InvalidData
    {
        return Err(unreadable(error));
    }
    let value = text.expose().trim();
    let visible = value.bytes().all(|byte| byte.is_ascii_graphic());
    if text.expose().len() > LONGEST || value.is_empty() || !visible {
        return Err(SecretError::Unusable(path.to_owned()));
    }
    Ok(Secret::new(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_of_visible_ascii_is_a_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (text, good) in [
            ("abc-_=\n", true),
            ("  abc  ", true),
            ("", false),
            ("\n", false),
            ("two words", false),
            ("two\nlines", false),
            ("\u{e9}", false),
            (&*"x".repeat(5000), false),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(&path).is_ok(), good, "{text:?}");
        }
        let error = Secrets::load(&folder.path().join("none")).err().unwrap();
        assert!(error.to_string().contains("none"));
    }
}
