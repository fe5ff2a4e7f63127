//! What needs a person, one sentence each.

use super::{
    DAY, LAG, Listing, Phase, Rotation, SLOTS, Seen, State, What, is_due, is_held, is_ours,
    is_proven, unproven,
};
use crate::rotation::authority::urgent;

/// What to do about a CA that ends before long.
const NEXT: &str =
    "order: keyward rotate ca, or see in the other alarms what holds its rotation up";

/// What needs a person, one sentence each.
pub fn alarms(state: &State, seen: &Seen, now: u64) -> Vec<String> {
    let Some(active) = &state.active else {
        return Vec::new();
    };
    let mut alarms: Vec<String> = urgent(active, now, NEXT).into_iter().collect();
    if let Some(listing) = &seen.listing {
        slots(&mut alarms, state, seen, listing, now);
    }
    if let Some(rotation) = &state.slots.rotation {
        in_flight(&mut alarms, state, rotation, seen, now);
    }
    alarms
}

/// What the list shows that should not be so.
fn slots(alarms: &mut Vec<String>, state: &State, seen: &Seen, listing: &Listing, now: u64) {
    let all = &listing.registrations;
    let is_listed = |sha256: &str| all.iter().any(|one| one.sha256 == sha256);
    let strangers = all.iter().filter(|one| !is_ours(state, &one.sha256));
    let strangers: Vec<String> = strangers
        .map(|one| format!("{} (sha256 {})", one.id, one.sha256))
        .collect();
    if !strangers.is_empty() {
        alarms.push(format!(
            "CONFLICT: the remote lists a CA of this tunnel that this daemon did not make: {}; whoever has its key can \
             answer for the tunnel; it is not archived here: find out whose it is, and archive it at the remote if nobody needs it",
            strangers.join(", ")
        ));
    }
    let Some(active) = &state.active else {
        return;
    };
    let lacks = !is_listed(&active.sha256);
    if lacks && state.slots.registered.contains_key(&active.sha256) {
        alarms.push(
            "LOST: the remote does not list the CA in force any more, so its verifiers refuse the tunnel; if nobody meant \
             that, register ca.crt of the store there again, otherwise run: keyward rotate ca"
                .to_owned(),
        );
    }
    let registering = state.is_in(Phase::Registering);
    let waits = registering || seen.ordered || is_due(state, seen.leaf, now);
    let needs = lacks || waits && !state.is_in(Phase::Switched);
    if needs && !strangers.is_empty() && all.len() >= SLOTS {
        alarms.push(
            "WAIT_SLOT: both slots of the remote are taken, so no CA can be registered until one is archived there"
                .to_owned(),
        );
    }
    if let Some(call) = state.slots.call.as_ref().filter(|call| call.done)
        && let Some(id) = &call.id
        && now.abs_diff(call.asked) >= LAG
        && call.what == What::Register
        && !is_listed(&call.sha256)
    {
        alarms.push(format!(
            "the remote says that it registered a CA as {id}, and does not list it: ask whoever runs the remote"
        ));
    }
    if let (Some(rotation), Some(old)) = (&state.slots.rotation, &state.old)
        && rotation.phase == Phase::Archiving
        && now.abs_diff(rotation.since) >= LAG
        && is_listed(&old.sha256)
    {
        alarms.push(
            "the CA before is to be archived, and the remote lists it still: see in the log what it says, and ask whoever runs it"
                .to_owned(),
        );
    }
}

/// What holds a rotation up.
fn in_flight(alarms: &mut Vec<String>, state: &State, rotation: &Rotation, seen: &Seen, now: u64) {
    if let Some(why) = &rotation.failure {
        alarms.push(format!("the rotation of the CA is rolled back: {why}"));
    }
    if rotation.phase == Phase::Switched && rotation.accepted.is_none() && is_held(&seen.served) {
        alarms.push(
            "callers refuse the new CA more often than the one before, which is therefore not archived: find those who do \
             not know the new one, or run: keyward rotate ca --accept-unproven"
                .to_owned(),
        );
    }
    let Some(old) = state
        .old
        .as_ref()
        .filter(|_| rotation.phase == Phase::Switched)
    else {
        return;
    };
    let days = now.saturating_sub(rotation.since) / DAY;
    if days > 0 && !is_proven(state, rotation, seen) {
        let missing: Vec<String> = unproven(state, rotation, seen).into_iter().collect();
        let whom = if missing.is_empty() {
            "no proxy is in service".to_owned()
        } else {
            format!("nobody has called {} yet", missing.join(", "))
        };
        alarms.push(format!(
            "both slots of the remote have been held for {days} days, and the CA before ends in {} days: {whom} under the \
             new CA; call them, or run: keyward rotate ca --accept-unproven",
            old.not_after.saturating_sub(now) / DAY
        ));
    }
}
