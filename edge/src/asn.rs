//! Which autonomous system an address belongs to, out of a file that the operator names.
//!
//! One range a line, `FIRST LAST NUMBER` separated by tabs, spaces or commas, further columns ignored: the
//! common shape of ip-to-ASN exports, IPv4 and IPv6 mixed. Sorted once, searched by halves. Nothing is
//! downloaded, and an address that no line covers belongs to nobody. The file is read again when it was
//! replaced or written; what cannot be used is logged once, and the last good table stays.

use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use process::{Failure, Tasks};
use thiserror::Error;

/// How often the file is looked at. Not its content: that is long.
const INTERVAL: Duration = Duration::from_millis(500);
/// The longest file: the whole Internet is near 50 MiB.
const LONGEST: u64 = 512 << 20;

/// Why a file is no table.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum AsnError {
    #[error("cannot read {}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    #[error("line {0}: write first address, last address and number")]
    Line(usize),
    #[error("line {0}: the ranges overlap")]
    Overlap(usize),
}

/// Ranges of addresses, in order.
#[derive(Debug, Default)]
pub struct AsnTable {
    ranges: Vec<Range>,
}

#[derive(Debug)]
struct Range {
    first: u128,
    last: u128,
    number: u32,
}

/// The table in force, out of a file that may be replaced. Clones share it; `Default` knows nobody.
#[derive(Clone, Debug, Default)]
pub struct Asns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    path: Option<PathBuf>,
    table: RwLock<Arc<AsnTable>>,
    generation: AtomicU64,
}

/// Device, inode, length and times of a file: another one has others, and so has one that was written.
type Look = (u64, u64, u64, [i64; 4]);

impl Asns {
    /// Reads `path` for the first time.
    ///
    /// # Errors
    ///
    /// It cannot be used.
    pub fn load(path: PathBuf) -> Result<Self, AsnError> {
        let table = AsnTable::load(&path)?;
        Ok(Self(Arc::new(Shared {
            path: Some(path),
            table: RwLock::new(Arc::new(table)),
            generation: AtomicU64::new(0),
        })))
    }

    /// The number that `address` belongs to now.
    pub fn find(&self, address: IpAddr) -> Option<u32> {
        let table = self.0.table.read().unwrap_or_else(PoisonError::into_inner);
        table.find(address)
    }

    /// Counts the tables so far: another number, and an answer may be another one.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Takes up what the file says until the stop; `changed` is called after each new table.
    ///
    /// # Errors
    ///
    /// None: what cannot be used is logged once.
    pub async fn watch(self, tasks: Tasks, changed: impl Fn()) -> Result<(), Failure> {
        let Some(path) = self.0.path.clone() else {
            tasks.stopping().await;
            return Ok(());
        };
        // What was read before this began may be older than what is there now.
        let (mut taken, mut said) = (None, String::new());
        while !tasks.is_stopping() {
            let (seen, read) = (look(&path), path.clone());
            if seen.is_none() || seen != taken {
                let table = tokio::task::spawn_blocking(move || AsnTable::load(&read)).await;
                let error = match table {
                    // Somebody writes: it is looked at again in a moment.
                    _ if look(&path) != seen => String::new(),
                    Ok(Ok(table)) => {
                        self.take(table);
                        changed();
                        taken = seen;
                        String::new()
                    }
                    Ok(Err(error)) => {
                        taken = seen;
                        error.to_string()
                    }
                    Err(error) => error.to_string(),
                };
                if error != said && !error.is_empty() {
                    tracing::error!(error, "asn_file not taken, the last good table is kept");
                }
                said = error;
            }
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = tasks.stopping() => {}
            }
        }
        Ok(())
    }

    fn take(&self, table: AsnTable) {
        let ranges = table.ranges.len();
        *self.0.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
        self.0.generation.fetch_add(1, Ordering::AcqRel);
        tracing::info!(ranges, "asn_file taken");
    }
}

