//! The steps, each with its record.

use std::sync::Arc;

use pki::Fingerprint;
use process::base64;
use zeroize::Zeroizing;

use super::super::tunnel::{Desk, StepError, Tunnel, fresh_id};
use super::{TOPIC, value};
use crate::custody::Blob;
use crate::disk::DiskError;
use crate::journal::{Entry, Kind};
use crate::remote::{Call, Lane};
use crate::rotation::shared_secret::{Action, Cause, Holder, Remote, Secret, State};
use crate::status::OperationState;

/// Bytes of a secret: 256 bits.
const LENGTH: usize = 32;
/// In the remote's audit log.
const ROTATED: &str = "rotated by keyward";
/// Why an order came to nothing.
const GIVEN_UP: &str = "it was given up: the remote does not take the new one, or its value is not in custody any more";

impl Tunnel {
    /// Whether the step was done; a failure is noted and paced.
    pub(super) fn take_step(&mut self, desk: &mut Desk<'_>, action: &Action) -> bool {
        match self.perform_secret(desk, action) {
            Ok(()) => {
                self.shared.pace.reset();
                true
            }
            Err(error) => {
                self.shared.pace.fail(desk.moment.boot);
                self.trouble(TOPIC, format!("{TOPIC}: {}", error.chain()));
                false
            }
        }
    }

    fn perform_secret(&mut self, desk: &mut Desk<'_>, action: &Action) -> Result<(), StepError> {
        let old = self.shared.state.clone();
        let now = desk.moment.unix();
        let above = self.publication.token.as_ref();
        let above = above.map_or(0, |token| token.generation);
        let next = match action {
            Action::Wait(_) | Action::List => return Ok(()),
            Action::Republish => return self.republish_secret(desk),
            Action::Add(sha256) => {
                let sha256 = sha256.clone();
                desk.calls
                    .ask(self, Lane::Secret, Call::AddSecret { sha256 });
                return Ok(());
            }
            Action::Archive(id) => {
                let (id, reason) = (id.clone(), ROTATED.to_owned());
                let call = Call::ArchiveSecret { id, reason };
                desk.calls.ask(self, Lane::Secret, call);
                return Ok(());
            }
            Action::Begin(cause) => return self.begin_secret(desk, *cause),
            Action::Note(roster) => old.noted(roster.clone()),
            Action::Renumber => old.renumbered(now, above),
            Action::Destroy => self.destroy_secrets(&old)?,
            Action::Make => self.make_secret(&old, now)?,
            Action::Publish => old.published(now, above),
            Action::Prove | Action::Heard => old.proven(now),
            Action::Decide(holders) => {
                self.tell_of(holders);
                old.decided(holders.clone(), now)
            }
            Action::Finish => old.finished(),
            Action::Abandon => old.abandoned(),
            Action::Turn => old.turned(above),
        };
        self.advance_secret(desk, next, action)?;
        match action {
            Action::Prove => self.end_secret_order(desk, OperationState::Done, &self.proven()),
            Action::Abandon | Action::Turn => {
                self.shared.spoilt.fail(desk.moment.boot);
                self.end_secret_order(desk, OperationState::Failed, GIVEN_UP);
            }
            Action::Publish => self.shared.spoilt.reset(),
            _ => {}
        }
        Ok(())
    }

    /// Records a step. Who is in service announces nothing.
    fn advance_secret(
        &mut self,
        desk: &mut Desk<'_>,
        next: State,
        action: &Action,
    ) -> Result<(), DiskError> {
        let entry = entry(&next, &self.shared.state, self.shared.list.as_ref());
        if matches!(action, Action::Note(_)) {
            desk.note(&self.name, Kind::SharedSecret, entry)?;
        } else {
            desk.record(&self.name, Kind::SharedSecret, entry)?;
            self.shared.forget();
            self.shared.called.clear();
        }
        self.shared.state = next;
        Ok(())
    }

