//! The driver of the tunnel token's machine, as `daemon::rotator` has it.

use daemon::rotation::tunnel_token::{
    Action, DISTRIBUTION_LIMIT, Observed, Phase, Seen, State, is_doubted, is_late, next, obstacle,
};

use super::disk::Ordered;
use super::far::{Answer, Call};
use super::guards::{self, Guard};
use super::judge::Deed;
use super::process::{Asked, Held, Lane};
use super::turn::{Halt, Step, Turn};

/// Steps in one turn.
const STEPS: usize = 20;
/// A rotation that is turned away for a while is called so often at most.
const CALLS: u32 = 3;

impl Turn<'_> {
    /// Does everything that can be done now.
    pub(super) fn step_token(&mut self) -> Step {
        for _ in 0..STEPS {
            let mut seen = self.seen_of_token();
            let now = self.moment.wall;
            let action = {
                let state = guards::token(self.guard, &self.p.token, &mut seen);
                next(&state, &seen, now)
            };
            if let Action::Wait(until) = action {
                self.settle_token_order(&seen);
                self.wait(until);
                return Ok(());
            }
            self.perform_token(&action, &mut seen)?;
        }
        self.wait(0);
        Ok(())
    }

    /// Takes what came of a call; `None`: nobody knows, `Err`: it was not made.
    pub(super) fn told_token(&mut self, call: &Call, answer: Result<Option<Answer>, ()>) -> Step {
        let rotated = matches!(call, Call::RotateToken(_));
        let rotation = self.p.token.rotation.as_ref();
        let calls = rotation.map_or(0, |rotation| rotation.calls);
        match answer {
            Ok(Some(Answer::Token(id, value))) => {
                self.p.token_pace.reset();
                let asked = (!rotated).then_some(self.p.asked);
                self.p.held = Some(Held { id, value, asked });
                return Ok(());
            }
            Ok(Some(Answer::Refused(status))) if rotated && !(status == 429 && calls < CALLS) => {
                let next = self.p.token.refused(status);
                self.advance_token(next)?;
                self.fail_token();
                return Ok(());
            }
            Ok(None) if rotated => {
                let next = self.p.token.unanswered(self.moment.wall);
                self.advance_token(next)?;
            }
            _ if rotated => {
                let next = self.p.token.unsent();
                self.advance_token(next)?;
            }
            _ => {}
        }
        self.p.token_pace.fail(self.moment.boot);
        Ok(())
    }

    pub(super) fn seen_of_token(&self) -> Seen {
        let p = &self.p;
        let (connectors, left) = p.connectors(self.moment.wall);
        let both = p.ca.active.as_ref().zip(p.leaf.serving.as_ref());
        let boot = self.moment.boot;
        Seen {
            remote: true,
            stored: self.disk.token.as_deref().map(digest),
            published: p.board.token.as_ref().map_or(0, |token| token.0),
            held: p.held.is_some(),
            asked: self.is_under_way(Lane::Token),
            closed: !p.is_ours,
            awaited: !self.traits.builtin && connectors.is_empty() && !p.has_watched(boot),
            connectors,
            left,
            watched: p.has_watched(boot),
            young: p.is_young(boot),
            ordered: p.orders.token.as_ref().is_some_and(Ordered::is_waiting),
            switching: p.ca.switch.is_some()
                || both.is_some_and(|(ca, leaf)| ca.sha256 != leaf.issuer),
            paced: p.token_pace.is_on(boot),
            suspect: self.moment.suspect,
        }
    }

    fn perform_token(&mut self, action: &Action, seen: &mut Seen) -> Step {
        let now = self.moment.wall;
        let state = self.p.token.clone();
        match action {
            Action::Wait(_) => Ok(()),
            Action::Take => {
                let stored = seen.stored.clone().unwrap_or_default();
                self.advance_token(state.taken(&stored, now))?;
                self.publish_token();
                Ok(())
            }
            Action::Publish => {
                self.publish_token();
                Ok(())
            }
            Action::Reveal(_) => {
                let shown = guards::token(self.guard, &state, seen);
                self.p.asked = Asked {
                    at: now,
                    late: is_late(&shown, seen, now),
                    doubted: is_doubted(&shown, seen),
                };
                self.ask(Lane::Token, Call::RevealToken);
                Ok(())
            }
            Action::Keep => self.keep_token(&state),
            Action::Begin => {
                let id = self.fresh();
                self.advance_token(state.begun(id.clone(), "simulation", now))?;
                if let Some(order) = &mut self.p.orders.token {
                    order.rotation = Some(id);
                }
                Ok(())
            }
            Action::Call => self.call_rotation(&state, seen),
            Action::Finish => {
                self.advance_token(state.finished())?;
                self.p.orders.token = None;
                Ok(())
            }
            Action::Abandon(_) => {
                self.advance_token(state.abandoned())?;
                self.fail_token();
                Ok(())
            }
        }
    }

    /// The intent, then the call.
    fn call_rotation(&mut self, state: &State, seen: &Seen) -> Step {
        let connectors: Vec<String> = seen.connectors.iter().map(|one| one.name.clone()).collect();
        let called = state.called(&connectors, self.moment.wall);
        if self.guard == Some(Guard::IntentFirst) {
            self.p.token = called;
        } else {
            self.advance_token(called)?;
        }
        let rotation = self.p.token.rotation.as_ref();
        let id = rotation.map(|one| one.id.clone()).unwrap_or_default();
        self.ask(Lane::Token, Call::RotateToken(id));
        Ok(())
    }

    /// Store, journal, connectors: in this order.
    fn keep_token(&mut self, state: &State) -> Step {
        let Some(held) = self.p.held.clone() else {
            return Ok(());
        };
        let sha256 = digest(&held.value);
        let kept = match held.asked {
            None => state.rotated(&held.id, &sha256, self.moment.wall),
            Some(asked) => state.revealed(&Observed {
                id: &held.id,
                sha256: &sha256,
                at: asked.at,
                late: asked.late,
                doubted: asked.doubted,
            }),
        };
        if self.guard == Some(Guard::StoreFirst) {
            self.put_token_on_board(kept.generation, &held.value);
        }
        if self.disk.token.as_ref() != Some(&held.value) {
            self.point()?;
            self.disk.token = Some(held.value.clone());
            self.point()?;
        }
        self.advance_token(kept)?;
        self.p.held = None;
        self.publish_token();
        Ok(())
    }

    fn publish_token(&mut self) {
        if let Some(value) = self.disk.token.clone() {
            self.put_token_on_board(self.p.token.generation, &value);
        }
    }

    fn put_token_on_board(&mut self, generation: u64, value: &str) {
        let stored = self.disk.token.as_deref() == Some(value);
        let recorded = self.disk.durable().token.generation == generation;
        self.deeds.push(Deed::TokenOut {
            durable: stored && recorded,
        });
        self.p.board.token = Some((generation, value.to_owned()));
    }

    fn advance_token(&mut self, next: State) -> Step {
        self.record(|records| records.token = next.clone())?;
        self.p.token = next;
        Ok(())
    }

    /// Orders that cannot be begun now, and those whose connectors take too long.
    fn settle_token_order(&mut self, seen: &Seen) {
        let Some(order) = &self.p.orders.token else {
            return;
        };
        let over = if order.is_waiting() {
            seen.paced || obstacle(&self.p.token, seen).is_some()
        } else {
            let rotation = self.p.token.rotation.as_ref();
            rotation.is_some_and(|rotation| {
                rotation.phase == Phase::Distributing
                    && self.moment.wall.abs_diff(rotation.began) >= DISTRIBUTION_LIMIT
            })
        };
        if over {
            self.fail_token();
        }
    }
}

/// Values here are their own digests, under another name.
pub(super) fn digest(value: &str) -> String {
    value.replace("value", "sha256")
}

impl Halt {
    /// Whether the process ended.
    pub(super) fn is_crash(self) -> bool {
        self == Self::Crash
    }
}
