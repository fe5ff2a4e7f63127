//! `bench simulate`: a thousand tunnels over a thousand days each, and every rule taken away in turn.

use harness::simulation::{Counts, Guard, Outcome, Plan, caught};
use process::Failure;

use crate::command::say;
use crate::figure::Findings;

/// Runs. Every fourth one is a rough life.
const RUNS: u64 = 1_000;
/// Simulated days of each.
const DAYS: u64 = 1_000;
/// One of so many is rough.
const ROUGH: u64 = 4;
/// Broken runs that are told of.
const TOLD: usize = 5;

/// Measures both figures.
pub(crate) fn run(findings: &mut Findings) -> Result<(), Failure> {
    let runs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let outcomes: Vec<(Plan, Outcome)> = std::thread::scope(|scope| {
        let part = |first: u64| {
            scope.spawn(move || {
                let seeds = (first..RUNS).step_by(usize::try_from(runs).unwrap_or(1));
                seeds.map(one).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..runs).map(part).collect();
        let joined = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        joined.filter_map(Result::ok).flatten().collect()
    });
    if outcomes.len() as u64 != RUNS {
        return Err(Failure::internal("a run panicked"));
    }
    let broken: Vec<&(Plan, Outcome)> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome.broken.is_some())
        .collect();
    for (plan, outcome) in broken.iter().take(TOLD) {
        say(&format!(
            "simulate.violations seed {} {} second {}: {}",
            plan.seed,
            if plan.rough { "rough" } else { "ordinary" },
            outcome.at,
            outcome.broken.as_deref().unwrap_or_default()
        ));
    }
    let counts = outcomes.iter().map(|(_, outcome)| outcome.counts);
    let counts = counts.fold(Counts::default(), Counts::and);
    say(&format!("simulate.violations {counts:?}"));
    findings.absolute("simulate.violations", count(broken.len()));
    let missed = Guard::ALL.into_iter().filter(|guard| !is_missed(*guard));
    let missed: Vec<Guard> = missed.collect();
    say(&format!(
        "simulate.guards {} of {} caught",
        Guard::ALL.len() - missed.len(),
        Guard::ALL.len()
    ));
    findings.absolute("simulate.guards", count(missed.len()));
    Ok(())
}

/// Whether something breaks without a rule.
fn is_missed(guard: Guard) -> bool {
    let rule = guard.rule();
    let caught = caught(guard);
    say(&match &caught {
        Some((seed, broken)) => format!("simulate.guards without: {rule}: seed {seed}: {broken}"),
        None => format!("simulate.guards nobody misses: {rule}"),
    });
    caught.is_some()
}

fn one(seed: u64) -> (Plan, Outcome) {
    let plan = Plan::new(seed, DAYS);
    let plan = if seed % ROUGH == ROUGH - 1 {
        plan.rough()
    } else {
        plan
    };
    (plan, plan.run())
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}
