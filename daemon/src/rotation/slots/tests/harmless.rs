//! Whatever is journalled and seen, nothing dangerous is decided.

use super::*;

/// Every state, everything that can be seen, many times: nothing destroys without reason.
#[test]
fn no_combination_of_state_sight_and_time_decides_something_dangerous() {
    let states = [
        State::default(),
        State::default().begun("a".to_owned(), Role::Active),
        stable(),
        stable().discarded(),
        rotating(),
        rotating().discarded(),
        rotating().asking(What::Register, "sha-b", None, NOW),
        settling(),
        settling().discarded(),
        settling().rolling_back("why", NOW),
        settling().rolling_back("why", NOW).discarded(),
        switched(),
        switched().proven(&proofs(&["one", "two"])),
        switched().accepted("uid:0"),
        archiving(),
        archiving().asking(What::Archive, "sha-a", Some("id-a".to_owned()), NOW),
        archiving().gone("sha-a", NOW),
        archiving().gone("sha-a", NOW).let_go(),
    ];
    let lists: [&[&str]; 8] = [
        &[],
        &["a"],
        &["b"],
        &["x"],
        &["a", "b"],
        &["a", "x"],
        &["b", "x"],
        &["x", "y"],
    ];
    for (state, listed) in states
        .iter()
        .flat_map(|state| lists.map(|listed| (state, listed)))
    {
        for bits in 0..256_u32 {
            let bit = |place: u32| bits >> place & 1 == 1;
            let names: &[&str] = if bit(0) { &["one", "two"] } else { &["one"] };
            let mut seen = observed(seen(listed, if bit(1) { "a" } else { "b" }), names);
            seen.ordered = bit(2);
            seen.suspect = bit(3);
            seen.fallback = bit(4);
            seen.calling = bit(5);
            seen.served[1].acknowledged = bit(6);
            seen.settle = if bit(7) { 0 } else { SETTLE };
            for now in [
                0,
                NOW - YEAR,
                NOW,
                NOW + FRESH - 1,
                NOW + YEAR / 2,
                NOW + YEAR,
            ] {
                judge(state, &seen, now);
            }
        }
    }
}

fn judge(state: &State, seen: &Seen, now: u64) {
    let active = state.active.as_ref().map(|ca| ca.sha256.as_str());
    let listed = |sha256: &str| {
        let listing = seen
            .listing
            .iter()
            .flat_map(|listing| &listing.registrations);
        listing.filter(|one| one.sha256 == sha256).count() > 0
    };
    alarms(state, seen, now);
    match next(state, seen, now) {
        Action::Archive(one) => {
            assert!(!seen.suspect && !seen.calling);
            assert!(listed(active.unwrap()), "the CA in force has to be listed");
            assert_ne!(Some(one.sha256.as_str()), active);
            assert!(
                ["sha-a", "sha-b"].contains(&one.sha256.as_str()),
                "a stranger's"
            );
            if state
                .old
                .as_ref()
                .is_some_and(|old| old.sha256 == one.sha256)
            {
                assert!(state.is_in(Phase::Archiving));
            }
        }
        Action::Register(ca) => {
            assert!(!seen.calling && !listed(&ca.sha256));
            let count = seen
                .listing
                .as_ref()
                .map_or(0, |listing| listing.registrations.len());
            assert!(count < SLOTS);
        }
        Action::SwitchOver => {
            assert!(!seen.suspect && listed("sha-b") && state.is_in(Phase::Settling));
        }
        Action::Conclude => {
            assert!(!seen.suspect && seen.served.iter().all(|served| served.acknowledged));
            assert!(listed(active.unwrap()) && state.is_in(Phase::Switched));
        }
        Action::Retire => {
            assert!(!seen.suspect && !seen.fallback && state.is_in(Phase::Archived));
        }
        Action::Discard => assert!(!seen.suspect && state.slots.rotation.is_none()),
        Action::RolledBack => assert!(!listed("sha-b") || state.standby.is_none()),
        _ => {}
    }
}
