//! What needs a person.

use super::{LAG, Listed, Phase, Remote, Seen, State, everybody, is_ours, missing};

/// A rotation that has not come further for this long is told of, seconds.
const LATE: u64 = 600;
/// Those who were cut are told of for this long, seconds.
const REMEMBERED: u64 = 86_400;

/// One sentence each. The remote is believed however old its list is.
pub fn alarms(state: &State, seen: &Seen, now: u64) -> Vec<String> {
    let mut alarms = Vec::new();
    alarms.extend(waiting(state, seen, now));
    if let Some(remote) = &seen.remote {
        alarms.extend(foreign(state, remote));
        alarms.extend(bound(state, seen, remote, now));
    }
    if let Some(cut) = &state.strangers
        && now.abs_diff(cut.at) < REMEMBERED
    {
        alarms.extend(cut.holders.iter().map(|holder| {
            format!(
                "unknown_holder: {:?} at {} was connected with the old shared secret (edge {}), is no proxy in service, and was cut: find out who it is",
                holder.replica, holder.address, holder.instance
            )
        }));
    }
    alarms
}

/// Who or what holds the rotation up.
fn waiting(state: &State, seen: &Seen, now: u64) -> Option<String> {
    let rotation = state.rotation.as_ref()?;
    let minutes = now.saturating_sub(rotation.began) / 60;
    if now.saturating_sub(rotation.began) < LATE {
        return None;
    }
    let generation = state.presented().map_or(0, |secret| secret.generation);
    let told = rotation.phase >= Phase::Published;
    if !told {
        let why = "the remote has not taken the new one";
        return Some(format!(
            "the rotation of the shared secret waits for {minutes} min: {why}"
        ));
    }
    if everybody(state, seen, generation) {
        return None;
    }
    let behind = seen
        .dialers
        .iter()
        .filter(|dialer| dialer.acked < generation);
    let names = behind.map(|dialer| &dialer.name);
    let names: Vec<&str> = names
        .chain(missing(state, seen))
        .map(String::as_str)
        .collect();
    let why = if names.is_empty() {
        "no proxy that dials is in service".to_owned()
    } else {
        format!("not every connection of {} stands on it", names.join(", "))
    };
    Some(format!(
        "the new shared secret is out for {minutes} min and the old one stays: {why}"
    ))
}

/// What somebody else added.
fn foreign(state: &State, remote: &Remote) -> Vec<String> {
    let ours = |listed: &&Listed| {
        let mut known = state.active.iter().chain(state.new_one());
        known.any(|secret| secret.sha256 == listed.sha256) || state.retired.contains(&listed.sha256)
    };
    let foreign = remote.secrets.iter().filter(|listed| !ours(listed));
    let sentence = |listed: &Listed| {
        format!(
            "CONFLICT: the remote takes the shared secret {}, sha256 {}, which is not of this daemon; it is never archived here: do that yourself if nobody needs it, for it takes a slot",
            listed.id, listed.sha256
        )
    };
    foreign.map(sentence).collect()
}

/// Who is bound to the old one and not ours.
fn bound(state: &State, seen: &Seen, remote: &Remote, now: u64) -> Vec<String> {
    let (Some(rotation), Some(old)) = (&state.rotation, &state.active) else {
        return Vec::new();
    };
    let Some(listed) = remote.find(old).filter(|_| rotation.phase >= Phase::Quiet) else {
        return Vec::new();
    };
    let over = now >= rotation.quiet_since.saturating_add(LAG);
    let unknown = listed
        .live
        .iter()
        .filter(|holder| over || !is_ours(state, seen, holder));
    unknown
        .map(|holder| {
            format!(
                "unknown_holder: {:?} at {} is connected with the old shared secret (edge {}) and is no proxy in service; it is cut when the old one is archived",
                holder.replica, holder.address, holder.instance
            )
        })
        .collect()
}
