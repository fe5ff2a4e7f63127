//! A directory whose files are replaced all at once, as Kubernetes does it for mounted secrets.
//!
//! ```text
//! tls.crt  ─▶ ..data/tls.crt      made once, never changed again
//! tls.key  ─▶ ..data/tls.key
//! ..data   ─▶ ..7                 the one thing that is renamed
//! ..7/        tls.crt tls.key     written and synced before anything points there
//! ..6/ ..5/                       for readers that are in the middle of them
//! ```
//!
//! A reader, or a crash at any moment, sees one set whole. Files that somebody else put there are
//! taken up or left alone, never lost. What the files mean is known to [`crate::store`] and
//! [`crate::served`].

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::disk::{Access, Disk, DiskError, READ};

/// The link that decides which set counts.
const DATA: &str = "..data";
/// Sets before the current one that are kept.
const KEPT: usize = 2;

/// What is written to see whether anything can be.
const TRIAL: &str = ".keyward.trial";

/// File name to content.
pub(crate) type Files = BTreeMap<&'static str, Zeroizing<Vec<u8>>>;

/// One such directory.
#[derive(Debug)]
pub(crate) struct Swapped {
    directory: PathBuf,
    rights: Rights,
    disk: Disk,
}

/// Who may read what is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rights {
    /// The directory is made, or changed, to be ours.
    Ours(Access),
    /// Each file gets owner, group and mode of the one that it replaces, so that whoever read that one
    /// reads it; a new one is its directory's owner's alone. The directory stays what it is.
    Kept,
}

impl Swapped {
    /// Makes the directory if need be, and clears what a crash left.
    pub(crate) fn open(directory: &Path, rights: Rights, disk: Disk) -> Result<Self, DiskError> {
        if let Rights::Ours(access) = rights {
            disk.ensure_directory(directory, access)?;
        }
        let this = Self {
            directory: directory.to_owned(),
            rights,
            disk,
        };
        this.clear()?;
        Ok(this)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// The content of a file, whoever wrote it; `None` if there is none.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
        read(&self.directory.join(name))
    }

