//! Every combination of state, sight and time, and what must never be decided in any of them.

use super::*;

/// Every state that a few steps lead to, with everything that can be seen, at many times: what is
/// decided is never dangerous. Total, since nothing panics.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn no_combination_of_state_sight_and_time_decides_something_dangerous() {
    let idle = serving(NOW);
    let begun = idle.begun("new".into(), Cause::Scheduled, "schedule", "ca", NOW);
    let keyed = begun.keyed("1".into());
    let signed = keyed.signed(leaf("new", "ca", NOW));
    let checked = signed.checked(0);
    let published = checked.published();
    let adopted = published.adopted();
    let back = adopted.restored(
        leaf("old", "ca", NOW),
        Cause::NotYetValid,
        "schedule",
        0,
        NOW,
    );
    let states = [
        State::default(),
        State::default().begun("new".into(), Cause::Missing, "schedule", "ca", NOW),
        idle,
        begun,
        keyed,
        signed,
        checked,
        published,
        adopted,
        back.clone(),
        back.published(),
    ];
    let year = 365 * DAY;
    let times = [
        0,
        1,
        NOW - year,
        NOW - 301,
        NOW - 300,
        NOW - 1,
        NOW,
        NOW + 1,
        NOW + HARD_DEADLINE,
        NOW + HARD_DEADLINE + 1,
        NOW + DAY,
        NOW + LIFE,
        NOW + LIFE + 1,
        NOW + year,
    ];
    let mut decided = 0;
    for state in &states {
        for bits in 0..1_u32 << 14 {
            for issuer in [None, Some(issuer("ca")), Some(issuer("next"))] {
                let bit = |place: u32| bits >> place & 1 == 1;
                let mut witnesses = vec![witness(if bit(10) { 2 } else { 1 })];
                if bit(11) {
                    witnesses[0].refused = Some((2, Reason::Expired));
                }
                let seen = Seen {
                    issuer,
                    lifetime: LIFE,
                    serving_usable: bit(0),
                    fits: bit(1),
                    client_ca_fits: bit(12),
                    restorable: vec!["old".to_owned()],
                    key_usable: bit(2),
                    certificate_usable: bit(3),
                    serial_fresh: bit(4),
                    published: if bit(5) { u64::MAX } else { 0 },
                    witnesses,
                    overdue: bit(6),
                    ordered: bit(7),
                    paced: bit(8),
                    capped: bit(9),
                    suspect: bit(13),
                    // Tied to what it has nothing to do with, so that there are not four times as many.
                    fallback: bit(7).then(|| super::issuer("ca")),
                    fallback_signs: bit(6),
                };
                for now in times {
                    assert_harmless(state, &seen, now);
                    decided += 1;
                }
            }
        }
    }
    assert_eq!(decided, states.len() * (3 << 14) * times.len());
}

fn assert_harmless(state: &State, seen: &Seen, now: u64) {
    let action = next(state, seen, now);
    let phase = state.rotation.as_ref().map(|rotation| rotation.phase);
    let here = || format!("{} {action:?} {now} {seen:?}", state.phase());
    match &action {
        // I6: only with nothing in flight, and a clock that can be believed.
        Action::Retire(keep) => {
            assert!(phase.is_none() && !seen.suspect, "{}", here());
            let serving = state.serving.as_ref().map_or(0, |leaf| leaf.generation);
            let all = seen
                .witnesses
                .iter()
                .all(|witness| witness.acked >= serving);
            assert!(
                all && (*keep > 0 || !seen.witnesses.is_empty()),
                "{}",
                here()
            );
        }
        // I7: nothing goes out unchecked.
        Action::Publish => assert_eq!(phase, Some(Phase::Checked), "{}", here()),
        Action::Check => assert!(seen.certificate_usable && seen.key_usable, "{}", here()),
        // F45: never with a number that may be used.
        Action::Sign => assert!(seen.serial_fresh && seen.key_usable, "{}", here()),
        // I9, I12
        Action::Begin(cause) => {
            assert!(phase.is_none() && seen.issuer.is_some(), "{}", here());
            let free = matches!(
                cause,
                Cause::Ordered | Cause::IssuerChanged | Cause::ClientCaChanged
            );
            assert!(free || !seen.capped, "{}", here());
            assert!(*cause == Cause::Ordered || !seen.paced, "{}", here());
        }
        // What comes back is good now, or is in force already.
        Action::Restore { id, .. } => {
            let kept = state.kept.iter().find(|leaf| leaf.id == *id);
            let serving = state.serving.as_ref().filter(|leaf| leaf.id == *id);
            let good = kept.is_some_and(|leaf| leaf.is_valid_at(now));
            assert!(good || serving.is_some(), "{}", here());
        }
        Action::Republish => assert!(seen.serving_usable && state.serving.is_some(), "{}", here()),
        // What may be out is finished, never given up.
        Action::Abandon(_) => assert!(phase < Some(Phase::Checked), "{}", here()),
        Action::Adopt { .. } => assert_eq!(phase, Some(Phase::Published), "{}", here()),
        _ => {}
    }
}
