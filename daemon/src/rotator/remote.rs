//! The tunnel itself at the other side: whether it is there, and is the one that the configuration means.
//!
//! Looked at when the daemon starts and every hour. Until it was seen to be of the configured domain, nothing else is asked
//! of the other side: a slip in `tunnel_id` must not change somebody else's tunnel. What is wrong with it is an alarm;
//! nothing is given up for it, and what is served goes on being served.

use std::time::Duration;

use super::orders::refusal;
use super::tunnel::{Desk, Pace, Tunnel};
use crate::board::Refusal;
use crate::remote::{Answer, Call, Lane, Told};
use crate::tunnels::CallError;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(3600);
/// Topic of its alarms.
const TOPIC: &str = "remote";

/// What this process knows of the other side.
#[derive(Debug, Default)]
pub(super) struct Remote {
    /// After failures of its calls.
    pub(super) pace: Pace,
    /// When the tunnel was last read, since boot.
    looked_at: Option<Duration>,
    /// What it is there. One that cannot be read for a while is what it was.
    found: Found,
}

/// What a tunnel's identifier means at the other side.
#[derive(Debug, Default)]
enum Found {
    /// It was not read yet.
    #[default]
    Unknown,
    /// The tunnel of our domain.
    Ours,
    /// Another one, or one that is archived; why it cannot be used.
    Unusable(String),
}

/// What keeps orders from being carried out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hindrance {
    /// It does not pass by itself.
    pub(super) lasts: bool,
}

impl Remote {
    /// What keeps anything from being asked about it.
    pub(super) fn hindrance(&self, boot: Duration) -> Option<Hindrance> {
        match self.found {
            Found::Unusable(_) => Some(Hindrance { lasts: true }),
            Found::Unknown if self.pace.is_failing(boot) => Some(Hindrance { lasts: false }),
            Found::Unknown | Found::Ours => None,
        }
    }

    /// Whether anything may be asked about it.
    pub(super) fn is_ours(&self) -> bool {
        matches!(self.found, Found::Ours)
    }
}

impl Tunnel {
    /// Takes what came of a call.
    pub(super) fn told(&mut self, desk: &mut Desk<'_>, told: Told) {
        match told.ask.lane {
            Lane::Tunnel => self.told_tunnel(desk, told),
            Lane::Token => self.told_token(desk, told),
            Lane::Secret => self.told_secret(desk, told),
            Lane::Ca => self.told_ca(desk, told),
        }
    }

    /// Looks at the tunnel, if it is time to.
    pub(super) fn step_remote(&mut self, desk: &mut Desk<'_>) {
        let boot = desk.moment.boot;
        let due = self.remote.looked_at.is_none_or(|at| boot >= at + EVERY);
        let busy = desk.calls.is_under_way(&self.name, Lane::Tunnel);
        if due && !busy && !self.remote.pace.is_on(boot) {
            desk.calls.ask(self, Lane::Tunnel, Call::Tunnel);
        }
    }

    fn told_tunnel(&mut self, desk: &Desk<'_>, told: Told) {
        let boot = desk.moment.boot;
        match told.result {
            Ok(Answer::Tunnel(tunnel)) => {
                self.remote.pace.reset();
                self.remote.looked_at = Some(boot);
                if let Some(text) = wrong(&tunnel, &self.config.domain) {
                    self.remote.found = Found::Unusable(text.clone());
                    self.trouble(TOPIC, text);
                } else {
                    self.remote.found = Found::Ours;
                    self.well(TOPIC);
                }
            }
            Ok(_) => {}
            Err(error) => {
                if self.remote.pace.after(boot, &error) {
                    let text = format!("the tunnel cannot be read: {}", chain(&error));
                    self.trouble(TOPIC, text);
                }
            }
        }
    }

    /// What speaks against an order that changes something at the other side.
    pub(super) fn refuse_other_tunnel(&self) -> Result<(), Refusal> {
        match &self.remote.found {
            Found::Unusable(why) => Err(refusal(
                why.clone(),
                "write the right one into keyward.yaml, and start the daemon again".to_owned(),
            )),
            Found::Unknown | Found::Ours => Ok(()),
        }
    }
}

/// What keeps it from being the tunnel that the configuration means.
fn wrong(tunnel: &api::Tunnel, domain: &str) -> Option<String> {
    if tunnel.archived_at.is_some() {
        return Some(format!(
            "the tunnel {} is archived, and neither it nor its domain comes back: make another one and write its id into tunnel_id",
            tunnel.id
        ));
    }
    (tunnel.domain != domain).then(|| {
        format!(
            "the tunnel {} has the domain {}, not {domain}: correct tunnel_id or domain",
            tunnel.id, tunnel.domain
        )
    })
}

/// An error with its causes, on one line.
pub(super) fn chain(error: &CallError) -> String {
    process::Chain(error).to_string()
}
