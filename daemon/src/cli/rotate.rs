//! `keyward rotate`: orders a rotation and follows it to its end.

use clap::ValueHint;
use process::{Exit, Failure, Tasks};
use serde_json::json;

use super::Target;
use super::output::{self, Ended};
use crate::operator::{Client, ClientError, Event, Events, Noun, RotationOrder};
use crate::status::{Operation, OperationState, Status, TunnelStatus};

/// What is rotated, and how it is told.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// server-certificate, ca, tunnel-token or shared-secret
    what: String,
    /// For ca of a tunnel that is handled by hand: every verifier holds the standby CA beside the present one, and it
    /// is the one with this fingerprint. Without it the standby CA is printed and nothing is rotated
    #[arg(long, value_name = "SHA256", require_equals = true)]
    #[allow(
        clippy::option_option,
        reason = "how clap spells an option whose value may be left out"
    )]
    trusted: Option<Option<String>>,
    /// For ca of a tunnel of the Tunnels API: the rotation in flight archives the CA before without waiting for proof
    /// that callers take the new one
    #[arg(long)]
    accept_unproven: bool,
    /// Of which tunnel; may be left out where there is only one
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    tunnel: Option<String>,
    /// Print the operation as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    target: Target,
}

pub(super) async fn rotate(arguments: &Arguments, tasks: &Tasks) -> Result<(), Ended> {
    let noun = noun(&arguments.what)?;
    if noun != Noun::Ca && arguments.trusted.is_some() {
        return Err(Failure::new(Exit::Usage, "--trusted is about the CA alone")
            .next(format!("leave it out: keyward rotate {noun}"))
            .into());
    }
    if noun != Noun::Ca && arguments.accept_unproven {
        return Err(
            Failure::new(Exit::Usage, "--accept-unproven is about the CA alone")
                .next(format!("leave it out: keyward rotate {noun}"))
                .into(),
        );
    }
    let client = arguments.target.client(tasks);
    if noun == Noun::Ca && arguments.trusted.is_none() {
        let status = client.status().await?;
        let found = tunnel(arguments, &status);
        // Where the remote can be asked, it is told, and nobody has to assert anything.
        if !found.is_ok_and(|(_, tunnel)| tunnel.ca_slots.is_some()) {
            return Err(standby(arguments, &status));
        }
    }
    // Listen first, so that no step is missed.
    let mut events = client.events().await?;
    let begun = client
        .rotate(&RotationOrder {
            what: noun.name().to_owned(),
            tunnel: arguments.tunnel.clone(),
            trusted: arguments.trusted.is_some(),
            standby: arguments.trusted.clone().flatten(),
            accept_unproven: arguments.accept_unproven,
        })
        .await?;
    if !arguments.json {
        output::text(&format!(
            "{} of {}: operation {}\n",
            begun.what, begun.tunnel, begun.id
        ))?;
    }
    let ended = follow(&client, &mut events, begun, tasks, |step| {
        if arguments.json || step.detail.is_empty() {
            return Ok(());
        }
        output::text(&format!("  {}\n", step.detail))
    })
    .await?;
    if arguments.json {
        output::json(&ended)?;
    } else if ended.state == OperationState::Done {
        output::text("done\n")?;
    }
    Ok(succeeded(&ended)?)
}

/// The end of `operation`, with `told` called for each step on the way.
pub(super) async fn follow(
    client: &Client,
    events: &mut Events,
    operation: Operation,
    tasks: &Tasks,
    mut told: impl FnMut(&Operation) -> Result<(), Failure>,
) -> Result<Operation, Failure> {
    let mut last = operation;
    while last.state == OperationState::Running {
        let event = tokio::select! {
            event = events.next() => event?,
            () = tasks.stopping() => {
                return Err(Failure::new(Exit::Unavailable, "stopped waiting")
                    .cause("this command was interrupted; the daemon goes on")
                    .next(format!("keyward status shows operation {}", last.id)));
            }
        };
        let seen = match event {
            Some(Event::Operation(operation)) => Some(operation),
            Some(Event::Status(status)) => status
                .operations
                .into_iter()
                .find(|operation| operation.id == last.id),
            None => Some(lost(client, &last).await?),
        };
        if let Some(seen) = seen.filter(|seen| seen.id == last.id && *seen != last) {
            last = seen;
            told(&last)?;
        }
    }
    Ok(last)
}

