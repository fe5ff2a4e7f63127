//! `keyward status`: what is in force, until when, and what needs a person.

use std::io::IsTerminal;
use std::time::UNIX_EPOCH;

use process::{Clock, Exit, Failure, SystemClock, Tasks};

use super::table::{span, table, until};
use super::{Target, output};
use crate::operator::Event;
use crate::status::{
    CertificateStatus, Operation, OperationState, ReplicaStatus, Status, TunnelStatus,
};

/// Takes the cursor home and empties the screen (ECMA-48 CUP and ED).
const CLEAR: &str = "\x1b[H\x1b[2J";
/// Operations that ended are shown up to this number.
const OPERATIONS: usize = 3;

/// How to tell it.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Keep showing it whenever it changes
    #[arg(long)]
    watch: bool,
    /// Print one JSON object; with --watch one a line
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn status(arguments: &Arguments, tasks: &Tasks) -> Result<(), Failure> {
    let client = arguments.target.client(tasks);
    if !arguments.watch {
        return show(&client.status().await?, arguments.json, "");
    }
    let before = if std::io::stdout().is_terminal() {
        CLEAR
    } else {
        "\n"
    };
    let mut events = client.events().await?;
    loop {
        let event = tokio::select! {
            event = events.next() => event?,
            () = tasks.stopping() => return Ok(()),
        };
        match event {
            Some(Event::Status(status)) => show(&status, arguments.json, before)?,
            Some(Event::Operation(_)) => {}
            None => {
                return Err(Failure::new(Exit::Unavailable, "the daemon went away")
                    .next("look at its log; start keyward run"));
            }
        }
    }
}

fn show(status: &Status, json: bool, before: &str) -> Result<(), Failure> {
    if json {
        return output::json(status);
    }
    let now = SystemClock.wall().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    output::text(&format!("{before}{}", render(status, now)))
}

/// The status as text; `now` in Unix seconds.
fn render(status: &Status, now: u64) -> String {
    let mut out = format!("keyward {}\n\n", status.build);
    let tunnels: Vec<Vec<String>> = status
        .tunnels
        .iter()
        .map(|(name, tunnel)| tunnel_row(name, tunnel, status, now))
        .collect();
    let heading = [
        "TUNNEL", "DOMAIN", "GEN", "ENDS", "RENEWED", "CA ENDS", "STANDBY", "PHASE", "REPLICAS",
    ];
    out.push_str(&table(&heading, &tunnels));
    if !status.replicas.is_empty() {
        let replicas: Vec<Vec<String>> = status
            .replicas
            .iter()
            .map(|(name, replica)| replica_row(name, replica, now))
            .collect();
        out.push('\n');
        let heading = ["REPLICA", "ROLE", "STATE", "SERVES", "HEARD", "CONNECTIONS"];
        out.push_str(&table(&heading, &replicas));
    }
    for paragraph in [tokens(status, now), operations(status, now), alarms(status)] {
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

fn tunnel_row(name: &str, tunnel: &TunnelStatus, status: &Status, now: u64) -> Vec<String> {
    let end = |certificate: &Option<CertificateStatus>| {
        certificate
            .as_ref()
            .map_or_else(|| "-".to_owned(), |one| until(one.not_after, now))
    };
    let connected = || status.replicas.values().filter(|replica| replica.connected);
    let current = connected()
        .filter(|replica| replica.acked.get(name) == Some(&tunnel.generation))
        .count();
    let renewed = tunnel
        .renew_at
        .map_or_else(|| "-".to_owned(), |at| until(at, now));
    vec![
        name.to_owned(),
        tunnel.domain.clone(),
        tunnel.generation.to_string(),
        end(&tunnel.server_certificate),
        renewed,
        end(&tunnel.ca),
        if tunnel.standby_ca.is_some() {
            "ready"
        } else {
            "-"
        }
        .to_owned(),
        tunnel.phase.clone(),
        format!("{current}/{}", connected().count()),
    ]
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
            "-".to_owned()
        } else {
            serves.join(" ")
        },
        format!("{} ago", span(now.saturating_sub(replica.last_heard))),
        connections.to_string(),
    ]
}

/// What connectors dial with.
fn tokens(status: &Status, now: u64) -> Vec<String> {
    let tunnels = status.tunnels.iter();
    let lines = tunnels.filter_map(|(name, tunnel)| {
        let token = tunnel.tunnel_token.as_ref()?;
        let id = token.id.as_deref().unwrap_or("without an id");
        let verified = token.verified_at.map_or_else(String::new, |at| {
            format!(", verified {} ago", span(now.saturating_sub(at)))
        });
        let (generation, phase) = (token.generation, &token.phase);
        Some(format!(
            "tunnel token of {name}: {id}, generation {generation}, {phase}{verified}"
        ))
    });
    lines.collect()
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
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn what_ends_when_and_what_needs_a_person_is_on_one_screen() {
        let certificate = |not_after| {
            Some(CertificateStatus {
                not_after,
                ..CertificateStatus::default()
            })
        };
        let tunnel = TunnelStatus {
            domain: "t.example".to_owned(),
            generation: 7,
            server_certificate: certificate(1_000_000),
            renew_at: Some(186_400),
            ca: certificate(90),
            phase: "serving".to_owned(),
            alarms: vec!["the CA is over".to_owned()],
            ..TunnelStatus::default()
        };
        let replica = |generation| ReplicaStatus {
            role: control::Role::Proxy,
            build: String::new(),
            connected: true,
            last_heard: 99,
            acked: BTreeMap::from([("main".to_owned(), generation)]),
            refused: BTreeMap::new(),
            report: control::Report::default(),
        };
        let status = Status {
            build: "b".to_owned(),
            tunnels: BTreeMap::from([("main".to_owned(), tunnel)]),
            replicas: BTreeMap::from([("p".to_owned(), replica(7)), ("q".to_owned(), replica(6))]),
            ..Status::default()
        };
        let expected = "\
keyward b

TUNNEL  DOMAIN     GEN  ENDS     RENEWED  CA ENDS          STANDBY  PHASE    REPLICAS
main    t.example  7    in 11 d  in 2 d   over since 10 s  -        serving  1/2

REPLICA  ROLE   STATE      SERVES  HEARD    CONNECTIONS
p        proxy  connected  main:7  1 s ago  0
q        proxy  connected  main:6  1 s ago  0

ALARM main: the CA is over
";
        assert_eq!(render(&status, 100), expected);
    }
}
