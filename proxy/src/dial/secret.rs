//! The shared secret: out of a file that is replaced when it is rotated, or as the daemon sends it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{Digest, SHA256, digest};
use control::Secret;
use tokio::sync::watch;

use super::roster::Roster;
use crate::config::ConfigError;
use crate::secret_file;
use crate::watched::Watched;

/// No credential comes near it.
const LONGEST: usize = 4096;

/// The newest one, once there is one.
pub(super) type Newest = watch::Sender<Option<Arc<Secret>>>;

/// Where the secrets of the daemon go in, and what becomes of them comes out.
#[derive(Debug)]
pub(crate) struct Pushed {
    /// As the daemon calls the tunnel.
    pub(crate) tunnel: String,
    pub(crate) newest: Newest,
    pub(crate) roster: Roster,
}

impl Pushed {
    /// The next dial presents `secret`, and so does every connection there is. `None`: it is none.
    pub(crate) fn offer(&self, secret: Secret) -> Option<Arc<Secret>> {
        let secret = Arc::new(usable(secret.expose()).then_some(secret)?);
        take(&self.newest, Arc::clone(&secret));
        self.roster.fed(&secret);
        Some(secret)
    }

    /// What the edge makes of `secret`, as soon as that is not what was `said`: `true`, every connection stands on
    /// it; `false`, it was refused. Dropping the future loses nothing.
    pub(crate) async fn judged(&self, secret: &Secret, said: Option<bool>) -> bool {
        self.roster.judged(secret, said).await
    }
}

/// The file and what it said last.
pub(super) struct Secrets {
    path: PathBuf,
    newest: Newest,
}

impl Secrets {
    /// Reads the file for the first time.
    pub(super) fn load(path: &Path, newest: Newest) -> Result<Self, ConfigError> {
        take(&newest, Arc::new(read(path)?));
        let path = path.to_owned();
        Ok(Self { path, newest })
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
        take(&self.newest, Arc::new(secret));
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
    if !usable(value) {
        let path = path.to_owned();
        return Err(ConfigError::NoSecret { path });
    }
    Ok(Secret::new(value.to_owned()))
}

/// Whether it can stand in a header field, and be sent in one line.
fn usable(value: &str) -> bool {
    (1..=LONGEST).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic())
}

/// What is the same is no news.
fn take(newest: &Newest, secret: Arc<Secret>) {
    newest.send_if_modified(|newest| {
        let changed = newest.as_ref() != Some(&secret);
        if changed {
            *newest = Some(secret);
        }
        changed
    });
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
        let none = folder.path().join("none");
        let error = Secrets::load(&none, Newest::default()).err().unwrap();
        assert!(error.to_string().contains("none"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_holds_no_secret_keeps_the_last_one_and_the_next_one_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "first").unwrap();
        let secrets = Secrets::load(&path, Newest::default()).unwrap();
        let newest = secrets.newest.subscribe();
        let mut watch = Watch::new(secrets);
        for (text, kept) in [("first\n", "first"), ("", "first"), ("second", "second")] {
            std::fs::write(&path, text).unwrap();
            watch.look().await;
            let newest = newest.borrow().clone().unwrap();
            assert_eq!(newest.expose(), kept, "{text:?}");
        }
    }
}
