//! Carries out what the authority's machine decides, for the CA of a tunnel and for its client CA.

use std::time::Duration;

use pki::{Authority, AuthorityProfile, Certificate, PrivateKey};
use zeroize::Zeroizing;

use super::pending::Ordered;
use super::tunnel::{Desk, StepError, Tunnel, fresh_id};
use super::{Moment, slots, unix};
use crate::config::AuthorityConfig;
use crate::custody::{Blob, Custody};
use crate::disk::DiskError;
use crate::journal::{Entry, Kind};
use crate::rotation::Witness;
use crate::rotation::authority::{Action, Ca, Making, Role, Seen, State, next};
use crate::status::OperationState;

/// A standby CA waits for about half the life of the one before it; it lives that much longer, so
/// that it signs for `ca.lifetime` all the same.
const STANDBY_EXTRA: u32 = 2;
/// Characters of a tunnel's name in the name of its CA; 64 is all that a common name has.
const NAME_IN_SUBJECT: usize = 20;

impl Tunnel {
    /// One step of the CA or of the client CA; whether there was one.
    pub(super) fn step_ca(&mut self, desk: &mut Desk<'_>, witnesses: &[Witness]) -> bool {
        let paced = self.ca_pace.is_on(desk.moment.boot);
        if let Some(action) = self.next_of_client_ca(paced) {
            return self.done("client CA", desk, |tunnel, desk| {
                tunnel.perform_client_ca(desk, &action)
            });
        }
        if self.config.remote().is_some() {
            return self.step_slots(desk, witnesses);
        }
        let serving = self.leaf.serving.as_ref();
        let generation = serving.map_or(0, |leaf| leaf.generation);
        let seen = Seen {
            settled_issuer: serving
                .filter(|_| self.leaf.rotation.is_none())
                .map(|leaf| leaf.issuer.clone()),
            // Nobody is no evidence.
            acknowledged: !witnesses.is_empty()
                && witnesses.iter().all(|witness| witness.acked >= generation),
            deserted: self.is_deserted(witnesses, desk.moment.boot),
            ordered: self.ca_order.as_ref().is_some_and(Ordered::is_waiting),
            paced,
            suspect: desk.moment.suspect,
        };
        let action = next(&self.ca, &seen, desk.moment.unix());
        if action == Action::Wait {
            if !paced {
                self.well("CA");
            }
            return false;
        }
        self.done("CA", desk, |tunnel, desk| tunnel.perform_ca(desk, &action))
    }

    /// Client CAs are made, and nothing more.
    fn next_of_client_ca(&self, paced: bool) -> Option<Action> {
        let wanted = self.config.client_ca.is_some() && !paced;
        if !wanted || self.client_ca.active.is_some() {
            return None;
        }
        Some(match self.client_ca.making {
            Some(_) => Action::Make,
            None => Action::Begin(Role::Active),
        })
    }

