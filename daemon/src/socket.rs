//! A Unix socket of ours: made so that a dead daemon's socket is replaced and a live one's is not.
//!
//! Permissions of the file are the first gate only. Who connects is asked of the kernel, by whoever
//! accepts; nothing here trusts a path.

use std::collections::btree_map::{BTreeMap, Entry};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::os::unix::fs::{
    DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown,
};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use process::{Exit, Failure};
use tokio::net::{UnixListener, UnixStream};

/// Mode of a directory that had to be made.
const DIRECTORY: u32 = 0o750;
/// The same complaint about the same uid is logged once in this time.
const COMPLAINT: Duration = Duration::from_secs(60);

/// A listening socket. Dropped, it takes its file away.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    /// Held as long as the socket lives: whoever has it is the one daemon on this path.
    _lock: File,
}

impl Socket {
    /// Listens on `path` with file mode `mode` and, where given, group `group`. A directory that is
    /// missing is made, 0750 and of the same group.
    ///
    /// # Errors
    ///
    /// Another process listens there, something else lies there, or the system refuses.
    pub fn bind(path: &Path, mode: u32, group: Option<u32>) -> Result<Self, Failure> {
        let fail = |error: std::io::Error| refused(path, &error);
        if let Some(directory) = path.parent().filter(|directory| !directory.exists()) {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(DIRECTORY);
            builder.create(directory).map_err(fail)?;
            fs::set_permissions(directory, Permissions::from_mode(DIRECTORY)).map_err(fail)?;
            chown(directory, None, group).map_err(fail)?;
        }
        let lock = lock(path)?;
        only_stale(path)?;
        // Bound under another name and renamed, so that the name never shows a socket with the
        // wrong mode, and never nothing.
        let fresh = beside(path, "new");
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(fail)?;
        fs::set_permissions(&fresh, Permissions::from_mode(mode)).map_err(fail)?;
        chown(&fresh, None, group).map_err(fail)?;
        let inode = fs::symlink_metadata(&fresh).map_err(fail)?.ino();
        fs::rename(&fresh, path).map_err(fail)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
            _lock: lock,
        })
    }

    /// The next connection and the uid behind it. Cancel safe.
    ///
    /// # Errors
    ///
    /// As `accept(2)`; the socket stays usable.
    pub async fn accept(&self) -> std::io::Result<(UnixStream, u32)> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, uid))
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Not a socket that somebody else put there since.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How many connections each uid has, so that one of them cannot take them all.
#[derive(Clone, Debug, Default)]
pub struct Crowd(Arc<Mutex<BTreeMap<u32, usize>>>);

/// One connection that counts until this is dropped.
#[derive(Debug)]
pub struct Place {
    crowd: Crowd,
    uid: u32,
}

