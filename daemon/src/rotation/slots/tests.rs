use super::*;

mod harmless;
mod steps;

pub(super) const NOW: u64 = 1_800_000_000;
const YEAR: u64 = 365 * DAY;
const SETTLE: u64 = 900;
const TWO: [&str; 2] = ["one", "two"];

pub(super) fn ca(id: &str) -> Ca {
    Ca {
        id: id.to_owned(),
        sha256: format!("sha-{id}"),
        not_before: NOW - DAY,
        not_after: NOW + YEAR,
    }
}

fn registration(of: &str) -> Registration {
    Registration {
        id: format!("id-{of}"),
        sha256: format!("sha-{of}"),
    }
}

fn stable() -> State {
    let state = State {
        active: Some(ca("a")),
        standby: Some(ca("b")),
        ..State::default()
    };
    state.listed("sha-a", "id-a", NOW).noted(two())
}

fn two() -> BTreeSet<String> {
    TWO.map(str::to_owned).into()
}

fn rotating() -> State {
    stable().rotating("r".to_owned(), "uid:0", Reason::Ordered, NOW)
}

fn settling() -> State {
    rotating().listed("sha-b", "id-b", NOW)
}

/// With another standby, made ahead.
fn switched() -> State {
    let switched = settling().switched_over(NOW);
    switched.begun("c".to_owned(), Role::Standby).made(ca("c"))
}

fn archiving() -> State {
    switched().concluded(NOW)
}

/// The remote lists these, and two replicas have the leaf of `issuer`.
fn seen(listed: &[&str], issuer: &str) -> Seen {
    let served = |name: &str| Served {
        name: name.to_owned(),
        acknowledged: true,
        ..Served::default()
    };
    Seen {
        listing: Some(Listing {
            at: NOW,
            registrations: listed.iter().map(|of| registration(of)).collect(),
        }),
        settle: SETTLE,
        leaf: 7 * DAY,
        settled_issuer: Some(format!("sha-{issuer}")),
        by_itself: true,
        served: TWO.map(served).into(),
        ..Seen::default()
    }
}

fn observed(mut seen: Seen, names: &[&str]) -> Seen {
    for served in &mut seen.served {
        if names.contains(&served.name.as_str()) {
            served.grade = Some(Grade::Observed);
        }
    }
    seen
}

fn proofs(names: &[&str]) -> BTreeMap<String, Grade> {
    let observed = |name: &&str| ((*name).to_owned(), Grade::Observed);
    names.iter().map(observed).collect()
}

/// The list was asked then.
fn at(mut seen: Seen, time: u64) -> Seen {
    if let Some(listing) = &mut seen.listing {
        listing.at = time;
    }
    seen
}

fn suspect(seen: Seen) -> Seen {
    Seen {
        suspect: true,
        ..seen
    }
}

fn ordered(seen: Seen) -> Seen {
    Seen {
        ordered: true,
        ..seen
    }
}

#[test]
fn a_tunnel_whose_verifiers_are_told_by_hand_has_nothing_of_it_in_the_journal() {
    let state = State {
        slots: Slots::default(),
        ..stable()
    };
    assert!(
        !serde_json::to_string(&state.discarded())
            .unwrap()
            .contains("slots")
    );
}

#[test]
fn it_is_due_at_half_life_and_while_six_server_certificates_fit_in() {
    let mut state = stable();
    let half = NOW - DAY + u64::midpoint(YEAR, DAY);
    assert!(!is_due(&state, 7 * DAY, half - DAY));
    assert!(is_due(&state, 7 * DAY, half));
    let active = state.active.as_mut().unwrap();
    (active.not_before, active.not_after) = (NOW - 39 * DAY, NOW + 40 * DAY);
    assert!(is_due(&state, 7 * DAY, NOW));
    assert!(!is_due(&state, 6 * DAY, NOW));
    assert!(
        !is_pressing(&state, 7 * DAY, NOW),
        "of its life there is half"
    );
    let active = state.active.as_mut().unwrap();
    active.not_before = NOW - 300 * DAY;
    let seen = seen(&["a"], "a");
    assert_eq!(next(&state, &seen, NOW), Action::Rotate(Reason::Due));
    let forbidden = Seen {
        by_itself: false,
        ..seen.clone()
    };
    assert_eq!(
        next(&state, &forbidden, NOW),
        Action::Rotate(Reason::Due),
        "its end does not wait for a calendar"
    );
    assert_eq!(
        next(&stable(), &at(forbidden, half), half),
        Action::Wait(half + EVERY)
    );
    let rest = Action::Wait(NOW + EVERY);
    assert_eq!(
        next(&state, &suspect(seen), NOW),
        rest,
        "by a clock that is in doubt"
    );
}

