//! Carries out what the tunnel token's machine decides: asks the remote, keeps what it gives in the store, and gives that
//! to connectors.

mod order;
mod told;

use std::sync::Arc;
use std::time::Duration;

use control::{Resource, Role, Secret};
use pki::Fingerprint;

use super::pending::Ordered;
use super::tunnel::{Desk, Pace, StepError, Tunnel, fresh_id};
use super::{Moment, TICK};
use crate::board::Replicas;
use crate::config::Connector;
use crate::connector::is_documented;
use crate::disk::DiskError;
use crate::journal::{Entry, Kind};
use crate::remote::{Call, Lane};
use crate::rotation::Witness;
use crate::rotation::tunnel_token::{
    Action, OVERLAP, Observed, Occasion, Seen, State, alarms, is_doubted, is_late, next,
};
use crate::status::{OperationState, TokenStatus};
use crate::tunnels::{EdgeRotation, Rotation, TunnelToken};

/// Steps in one turn; a rotation takes about five.
const STEPS: usize = 20;
/// Topic of what goes wrong on this host.
const TOPIC: &str = "tunnel token";

/// What this process knows of the token and the journal does not.
#[derive(Debug, Default)]
pub(super) struct Token {
    /// After failures.
    pub(super) pace: Pace,
    /// What the remote gave, until it is stored.
    held: Option<Held>,
    /// How the reveal that is under way was asked.
    asked: Asked,
}

#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    at: u64,
    late: bool,
    doubted: bool,
}

#[derive(Debug)]
enum Held {
    Revealed(TunnelToken, Asked),
    Rotated(TunnelToken),
}

impl Held {
    fn token(&self) -> &TunnelToken {
        match self {
            Self::Revealed(token, _) | Self::Rotated(token) => token,
        }
    }
}

impl Tunnel {
    /// The CA in force has changed, and the leaf that is served is not of it yet.
    fn is_followed_by_no_leaf(&self) -> bool {
        let both = self.ca.active.as_ref().zip(self.leaf.serving.as_ref());
        both.is_some_and(|(ca, leaf)| ca.sha256 != leaf.issuer)
    }

    /// Does everything that can be done now; gives until when nothing more is due, in Unix seconds.
    pub(super) fn step_token(&mut self, desk: &mut Desk<'_>) -> u64 {
        let now = desk.moment.unix();
        for _ in 0..STEPS {
            let stored = match self.store.token() {
                Ok(stored) => stored.filter(|token| self.is_token(token)),
                // It is there, or not: nothing is known, so nothing is decided.
                Err(error) => {
                    self.token_trouble(error);
                    break;
                }
            };
            let seen = self.seen_of_token(desk, stored.as_deref().map(String::as_str));
            let action = next(&self.token, &seen, now);
            if let Action::Wait(until) = action {
                self.settle_token_order(desk, &seen);
                return until;
            }
            let stored = stored.as_deref().map(String::as_str);
            match self.perform_token(desk, &action, &seen, stored) {
                Ok(()) => self.well(TOPIC),
                Err(error) => {
                    self.token_now.pace.fail(desk.moment.boot);
                    self.token_trouble(error);
                    break;
                }
            }
        }
        now + TICK.as_secs()
    }

    fn token_trouble(&mut self, error: DiskError) {
        let text = format!("tunnel token: {}", StepError::from(error).chain());
        self.trouble(TOPIC, text);
    }

    /// What everybody may know of it.
    pub(super) fn token_status(&self) -> Option<TokenStatus> {
        let known = self.token.generation > 0 || self.config.remote().is_some();
        known.then(|| TokenStatus {
            id: self.token.id.clone(),
            generation: self.token.generation,
            phase: self.token.phase().to_owned(),
            verified_at: Some(self.token.verified).filter(|at| *at > 0),
            foreign_rotations: self.token.foreign_count,
        })
    }

    /// What needs a person, one sentence each.
    pub(super) fn token_alarms(&self, replicas: &Replicas, moment: Moment) -> Vec<String> {
        let (connectors, left) = self.token_holders(replicas, moment);
        let seen = Seen {
            connectors,
            left,
            watched: self.until_deserted(moment.boot).is_zero(),
            ..Seen::default()
        };
        alarms(&self.token, &seen, moment.unix())
    }

