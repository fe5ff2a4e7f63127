//! Carries out what the slots' machine decides, for the CA of a tunnel whose remote can be asked.
//!
//! A turn leaves at most one call, and takes what came of it into a later one. What a call did is never read from its
//! answer alone: a list follows.

use std::time::Duration;

use super::pending::Ordered;
use super::remote::chain;
use super::tunnel::{Desk, Pace, StepError, Tunnel, fresh_id};
use super::{Moment, TICK};
use crate::config::When;
use crate::custody::Blob;
use crate::disk::DiskError;
use crate::journal::{Entry, Kind};
use crate::remote::{Answer, Call, Lane, Told};
use crate::rotation::Witness;
use crate::rotation::authority::{self, Ca, State};
use crate::rotation::slots::{Action, Listing, Reason, Registration, Rotation, Seen, What, next};
use crate::status::OperationState;
use crate::tunnels::CallError;

/// Topic of calls that changed nothing.
const CALLS: &str = "registration";
/// Topic of lists that did not come.
const LISTS: &str = "registered CAs";

/// What this process knows of the remote's slots, and the journal does not.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// What it lists, read after everything that was asked of it before.
    listing: Option<Listing>,
    /// What it listed last, for a person.
    pub(super) shown: Option<Listing>,
    /// After lists that did not come.
    list_pace: Pace,
    /// After calls that changed nothing.
    call_pace: Pace,
    /// What was seen last.
    pub(super) seen: Seen,
    /// There is no step before this second.
    until: Option<u64>,
}

impl Slots {
    pub(super) fn paces(&self) -> [&Pace; 2] {
        [&self.list_pace, &self.call_pace]
    }

    /// How long there is no step, unless something else is seen.
    pub(super) fn left(&self, moment: Moment) -> Duration {
        let left = self.until.map(|until| until.saturating_sub(moment.unix()));
        // What is due at any moment waits for news, which are a reason for a turn themselves.
        let left = left.filter(|left| *left > 1);
        left.map_or(TICK, Duration::from_secs)
    }
}

impl Tunnel {
    /// One step of the CA at the remote; whether there was one.
    pub(super) fn step_slots(&mut self, desk: &mut Desk<'_>, witnesses: &[Witness]) -> bool {
        let seen = self.seen_slots(desk, witnesses);
        let action = next(&self.ca, &seen, desk.moment.unix());
        let paced = seen.paced;
        self.slots.seen = seen;
        self.slots.until = None;
        if let Action::Wait(until) = action {
            if !paced {
                self.well("CA");
            }
            self.slots.until = Some(until);
            return false;
        }
        self.done("CA", desk, |tunnel, desk| {
            tunnel.perform_slots(desk, &action)
        })
    }

    /// Takes what came of a call about CA certificates.
    pub(super) fn told_ca(&mut self, desk: &mut Desk<'_>, told: Told) {
        let Told { ask, result } = told;
        let boot = desk.moment.boot;
        match (ask.call, result) {
            (Call::Certificates, Ok(Answer::Certificates(all))) => {
                self.slots.list_pace.reset();
                let listing = listing(all, desk.moment);
                self.slots.shown = Some(listing.clone());
                self.slots.listing = Some(listing);
                self.well(LISTS);
            }
            (Call::Certificates, Err(error)) => {
                if self.slots.list_pace.after(boot, &error) {
                    let text = format!("the CAs of the tunnel cannot be listed: {}", chain(&error));
                    self.trouble(LISTS, text);
                }
            }
            (_, Ok(Answer::Certificate(one))) => {
                let next = self.ca.answered(&one.id);
                self.note_told(desk, next);
            }
            (_, Err(error)) => {
                // Whatever else came of it, the list decides.
                let next = match &error {
                    CallError::NotSent(_) => Some(self.ca.forgotten()),
                    CallError::Unknown(_) => Some(self.ca.unanswered(desk.moment.unix())),
                    CallError::Refused(_) => None,
                };
                if let Some(next) = next {
                    self.note_told(desk, next);
                }
                if self.slots.call_pace.after(boot, &error) {
                    let text =
                        format!("the CAs of the tunnel cannot be changed: {}", chain(&error));
                    self.trouble(CALLS, text);
                }
            }
            (_, Ok(_)) => {}
        }
    }

    fn note_told(&mut self, desk: &mut Desk<'_>, next: State) {
        if let Err(error) = self.advance_ca(desk, next) {
            // The list shows the same, somewhat later.
            self.trouble("journal", StepError::from(error).chain());
        }
    }

