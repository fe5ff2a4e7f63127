//! What the daemon is about to do and what came of it, one JSON object a line.
//!
//! Every record holds the whole state of one tunnel's one machine after the step, so that the last
//! record is all that recovery needs. It holds references only: fingerprints, serial numbers, names
//! of blobs in `custody`, never a value. A record is durable before an effect that is seen outside of
//! the state directory or destroys anything; one that announces neither survives the end of the process
//! and may wait for the next to survive a power loss. The writer holds a lock, so that there is one.
//!
//! What it does not do: it knows no machine, and no time but what it is given.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use process::Failure;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::disk::{Access, Disk, DiskError, lock};

/// Its file in the state directory.
pub(crate) const FILE: &str = "journal.jsonl";
/// What its writer locks, beside it.
pub(crate) const LOCK: &str = "lock";
/// Version of the records that this build writes and reads.
const VERSION: u32 = 1;
/// The journal is written anew when it is longer than this, in bytes.
const LONGEST: u64 = 2 * 1024 * 1024;
/// Records of a machine that survive that: the last one counts, the others are for a person.
const KEPT: usize = 64;

/// Which machine of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// [`crate::rotation::server_certificate`].
    ServerCertificate,
    /// [`crate::rotation::authority`].
    Ca,
    /// The CA of client certificates.
    ClientCa,
    /// The policy's generations.
    Policy,
    /// The tunnel token's generations.
    TunnelToken,
    /// [`crate::rotation::shared_secret`].
    SharedSecret,
    /// What operators ordered and was not carried out yet.
    Orders,
}

/// What a machine has to say; the journal adds when, where and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// ULID of the rotation that it belongs to; empty if to none.
    pub rotation_id: String,
    /// Phase after the step.
    pub phase: String,
    /// Why the rotation began.
    pub reason: String,
    /// Who asked: `uid:1000`, `schedule`.
    pub actor: String,
    /// Fingerprint of what is replaced.
    pub old_ref: Option<String>,
    /// Fingerprint of what replaces it.
    pub new_ref: Option<String>,
    /// State of the remote before a call that cannot be repeated.
    pub remote_before: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// Not before, Unix seconds.
    pub not_before_wall: Option<u64>,
    /// Not after, Unix seconds.
    pub deadline_wall: Option<u64>,
    /// What went wrong, as a closed list of words.
    pub error_class: Option<String>,
    /// State of the machine after the step.
    pub state: serde_json::Value,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The version of the writer.
    pub v: u32,
    /// Counts up by one.
    pub seq: u64,
    /// Counts up with each start of a writer.
    pub epoch: u64,
    /// The tunnel.
    pub tunnel: String,
    /// The machine.
    pub kind: Kind,
    /// The step.
    #[serde(flatten)]
    pub entry: Entry,
    /// Which boot `mono` counts from.
    pub boot_id: String,
    /// Milliseconds since that boot.
    pub mono: u64,
    /// Unix milliseconds.
    pub wall: u64,
}

/// Why there is no journal to write to.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Another process writes it.
    #[error("another daemon{} uses {}", pid.as_ref().map(|pid| format!(" (pid {pid})")).unwrap_or_default(), state.display())]
    Locked {
        /// The state directory.
        state: PathBuf,
        /// What the lock file says of it.
        pid: Option<String>,
    },
    /// A whole line is not a record. Nothing is cut off: it may be the only one that counts.
    #[error("line {line} of {} is damaged", path.display())]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// A record of a later version.
    #[error("{} was written by a newer build (version {version})", path.display())]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Of the record.
        version: u32,
    },
    /// It cannot be read or written.
    #[error("the journal cannot be opened")]
    Disk(#[from] DiskError),
}

impl From<JournalError> for Failure {
    fn from(error: JournalError) -> Self {
        let next = match &error {
            JournalError::Locked { .. } => {
                "stop that daemon, or give this one another state directory".to_owned()
            }
            JournalError::Damaged { .. } => {
                "check the disk; the line can be taken out if a later one has the same tunnel and kind".to_owned()
            }
            JournalError::Newer { .. } => "start the newer build".to_owned(),
            JournalError::Disk(error) => error.next(),
        };
        Self::config("cannot open the state")
            .caused_by(&error)
            .next(next)
    }
}

/// The journal of a state directory, open for writing.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    disk: Disk,
    file: File,
    /// Bytes that are whole records. What lies behind is of a write that failed.
    length: u64,
    torn: bool,
    seq: u64,
    epoch: u64,
    boot_id: String,
    recent: BTreeMap<(String, Kind), VecDeque<Record>>,
    _lock: File,
}