    /// Who is in service and dials with the token, and the names of those that are known not to any more.
    pub(super) fn token_holders(
        &self,
        replicas: &Replicas,
        moment: Moment,
    ) -> (Vec<Witness>, Vec<String>) {
        let resource = Resource::Tunnel;
        let (mut here, mut gone) = self.subscribers(replicas, moment, Role::Connector, resource);
        let (proxies, left) = self.subscribers(replicas, moment, Role::Proxy, resource);
        gone.extend(left);
        // A proxy that dials is sent the token while there is no shared secret.
        let alone = self.publication.secret.is_none();
        for proxy in proxies {
            let replica = replicas.get(&proxy.name);
            if alone && replica.is_some_and(|replica| replica.dials.contains(&self.name)) {
                here.push(proxy);
            } else {
                gone.push(proxy.name);
            }
        }
        (here, gone)
    }

    fn seen_of_token(&self, desk: &Desk<'_>, stored: Option<&str>) -> Seen {
        let boot = desk.moment.boot;
        let board = desk.board.replicas.borrow();
        let (connectors, left) = self.token_holders(&board, desk.moment);
        let published = self.publication.token.as_ref();
        Seen {
            remote: self.config.remote().is_some(),
            stored: stored.map(digest),
            published: published.map_or(0, |token| token.generation),
            held: self.token_now.held.is_some(),
            asked: desk.calls.is_under_way(&self.name, Lane::Token),
            closed: !self.remote.is_ours(),
            awaited: self.config.connector == Connector::Cloudflared
                && connectors.is_empty()
                && !self.until_deserted(boot).is_zero(),
            connectors,
            left,
            watched: self.until_deserted(boot).is_zero(),
            young: self.is_young(boot),
            ordered: self.token_order.as_ref().is_some_and(Ordered::is_waiting),
            switching: self.ca.switch.is_some() || self.is_followed_by_no_leaf(),
            paced: self.token_now.pace.is_on(boot),
            suspect: desk.moment.suspect,
        }
    }

    fn perform_token(
        &mut self,
        desk: &mut Desk<'_>,
        action: &Action,
        seen: &Seen,
        stored: Option<&str>,
    ) -> Result<(), DiskError> {
        let now = desk.moment.unix();
        match action {
            Action::Wait(_) => {}
            Action::Take => {
                let sha256 = seen.stored.as_deref().unwrap_or_default();
                self.advance_token(desk, self.token.taken(sha256, now), Entry::default())?;
                self.publish_token(stored);
            }
            Action::Publish => self.publish_token(stored),
            Action::Reveal(occasion) => self.reveal(desk, *occasion, seen),
            Action::Keep => self.keep_token(desk, stored)?,
            Action::Begin => self.begin_token(desk)?,
            Action::Call => self.rotate_token(desk, seen)?,
            Action::Finish => {
                let rotation = self.token_rotation();
                self.advance_token(desk, self.token.finished(), Entry::default())?;
                let detail = format!(
                    "the tunnel token {} is in force, and {}",
                    self.token.id.as_deref().unwrap_or_default(),
                    if seen.connectors.is_empty() {
                        "no connector is here to take it"
                    } else {
                        "every connector has it"
                    }
                );
                self.end_token_order(desk, &rotation, OperationState::Done, detail);
            }
            Action::Abandon(why) => {
                let rotation = self.token_rotation();
                self.advance_token(desk, self.token.abandoned(), failed("abandoned"))?;
                let detail = format!("{why}; the tunnel token was not rotated");
                self.end_token_order(desk, &rotation, OperationState::Failed, detail);
            }
        }
        Ok(())
    }

    fn reveal(&mut self, desk: &mut Desk<'_>, occasion: Occasion, seen: &Seen) {
        let now = desk.moment.unix();
        self.token_now.asked = Asked {
            at: now,
            late: is_late(&self.token, seen, now),
            doubted: is_doubted(&self.token, seen),
        };
        let reason = occasion.text().to_owned();
        desk.calls
            .ask(self, Lane::Token, Call::RevealToken { reason });
    }

    fn begin_token(&mut self, desk: &mut Desk<'_>) -> Result<(), DiskError> {
        let id = fresh_id(desk.moment);
        let ordered = self.token_order.as_ref();
        let actor = ordered.map_or("schedule", |ordered| &ordered.actor);
        let begun = self.token.begun(id.clone(), actor, desk.moment.unix());
        self.advance_token(desk, begun, Entry::default())?;
        if let Some(ordered) = &mut self.token_order {
            ordered.rotation = Some(id);
        }
        Ok(())
    }

