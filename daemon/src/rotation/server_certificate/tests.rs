use super::*;

mod crashes;
mod harmless;

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;
const LIFE: u64 = 7 * DAY;

fn leaf(id: &str, issuer: &str, issued_at: u64) -> Leaf {
    Leaf {
        id: id.to_owned(),
        sha256: format!("sha-{id}"),
        serial: format!("serial-{id}"),
        issuer: issuer.to_owned(),
        issued_at,
        not_before: issued_at - 300,
        not_after: issued_at + LIFE,
        rekey_at: issued_at + DAY,
        page_at: issued_at + LIFE * 17 / 20,
        generation: 1,
        foreign: false,
        client_ca: None,
    }
}

fn issuer(name: &str) -> Issuer {
    Issuer {
        sha256: name.to_owned(),
        last_second: NOW + 365 * DAY,
    }
}

/// All is well and nothing is wanted.
fn calm() -> Seen {
    Seen {
        issuer: Some(issuer("ca")),
        lifetime: LIFE,
        serving_usable: true,
        fits: true,
        client_ca_fits: true,
        published: u64::MAX,
        ..Seen::default()
    }
}

fn serving(issued_at: u64) -> State {
    State {
        generation: 1,
        serving: Some(leaf("old", "ca", issued_at)),
        ..State::default()
    }
}

fn witness(acked: u64) -> Witness {
    Witness {
        name: "a".to_owned(),
        connected: true,
        acked,
        refused: None,
        serves: acked,
    }
}

/// The table of rotation.md §5.2, row by row: what is seen in a phase, and the step that follows.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn every_phase_has_its_step() {
    let begun = serving(NOW).begun("new".into(), Cause::Ordered, "uid:0", "ca", NOW);
    let keyed = begun.keyed("1".into());
    let signed = keyed.signed(leaf("new", "ca", NOW));
    let checked = signed.checked(0);
    let published = checked.published();
    let adopted = published.adopted();
    let keys = Seen {
        key_usable: true,
        ..calm()
    };
    let fresh = Seen {
        serial_fresh: true,
        ..keys.clone()
    };
    let both = Seen {
        certificate_usable: true,
        ..keys.clone()
    };
    let acked = Seen {
        witnesses: vec![witness(2)],
        ..calm()
    };
    let waiting = Seen {
        witnesses: vec![witness(1)],
        ..calm()
    };
    let overdue = Seen {
        overdue: true,
        ..waiting.clone()
    };
    let adopt = |missing: &[&str]| Action::Adopt {
        missing: missing.iter().map(|name| (*name).to_owned()).collect(),
    };
    for (state, seen, action) in [
        (&State::default(), &calm(), Action::Begin(Cause::Missing)),
        (&begun, &calm(), Action::MakeKey),
        (&keyed, &fresh, Action::Sign),
        // After a crash: the certificate may be there, and if not the serial number may be used.
        (&keyed, &both, Action::TakeCertificate),
        (&keyed, &keys, Action::DrawSerial),
        (&keyed, &calm(), Action::Abandon("its key is lost")),
        (&signed, &both, Action::Check),
        (&signed, &keys, Action::DrawSerial),
        (&signed, &calm(), Action::Abandon("its key is lost")),
        (&checked, &calm(), Action::Publish),
        (&published, &calm(), adopt(&[])),
        (&published, &acked, adopt(&[])),
        (&published, &waiting, Action::Wait(NOW + 1)),
        (&published, &overdue, adopt(&["a"])),
        (&adopted, &acked, Action::Retire(0)),
        (&adopted.retired(0), &acked, Action::Wait(NOW + DAY)),
    ] {
        assert_eq!(next(state, seen, NOW), action, "{} {seen:?}", state.phase());
    }
    let phases = [&begun, &keyed, &signed, &checked, &published, &adopted];
    let names = phases.map(State::phase);
    assert_eq!(
        names,
        ["begun", "keyed", "signed", "checked", "published", "soak"]
    );
    assert_eq!(published.kept, [leaf("old", "ca", NOW)]);
    assert_eq!(adopted.done, 1);
}

