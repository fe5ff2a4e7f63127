use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::disk::crash::{Crash, Kind};

const NAMES: &[&str] = &["a", "b", "c"];

fn files(generation: u64, names: &[&'static str]) -> Files {
    let content = |name: &str| Zeroizing::new(format!("{name}{generation}").into_bytes());
    names.iter().map(|name| (*name, content(name))).collect()
}

fn open(directory: &Path) -> Swapped {
    Swapped::open(directory, Rights::Ours(Access::PRIVATE), Disk::default()).unwrap()
}

/// The generation that every file is of; panics on a mixture or a part.
fn whole(directory: &Path, names: &[&str]) -> Option<u64> {
    let found: Vec<Option<u64>> = names
        .iter()
        .map(|name| {
            let text = std::fs::read_to_string(directory.join(name)).ok()?;
            Some(text.strip_prefix(name).unwrap().parse().unwrap())
        })
        .collect();
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{found:?}");
    found[0]
}

#[test]
fn files_are_private_and_old_sets_are_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    let swapped = open(&path);
    for generation in 1..=9 {
        swapped.replace(NAMES, &files(generation, NAMES)).unwrap();
        assert_eq!(whole(&path, NAMES), Some(generation));
    }
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("a")), 0o600);
    assert_eq!(mode(&path.join("..data")), 0o700);
    assert_eq!(swapped.numbers().unwrap(), [7, 8, 9]);
}

#[test]
fn a_file_that_is_no_longer_in_the_set_goes_with_the_swap() {
    let directory = tempfile::tempdir().unwrap();
    let swapped = open(directory.path());
    swapped.replace(NAMES, &files(1, NAMES)).unwrap();
    swapped.replace(NAMES, &files(2, &["a", "b"])).unwrap();
    assert_eq!(swapped.read("c").unwrap(), None);
    assert!(directory.path().join("c").symlink_metadata().is_err());
    assert_eq!(whole(directory.path(), &["a", "b"]), Some(2));
}

#[test]
fn plain_files_of_another_tool_are_taken_up_and_foreign_ones_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    for name in NAMES {
        std::fs::write(path.join(name), format!("{name}1")).unwrap();
    }
    std::fs::write(path.join("token"), "t").unwrap();
    let swapped = open(path);
    assert_eq!(swapped.read_all(NAMES).unwrap(), files(1, NAMES));
    swapped.replace(NAMES, &files(2, NAMES)).unwrap();
    assert_eq!(whole(path, NAMES), Some(2));
    assert!(path.join("a").is_symlink());
    assert!(!path.join("token").is_symlink());
    assert_eq!(std::fs::read_to_string(path.join("token")).unwrap(), "t");
    // The other tool again, over our links.
    for name in NAMES {
        std::fs::write(path.join("new"), format!("{name}3")).unwrap();
        std::fs::rename(path.join("new"), path.join(name)).unwrap();
    }
    let swapped = open(path);
    swapped.adopt(NAMES).unwrap();
    assert!(path.join("a").is_symlink());
    assert_eq!(whole(path, NAMES), Some(3));
}

/// A key that is said to be gone is gone, whatever a power loss then takes back.
#[test]
fn what_was_forgotten_does_not_come_back_with_a_power_loss() {
    for kind in Kind::ALL {
        let directory = tempfile::tempdir().unwrap();
        let crash = Crash::after(u64::MAX, kind);
        let disk = Disk {
            crash: Some(crash.clone()),
        };
        let rights = Rights::Ours(Access::PRIVATE);
        let swapped = Swapped::open(directory.path(), rights, disk).unwrap();
        for generation in 1..=3 {
            swapped.replace(NAMES, &files(generation, NAMES)).unwrap();
        }
        swapped.forget("a").unwrap();
        crash.lose_power();
        assert_eq!(whole(directory.path(), NAMES), Some(3), "{kind:?}");
        let holding: Vec<u64> = swapped
            .numbers()
            .unwrap()
            .into_iter()
            .filter(|number| swapped.set(*number).join("a").exists())
            .collect();
        assert_eq!(holding, [3], "{kind:?}");
    }
}

/// F18, F21: from a start with nothing, with our own set or with plain files, killed or without
/// power before every single step.
#[test]
fn a_crash_at_any_step_leaves_one_set_whole() {
    for kind in Kind::ALL {
        for start in ["nothing", "links", "plain"] {
            let mut steps = 0;
            while crash(kind, start, steps) {
                steps += 1;
            }
            assert!(steps > 10, "{kind:?} {start}: {steps}");
        }
    }
}

/// Whether the crash came.
fn crash(kind: Kind, start: &str, steps: u64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let before = match start {
        "nothing" => None,
        "links" => {
            open(path).replace(NAMES, &files(1, NAMES)).unwrap();
            Some(1)
        }
        _ => {
            for name in NAMES {
                std::fs::write(path.join(name), format!("{name}1")).unwrap();
            }
            Some(1)
        }
    };
    let crash = Crash::after(steps, kind);
    let disk = Disk {
        crash: Some(crash.clone()),
    };
    let done = Swapped::open(path, Rights::Ours(Access::PRIVATE), disk).and_then(|swapped| {
        swapped.replace(NAMES, &files(2, NAMES))?;
        swapped.settle()
    });
    crash.lose_power();
    let seen = whole(path, NAMES);
    let swapped = open(path);
    assert_eq!(
        whole(path, NAMES),
        seen,
        "{kind:?} {start} {steps}: clearing changed it"
    );
    if done.is_ok() {
        assert_eq!(seen, Some(2), "{kind:?} {start} {steps}");
    } else {
        assert!(
            seen == before || seen == Some(2),
            "{kind:?} {start} {steps}: {seen:?}"
        );
    }
    swapped.replace(NAMES, &files(3, NAMES)).unwrap();
    assert_eq!(whole(path, NAMES), Some(3));
    assert!(swapped.numbers().unwrap().len() <= 1 + KEPT);
    let leftovers = swapped.names().unwrap();
    assert!(
        leftovers.iter().all(|name| !name.contains("next")),
        "{leftovers:?}"
    );
    done.is_err()
}
