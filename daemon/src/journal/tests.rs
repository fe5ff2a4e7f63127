use super::*;
use crate::disk::crash::{Crash, Kind as CrashKind};

const NOW: (SystemTime, Duration) = (SystemTime::UNIX_EPOCH, Duration::from_secs(5));

fn entry(number: u64) -> Entry {
    Entry {
        phase: "serving".to_owned(),
        state: serde_json::json!({ "number": number }),
        ..Entry::default()
    }
}

fn number(journal: &Journal, tunnel: &str) -> Option<u64> {
    let record = journal.last(tunnel, Kind::Ca)?;
    record.entry.state["number"].as_u64()
}

fn write(journal: &mut Journal, tunnel: &str, number: u64) -> Result<(), DiskError> {
    journal.append(tunnel, Kind::Ca, entry(number), NOW, true)
}

#[test]
fn the_last_record_of_each_machine_survives() {
    let state = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(state.path()).unwrap();
    for number in 1..=3 {
        write(&mut journal, "a", number).unwrap();
        write(&mut journal, "b", number * 10).unwrap();
    }
    drop(journal);
    let journal = Journal::open(state.path()).unwrap();
    assert_eq!(
        (number(&journal, "a"), number(&journal, "b")),
        (Some(3), Some(30))
    );
    assert_eq!(journal.recent("a", Kind::Ca).count(), 3);
    let newest = journal.records().max_by_key(|record| record.seq).unwrap();
    assert_eq!((newest.seq, newest.epoch, newest.mono), (6, 1, 5000));
    assert_eq!(journal.epoch, 2);
}

#[test]
fn a_second_writer_is_refused_by_the_pid_of_the_first() {
    let state = tempfile::tempdir().unwrap();
    let first = Journal::open(state.path()).unwrap();
    let refused = Failure::from(Journal::open(state.path()).unwrap_err()).to_string();
    assert!(
        refused.contains(&format!("(pid {})", std::process::id())),
        "{refused}"
    );
    drop(first);
    Journal::open(state.path()).unwrap();
}

#[test]
fn a_torn_last_line_is_dropped_and_written_over() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("journal.jsonl");
    for torn in ["{\"v\":1", "\0\0\0\0\0\0", "{}", "{\"v\":2}"] {
        let mut journal = Journal::open(state.path()).unwrap();
        write(&mut journal, "a", 7).unwrap();
        drop(journal);
        let mut text = std::fs::read(&path).unwrap();
        text.extend(torn.as_bytes());
        std::fs::write(&path, text).unwrap();
        let mut journal = Journal::open(state.path()).unwrap();
        assert_eq!(number(&journal, "a"), Some(7), "{torn:?}");
        write(&mut journal, "a", 8).unwrap();
        drop(journal);
        assert_eq!(number(&Journal::open(state.path()).unwrap(), "a"), Some(8));
    }
}

/// A journal with one record that nobody has open: its folder, its path and its text.
fn one_record() -> (tempfile::TempDir, PathBuf, String) {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("journal.jsonl");
    let mut journal = Journal::open(state.path()).unwrap();
    write(&mut journal, "a", 1).unwrap();
    drop(journal);
    let text = std::fs::read_to_string(&path).unwrap();
    (state, path, text)
}

#[test]
fn damage_in_the_middle_and_a_newer_version_are_refused() {
    let (state, path, good) = one_record();
    std::fs::write(&path, format!("{good}garbage\n{good}")).unwrap();
    let refused = Journal::open(state.path()).unwrap_err();
    assert!(
        matches!(refused, JournalError::Damaged { line: 2, .. }),
        "{refused}"
    );
    std::fs::write(&path, good.replace("\"v\":1", "\"v\":2")).unwrap();
    let refused = Journal::open(state.path()).unwrap_err();
    assert!(
        matches!(refused, JournalError::Newer { version: 2, .. }),
        "{refused}"
    );
}

/// The last record is what recovery goes by: without it an older one would come true again.
#[test]
fn a_whole_last_line_that_is_no_record_is_refused_and_not_cut_off() {
    let (state, path, good) = one_record();
    let newer = "{\"v\":2,\"kind\":\"of another shape\"}\n";
    for (last, expected) in [
        ("garbage\n", "line 2 of"),
        ("{}\n", "line 2 of"),
        ("\0\0\0\n", "line 2 of"),
        (newer, "was written by a newer build (version 2)"),
    ] {
        let text = format!("{good}{last}");
        std::fs::write(&path, &text).unwrap();
        let refused = Journal::open(state.path()).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn the_journal_stays_short_and_keeps_the_last_record_of_every_machine() {
    let state = tempfile::tempdir().unwrap();
    let path = state.path().join("journal.jsonl");
    let mut journal = Journal::open(state.path()).unwrap();
    write(&mut journal, "quiet", 42).unwrap();
    let mut number_written = 0;
    let mut shortened = false;
    while !shortened {
        let before = journal.length;
        number_written += 1;
        write(&mut journal, "busy", number_written).unwrap();
        shortened = journal.length < before;
        assert!(journal.length < LONGEST + 4096);
    }
    write(&mut journal, "busy", number_written + 1).unwrap();
    assert_eq!(path.metadata().unwrap().len(), journal.length);
    drop(journal);
    let journal = Journal::open(state.path()).unwrap();
    assert_eq!(number(&journal, "busy"), Some(number_written + 1));
    assert_eq!(number(&journal, "quiet"), Some(42));
    assert_eq!(
        journal.records().map(|record| record.seq).max().unwrap(),
        number_written + 2
    );
}

/// F21: killed or without power before every single step, from no directory on.
#[test]
fn a_crash_at_any_step_loses_no_record_that_was_acknowledged() {
    for kind in CrashKind::ALL {
        let mut steps = 0;
        while crash(kind, steps) {
            steps += 1;
        }
        assert!(steps > 10, "{kind:?}: {steps}");
    }
}

fn crash(kind: CrashKind, steps: u64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let crash = Crash::after(steps, kind);
    let disk = Disk {
        crash: Some(crash.clone()),
    };
    let mut acknowledged = 0;
    if let Ok(mut journal) = Journal::open_on(&state, disk) {
        for number in 1..=4 {
            if write(&mut journal, "a", number).is_err() {
                break;
            }
            acknowledged = number;
            if number == 2 && journal.compact().is_err() {
                break;
            }
        }
        if kind == CrashKind::Full && acknowledged < 4 {
            crash.relieve();
            write(&mut journal, "a", 9).unwrap();
            assert_eq!(number(&journal, "a"), Some(9));
            return true;
        }
    }
    crash.lose_power();
    let mut journal = Journal::open(&state).unwrap();
    let found = number(&journal, "a").unwrap_or(0);
    // A record may survive that was not acknowledged, never the other way round.
    assert!(
        found == acknowledged || found == acknowledged + 1,
        "{kind:?} {steps}: {found} for {acknowledged}"
    );
    write(&mut journal, "a", 9).unwrap();
    drop(journal);
    assert_eq!(number(&Journal::open(&state).unwrap(), "a"), Some(9));
    acknowledged < 4
}
