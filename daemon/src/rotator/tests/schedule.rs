//! Rotations that nobody orders. `START` is 2027-01-15 08:00 UTC, a Friday.

use super::*;

/// From `START` to three o'clock on the next morning.
const TO_THREE: u64 = 19 * HOUR;

fn daily(more: &str) -> World {
    World::with(&format!(
        "    rotate: {{ certificate: '0 3 * * *'{more} }}\n"
    ))
}

/// Rotations that the schedule ordered.
fn ordered(world: &World) -> usize {
    let status = world.board.status.borrow();
    let ours = |operation: &&Operation| operation.actor == "schedule";
    status.operations.iter().filter(ours).count()
}

#[test]
fn what_is_due_is_ordered_once_and_runs_that_were_missed_are_one() {
    let mut world = daily("");
    let mut engine = world.start();
    world.pass(TO_THREE - 1);
    world.turn(&mut engine);
    assert_eq!((ordered(&world), world.credential().generation), (0, 1));
    world.pass(1);
    for _ in 0..3 {
        world.turn(&mut engine);
    }
    assert_eq!((ordered(&world), world.credential().generation), (1, 2));
    world.pass(3 * DAY + HOUR);
    for _ in 0..3 {
        world.turn(&mut engine);
    }
    assert_eq!(ordered(&world), 2);
}

#[test]
fn an_end_of_the_process_neither_loses_a_run_nor_repeats_it() {
    let mut world = daily("");
    drop(world.start());
    world.pass(TO_THREE);
    let mut engine = world.start();
    world.turn(&mut engine);
    assert_eq!(ordered(&world), 1, "it fell into the time without a daemon");
    let generation = world.credential().generation;
    drop(engine);
    let mut engine = world.start();
    world.pass(60);
    world.turn(&mut engine);
    assert_eq!(world.credential().generation, generation);
    // Another schedule counts from now on.
    drop(engine);
    world.settings = "    rotate: { certificate: 30d }\n".to_owned();
    let mut engine = world.start();
    world.pass(HOUR);
    world.turn(&mut engine);
    assert_eq!(world.credential().generation, generation);
}

#[test]
fn nothing_begins_on_a_frozen_day_nor_while_the_clock_is_in_doubt() {
    let mut world = daily(", freeze: ['2027-01-16']");
    let mut engine = world.start();
    world.pass(TO_THREE + HOUR);
    world.turn(&mut engine);
    assert_eq!(ordered(&world), 0);
    // The clock jumps past midnight.
    world.wall += DAY;
    world.turn(&mut engine);
    assert_eq!(ordered(&world), 0);
    world.pass(2 * HOUR);
    world.turn(&mut engine);
    assert_eq!(ordered(&world), 1);
}

#[test]
fn a_run_that_takes_too_long_for_whoever_ordered_it_is_no_failure() {
    let mut world = daily("");
    let mut engine = world.start();
    world.connect("mute", 0);
    world.pass(TO_THREE);
    world.turn(&mut engine);
    for _ in 0..3 {
        world.pass(HOUR / 2);
        world.turn(&mut engine);
    }
    let status = world.board.status.borrow().clone();
    assert_eq!(status.operations[0].state, OperationState::Failed);
    assert_eq!(ordered(&world), 1, "it is published, and not done again");
    let alarms = &status.tunnels["main"].alarms;
    assert!(
        !alarms.iter().any(|alarm| alarm.contains("rotate.")),
        "{alarms:?}"
    );
}

#[test]
fn a_plan_that_was_made_while_the_clock_was_ahead_is_pulled_back() {
    let mut world = daily("");
    world.wall += 300 * DAY;
    drop(world.start());
    world.wall -= 300 * DAY;
    let mut engine = world.start();
    world.pass(3 * HOUR);
    world.turn(&mut engine);
    world.pass(TO_THREE - 3 * HOUR);
    world.turn(&mut engine);
    assert_eq!(ordered(&world), 1);
}
