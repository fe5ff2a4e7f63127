//! Single steps, and what is said of them.

use super::*;

/// At rest since `NOW`.
fn stable() -> State {
    let empty = State::default();
    empty.revealed(&told("t0", "0s", NOW, false))
}

fn told<'a>(id: &'a str, sha256: &'a str, at: u64, late: bool) -> Observed<'a> {
    Observed {
        id,
        sha256,
        at,
        late,
        doubted: false,
    }
}

fn calm() -> Seen {
    Seen {
        remote: true,
        stored: Some("0s".to_owned()),
        published: NOW,
        ..Seen::default()
    }
}

fn connector(acked: u64) -> Witness {
    Witness {
        name: "c".to_owned(),
        connected: true,
        acked,
        refused: None,
        serves: 0,
    }
}

fn wait() -> Action {
    Action::Wait(NOW + HOUR)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_phase_has_its_step() {
    let (calm, stable) = (calm(), stable());
    let ordered = Seen {
        ordered: true,
        ..calm.clone()
    };
    let asked = Seen {
        asked: true,
        ..calm.clone()
    };
    let suspect = Seen {
        suspect: true,
        ordered: true,
        ..calm.clone()
    };
    let missing = Seen {
        stored: None,
        ..calm.clone()
    };
    let by_hand = Seen {
        stored: Some("9s".to_owned()),
        ..calm.clone()
    };
    let after_start = Seen {
        published: 0,
        ..by_hand.clone()
    };
    let fixed = Seen {
        remote: false,
        ..by_hand.clone()
    };
    let behind = Seen {
        connectors: vec![connector(NOW - 1)],
        ordered: true,
        ..calm.clone()
    };
    let followed = Seen {
        connectors: vec![connector(NOW + 1)],
        stored: Some("1s".to_owned()),
        published: NOW + 1,
        ..calm.clone()
    };
    let refused = Seen {
        connectors: vec![Witness {
            refused: Some((NOW, Reason::TokenRefused)),
            ..connector(0)
        }],
        ..calm.clone()
    };
    let held = Seen {
        held: true,
        ..calm.clone()
    };
    let paced = Seen {
        paced: true,
        ..held.clone()
    };
    let begun = stable.begun("r".to_owned(), "uid:0", NOW);
    let looked = begun.revealed(&told("t0", "0s", NOW, false));
    let called = looked.called(&["c".to_owned()], NOW);
    let same = called.revealed(&told("t0", "0s", NOW, false));
    let old = stable.begun("r".to_owned(), "uid:0", NOW - 7200);
    let past = looked.called(&[], NOW - LATE);
    let past_same = past.revealed(&told("t0", "0s", NOW - 1, false));
    let rotated = called.rotated("t1", "1s", NOW);
    let found = called.revealed(&told("t1", "1s", NOW, false));
    let reveal = Action::Reveal;
    for (name, state, seen, action) in [
        (
            "nothing known",
            &State::default(),
            &missing,
            reveal(Occasion::Missing),
        ),
        ("at rest", &stable, &calm, wait()),
        ("one call at a time", &stable, &asked, wait()),
        (
            "the store was emptied",
            &stable,
            &missing,
            reveal(Occasion::Missing),
        ),
        (
            "the store was written",
            &stable,
            &by_hand,
            reveal(Occasion::Unknown),
        ),
        (
            "before anything is out",
            &stable,
            &after_start,
            Action::Take,
        ),
        ("nobody can be asked", &stable, &fixed, Action::Take),
        (
            "after a start",
            &stable,
            &Seen {
                published: 0,
                ..calm.clone()
            },
            Action::Publish,
        ),
        ("refused", &stable, &refused, reveal(Occasion::Refused)),
        ("ordered", &stable, &ordered, Action::Begin),
        ("ordered in a doubtful time", &stable, &suspect, wait()),
        ("ordered while a connector lags", &stable, &behind, wait()),
        ("a value waits", &stable, &held, Action::Keep),
        ("a value waits for the disk", &stable, &paced, wait()),
        ("begun", &begun, &calm, reveal(Occasion::Before)),
        (
            "begun long ago",
            &old,
            &calm,
            Action::Abandon("the remote could not be reached in time"),
        ),
        ("looked", &looked, &calm, Action::Call),
        (
            "looked, then in doubt",
            &looked,
            &suspect,
            Action::Wait(NOW + HARD_DEADLINE + 1),
        ),
        (
            "called, and nobody knows",
            &called,
            &calm,
            reveal(Occasion::Outcome),
        ),
        ("called, and the call is out", &called, &asked, wait()),
        (
            "it may still arrive",
            &same,
            &calm,
            Action::Wait(NOW + LATE),
        ),
        (
            "it should have arrived",
            &past_same,
            &calm,
            reveal(Occasion::Outcome),
        ),
        (
            "it should have, by a doubtful clock",
            &past_same,
            &suspect,
            Action::Wait(NOW + LATE),
        ),
        ("out", &rotated, &followed, Action::Finish),
        (
            "found, but it may be another's",
            &found,
            &followed,
            Action::Wait(NOW + LATE),
        ),
    ] {
        assert_eq!(next(state, seen, NOW), action, "{name}");
    }
}

/// Whatever else is so.
#[test]
fn it_is_called_after_a_fresh_look_with_nothing_open_and_nothing_against_it() {
    let stable = stable();
    let begun = stable.begun("r".to_owned(), "uid:0", NOW);
    let looked = begun.revealed(&told("t0", "0s", NOW, false));
    let called = looked.called(&[], NOW);
    let states = [
        State::default(),
        stable,
        begun,
        looked.clone(),
        called.clone(),
        called.unsent(),
        called.revealed(&told("t0", "0s", NOW + LATE, true)),
        called.rotated("t1", "1s", NOW),
        called.refused(403),
        called.archived(NOW),
    ];
    let mut calls = 0;
    for state in &states {
        for bits in 0..256_u32 {
            let bit = |place: u32| bits >> place & 1 == 1;
            let seen = Seen {
                remote: bit(0),
                stored: bit(1).then(|| state.sha256.clone()),
                published: state.generation,
                held: bit(2),
                asked: bit(3),
                ordered: bit(4),
                switching: bit(5),
                paced: bit(6),
                suspect: bit(7),
                ..Seen::default()
            };
            for now in [
                NOW - 90_000,
                NOW,
                NOW + 29,
                NOW + LATE,
                NOW + LATE + 29,
                NOW + 90_000,
            ] {
                if next(state, &seen, now) != Action::Call {
                    continue;
                }
                calls += 1;
                let rotation = state.rotation.as_ref().unwrap();
                assert_eq!(rotation.phase, Phase::Intent);
                assert!(rotation.looked && now.abs_diff(state.asked) < FRESH);
                assert!(seen.remote && !seen.held && !seen.asked && !seen.paced);
                assert_eq!(obstacle(state, &seen), None);
            }
        }
    }
    assert!(calls > 0);
}

#[test]
fn a_refused_rotation_is_over_and_a_tunnel_that_is_archived_is_asked_hourly() {
    let begun = stable().begun("r".to_owned(), "uid:0", NOW);
    let called = begun.called(&[], NOW);
    let refused = called.refused(409);
    assert_eq!(
        (refused.phase(), refused.rotation.as_ref()),
        ("stable", None)
    );
    assert!(alarms(&refused, &calm(), NOW)[0].contains("refused to rotate the tunnel token (409)"));
    // The next one is another try.
    let again = refused.begun("s".to_owned(), "uid:0", NOW);
    assert_eq!(alarms(&again, &calm(), NOW), [""; 0]);

    let archived = called.archived(NOW);
    assert_eq!(archived.phase(), "archived");
    let missing = Seen {
        stored: None,
        ordered: true,
        ..calm()
    };
    assert_eq!(
        next(&archived, &missing, NOW + HOUR - 1),
        Action::Wait(NOW + HOUR - 1 + HOUR)
    );
    let look = Action::Reveal(Occasion::Missing);
    assert_eq!(next(&archived, &missing, NOW + HOUR), look);
    // Whether it still is can be asked though nothing else is amiss.
    let look = Action::Reveal(Occasion::Unknown);
    assert_eq!(next(&archived, &calm(), NOW + HOUR), look);
    assert!(alarms(&archived, &calm(), NOW)[0].contains("archived"));
    let back = archived.revealed(&told("t0", "0s", NOW, false));
    assert_eq!(alarms(&back, &calm(), NOW), [""; 0]);
}

#[test]
fn what_is_no_token_ends_a_rotation_that_took_place_and_not_one_that_may_yet() {
    let begun = stable().begun("r".to_owned(), "uid:0", NOW);
    let called = begun.called(&[], NOW);
    let same = called.malformed(&told("t0", "", NOW, false));
    assert_eq!(same.phase(), "rotating");
    assert_eq!(
        called.malformed(&told("t0", "", NOW, true)).phase(),
        "stable"
    );
    let rotated = called.malformed(&told("t1", "", NOW, true));
    assert_eq!(
        (rotated.phase(), rotated.id.as_deref()),
        ("stable", Some("t1"))
    );
    assert_eq!(rotated.sha256, "0s", "it is not what connectors are given");
    let good = rotated.revealed(&told("t1", "1s", NOW + HOUR, false));
    assert_eq!((good.foreign_count, good.trouble), (0, None));
    assert!(alarms(&rotated, &calm(), NOW)[0].contains("not of the documented form"));
}

/// Each reveal is in the remote's audit log, where a thief's must be seen (F01).
#[test]
fn without_an_occasion_the_token_is_revealed_once_a_week_at_most() {
    let mut state = stable();
    let mut reveals = Vec::new();
    for minute in 0..60 * 24 * 7 * 20 {
        let now = NOW + minute * 60;
        if let Action::Reveal(occasion) = next(&state, &calm(), now) {
            assert_eq!(occasion, Occasion::Weekly);
            reveals.push(now);
            state = state.revealed(&told("t0", "0s", now, false));
        }
    }
    assert!(reveals.len() > 16, "{}", reveals.len());
    assert!(reveals.windows(2).all(|two| two[1] - two[0] >= WEEK));
    let spread = |sha256: &str| stable().taken(sha256, NOW).spread(DAY);
    assert_ne!(
        spread("00ff00"),
        spread("ff0000"),
        "a fleet does not ask at once"
    );
    assert!(spread("ffffff") < DAY);
}

#[test]
fn a_refusal_that_the_remote_contradicts_is_looked_into_more_and_more_rarely() {
    let mut state = stable();
    let refused = Seen {
        connectors: vec![Witness {
            refused: Some((state.generation, Reason::TokenRefused)),
            ..connector(0)
        }],
        ..calm()
    };
    let mut reveals = Vec::new();
    for minute in 0..60 * 24 {
        let now = NOW + minute * 60;
        if let Action::Reveal(occasion) = next(&state, &refused, now) {
            assert_eq!(occasion, Occasion::Refused);
            reveals.push(minute);
            state = state.revealed(&Observed {
                doubted: is_doubted(&state, &refused),
                ..told("t0", "0s", now, false)
            });
        }
    }
    assert_eq!(reveals[..5], [0, 1, 3, 7, 15]);
    assert!(reveals.len() < 13, "{reveals:?}");
    // A value that nobody refuses: the next refusal is news.
    let state = state.revealed(&told("t1", "1s", NOW + DAY, false));
    assert_eq!(state.doubts, 0);
}

#[test]
fn another_id_without_a_rotation_of_ours_is_adopted_and_alarms_for_a_week() {
    let state = stable().revealed(&told("t9", "9s", NOW + 5, false));
    assert_eq!(state.id.as_deref(), Some("t9"));
    assert_eq!((state.sha256.as_str(), state.generation), ("9s", NOW + 1));
    assert_eq!((state.foreign_count, state.done), (1, 0));
    let alarm = &alarms(&state, &calm(), NOW + 6)[0];
    assert!(
        alarm.starts_with("FOREIGN_ROTATION: somebody else rotated"),
        "{alarm}"
    );
    assert_eq!(alarms(&state, &calm(), NOW + 5 + REMEMBERED), [""; 0]);
    // Somebody has reacted.
    let begun = state
        .begun("r".to_owned(), "uid:0", NOW + 6)
        .called(&[], NOW + 6);
    let rotated = begun.rotated("t10", "10s", NOW + 7);
    assert_eq!(alarms(&rotated, &calm(), NOW + 7), [""; 0]);
    assert_eq!(rotated.foreign_count, 1);
    // Just before one of ours it alarms as well.
    let begun = stable().begun("r".to_owned(), "uid:0", NOW);
    assert_eq!(
        begun.revealed(&told("t9", "9s", NOW, false)).foreign_count,
        1
    );
}

#[test]
fn a_rotation_is_not_over_before_the_last_connector_has_followed() {
    let called = stable()
        .begun("r".to_owned(), "uid:0", NOW)
        .called(&["c".to_owned(), "d".to_owned()], NOW);
    let rotated = called.rotated("t1", "1s", NOW);
    let seen = |acks: &[(&str, u64)]| Seen {
        connectors: acks
            .iter()
            .map(|(name, acked)| Witness {
                name: (*name).to_owned(),
                ..connector(*acked)
            })
            .collect(),
        ..calm()
    };
    let (old, new) = (NOW, NOW + 1);
    assert_eq!(pending(&rotated, &seen(&[("c", new), ("d", old)])), ["d"]);
    // It has not come back after a start of the daemon.
    assert_eq!(pending(&rotated, &seen(&[("c", new)])), ["d"]);
    let gone = Seen {
        left: vec!["d".to_owned()],
        ..seen(&[("c", new)])
    };
    assert_eq!(pending(&rotated, &gone), [""; 0]);
    let watched = Seen {
        watched: true,
        ..seen(&[("c", new)])
    };
    assert_eq!(pending(&rotated, &watched), [""; 0]);
    // One that came later counts as well.
    assert_eq!(
        pending(&rotated, &seen(&[("c", new), ("d", new), ("e", 0)])),
        ["e"]
    );
    let late = &alarms(&rotated, &seen(&[("c", new)]), NOW + DISTRIBUTION_LIMIT)[0];
    assert!(
        late.ends_with("these connectors have not taken it: d"),
        "{late}"
    );
}

#[test]
fn two_values_open_connections_at_a_time_and_never_three() {
    let first = stable().begun("r".to_owned(), "uid:0", NOW);
    assert!(first.rotation.as_ref().unwrap().overlaps);
    let done = first.called(&[], NOW).rotated("t1", "1s", NOW).finished();
    let soon = done.begun("s".to_owned(), "uid:0", NOW + OVERLAP);
    assert!(!soon.rotation.as_ref().unwrap().overlaps);
    // What does not overlap does not put off the next one that may.
    let done = soon
        .called(&[], NOW + 9)
        .rotated("t2", "2s", NOW + 9)
        .finished();
    let later = done.begun("t".to_owned(), "uid:0", NOW + OVERLAP + 60);
    assert!(later.rotation.as_ref().unwrap().overlaps);
    assert_eq!(later.done, 2);
}

#[test]
fn the_record_of_an_older_build_is_read_and_its_number_goes_on() {
    let text = r#"{"generation":41,"sha256":"ab"}"#;
    let state: State = serde_json::from_str(text).unwrap();
    let fixed = Seen {
        stored: Some("ab".to_owned()),
        ..Seen::default()
    };
    assert_eq!(next(&state, &fixed, NOW), Action::Publish);
    assert_eq!(state.taken("cd", NOW).generation, 42);
    // A remote has been configured since: it says what the value is called.
    let seen = Seen {
        remote: true,
        published: 41,
        ..fixed
    };
    assert_eq!(next(&state, &seen, NOW), Action::Reveal(Occasion::Unknown));
    let known = state.revealed(&told("t0", "ab", NOW, false));
    assert_eq!((known.generation, known.foreign_count), (41, 0));
    let text = serde_json::to_string(&known.begun("r".to_owned(), "uid:0", NOW)).unwrap();
    assert_eq!(
        serde_json::from_str::<State>(&text).unwrap(),
        known.begun("r".to_owned(), "uid:0", NOW)
    );
}
