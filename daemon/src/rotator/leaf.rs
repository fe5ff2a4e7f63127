//! Carries out what the server certificate's machine decides.

use std::sync::Arc;

use pki::Linted;

use super::Moment;
use super::issue::{has_names, load_certificate, load_key};
use super::pending::Ordered;
use super::tunnel::{Desk, SIGNER, StepError, Tunnel, fresh_id};
use crate::custody::Blob;
use crate::disk::DiskError;
use crate::journal::{Entry, Kind};
use crate::rotation::authority::Ca;
use crate::rotation::server_certificate::{Action, Cause, Issuer, Seen, State, next};
use crate::rotation::{Leaf, Witness};
use crate::status::OperationState;

/// A leaf ends at least this long before its CA, unless that lives less than twice as long.
const CA_MARGIN: u64 = 86_400;

impl Tunnel {
    /// One step; `Some` if there is none, with the second until which there will be none.
    pub(super) fn step_leaf(&mut self, desk: &mut Desk<'_>, witnesses: &[Witness]) -> Option<u64> {
        let seen = self.seen(desk.moment, witnesses);
        let action = next(&self.leaf, &seen, desk.moment.unix());
        if let Action::Wait(until) = action {
            if !seen.paced {
                self.well("server certificate");
            }
            return Some(until);
        }
        match self.perform(desk, &action) {
            // Whether it works again is known when there is nothing left to do.
            Ok(()) => None,
            Err(error) => {
                self.fail(desk, &error);
                Some(desk.moment.unix() + 1)
            }
        }
    }

    fn seen(&mut self, moment: Moment, witnesses: &[Witness]) -> Seen {
        let issuer = match self.load_signer(moment) {
            // Nothing goes out that lets everybody in while the client CA is still to be made.
            Ok(()) if self.config.client_ca.is_some() && self.client_ca().is_none() => None,
            Ok(()) => {
                self.well(SIGNER);
                self.ca.active.as_ref().map(issuer)
            }
            Err(error) => {
                let text = format!("the CA cannot sign: {}", error.chain());
                self.trouble(SIGNER, text);
                None
            }
        };
        let serving = self.leaf.serving.clone();
        let usable = serving.as_ref().is_some_and(|leaf| self.is_usable(leaf));
        let fits = usable
            && serving
                .as_ref()
                .and_then(|leaf| self.pairs.get(&leaf.id))
                .is_some_and(|linted| has_names(&self.config, linted.certificate()));
        let kept = self.leaf.kept.clone();
        let trusted: Vec<String> = self.ca.trusted().map(|ca| ca.sha256.clone()).collect();
        let restorable = kept
            .iter()
            .filter(|leaf| trusted.contains(&leaf.issuer) && self.load_pair(leaf).is_ok())
            .map(|leaf| leaf.id.clone())
            .collect();
        let (key_usable, certificate_usable) = self.look_at_rotation();
        Seen {
            issuer,
            lifetime: self.config.server_certificate.lifetime.as_secs(),
            serving_usable: usable,
            fits,
            client_ca_fits: serving
                .as_ref()
                .is_some_and(|leaf| leaf.client_ca == self.wanted_client_ca()),
            fallback: self.ca.fallback().map(self::issuer),
            fallback_signs: self.fallback_signs(),
            restorable,
            key_usable,
            certificate_usable,
            serial_fresh: self.facts.serial_fresh,
            published: self
                .publication
                .credential
                .as_ref()
                .map_or(0, |credential| credential.message().generation),
            witnesses: witnesses.to_vec(),
            overdue: self.is_overdue(moment.boot),
            ordered: self.leaf_order.as_ref().is_some_and(Ordered::is_waiting),
            paced: self.leaf_pace.is_on(moment.boot),
            capped: self.is_capped(moment.boot),
            suspect: moment.suspect,
        }
    }

    /// Whether the key and the certificate of the rotation in flight are in custody.
    fn look_at_rotation(&self) -> (bool, bool) {
        let Some(rotation) = &self.leaf.rotation else {
            return (false, false);
        };
        let key = load_key(&self.custody, &rotation.id);
        let Some(key) = key else {
            return (false, false);
        };
        let certificate = load_certificate(&self.custody, &rotation.id, &key);
        let certificate = certificate
            .is_some_and(|pair| rotation.serial == Some(pair.certificate().serial().to_string()));
        (true, certificate)
    }

