//! What is in the memory of a process: everything that it could read of itself. Only root may.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Each mapping of a process whose rights (proc(5), `r-xp`) are `wanted` and readable, page by page where it is not there as a whole.
pub(crate) fn of(pid: u32, wanted: impl Fn(&str) -> bool) -> Vec<Vec<u8>> {
    const PAGE: usize = 4096;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut regions = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        // The kernel's own pages, the same in every process, are not read through this file.
        if !rights.starts_with('r') || !wanted(rights) || line.contains("[v") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let length = usize::try_from(number(to) - number(from)).unwrap();
        let mut region = vec![0; length];
        memory.seek(SeekFrom::Start(number(from))).unwrap();
        if memory.read_exact(&mut region).is_err() {
            // A mapped file may be shorter than its mapping; what can be written is there as a whole.
            assert!(!rights.starts_with("rw"), "not read: {line}");
            region.clear();
            let mut page = [0; PAGE];
            for at in (number(from)..number(to)).step_by(PAGE) {
                memory.seek(SeekFrom::Start(at)).unwrap();
                if memory.read_exact(&mut page).is_err() {
                    break;
                }
                region.extend(page);
            }
        }
        regions.push(region);
    }
    assert!(regions.len() > 10, "{maps}");
    regions
}
