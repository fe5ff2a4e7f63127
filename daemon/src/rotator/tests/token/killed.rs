//! Ends of the process, and of the power, in the middle of a rotation.

use super::*;

/// I4, I5, I11: killed, or without power, before every change of the disk; and whether what was called arrived is
/// another question.
#[test]
fn a_rotation_that_is_killed_before_any_change_of_the_disk_happens_once() {
    let kinds = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Full);
    for kind in kinds {
        for fate in [Fate::Answered, Fate::AnswerLost, Fate::RequestLost] {
            let mut steps = 0;
            while killed(kind, fate, steps) {
                steps += 1;
            }
            assert!(steps > 10, "{kind:?} {fate:?}: {steps}");
        }
    }
}

/// Whether the crash came.
fn killed(kind: Kind, fate: Fate, steps: u64) -> bool {
    let mut world = World::remote("");
    let mut other = Other::default();
    {
        let mut engine = world.start();
        other.settle(&world, &mut engine);
    }
    let crash = Crash::after(steps, kind);
    world.disk = Disk {
        crash: Some(crash.clone()),
    };
    let mut ordered = false;
    if let Ok(mut engine) = world.try_open() {
        world.turn(&mut engine);
        ordered = world.order(&mut engine, rotation()).is_ok();
        other.answer(&world, &mut engine, Fate::Answered);
        other.answer(&world, &mut engine, fate);
        world.turn(&mut engine);
    }
    let came = crash.came();
    crash.lose_power();
    let here = format!("{kind:?} {fate:?} {steps}");
    world.disk = Disk::simulated();
    let mut engine = world.start();
    for _ in 0..6 {
        other.settle(&world, &mut engine);
        world.pass(20);
        world.turn(&mut engine);
    }
    assert!(other.rotations <= 1, "{here}");
    // What was taken and survived is carried out.
    if ordered && kind == Kind::Kill {
        assert_eq!(other.rotations, 1, "{here}");
    }
    let status = token_status(&world);
    assert_eq!(status.phase, "stable", "{here}");
    assert_eq!(
        status.id,
        Some(format!("ttok_{}", other.in_force)),
        "{here}"
    );
    assert_eq!(status.foreign_rotations, 0, "{here}");
    assert_eq!(
        world.stored("tunnel-token"),
        value(other.in_force),
        "{here}"
    );
    let rest = published(&world);
    assert_eq!(rest.as_ref().unwrap().1, value(other.in_force), "{here}");
    drop(engine);
    let mut engine = world.start();
    other.settle(&world, &mut engine);
    assert_eq!(published(&world), rest, "{here}");
    came
}