fn look(path: &Path) -> Option<Look> {
    let seen = std::fs::metadata(path).ok()?;
    let times = [
        seen.mtime(),
        seen.mtime_nsec(),
        seen.ctime(),
        seen.ctime_nsec(),
    ];
    Some((seen.dev(), seen.ino(), seen.len(), times))
}

impl AsnTable {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a line makes no sense.
    pub fn load(path: &Path) -> Result<Self, AsnError> {
        let unreadable = |error| AsnError::Unreadable {
            path: path.to_owned(),
            error,
        };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > LONGEST {
            return Err(unreadable(std::io::ErrorKind::FileTooLarge.into()));
        }
        Self::parse(&std::fs::read_to_string(path).map_err(unreadable)?)
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    ///
    /// The first line that makes no sense.
    pub fn parse(text: &str) -> Result<Self, AsnError> {
        let mut ranges = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let range = range(line).ok_or(AsnError::Line(at + 1))?;
            ranges.push((range, at + 1));
        }
        ranges.sort_by_key(|(range, _)| range.first);
        for pair in ranges.windows(2) {
            if let [(before, _), (after, line)] = pair
                && before.last >= after.first
            {
                return Err(AsnError::Overlap(*line));
            }
        }
        let ranges = ranges.into_iter().map(|(range, _)| range);
        Ok(Self {
            ranges: ranges.collect(),
        })
    }

    /// The number that `address` belongs to.
    pub fn find(&self, address: IpAddr) -> Option<u32> {
        let address = number(address);
        let behind = self.ranges.partition_point(|range| range.first <= address);
        let range = self.ranges.get(behind.checked_sub(1)?)?;
        (address <= range.last && range.number != 0).then_some(range.number)
    }
}

fn range(line: &str) -> Option<Range> {
    let mut columns = line
        .split(['\t', ' ', ','])
        .filter(|column| !column.is_empty());
    let mut address = || columns.next()?.parse::<IpAddr>().ok();
    let (first, last) = (address()?, address()?);
    let system = columns.next()?;
    let digits = system.strip_prefix("AS").unwrap_or(system);
    let same = first.is_ipv4() == last.is_ipv4();
    let (first, last) = (number(first), number(last));
    Some(Range {
        first,
        last,
        number: digits.parse().ok()?,
    })
    .filter(|_| same && first <= last)
}

/// IPv4 stands where IPv6 maps it.
fn number(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => mapped(address),
        IpAddr::V6(address) => address.into(),
    }
}

fn mapped(address: Ipv4Addr) -> u128 {
    address.to_ipv6_mapped().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_belongs_to_the_range_that_covers_it() {
        let text = "# comment\n192.0.2.0\t192.0.2.127\t64500\tZZ\tEXAMPLE NET\n\
                    198.51.100.0,198.51.100.255,AS64501\n2001:db8:: 2001:db8::ffff 64502\n\
                    203.0.113.0\t203.0.113.255\t0\tNone\tNot routed\n";
        let table = AsnTable::parse(text).unwrap();
        let find = |address: &str| table.find(address.parse().unwrap());
        assert_eq!(find("192.0.2.0"), Some(64500));
        assert_eq!(find("192.0.2.127"), Some(64500));
        assert_eq!(find("::ffff:192.0.2.1"), Some(64500));
        assert_eq!(find("198.51.100.9"), Some(64501));
        assert_eq!(find("2001:db8::1"), Some(64502));
        for nobody in [
            "192.0.2.128",
            "1.1.1.1",
            "2001:db8::1:0",
            "203.0.113.1",
            "::",
        ] {
            assert_eq!(find(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for (text, said) in [
            ("192.0.2.0 192.0.2.1 1\nx y z", "line 2"),
            ("192.0.2.9 192.0.2.1 1", "line 1"),
            ("192.0.2.0 2001:db8:: 1", "line 1"),
            ("192.0.2.0 192.0.2.9", "line 1"),
            (
                "192.0.2.0 192.0.2.9 1\n192.0.2.9 192.0.2.10 2",
                "line 2: the ranges overlap",
            ),
        ] {
            let error = AsnTable::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }
}
