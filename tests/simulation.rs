//! A tunnel's credentials over years, in moments: some of the runs of `bench simulate`, and every rule taken away.

use harness::simulation::{Guard, Plan, caught};

/// Seeds of ordinary lives, and their days.
const ORDINARY: (u64, u64) = (12, 200);
/// The same of rough ones.
const ROUGH: (u64, u64) = (12, 60);

#[test]
fn no_invariant_of_the_rotation_is_broken_in_years_of_ordinary_trouble() {
    let (seeds, days) = ORDINARY;
    for seed in 0..seeds {
        let outcome = Plan::new(seed, days).run();
        assert_eq!(outcome.broken, None, "seed {seed}: {outcome:?}");
        assert!(outcome.counts.leaves > days / 2, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn no_invariant_of_the_rotation_is_broken_when_everything_goes_wrong_all_the_time() {
    let (seeds, days) = ROUGH;
    for seed in 0..seeds {
        let outcome = Plan::new(seed, days).rough().run();
        assert_eq!(outcome.broken, None, "seed {seed}: {outcome:?}");
        assert!(outcome.counts.crashes > 0, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn a_seed_reproduces_its_run() {
    let plan = Plan {
        traced: true,
        ..Plan::new(7, 30).rough()
    };
    assert_eq!(plan.run(), plan.run());
    let other = Plan { seed: 8, ..plan };
    assert_ne!(plan.run().trace, other.run().trace);
}

#[test]
fn every_rule_that_is_taken_away_is_missed() {
    let missed = Guard::ALL
        .into_iter()
        .filter(|guard| caught(*guard).is_none());
    let missed: Vec<&str> = missed.map(Guard::rule).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}