    fn seen_slots(&self, desk: &Desk<'_>, witnesses: &[Witness]) -> Seen {
        let boot = desk.moment.boot;
        let served = self.served_slots(desk, witnesses);
        let serving = self.leaf.serving.as_ref();
        let published = self.publication.credential.as_ref();
        let fallback = published.is_some_and(|one| one.message().fallback.is_some());
        Seen {
            listing: self.slots.listing.clone(),
            calling: desk.calls.is_under_way(&self.name, Lane::Ca),
            closed: !self.remote.is_ours()
                || self.slots.paces().iter().any(|pace| pace.is_on(boot)),
            settle: self.config.ca.settle.as_secs(),
            leaf: self.config.server_certificate.lifetime.as_secs(),
            settled_issuer: serving
                .filter(|_| self.leaf.rotation.is_none())
                .map(|leaf| leaf.issuer.clone()),
            fallback: fallback || self.leaf.fallback.is_some(),
            served,
            left: self.proxies(desk).1,
            watched: self.until_deserted(boot).is_zero(),
            young: self.is_young(boot),
            ordered: self.ca_order.as_ref().is_some_and(Ordered::is_waiting),
            by_itself: self.config.rotate.ca == When::Auto
                && self.config.rotate.calendar.is_open(desk.moment.unix()),
            paced: self.ca_pace.is_on(boot),
            suspect: desk.moment.suspect,
        }
    }

    fn perform_slots(&mut self, desk: &mut Desk<'_>, action: &Action) -> Result<(), StepError> {
        let (old, now) = (self.ca.clone(), desk.moment.unix());
        match action {
            Action::Wait(_) => {}
            Action::Begin(role) => self.perform_ca(desk, &authority::Action::Begin(*role))?,
            Action::Make => self.perform_ca(desk, &authority::Action::Make)?,
            Action::Discard => self.perform_ca(desk, &authority::Action::Discard)?,
            Action::List => {
                desk.calls.ask(self, Lane::Ca, Call::Certificates);
            }
            Action::Register(ca) => self.register(desk, ca)?,
            Action::Archive(one) => self.archive(desk, one)?,
            Action::Forget => self.advance_ca(desk, old.forgotten())?,
            Action::Listed(one) => {
                self.advance_ca(desk, old.listed(&one.sha256, &one.id, now))?;
                self.changed(desk, "registered, and given to the verifiers to settle");
            }
            Action::Gone(sha256) => {
                self.advance_ca(desk, old.gone(sha256, now))?;
                self.changed(desk, "the CA before is archived");
            }
            Action::Rotate(reason) => self.begin_rotation(desk, *reason)?,
            Action::TakeOver => {
                self.advance_ca(desk, old.taken_over(fresh_id(desk.moment), now))?;
            }
            Action::SwitchOver => self.switch_over(desk, &old)?,
            Action::Note(roster) => self.note_ca(desk, old.noted(roster.clone()))?,
            Action::Prove(proofs) => self.advance_ca(desk, old.proven(proofs))?,
            Action::Conclude => self.advance_ca(desk, old.concluded(now))?,
            Action::Retire => self.let_go(desk, &old)?,
            Action::RollBack(why) => {
                tracing::warn!(tunnel = self.name, why, "CA rotation rolled back");
                self.advance_ca(desk, old.rolling_back(why, now))?;
            }
            Action::RolledBack => self.rolled_back(desk, &old)?,
        }
        Ok(())
    }

    /// The intent first: if this process ends before it hears of the call, the next one lists.
    fn register(&mut self, desk: &mut Desk<'_>, ca: &Ca) -> Result<(), StepError> {
        let certificate = self.certificate(ca).ok_or(StepError::Lost("the CA"))?;
        let pem = certificate.to_pem();
        if self.ca_key(ca)?.is_none() && self.signer.as_ref().is_none_or(|(id, _)| *id != ca.id) {
            return Err(StepError::Lost("the key of the CA to be registered"));
        }
        let now = desk.moment.unix();
        let next = self.ca.asking(What::Register, &ca.sha256, None, now);
        self.intend(desk, next)?;
        desk.calls.ask(self, Lane::Ca, Call::AddCertificate { pem });
        Ok(())
    }

    fn archive(&mut self, desk: &mut Desk<'_>, one: &Registration) -> Result<(), StepError> {
        let now = desk.moment.unix();
        let id = one.id.clone();
        let next = self
            .ca
            .asking(What::Archive, &one.sha256, Some(id.clone()), now);
        self.intend(desk, next)?;
        let reason = match self.ca.slots.rotation.as_ref() {
            Some(rotation) => format!("rotation {} by keyward", rotation.id),
            None => "not used any more by keyward".to_owned(),
        };
        tracing::info!(
            tunnel = self.name,
            id,
            sha256 = one.sha256,
            "CA is being archived"
        );
        let call = Call::ArchiveCertificate { id, reason };
        desk.calls.ask(self, Lane::Ca, call);
        Ok(())
    }

    fn intend(&mut self, desk: &mut Desk<'_>, next: State) -> Result<(), DiskError> {
        let mut entry = super::ca::entry(&next, &self.ca);
        let listed = self.slots.listing.take();
        entry.remote_before = listed.map(|listing| {
            let ids = listing.registrations.into_iter().map(|one| one.id);
            ids.collect::<Vec<_>>().join(" ")
        });
        desk.record(&self.name, Kind::Ca, entry)?;
        self.ca = next;
        Ok(())
    }