impl Journal {
    /// Takes the lock of `state`, makes the directory if need be, and reads what is there. A last
    /// line without its end is dropped: its effect was not begun.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        Self::open_on(state, Disk::default())
    }

    pub(crate) fn open_on(state: &Path, disk: Disk) -> Result<Self, JournalError> {
        disk.ensure_directory(state, Access::PRIVATE)?;
        let lock = lock(&state.join(LOCK))?.map_err(|pid| JournalError::Locked {
            state: state.to_owned(),
            pid,
        })?;
        let path = state.join(FILE);
        if !path.exists() {
            disk.replace(&path, b"", Access::PRIVATE)?;
        }
        let error = |error| DiskError::new("open", &path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .open(&path)
            .map_err(error)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(error)?;
        let (records, length) = parse(&bytes, &path)?;
        let last = records.last();
        let mut journal = Self {
            seq: last.map_or(0, |record| record.seq),
            epoch: last.map_or(1, |record| record.epoch + 1),
            torn: bytes.len() as u64 != length,
            boot_id: boot_id(),
            recent: BTreeMap::new(),
            _lock: lock,
            path,
            disk,
            file,
            length,
        };
        for record in records {
            journal.remember(record);
        }
        Ok(journal)
    }

    /// The last record of a machine.
    pub fn last(&self, tunnel: &str, kind: Kind) -> Option<&Record> {
        self.recent(tunnel, kind).next_back()
    }

    /// The last records of a machine, oldest first; at least 64 if there were that many.
    pub fn recent(&self, tunnel: &str, kind: Kind) -> impl DoubleEndedIterator<Item = &Record> {
        self.recent
            .get(&(tunnel.to_owned(), kind))
            .into_iter()
            .flatten()
    }

    /// The last records of every machine, in no order.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.recent.values().flatten()
    }

    /// Identity of this boot of the machine.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// Appends. Once this returns the record survives the end of the process, and if it is `durable`
    /// everything, with all records before it.
    ///
    /// # Errors
    ///
    /// The disk refuses; nothing that the entry announces may be done then.
    pub(crate) fn append(
        &mut self,
        tunnel: &str,
        kind: Kind,
        entry: Entry,
        (wall, boot): (SystemTime, Duration),
        durable: bool,
    ) -> Result<(), DiskError> {
        let record = Record {
            v: VERSION,
            seq: self.seq + 1,
            epoch: self.epoch,
            tunnel: tunnel.to_owned(),
            kind,
            entry,
            boot_id: self.boot_id.clone(),
            mono: milliseconds(boot),
            wall: milliseconds(
                wall.duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default(),
            ),
        };
        let line = line(&record);
        self.cut()?;
        // Until it is known to be whole, whatever is behind `length` is not.
        self.torn = true;
        self.disk
            .append(&mut self.file, &self.path, &line, durable)?;
        self.torn = false;
        self.length += line.len() as u64;
        self.seq = record.seq;
        self.remember(record);
        if self.length > LONGEST {
            // It can be tried again after the next record; meanwhile the long one is as good.
            if let Err(error) = self.compact() {
                tracing::warn!(%error, "journal could not be shortened");
            }
        }
        Ok(())
    }

    /// Takes away what a failed write left.
    fn cut(&mut self) -> Result<(), DiskError> {
        if !self.torn {
            return Ok(());
        }
        let error = |error| DiskError::new("shorten", &self.path, error);
        self.file.set_len(self.length).map_err(error)?;
        self.file.sync_all().map_err(error)?;
        self.file.seek(SeekFrom::End(0)).map_err(error)?;
        self.torn = false;
        Ok(())
    }

    /// Writes the last records of each machine into a new file, in their order.
    fn compact(&mut self) -> Result<(), DiskError> {
        let mut records: Vec<&Record> = self.recent.values().flatten().collect();
        records.sort_by_key(|record| record.seq);
        let bytes: Vec<u8> = records.into_iter().flat_map(line).collect();
        self.disk.replace(&self.path, &bytes, Access::PRIVATE)?;
        self.file = OpenOptions::new()
            .append(true)
            .open(&self.path)
            .map_err(|error| DiskError::new("open", &self.path, error))?;
        self.length = bytes.len() as u64;
        Ok(())
    }

    fn remember(&mut self, record: Record) {
        let key = (record.tunnel.clone(), record.kind);
        let recent = self.recent.entry(key).or_default();
        recent.push_back(record);
        if recent.len() > KEPT {
            recent.pop_front();
        }
    }
}

/// The records, and how many bytes they take. Only a last line without its end is torn: a write that
/// came so far wrote all before it.
fn parse(bytes: &[u8], path: &Path) -> Result<(Vec<Record>, u64), JournalError> {
    let mut records: Vec<Record> = Vec::new();
    let mut length = 0;
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        if !line.ends_with(b"\n") {
            break;
        }
        // Another version may have another shape: nothing else of it is looked at before.
        if let Ok(Versioned { v }) = serde_json::from_slice(line)
            && v > VERSION
        {
            return Err(JournalError::Newer {
                path: path.to_owned(),
                version: v,
            });
        }
        let record = serde_json::from_slice(line).map_err(|_| JournalError::Damaged {
            path: path.to_owned(),
            line: index + 1,
        })?;
        length += line.len() as u64;
        records.push(record);
    }
    Ok((records, length))
}

/// What every version of a record has.
#[derive(Deserialize)]
struct Versioned {
    v: u32,
}

fn line(record: &Record) -> Vec<u8> {
    let mut line = serde_json::to_vec(record).expect("a record has nothing that JSON cannot say");
    line.push(b'\n');
    line
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
