//! The machine in every world that differs by the order of things: calls and answers that get lost or come late, crashes
//! before and after each record and each effect, rotations by somebody else, an edge that learns late, connectors that
//! go and come. Breadth first over the shipped functions; what is broken on purpose is found.

use std::collections::{HashMap, HashSet, VecDeque};

use super::*;

mod cases;

/// Seconds of a tick: the time that a call may take.
const TICK: u64 = 30;
/// States of one search; more means that it does not end.
const MOST: usize = 3_000_000;

/// What may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    orders: u8,
    ticks: u8,
    crashes: u8,
    losses: u8,
    foreign: u8,
    /// The connector goes away, and comes back.
    leaves: u8,
    /// The edge that connectors dial learns of a rotation late.
    lags: u8,
    /// A CA rotation switches for a while.
    obstacles: u8,
    /// The remote refuses, or gives what is no token.
    oddities: u8,
}

const NONE: Budget = Budget {
    orders: 1,
    ticks: 0,
    crashes: 0,
    losses: 0,
    foreign: 0,
    leaves: 0,
    lags: 0,
    obstacles: 0,
    oddities: 0,
};

/// A call in flight, as the process knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Reveal {
        at: u64,
        late: bool,
        doubted: bool,
        answer: Option<u8>,
    },
    Rotate {
        at: u64,
        answer: Option<u8>,
    },
}

/// A value in memory that is not in the store yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Held {
    Revealed {
        at: u64,
        late: bool,
        doubted: bool,
        value: u8,
    },
    Rotated {
        value: u8,
    },
}

/// A connector: what it dials with, and what the process knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Connector {
    value: u8,
    generation: u64,
    /// It runs.
    up: bool,
    /// It is subscribed to the process that is.
    subscribed: bool,
    acked: u64,
    refused: Option<u64>,
}

/// Values are numbers: the id of the first is `t0`, its digest `0s`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    left: Budget,
    // Durable.
    journal: State,
    store: Option<u8>,
    ordered: bool,
    // Of the remote.
    in_force: u8,
    /// What the edge that connectors dial believes.
    believed: u8,
    /// A rotation that has not arrived: of which order, called when.
    flying: Option<(u8, u64)>,
    /// Rotations that took place, by order.
    applied: [u8; 3],
    foreign: u8,
    // Of the process.
    published: u64,
    given: Option<u8>,
    asked: Option<Asked>,
    held: Option<Held>,
    obstructed: bool,
    connector: Option<Connector>,
    // Of the test.
    orders: u8,
    /// Which value stood for which generation.
    names: Vec<(u64, u8)>,
    /// What the last answer said is in force.
    told: Option<u8>,
    /// Somebody else rotated what was known to be in force, and nothing of ours was open.
    must_alarm: bool,
    broken: Option<&'static str>,
}

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutant {
    /// An answer that is not known is asked for by calling again.
    RetriesOnUnknown,
    /// An id that is the same at once counts as proof that nothing arrived.
    DoesNotWait,
    /// The same, because the time at which the answer is stored counts, not that of the question.
    CountsTheAnswersTime,
    /// The call is made before the journal says so.
    CallsBeforeTheRecord,
    /// What was found counts for good while the call may still arrive.
    DoesNotSettle,
    /// It is over when the value is out.
    DoesNotWaitForAcks,
    /// It is over for connectors that have not come back after a start.
    ForgetsTheAbsent,
    /// Nothing speaks against a rotation.
    IgnoresObstacles,
    /// The journal says that a value is there before the store has it.
    RecordsBeforeTheStore,
    /// A new number is given to the value that has one, or an old one to another.
    KeepsTheNumber,
    /// Another id is taken for one of ours.
    HidesTheForeign,
    /// A refused connector is nothing to look into.
    IgnoresRefusals,
    /// A value that a crash left in the store is not taken up.
    IgnoresTheStore,
}

fn id(value: u8) -> String {
    format!("t{value}")
}

fn digest(value: u8) -> String {
    format!("{value}s")
}

impl World {
    fn new(left: Budget, connector: bool) -> Self {
        let first = Connector {
            value: 0,
            generation: 0,
            up: true,
            subscribed: false,
            acked: 0,
            refused: None,
        };
        Self {
            now: NOW,
            left,
            journal: State::default(),
            store: None,
            ordered: false,
            in_force: 0,
            believed: 0,
            flying: None,
            applied: [0; 3],
            foreign: 0,
            published: 0,
            given: None,
            asked: None,
            held: None,
            obstructed: false,
            connector: connector.then_some(first),
            orders: 0,
            names: Vec::new(),
            told: None,
            must_alarm: false,
            broken: None,
        }
    }

