//! The status as text: a table of tunnels, one of credentials, one of replicas, and sentences.

use crate::cli::table::{span, table, until};
use crate::status::{
    CredentialStatus, Operation, OperationState, Outage, RemoteState, ReplicaSays, ReplicaStatus,
    Status, TunnelStatus,
};

/// Operations that ended are shown up to this number.
const OPERATIONS: usize = 3;
/// Letters of a fingerprint that tell it from others.
const SHORT: usize = 12;

/// The status as text; `now` in Unix seconds.
pub(super) fn render(status: &Status, now: u64) -> String {
    let mut out = format!("keyward {}\n\n", status.build);
    let tunnels: Vec<Vec<String>> = status
        .tunnels
        .iter()
        .map(|(name, tunnel)| tunnel_row(name, tunnel, status, now))
        .collect();
    let heading = [
        "TUNNEL",
        "DOMAIN",
        "PROVIDER",
        "REPLICAS",
        "FIRST OUTAGE",
        "ALARMS",
    ];
    out.push_str(&table(&heading, &tunnels));
    let credentials: Vec<Vec<String>> = status
        .tunnels
        .iter()
        .flat_map(|(name, tunnel)| tunnel.credentials.iter().map(move |one| (name, one)))
        .map(|(name, one)| credential_row(name, one, now))
        .collect();
    if !credentials.is_empty() {
        out.push('\n');
        let heading = [
            "TUNNEL",
            "CREDENTIAL",
            "GEN",
            "JOURNAL",
            "REMOTE",
            "REPLICAS",
            "PHASE",
            "ENDS",
            "NEXT ROTATION",
        ];
        out.push_str(&table(&heading, &credentials));
    }
    out.push_str(&replicas_table(status, now));
    for paragraph in [
        outage(status, now),
        behind(status),
        operations(status, now),
        alarms(status),
    ] {
        if !paragraph.is_empty() {
            out.push('\n');
        }
        for line in paragraph {
            out.push_str(&line);
            out.push('\n');
        }
    }
    out
}

fn replicas_table(status: &Status, now: u64) -> String {
    if status.replicas.is_empty() {
        return String::new();
    }
    let replicas: Vec<Vec<String>> = status
        .replicas
        .iter()
        .map(|(name, replica)| replica_row(name, replica, now))
        .collect();
    let heading = ["REPLICA", "ROLE", "STATE", "SERVES", "HEARD", "CONNECTIONS"];
    format!("\n{}", table(&heading, &replicas))
}

fn tunnel_row(name: &str, tunnel: &TunnelStatus, status: &Status, now: u64) -> Vec<String> {
    let connected = || status.replicas.values().filter(|replica| replica.connected);
    let current = connected()
        .filter(|replica| replica.acked.get(name) == Some(&tunnel.generation))
        .count();
    vec![
        name.to_owned(),
        tunnel.domain.clone(),
        tunnel.provider.clone(),
        format!("{current}/{}", connected().count()),
        tunnel
            .first_outage
            .as_ref()
            .map_or_else(dash, |outage| until(outage.at, now)),
        match tunnel.alarms.len() {
            0 => dash(),
            count => count.to_string(),
        },
    ]
}

fn credential_row(tunnel: &str, one: &CredentialStatus, now: u64) -> Vec<String> {
    let remote = one.remote.as_ref().map(|remote| {
        let state = match remote.state {
            RemoteState::Unknown => return "not asked".to_owned(),
            RemoteState::InForce => "in force",
            // It is registered when its turn comes.
            RemoteState::Missing if one.kind == "standby-ca" => "not listed",
            RemoteState::Missing => "MISSING",
        };
        let ago = remote
            .asked_at
            .map(|at| format!(", {} ago", span(now.saturating_sub(at))));
        format!("{state}{}", ago.unwrap_or_default())
    });
    let next = one
        .next
        .as_ref()
        .map(|next| format!("{} ({})", coming(next.at, now), next.by));
    vec![
        tunnel.to_owned(),
        one.kind.clone(),
        one.generation
            .map_or_else(dash, |generation| generation.to_string()),
        one.journal.as_deref().map_or_else(dash, short),
        remote.unwrap_or_else(dash),
        replicas(one),
        one.phase.clone(),
        one.not_after.map_or_else(dash, |end| until(end, now)),
        next.unwrap_or_else(dash),
    ]
}

/// How many of those that are there have it, and how well that is proven.
fn replicas(one: &CredentialStatus) -> String {
    let connected = || one.replicas.values().filter(|says| says.connected);
    if one.replicas.is_empty() {
        return dash();
    }
    let current = connected().filter(|says| says.in_force).count();
    let count = format!("{current}/{}", connected().count());
    let grades = || one.replicas.values().map(|says| says.proof);
    // One grade says it for all: the least.
    match grades().min() {
        Some(Some(least)) => format!("{count} {}", control::word(&least)),
        _ => count,
    }
}

