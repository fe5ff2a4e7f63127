//! Crashes on purpose: at step n everything stops, and after a power loss only what was synced is left.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Step;

/// What ends at the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The process: what was written stays.
    Kill,
    /// The machine: what was not synced is lost, but for the survivors. See [`Crash::lose_power`].
    Power(Survivors),
    /// The space on the disk: reading, renaming and removing go on.
    Full,
}

impl Kind {
    pub(crate) const ALL: [Self; 6] = [
        Self::Kill,
        Self::Full,
        Self::Power(Survivors {
            names: false,
            journal: false,
        }),
        Self::Power(Survivors {
            names: false,
            journal: true,
        }),
        Self::Power(Survivors {
            names: true,
            journal: false,
        }),
        Self::Power(Survivors {
            names: true,
            journal: true,
        }),
    ];
}

/// What a power loss spares though it was not synced: a kernel writes back what it likes, when it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Survivors {
    /// New names, renamings and removals; what was not synced of the files themselves is gone.
    names: bool,
    /// The end of the journal.
    journal: bool,
}

/// A disk that stops at a step.
#[derive(Debug)]
pub(crate) struct Crash {
    kind: Kind,
    left: AtomicU64,
    refused: AtomicBool,
    syncs: AtomicU64,
    unsynced: Mutex<Unsynced>,
}

/// What a power loss would take.
#[derive(Debug, Default)]
struct Unsynced {
    /// Files that were written to, and how long they are durable.
    content: BTreeMap<PathBuf, u64>,
    names: Vec<(PathBuf, Undo)>,
    buried: u32,
    graveyard: Option<tempfile::TempDir>,
}

#[derive(Debug)]
enum Undo {
    Created(PathBuf),
    /// Put back what lay at the path, from where it was kept.
    Replaced(PathBuf, PathBuf),
    Renamed(PathBuf, PathBuf),
}

impl Crash {
    /// `steps` are done before the end comes.
    pub(crate) fn after(steps: u64, kind: Kind) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            kind,
            left: AtomicU64::new(steps),
            refused: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
            unsynced: Mutex::default(),
        })
    }

    /// Whether the end came.
    pub(crate) fn came(&self) -> bool {
        self.refused.load(Ordering::SeqCst)
    }

    /// How often something was synced since this was last asked.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.swap(0, Ordering::SeqCst)
    }

    /// There is space again.
    pub(crate) fn relieve(&self) {
        self.leave(u64::MAX);
    }

    /// So many more steps.
    pub(crate) fn leave(&self, steps: u64) {
        self.left.store(steps, Ordering::SeqCst);
    }

    pub(super) fn before(&self, step: Step<'_>) -> io::Result<()> {
        let spent = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_err();
        if spent {
            self.refused.store(true, Ordering::SeqCst);
            return match (self.kind, step) {
                (Kind::Full, Step::Rename(..) | Step::Remove(_)) => Ok(()),
                (Kind::Full, _) => Err(io::Error::from(io::ErrorKind::StorageFull)),
                _ => Err(io::Error::other("crashed on purpose")),
            };
        }
        if let Step::Sync(_) = step {
            self.syncs.fetch_add(1, Ordering::SeqCst);
        }
        if let Kind::Power(_) = self.kind {
            self.unsynced.lock().unwrap().note(step);
        }
        Ok(())
    }

    /// Takes away what was not synced and does not survive. The disk is then as after a power loss; if
    /// that is not what came, nothing is taken.
    pub(crate) fn lose_power(&self) {
        let Kind::Power(survivors) = self.kind else {
            return;
        };
        let mut unsynced = self.unsynced.lock().unwrap();
        for (path, durable) in std::mem::take(&mut unsynced.content) {
            if survivors.journal && path.ends_with("journal.jsonl") {
                continue;
            }
            if let Ok(file) = std::fs::OpenOptions::new().write(true).open(path) {
                file.set_len(durable).unwrap();
            }
        }
        while let Some((_, undo)) = unsynced.names.pop() {
            if !survivors.names {
                undo.perform();
            }
        }
    }
}

impl Undo {
    /// Names in a directory that is itself gone are gone with it, so errors count for nothing.
    fn perform(self) {
        let _ = match self {
            Self::Created(path) if path.is_dir() && !path.is_symlink() => {
                std::fs::remove_dir_all(&path)
            }
            Self::Created(path) => std::fs::remove_file(&path),
            Self::Replaced(path, kept) => std::fs::rename(kept, path),
            Self::Renamed(from, to) => std::fs::rename(to, from),
        };
    }
}

impl Unsynced {
    fn note(&mut self, step: Step<'_>) {
        match step {
            Step::Create(path) => self.name(path, Undo::Created(path.to_owned())),
            Step::Write(path) => {
                let length = path.metadata().map_or(0, |file| file.len());
                self.content.entry(path.to_owned()).or_insert(length);
            }
            Step::Rename(from, to) => {
                if to.symlink_metadata().is_ok() {
                    self.bury(to);
                }
                self.name(to, Undo::Renamed(from.to_owned(), to.to_owned()));
                if let Some(durable) = self.content.remove(from) {
                    self.content.insert(to.to_owned(), durable);
                }
            }
            Step::Remove(path) => {
                self.bury(path);
                // The step still removes something, so that it does not fail.
                if path.symlink_metadata().is_err() {
                    std::fs::write(path, "").unwrap();
                }
                self.content.remove(path);
            }
            Step::Sync(path) if path.is_dir() => {
                self.names.retain(|(directory, _)| directory != path);
            }
            Step::Sync(path) => {
                self.content.remove(path);
            }
        }
    }

    /// Keeps what lies at `path` where an undo finds it.
    fn bury(&mut self, path: &Path) {
        self.buried += 1;
        let graveyard = self
            .graveyard
            .get_or_insert_with(|| tempfile::tempdir().unwrap());
        let kept = graveyard.path().join(self.buried.to_string());
        if path.is_dir() && !path.is_symlink() {
            // Empty by then: its files were removed one by one.
            std::fs::create_dir_all(&kept).unwrap();
        } else {
            std::fs::rename(path, &kept).unwrap();
        }
        self.name(path, Undo::Replaced(path.to_owned(), kept));
    }

    fn name(&mut self, path: &Path, undo: Undo) {
        self.names.push((path.parent().unwrap().to_owned(), undo));
    }
}
