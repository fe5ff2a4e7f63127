//! Whoever reads what a peer wrote takes anything: no panic, no hang, no memory without bound, and an
//! error that does not repeat what it was given.
//!
//! Each target is a plain function of bytes, driven from valid inputs by one small seeded mutator.
//! `KEYWARD_FUZZ_SEED` repeats a run, `KEYWARD_FUZZ_ROUNDS` makes it longer; a failure prints both.

mod edge;
mod mutator;
mod plane;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mutator::Mutator;

/// Mutations of each target, unless told otherwise: all targets together take some seconds.
const ROUNDS: u64 = 3000;
/// No input may take longer: a thousand times what the slowest takes.
const LONGEST: Duration = Duration::from_secs(5);
/// The growth of the whole process over one target, in KiB. Inputs are a few KiB, results too.
const GROWTH: u64 = 128 << 10;

/// Gives `target` every seed as it is, then mutations of them.
fn drive(name: &str, seeds: &[Vec<u8>], mut target: impl FnMut(&[u8])) {
    let number = |variable: &str| std::env::var(variable).ok()?.parse().ok();
    let seed = number("KEYWARD_FUZZ_SEED").unwrap_or(0x6b65_7977_6172_6421);
    let rounds = number("KEYWARD_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    let mut mutator = Mutator::new(seed, name);
    let before = memory();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds + seeds.len() as u64 {
        let known = usize::try_from(round).ok().and_then(|at| seeds.get(at));
        let input = match known {
            Some(seed) => seed.clone(),
            None => mutator.next(seeds),
        };
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| target(&input)));
        slowest = slowest.max(begun.elapsed());
        assert!(
            outcome.is_ok() && slowest < LONGEST,
            "{name}: KEYWARD_FUZZ_SEED={seed} KEYWARD_FUZZ_ROUNDS={rounds}, round {round}, {slowest:?}: {}",
            input.escape_ascii()
        );
    }
    let grown = memory().saturating_sub(before);
    assert!(
        grown < GROWTH,
        "{name}: {grown} KiB, KEYWARD_FUZZ_SEED={seed}"
    );
}

/// Resident memory of this process in KiB.
fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}
