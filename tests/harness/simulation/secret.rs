//! The driver of the shared secret's machine, as `daemon::rotator` has it.

use daemon::rotation::shared_secret::{Action, Cause, Dialer, Phase, Remote, Secret, Seen, State};

use super::disk::{self, Blob, Ordered};
use super::far::{Answer, Call};
use super::guards;
use super::judge::Deed;
use super::process::Lane;
use super::turn::{Halt, Step, Turn};

/// The longest pause between looks that show nothing new, in seconds.
const LAST_LOOKS: u64 = 60;
/// How long the remote may list something else than it answered.
const LISTED_WITHIN: u64 = 60;
/// Proxies have come back within this after a restart.
pub(super) const COME_BACK: u64 = 60;
/// How long proxies have to dial with it, until an operation ends without them.
const LIMIT: u64 = 10;
/// Steps in one turn.
const STEPS: usize = 32;

impl Turn<'_> {
    /// Does what can be done now.
    pub(super) fn step_secret(&mut self) -> Step {
        for _ in 0..STEPS {
            self.outdate();
            let seen = self.seen_secret();
            let dialers = seen.dialers.clone();
            let wall = self.moment.wall;
            match guards::secret(self.guard, &self.p.secret, seen, wall) {
                Action::Wait(until) => {
                    self.wait(until);
                    break;
                }
                Action::List => {
                    let left = self.p.shared.next_look.0.saturating_sub(self.moment.boot);
                    if left > 0 {
                        self.due = self.due.min(wall + left);
                        break;
                    }
                    self.look(dialers);
                }
                action => match self.perform_secret(&action) {
                    Ok(()) => {}
                    Err(Halt::Failed) => {
                        self.wait(0);
                        break;
                    }
                    Err(Halt::Crash) => return Err(Halt::Crash),
                },
            }
        }
        self.settle_secret_order();
        Ok(())
    }

    /// Takes what came of a call; `None`: nobody knows, `Err`: it was not made.
    pub(super) fn told_secret(&mut self, call: &Call, answer: Result<Option<Answer>, ()>) {
        let boot = self.moment.boot;
        let shared = &mut self.p.shared;
        match (call, answer) {
            (Call::Secrets, Ok(Some(Answer::Secrets(secrets)))) => {
                shared.calls.reset();
                let is_listed = |sha256: &String| secrets.iter().any(|one| one.sha256 == *sha256);
                shared.refused.retain(|sha256| !is_listed(sha256));
                let asked_at = shared.looking.take();
                shared.list = asked_at.map(|asked_at| Remote { asked_at, secrets });
            }
            (Call::AddSecret(what) | Call::ArchiveSecret(what), Ok(Some(Answer::Done))) => {
                shared.calls.reset();
                shared.forget();
                shared.called.insert(what.clone(), boot);
            }
            (Call::AddSecret(sha256), Ok(Some(Answer::Refused(409)))) => {
                shared.calls.reset();
                shared.forget();
                shared.refused.insert(sha256.clone());
            }
            (call, _) => {
                if *call != Call::Secrets {
                    shared.forget();
                }
                shared.looking = None;
                shared.calls.fail(boot);
            }
        }
    }

    /// Drops what is of the past.
    fn outdate(&mut self) {
        let (dialers, _) = self.p.dialers(self.moment.wall);
        let boot = self.moment.boot;
        let shared = &mut self.p.shared;
        if shared.dialers != dialers && (shared.list.is_some() || shared.looking.is_some()) {
            shared.forget();
        }
        shared.called.retain(|_, at| boot < *at + LISTED_WITHIN);
    }

    fn seen_secret(&self) -> Seen {
        let p = &self.p;
        let (wall, boot) = (self.moment.wall, self.moment.boot);
        let (dialers, gone) = p.dialers(wall);
        let shared = &p.shared;
        let wanted = p.orders.secret.as_ref().filter(|one| one.is_waiting());
        Seen {
            remote: shared.list.clone(),
            looked_at: shared.looked_at,
            called: shared.called.keys().cloned().collect(),
            refused: shared.refused.iter().cloned().collect(),
            held: shared.held.iter().cloned().collect(),
            published: p.board.secret.as_ref().map_or(0, |secret| secret.0),
            dialers,
            gone,
            watched: p.has_watched(boot),
            young: boot < p.watching_since + COME_BACK,
            wanted: wanted.map(|_| Cause::Ordered),
            quiet: self.traits.quiet,
            asking: !p.is_ours || self.is_under_way(Lane::Secret) || shared.calls.is_on(boot),
            paced: shared.spoilt.is_on(boot),
            suspect: self.moment.suspect,
        }
    }

    fn look(&mut self, dialers: Vec<Dialer>) {
        let (wall, boot) = (self.moment.wall, self.moment.boot);
        let shared = &mut self.p.shared;
        let pause = shared.next_look.1.clamp(1, LAST_LOOKS);
        shared.next_look = (boot + pause, pause * 2);
        shared.looking = Some(wall);
        shared.looked_at = Some(wall);
        shared.dialers = dialers;
        self.ask(Lane::Secret, Call::Secrets);
    }

    fn perform_secret(&mut self, action: &Action) -> Step {
        let old = self.p.secret.clone();
        let now = self.moment.wall;
        let above = self.p.board.token.as_ref().map_or(0, |token| token.0);
        let next = match action {
            Action::Wait(_) | Action::List => return Ok(()),
            Action::Republish => return self.republish_secret(&old),
            Action::Add(sha256) => {
                self.ask(Lane::Secret, Call::AddSecret(sha256.clone()));
                return Ok(());
            }
            Action::Archive(id) => {
                self.ask(Lane::Secret, Call::ArchiveSecret(id.clone()));
                return Ok(());
            }
            Action::Begin(cause) => return self.begin_secret(&old, *cause),
            Action::Note(roster) => return self.note_secret(old.noted(roster.clone())),
            Action::Renumber => old.renumbered(now, above),
            Action::Destroy => {
                self.point()?;
                for id in &old.doomed {
                    self.disk.destroy(&disk::secret(id));
                    self.p.shared.held.remove(id);
                    self.deeds.push(Deed::SecretDestroyed(id.clone()));
                }
                old.destroyed()
            }
            Action::Make => self.make_secret(&old)?,
            Action::Publish => old.published(now, above),
            Action::Prove | Action::Heard => old.proven(now),
            Action::Decide(holders) => old.decided(holders.clone(), now),
            Action::Finish => old.finished(),
            Action::Abandon => old.abandoned(),
            Action::Turn => old.turned(above),
        };
        self.advance_secret(next)?;
        match action {
            Action::Prove => self.end_secret_order(),
            Action::Abandon | Action::Turn => {
                self.p.shared.spoilt.fail(self.moment.boot);
                if self
                    .p
                    .orders
                    .secret
                    .as_ref()
                    .is_some_and(|one| !one.is_waiting())
                {
                    self.fail_secret();
                }
            }
            Action::Publish => self.p.shared.spoilt.reset(),
            _ => {}
        }
        Ok(())
    }

    fn begin_secret(&mut self, old: &State, cause: Cause) -> Step {
        let id = self.fresh();
        if cause == Cause::Ordered
            && let Some(order) = &mut self.p.orders.secret
        {
            order.rotation = Some(id.clone());
        }
        let next = old.begun(id, cause, "simulation", self.moment.wall);
        self.advance_secret(next)?;
        self.note_orders()
    }

    fn note_secret(&mut self, next: State) -> Step {
        self.note(|records| records.secret = next.clone())?;
        self.p.secret = next;
        Ok(())
    }

    fn make_secret(&mut self, old: &State) -> Result<State, Halt> {
        let rotation = old.rotation.as_ref().ok_or(Halt::Failed)?;
        let id = rotation.id.clone();
        let name = disk::secret(&id);
        let left = match self.disk.read(&name) {
            Some(Blob::Secret(sha256)) => Some(sha256.clone()),
            _ => None,
        };
        let sha256 = if let Some(sha256) = left {
            sha256
        } else {
            let sha256 = format!("secret-{}", self.fresh());
            self.disk.put(name.clone(), Blob::Secret(sha256.clone()));
            self.point()?;
            sha256
        };
        self.disk.settle(&[name]);
        self.p.shared.held.insert(id.clone());
        Ok(old.made(Secret::new(id, sha256, self.moment.wall)))
    }

    fn republish_secret(&mut self, old: &State) -> Step {
        let secret = old.presented().ok_or(Halt::Failed)?;
        match self.disk.read(&disk::secret(&secret.id)) {
            Some(Blob::Secret(sha256)) if *sha256 == secret.sha256 => {}
            _ => {
                let id = secret.id.clone();
                self.p.shared.held.remove(&id);
                return Err(Halt::Failed);
            }
        }
        let durable = self.disk.durable().secret.generation >= secret.generation;
        self.deeds.push(Deed::SecretOut {
            sha256: secret.sha256.clone(),
            durable,
        });
        self.p.board.secret = Some((secret.generation, secret.sha256.clone()));
        self.p.shared.published_at = self.moment.boot;
        Ok(())
    }

    fn advance_secret(&mut self, next: State) -> Step {
        self.record(|records| records.secret = next.clone())?;
        self.p.secret = next;
        self.p.shared.forget();
        self.p.shared.called.clear();
        Ok(())
    }

    fn end_secret_order(&mut self) {
        self.p.orders.secret.take_if(|order| !order.is_waiting());
    }

    /// Ends an order that cannot be carried out now, or for too long.
    fn settle_secret_order(&mut self) {
        if self.p.orders.secret.is_none() {
            return;
        }
        let boot = self.moment.boot;
        let rotation = self.p.secret.rotation.as_ref();
        let out = rotation.is_some_and(|one| one.phase >= Phase::Published);
        let late = out && boot >= self.p.shared.published_at + LIMIT;
        let waits = self
            .p
            .orders
            .secret
            .as_ref()
            .is_some_and(Ordered::is_waiting);
        if self.p.shared.calls.is_on(boot) && !out || late && !waits {
            self.fail_secret();
        }
    }
}