    /// Those of `names` that are there.
    pub(crate) fn read_all(&self, names: &[&'static str]) -> Result<Files, DiskError> {
        let mut files = Files::new();
        for name in names {
            if let Some(content) = self.read(name)? {
                files.insert(name, content);
            }
        }
        Ok(files)
    }

    /// Turns plain files of these names, as other tools write them, into ones that can be swapped.
    /// Their content stays what it is, so that a reader notices nothing.
    pub(crate) fn adopt(&self, names: &[&'static str]) -> Result<(), DiskError> {
        if names.iter().all(|name| !self.is_plain(name)) {
            return Ok(());
        }
        let files = self.read_all(names)?;
        self.swap(&files)?;
        // No link may outlive what it leads to.
        self.settle()?;
        for name in files.keys().filter(|name| self.is_plain(name)) {
            self.disk
                .replace_symlink(&target(name), &self.directory.join(name))?;
        }
        self.disk.sync(&self.directory)
    }

    /// Replaces the whole set. `names` are all that may ever be in it: those without content go. After a
    /// power loss the set before may be back, whole, until [`settle`](Self::settle) or the next one.
    pub(crate) fn replace(&self, names: &[&'static str], files: &Files) -> Result<(), DiskError> {
        self.adopt(names)?;
        if self.current().is_some() && self.read_all(names)? == *files {
            return Ok(());
        }
        for name in files.keys() {
            let link = self.directory.join(name);
            // A link to nothing yet: the swap makes all of them appear at once.
            if link.symlink_metadata().is_err() {
                self.disk.symlink(&target(name), &link)?;
            }
        }
        self.swap(files)?;
        let gone = names.iter().filter(|name| !files.contains_key(*name));
        let mut gone = gone
            .map(|name| self.directory.join(name))
            .filter(|path| path.symlink_metadata().is_ok())
            .peekable();
        if gone.peek().is_some() {
            // The set before would lack it.
            self.settle()?;
        }
        for path in gone {
            self.disk.remove(&path)?;
        }
        self.prune()
    }

    /// Replaces a file that belongs to no set, for good.
    pub(crate) fn put(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        let path = self.directory.join(name);
        if read(&path)?.is_some_and(|found| found.as_slice() == content) {
            return Ok(());
        }
        self.disk.replace(&path, content, self.access(&path)?)
    }

    /// Writes a file of some length and removes it.
    pub(crate) fn try_write(&self) -> Result<(), DiskError> {
        let path = self.directory.join(TRIAL);
        self.disk.replace(&path, &[0; 4096], Access::PRIVATE)?;
        self.disk.remove(&path)
    }

    /// Makes the last replacement durable.
    pub(crate) fn settle(&self) -> Result<(), DiskError> {
        self.disk.sync(&self.directory)
    }

    /// Removes a file from every set but the current one for good, as the key of a CA that is no more.
    pub(crate) fn forget(&self, name: &str) -> Result<(), DiskError> {
        // Or one of them might become the current one again.
        self.settle()?;
        let current = self.current();
        for number in self.numbers()? {
            let set = self.set(number);
            let path = set.join(name);
            if Some(number) != current && path.symlink_metadata().is_ok() {
                self.disk.remove(&path)?;
                self.disk.sync(&set)?;
            }
        }
        Ok(())
    }

    /// Writes a new set beside the others and points there.
    fn swap(&self, files: &Files) -> Result<(), DiskError> {
        let number = self.numbers()?.last().map_or(1, |last| last + 1);
        let set = self.set(number);
        self.disk
            .create_directory(&set, self.access(&self.directory)?)?;
        let current = self.current().map(|number| self.set(number));
        let mut fresh = Vec::new();
        for (name, content) in files {
            let path = set.join(name);
            let access = self.access(&self.directory.join(name))?;
            let same = current.as_ref().map(|current| current.join(name));
            if let Some(same) = same.filter(|same| holds(same, content, access)) {
                // Durable already: another name costs nothing.
                self.disk.link(&same, &path)?;
            } else {
                self.disk.create(&path, content, access)?;
                fresh.push(path);
            }
        }
        for path in &fresh {
            self.disk.sync(path)?;
        }
        self.disk.sync(&set)?;
        // Before the swap, not after it: the link must not outlive what it points to, and that the swap
        // before this one counts is settled by the way.
        self.settle()?;
        let data = self.directory.join(DATA);
        self.disk.replace_symlink(&format!("..{number}"), &data)
    }

    /// Who may read what is written for `path`: the directory, for a set, or one of the names in it.
    fn access(&self, path: &Path) -> Result<Access, DiskError> {
        if let Rights::Ours(access) = self.rights {
            return Ok(access);
        }
        let directory = self
            .directory
            .metadata()
            .map_err(|error| DiskError::new("look at", &self.directory, error))?;
        let replaced = path.metadata().ok().filter(std::fs::Metadata::is_file);
        let owner = replaced.as_ref().unwrap_or(&directory);
        Ok(Access {
            directory: directory.mode() & 0o7777,
            file: replaced
                .as_ref()
                .map_or(Access::PRIVATE.file, |file| file.mode() & 0o7777),
            owner: Some(owner.uid()),
            group: Some(owner.gid()),
        })
    }

    /// Removes old sets, and the new one of a crash before its swap.
    fn prune(&self) -> Result<(), DiskError> {
        let Some(current) = self.current() else {
            return Ok(());
        };
        let (older, unused): (Vec<u64>, Vec<u64>) = self
            .numbers()?
            .into_iter()
            .filter(|number| *number != current)
            .partition(|number| *number < current);
        let surplus = older.len().saturating_sub(KEPT);
        for number in older.into_iter().take(surplus).chain(unused) {
            self.disk.remove_directory(&self.set(number))?;
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), DiskError> {
        for name in self.names()? {
            if name.starts_with(".next-") {
                self.disk.remove(&self.directory.join(name))?;
            }
        }
        if self.current().is_none() {
            for number in self.numbers()? {
                self.disk.remove_directory(&self.set(number))?;
            }
        }
        self.prune()
    }

    /// The number that `..data` points to.
    fn current(&self) -> Option<u64> {
        let link = std::fs::read_link(self.directory.join(DATA)).ok()?;
        number(link.to_str()?)
    }

    /// The numbers of all sets, lowest first.
    fn numbers(&self) -> Result<Vec<u64>, DiskError> {
        let mut numbers: Vec<u64> = self
            .names()?
            .iter()
            .filter_map(|name| number(name))
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    fn names(&self) -> Result<Vec<String>, DiskError> {
        let error = |error| DiskError::new("list", &self.directory, error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(error)? {
            // A name that is not UTF-8 is nothing of ours.
            names.extend(entry.map_err(error)?.file_name().into_string());
        }
        Ok(names)
    }

    fn set(&self, number: u64) -> PathBuf {
        self.directory.join(format!("..{number}"))
    }

    fn is_plain(&self, name: &str) -> bool {
        self.directory
            .join(name)
            .symlink_metadata()
            .is_ok_and(|found| found.is_file())
    }
}

/// Whether the file at `path` has this content and may be read by whom it should.
fn holds(path: &Path, content: &[u8], access: Access) -> bool {
    let Ok(found) = path.symlink_metadata() else {
        return false;
    };
    found.is_file()
        && found.mode() & 0o7777 == access.file
        && access.owner.is_none_or(|owner| found.uid() == owner)
        && access.group.is_none_or(|group| found.gid() == group)
        && read(path).is_ok_and(|found| found.is_some_and(|found| found.as_slice() == content))
}

/// Reads a file; `None` if it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
    match std::fs::read(path) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(DiskError::new(READ, path, error)),
    }
}

fn target(name: &str) -> String {
    format!("{DATA}/{name}")
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix("..")?.parse().ok()
}

#[cfg(test)]
mod tests;