    fn seen(&self) -> Seen {
        let connector = self.connector.as_ref();
        let witness = connector.filter(|one| one.subscribed).map(|one| Witness {
            name: "c".to_owned(),
            connected: one.up,
            acked: one.acked,
            refused: one.refused.map(|of| (of, Reason::TokenRefused)),
            serves: 0,
        });
        Seen {
            remote: true,
            stored: self.store.map(digest),
            published: self.published,
            held: self.held.is_some(),
            asked: self.asked.is_some(),
            connectors: witness.into_iter().collect(),
            left: Vec::new(),
            watched: false,
            young: false,
            closed: false,
            awaited: false,
            ordered: self.ordered,
            switching: self.obstructed,
            paced: false,
            suspect: false,
        }
    }

    fn breaks(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }

    fn record(&mut self, state: State, mutant: Option<Mutant>) {
        let mut state = state;
        if mutant == Some(Mutant::KeepsTheNumber) && self.journal.generation > 0 {
            state.generation = self.journal.generation;
        }
        if mutant == Some(Mutant::HidesTheForeign) {
            state.foreign_count = 0;
        }
        if state.generation < self.journal.generation {
            self.breaks("a generation went back");
        }
        if state.foreign_count > u64::from(self.foreign) {
            self.breaks("a rotation of ours alarms as somebody else's");
        }
        if state.done > self.journal.done {
            let rotation = self.journal.rotation.as_ref();
            let known = rotation.is_some_and(|rotation| !rotation.expected.is_empty());
            let behind =
                |one: &Connector| (one.subscribed || known) && one.generation < state.generation;
            if self.connector.as_ref().is_some_and(behind) {
                self.breaks("it is over, and a connector has the value before");
            }
            if self.flying.is_some() {
                self.breaks("it is over, and a call of it is on its way");
            }
        }
        if state.generation > 0 && self.store.map(digest) != Some(state.sha256.clone()) {
            self.breaks("the journal names a value that is not in the store");
        }
        if state.rotation.is_none() && state.verified == self.now && state.id != self.told.map(id) {
            self.breaks("I5: the journal disagrees with what was last seen");
        }
        self.journal = state;
    }

    /// The value in the store goes out.
    fn publish(&mut self) {
        let value = self.store.expect("it is published from the store");
        let generation = self.journal.generation;
        let named = self.names.iter().find(|(number, _)| *number == generation);
        match named {
            Some((_, other)) if *other != value => self.breaks("I7: a generation has two values"),
            Some(_) => {}
            None => self.names.push((generation, value)),
        }
        self.published = generation;
        self.given = Some(value);
    }

    fn crash(&mut self) {
        self.published = 0;
        self.given = None;
        self.asked = None;
        self.held = None;
        if let Some(connector) = &mut self.connector {
            connector.subscribed = false;
            connector.acked = 0;
            connector.refused = None;
        }
    }

    fn decide(&self, mutant: Option<Mutant>) -> Action {
        let mut seen = self.seen();
        let mut state = self.journal.clone();
        match mutant {
            Some(Mutant::RetriesOnUnknown)
                if state.phase() == "rotating" && !seen.asked && !seen.held =>
            {
                return Action::Call;
            }
            Some(Mutant::DoesNotWaitForAcks) => {
                for one in &mut seen.connectors {
                    one.acked = state.generation;
                }
                seen.watched = true;
            }
            Some(Mutant::ForgetsTheAbsent) => seen.watched = true,
            Some(Mutant::IgnoresObstacles) => seen.switching = false,
            Some(Mutant::IgnoresRefusals) => {
                for one in &mut seen.connectors {
                    one.refused = None;
                }
            }
            Some(Mutant::DoesNotSettle) => {
                if let Some(rotation) = &mut state.rotation {
                    rotation.unsettled = false;
                }
            }
            Some(Mutant::IgnoresTheStore) if seen.stored.is_some() => {
                seen.stored = Some(state.sha256.clone());
            }
            _ => {}
        }
        next(&state, &seen, self.now)
    }