    fn perform(&mut self, desk: &mut Desk<'_>, action: &Action) -> Result<(), StepError> {
        let state = self.leaf.clone();
        match action {
            Action::Wait(_) => {}
            Action::Republish => self.republish(desk)?,
            Action::Begin(cause) => self.begin(desk, *cause)?,
            Action::MakeKey => {
                let algorithm = self.config.server_certificate.algorithm;
                self.make_key(&state, algorithm)?;
                self.draw_serial(desk)?;
            }
            Action::DrawSerial => self.draw_serial(desk)?,
            Action::Sign => self.sign(desk, &state)?,
            Action::TakeCertificate => self.take_certificate(desk, &state)?,
            Action::Check => {
                let leaf = in_flight(&state)?;
                self.check(leaf, desk.moment)?;
                // From here on it may go out, so all of it has to last.
                let id = leaf.id.as_str();
                self.custody
                    .settle(&[Blob::LeafKey(id), Blob::LeafCertificate(id)])?;
                let next = state.checked(self.facts.floor);
                self.advance_beside(desk, &next)?;
            }
            Action::Publish => self.publish(desk, &state)?,
            Action::Adopt { missing } => self.adopt(desk, &state, missing)?,
            Action::Retire(keep) => self.retire_kept(desk, &state, *keep)?,
            Action::Restore { id, cause, above } => {
                self.restore(desk, &state, id, *cause, *above)?;
            }
            Action::IssueFallback => self.issue_fallback(desk, &state)?,
            Action::Abandon(why) => self.abandon(desk, why, "abandoned")?,
        }
        Ok(())
    }

    fn begin(&mut self, desk: &mut Desk<'_>, cause: Cause) -> Result<(), StepError> {
        let Some(ca) = &self.ca.active else {
            return Err(StepError::Lost("a CA"));
        };
        let id = fresh_id(desk.moment);
        let order = self.leaf_order.as_ref().filter(|order| order.is_waiting());
        let actor = order.map_or("schedule", |order| &order.actor);
        let now = desk.moment.unix();
        let next = self.leaf.begun(id.clone(), cause, actor, &ca.sha256, now);
        self.note_advance(desk, next)?;
        let free = [Cause::Ordered, Cause::IssuerChanged, Cause::ClientCaChanged];
        if !free.contains(&cause) {
            self.facts.issued.push_back(desk.moment.boot);
        }
        // One that was ordered a moment ago is carried out by this one, whatever it began for.
        if let Some(order) = self.leaf_order.as_mut().filter(|order| order.is_waiting()) {
            order.rotation = Some(id);
        }
        Ok(self.note_orders(desk)?)
    }

    fn publish(&mut self, desk: &mut Desk<'_>, state: &State) -> Result<(), StepError> {
        let leaf = in_flight(state)?.clone();
        // What was in force before is taken back as it is, whatever its dates say meanwhile.
        let linted = self.check_form(&leaf)?;
        self.send(desk, &leaf, linted);
        self.note_advance(desk, state.published())?;
        self.facts.published_at = Some(desk.moment.boot);
        let named = self.leaf.blobs();
        self.pairs.retain(|id, _| named.contains(&id.as_str()));
        // So many are kept that the state let one go.
        for id in state.blobs().iter().filter(|id| !named.contains(id)) {
            self.custody
                .remove(&[Blob::LeafKey(id), Blob::LeafCertificate(id)])?;
        }
        tracing::info!(
            tunnel = self.name,
            generation = leaf.generation,
            leaf_sha256 = leaf.sha256,
            serial = leaf.serial,
            not_after = leaf.not_after,
            "server certificate published"
        );
        Ok(())
    }

    /// After a start: the same leaf in the same generation.
    fn republish(&mut self, desk: &mut Desk<'_>) -> Result<(), StepError> {
        let Some(leaf) = self.leaf.serving.clone() else {
            return Ok(());
        };
        let linted = self.check_form(&leaf)?;
        self.send(desk, &leaf, linted);
        self.facts.published_at = Some(desk.moment.boot);
        Ok(())
    }

    /// Puts a leaf into the files and on the board.
    fn send(&mut self, desk: &mut Desk<'_>, leaf: &Leaf, linted: Linted) {
        let credential = Arc::new(self.credential(leaf, linted));
        self.write_files(leaf, &credential);
        self.publication.credential = Some(credential);
        self.show(desk);
    }

    fn adopt(
        &mut self,
        desk: &mut Desk<'_>,
        state: &State,
        missing: &[String],
    ) -> Result<(), StepError> {
        let Some(rotation) = &state.rotation else {
            return Ok(());
        };
        let generation = state.serving.as_ref().map_or(0, |leaf| leaf.generation);
        let connected = self.witnesses(desk).iter().any(|proxy| proxy.connected);
        self.note_advance(desk, state.adopted())?;
        self.leaf_pace.reset();
        if missing.is_empty() && rotation.cause != Cause::Refused {
            self.well("refusal");
        }
        let (outcome, detail) = if !connected {
            let detail = format!("generation {generation} is published, but no proxy is connected");
            (OperationState::Done, detail)
        } else if missing.is_empty() {
            let detail = format!("generation {generation} is in force at every connected proxy");
            (OperationState::Done, detail)
        } else {
            let missing = missing.join(", ");
            let detail = format!("done, but these replicas have not acknowledged: {missing}");
            (OperationState::Failed, detail)
        };
        self.end_leaf_order(desk, &rotation.id, outcome, detail);
        Ok(())
    }