#[test]
fn another_tunnel_at_the_remote_has_none_of_the_registrations_of_the_one_before() {
    let at = |state: &State, id: &str| state.at_remote(Some(id), NOW);
    let known = at(&stable(), "tnl_1");
    assert_eq!(
        known.slots.registered.len(),
        1,
        "an older build wrote no id"
    );
    assert_eq!(at(&known, "tnl_1"), known);
    let moved = at(&known, "tnl_2");
    assert!(moved.slots.registered.is_empty());
    let register = Action::Register(ca("a"));
    assert_eq!(next(&moved, &seen(&[], "a"), NOW), register);
    let settling = at(&at(&settling(), "tnl_1"), "tnl_2");
    assert!(settling.is_in(Phase::Registering));
    let asked = rotating().asking(What::Register, "sha-b", None, NOW);
    assert_eq!(at(&at(&asked, "tnl_1"), "tnl_2").slots.call, None);
    let switched = at(&at(&switched(), "tnl_1"), "tnl_2");
    assert!(switched.is_in(Phase::Switched), "its leaf is out");
    let archiving = at(&at(&archiving(), "tnl_1"), "tnl_2").listed("sha-b", "id-b", NOW);
    let gone = Action::Gone("sha-a".to_owned());
    assert_eq!(next(&archiving, &seen(&["b"], "b"), NOW), gone);
}

#[test]
fn where_verifiers_are_told_by_hand_again_a_rotation_is_a_switch_and_ends_as_one() {
    for state in [stable(), rotating(), settling()] {
        let state = state.at_remote(Some("tnl_1"), NOW).at_remote(None, NOW);
        assert_eq!((&state.slots, &state.switch), (&Slots::default(), &None));
        assert!(state.standby.is_some());
    }
    for state in [switched(), archiving(), archiving().gone("sha-a", NOW)] {
        let state = state.at_remote(Some("tnl_1"), NOW).at_remote(None, NOW);
        assert_eq!(state.slots, Slots::default());
        let seen = crate::rotation::authority::Seen {
            settled_issuer: Some("sha-b".to_owned()),
            acknowledged: true,
            ..Default::default()
        };
        let adopt = crate::rotation::authority::next(&state, &seen, NOW);
        assert_eq!(adopt, crate::rotation::authority::Action::Adopt);
        let retired = state.adopted().retired();
        assert_eq!(retired.retired, Some(ca("a")), "and its key goes");
    }
}

/// I12: what was begun by hand is brought to its end by the remote.
#[test]
fn what_was_trusted_by_hand_is_taken_over_and_archived_after_proof() {
    let by_hand = State {
        slots: Slots::default(),
        ..stable()
    };
    let switching = by_hand.switched("s".to_owned(), "uid:0", NOW);
    for state in [switching.clone(), switching.adopted().retired()] {
        assert_eq!(next(&state, &Seen::default(), NOW), Action::TakeOver);
        let taken = state.taken_over("t".to_owned(), NOW);
        assert_eq!((&taken.old, &taken.retired), (&Some(ca("a")), &None));
        assert_eq!(taken.switch, None);
        assert!(taken.is_in(Phase::Switched));
    }
}

#[test]
fn a_second_registration_of_one_ca_is_archived_and_never_the_one_that_is_journalled() {
    let second = Registration {
        id: "id-again".to_owned(),
        ..registration("a")
    };
    for order in [
        [registration("a"), second.clone()],
        [second.clone(), registration("a")],
    ] {
        let listing = Listing {
            at: NOW,
            registrations: order.to_vec(),
        };
        let seen = Seen {
            listing: Some(listing),
            ..seen(&[], "a")
        };
        assert_eq!(next(&stable(), &seen, NOW), Action::Archive(second.clone()));
    }
}

