//! The shared secret, out of a file that is replaced when it is rotated.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use control::Secret;
use tokio::sync::watch;

use crate::config::ConfigError;
use crate::secret_file;
use crate::watched::Watched;

/// No credential comes near it.
const LONGEST: usize = 4096;

/// The file and what it said last.
pub(super) struct Secrets {
    path: PathBuf,
    newest: watch::Sender<Arc<Secret>>,
}

impl Secrets {
    pub(super) fn load(path: &Path) -> Result<Self, ConfigError> {
        Ok(Self {
            path: path.to_owned(),
            newest: watch::Sender::new(Arc::new(read(path)?)),
        })
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Secret>> {
        self.newest.subscribe()
    }
}

impl Watched for Secrets {
    type Read = Secret;
    type Error = ConfigError;
    const SETTLE: Duration = Duration::from_millis(20);

    async fn read(&self) -> Result<(Digest, Secret), ConfigError> {
        let secret = read(&self.path)?;
        Ok((digest(&SHA256, secret.expose().as_bytes()), secret))
    }

    fn take(&mut self, secret: Secret) -> Result<(), ConfigError> {
        self.newest.send_if_modified(|newest| {
            let changed = **newest != secret;
            if changed {
                *newest = Arc::new(secret);
            }
            changed
        });
        Ok(())
    }

    fn tell(&self, error: &ConfigError) {
        let next = error.next();
        tracing::error!(%error, next, "secret not taken, the last good one is kept");
    }

    fn recovered(&self) {
        tracing::info!(path = %self.path.display(), "secret taken again");
    }
}

fn read(path: &Path) -> Result<Secret, ConfigError> {
    let text = secret_file::read(path, LONGEST).map_err(|error| ConfigError::Open {
        path: path.to_owned(),
        error,
    })?;
    let value = text.expose().trim();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let path = path.to_owned();
        return Err(ConfigError::NoSecret { path });
    }
    Ok(Secret::new(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::Watch;

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

    #[tokio::test(start_paused = true)]
    async fn a_file_that_holds_no_secret_keeps_the_last_one_and_the_next_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "first").unwrap();
        let secrets = Secrets::load(&path).unwrap();
        let newest = secrets.subscribe();
        let mut watch = Watch::new(secrets);
        for (text, kept) in [("first\n", "first"), ("", "first"), ("second", "second")] {
            std::fs::write(&path, text).unwrap();
            watch.look().await;
            assert_eq!(newest.borrow().expose(), kept, "{text:?}");
        }
    }
}
