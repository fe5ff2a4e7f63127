use super::*;

const NOW: u64 = 1_800_000_000;
const YEAR: u64 = 365 * DAY;

fn ca(id: &str) -> Ca {
    Ca {
        id: id.to_owned(),
        sha256: format!("sha-{id}"),
        not_before: NOW,
        not_after: NOW + YEAR,
    }
}

fn stable() -> State {
    State {
        active: Some(ca("a")),
        standby: Some(ca("b")),
        ..State::default()
    }
}

fn seen(issuer: &str, acknowledged: bool) -> Seen {
    Seen {
        settled_issuer: Some(format!("sha-{issuer}")),
        acknowledged,
        ..Seen::default()
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_phase_has_its_step() {
    let calm = seen("a", true);
    let empty = State::default();
    let first = empty.begun("a".into(), Role::Active);
    let alone = first.made(ca("a"));
    let stable = stable();
    let switching = stable.switched("s".into(), "uid:0", NOW);
    let adopted = switching.adopted();
    let ordered = Seen {
        ordered: true,
        ..calm.clone()
    };
    let suspect = Seen {
        suspect: true,
        ..seen("b", true)
    };
    let deserted = Seen {
        deserted: true,
        ..seen("b", false)
    };
    let superseding = Seen {
        ordered: true,
        ..deserted.clone()
    };
    let renewed = switching.begun("c".into(), Role::Standby).made(ca("c"));
    for (state, seen, action) in [
        (&empty, &calm, Action::Begin(Role::Active)),
        (&first, &calm, Action::Make),
        (&alone, &calm, Action::Begin(Role::Standby)),
        (&alone.begun("b".into(), Role::Standby), &calm, Action::Make),
        // A switch needs a standby.
        (&alone, &ordered, Action::Begin(Role::Standby)),
        (&stable, &calm, Action::Wait),
        (&stable, &ordered, Action::Switch),
        // Not while a leaf of the old one is in force, or a proxy has not followed (F39, F40).
        (&switching, &seen("a", true), Action::Wait),
        (&switching, &seen("b", false), Action::Wait),
        (&switching, &Seen::default(), Action::Wait),
        (&switching, &seen("b", true), Action::Adopt),
        (&switching, &suspect, Action::Adopt),
        // F35: nothing is destroyed by a clock that cannot be believed.
        (&adopted, &suspect, Action::Wait),
        // One has come that has not followed.
        (&adopted, &seen("b", false), Action::Wait),
        // Nobody is there: the old key is kept, until somebody orders the next switch.
        (&switching, &deserted, Action::Begin(Role::Standby)),
        (&renewed, &deserted, Action::Wait),
        (&renewed, &superseding, Action::Adopt),
        (&renewed.adopted(), &superseding, Action::Retire),
        (&renewed.adopted().retired(), &superseding, Action::Switch),
        (&adopted, &seen("b", true), Action::Retire),
        (
            &adopted.retired(),
            &seen("b", true),
            Action::Begin(Role::Standby),
        ),
    ] {
        assert_eq!(next(state, seen, NOW), action, "{} {seen:?}", state.phase());
        let paced = Seen {
            paced: true,
            ..seen.clone()
        };
        assert_eq!(next(state, &paced, NOW), Action::Wait);
    }
    let phases = [&empty, &first, &stable, &switching, &adopted].map(State::phase);
    assert_eq!(
        phases,
        ["empty", "preparing", "stable", "switching", "adopted"]
    );
}

#[test]
fn a_standby_that_waited_for_most_of_its_life_is_made_anew() {
    let state = stable();
    let old = NOW + YEAR * 3 / 4;
    assert_eq!(next(&state, &seen("a", true), old - DAY), Action::Wait);
    assert_eq!(next(&state, &seen("a", true), old), Action::Discard);
    let suspect = Seen {
        suspect: true,
        ..seen("a", true)
    };
    assert_eq!(next(&state, &suspect, old), Action::Wait);
    assert_eq!(
        next(&state.discarded(), &suspect, old),
        Action::Begin(Role::Standby)
    );
}

/// I3, F41: whatever is done in a row, verifiers never have to trust more than two.
#[test]
fn at_most_two_are_trusted_over_many_switches() {
    let mut state = stable();
    for round in 0..6 {
        let before = state.active.clone().unwrap();
        let standby = state.standby.clone().unwrap();
        let trusted = |state: &State| state.trusted().cloned().collect::<Vec<_>>();
        state = state.switched("s".into(), "uid:0", NOW);
        assert_eq!(trusted(&state), [standby.clone(), before.clone()]);
        assert_eq!(state.old, Some(before.clone()), "its key is still there");
        state = state.adopted();
        assert_eq!(trusted(&state), [standby.clone(), before.clone()]);
        state = state.retired();
        assert_eq!(trusted(&state), [standby, before]);
        assert_eq!(state.old, None);
        state = state
            .begun("x".into(), Role::Standby)
            .made(ca(&format!("c{round}")));
        assert_eq!(state.done, round + 1);
    }
}

/// Every state, everything that can be seen, many times.
#[test]
fn no_combination_of_state_sight_and_time_decides_something_dangerous() {
    let stable = stable();
    let switching = stable.switched("s".into(), "uid:0", NOW);
    let states = [
        State::default(),
        State::default().begun("a".into(), Role::Active),
        stable.clone(),
        stable.discarded(),
        stable.discarded().begun("b".into(), Role::Standby),
        switching.clone(),
        switching.adopted(),
        switching.adopted().retired(),
    ];
    for state in &states {
        for bits in 0..64_u32 {
            for issuer in [None, Some("sha-a".to_owned()), Some("sha-b".to_owned())] {
                for now in [
                    0,
                    NOW - YEAR,
                    NOW - 1,
                    NOW,
                    NOW + YEAR / 2,
                    NOW + YEAR,
                    NOW + 2 * YEAR,
                ] {
                    let bit = |place: u32| bits >> place & 1 == 1;
                    let seen = Seen {
                        settled_issuer: issuer.clone(),
                        acknowledged: bit(0),
                        ordered: bit(1),
                        paced: bit(2),
                        suspect: bit(3),
                        deserted: bit(5) && !bit(0),
                    };
                    match next(state, &seen, now) {
                        // Destruction: not with a doubtful clock, not before the successor is in use.
                        Action::Retire => {
                            let adopted =
                                state.switch.as_ref().is_some_and(|switch| switch.adopted);
                            assert!(adopted && !seen.suspect);
                            assert!(seen.acknowledged || seen.deserted);
                        }
                        Action::Discard => assert!(!seen.suspect && state.switch.is_none()),
                        Action::Adopt => {
                            let active = state.active.as_ref().map(|ca| &ca.sha256);
                            assert!(seen.acknowledged || seen.deserted && seen.ordered);
                            assert_eq!(seen.settled_issuer.as_ref(), active);
                        }
                        // Nobody switches by himself.
                        Action::Switch => {
                            assert!(
                                seen.ordered && state.standby.is_some() && state.switch.is_none()
                            );
                        }
                        Action::Begin(Role::Active) => assert!(state.active.is_none()),
                        _ => {}
                    }
                    alarms(state, now, 7 * DAY);
                }
            }
        }
    }
}

/// F37
#[test]
fn the_alarm_grows_with_the_days_that_are_left() {
    let state = stable();
    let alarm = |now: u64| {
        alarms(&state, now, 7 * DAY)
            .first()
            .cloned()
            .unwrap_or_default()
    };
    let end = NOW + YEAR;
    assert_eq!(alarm(NOW), "");
    assert!(alarm(NOW - 1).contains("check the clock"));
    assert!(alarm(NOW + YEAR / 2).contains("182 days left and is due"));
    for (left, text) in [
        (30 * DAY + 1, "30 days left"),
        (30 * DAY - 1, "in less than 30 days"),
        (14 * DAY - 1, "in less than 14 days"),
        (7 * DAY - 1, "in less than 7 days"),
        (3 * DAY - 1, "in less than 3 days"),
        (DAY - 1, "in less than 1 days"),
        (0, "has expired"),
    ] {
        assert!(
            alarm(end - left).contains(text),
            "{left}: {}",
            alarm(end - left)
        );
    }
}