/// I6
#[test]
fn an_earlier_leaf_is_kept_until_every_proxy_in_service_has_the_newer_one() {
    let mut state = serving(NOW);
    state.generation = 2;
    state.serving = Some(Leaf {
        generation: 2,
        ..leaf("new", "ca", NOW)
    });
    state.kept = vec![leaf("old", "ca", NOW), leaf("older", "ca", NOW)];
    let gone = |acked: u64| Witness {
        name: "gone".to_owned(),
        connected: false,
        ..witness(acked)
    };
    for (witnesses, keeps) in [
        (vec![witness(2)], 0),
        (vec![witness(2), gone(2)], 0),
        (vec![witness(1)], 2),
        (vec![witness(2), gone(1)], 2),
        (vec![gone(1)], 2),
        // Nobody is no evidence: one earlier leaf stays.
        (vec![], 1),
    ] {
        let seen = Seen {
            witnesses,
            overdue: true,
            ..calm()
        };
        let action = next(&state, &seen, NOW);
        if keeps == 2 {
            assert!(matches!(action, Action::Wait(_)), "{action:?} {seen:?}");
        } else {
            assert_eq!(action, Action::Retire(keeps), "{seen:?}");
        }
        let ids: Vec<_> = state
            .retired(keeps)
            .kept
            .into_iter()
            .map(|leaf| leaf.id)
            .collect();
        assert_eq!(ids, ["old", "older"][..keeps]);
    }
    // One that is away holds up no rotation.
    let published = serving(NOW)
        .begun("new".into(), Cause::Ordered, "uid:0", "ca", NOW)
        .keyed("1".into())
        .signed(leaf("new", "ca", NOW))
        .checked(0)
        .published();
    let seen = Seen {
        witnesses: vec![gone(1)],
        ..calm()
    };
    let missing = Vec::new();
    assert_eq!(next(&published, &seen, NOW), Action::Adopt { missing });
}

