//! Everything at one moment, and how it goes on: the next event, what it changes, a turn of the daemon if it has news,
//! and a look at what must never be.

use std::collections::BTreeMap;

use super::calls::InFlight;
use super::dice::Dice;
use super::disk::Disk;
use super::event::{Event, Fault, Queue};
use super::far::Far;
use super::guards::Guard;
use super::judge::{Judge, Scene};
use super::process::{Credential, Process};
use super::replica::Replica;
use super::time::{DAY, HOUR, Moment};
use super::traits::{START, Traits};
use super::turn::{Step, Turn};
use super::{Counts, Outcome, Plan};

/// The last days are calm, so that everything comes to rest.
const CALM: u64 = 8 * DAY;
/// How far the clocks may part without anything to be seen.
pub(super) const TOLERATED: u64 = 240;
/// What has gone wrong by a clock is right again within this, once that is.
const MENDED: u64 = 180;

pub(super) struct World {
    pub(super) traits: Traits,
    pub(super) guard: Option<Guard>,
    /// The rule that is looked at.
    pub(super) focus: Option<Guard>,
    pub(super) known: bool,
    pub(super) dice: Dice,
    pub(super) now: u64,
    pub(super) calm: u64,
    end: u64,
    pub(super) queue: Queue,
    pub(super) far: Far,
    pub(super) replicas: Vec<Replica>,
    pub(super) disk: Disk,
    pub(super) process: Option<Process>,
    /// Processes so far.
    pub(super) processes: u32,
    pub(super) boot_id: u32,
    /// What the wall clock of the host shows beside the time.
    pub(super) offset: i64,
    /// Until when the host is suspended.
    pub(super) frozen: u64,
    /// Until when the disk takes no new file.
    pub(super) jammed: u64,
    /// Until when the remote is not reached.
    pub(super) parted: u64,
    /// Until when what a wrong clock did is not held against anybody.
    pub(super) misled: u64,
    /// What a proxy finds on its disk, and what was there under the CA before.
    pub(super) files: [Option<Credential>; 2],
    pub(super) calls: BTreeMap<u64, InFlight>,
    pub(super) serial: u64,
    fuse: Option<u32>,
    wake: u64,
    pub(super) thief: Option<String>,
    pub(super) judge: Judge,
    pub(super) counts: Counts,
    trace: Option<Vec<String>>,
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        let mut dice = Dice::new(plan.seed);
        let traits = Traits::draw(&mut dice, plan.rough, plan.guard);
        let far = Far::new(traits.lag, traits.doubles, traits.builtin);
        let proxies = (0..traits.proxies).map(|number| Replica::new(format!("p{number}"), false));
        let connectors = if traits.builtin { 0 } else { 2 };
        let connectors = (0..connectors).map(|number| Replica::new(format!("c{number}"), true));
        let mut world = Self {
            replicas: proxies.chain(connectors).collect(),
            guard: plan.guard.filter(|_| plan.removed),
            focus: plan.guard,
            known: plan.known,
            now: START,
            calm: START + (plan.days * DAY).saturating_sub(CALM),
            end: START + plan.days * DAY,
            queue: Queue::default(),
            disk: Disk::default(),
            process: None,
            processes: 0,
            boot_id: 0,
            offset: 0,
            frozen: 0,
            jammed: 0,
            parted: 0,
            misled: 0,
            files: [None, None],
            calls: BTreeMap::new(),
            serial: 0,
            fuse: None,
            wake: 0,
            thief: None,
            judge: Judge::new(plan.known),
            counts: Counts::default(),
            trace: plan.traced.then(Vec::new),
            far,
            dice,
            traits,
        };
        world.queue.push(START, Event::Boot(0));
        world.queue.push(START + HOUR, Event::Caller);
        world.queue.push(START + DAY, Event::Operator);
        for fault in Fault::ALL {
            // The first day is for the tunnel to come up.
            let at = START + DAY + world.pause(fault);
            world.queue.push(at, Event::Fault(fault));
        }
        world
    }

    /// Goes on until the end, or until something is broken.
    pub(super) fn run(mut self) -> Outcome {
        while let Some((at, event)) = self.queue.pop() {
            if at > self.end || self.judge.broken.is_some() {
                break;
            }
            self.now = at;
            self.counts.events += 1;
            self.happen(event);
            self.look();
        }
        if self.judge.broken.is_none() {
            self.rest();
        }
        self.counts.days = (self.now - START) / DAY;
        Outcome {
            broken: self.judge.broken,
            at: self.now - START,
            counts: self.counts,
            trace: self.trace.unwrap_or_default(),
        }
    }

    fn happen(&mut self, event: Event) {
        if !matches!(event, Event::Turn(_)) {
            self.tell(|| format!("{event:?}"));
        }
        match event {
            Event::Turn(at) if at != self.wake => {}
            Event::Turn(_) | Event::Nudge => self.turn(|_| Ok(())),
            Event::Arrive(number) => self.arrive(number),
            Event::Reply(number) => self.reply(number),
            Event::Link(place) => self.link(place),
            Event::Take(place) => self.take(place),
            Event::Dial(place) => self.dial(place),
            Event::Report(place) => self.report(place),
            Event::Start(place) => self.start(place),
            Event::Caller => self.caller(),
            Event::Boot(number) => self.boot(number),
            Event::ClockRight => self.move_clock(0),
            Event::StrangerGoes => {
                let is_it = |sha256: &str| sha256.starts_with(super::far::STRANGER);
                self.far.archive_by_hand(is_it, self.now);
            }
            Event::ForeignSecretGoes => self.far.drop_foreign_secrets(),
            Event::Operator => self.operator(),
            Event::Fault(fault) => self.fault(fault),
        }
    }

    pub(super) fn wall(&self) -> u64 {
        self.now.saturating_add_signed(self.offset)
    }

    /// A turn of the daemon, after `first`, if there is one that can take it.
    pub(super) fn turn(&mut self, first: impl FnOnce(&mut Turn<'_>) -> Step) {
        let wall = self.wall();
        let Some(process) = &mut self.process else {
            return;
        };
        if self.now < self.frozen {
            self.wake = self.frozen;
            self.queue.push(self.frozen, Event::Turn(self.frozen));
            return;
        }
        let boot = self.now;
        let moment = Moment {
            wall,
            boot,
            suspect: process.doubt.is_suspect(wall, boot),
        };
        let before = generations(process);
        let mut turn = Turn {
            p: process,
            disk: &mut self.disk,
            moment,
            jammed: boot < self.jammed,
            traits: &self.traits,
            guard: self.guard,
            dice: &mut self.dice,
            serial: &mut self.serial,
            fuse: &mut self.fuse,
            asks: Vec::new(),
            deeds: Vec::new(),
            due: 0,
            slots_due: 0,
        };
        let outcome = match first(&mut turn) {
            Ok(()) => turn.run(),
            Err(halt) => Err(halt),
        };
        let (asks, deeds) = (turn.asks, turn.deeds);
        self.counts.turns += 1;
        self.judge_turn(deeds);
        let crashed = outcome.is_err_and(super::turn::Halt::is_crash);
        if let (Ok(wake), false) = (outcome, crashed) {
            self.wake = wake;
            self.queue.push(wake, Event::Turn(wake));
            for ask in asks {
                self.ask(ask);
            }
        }
        let process = self.process.as_ref();
        if process.is_some_and(|process| generations(process) != before) {
            self.announce();
        }
        if crashed {
            self.counts.crashes += 1;
            self.tell(|| "crash".to_owned());
            let pause = self.dice.between(1, 60);
            self.end_process(pause);
        }
    }

    /// The process is gone; another one starts after `pause` seconds.
    pub(super) fn end_process(&mut self, pause: u64) {
        self.count_rotations();
        self.process = None;
        self.fuse = None;
        if !self.known {
            self.judge.jumped = None;
        }
        for replica in &mut self.replicas {
            if replica.linked {
                replica.linked = false;
                replica.unlinked = self.now;
            }
        }
        self.processes += 1;
        let number = self.processes;
        self.queue.push(self.now + pause, Event::Boot(number));
        if self.now < self.misled {
            self.misled = self.misled.max(self.now + pause + MENDED);
        }
    }

    fn boot(&mut self, number: u32) {
        if self.process.is_some() || number != self.processes {
            return;
        }
        let wall = self.wall();
        let process = Process::open(self.boot_id, &mut self.disk, wall, self.now);
        self.process = Some(process);
        for place in 0..self.replicas.len() {
            let pause = self.dice.between(1, super::secret::COME_BACK - 10);
            self.queue.push(self.now + pause, Event::Link(place));
        }
        self.queue.push(self.now + HOUR + 1, Event::Nudge);
        self.turn(|_| Ok(()));
    }

    /// Ends the process after so many points of its next turns.
    pub(super) fn light(&mut self, points: u32) {
        self.fuse = Some(points);
    }

    /// The wall clock of the host shows something else.
    pub(super) fn move_clock(&mut self, offset: i64) {
        // What nobody saw, nobody can doubt.
        let seen = self.process.is_some() && self.now >= self.frozen;
        if seen && self.offset.abs_diff(offset) > 60 {
            self.judge.jumped = Some(self.now);
        }
        self.offset = offset;
        if offset.unsigned_abs() > TOLERATED {
            self.misled = u64::MAX;
        } else if self.misled == u64::MAX {
            let back = self.now.max(self.frozen);
            self.misled = back + MENDED;
        }
        // It is noticed within half a minute.
        let pause = self.dice.between(1, 30);
        self.wake = self.now + pause;
        self.queue.push(self.wake, Event::Turn(self.wake));
    }

    /// What is judged, and who judges.
    pub(super) fn court(&mut self) -> (&mut Judge, Option<&Process>, Scene<'_>) {
        let scene = Scene {
            now: self.now,
            wall: self.now.saturating_add_signed(self.offset),
            far: &self.far,
            replicas: &self.replicas,
            disk: &self.disk,
            builtin: self.traits.builtin,
            misled: self.now < self.misled,
        };
        (&mut self.judge, self.process.as_ref(), scene)
    }

    fn look(&mut self) {
        let (judge, _, scene) = self.court();
        judge.look(&scene);
    }

    fn judge_turn(&mut self, deeds: Vec<super::judge::Deed>) {
        if let Some(trace) = &mut self.trace {
            let at = stamp(self.now);
            trace.extend(deeds.iter().map(|deed| format!("{at}   {deed:?}")));
        }
        let (judge, process, scene) = self.court();
        if let Some(process) = process {
            judge.turn(deeds, process, &scene);
            judge.beside(process, &scene);
        }
    }

    /// Everybody who is there learns that there is something new.
    fn announce(&mut self) {
        let board = self.process.as_ref().map(|process| &process.board);
        let credential = board.and_then(|board| board.credential.clone());
        let issuer = |one: &Option<Credential>| one.as_ref().map(|one| one.leaf.issuer.clone());
        let [newest, before] = &mut self.files;
        if issuer(&credential) != issuer(newest) {
            *before = newest.take();
        }
        *newest = credential;
        for place in 0..self.replicas.len() {
            let pause = self.dice.between(1, 3);
            self.queue.push(self.now + pause, Event::Take(place));
        }
    }

    /// In the end all that is said of a credential is the same (I3, I5).
    fn rest(&mut self) {
        let Some(process) = &self.process else {
            self.judge
                .find(true, || "no daemon is there in the end".to_owned());
            return;
        };
        let listed: Vec<&str> = self.far.active().map(|(_, sha256)| sha256).collect();
        let active = process.ca.active.as_ref().map(|ca| ca.sha256.as_str());
        let recent = |began: u64| began + CALM / 2 > self.now;
        let ca = process.ca.slots.rotation.as_ref();
        let stuck = ca.filter(|rotation| !recent(rotation.began));
        let text = stuck.map(|rotation| format!("the CA's rotation is stuck: {rotation:?}"));
        self.judge.find(text.is_some(), || text.unwrap_or_default());
        let odd =
            ca.is_none() && Some(listed.as_slice()) != active.as_ref().map(std::slice::from_ref);
        self.judge.find(odd, || {
            format!("the remote has {listed:?} in the end, and in force is {active:?}")
        });
        let token = process.token.rotation.as_ref();
        let text = token.filter(|rotation| !recent(rotation.began));
        let text = text.map(|rotation| format!("the token's rotation is stuck: {rotation:?}"));
        self.judge.find(text.is_some(), || text.unwrap_or_default());
        let secret = process.secret.rotation.as_ref();
        let text = secret.filter(|rotation| !recent(rotation.began));
        let text = text.map(|rotation| format!("the secret's rotation is stuck: {rotation:?}"));
        self.judge.find(text.is_some(), || text.unwrap_or_default());
        self.count_rotations();
    }

    fn count_rotations(&mut self) {
        if let Some(process) = &self.process {
            self.counts.leaves = process.leaf.done;
            self.counts.cas = process.ca.done;
            self.counts.tokens = process.token.done;
            self.counts.secrets = process.secret.done;
        }
    }

    pub(super) fn tell(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {}", stamp(self.now), what()));
        }
    }
}

fn stamp(now: u64) -> String {
    let since = now - START;
    format!("{}d{:05}s", since / DAY, since % DAY)
}

/// What is on the board, by number.
fn generations(process: &Process) -> [u64; 3] {
    let board = &process.board;
    [
        board.credential.as_ref().map_or(0, |one| one.generation),
        board.token.as_ref().map_or(0, |one| one.0),
        board.secret.as_ref().map_or(0, |one| one.0),
    ]
}
