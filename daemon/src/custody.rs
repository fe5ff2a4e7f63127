//! Private keys and their certificates, and shared secrets, on the disk, each in a file of its own, 0600.
//!
//! A blob is named by the rotation that made it, which stands in the journal before, so that a crash
//! leaves at most one key without a record, and the next start finds it under the same name. It is durable
//! before anything that was made with it leaves the state directory.
//! A server certificate lies here from its signature on, checked or not: nobody else reads it here, and
//! it goes out only as [`pki::Linted`].
//! Keys are not sealed: whoever reads the state directory has them, and the status says so.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::disk::{Access, Disk, DiskError};
use crate::swapped::read;

/// Where it is under the state directory; a directory for each tunnel.
pub(crate) const DIRECTORY: &str = "custody";

/// What a blob is. `&str` is the id of the rotation that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blob<'a> {
    /// Private key of a server certificate.
    LeafKey(&'a str),
    /// The server certificate, with what is sent after it.
    LeafCertificate(&'a str),
    /// Private key of a CA.
    CaKey(&'a str),
    /// The CA certificate.
    CaCertificate(&'a str),
    /// A shared secret.
    Secret(&'a str),
}

impl Blob<'_> {
    fn file(self) -> String {
        match self {
            Self::LeafKey(id) => format!("leaf-{id}.key"),
            Self::LeafCertificate(id) => format!("leaf-{id}.crt"),
            Self::CaKey(id) => format!("ca-{id}.key"),
            Self::CaCertificate(id) => format!("ca-{id}.crt"),
            Self::Secret(id) => format!("secret-{id}"),
        }
    }
}

/// The blobs of one tunnel.
#[derive(Debug)]
pub(crate) struct Custody {
    directory: PathBuf,
    disk: Disk,
}

impl Custody {
    /// Makes the directory of `tunnel` under `state` if need be.
    pub(crate) fn open(state: &Path, tunnel: &str, disk: Disk) -> Result<Self, DiskError> {
        let custody = state.join(DIRECTORY);
        let directory = custody.join(tunnel);
        disk.ensure_directory(&custody, Access::PRIVATE)?;
        disk.ensure_directory(&directory, Access::PRIVATE)?;
        Ok(Self { directory, disk })
    }

    /// Writes a blob, over an earlier one of the same name. A power loss may take it, or leave an empty
    /// file, until it is [settled](Self::settle).
    pub(crate) fn put(&self, blob: Blob<'_>, content: &str) -> Result<(), DiskError> {
        let path = self.directory.join(blob.file());
        self.disk.put(&path, content.as_bytes(), Access::PRIVATE)
    }

    /// Makes blobs durable.
    pub(crate) fn settle(&self, blobs: &[Blob<'_>]) -> Result<(), DiskError> {
        for blob in blobs {
            self.disk.sync(&self.directory.join(blob.file()))?;
        }
        self.disk.sync(&self.directory)
    }

    /// The blob, if it is there and text.
    pub(crate) fn read(&self, blob: Blob<'_>) -> Result<Option<Zeroizing<String>>, DiskError> {
        let content = read(&self.directory.join(blob.file()))?;
        Ok(content.and_then(|content| {
            std::str::from_utf8(&content)
                .ok()
                .map(|text| Zeroizing::new(text.to_owned()))
        }))
    }

    /// Removes blobs for good. Ones that are not there are no error: a crash may have come between
    /// the removal and its record.
    pub(crate) fn destroy(&self, blobs: &[Blob<'_>]) -> Result<(), DiskError> {
        self.remove(blobs)?;
        self.disk.sync(&self.directory)
    }

    /// Removes blobs of server certificates. If the power fails they may come back, and the next
    /// start clears them.
    pub(crate) fn remove(&self, blobs: &[Blob<'_>]) -> Result<(), DiskError> {
        for blob in blobs {
            self.disk.remove(&self.directory.join(blob.file()))?;
        }
        Ok(())
    }

    /// Removes what no record names: blobs of server certificates whose rotation was never recorded,
    /// and files that were not whole. A CA key or a shared secret is never removed for want of a record.
    pub(crate) fn clear(&self, named: &[&str]) -> Result<(), DiskError> {
        let error = |error| DiskError::new("list", &self.directory, error);
        for entry in std::fs::read_dir(&self.directory).map_err(error)? {
            let path = entry.map_err(error)?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name else { continue };
            let unnamed = name.strip_prefix("leaf-").is_some_and(|rest| {
                let id = rest.split('.').next().unwrap_or(rest);
                !named.contains(&id)
            });
            if unnamed || name.starts_with(".next-") {
                self.disk.remove(&path)?;
            }
        }
        self.disk.sync(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_blob_is_private_and_comes_back_until_it_is_destroyed() {
        let state = tempfile::tempdir().unwrap();
        let custody = Custody::open(state.path(), "main", Disk::default()).unwrap();
        custody.put(Blob::CaKey("1"), "old").unwrap();
        custody.put(Blob::CaKey("1"), "key").unwrap();
        let path = state.path().join("custody/main/ca-1.key");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(*custody.read(Blob::CaKey("1")).unwrap().unwrap(), "key");
        for _ in 0..2 {
            custody.destroy(&[Blob::CaKey("1")]).unwrap();
            assert!(custody.read(Blob::CaKey("1")).unwrap().is_none());
        }
    }

    #[test]
    fn leftovers_are_cleared_and_a_ca_key_never() {
        let state = tempfile::tempdir().unwrap();
        let custody = Custody::open(state.path(), "main", Disk::default()).unwrap();
        for blob in [
            Blob::LeafKey("1"),
            Blob::LeafKey("2"),
            Blob::LeafCertificate("2"),
            Blob::CaKey("3"),
        ] {
            custody.put(blob, "x").unwrap();
        }
        std::fs::write(custody.directory.join(".next-ca-4.key"), "").unwrap();
        custody.clear(&["1"]).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(&custody.directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["ca-3.key", "leaf-1.key"]);
    }
}