    /// The remote did what it was asked for.
    fn changed(&mut self, desk: &mut Desk<'_>, detail: &str) {
        self.slots.call_pace.reset();
        self.well(CALLS);
        self.say(desk, detail);
    }

    /// What whoever ordered the rotation is told of it.
    fn say(&self, desk: &mut Desk<'_>, detail: &str) {
        if let Some(order) = self.ca_order.as_ref().filter(|order| !order.is_waiting()) {
            desk.operations.say(&order.operation, detail);
        }
    }

    fn begin_rotation(&mut self, desk: &mut Desk<'_>, reason: Reason) -> Result<(), StepError> {
        let id = fresh_id(desk.moment);
        let order = self.ca_order.as_ref().filter(|order| order.is_waiting());
        let actor = order.map_or("schedule", |order| &order.actor).to_owned();
        let next = self
            .ca
            .rotating(id.clone(), &actor, reason, desk.moment.unix());
        self.advance_ca(desk, next)?;
        if let Some(order) = self.ca_order.as_mut().filter(|order| order.is_waiting()) {
            order.rotation = Some(id);
        }
        Ok(self.note_orders(desk)?)
    }

    fn switch_over(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        if let Some(standby) = &old.standby {
            // If it cannot issue this one, it can renew none.
            let authority = self.load_authority(standby, desk.moment)?;
            self.rehearse(&authority, desk.moment)?;
        }
        self.advance_ca(desk, old.switched_over(desk.moment.unix()))?;
        self.say(
            desk,
            "switched; the CA before is archived when callers were seen under the new one at every proxy",
        );
        self.facts.files_stale = true;
        Ok(())
    }

    /// The key goes first: if the record were first, a crash between would leave a key that nobody looks for.
    fn let_go(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        if let Some(ca) = &old.old {
            // The store has it too: in the current set until the new one is written, then in earlier ones.
            self.refresh_files();
            if self.facts.files_stale {
                return Err(StepError::Stale);
            }
            self.store.forget_old_ca_keys()?;
            self.custody
                .destroy(&[Blob::CaKey(&ca.id), Blob::CaCertificate(&ca.id)])?;
        }
        self.advance_ca(desk, old.let_go())?;
        if let Some(ca) = &old.old {
            self.certificates.remove(&ca.id);
        }
        let detail = "the new CA is proven, and the one before is archived and its key destroyed";
        self.end_rotation(desk, old, OperationState::Done, detail.to_owned());
        Ok(())
    }

    fn rolled_back(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        if let Some(standby) = &old.standby {
            self.custody
                .destroy(&[Blob::CaKey(&standby.id), Blob::CaCertificate(&standby.id)])?;
            self.certificates.remove(&standby.id);
        }
        self.advance_ca(desk, old.rolled_back())?;
        self.slots.call_pace.reset();
        self.well(CALLS);
        let rotation = old.slots.rotation.as_ref();
        let why = rotation.and_then(|rotation| rotation.failure.as_deref());
        let detail = format!("rolled back: {}", why.unwrap_or_default());
        self.end_rotation(desk, old, OperationState::Failed, detail);
        Ok(())
    }

    fn end_rotation(
        &mut self,
        desk: &mut Desk<'_>,
        old: &State,
        outcome: OperationState,
        detail: String,
    ) {
        let rotation = old.slots.rotation.as_ref().map(|rotation| &rotation.id);
        if let Some(order) = self
            .ca_order
            .take_if(|order| order.rotation.as_ref() == rotation && rotation.is_some())
        {
            let now = desk.moment.unix();
            desk.operations.end(&order.operation, outcome, detail, now);
        }
    }
}

fn listing(all: Vec<api::Certificate>, moment: Moment) -> Listing {
    let registration = |one: api::Certificate| Registration {
        id: one.id,
        sha256: one.fingerprint,
    };
    Listing {
        at: moment.unix(),
        registrations: all.into_iter().map(registration).collect(),
    }
}

/// The record of a step from `old` to `next`, within this rotation.
pub(super) fn entry(next: &State, old: &State, rotation: &Rotation) -> Entry {
    let sha256 = |ca: &Option<Ca>| ca.as_ref().map(|ca| ca.sha256.clone());
    Entry {
        rotation_id: rotation.id.clone(),
        phase: next.phase().to_owned(),
        reason: match rotation.reason {
            Reason::Ordered => "ordered",
            Reason::Due => "scheduled",
            Reason::TakenOver => "taken over",
        }
        .to_owned(),
        actor: rotation.actor.clone(),
        old_ref: sha256(&next.old).or(sha256(&old.old)),
        new_ref: sha256(if next.old.is_some() {
            &next.active
        } else {
            &next.standby
        }),
        attempts: 1,
        error_class: rotation.failure.as_ref().map(|_| "rolled_back".to_owned()),
        state: serde_json::to_value(next).unwrap_or_default(),
        ..Entry::default()
    }
}
