//! Lists of the remote that are of others, late or wrong.

use super::*;

/// F42: none, one and two slots of somebody else.
#[test]
fn where_both_slots_are_somebody_elses_nothing_is_archived_and_one_that_is_emptied_is_taken() {
    let mut case = Case::new();
    let theirs = ["x", "y"].map(|id| (format!("tcrt_{id}"), id.repeat(64)));
    case.slots.listed = theirs.to_vec();
    case.settle();
    case.pass(HOUR);
    assert!(case.alarms().contains("WAIT_SLOT"), "{}", case.alarms());
    assert_eq!(case.slots.listed, theirs);
    case.slots.listed.remove(0);
    case.pass(HOUR);
    let registered = case.slots.fingerprints();
    assert!(registered.contains(&&*case.in_force()) && registered.len() == 2);
    assert!(case.slots.archived.is_empty());
}

#[test]
fn a_remote_that_lists_what_it_denies_is_an_alarm_and_asked_ever_more_rarely() {
    let mut case = Case::stable();
    case.slots.denies = true;
    case.rotate();
    case.pass(SETTLE);
    case.follow();
    case.report(1, 0);
    case.pass(SETTLE);
    for _ in 0..240 {
        case.pass(15);
    }
    let asked = case.slots.archived.len();
    assert!((2..=20).contains(&asked), "{asked} times in an hour");
    assert_eq!(
        (case.ca().phase.as_str(), case.slots.listed.len()),
        ("archiving", 2)
    );
    assert!(case.alarms().contains("there is none"), "{}", case.alarms());
    // It goes on as soon as it can.
    case.slots.denies = false;
    for _ in 0..40 {
        case.pass(15);
    }
    assert_eq!(case.ca().phase, "archived");
}

#[test]
fn a_list_that_lags_behind_an_archive_does_not_repeat_it() {
    let mut case = Case::stable();
    case.slots.lags = true;
    case.rotate();
    case.pass(SETTLE);
    case.follow();
    case.report(1, 0);
    case.pass(SETTLE);
    for _ in 0..61 {
        case.pass(15);
    }
    assert_eq!(case.slots.archived.len(), 1);
    assert_eq!(case.ca().phase, "archiving");
    assert!(
        case.alarms().contains("lists it still"),
        "{}",
        case.alarms()
    );
    case.slots.lags = false;
    case.slots.listed.remove(1);
    for _ in 0..40 {
        case.pass(15);
    }
    assert_eq!(
        (case.slots.archived.len(), case.ca().phase.as_str()),
        (1, "archived")
    );
}
