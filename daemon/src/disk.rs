//! The one place that changes files, so that each change is durable and each can be made to fail.
//!
//! A file counts once it is synced, a name once its directory is: what has to count together is written
//! first and synced afterwards, so that a slow disk is waited for once. Files have their mode from their
//! first byte on. Reading is done with `std::fs` where it is needed.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Gid, Uid};
use thiserror::Error;

/// Done to a file that has to be there.
pub(crate) const READ: &str = "read";

/// What could not be done to which file.
#[derive(Debug, Error)]
#[error("cannot {doing} {}", path.display())]
pub struct DiskError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DiskError {
    pub(crate) fn new(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// What whoever runs the daemon can do about it.
    pub(crate) fn next(&self) -> String {
        let path = self.path.display();
        match (self.source.kind(), self.doing) {
            // Directories are made only where there is none yet.
            (io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory, _) => {
                format!(
                    "a directory belongs at {path}, and something else is in its place: move that away, or name another path"
                )
            }
            (io::ErrorKind::IsADirectory, _) => {
                format!("a file belongs at {path}: move the directory away")
            }
            (io::ErrorKind::PermissionDenied, READ) => {
                format!("let the user of this process read {path}")
            }
            (io::ErrorKind::PermissionDenied, _) => {
                format!("make {path} and what it lies in writable for the user of this process")
            }
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => {
                "make room on the disk".to_owned()
            }
            _ => "look at the disk, and at who mounted it how".to_owned(),
        }
    }
}

/// Who may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    /// Of directories, such as 0700.
    pub(crate) directory: u32,
    /// Of files, such as 0600.
    pub(crate) file: u32,
    /// `None`: whoever writes it.
    pub(crate) owner: Option<u32>,
    /// `None`: the group of whoever writes it.
    pub(crate) group: Option<u32>,
}

impl Access {
    /// For the daemon's uid alone.
    pub(crate) const PRIVATE: Self = Self {
        directory: 0o700,
        file: 0o600,
        owner: None,
        group: None,
    };

    /// For the daemon and a group of readers.
    pub(crate) const fn group(group: Option<u32>) -> Self {
        Self {
            directory: 0o750,
            file: 0o640,
            owner: None,
            group,
        }
    }
}

/// Changes files. In tests a crash can be put before any of its steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    #[cfg(test)]
    pub(crate) crash: Option<std::sync::Arc<crash::Crash>>,
}

impl Disk {
    /// A disk that never fails and never waits.
    #[cfg(test)]
    pub(crate) fn simulated() -> Self {
        Self {
            crash: Some(crash::Crash::after(u64::MAX, crash::Kind::Kill)),
        }
    }