    /// Makes the call, once everything that can be done before it is.
    fn rotate_token(&mut self, desk: &mut Desk<'_>, seen: &Seen) -> Result<(), DiskError> {
        // A value that could not be kept would be lost, and the one before is worth nothing by then.
        self.store.try_write()?;
        let connectors: Vec<String> = seen.connectors.iter().map(|one| one.name.clone()).collect();
        let called = self.token.called(&connectors, desk.moment.unix());
        self.advance_token(desk, called, Entry::default())?;
        let Some(rotation) = &self.token.rotation else {
            return Ok(());
        };
        let of_ours = self.config.connector == Connector::Builtin;
        let call = Call::RotateToken(Rotation {
            reason: format!("keyward: rotation {} by {}", rotation.id, rotation.actor),
            edge: of_ours.then(|| EdgeRotation {
                idempotency_key: rotation.id.clone(),
                cut_old_after: rotation.overlaps.then_some(Duration::from_secs(OVERLAP)),
            }),
        });
        desk.calls.ask(self, Lane::Token, call);
        Ok(())
    }

    /// Store, journal, connectors: in this order.
    fn keep_token(&mut self, desk: &mut Desk<'_>, stored: Option<&str>) -> Result<(), DiskError> {
        let Some(held) = &self.token_now.held else {
            return Ok(());
        };
        let token = held.token().clone();
        let value = token.value.expose();
        if stored != Some(value) {
            self.store.write_token(value)?;
        }
        let sha256 = digest(value);
        let kept = match held {
            Held::Rotated(_) => self.token.rotated(&token.id, &sha256, desk.moment.unix()),
            Held::Revealed(_, asked) => self.token.revealed(&Observed {
                id: &token.id,
                sha256: &sha256,
                at: asked.at,
                late: asked.late,
                doubted: asked.doubted,
            }),
        };
        let foreign = kept.foreign_count > self.token.foreign_count;
        let news = kept.id != self.token.id;
        self.advance_token(desk, kept, Entry::default())?;
        self.token_now.held = None;
        if foreign {
            tracing::error!(
                tunnel = self.name,
                id = token.id,
                event = "FOREIGN_ROTATION",
                "somebody else rotated the tunnel token, and it was adopted"
            );
        } else if news {
            tracing::info!(
                tunnel = self.name,
                id = token.id,
                "the tunnel token is in the store"
            );
        }
        self.publish_token(Some(value));
        Ok(())
    }

    fn advance_token(
        &mut self,
        desk: &mut Desk<'_>,
        next: State,
        entry: Entry,
    ) -> Result<(), DiskError> {
        let old = &self.token;
        let rotation = next.rotation.as_ref().or(old.rotation.as_ref());
        let entry = Entry {
            rotation_id: rotation.map(|one| one.id.clone()).unwrap_or_default(),
            phase: next.phase().to_owned(),
            reason: if rotation.is_some() {
                "ordered"
            } else {
                "observed"
            }
            .to_owned(),
            actor: rotation.map_or("schedule", |one| &one.actor).to_owned(),
            old_ref: old.id.clone(),
            new_ref: next.id.clone(),
            remote_before: rotation.and_then(|one| one.before.clone()),
            attempts: rotation.map_or(0, |one| one.calls),
            state: serde_json::to_value(&next).unwrap_or_default(),
            ..entry
        };
        desk.record(&self.name, Kind::TunnelToken, entry)?;
        self.token = next;
        Ok(())
    }

    /// Puts the value on the board under its number.
    fn publish_token(&mut self, value: Option<&str>) {
        if let Some(value) = value {
            self.publication.token = Some(Arc::new(control::Tunnel {
                tunnel: self.name.clone(),
                generation: self.token.generation,
                token: Secret::new(value.to_owned()),
            }));
        }
    }

    /// Id of the rotation in flight; empty: there is none.
    fn token_rotation(&self) -> String {
        let rotation = self.token.rotation.as_ref();
        rotation
            .map(|rotation| rotation.id.clone())
            .unwrap_or_default()
    }

    /// Whether it is what the connectors of this tunnel take. What is carried by hand is not looked at.
    fn is_token(&self, value: &str) -> bool {
        match self.config.connector {
            _ if self.config.remote().is_none() => true,
            Connector::Cloudflared => is_documented(value),
            Connector::Builtin | Connector::External => {
                is_documented(value) || is_of_an_edge(value)
            }
        }
    }
}

/// A token has far more entropy than anybody could search, so its digest gives nothing away.
fn digest(value: &str) -> String {
    Fingerprint::of(value.as_bytes()).to_string()
}

/// The form of `keyward-edge`: 256 bits behind a prefix.
fn is_of_an_edge(value: &str) -> bool {
    let bytes = value
        .strip_prefix("kwt-")
        .and_then(process::base64::decode_url);
    bytes.is_some_and(|bytes| zeroize::Zeroizing::new(bytes).len() == 32)
}

/// What went wrong, for the journal.
fn failed(class: &str) -> Entry {
    Entry {
        error_class: Some(class.to_owned()),
        ..Entry::default()
    }
}