/// A word that is long is a fingerprint.
fn short(text: &str) -> String {
    match text.char_indices().nth(32) {
        Some(_) => text.chars().take(SHORT).collect(),
        None => text.to_owned(),
    }
}

fn coming(at: u64, now: u64) -> String {
    if at >= now {
        until(at, now)
    } else {
        format!("due since {}", span(now - at))
    }
}

fn dash() -> String {
    "-".to_owned()
}

fn replica_row(name: &str, replica: &ReplicaStatus, now: u64) -> Vec<String> {
    let serves: Vec<String> = replica
        .acked
        .iter()
        .map(|(tunnel, generation)| format!("{tunnel}:{generation}"))
        .chain(
            replica
                .refused
                .iter()
                .map(|(tunnel, reason)| format!("{tunnel} refused: {}", control::word(reason))),
        )
        .collect();
    let connections: u64 = replica
        .report
        .tunnels
        .iter()
        .flat_map(|tunnel| tunnel.connections.values())
        .sum();
    vec![
        name.to_owned(),
        match replica.role {
            control::Role::Proxy => "proxy",
            control::Role::Connector => "connector",
        }
        .to_owned(),
        if replica.connected {
            "connected"
        } else {
            "gone"
        }
        .to_owned(),
        if serves.is_empty() {
            dash()
        } else {
            serves.join(" ")
        },
        format!("{} ago", span(now.saturating_sub(replica.last_heard))),
        connections.to_string(),
    ]
}

/// What ends first of all.
fn outage(status: &Status, now: u64) -> Vec<String> {
    let line = |outage: &Outage| {
        let at = outage
            .replica
            .as_ref()
            .map_or_else(String::new, |replica| format!(" at {replica}"));
        format!(
            "first outage if nothing rotates any more: {}, the {} of {}{at}",
            until(outage.at, now),
            outage.what,
            outage.tunnel
        )
    };
    status.first_outage.iter().map(line).collect()
}

/// Who does not have what is in force, or has not proven it.
fn behind(status: &Status) -> Vec<String> {
    let credentials = status
        .tunnels
        .iter()
        .flat_map(|(name, tunnel)| tunnel.credentials.iter().map(move |one| (name, one)));
    let lines = credentials.flat_map(|(name, one)| {
        let says = one.replicas.iter();
        says.filter_map(move |(replica, says)| {
            let what = said(one, says)?;
            Some(format!("{} of {name} at {replica}: {what}", one.kind))
        })
    });
    lines.collect()
}

fn said(one: &CredentialStatus, says: &ReplicaSays) -> Option<String> {
    if let Some(proof) = says.proof {
        return Some(control::word(&proof));
    }
    if says.in_force || one.kind == "old-ca" {
        return None;
    }
    let refused = says.refused.map(|reason| control::word(&reason));
    Some(match (says.generation, refused) {
        (_, Some(reason)) => format!("refused: {reason}"),
        (Some(0), None) => "has none yet".to_owned(),
        (Some(generation), None) => format!("generation {generation}"),
        (None, None) => "not in force there".to_owned(),
    })
}

/// The last ones that ended, then those that run.
fn operations(status: &Status, now: u64) -> Vec<String> {
    let (running, ended): (Vec<_>, Vec<_>) = status
        .operations
        .iter()
        .partition(|operation| operation.state == OperationState::Running);
    let recent = ended.iter().skip(ended.len().saturating_sub(OPERATIONS));
    let line = |operation: &Operation| {
        let state = match operation.state {
            OperationState::Running => "running",
            OperationState::Done => "done",
            OperationState::Failed => "failed",
        };
        let age = span(now.saturating_sub(operation.ended.unwrap_or(operation.began)));
        let detail = match operation.detail.as_str() {
            "" => String::new(),
            detail => format!(": {detail}"),
        };
        format!(
            "{} of {} by {}: {state}, {age} ago{detail}",
            operation.what, operation.tunnel, operation.actor
        )
    };
    recent.copied().chain(running).map(line).collect()
}

fn alarms(status: &Status) -> Vec<String> {
    let clock = status.time_suspect.then(|| {
        "ALARM the wall clock disagrees with the boot clock: nothing destructive is done".to_owned()
    });
    let tunnels = status.tunnels.iter().flat_map(|(name, tunnel)| {
        tunnel
            .alarms
            .iter()
            .map(move |alarm| format!("ALARM {name}: {alarm}"))
    });
    clock.into_iter().chain(tunnels).collect()
}

#[cfg(test)]
mod tests;