#[test]
fn a_few_alerts_are_chance_and_a_share_that_grew_is_not() {
    let tally = |completed, alerts| Tally { completed, alerts };
    for (new, old, against) in [
        (tally(0, 19), tally(100, 0), false),
        (tally(0, 20), tally(100, 0), true),
        (tally(95, 5), tally(100, 0), false),
        (tally(94, 6), tally(100, 0), true),
        (tally(84, 16), tally(90, 10), true),
        (tally(85, 15), tally(90, 10), false),
        (tally(94, 6), tally(9, 10), true),
        (Tally::default(), Tally::default(), false),
    ] {
        assert_eq!(speaks_against(new, old), against, "{new:?} after {old:?}");
    }
}

/// §5.3a: it holds and alarms, and does not roll back.
#[test]
fn callers_who_refuse_the_new_ca_hold_up_the_archiving_and_nothing_else() {
    let proven = switched().proven(&proofs(&["one", "two"]));
    let mut seen = Seen {
        settle: 0,
        ..seen(&["a", "b"], "b")
    };
    assert_eq!(next(&proven, &seen, NOW), Action::Conclude);
    seen.served[1].new = Tally {
        completed: 30,
        alerts: 10,
    };
    assert_eq!(next(&proven, &seen, NOW), Action::Wait(NOW + 1));
    let said = alarms(&proven, &seen, NOW);
    assert!(
        said[0].starts_with("callers refuse the new CA more often"),
        "{said:?}"
    );
    assert_eq!(
        next(&proven.accepted("uid:0"), &seen, NOW),
        Action::Conclude
    );
}

#[test]
fn nobody_in_service_is_no_proof_and_somebody_may_answer_for_it() {
    let nobody = Seen {
        served: Vec::new(),
        settle: 0,
        ..seen(&["a", "b"], "b")
    };
    assert_eq!(next(&switched(), &nobody, NOW), Action::Wait(NOW + 1));
    assert_eq!(
        next(&switched().accepted("uid:0"), &nobody, NOW),
        Action::Conclude
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn what_needs_a_person_is_said() {
    let gone = Seen {
        listing: None,
        ..seen(&[], "a")
    };
    let asked = rotating()
        .asking(What::Register, "sha-b", None, NOW)
        .answered("id-b");
    let going = archiving()
        .asking(What::Archive, "sha-a", Some("id-a".to_owned()), NOW)
        .answered("id-a");
    for (state, seen, now, said) in [
        (stable(), seen(&["a"], "a"), NOW, vec![]),
        (stable(), gone, NOW, vec![]),
        (
            stable(),
            seen(&["a", "x"], "a"),
            NOW,
            vec![
                "CONFLICT: the remote lists a CA of this tunnel that this daemon did not make: id-x (sha256 sha-x)",
            ],
        ),
        (
            stable(),
            ordered(seen(&["a", "x"], "a")),
            NOW,
            vec!["CONFLICT", "WAIT_SLOT: both slots"],
        ),
        (
            rotating(),
            seen(&["a", "x"], "a"),
            NOW,
            vec!["CONFLICT", "WAIT_SLOT"],
        ),
        (
            stable(),
            seen(&[], "a"),
            NOW,
            vec!["LOST: the remote does not list the CA in force"],
        ),
        (asked.clone(), seen(&["a"], "a"), NOW + LAG - 1, vec![]),
        (
            asked,
            seen(&["a"], "a"),
            NOW + LAG,
            vec!["the remote says that it registered a CA as id-b"],
        ),
        (
            going,
            seen(&["a", "b"], "b"),
            NOW + LAG,
            vec!["the CA before is to be archived, and the remote lists it still"],
        ),
        (
            settling().rolling_back("of that", NOW),
            seen(&["a"], "a"),
            NOW,
            vec!["the rotation of the CA is rolled back: of that"],
        ),
        (switched(), seen(&["a", "b"], "b"), NOW + DAY - 1, vec![]),
        (
            switched().proven(&proofs(&["one"])),
            seen(&["a", "b"], "b"),
            NOW + 3 * DAY,
            vec![
                "both slots of the remote have been held for 3 days, and the CA before ends in 362 days: nobody has called two yet",
            ],
        ),
        (
            stable(),
            seen(&["a"], "a"),
            NOW + YEAR - DAY,
            vec!["the CA expires in less than 3 days; order"],
        ),
    ] {
        let alarms = alarms(&state, &seen, now);
        assert_eq!(alarms.len(), said.len(), "{alarms:?} for {said:?}");
        for (alarm, said) in alarms.iter().zip(said) {
            assert!(alarm.starts_with(said), "{alarm} for {said}");
        }
    }
}
