//! The step of every phase.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_phase_has_its_step() {
    let asked = rotating().asking(What::Register, "sha-b", None, NOW);
    let archived = archiving().gone("sha-a", NOW);
    let proven = switched().proven(&proofs(&["one", "two"]));
    let going = archiving().asking(What::Archive, "sha-a", Some("id-a".to_owned()), NOW);
    let back = settling().rolling_back("why", NOW);
    let unregistered = State {
        slots: Slots::default(),
        ..stable()
    }
    .noted(two());
    let late = NOW + LATE;
    let (rest, soon) = (Action::Wait(NOW + EVERY), Action::Wait(NOW + 1));
    let fallback = Seen {
        fallback: true,
        ..seen(&["b"], "b")
    };
    let steps = vec![
        (
            "nothing",
            State::default().noted(two()),
            seen(&[], ""),
            NOW,
            Action::Begin(Role::Active),
        ),
        (
            "not asked yet",
            stable(),
            Seen::default(),
            NOW,
            Action::List,
        ),
        (
            "an old list",
            stable(),
            seen(&["a"], "a"),
            NOW + EVERY,
            Action::List,
        ),
        ("rest", stable(), seen(&["a"], "a"), NOW, rest.clone()),
        (
            "never registered",
            unregistered.clone(),
            seen(&[], "a"),
            NOW,
            Action::Register(ca("a")),
        ),
        (
            "known there",
            unregistered.clone(),
            seen(&["a"], "a"),
            NOW,
            Action::Listed(registration("a")),
        ),
        (
            "both taken",
            unregistered,
            seen(&["x", "y"], "a"),
            NOW,
            rest.clone(),
        ),
        (
            "another name",
            stable(),
            Seen {
                listing: Some(Listing {
                    at: NOW,
                    registrations: vec![Registration {
                        id: "id-2".to_owned(),
                        ..registration("a")
                    }],
                }),
                ..seen(&[], "a")
            },
            NOW,
            Action::Listed(Registration {
                id: "id-2".to_owned(),
                ..registration("a")
            }),
        ),
        (
            "a stranger",
            stable(),
            seen(&["a", "x"], "a"),
            NOW,
            rest.clone(),
        ),
        (
            "no room",
            stable(),
            ordered(seen(&["a", "x"], "a")),
            NOW,
            rest.clone(),
        ),
        ("lost", stable(), seen(&[], "a"), NOW, rest.clone()),
        (
            "lost, and ordered",
            stable(),
            ordered(seen(&[], "a")),
            NOW,
            Action::Rotate(Reason::Ordered),
        ),
        (
            "ordered",
            stable(),
            ordered(seen(&["a"], "a")),
            NOW,
            Action::Rotate(Reason::Ordered),
        ),
        (
            "ordered, on an old list",
            stable(),
            ordered(seen(&["a"], "a")),
            NOW + FRESH,
            Action::List,
        ),
        ("due", stable(), seen(&["a"], "a"), NOW, rest.clone()),
        (
            "begun",
            rotating(),
            seen(&["a"], "a"),
            NOW,
            Action::Register(ca("b")),
        ),
        ("asked", asked.clone(), seen(&["a"], "a"), NOW, soon.clone()),
        (
            "asked, and there",
            asked.clone(),
            seen(&["a", "b"], "a"),
            NOW,
            Action::Listed(registration("b")),
        ),
        (
            "asked, and not there",
            asked.clone(),
            seen(&["a"], "a"),
            late,
            Action::List,
        ),
        (
            "answered, and not there",
            asked.answered("id-b"),
            seen(&["a"], "a"),
            NOW + 29,
            Action::Wait(NOW + 30),
        ),
        (
            "answered, not there, and looked at again",
            asked.answered("id-b"),
            seen(&["a"], "a"),
            late,
            Action::List,
        ),
        (
            "a standby of a time to come, as a clock that was ahead makes them",
            State {
                standby: Some(Ca {
                    not_before: NOW + DAY,
                    ..ca("b")
                }),
                ..stable()
            },
            seen(&["a"], "a"),
            NOW,
            Action::Discard,
        ),
        (
            "the same, registered",
            State {
                standby: Some(Ca {
                    not_before: NOW + DAY,
                    ..ca("b")
                }),
                ..settling()
            },
            seen(&["a", "b"], "a"),
            NOW,
            Action::RollBack("the standby CA was made while the clock was ahead"),
        ),
        (
            "no slot",
            rotating(),
            seen(&["a", "x"], "a"),
            NOW,
            rest.clone(),
        ),
        (
            "no slot for a day",
            rotating(),
            Seen {
                listing: Some(Listing {
                    at: NOW + DAY,
                    registrations: vec![registration("a"), registration("x")],
                }),
                ..seen(&[], "a")
            },
            NOW + DAY,
            Action::RollBack("the standby CA was not registered within a day"),
        ),
        (
            "listed",
            settling(),
            seen(&["a", "b"], "a"),
            NOW,
            Action::Wait(NOW + SETTLE),
        ),
        (
            "taken out by hand",
            settling(),
            seen(&["a"], "a"),
            NOW,
            Action::RollBack("somebody archived the standby CA"),
        ),
        (
            "rolled back",
            back.clone(),
            seen(&["a", "b"], "a"),
            NOW,
            Action::Archive(registration("b")),
        ),
        (
            "rolled back, cur gone",
            back.clone(),
            seen(&["b"], "a"),
            NOW,
            rest.clone(),
        ),
        (
            "rolled back, in doubt",
            back.clone(),
            suspect(seen(&["a", "b"], "a")),
            NOW,
            soon.clone(),
        ),
        (
            "rolled back and out",
            back,
            seen(&["a"], "a"),
            NOW,
            Action::RolledBack,
        ),
        (
            "switched",
            switched(),
            seen(&["a", "b"], "a"),
            NOW,
            soon.clone(),
        ),
        (
            "one call",
            switched(),
            observed(seen(&["a", "b"], "b"), &["one"]),
            NOW,
            Action::Prove(proofs(&["one"])),
        ),
        (
            "one proven",
            switched().proven(&proofs(&["one"])),
            seen(&["a", "b"], "b"),
            NOW,
            soon.clone(),
        ),
        (
            "proven",
            proven.clone(),
            seen(&["a", "b"], "b"),
            NOW,
            Action::Wait(NOW + SETTLE),
        ),
        (
            "proven, not followed",
            proven.clone(),
            seen(&["a", "b"], "a"),
            NOW,
            soon.clone(),
        ),
        (
            "accepted",
            switched().accepted("uid:0"),
            Seen {
                settle: 0,
                ..seen(&["a", "b"], "b")
            },
            NOW,
            Action::Conclude,
        ),
        (
            "in doubt",
            proven.clone(),
            suspect(Seen {
                settle: 0,
                ..seen(&["a", "b"], "b")
            }),
            NOW,
            soon.clone(),
        ),
        (
            "nxt is gone",
            proven.clone(),
            Seen {
                settle: 0,
                ..seen(&["a"], "b")
            },
            NOW,
            soon.clone(),
        ),
        (
            "concluded",
            archiving(),
            seen(&["a", "b"], "b"),
            NOW,
            Action::Archive(registration("a")),
        ),
        (
            "concluded, nxt is gone",
            archiving(),
            seen(&["a"], "b"),
            NOW,
            soon.clone(),
        ),
        (
            "archived, and there, as a list may say for a while",
            going.clone(),
            seen(&["a", "b"], "b"),
            NOW,
            soon.clone(),
        ),
        (
            "archived, and there when the call never arrived",
            going.clone(),
            at(seen(&["a", "b"], "b"), late),
            late,
            Action::Archive(registration("a")),
        ),
        (
            "the remote says that it is archived, and lists it",
            going.answered("id-a"),
            at(seen(&["a", "b"], "b"), late),
            late,
            Action::Wait(late + 1),
        ),
        (
            "the same for an hour",
            going.answered("id-a"),
            at(seen(&["a", "b"], "b"), NOW + EVERY),
            NOW + EVERY,
            Action::Archive(registration("a")),
        ),
        (
            "called by a process that has just ended",
            going.clone(),
            Seen {
                young: true,
                ..at(seen(&["a", "b"], "b"), late)
            },
            late,
            Action::Wait(late + 1),
        ),
        (
            "archived, and gone",
            going,
            seen(&["b"], "b"),
            NOW,
            Action::Gone("sha-a".to_owned()),
        ),
        (
            "somebody else did",
            archiving(),
            seen(&["b"], "b"),
            NOW,
            Action::Gone("sha-a".to_owned()),
        ),
        (
            "with a fallback",
            archived.clone(),
            fallback,
            NOW,
            soon.clone(),
        ),
        (
            "in doubt",
            archived.clone(),
            suspect(seen(&["b"], "b")),
            NOW,
            soon.clone(),
        ),
        (
            "withdrawn",
            archived.clone(),
            seen(&["b"], "b"),
            NOW,
            Action::Retire,
        ),
        (
            "over",
            archived.let_go(),
            seen(&["b"], "b"),
            NOW,
            rest.clone(),
        ),
        (
            "comes back",
            archived.let_go(),
            seen(&["a", "b"], "b"),
            NOW,
            Action::Listed(registration("a")),
        ),
    ];
    for (name, state, seen, now, action) in steps {
        assert_eq!(next(&state, &seen, now), action, "{name}");
        let paced = Seen {
            paced: true,
            ..seen.clone()
        };
        assert_eq!(next(&state, &paced, now), Action::Wait(now + 1), "{name}");
        let read = JsonState::there_and_back(&state);
        assert_eq!(
            next(&read, &seen, now),
            action,
            "{name}, read from the journal"
        );
        alarms(&state, &seen, now);
    }
}

/// As the journal has it.
struct JsonState;

impl JsonState {
    fn there_and_back(state: &State) -> State {
        serde_json::from_str(&serde_json::to_string(state).unwrap()).unwrap()
    }
}