    fn begin_secret(&mut self, desk: &mut Desk<'_>, cause: Cause) -> Result<(), StepError> {
        let id = fresh_id(desk.moment);
        let order = self
            .secret_order
            .as_mut()
            .filter(|one| cause == Cause::Ordered && one.is_waiting());
        let actor = order
            .as_ref()
            .map_or("schedule", |one| &one.actor)
            .to_owned();
        let now = desk.moment.unix();
        let next = self.shared.state.begun(id.clone(), cause, &actor, now);
        self.advance_secret(desk, next, &Action::Begin(cause))?;
        if cause == Cause::Ordered
            && let Some(order) = &mut self.secret_order
        {
            order.rotation = Some(id);
        }
        self.note_orders(desk)?;
        Ok(())
    }

    /// Takes what a crash left under the same id, or makes a value.
    fn make_secret(&mut self, old: &State, now: u64) -> Result<State, StepError> {
        let id = old.rotation.as_ref().map(|rotation| rotation.id.clone());
        let id = id.unwrap_or_default();
        let blob = Blob::Secret(&id);
        let left = self.custody.read(blob)?;
        let value = if let Some(value) = left.filter(|text| is_whole(text)) {
            value
        } else {
            let mut bytes = Zeroizing::new([0; LENGTH]);
            getrandom::fill(&mut *bytes).expect("a kernel that runs us has randomness");
            let value = Zeroizing::new(base64::encode_url(&*bytes));
            self.custody.put(blob, &value)?;
            value
        };
        self.custody.settle(&[blob])?;
        let sha256 = Fingerprint::of(value.as_bytes()).to_string();
        self.shared.held.insert(id.clone());
        Ok(old.made(Secret::new(id, sha256, now)))
    }

    fn destroy_secrets(&mut self, old: &State) -> Result<State, StepError> {
        let blobs: Vec<Blob<'_>> = old.doomed.iter().map(|id| Blob::Secret(id)).collect();
        self.custody.destroy(&blobs)?;
        self.shared.held.retain(|id| !old.doomed.contains(id));
        Ok(old.destroyed())
    }

    fn republish_secret(&mut self, desk: &mut Desk<'_>) -> Result<(), StepError> {
        let Some(secret) = self.shared.state.presented() else {
            return Ok(());
        };
        let Some(value) = value(&self.custody, secret)? else {
            let id = secret.id.clone();
            self.shared.held.remove(&id);
            return Err(StepError::Lost("the shared secret"));
        };
        self.publication.secret = Some(Arc::new(control::Tunnel {
            tunnel: self.name.clone(),
            generation: secret.generation,
            token: control::Secret::new(value.to_string()),
        }));
        self.shared.published_at = desk.moment.boot;
        self.show(desk);
        Ok(())
    }

    fn tell_of(&self, holders: &[Holder]) {
        for holder in holders {
            tracing::error!(
                tunnel = self.name,
                replica = holder.replica,
                address = holder.address,
                instance = holder.instance,
                "unknown holder of the old shared secret will be cut"
            );
        }
    }
}

/// Whether this is a value as it is made here.
fn is_whole(text: &str) -> bool {
    base64::decode_url(text).is_some_and(|bytes| bytes.len() == LENGTH)
}

/// The record of a step from `old` to `next`; `list`: what the remote listed before it.
fn entry(next: &State, old: &State, list: Option<&Remote>) -> Entry {
    let rotation = next.rotation.as_ref().or(old.rotation.as_ref());
    let reason = rotation.map(|rotation| control::word(&rotation.cause));
    let ids = |list: &Remote| {
        let ids = list.secrets.iter().map(|listed| listed.id.as_str());
        ids.collect::<Vec<_>>().join(" ")
    };
    Entry {
        rotation_id: rotation.map(|one| one.id.clone()).unwrap_or_default(),
        phase: next.phase().to_owned(),
        reason: reason.unwrap_or_default(),
        actor: rotation.map_or_else(|| "schedule".to_owned(), |one| one.actor.clone()),
        old_ref: old.active.as_ref().map(|secret| secret.sha256.clone()),
        new_ref: next
            .new_one()
            .or(next.active.as_ref())
            .map(|secret| secret.sha256.clone()),
        remote_before: list.map(ids),
        attempts: 1,
        state: serde_json::to_value(next).unwrap_or_default(),
        ..Entry::default()
    }
}