    /// What the decision leads to, with the crashes on the way.
    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    fn perform(&self, action: &Action, mutant: Option<Mutant>) -> Vec<Self> {
        let mut world = self.clone();
        let mut all = Vec::new();
        let state = self.journal.clone();
        match action {
            Action::Wait(_) => return Vec::new(),
            Action::Take => {
                let value = self.store.expect("it is there");
                world.record(state.taken(&digest(value), self.now), mutant);
                all.push(world.clone());
                world.publish();
            }
            Action::Publish => world.publish(),
            Action::Reveal(_) => {
                let seen = self.seen();
                world.asked = Some(Asked::Reveal {
                    at: self.now,
                    late: mutant == Some(Mutant::DoesNotWait) || is_late(&state, &seen, self.now),
                    doubted: is_doubted(&state, &seen),
                    answer: None,
                });
            }
            Action::Keep => return self.keep(mutant),
            Action::Begin => {
                let order = format!("r{}", self.orders);
                world.record(state.begun(order, "uid:0", self.now), mutant);
                world.ordered = false;
            }
            Action::Call => {
                if self.obstructed {
                    world.breaks("it rotates while a CA rotation is switching");
                }
                let connectors: Vec<String> = self
                    .seen()
                    .connectors
                    .into_iter()
                    .map(|one| one.name)
                    .collect();
                let called = state.called(&connectors, self.now);
                let rotation = called.rotation.as_ref().expect("one is in flight");
                if rotation.before.is_none() {
                    world.breaks("nothing is known of what was in force before");
                }
                let order = rotation.id[1..].parse().expect("it is numbered");
                if world.flying.is_some() {
                    world.breaks("I4: a call is made while one is on its way");
                }
                if mutant == Some(Mutant::CallsBeforeTheRecord) {
                    world.flying = Some((order, self.now));
                    all.push(world.clone());
                }
                world.record(called, mutant);
                all.push(world.clone());
                world.flying = Some((order, self.now));
                world.asked = Some(Asked::Rotate {
                    at: self.now,
                    answer: None,
                });
            }
            Action::Finish => world.record(state.finished(), mutant),
            Action::Abandon(_) => world.record(state.abandoned(), mutant),
        }
        // All but the last are crashes.
        for crashed in &mut all {
            crashed.crash();
        }
        if self.left.crashes == 0 {
            all.clear();
        }
        for crashed in &mut all {
            crashed.left.crashes -= 1;
        }
        all.push(world);
        all
    }

    fn keep(&self, mutant: Option<Mutant>) -> Vec<Self> {
        let state = &self.journal;
        let held = self.held.clone().expect("a value is held");
        let (value, kept) = match held {
            Held::Rotated { value } => (value, state.rotated(&id(value), &digest(value), self.now)),
            Held::Revealed {
                at,
                late,
                doubted,
                value,
            } => {
                let late = late
                    || mutant == Some(Mutant::CountsTheAnswersTime)
                        && is_late(state, &self.seen(), self.now);
                let observed = Observed {
                    id: &id(value),
                    sha256: &digest(value),
                    at,
                    late,
                    doubted,
                };
                (value, state.revealed(&observed))
            }
        };
        let mut stored = self.clone();
        if mutant == Some(Mutant::RecordsBeforeTheStore) {
            stored.record(kept.clone(), mutant);
        }
        stored.store = Some(value);
        let mut recorded = stored.clone();
        recorded.held = None;
        recorded.record(kept, mutant);
        let mut out = recorded.clone();
        if out.published < out.journal.generation {
            out.publish();
        }
        let mut all = Vec::new();
        if self.left.crashes > 0 {
            for mut crashed in [stored, recorded] {
                crashed.left.crashes -= 1;
                crashed.crash();
                all.push(crashed);
            }
        }
        all.push(out);
        all
    }

    /// A call reaches the remote, and what it does there.
    fn arrive(&mut self) {
        let Some((order, _)) = self.flying.take() else {
            return;
        };
        self.rotate();
        self.applied[usize::from(order)] += 1;
        if self.applied[usize::from(order)] > 1 {
            self.breaks("I4: one order rotated twice");
        }
        let new = self.in_force;
        if let Some(Asked::Rotate { answer, .. }) = &mut self.asked {
            *answer = Some(new);
        }
    }

    fn rotate(&mut self) {
        self.in_force += 1;
        if self.left.lags == 0 {
            self.believed = self.in_force;
        } else {
            self.left.lags -= 1;
        }
    }

    /// The answer of the call in flight comes in.
    fn tell(&mut self) {
        match self.asked.take() {
            Some(Asked::Reveal {
                at,
                late,
                doubted,
                answer: Some(value),
            }) => {
                self.told = Some(value);
                self.held = Some(Held::Revealed {
                    at,
                    late,
                    doubted,
                    value,
                });
            }
            Some(Asked::Rotate {
                answer: Some(value),
                ..
            }) => {
                self.told = Some(value);
                self.held = Some(Held::Rotated { value });
            }
            other => self.asked = other,
        }
    }

    /// The connector gets what is published, and dials with it.
    fn dial(&mut self) {
        let (published, given) = (self.published, self.given);
        let believed = self.believed;
        let Some(connector) = &mut self.connector else {
            return;
        };
        connector.subscribed = true;
        connector.up = true;
        let Some(given) = given else {
            return;
        };
        if given == believed {
            connector.value = given;
            connector.generation = published;
            connector.acked = published;
            connector.refused = None;
        } else {
            connector.refused = Some(published);
        }
    }

