//! Rotations of the token that nobody orders.

use super::*;

/// From `START` to three o'clock on the next morning.
const TO_THREE: u64 = 19 * HOUR;

fn failed(world: &World) -> usize {
    let alarms = world.status().alarms;
    let ours = |alarm: &String| alarm.starts_with("rotate.token was due and failed");
    alarms.iter().filter(|alarm| ours(alarm)).count()
}

/// Each with its one order of the schedule so far.
fn due() -> (World, Engine, Other) {
    let mut world = World::remote(
        "    connector: cloudflared\n    rotate: { token: '0 3 * * *', ca: 'off' }\n",
    );
    let mut engine = world.start();
    let mut other = Other::default();
    other.settle(&world, &mut engine);
    world.pass(TO_THREE);
    connector(&world, "c", START);
    world.turn(&mut engine);
    (world, engine, other)
}

#[test]
fn a_run_that_is_refused_is_an_alarm_and_due_again_in_an_hour_over_an_end_of_the_process() {
    let (mut world, mut engine, mut other) = due();
    other.answer(&world, &mut engine, Fate::Answered);
    other.answer(&world, &mut engine, Fate::Refused(403, "no"));
    world.turn(&mut engine);
    assert_eq!((failed(&world), other.rotations), (1, 0));
    drop(engine);
    let mut engine = world.start();
    other.settle(&world, &mut engine);
    assert_eq!(failed(&world), 1);
    for (pause, rotations) in [(HOUR - 10, 0), (10, 1)] {
        world.pass(pause);
        connector(&world, "c", START);
        world.turn(&mut engine);
        other.settle(&world, &mut engine);
        assert_eq!(other.rotations, rotations);
    }
    connector(&world, "c", u64::MAX);
    world.turn(&mut engine);
    world.turn(&mut engine);
    assert_eq!(failed(&world), 0);
    world.pass(2 * HOUR);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(other.rotations, 1);
}

#[test]
fn connectors_that_follow_late_do_not_make_another_run() {
    let (mut world, mut engine, mut other) = due();
    other.settle(&world, &mut engine);
    assert_eq!(other.rotations, 1);
    for _ in 0..8 {
        world.pass(HOUR / 4);
        connector(&world, "c", START);
        world.turn(&mut engine);
        other.settle(&world, &mut engine);
    }
    assert_eq!((failed(&world), other.rotations), (0, 1));
    connector(&world, "c", u64::MAX);
    world.turn(&mut engine);
    world.pass(2 * HOUR);
    world.turn(&mut engine);
    other.settle(&world, &mut engine);
    assert_eq!(other.rotations, 1);
}

/// The tunnel cannot be read, or is another one.
#[test]
fn an_order_ends_where_nothing_can_be_asked_and_what_needs_no_call_goes_on() {
    let world = World::remote("");
    let mut engine = world.start();
    let operation = world.order(&mut engine, rotation()).unwrap();
    let looks = engine.take_asks();
    let told = looks.into_iter().map(|ask| Told {
        ask,
        result: Err(CallError::NotSent(NotSent::Identifier("x".to_owned()))),
    });
    world.tell(&mut engine, told.collect());
    world.turn(&mut engine);
    let ended = world.operation(&operation.id);
    assert_eq!(ended.state, OperationState::Failed, "{ended:?}");

    let (world, mut engine, mut other) = started();
    connector(&world, "c", START);
    world.order(&mut engine, rotation()).unwrap();
    other.settle(&world, &mut engine);
    assert_eq!(token_status(&world).phase, "distributing");
    drop(engine);
    let mut engine = world.start();
    connector(&world, "c", START + 1);
    world.turn(&mut engine);
    assert_eq!(token_status(&world).phase, "stable", "nothing was asked");
}
