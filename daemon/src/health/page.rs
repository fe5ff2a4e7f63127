//! Families of the metrics page, as `rotation.md` 5.8 names them, with the prefix `keyward_`.

use control::{Resource, Role};
use process::metrics::Exposition;

use crate::board::Replicas;
use crate::remote::{Call, Outcome, Remote};
use crate::status::{Status, seconds_left};

pub(super) fn generations(page: &mut Exposition, status: &Status, replicas: &Replicas) {
    let name = "keyward_cred_generation";
    page.family(
        name,
        "gauge",
        "Generation published, and the lowest that a connected replica reports.",
    );
    for (tunnel, one) in &status.tunnels {
        let labels = |kind, place| {
            [
                ("tunnel", tunnel.as_str()),
                ("kind", kind),
                ("where", place),
            ]
        };
        let leaf = "server-certificate";
        page.sample(name, &labels(leaf, "journal"), one.generation);
        let lowest = reports(replicas, tunnel)
            .map(|report| report.generation)
            .min();
        if let Some(lowest) = lowest {
            page.sample(name, &labels(leaf, "served"), lowest);
        }
        for credential in one.credentials.iter().filter(|one| one.kind != leaf) {
            let Some(generation) = credential.generation else {
                continue;
            };
            page.sample(
                name,
                &labels(credential.kind.as_str(), "journal"),
                generation,
            );
            let connected = credential.replicas.values().filter(|says| says.connected);
            if let Some(lowest) = connected.filter_map(|says| says.generation).min() {
                page.sample(name, &labels(credential.kind.as_str(), "served"), lowest);
            }
        }
    }
}

pub(super) fn rotations(page: &mut Exposition, status: &Status, now: u64) {
    page.family(
        "keyward_rotation_phase",
        "gauge",
        "1 for the phase that the rotation is in.",
    );
    for (tunnel, one) in &status.tunnels {
        let token = one.tunnel_token.as_ref().map(|token| &token.phase);
        let secret = one.shared_secret.as_ref().map(|secret| &secret.phase);
        let ca = one.ca_slots.as_ref().map(|slots| &slots.phase);
        for (kind, phase) in [
            ("server-certificate", Some(&one.phase)),
            ("ca", ca),
            ("tunnel-token", token),
            ("shared-secret", secret),
        ] {
            let Some(phase) = phase else { continue };
            let labels = [
                ("tunnel", tunnel.as_str()),
                ("kind", kind),
                ("phase", phase),
            ];
            page.sample("keyward_rotation_phase", &labels, 1);
        }
    }
    times(page, status, now);
    slots(page, status);
    page.family(
        "keyward_issuance_total",
        "counter",
        "Rotations done since the state was made.",
    );
    for (tunnel, one) in &status.tunnels {
        let counts = [
            ("server-certificate", one.rotations.server_certificate),
            ("ca", one.rotations.ca),
            ("tunnel-token", one.rotations.tunnel_token),
            ("shared-secret", one.rotations.shared_secret),
        ];
        for (kind, count) in counts {
            let labels = [("tunnel", tunnel.as_str()), ("kind", kind)];
            page.sample("keyward_issuance_total", &labels, count);
        }
    }
    alarms(page, status);
}

fn alarms(page: &mut Exposition, status: &Status) {
    page.family("keyward_alarms", "gauge", "What needs a person.");
    for (tunnel, one) in &status.tunnels {
        let labels = [("tunnel", tunnel.as_str())];
        page.sample("keyward_alarms", &labels, one.alarms.len());
    }
    page.family(
        "keyward_conflict",
        "gauge",
        "Alarms of something that is in force and not ours; it is never destroyed here.",
    );
    for (tunnel, one) in &status.tunnels {
        let conflicts = one
            .alarms
            .iter()
            .filter(|alarm| alarm.starts_with("CONFLICT"));
        let labels = [("tunnel", tunnel.as_str())];
        page.sample("keyward_conflict", &labels, conflicts.count());
    }
}

