//! Sealing of the few values that must be given back: AES-256-GCM under a key file.
//!
//! The key file is made at the first start, beside the database and never in it, so that a copy of the
//! database alone opens nothing. What is sealed is bound to the id of the row it stands in.

use process::base64;
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use thiserror::Error;
use zeroize::Zeroizing;

const KEY: usize = 32;

/// The key that seals. Silent about itself.
pub struct Seal(RandomizedNonceKey);

/// Why there is no sealing, or a value does not open.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SealError {
    /// The key file cannot be read or made.
    #[error("cannot read or make the key file")]
    File(#[source] std::io::Error),
    /// Somebody else may read the key file.
    #[error("the key file is readable by others: its mode must be 0600")]
    Mode,
    /// It is not 32 bytes long.
    #[error("the key file must hold exactly 32 bytes")]
    Length,
    /// Sealed by another key, for another row, or damaged.
    #[error("the sealed value does not open with this key file")]
    Closed,
}

impl Seal {
    /// Reads the key file, or makes one of mode 0600.
    ///
    /// # Errors
    ///
    /// [`SealError`] about the file.
    pub fn open(path: &Path) -> Result<Self, SealError> {
        match OpenOptions::new().read(true).open(path) {
            Ok(file) => read(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make(path),
            Err(error) => Err(SealError::File(error)),
        }
    }

    /// Under this key.
    ///
    /// # Errors
    ///
    /// [`SealError::Length`] unless it has 32 bytes.
    pub fn new(key: &[u8]) -> Result<Self, SealError> {
        RandomizedNonceKey::new(&AES_256_GCM, key)
            .map(Self)
            .map_err(|_| SealError::Length)
    }

    /// Seals `value` for the row `of`.
    pub(super) fn seal(&self, of: &str, value: &str) -> String {
        let mut sealed = Zeroizing::new(value.as_bytes().to_vec());
        let nonce = self
            .0
            .seal_in_place_append_tag(Aad::from(of.as_bytes()), &mut *sealed)
            .expect("values are far below the 64 GiB of AES-GCM");
        let text = [nonce.as_ref(), sealed.as_slice()].concat();
        base64::encode_url(&text)
    }

    /// Opens what was sealed for the row `of`.
    pub(super) fn unseal(&self, of: &str, sealed: &str) -> Result<Zeroizing<String>, SealError> {
        let octets = base64::decode_url(sealed).ok_or(SealError::Closed)?;
        let (nonce, rest) = octets
            .split_at_checked(NONCE_LEN)
            .ok_or(SealError::Closed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Closed)?;
        let mut rest = Zeroizing::new(rest.to_vec());
        let value = self
            .0
            .open_in_place(nonce, Aad::from(of.as_bytes()), &mut rest)
            .map_err(|_| SealError::Closed)?;
        let value = std::str::from_utf8(value).map_err(|_| SealError::Closed)?;
        Ok(Zeroizing::new(value.to_owned()))
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seal")
    }
}

fn read(file: std::fs::File) -> Result<Seal, SealError> {
    let mode = file.metadata().map_err(SealError::File)?.mode();
    if mode & 0o077 != 0 {
        return Err(SealError::Mode);
    }
    let mut key = Zeroizing::new(Vec::with_capacity(KEY + 1));
    file.take(KEY as u64 + 1)
        .read_to_end(&mut key)
        .map_err(SealError::File)?;
    Seal::new(&key)
}

/// Under a name of its own first: a crash leaves no half a key, and of two that start the first wins.
fn make(path: &Path) -> Result<Seal, SealError> {
    let mut key = Zeroizing::new([0; KEY]);
    aws_lc_rs::rand::fill(&mut *key).expect("AWS-LC aborts when it has no randomness");
    let draft = path.with_extension(super::identifier::random_letters());
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(&*key).and_then(|()| file.sync_all()))
        .and_then(|()| std::fs::hard_link(&draft, path));
    let _ = std::fs::remove_file(&draft);
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(SealError::File(error))
        }
        _ => OpenOptions::new()
            .read(true)
            .open(path)
            .map_err(SealError::File)
            .and_then(read),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_sealed_value_opens_only_with_its_key_for_its_row() {
        let seal = Seal::new(&[7; 32]).unwrap();
        let sealed = seal.seal("ttok_a", "value");
        assert!(!sealed.contains("value"));
        assert_ne!(sealed, seal.seal("ttok_a", "value"), "nonces do not repeat");
        assert_eq!(*seal.unseal("ttok_a", &sealed).unwrap(), "value");
        assert!(seal.unseal("ttok_b", &sealed).is_err());
        assert!(
            Seal::new(&[8; 32])
                .unwrap()
                .unseal("ttok_a", &sealed)
                .is_err()
        );
        for damaged in ["", "AAAA", &sealed[1..], &sealed[..sealed.len() - 4]] {
            assert!(seal.unseal("ttok_a", damaged).is_err());
        }
    }

    #[test]
    fn the_key_file_is_made_once_and_must_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        let sealed = Seal::open(&path).unwrap().seal("x", "value");
        assert_eq!(
            *Seal::open(&path).unwrap().unseal("x", &sealed).unwrap(),
            "value"
        );
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Seal::open(&path), Err(SealError::Mode)));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&path, [0; 31]).unwrap();
        assert!(matches!(Seal::open(&path), Err(SealError::Length)));
    }
}