    /// Records that the rotation is given up; what it made in custody goes.
    fn abandon(&mut self, desk: &mut Desk<'_>, why: &str, class: &str) -> Result<(), StepError> {
        let Some(rotation) = self.leaf.rotation.clone() else {
            return Ok(());
        };
        let next = self.leaf.abandoned();
        let mut entry = entry(&next, &self.leaf);
        "abandoned".clone_into(&mut entry.phase);
        entry.error_class = Some(class.to_owned());
        desk.record(&self.name, Kind::ServerCertificate, entry)?;
        self.leaf = next;
        let detail = format!("given up: {why}");
        self.end_leaf_order(desk, &rotation.id, OperationState::Failed, detail);
        if !self.leaf.blobs().contains(&rotation.id.as_str()) {
            let id = &rotation.id;
            self.custody
                .destroy(&[Blob::LeafKey(id), Blob::LeafCertificate(id)])?;
        }
        Ok(())
    }

    /// A step was not done.
    fn fail(&mut self, desk: &mut Desk<'_>, error: &StepError) {
        let text = format!("server certificate: {}", error.chain());
        self.leaf_pace.fail(desk.moment.boot);
        self.trouble("server certificate", text.clone());
        // A full disk may have space again; everything else is better begun anew.
        if !matches!(error, StepError::Disk(_))
            && let Err(error) = self.abandon(desk, &text, error.class())
        {
            self.trouble("journal", error.chain());
        }
    }

    /// As [`advance`](Self::advance), where nothing follows that destroys what is needed or is seen from
    /// outside. Up to the publication only what is then in custody has to last; after it, only acks that
    /// are asked for once more.
    pub(super) fn note_advance(
        &mut self,
        desk: &mut Desk<'_>,
        next: State,
    ) -> Result<(), DiskError> {
        let entry = entry(&next, &self.leaf);
        desk.note(&self.name, Kind::ServerCertificate, entry)?;
        self.leaf = next;
        Ok(())
    }

    pub(super) fn advance(&mut self, desk: &mut Desk<'_>, next: State) -> Result<(), DiskError> {
        let entry = entry(&next, &self.leaf);
        desk.record(&self.name, Kind::ServerCertificate, entry)?;
        self.leaf = next;
        Ok(())
    }
}

fn issuer(ca: &Ca) -> Issuer {
    let life = ca.not_after.saturating_sub(ca.not_before);
    let margin = if life < 2 * CA_MARGIN { 0 } else { CA_MARGIN };
    Issuer {
        sha256: ca.sha256.clone(),
        last_second: ca.not_after.saturating_sub(margin),
    }
}

fn in_flight(state: &State) -> Result<&Leaf, StepError> {
    state
        .rotation
        .as_ref()
        .and_then(|rotation| rotation.leaf.as_ref())
        .ok_or(StepError::Lost("the certificate of the rotation"))
}

/// The record of a step from `old` to `next`.
pub(super) fn entry(next: &State, old: &State) -> Entry {
    let rotation = next.rotation.as_ref().or(old.rotation.as_ref());
    let leaf = rotation.and_then(|rotation| rotation.leaf.as_ref());
    let serving = old
        .serving
        .as_ref()
        .filter(|serving| leaf.is_none_or(|leaf| leaf.sha256 != serving.sha256));
    let replaced = serving.or(next.kept.first());
    Entry {
        rotation_id: rotation
            .map(|rotation| rotation.id.clone())
            .unwrap_or_default(),
        phase: next.phase().to_owned(),
        reason: rotation
            .and_then(|rotation| serde_json::to_value(rotation.cause).ok())
            .and_then(|cause| cause.as_str().map(str::to_owned))
            .unwrap_or_default(),
        actor: rotation
            .map(|rotation| rotation.actor.clone())
            .unwrap_or_default(),
        old_ref: replaced.map(|leaf| leaf.sha256.clone()),
        new_ref: leaf
            .or(next.serving.as_ref())
            .map(|leaf| leaf.sha256.clone()),
        attempts: 1,
        deadline_wall: rotation.map(|rotation| rotation.began + crate::rotation::HARD_DEADLINE),
        state: serde_json::to_value(next).unwrap_or_default(),
        ..Entry::default()
    }
}