#[test]
fn what_is_in_force_goes_out_first_after_a_start() {
    let idle = serving(NOW);
    let begun = idle.begun("new".into(), Cause::Ordered, "uid:0", "ca", NOW);
    let restarted = Seen {
        published: 0,
        ..calm()
    };
    for state in [&idle, &begun, &begun.keyed("1".into())] {
        assert_eq!(next(state, &restarted, NOW), Action::Republish);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_need_has_its_cause_and_orders_come_first() {
    let state = serving(NOW);
    let begins = |seen: Seen, now: u64| match next(&state, &seen, now) {
        Action::Begin(cause) => Some(cause),
        _ => None,
    };
    assert_eq!(begins(calm(), NOW), None);
    assert_eq!(begins(calm(), NOW + DAY - 1), None);
    assert_eq!(begins(calm(), NOW + DAY), Some(Cause::Scheduled));
    assert_eq!(
        begins(
            Seen {
                ordered: true,
                ..calm()
            },
            NOW
        ),
        Some(Cause::Ordered)
    );
    assert_eq!(
        begins(
            Seen {
                issuer: Some(issuer("next")),
                ..calm()
            },
            NOW
        ),
        Some(Cause::IssuerChanged)
    );
    assert_eq!(
        begins(
            Seen {
                fits: false,
                ..calm()
            },
            NOW
        ),
        Some(Cause::NamesChanged)
    );
    assert_eq!(begins(calm(), NOW - 301), Some(Cause::NotYetValid));
    let lost = Seen {
        serving_usable: false,
        ..calm()
    };
    assert_eq!(begins(lost.clone(), NOW), Some(Cause::Missing));
    // Caps and pauses hold back what nobody ordered, and nothing else.
    let capped = Seen {
        capped: true,
        ..calm()
    };
    assert_eq!(begins(capped.clone(), NOW + DAY), None);
    assert_eq!(
        begins(
            Seen {
                ordered: true,
                ..capped.clone()
            },
            NOW
        ),
        Some(Cause::Ordered)
    );
    assert_eq!(
        begins(
            Seen {
                issuer: Some(issuer("next")),
                ..capped
            },
            NOW
        ),
        Some(Cause::IssuerChanged)
    );
    let paced = Seen {
        paced: true,
        ..calm()
    };
    assert_eq!(begins(paced.clone(), NOW + DAY), None);
    assert_eq!(
        begins(
            Seen {
                ordered: true,
                ..paced
            },
            NOW
        ),
        Some(Cause::Ordered)
    );
    // Without a CA that can sign nothing begins.
    assert_eq!(
        begins(
            Seen {
                issuer: None,
                ordered: true,
                ..lost
            },
            NOW
        ),
        None
    );
}

/// F07
#[test]
fn a_renewal_that_gains_nothing_is_none() {
    let state = serving(NOW);
    let ending = |last_second: u64| Seen {
        issuer: Some(Issuer {
            sha256: "ca".to_owned(),
            last_second,
        }),
        ..calm()
    };
    let now = NOW + DAY;
    let gain = NOW + LIFE + LIFE / 8;
    assert_eq!(
        next(&state, &ending(gain), now),
        Action::Begin(Cause::Scheduled)
    );
    assert!(matches!(
        next(&state, &ending(gain - 1), now),
        Action::Wait(_)
    ));
}

#[test]
fn a_proxy_that_is_ahead_makes_the_generation_jump_and_a_lying_one_does_not() {
    let state = serving(NOW);
    let claims = |serves: u64| Seen {
        witnesses: vec![Witness {
            serves,
            ..witness(0)
        }],
        ..calm()
    };
    let Action::Restore { id, cause, above } = next(&state, &claims(50), NOW) else {
        panic!("it is ahead");
    };
    assert_eq!((id.as_str(), cause, above), ("old", Cause::Renumbered, 50));
    let next_state = state.restored(leaf("old", "ca", NOW), cause, "schedule", above, NOW);
    let published = next_state.published();
    assert_eq!(published.generation, 51);
    assert_eq!(published.serving.as_ref().unwrap().generation, 51);
    assert_eq!(
        published.kept,
        [],
        "the same leaf is not kept beside itself"
    );
    assert!(matches!(
        next(&state, &claims(u64::MAX), NOW),
        Action::Wait(_)
    ));
}

/// I12: while both CAs are trusted a leaf of the one before is beside the one in force, and is renewed under its own.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_fallback_is_beside_the_leaf_in_force_for_as_long_as_one_is_wanted() {
    let before = serving(NOW - 10);
    let begun = before.begun("new".into(), Cause::IssuerChanged, "uid:0", "ca-2", NOW);
    let checked = begun.signed(leaf("new", "ca-2", NOW)).checked(0);
    let beside = checked.beside(Some("ca"), NOW).published().adopted();
    let id = |state: &State| state.fallback.as_ref().map(|leaf| leaf.id.clone());
    assert_eq!(id(&beside).as_deref(), Some("old"));
    assert!(
        beside.retired(0).blobs().contains(&"old"),
        "its key is still needed"
    );
    let wanted = Seen {
        issuer: Some(issuer("ca-2")),
        fallback: Some(issuer("ca")),
        fallback_signs: true,
        witnesses: vec![witness(2)],
        ..calm()
    };
    let unwanted = Seen {
        fallback: None,
        ..wanted.clone()
    };
    let changed = Action::Restore {
        id: "new".to_owned(),
        cause: Cause::FallbackChanged,
        above: 2,
    };
    let retired = beside.retired(0);
    let day = NOW - 10 + DAY;
    let rest = next(&retired, &wanted, NOW);
    assert!(matches!(rest, Action::Wait(_)), "{rest:?}");
    for (name, state, seen, now, action) in [
        (
            "none yet",
            &checked.published().adopted(),
            &wanted,
            NOW,
            changed.clone(),
        ),
        ("due", &retired, &wanted, day, Action::IssueFallback),
        (
            "due, and paced",
            &retired,
            &Seen {
                paced: true,
                ..wanted.clone()
            },
            day,
            Action::Wait(NOW + DAY),
        ),
        (
            "due, and its key is lost",
            &retired,
            &Seen {
                fallback_signs: false,
                ..wanted.clone()
            },
            day,
            Action::Wait(NOW + DAY),
        ),
        (
            "its CA ends before long",
            &retired,
            &Seen {
                fallback: Some(Issuer {
                    last_second: NOW + LIFE,
                    ..issuer("ca")
                }),
                ..wanted.clone()
            },
            day,
            Action::Wait(NOW + DAY),
        ),
        ("unwanted", &retired, &unwanted, NOW, changed.clone()),
        (
            "the leaf in force is replaced first",
            &retired,
            &Seen {
                issuer: Some(issuer("ca-3")),
                ..unwanted.clone()
            },
            NOW,
            Action::Begin(Cause::IssuerChanged),
        ),
        (
            "never switched",
            &before,
            &calm(),
            NOW,
            Action::Wait(NOW - 10 + DAY),
        ),
    ] {
        assert_eq!(next(state, seen, now), action, "{name}");
    }
    let renewed = beside.with_fallback(leaf("other", "ca", day));
    let serving = renewed.serving.clone().unwrap();
    let renewed = renewed.restored(serving, Cause::FallbackChanged, "schedule", 2, day);
    assert_eq!(
        id(&renewed.beside(Some("ca"), day)).as_deref(),
        Some("other")
    );
    assert_eq!(id(&renewed.beside(None, day)), None);
    assert_eq!(
        id(&renewed.beside(Some("ca"), day + LIFE)),
        None,
        "it is over"
    );
}