/// How long phases last, and when what is next.
fn times(page: &mut Exposition, status: &Status, now: u64) {
    let each = || {
        let tunnels = status.tunnels.iter();
        tunnels.flat_map(|(tunnel, one)| one.credentials.iter().map(move |one| (tunnel, one)))
    };
    let name = "keyward_rotation_phase_age_seconds";
    page.family(
        name,
        "gauge",
        "Seconds since the phase began that the rotation is in.",
    );
    for (tunnel, one) in each().filter(|(_, one)| is_rotated(&one.kind)) {
        let labels = [("tunnel", tunnel.as_str()), ("kind", one.kind.as_str())];
        if let Some(since) = one.since {
            page.sample(name, &labels, now.saturating_sub(since));
        }
    }
    let name = "keyward_next_rotation_seconds";
    page.family(
        name,
        "gauge",
        "Seconds until the next rotation is due, negative while it is held up.",
    );
    for (tunnel, one) in each() {
        if let Some(next) = &one.next {
            let by = control::word(&next.by);
            let labels = [
                ("tunnel", tunnel.as_str()),
                ("kind", one.kind.as_str()),
                ("by", by.as_str()),
            ];
            page.sample(name, &labels, seconds_left(next.at, now));
        }
    }
    let name = "keyward_first_outage_seconds";
    page.family(
        name,
        "gauge",
        "Seconds until the first credential ends if nothing rotates any more.",
    );
    for (tunnel, one) in &status.tunnels {
        if let Some(outage) = &one.first_outage {
            let labels = [("tunnel", tunnel.as_str()), ("kind", outage.what.as_str())];
            page.sample(name, &labels, seconds_left(outage.at, now));
        }
    }
}

/// The others are part of one of these, or do not rotate.
fn is_rotated(kind: &str) -> bool {
    matches!(
        kind,
        "server-certificate" | "ca" | "tunnel-token" | "shared-secret"
    )
}

/// What came of calls of the Tunnels API.
pub(super) fn calls(page: &mut Exposition, status: &Status, remote: Option<&Remote>) {
    let Some(remote) = remote else { return };
    let outcomes = remote.outcomes();
    let name = "keyward_remote_calls_total";
    page.family(
        name,
        "counter",
        "Calls of the Tunnels API, by what came of them.",
    );
    for (key, count) in &outcomes {
        let labels = [
            ("tunnel", key.tunnel.as_str()),
            ("call", key.call),
            ("outcome", key.outcome),
        ];
        page.sample(name, &labels, count);
    }
    let name = "keyward_noncall_unknown_outcome_total";
    page.family(
        name,
        "counter",
        "Calls that must not be made twice and were not answered: what came of them was found out by reading.",
    );
    let kept = status
        .tunnels
        .iter()
        .filter(|(_, one)| one.provider == "tunnels_api");
    for (tunnel, _) in kept {
        for call in Call::NOT_TWICE {
            let key = Outcome {
                tunnel: tunnel.clone(),
                call,
                outcome: Outcome::UNKNOWN,
            };
            let labels = [("tunnel", tunnel.as_str()), ("call", call)];
            page.sample(
                name,
                &labels,
                outcomes.get(&key).copied().unwrap_or_default(),
            );
        }
    }
}

fn slots(page: &mut Exposition, status: &Status) {
    page.family(
        "keyward_ca_slots_used",
        "gauge",
        "Slots of the remote that hold a CA, of two.",
    );
    for (tunnel, one) in &status.tunnels {
        if let Some(used) = one.ca_slots.as_ref().and_then(|slots| slots.used) {
            let labels = [("tunnel", tunnel.as_str())];
            page.sample("keyward_ca_slots_used", &labels, used);
        }
    }
}

pub(super) fn subscribers(page: &mut Exposition, replicas: &Replicas) {
    page.family(
        "keyward_replicas",
        "gauge",
        "Subscribers known, by whether a subscription stands.",
    );
    for (role, name) in [(Role::Proxy, "proxy"), (Role::Connector, "connector")] {
        for (connected, state) in [(true, "connected"), (false, "gone")] {
            let count = replicas
                .values()
                .filter(|replica| (replica.role, replica.connected) == (role, connected))
                .count();
            page.sample(
                "keyward_replicas",
                &[("role", name), ("state", state)],
                count,
            );
        }
    }
    page.family(
        "keyward_replica_generation",
        "gauge",
        "Generation that a replica has acknowledged.",
    );
    for (name, replica) in replicas {
        let credentials = replica
            .acks
            .iter()
            .filter(|((_, resource), _)| *resource == Resource::Credential);
        for ((tunnel, _), generation) in credentials {
            let labels = [("replica", name.as_str()), ("tunnel", tunnel.as_str())];
            page.sample("keyward_replica_generation", &labels, generation);
        }
    }
}

/// What connected replicas report about `tunnel`.
pub(super) fn reports<'a>(
    replicas: &'a Replicas,
    tunnel: &'a str,
) -> impl Iterator<Item = &'a control::TunnelReport> {
    replicas
        .values()
        .filter(|replica| replica.connected)
        .flat_map(|replica| &replica.report.tunnels)
        .filter(move |report| report.tunnel == tunnel)
}
