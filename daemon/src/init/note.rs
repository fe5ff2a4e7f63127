//! What one run of `keyward init` leaves for the next, beside the files of the store.
//!
//! A token is rotated exactly once although the run may end at any moment: that it is going to be, and which one was in
//! force, is on disk before the call.

use std::path::{Path, PathBuf};

use process::Failure;
use serde::{Deserialize, Serialize};

use crate::disk::{Access, Disk, DiskError};

const NAME: &str = ".keyward-init.json";
const VERSION: u32 = 1;

/// The note. No secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    v: u32,
    /// `--token-version`, as of the last run that had one.
    pub(super) token_version: Option<String>,
    /// A rotation whose end was not seen.
    pub(super) rotating: Option<Rotating>,
}

/// A rotation that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rotating {
    /// The version that it is for.
    pub(super) token_version: String,
    /// Id of the token that was in force before.
    pub(super) before: String,
    /// When it was called for, Unix seconds.
    pub(super) since: u64,
}

impl Default for Note {
    fn default() -> Self {
        Self {
            v: VERSION,
            token_version: None,
            rotating: None,
        }
    }
}

impl Note {
    /// The note in `store`, or an empty one.
    pub(super) fn read(store: &Path) -> Result<Self, Failure> {
        let path = path(store);
        let refused = || Failure::config(format!("cannot use {}", path.display()));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => {
                return Err(refused().caused_by(&error).next("let this user read it"));
            }
        };
        let note: Self = serde_json::from_str(&text).map_err(|error| {
            refused()
                .caused_by(&error)
                .next("look whether the token was rotated lately, then move the file away")
        })?;
        if note.v > VERSION {
            return Err(refused()
                .cause(format!(
                    "it is of version {}, and this program knows {VERSION}",
                    note.v
                ))
                .next("use the newer keyward that wrote it"));
        }
        Ok(note)
    }

    /// Durable when this returns.
    pub(super) fn write(&self, store: &Path, disk: &Disk) -> Result<(), DiskError> {
        let text = serde_json::to_string(self).expect("our own types have string keys");
        disk.replace(&path(store), text.as_bytes(), Access::PRIVATE)
    }
}

fn path(store: &Path) -> PathBuf {
    store.join(NAME)
}