    /// Whether the step was done; a failure is noted and paced.
    pub(super) fn done(
        &mut self,
        topic: &'static str,
        desk: &mut Desk<'_>,
        step: impl FnOnce(&mut Self, &mut Desk<'_>) -> Result<(), StepError>,
    ) -> bool {
        match step(self, desk) {
            Ok(()) => {
                self.ca_pace.reset();
                self.well(topic);
                true
            }
            Err(error) => {
                self.ca_pace.fail(desk.moment.boot);
                self.trouble(topic, format!("{topic}: {}", error.chain()));
                false
            }
        }
    }

    pub(super) fn perform_ca(
        &mut self,
        desk: &mut Desk<'_>,
        action: &Action,
    ) -> Result<(), StepError> {
        let old = self.ca.clone();
        match action {
            Action::Wait => Ok(()),
            Action::Begin(role) => {
                Ok(self.advance_ca(desk, old.begun(fresh_id(desk.moment), *role))?)
            }
            Action::Make => self.make_ca(desk, &old),
            Action::Switch => self.switch_ca(desk, &old),
            Action::Adopt => self.adopt_ca(desk, &old),
            Action::Retire => self.retire(desk, &old),
            Action::Discard => self.discard_ca(desk, &old),
        }
    }

    fn make_ca(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        let Some(making) = &old.making else {
            return Ok(());
        };
        let config = self.config.ca;
        let extra = match making.role {
            Role::Active => Duration::ZERO,
            Role::Standby => config.lifetime / STANDBY_EXTRA,
        };
        let subject = self.subject("CA", &making.id);
        let profile = AuthorityProfile {
            lifetime: config.lifetime + extra,
            ..self.profile(config, AuthorityProfile::server(&subject))
        };
        let ca = self.make(making, &profile, desk.moment)?;
        // It is found under its id again if this record is lost.
        self.note_ca(desk, old.made(ca))?;
        self.facts.files_stale = true;
        Ok(())
    }

    fn switch_ca(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        let moment = desk.moment;
        if let Some(standby) = &old.standby {
            // If it cannot issue this one, it can renew none.
            self.rehearse(&self.load_authority(standby, moment)?, moment)?;
        }
        let id = fresh_id(moment);
        let actor = self
            .ca_order
            .as_ref()
            .map_or("schedule", |order| &order.actor);
        let next = old.switched(id.clone(), actor, moment.unix());
        // What it leads to is recorded for good before it goes out: a leaf of the new CA.
        self.note_ca(desk, next)?;
        if let Some(order) = &mut self.ca_order {
            order.rotation = Some(id);
        }
        self.note_orders(desk)?;
        Ok(())
    }

    fn adopt_ca(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        self.note_ca(desk, old.adopted())?;
        let switch = old.switch.as_ref().map(|switch| &switch.id);
        let is_its = |order: &mut Ordered| order.rotation.as_ref() == switch;
        if let Some(order) = self.ca_order.take_if(is_its) {
            let detail = "switched, and every proxy in service serves the new CA".to_owned();
            let now = desk.moment.unix();
            let done = OperationState::Done;
            desk.operations.end(&order.operation, done, detail, now);
        }
        Ok(())
    }

    fn discard_ca(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        let Some(standby) = &old.standby else {
            return Ok(());
        };
        self.advance_ca(desk, old.discarded())?;
        self.custody
            .destroy(&[Blob::CaKey(&standby.id), Blob::CaCertificate(&standby.id)])?;
        self.certificates.remove(&standby.id);
        Ok(())
    }

    /// The key goes first: if the record were first, a crash between would leave a key that nobody
    /// looks for.
    fn retire(&mut self, desk: &mut Desk<'_>, old: &State) -> Result<(), StepError> {
        let mut gone = Vec::new();
        if let Some(ca) = &old.old {
            // The store has it too: in the current set until the new one is written, then in earlier
            // ones.
            self.refresh_files();
            if self.facts.files_stale {
                return Err(StepError::Stale);
            }
            self.store.forget_old_ca_keys()?;
            gone.push(Blob::CaKey(&ca.id));
        }
        // Nobody has been told to trust it since the switch began.
        gone.extend(old.retired.iter().map(|ca| Blob::CaCertificate(&ca.id)));
        self.custody.destroy(&gone)?;
        self.note_ca(desk, old.retired())?;
        if let Some(ca) = &old.retired {
            self.certificates.remove(&ca.id);
        }
        Ok(())
    }

    fn perform_client_ca(&mut self, desk: &mut Desk<'_>, action: &Action) -> Result<(), StepError> {
        let (Some(config), old) = (self.config.client_ca, self.client_ca.clone()) else {
            return Ok(());
        };
        let next = match (action, &old.making) {
            (Action::Begin(role), _) => old.begun(fresh_id(desk.moment), *role),
            (Action::Make, Some(making)) => {
                let subject = self.subject("client CA", &making.id);
                let profile = self.profile(config, AuthorityProfile::client(&subject));
                let ca = self.make(making, &profile, desk.moment)?;
                self.facts.files_stale = true;
                old.made(ca)
            }
            _ => return Ok(()),
        };
        desk.record(&self.name, Kind::ClientCa, entry(&next, &old))?;
        self.client_ca = next;
        Ok(())
    }

    /// Takes what a crash left under the same id, or makes a new key over it.
    fn make(
        &mut self,
        making: &Making,
        profile: &AuthorityProfile,
        moment: Moment,
    ) -> Result<Ca, StepError> {
        let id = &making.id;
        let left = load(&self.custody, id)?
            .and_then(|(certificate, key)| Authority::load(certificate, key?, moment.wall).ok());
        let authority = if let Some(authority) = left {
            authority
        } else {
            let authority = Authority::generate(profile, moment.wall)?;
            let key = authority.private_key().to_pem();
            self.custody.put(Blob::CaKey(id), &key)?;
            let certificate = authority.certificate().to_pem();
            self.custody.put(Blob::CaCertificate(id), &certificate)?;
            authority
        };
        self.custody
            .settle(&[Blob::CaKey(id), Blob::CaCertificate(id)])?;
        let certificate = authority.certificate().clone();
        let ca = reference(id, &certificate);
        self.certificates.insert(id.clone(), certificate);
        Ok(ca)
    }

    pub(super) fn advance_ca(&mut self, desk: &mut Desk<'_>, next: State) -> Result<(), DiskError> {
        desk.record(&self.name, Kind::Ca, entry(&next, &self.ca))?;
        self.ca = next;
        Ok(())
    }

    /// As [`advance_ca`](Self::advance_ca), where a power loss may take the step back.
    pub(super) fn note_ca(&mut self, desk: &mut Desk<'_>, next: State) -> Result<(), DiskError> {
        desk.note(&self.name, Kind::Ca, entry(&next, &self.ca))?;
        self.ca = next;
        Ok(())
    }

    /// Makes the CA in force ready to sign, if it is not yet.
    pub(super) fn load_signer(&mut self, moment: Moment) -> Result<(), StepError> {
        let Some(active) = &self.ca.active else {
            return Err(StepError::Lost("a CA"));
        };
        if self.signer.as_ref().is_none_or(|(id, _)| *id != active.id) {
            let authority = self.load_authority(active, moment)?;
            self.signer = Some((active.id.clone(), authority));
        }
        Ok(())
    }

    /// The same for the client CA.
    pub(super) fn load_client_signer(&mut self, moment: Moment) -> Result<(), StepError> {
        let Some(active) = &self.client_ca.active else {
            return Err(StepError::Lost("a client CA"));
        };
        if self
            .client_signer
            .as_ref()
            .is_none_or(|(id, _)| *id != active.id)
        {
            let authority = self.load_authority(active, moment)?;
            self.client_signer = Some((active.id.clone(), authority));
        }
        Ok(())
    }

    pub(super) fn load_authority(&self, ca: &Ca, moment: Moment) -> Result<Authority, StepError> {
        let (certificate, key) = load(&self.custody, &ca.id)?.ok_or(StepError::Lost("the CA"))?;
        let key = match key {
            Some(key) => key,
            // The store has a copy of the CA in force.
            None => self.key_in_store(ca).ok_or(StepError::Lost("the CA key"))?,
        };
        Authority::load(certificate, key, moment.wall)
            .map_err(|error| StepError::Lint(error.to_string()))
    }

    fn key_in_store(&self, ca: &Ca) -> Option<PrivateKey> {
        let stored = self.store.read().ok()?.ca?;
        let same = stored.certificate.fingerprint().to_string() == ca.sha256;
        stored.key.filter(|_| same)
    }

    /// The key of a CA; `None`: it is not there. One that cannot be read is no key that is lost.
    pub(super) fn ca_key(&self, ca: &Ca) -> Result<Option<Zeroizing<String>>, DiskError> {
        self.custody.read(Blob::CaKey(&ca.id))
    }

    fn profile(&self, config: AuthorityConfig, profile: AuthorityProfile) -> AuthorityProfile {
        AuthorityProfile {
            lifetime: config.lifetime,
            algorithm: config.algorithm,
            constrained_to: config.constrained.then(|| self.config.domain.clone()),
            ..profile
        }
    }

    /// Distinct for each CA, since verifiers look for an issuer by its name.
    fn subject(&self, what: &str, id: &str) -> String {
        let name = self.name.get(..NAME_IN_SUBJECT).unwrap_or(&self.name);
        format!("{name} {what} {id}")
    }
}

/// What a state says of a certificate.
pub(super) fn reference(id: &str, certificate: &Certificate) -> Ca {
    Ca {
        id: id.to_owned(),
        sha256: certificate.fingerprint().to_string(),
        not_before: unix(certificate.validity().not_before()),
        not_after: unix(certificate.validity().not_after()),
    }
}

/// A CA from custody: its certificate, and the key if it is still there.
pub(super) fn load(
    custody: &Custody,
    id: &str,
) -> Result<Option<(Certificate, Option<PrivateKey>)>, DiskError> {
    let certificate = custody.read(Blob::CaCertificate(id))?;
    let Some(certificate) = certificate.and_then(|text| Certificate::from_pem(&text).ok()) else {
        return Ok(None);
    };
    let key = custody.read(Blob::CaKey(id))?;
    let key = key.and_then(|text| PrivateKey::from_pem(&text).ok());
    Ok(Some((certificate, key)))
}

/// The record of a step from `old` to `next`.
pub(super) fn entry(next: &State, old: &State) -> Entry {
    let sha256 = |ca: &Option<Ca>| ca.as_ref().map(|ca| ca.sha256.clone());
    if let Some(rotation) = next.slots.rotation.as_ref().or(old.slots.rotation.as_ref()) {
        return slots::entry(next, old, rotation);
    }
    let switch = next.switch.as_ref().or(old.switch.as_ref());
    let making = next.making.as_ref().or(old.making.as_ref());
    Entry {
        rotation_id: switch
            .map(|switch| &switch.id)
            .or(making.map(|making| &making.id))
            .cloned()
            .unwrap_or_default(),
        phase: next.phase().to_owned(),
        reason: if switch.is_some() {
            "ordered"
        } else {
            "prepared ahead"
        }
        .to_owned(),
        actor: switch.map_or("schedule", |switch| &switch.actor).to_owned(),
        old_ref: sha256(&next.old).or(sha256(&next.retired)),
        new_ref: if next.standby == old.standby {
            sha256(&next.active)
        } else {
            sha256(&next.standby)
        },
        attempts: 1,
        state: serde_json::to_value(next).unwrap_or_default(),
        ..Entry::default()
    }
}
