//! Calls on their way: lost before their effect, after it, or late.

use daemon::rotation::shared_secret::Holder;
use daemon::rotation::tunnel_token::LATE;

use super::event::Event;
use super::far::{Answer, Call};
use super::process::{Ask, Lane};
use super::world::World;

/// The time limit of a call, in seconds.
const LIMIT: u64 = 30;

/// Calls that are remembered.
const KEPT: usize = 64;

/// A call that was made, or seems to be.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    process: u32,
    ask: Ask,
    fate: Fate,
    answer: Option<Answer>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It comes to the remote, and what came of it comes back.
    Answered,
    /// It was never made.
    Unsent,
    /// It is turned away for now.
    Busy,
    /// It never comes to the remote, and nobody says so.
    Lost,
    /// It comes to the remote, now or late, and nobody says so.
    Unanswered,
}

impl World {
    /// Makes a call, or what becomes of it.
    pub(super) fn ask(&mut self, ask: Ask) {
        self.judge_ask(&ask.call);
        self.tell(|| format!("  asks {:?}", ask.call));
        self.counts.calls += 1;
        let parted = self.now < self.parted;
        let troubled = parted || self.dice.one_in(if self.traits.rough { 4 } else { 30 });
        let fate = if parted {
            self.dice.of(&[0, 0, 2, 2, 3], 0)
        } else {
            self.dice.below(5)
        };
        let late = LATE - 3 - self.far.lag;
        let (fate, at, back) = match (troubled, fate) {
            (false, _) => {
                let at = self.dice.between(0, 3);
                (Fate::Answered, at, at + 1)
            }
            (_, 0) => (Fate::Unsent, 0, 1),
            (_, 1) => (Fate::Busy, 0, 1),
            (_, 2) => (Fate::Lost, 0, LIMIT),
            (_, 3) => (Fate::Unanswered, self.dice.below(LIMIT), LIMIT),
            _ => (Fate::Unanswered, self.dice.between(LIMIT, late), LIMIT),
        };
        self.counts.troubled += u64::from(troubled);
        self.serial += 1;
        let number = self.serial;
        let call = InFlight {
            process: self.processes,
            ask,
            fate,
            answer: None,
        };
        self.calls.insert(number, call);
        // What comes late finds it; a few are under way at most.
        while self.calls.len() > KEPT {
            self.calls.pop_first();
        }
        if matches!(fate, Fate::Answered | Fate::Unanswered) {
            self.queue.push(self.now + at, Event::Arrive(number));
        }
        self.queue.push(self.now + back, Event::Reply(number));
    }

    pub(super) fn arrive(&mut self, number: u64) {
        let holders = self.holders();
        let Some(call) = self.calls.get_mut(&number) else {
            return;
        };
        let what = call.ask.call.clone();
        let answer = self
            .far
            .carry_out(&what, &holders, self.now, &mut self.dice);
        let refused = matches!(answer, Answer::Refused(_));
        call.answer = Some(answer);
        if refused {
            return;
        }
        let (judge, _, scene) = self.court();
        judge.carried_out(&what, &scene);
        if let Call::ArchiveSecret(id) = &what {
            let sha256 = self.far.secret(id).map(str::to_owned);
            self.cut(sha256.as_deref());
        }
    }

    pub(super) fn reply(&mut self, number: u64) {
        if self.now < self.frozen {
            self.queue.push(self.frozen, Event::Reply(number));
            return;
        }
        let Some(call) = self.calls.get(&number).cloned() else {
            return;
        };
        if call.process != self.processes || self.process.is_none() {
            return;
        }
        let answer = match call.fate {
            Fate::Unsent => Err(()),
            Fate::Busy => Ok(Some(Answer::Refused(429))),
            Fate::Answered => Ok(call.answer),
            Fate::Lost | Fate::Unanswered => Ok(None),
        };
        let Ask { lane, call } = call.ask;
        self.tell(|| format!("  told {call:?}: {answer:?}"));
        self.turn(|turn| {
            turn.p.under_way.remove(&lane);
            match lane {
                Lane::Tunnel => {
                    turn.told_tunnel(matches!(answer, Ok(Some(Answer::Done))));
                    Ok(())
                }
                Lane::Ca => turn.told_ca(&call, answer),
                Lane::Token => turn.told_token(&call, answer),
                Lane::Secret => {
                    turn.told_secret(&call, answer);
                    Ok(())
                }
            }
        });
    }

    fn judge_ask(&mut self, call: &Call) {
        let (judge, process, scene) = self.court();
        if let Some(process) = process {
            judge.asked(call, process, &scene);
        }
    }

    /// Who is bound to which secret.
    fn holders(&self) -> Vec<(String, Holder)> {
        let holder = |name: &str| Holder {
            replica: name.to_owned(),
            address: "192.0.2.1".to_owned(),
            instance: "edge".to_owned(),
        };
        let ours = self.replicas.iter().filter(|one| !one.is_connector);
        let ours = ours.filter_map(|one| Some((one.bound.clone()?, holder(&one.name))));
        let thief = self.thief.iter();
        ours.chain(thief.map(|sha256| (sha256.clone(), holder("thief"))))
            .collect()
    }
}