impl Crowd {
    /// A place for `uid`, unless it has `most` already.
    pub fn enter(&self, uid: u32, most: usize) -> Option<Place> {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = count.entry(uid).or_default();
        if *held >= most {
            return None;
        }
        *held += 1;
        Some(Place {
            crowd: self.clone(),
            uid,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut count = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = count.get_mut(&self.uid) {
            *held -= 1;
            if *held == 0 {
                count.remove(&self.uid);
            }
        }
    }
}

/// What was complained about lately, and when by the boot clock.
#[derive(Debug, Default)]
pub(crate) struct Complaints(Mutex<BTreeMap<(u32, &'static str), Duration>>);

impl Complaints {
    /// Whether `complaint` about `uid` was not made within the last minute; then it counts as made `now`, by
    /// the boot clock.
    pub(crate) fn is_news(&self, uid: u32, complaint: &'static str, now: Duration) -> bool {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lately.retain(|_, at| now.saturating_sub(*at) < COMPLAINT);
        match lately.entry((uid, complaint)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(now);
                true
            }
        }
    }
}

fn lock(path: &Path) -> Result<File, Failure> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(beside(path, "lock"))
        .map_err(|error| refused(path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(occupied(path)),
        Err(TryLockError::Error(error)) => Err(refused(path, &error)),
    }
}

/// Nothing lies at `path`, or a socket that nobody listens on.
fn only_stale(path: &Path) -> Result<(), Failure> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(path, &error)),
        Ok(found) if !found.file_type().is_socket() => Err(Failure::config(format!(
            "{} exists and is not a socket",
            path.display()
        ))
        .next("move it away, or configure another path")),
        Ok(_) => match BlockingStream::connect(path) {
            Ok(_) => Err(occupied(path)),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(error) => Err(refused(path, &error)),
        },
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn occupied(path: &Path) -> Failure {
    Failure::new(
        Exit::Config,
        format!("another process listens on {}", path.display()),
    )
    .cause("a daemon runs with the same configuration")
    .next("stop that one first, or configure another path")
}

fn refused(path: &Path, error: &std::io::Error) -> Failure {
    let exit = if error.kind() == std::io::ErrorKind::PermissionDenied {
        Exit::Permission
    } else {
        Exit::Config
    };
    Failure::new(exit, format!("cannot listen on {}", path.display()))
        .caused_by(error)
        .next("give the daemon's user the directory, or configure another path")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path().join("run/x.sock");
        (directory, path)
    }

    #[tokio::test]
    async fn a_dead_daemons_socket_is_replaced() {
        let (_directory, path) = scratch();
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = Socket::bind(&path, 0o660, None).expect("it is stale");
        let (_, uid) = tokio::join!(UnixStream::connect(&path), socket.accept());
        assert_eq!(uid.unwrap().1, rustix::process::getuid().as_raw());
    }

    #[tokio::test]
    async fn a_live_daemons_socket_is_left_alone() {
        let (_directory, path) = scratch();
        let first = Socket::bind(&path, 0o660, None).expect("it is free");
        let error = Socket::bind(&path, 0o660, None).expect_err("it is taken");
        assert!(error.to_string().contains("another process listens"));
        drop(first);
        assert!(!path.exists(), "the file goes with the socket");
    }

    #[tokio::test]
    async fn a_socket_of_another_program_is_left_alone() {
        let (_directory, path) = scratch();
        fs::create_dir(path.parent().unwrap()).unwrap();
        let _other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = Socket::bind(&path, 0o660, None).expect_err("it is taken");
        assert_eq!(error.exit(), Exit::Config);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_never_removed() {
        let (_directory, path) = scratch();
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "precious").unwrap();
        Socket::bind(&path, 0o660, None).expect_err("it is a file");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn modes_are_as_asked() {
        let (_directory, path) = scratch();
        let _socket = Socket::bind(&path, 0o660, Some(65534)).expect("it is free");
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.mode() & 0o777, found.gid()), (0o660, 65534));
        let directory = fs::metadata(path.parent().unwrap()).unwrap();
        assert_eq!((directory.mode() & 0o777, directory.gid()), (0o750, 65534));
    }

    #[test]
    fn one_uid_cannot_take_every_place() {
        let crowd = Crowd::default();
        let first = crowd.enter(1, 1);
        assert!(first.is_some() && crowd.enter(1, 1).is_none());
        assert!(crowd.enter(2, 1).is_some());
        drop(first);
        assert!(crowd.enter(1, 1).is_some());
    }

    #[test]
    fn the_same_complaint_about_the_same_uid_is_made_once_a_minute() {
        let complaints = Complaints::default();
        assert!(complaints.is_news(1, "x", Duration::from_secs(0)));
        assert!(!complaints.is_news(1, "x", Duration::from_secs(59)));
        assert!(complaints.is_news(2, "x", Duration::from_secs(59)));
        assert!(complaints.is_news(1, "y", Duration::from_secs(59)));
        assert!(complaints.is_news(1, "x", Duration::from_secs(60)));
    }
}