/// The stream ended: the daemon stops, or was restarted meanwhile.
async fn lost(client: &Client, last: &Operation) -> Result<Operation, ClientError> {
    match client.operation(&last.id).await {
        Ok(operation) if operation.state != OperationState::Running => Ok(operation),
        Ok(_) => Err(ClientError::Broken(
            "it ended the event stream; the operation goes on".to_owned(),
        )),
        Err(error) => Err(error),
    }
}

/// Whether the operation came to the end that was asked for.
pub(super) fn succeeded(operation: &Operation) -> Result<(), Failure> {
    if operation.state == OperationState::Done {
        return Ok(());
    }
    Err(
        Failure::internal(format!("{} of {} failed", operation.what, operation.tunnel))
            .cause(operation.detail.clone())
            .next("keyward status shows which generation is published and which each proxy has acknowledged"),
    )
}

fn noun(name: &str) -> Result<Noun, Failure> {
    let supported = format!("rotate one of {}", Noun::rotating());
    match Noun::parse(name) {
        Some(noun) if noun.rotates() => Ok(noun),
        Some(noun) => Err(
            Failure::new(Exit::Usage, format!("this version cannot rotate {noun}")).next(supported),
        ),
        None => Err(
            Failure::new(Exit::Usage, format!("there is no {name:?} to rotate")).next(supported),
        ),
    }
}

/// Shows the standby CA and says why nothing was rotated.
fn standby(arguments: &Arguments, status: &Status) -> Ended {
    let (name, tunnel) = match tunnel(arguments, status) {
        Ok(found) => found,
        Err(failure) => return failure.into(),
    };
    let Some(standby) = &tunnel.standby_ca else {
        return Failure::new(Exit::Unavailable, format!("{name} has no standby CA yet"))
            .next("look at keyward status; the daemon makes one ahead of time")
            .into();
    };
    let shown = format!(
        "{}sha256 {}\n\nEvery verifier of {} has to hold this CA beside the present one: with a\n\
         provider, register it for the tunnel; callers of your own take it into their CA file.\n\
         Only then rotate: a verifier without it refuses the next certificate.\n",
        standby.pem, standby.sha256, tunnel.domain
    );
    if !arguments.json
        && let Err(failure) = output::text(&shown)
    {
        return failure.into();
    }
    let failure = Failure::config("the CA was not rotated")
        .cause("nobody has asserted yet that the verifiers hold the standby CA")
        .next(format!(
            "carry it to them, then keyward rotate ca --trusted={}",
            standby.sha256
        ));
    let besides = json!({ "tunnel": name, "standby_ca": standby });
    Ended {
        failure,
        besides: besides.as_object().cloned().unwrap_or_default(),
    }
}

/// The tunnel that is meant.
fn tunnel<'a>(
    arguments: &Arguments,
    status: &'a Status,
) -> Result<(&'a String, &'a TunnelStatus), Failure> {
    let usage = |what: String| {
        let names: Vec<&str> = status.tunnels.keys().map(String::as_str).collect();
        Failure::new(Exit::Usage, what)
            .next(format!("name one with --tunnel: {}", names.join(", ")))
    };
    match &arguments.tunnel {
        Some(name) => status
            .tunnels
            .get_key_value(name)
            .ok_or_else(|| usage(format!("no tunnel {name:?}"))),
        None if status.tunnels.len() > 1 => Err(usage("which tunnel is not said".to_owned())),
        None => status.tunnels.first_key_value().ok_or_else(|| {
            Failure::new(Exit::Unavailable, "the daemon has no tunnel yet")
                .next("look at keyward status")
        }),
    }
}