    /// Makes `path` and what is above it; an existing directory gets the mode and the group.
    pub(crate) fn ensure_directory(&self, path: &Path, access: Access) -> Result<(), DiskError> {
        if !path.is_dir() {
            if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
                let above = Access {
                    directory: 0o755,
                    ..Access::PRIVATE
                };
                self.ensure_directory(parent, above)?;
            }
            self.create_directory(path, access)?;
            return path.parent().map_or(Ok(()), |parent| self.sync(parent));
        }
        own(path, access.directory, access)
    }

    /// Makes a directory that is not there yet.
    pub(crate) fn create_directory(&self, path: &Path, access: Access) -> Result<(), DiskError> {
        let error = |error| DiskError::new("make the directory", path, error);
        self.before(Step::Create(path)).map_err(error)?;
        std::fs::create_dir(path).map_err(error)?;
        own(path, access.directory, access)
    }

    /// Writes a file that is not there yet. Nothing of it counts before [`sync`](Self::sync).
    pub(crate) fn create(
        &self,
        path: &Path,
        bytes: &[u8],
        access: Access,
    ) -> Result<(), DiskError> {
        let error = |error| DiskError::new("write", path, error);
        self.before(Step::Create(path)).map_err(error)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(access.file)
            .open(path)
            .map_err(error)?;
        own(path, access.file, access)?;
        self.write(&mut file, path, bytes).map_err(error)
    }

    /// Puts a whole file in the place of `path`, which may be there or not, for good.
    pub(crate) fn replace(
        &self,
        path: &Path,
        bytes: &[u8],
        access: Access,
    ) -> Result<(), DiskError> {
        let next = beside(path);
        self.remove(&next)?;
        self.create(&next, bytes, access)?;
        self.sync(&next)?;
        self.rename(&next, path)?;
        path.parent().map_or(Ok(()), |parent| self.sync(parent))
    }

    /// Puts a file in the place of `path`, whole for whoever looks; after a power loss it may be empty
    /// or not there, until it and its directory are synced.
    pub(crate) fn put(&self, path: &Path, bytes: &[u8], access: Access) -> Result<(), DiskError> {
        let next = beside(path);
        self.remove(&next)?;
        self.create(&next, bytes, access)?;
        self.rename(&next, path)
    }

    /// Adds to the end of a file; `sync` makes it and all before it durable.
    pub(crate) fn append(
        &self,
        file: &mut File,
        path: &Path,
        bytes: &[u8],
        sync: bool,
    ) -> Result<(), DiskError> {
        let error = |error| DiskError::new("append to", path, error);
        self.write(file, path, bytes).map_err(error)?;
        if !sync {
            return Ok(());
        }
        self.before(Step::Sync(path)).map_err(error)?;
        if self.is_simulated() {
            return Ok(());
        }
        file.sync_data().map_err(error)
    }

    /// Names a file or directory anew, in one step.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        let error = |error| DiskError::new("rename to", to, error);
        self.before(Step::Rename(from, to)).map_err(error)?;
        std::fs::rename(from, to).map_err(error)
    }

    /// Gives a file a second name.
    pub(crate) fn link(&self, file: &Path, name: &Path) -> Result<(), DiskError> {
        let error = |error| DiskError::new("link", name, error);
        self.before(Step::Create(name)).map_err(error)?;
        std::fs::hard_link(file, name).map_err(error)
    }

    /// Makes a symbolic link that is not there yet.
    pub(crate) fn symlink(&self, target: &str, link: &Path) -> Result<(), DiskError> {
        let error = |error| DiskError::new("link", link, error);
        self.before(Step::Create(link)).map_err(error)?;
        std::os::unix::fs::symlink(target, link).map_err(error)
    }

    /// Puts a symbolic link in the place of `link`, which may be there or not.
    pub(crate) fn replace_symlink(&self, target: &str, link: &Path) -> Result<(), DiskError> {
        let next = beside(link);
        self.remove(&next)?;
        self.symlink(target, &next)?;
        self.rename(&next, link)
    }

    /// Removes a file or link, if it is there.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let error = |error| DiskError::new("remove", path, error);
        if path.symlink_metadata().is_err() {
            return Ok(());
        }
        self.before(Step::Remove(path)).map_err(error)?;
        std::fs::remove_file(path).map_err(error)
    }

    /// Removes a directory and the files in it, if it is there.
    pub(crate) fn remove_directory(&self, path: &Path) -> Result<(), DiskError> {
        let error = |error| DiskError::new("remove", path, error);
        let Ok(entries) = std::fs::read_dir(path) else {
            return Ok(());
        };
        for entry in entries {
            self.remove(&entry.map_err(error)?.path())?;
        }
        self.before(Step::Remove(path)).map_err(error)?;
        std::fs::remove_dir(path).map_err(error)
    }

    /// Makes the content of a file, or the names in a directory, durable.
    pub(crate) fn sync(&self, path: &Path) -> Result<(), DiskError> {
        let error = |error| DiskError::new("sync", path, error);
        self.before(Step::Sync(path)).map_err(error)?;
        if self.is_simulated() {
            return Ok(());
        }
        File::open(path)
            .and_then(|open| open.sync_all())
            .map_err(error)
    }

    #[cfg_attr(
        not(test),
        allow(clippy::unused_self, reason = "only tests let a step fail")
    )]
    fn write(&self, file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        if let Err(error) = self.before(Step::Write(path)) {
            // What a full disk or a kill leaves: a part.
            file.write_all(&bytes[..bytes.len() / 2])?;
            return Err(error);
        }
        let _ = path;
        file.write_all(bytes)
    }

    /// Whether what was synced is kept account of, and need not be synced in truth.
    #[cfg_attr(
        not(test),
        allow(clippy::unused_self, reason = "only tests simulate the disk")
    )]
    fn is_simulated(&self) -> bool {
        #[cfg(test)]
        return self.crash.is_some();
        #[cfg(not(test))]
        false
    }

    /// A step is about to be done.
    #[cfg_attr(
        not(test),
        allow(
            clippy::unused_self,
            clippy::unnecessary_wraps,
            reason = "only tests let a step fail"
        )
    )]
    fn before(&self, step: Step<'_>) -> io::Result<()> {
        #[cfg(test)]
        if let Some(crash) = &self.crash {
            return crash.before(step);
        }
        let _ = step;
        Ok(())
    }
}

fn own(path: &Path, mode: u32, access: Access) -> Result<(), DiskError> {
    let error = |error| DiskError::new("set owner, group and mode of", path, error);
    let (owner, group) = (access.owner, access.group);
    if owner.is_some() || group.is_some() {
        rustix::fs::chown(path, owner.map(Uid::from_raw), group.map(Gid::from_raw))
            .map_err(|errno| error(errno.into()))?;
    }
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(error)
}

/// Takes an exclusive lock for as long as the file is held; the kernel frees it when the process
/// ends. If another process has it: the pid that it wrote there.
pub(crate) fn lock(path: &Path) -> Result<Result<File, Option<String>>, DiskError> {
    let error = |error| DiskError::new("lock", path, error);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(Access::PRIVATE.file)
        .open(path)
        .map_err(error)?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut pid = String::new();
        let read = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
        return Ok(Err(read.then(|| pid.trim().to_owned())));
    }
    // Only for a person: on a full disk the lock holds without it.
    let _ = file
        .set_len(0)
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    Ok(Ok(file))
}

/// What is about to be done.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), allow(dead_code, reason = "only tests look at the step"))]
pub(crate) enum Step<'a> {
    Create(&'a Path),
    #[cfg(test)]
    Write(&'a Path),
    Rename(&'a Path, &'a Path),
    Remove(&'a Path),
    Sync(&'a Path),
}

/// The name that a file has until it is whole: hidden, in the same directory.
fn beside(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".next-");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

#[cfg(test)]
pub(crate) mod crash;