    fn tick(&mut self) {
        self.now += TICK;
        // Calls end after so long, wherever they are.
        let asked_at = match &self.asked {
            Some(Asked::Reveal { at, .. } | Asked::Rotate { at, .. }) => Some(*at),
            None => None,
        };
        if asked_at.is_some_and(|at| self.now >= at + TICK) {
            self.asked = None;
        }
        if self
            .flying
            .is_some_and(|(_, called)| self.now >= called + LATE)
        {
            self.flying = None;
        }
    }

    /// Every world that may come next.
    #[expect(
        clippy::too_many_lines,
        reason = "one arm for each thing that may happen"
    )]
    fn successors(&self, mutant: Option<Mutant>) -> Vec<(&'static str, Self)> {
        let mut all = Vec::new();
        let mut add = |name: &'static str, change: &dyn Fn(&mut Self)| {
            let mut world = self.clone();
            change(&mut world);
            all.push((name, world));
        };
        if self.left.orders > 0 && !self.ordered && self.journal.rotation.is_none() {
            add("order", &|world| {
                world.left.orders -= 1;
                world.orders += 1;
                world.ordered = true;
            });
        }
        if self.flying.is_some() {
            add("a rotation arrives", &Self::arrive);
            if self.left.losses > 0 {
                add("a rotation is lost", &|world| {
                    world.left.losses -= 1;
                    world.flying = None;
                });
            }
        }
        match &self.asked {
            Some(Asked::Reveal { answer: None, .. }) => add("a reveal arrives", &|world| {
                let value = world.in_force;
                if let Some(Asked::Reveal { answer, .. }) = &mut world.asked {
                    *answer = Some(value);
                }
            }),
            Some(Asked::Rotate { answer: None, .. }) if self.left.losses > 0 => {
                add("a rotation is turned away", &|world| {
                    world.left.losses -= 1;
                    world.flying = None;
                    world.asked = None;
                    world.journal = world.journal.unsent();
                });
            }
            Some(
                Asked::Reveal {
                    answer: Some(_), ..
                }
                | Asked::Rotate {
                    answer: Some(_), ..
                },
            ) => {
                add("an answer", &Self::tell);
            }
            _ => {}
        }
        if self.asked.is_some() && self.left.oddities > 0 {
            if matches!(self.asked, Some(Asked::Rotate { answer: None, .. })) {
                add("a rotation is refused", &|world| {
                    world.left.oddities -= 1;
                    world.flying = None;
                    world.asked = None;
                    world.journal = world.journal.refused(403);
                });
            }
            let told = match self.asked {
                Some(Asked::Reveal {
                    at, late, answer, ..
                }) => Some((at, late, answer)),
                Some(Asked::Rotate { at, answer }) => Some((at, true, answer)),
                None => None,
            };
            if let Some((at, late, Some(value))) = told {
                add("an answer is no token", &|world| {
                    world.left.oddities -= 1;
                    world.asked = None;
                    let observed = Observed {
                        id: &id(value),
                        sha256: "",
                        at,
                        late,
                        doubted: false,
                    };
                    world.journal = world.journal.malformed(&observed);
                });
            }
        }
        if self.asked.is_some() && self.left.losses > 0 {
            add("nobody knows", &|world| {
                world.left.losses -= 1;
                world.asked = None;
            });
        }
        if self.left.crashes > 0 {
            add("crash", &|world| {
                world.left.crashes -= 1;
                world.crash();
            });
        }
        if self.left.foreign > 0 {
            add("somebody else rotates", &|world| {
                world.left.foreign -= 1;
                world.foreign += 1;
                world.must_alarm |=
                    world.is_at_rest().is_ok() && world.asked.is_none() && world.held.is_none();
                world.rotate();
            });
        }
        if self.believed != self.in_force {
            add("the edge learns of it", &|world| {
                world.believed = world.in_force;
            });
        }
        if self.connector.is_some() {
            add("the connector dials", &Self::dial);
            if self.left.leaves > 0 {
                add("the connector is away", &|world| {
                    world.left.leaves -= 1;
                    if let Some(connector) = &mut world.connector {
                        connector.up = false;
                    }
                });
            }
        }
        if self.left.obstacles > 0 || self.obstructed {
            add("a CA rotation switches", &|world| {
                world.left.obstacles -= u8::from(!world.obstructed);
                world.obstructed = !world.obstructed;
            });
        }
        if self.left.ticks > 0 {
            add("time passes", &|world| {
                world.left.ticks -= 1;
                world.tick();
            });
        }
        let action = self.decide(mutant);
        all.extend(
            self.perform(&action, mutant)
                .into_iter()
                .map(|to| ("step", to)),
        );
        all
    }
}
