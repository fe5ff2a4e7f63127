//! The driver of the server certificate's machine, as `daemon::rotator` has it.

use daemon::rotation::authority::Ca;
use daemon::rotation::server_certificate::{Action, Cause, Issuer, Seen, State};
use daemon::rotation::{Leaf, Witness};

use super::disk::{self, Blob};
use super::guards::{self, Guard};
use super::judge::Deed;
use super::process::Credential;
use super::time::DAY;
use super::turn::{Halt, Step, Turn};

/// A leaf ends at least this long before its CA.
const CA_MARGIN: u64 = DAY;
const BACKDATE: u64 = 300;
/// Seconds that proxies have for their acks.
const ACK_LIMIT: u64 = 2;

impl Turn<'_> {
    /// One step; `Some` if there is none, with the second until which there will be none.
    pub(super) fn step_leaf(&mut self, witnesses: &[Witness]) -> Result<Option<u64>, Halt> {
        let seen = self.seen_leaf(witnesses);
        let action = guards::leaf(self.guard, &self.p.leaf, seen, self.moment.wall);
        if let Action::Wait(until) = action {
            let fallback = self.p.leaf.fallback.as_ref();
            let fallback = fallback.map_or(u64::MAX, |leaf| leaf.rekey_at);
            let wall = self.moment.wall;
            return Ok(Some(if fallback > wall {
                until.min(fallback)
            } else {
                until
            }));
        }
        match self.perform_leaf(&action) {
            Ok(()) => Ok(None),
            Err(Halt::Failed) => {
                self.p.leaf_pace.fail(self.moment.boot);
                self.abandon()?;
                Ok(Some(self.moment.wall + 1))
            }
            Err(Halt::Crash) => Err(Halt::Crash),
        }
    }

    fn seen_leaf(&mut self, witnesses: &[Witness]) -> Seen {
        let (boot, suspect) = (self.moment.boot, self.moment.suspect);
        let capped = self.p.is_capped(boot);
        let p = &self.p;
        let is_there = |ca: &&Ca| self.disk.has(&disk::ca(&ca.id));
        let has_pair = |leaf: &Leaf| {
            let pair = self.disk.certificate(&leaf.id);
            pair.is_some_and(|pair| pair.sha256 == leaf.sha256)
        };
        let usable = p.leaf.serving.as_ref().is_some_and(has_pair);
        let trusted: Vec<&str> = p.ca.trusted().map(|ca| ca.sha256.as_str()).collect();
        let kept = p.leaf.kept.iter();
        let restorable = kept
            .filter(|leaf| trusted.contains(&leaf.issuer.as_str()) && has_pair(leaf))
            .map(|leaf| leaf.id.clone());
        let rotation = p.leaf.rotation.as_ref();
        let key = rotation.is_some_and(|one| self.disk.has(&disk::leaf_key(&one.id)));
        let certificate = rotation.is_some_and(|one| {
            let pair = self.disk.certificate(&one.id);
            pair.is_some_and(|pair| Some(&pair.serial) == one.serial.as_ref())
        });
        Seen {
            issuer: p.ca.active.as_ref().filter(is_there).map(issuer),
            lifetime: self.traits.leaf_life,
            serving_usable: usable,
            fits: usable,
            client_ca_fits: p.leaf.serving.is_some(),
            fallback: self.fallback_ca().map(issuer),
            fallback_signs: self.fallback_ca().as_ref().is_some_and(is_there),
            restorable: restorable.collect(),
            key_usable: key,
            certificate_usable: key && certificate,
            serial_fresh: p.serial_fresh,
            published: p.board.credential.as_ref().map_or(0, |one| one.generation),
            witnesses: witnesses.to_vec(),
            overdue: p.published_at.is_none_or(|at| boot >= at + ACK_LIMIT),
            ordered: false,
            paced: p.leaf_pace.is_on(boot),
            capped,
            suspect,
        }
    }

    fn perform_leaf(&mut self, action: &Action) -> Step {
        let state = self.p.leaf.clone();
        match action {
            Action::Wait(_) => Ok(()),
            Action::Republish => {
                let leaf = state.serving.ok_or(Halt::Failed)?;
                self.send(&leaf);
                self.p.published_at = Some(self.moment.boot);
                Ok(())
            }
            Action::Begin(cause) => self.begin_leaf(*cause),
            Action::MakeKey => {
                let rotation = state.rotation.as_ref().ok_or(Halt::Failed)?;
                self.disk.put(disk::leaf_key(&rotation.id), Blob::LeafKey);
                self.draw_serial(&state)
            }
            Action::DrawSerial => self.draw_serial(&state),
            Action::Sign => self.sign(&state),
            Action::TakeCertificate => {
                let rotation = state.rotation.as_ref().ok_or(Halt::Failed)?;
                let pair = self.disk.certificate(&rotation.id).cloned();
                self.note_leaf(state.signed(pair.ok_or(Halt::Failed)?))
            }
            Action::Check => {
                let leaf = in_flight(&state)?;
                if !leaf.is_valid_at(self.moment.wall) {
                    return Err(Halt::Failed);
                }
                let names = [disk::leaf_key(&leaf.id), disk::certificate(&leaf.id)];
                self.disk.settle(&names);
                self.point()?;
                self.advance_beside(&state.checked(0))
            }
            Action::Publish => self.publish(&state),
            Action::Adopt { .. } => {
                self.note_leaf(state.adopted())?;
                self.p.leaf_pace.reset();
                Ok(())
            }
            Action::Retire(keep) => self.retire_kept(&state, *keep),
            Action::Restore { id, cause, above } => self.restore(&state, id, *cause, *above),
            Action::IssueFallback => self.issue_fallback(&state),
            Action::Abandon(_) => self.abandon(),
        }
    }

    fn begin_leaf(&mut self, cause: Cause) -> Step {
        let ca = self.p.ca.active.clone().ok_or(Halt::Failed)?;
        let (id, boot, wall) = (self.fresh(), self.moment.boot, self.moment.wall);
        let counts = !matches!(cause, Cause::IssuerChanged);
        let next = self.p.leaf.begun(id, cause, "schedule", &ca.sha256, wall);
        self.note(|records| {
            records.leaf = next.clone();
            if counts {
                records.issues.retain(|at| boot - at < 3600);
                records.issues.push(boot);
            }
        })?;
        self.p.leaf = next;
        if counts {
            self.p.issued.push_back(boot);
        }
        self.note_orders()
    }

    fn draw_serial(&mut self, state: &State) -> Step {
        let serial = self.fresh();
        self.note_leaf(state.keyed(serial))?;
        self.p.serial_fresh = true;
        Ok(())
    }

    fn sign(&mut self, state: &State) -> Step {
        let rotation = state.rotation.as_ref().ok_or(Halt::Failed)?;
        let serial = rotation.serial.clone().ok_or(Halt::Failed)?;
        let ca = self.p.ca.active.clone().ok_or(Halt::Failed)?;
        self.p.serial_fresh = false;
        let leaf = self.issue(&rotation.id, serial, &ca)?;
        self.note_leaf(state.signed(leaf))
    }

    /// A certificate into custody, beside its key.
    fn issue(&mut self, id: &str, serial: String, ca: &Ca) -> Result<Leaf, Halt> {
        let wall = self.moment.wall;
        let not_after = (wall + self.traits.leaf_life).min(issuer(ca).last_second);
        if self.jammed || wall < ca.not_before || not_after <= wall {
            return Err(Halt::Failed);
        }
        let life = not_after - wall;
        let latest = (life * 2 / 3).min(DAY);
        let leaf = Leaf {
            id: id.to_owned(),
            sha256: format!("leaf-{serial}"),
            serial,
            issuer: ca.sha256.clone(),
            issued_at: wall,
            not_before: (wall - BACKDATE).max(ca.not_before),
            not_after,
            rekey_at: wall + latest - latest * self.dice.below(100) / 1000,
            page_at: wall + life * 17 / 20,
            generation: 0,
            foreign: false,
            client_ca: None,
        };
        self.point()?;
        self.disk
            .put(disk::certificate(id), Blob::Certificate(leaf.clone()));
        self.deeds.push(Deed::Issued);
        self.point()?;
        Ok(leaf)
    }

    fn publish(&mut self, state: &State) -> Step {
        let leaf = in_flight(state)?.clone();
        self.send(&leaf);
        self.note_leaf(state.published())?;
        self.p.published_at = Some(self.moment.boot);
        let named: Vec<String> = self.p.leaf.blobs().into_iter().map(str::to_owned).collect();
        for id in state.blobs() {
            if !named.iter().any(|one| one == id) {
                self.forget_leaf(id);
            }
        }
        Ok(())
    }

    /// On the board, with the fallback that is wanted.
    fn send(&mut self, leaf: &Leaf) {
        let wanted = self.fallback_ca().is_some();
        let fallback = self.p.leaf.fallback.clone().filter(|_| wanted);
        let credential = Credential {
            generation: leaf.generation,
            leaf: leaf.clone(),
            fallback,
        };
        self.deeds
            .push(Deed::Published(Box::new(credential.clone())));
        self.p.board.credential = Some(credential);
    }

    fn retire_kept(&mut self, state: &State, keep: usize) -> Step {
        self.point()?;
        let fallback = state.fallback.as_ref().map(|leaf| &leaf.id);
        for leaf in state.kept.iter().skip(keep) {
            if Some(&leaf.id) != fallback {
                self.forget_leaf(&leaf.id);
                self.deeds.push(Deed::LeafKeyDestroyed);
            }
        }
        self.note_leaf(state.retired(keep))
    }

    fn restore(&mut self, state: &State, id: &str, cause: Cause, above: u64) -> Step {
        let mut leaves = state.kept.iter().chain(&state.serving);
        let leaf = leaves.find(|leaf| leaf.id == id).cloned();
        let leaf = leaf.ok_or(Halt::Failed)?;
        let next = state.restored(leaf, cause, "schedule", above, self.moment.wall);
        self.advance_beside(&next)?;
        if cause == Cause::Refused {
            self.p.leaf_pace.fail(self.moment.boot);
        }
        Ok(())
    }

    fn issue_fallback(&mut self, state: &State) -> Step {
        let old = self.fallback_ca().cloned();
        let (Some(old), Some(serving)) = (old, &state.serving) else {
            return Ok(());
        };
        let (id, serial) = (self.fresh(), self.fresh());
        self.disk.put(disk::leaf_key(&id), Blob::LeafKey);
        let leaf = self.issue(&id, serial, &old)?;
        self.disk
            .settle(&[disk::leaf_key(&id), disk::certificate(&id)]);
        self.p.issued.push_back(self.moment.boot);
        let with = state.with_fallback(leaf);
        let (serving, above) = (serving.id.clone(), state.generation);
        self.restore(&with, &serving, Cause::FallbackChanged, above)
    }

    /// Records a state with the fallback that its next publication is to have; the one before goes.
    fn advance_beside(&mut self, state: &State) -> Step {
        let issuer = self.fallback_ca().map(|ca| ca.sha256.clone());
        let next = state.beside(issuer.as_deref(), self.moment.wall);
        let before = self.p.leaf.fallback.clone();
        if self.guard == Some(Guard::NumberFirst) {
            self.note_leaf(next)?;
        } else {
            self.record(|records| records.leaf = next.clone())?;
            self.p.leaf = next;
        }
        if let Some(gone) = before
            && !self.p.leaf.blobs().contains(&gone.id.as_str())
        {
            self.forget_leaf(&gone.id);
        }
        Ok(())
    }

    /// The CA whose leaf is served beside the one in force.
    fn fallback_ca(&self) -> Option<&Ca> {
        let served = self.guard != Some(Guard::Fallback);
        self.p.ca.fallback().filter(|_| served)
    }

    fn abandon(&mut self) -> Step {
        let Some(rotation) = self.p.leaf.rotation.clone() else {
            return Ok(());
        };
        let next = self.p.leaf.abandoned();
        self.record(|records| records.leaf = next.clone())?;
        self.p.leaf = next;
        if !self.p.leaf.blobs().contains(&rotation.id.as_str()) {
            self.forget_leaf(&rotation.id);
        }
        Ok(())
    }

    fn forget_leaf(&mut self, id: &str) {
        self.disk.destroy(&disk::leaf_key(id));
        self.disk.destroy(&disk::certificate(id));
    }

    fn note_leaf(&mut self, next: State) -> Step {
        self.note(|records| records.leaf = next.clone())?;
        self.p.leaf = next;
        Ok(())
    }
}

pub(super) fn issuer(ca: &Ca) -> Issuer {
    let life = ca.not_after.saturating_sub(ca.not_before);
    let margin = if life < 2 * CA_MARGIN { 0 } else { CA_MARGIN };
    Issuer {
        sha256: ca.sha256.clone(),
        last_second: ca.not_after.saturating_sub(margin),
    }
}

fn in_flight(state: &State) -> Result<&Leaf, Halt> {
    let rotation = state.rotation.as_ref();
    rotation
        .and_then(|rotation| rotation.leaf.as_ref())
        .ok_or(Halt::Failed)
}
