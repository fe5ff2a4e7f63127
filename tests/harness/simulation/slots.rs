//! The driver of the CA's machine, as `daemon::rotator` has it.

use daemon::rotation::Witness;
use daemon::rotation::authority::{Ca, Role, State};
use daemon::rotation::slots::{Action, Grade, Listing, Phase, Seen, Served, Tally, What};

use super::disk::{self, Blob, Ordered};
use super::far::{Answer, Call};
use super::guards::{self, Guard};
use super::judge::Deed;
use super::process::Lane;
use super::turn::{Halt, Step, Turn};

/// A standby lives this much longer, as a part of the life of a CA.
const STANDBY_EXTRA: u64 = 2;
const BACKDATE: u64 = 300;

impl Turn<'_> {
    /// One step; whether there was one.
    pub(super) fn step_slots(&mut self, witnesses: &[Witness]) -> Result<bool, Halt> {
        let seen = self.seen_slots(witnesses);
        let action = guards::slots(self.guard, &self.p.ca, seen, self.moment.wall);
        if let Action::Wait(until) = action {
            self.slots_due = until;
            return Ok(false);
        }
        match self.perform_slots(&action) {
            Ok(()) => {
                self.p.ca_pace.reset();
                Ok(true)
            }
            Err(Halt::Failed) => {
                self.p.ca_pace.fail(self.moment.boot);
                Ok(false)
            }
            Err(Halt::Crash) => Err(Halt::Crash),
        }
    }

    /// Takes what came of a call; `None`: nobody knows, `Err`: it was not made.
    pub(super) fn told_ca(&mut self, call: &Call, answer: Result<Option<Answer>, ()>) -> Step {
        let boot = self.moment.boot;
        match (call, answer) {
            (Call::Certificates, Ok(Some(Answer::Certificates(registrations)))) => {
                self.p.list_pace.reset();
                self.p.listing = Some(Listing {
                    at: self.moment.wall,
                    registrations,
                });
            }
            (Call::Certificates, _) => self.p.list_pace.fail(boot),
            (_, Ok(Some(Answer::Certificate(id)))) => {
                let next = self.p.ca.answered(&id);
                return self.advance_ca(next);
            }
            (_, Err(())) => {
                self.p.call_pace.fail(boot);
                let next = self.p.ca.forgotten();
                return self.advance_ca(next);
            }
            (_, Ok(None)) => {
                self.p.call_pace.fail(boot);
                let next = self.p.ca.unanswered(self.moment.wall);
                return self.advance_ca(next);
            }
            (_, Ok(Some(Answer::Refused(_)))) => self.p.call_pace.fail(boot),
            (_, Ok(Some(_))) => {}
        }
        Ok(())
    }

    fn seen_slots(&self, witnesses: &[Witness]) -> Seen {
        let p = &self.p;
        let boot = self.moment.boot;
        let paces = [&p.list_pace, &p.call_pace];
        let serving = p.leaf.serving.as_ref();
        let published = p.board.credential.as_ref();
        let fallback = published.is_some_and(|one| one.fallback.is_some());
        Seen {
            listing: p.listing.clone(),
            calling: self.is_under_way(Lane::Ca),
            closed: !p.is_ours || paces.iter().any(|pace| pace.is_on(boot)),
            settle: self.traits.settle,
            leaf: self.traits.leaf_life,
            settled_issuer: serving
                .filter(|_| p.leaf.rotation.is_none())
                .map(|leaf| leaf.issuer.clone()),
            fallback: fallback || p.leaf.fallback.is_some(),
            served: self.served(witnesses),
            left: p.witnesses(self.moment.wall).1,
            watched: p.has_watched(boot),
            young: p.is_young(boot),
            ordered: p.orders.ca.as_ref().is_some_and(Ordered::is_waiting),
            by_itself: self.traits.calendar.is_open(self.moment.wall),
            paced: p.ca_pace.is_on(boot),
            suspect: self.moment.suspect,
        }
    }

    fn served(&self, witnesses: &[Witness]) -> Vec<Served> {
        let p = &self.p;
        let generation = p.leaf.serving.as_ref().map_or(0, |leaf| leaf.generation);
        let completed = |name: &str, ca: &Option<Ca>| -> u64 {
            let counts = p.subscribers.get(name).map(|one| &one.handshakes);
            let count = ca.as_ref().and_then(|ca| counts?.get(&ca.sha256));
            count.copied().unwrap_or_default()
        };
        let served = witnesses.iter().map(|witness| {
            let tally = |ca: &Option<Ca>| Tally {
                completed: completed(&witness.name, ca),
                alerts: 0,
            };
            let new = tally(&p.ca.active);
            Served {
                name: witness.name.clone(),
                acknowledged: witness.acked >= generation,
                grade: (new.completed > 0).then_some(Grade::Observed),
                new,
                old: tally(&p.ca.old),
            }
        });
        served.collect()
    }

    fn perform_slots(&mut self, action: &Action) -> Step {
        let (old, now) = (self.p.ca.clone(), self.moment.wall);
        match action {
            Action::Wait(_) => Ok(()),
            Action::Begin(role) => {
                let id = self.fresh();
                self.advance_ca(old.begun(id, *role))
            }
            Action::Make => self.make(&old),
            Action::Discard => {
                let Some(standby) = &old.standby else {
                    return Ok(());
                };
                self.advance_ca(old.discarded())?;
                self.destroy_ca(standby)
            }
            Action::List => {
                self.ask(Lane::Ca, Call::Certificates);
                Ok(())
            }
            Action::Register(ca) => {
                self.intend(old.asking(What::Register, &ca.sha256, None, now), ca)?;
                self.ask(Lane::Ca, Call::AddCertificate(ca.sha256.clone()));
                Ok(())
            }
            Action::Archive(one) => {
                let id = one.id.clone();
                let next = old.asking(What::Archive, &one.sha256, Some(id.clone()), now);
                self.advance_ca(next)?;
                self.p.listing = None;
                self.ask(Lane::Ca, Call::ArchiveCertificate(id));
                Ok(())
            }
            Action::Forget => self.advance_ca(old.forgotten()),
            Action::Listed(one) => {
                self.advance_ca(old.listed(&one.sha256, &one.id, now))?;
                self.p.call_pace.reset();
                Ok(())
            }
            Action::Gone(sha256) => {
                self.advance_ca(old.gone(sha256, now))?;
                self.p.call_pace.reset();
                Ok(())
            }
            _ => self.perform_rotation(action, &old),
        }
    }

    /// The steps of a rotation.
    fn perform_rotation(&mut self, action: &Action, old: &State) -> Step {
        let now = self.moment.wall;
        match action {
            Action::Rotate(reason) => {
                let id = self.fresh();
                self.advance_ca(old.rotating(id.clone(), "simulation", *reason, now))?;
                if let Some(order) = self.p.orders.ca.as_mut().filter(|one| one.is_waiting()) {
                    order.rotation = Some(id);
                }
                self.note_orders()
            }
            Action::TakeOver => {
                let id = self.fresh();
                self.advance_ca(old.taken_over(id, now))
            }
            Action::SwitchOver => self.switch_over(old),
            Action::Note(roster) => {
                let next = old.noted(roster.clone());
                self.note(|records| records.ca = next.clone())?;
                self.p.ca = next;
                Ok(())
            }
            Action::Prove(proofs) => self.advance_ca(old.proven(proofs)),
            Action::Conclude => {
                let rotation = old.slots.rotation.as_ref();
                let accepted = rotation.is_some_and(|one| one.accepted.is_some());
                self.deeds.push(Deed::Concluded { accepted });
                self.advance_ca(old.concluded(now))
            }
            Action::Retire => {
                if let Some(ca) = &old.old {
                    self.destroy_ca(ca)?;
                }
                self.advance_ca(old.let_go())?;
                self.end_ca_order(old);
                Ok(())
            }
            Action::RollBack(why) => {
                self.deeds.push(Deed::RolledBack(why));
                self.advance_ca(old.rolling_back(why, now))
            }
            Action::RolledBack => {
                if let Some(standby) = &old.standby {
                    self.destroy_ca(standby)?;
                }
                self.advance_ca(old.rolled_back())?;
                self.p.call_pace.reset();
                self.end_ca_order(old);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn switch_over(&mut self, old: &State) -> Step {
        let wall = self.moment.wall;
        // The rehearsal: it has to be there, and to issue.
        let signs = |ca: &Ca| {
            self.disk.has(&disk::ca(&ca.id))
                && ca.not_before <= wall
                && wall < super::leaf::issuer(ca).last_second
        };
        if !old.standby.as_ref().is_none_or(signs) {
            return Err(Halt::Failed);
        }
        self.deeds.push(Deed::Switched);
        self.advance_ca(old.switched_over(wall))
    }

    /// Takes what a crash left, or makes a key and a certificate.
    fn make(&mut self, old: &State) -> Step {
        let Some(making) = &old.making else {
            return Ok(());
        };
        let name = disk::ca(&making.id);
        let wall = self.moment.wall;
        let life = self.traits.ca_life;
        let extra = match making.role {
            Role::Active => 0,
            Role::Standby => life / STANDBY_EXTRA,
        };
        let left = match self.disk.read(&name) {
            Some(Blob::Ca(ca)) if (ca.not_before..=ca.not_after).contains(&wall) => {
                Some(ca.clone())
            }
            _ => None,
        };
        let made = || Ca {
            id: making.id.clone(),
            sha256: format!("sha-{}-{wall}", making.id),
            not_before: wall - BACKDATE,
            not_after: wall + life + extra,
        };
        if self.jammed && left.is_none() {
            return Err(Halt::Failed);
        }
        let ca = left.unwrap_or_else(made);
        self.deeds.push(Deed::Made(ca.clone()));
        if self.guard == Some(Guard::KeyFirst) {
            // The other way round.
            self.advance_ca(old.made(ca.clone()))?;
            self.disk.put(name.clone(), Blob::Ca(ca));
            self.point()?;
            self.disk.settle(&[name]);
            return Ok(());
        }
        self.disk.put(name.clone(), Blob::Ca(ca.clone()));
        self.point()?;
        self.disk.settle(&[name]);
        let next = old.made(ca);
        self.note(|records| records.ca = next.clone())?;
        self.p.ca = next;
        Ok(())
    }

    fn destroy_ca(&mut self, ca: &Ca) -> Step {
        self.point()?;
        self.disk.destroy(&disk::ca(&ca.id));
        self.deeds.push(Deed::CaKeyDestroyed(ca.sha256.clone()));
        self.point()
    }

    /// The intent to register, if there is a key.
    fn intend(&mut self, next: State, ca: &Ca) -> Step {
        if !self.disk.has(&disk::ca(&ca.id)) && self.guard != Some(Guard::KeyFirst) {
            return Err(Halt::Failed);
        }
        self.advance_ca(next)?;
        self.p.listing = None;
        Ok(())
    }

    fn advance_ca(&mut self, next: State) -> Step {
        self.record(|records| records.ca = next.clone())?;
        self.p.ca = next;
        Ok(())
    }

    fn end_ca_order(&mut self, old: &State) {
        let rotation = old.slots.rotation.as_ref().map(|rotation| &rotation.id);
        let is_its =
            |order: &mut Ordered| rotation.is_some() && order.rotation.as_ref() == rotation;
        self.p.orders.ca.take_if(is_its);
    }

    /// Whether an order to rotate the CA would be taken.
    pub(super) fn may_order_ca(&self) -> bool {
        let listing = self.p.listing.as_ref();
        self.p.orders.ca.is_none()
            && self.p.ca.slots.rotation.is_none()
            && self.p.ca.standby.is_some()
            && listing.is_none_or(|list| list.registrations.len() < 2)
    }

    /// An operator does without proof.
    pub(super) fn accept(&mut self) -> Step {
        if self.p.ca.is_in(Phase::Switched) {
            let next = self.p.ca.accepted("operator");
            self.advance_ca(next)?;
        }
        Ok(())
    }
}
