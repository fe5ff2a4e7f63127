//! The daemon's process and its disk, the remote, the proxies, and what may become of them.

mod around;

use super::super::*;
use crate::rotation::shared_secret::seen::SLOTS;

pub(super) type Decide = fn(&State, &Seen, u64) -> Action;

/// Time is of no importance but for how long the old secret was silent.
const BASE: u64 = 1_000_000;
const QUIET: u64 = 100;

/// What a proxy that stays does not do.
const ENDS: [&str; 3] = [
    "a proxy loses the daemon",
    "a proxy leaves",
    "a proxy is killed",
];

/// What may happen.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "what may happen, one by one")]
pub(super) struct Config {
    pub(super) proxies: usize,
    /// What he calls himself.
    pub(super) thief: Option<&'static str>,
    pub(super) orders: u8,
    pub(super) outsiders: u8,
    pub(super) lags: bool,
    pub(super) delays: bool,
    pub(super) jumps: bool,
    /// Proxies stay where they are.
    pub(super) steady: bool,
}

impl Config {
    pub(super) const CALM: Self = Self {
        proxies: 1,
        thief: None,
        orders: 1,
        outsiders: 0,
        lags: false,
        delays: false,
        jumps: false,
        steady: false,
    };
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what is so, one by one")]
pub(super) struct World {
    // Durable.
    state: State,
    custody: BTreeSet<String>,
    order: bool,
    // Of the process.
    published: u64,
    list: Option<(u64, Vec<Shown>)>,
    called: BTreeSet<String>,
    refused: BTreeSet<String>,
    watched: bool,
    // Of the remote.
    remote: Vec<Row>,
    accepts: BTreeSet<String>,
    /// Calls whose answer was given up and that were not carried out yet.
    delayed: Option<Call>,
    proxies: Vec<Proxy>,
    thief: Option<String>,
    // Of the world.
    late: bool,
    suspect: bool,
    drawn: u8,
    orders: u8,
    outsiders: u8,
    meddled: bool,
    lost: bool,
}

/// Of a list: the secret, whether it was used, who is bound to it.
type Shown = (String, bool, Vec<Holder>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Row {
    /// What is its id, digest and value here.
    sha256: String,
    active: bool,
    used: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Call {
    Add(String),
    Archive(String),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "what is so, one by one")]
struct Proxy {
    up: bool,
    subscribed: bool,
    /// The process has seen it, and no farewell.
    known: bool,
    /// The process heard its farewell, or has forgotten it.
    gone: bool,
    told: Option<(u64, String)>,
    bound: Option<String>,
    /// As the process knows.
    acked: u64,
}

type Next = (&'static str, Result<World, String>);

impl World {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            state: State::default(),
            custody: BTreeSet::new(),
            order: false,
            published: 0,
            list: None,
            called: BTreeSet::new(),
            refused: BTreeSet::new(),
            watched: true,
            remote: Vec::new(),
            accepts: BTreeSet::new(),
            delayed: None,
            proxies: vec![
                Proxy {
                    up: true,
                    ..Proxy::default()
                };
                config.proxies
            ],
            thief: None,
            late: false,
            suspect: false,
            drawn: 0,
            orders: config.orders,
            outsiders: config.outsiders,
            meddled: false,
            lost: false,
        }
    }

    /// Journal, custody, remote, board and proxies agree, and nothing is to be done.
    pub(super) fn is_at_rest(&self) -> bool {
        let Some(active) = &self.state.active else {
            return false;
        };
        let listed: Vec<&String> = self.active().map(|row| &row.sha256).collect();
        let ours = listed.iter().filter(|sha256| !is_foreign(sha256)).count();
        self.state.rotation.is_none()
            && self.state.doomed.is_empty()
            && !self.order
            && !self.suspect
            && self.delayed.is_none()
            && ours == 1
            && listed.contains(&&active.sha256)
            && self.custody == BTreeSet::from([active.id.clone()])
            && self.published == active.generation
            && self
                .proxies
                .iter()
                .all(|proxy| proxy.up && proxy.bound.as_ref() == Some(&active.sha256))
    }

    fn active(&self) -> impl Iterator<Item = &Row> {
        self.remote.iter().filter(|row| row.active)
    }

    fn now(&self) -> u64 {
        BASE + if self.late { QUIET + LAG } else { 0 }
    }

    fn seen(&self) -> Seen {
        let dialers = self.proxies.iter().enumerate();
        let dialers = dialers.filter(|(_, proxy)| proxy.known);
        let gone = self.proxies.iter().enumerate();
        let gone = gone.filter(|(_, proxy)| proxy.gone);
        Seen {
            remote: self.list.as_ref().map(|(asked_at, rows)| Remote {
                asked_at: *asked_at,
                secrets: rows
                    .iter()
                    .map(|(sha256, used, live)| Listed {
                        id: sha256.clone(),
                        sha256: sha256.clone(),
                        used: *used,
                        live: live.clone(),
                    })
                    .collect(),
            }),
            looked_at: None,
            called: self.called.iter().cloned().collect(),
            refused: self.refused.iter().cloned().collect(),
            held: self.custody.iter().cloned().collect(),
            published: self.published,
            dialers: dialers
                .map(|(number, proxy)| Dialer {
                    name: name(number),
                    acked: proxy.acked,
                    refused: None,
                })
                .collect(),
            gone: gone.map(|(number, _)| name(number)).collect(),
            watched: self.watched,
            young: !self.watched,
            wanted: self.order.then_some(Cause::Ordered),
            quiet: QUIET,
            asking: false,
            paced: false,
            suspect: self.suspect,
        }
    }

    pub(super) fn successors(&self, config: &Config, decide: Decide) -> Vec<Next> {
        let mut nexts = Vec::new();
        self.daemon(config, decide, &mut nexts);
        for number in 0..self.proxies.len() {
            self.proxy(number, config, &mut nexts);
        }
        self.edge(config, &mut nexts);
        self.fate(config, &mut nexts);
        for (_, next) in &mut nexts {
            if let Ok(world) = next
                && let Err(violation) = world.check()
            {
                *next = Err(violation);
            }
        }
        nexts
    }

    /// I1, I3 and what the generations promise.
    fn check(&self) -> Result<(), String> {
        let ours = self.active().filter(|row| !is_foreign(&row.sha256)).count();
        if ours > SLOTS {
            return Err(format!("I3: {ours} secrets of ours are active"));
        }
        if self.state.generation > 0 && ours == 0 && !self.meddled {
            return Err("I3: none of ours is active".to_owned());
        }
        if let Some(presented) = self.state.presented()
            && presented.generation > 0
            && !self.meddled
            && !self.active().any(|row| row.sha256 == presented.sha256)
        {
            return Err("I1: proxies are told of what the remote does not take".to_owned());
        }
        Ok(())
    }

    /// The next step of the daemon, whatever comes of it.
    fn daemon(&self, config: &Config, decide: Decide, nexts: &mut Vec<Next>) {
        let (seen, now) = (self.seen(), self.now());
        let action = decide(&self.state, &seen, now);
        let state = &self.state;
        let record = |next: State| Ok(self.recorded(next));
        match action {
            Action::Wait(_) => {}
            Action::Republish => {
                let mut world = self.clone();
                world.published = state.presented().map_or(0, |secret| secret.generation);
                nexts.push(("republish", Ok(world)));
            }
            Action::Note(roster) => {
                // Not durable at once, but for the search that is the end of the process before it.
                let mut world = self.clone();
                world.state = state.noted(roster);
                nexts.push(("note", Ok(world)));
            }
            Action::Renumber => nexts.push(("renumber", Err("renumbered for nothing".to_owned()))),
            Action::Begin(cause) => {
                if self.drawn >= 6 {
                    return;
                }
                let id = (self.drawn + 1).to_string();
                let mut world = self.recorded(state.begun(id, cause, "test", BASE));
                world.drawn += 1;
                world.order &= cause != Cause::Ordered;
                nexts.push(("begin", Ok(world)));
            }
            Action::Make => self.make(nexts),
            Action::List => {
                let mut world = self.clone();
                world.list = Some((now, self.listed(config)));
                nexts.push(("list", Ok(world)));
            }
            Action::Add(sha256) => self.call(config, &Call::Add(sha256), nexts),
            Action::Archive(id) => self.call(config, &Call::Archive(id), nexts),
            Action::Publish => nexts.push(("publish", record(state.published(1, 0)))),
            Action::Prove | Action::Heard => {
                let mut world = self.recorded(state.proven(BASE));
                world.late = false;
                nexts.push(("prove", Ok(world)));
            }
            Action::Decide(holders) => {
                let quiet = self.late && !self.suspect;
                nexts.push((
                    "decide",
                    if quiet {
                        record(state.decided(holders, BASE))
                    } else {
                        Err("F53: the old one was not silent for long enough".to_owned())
                    },
                ));
            }
            Action::Finish => nexts.push(("finish", self.finish())),
            Action::Abandon => nexts.push(("abandon", record(state.abandoned()))),
            Action::Turn => nexts.push(("turn", record(state.turned(0)))),
            Action::Destroy => self.destroy(nexts),
        }
    }

    fn recorded(&self, state: State) -> Self {
        Self {
            state,
            list: None,
            called: BTreeSet::new(),
            ..self.clone()
        }
    }

    fn make(&self, nexts: &mut Vec<Next>) {
        let Some(rotation) = &self.state.rotation else {
            return;
        };
        let id = rotation.id.clone();
        let mut world = self.clone();
        world.custody.insert(id.clone());
        nexts.push(("make, then crash", Ok(world.crashed())));
        let secret = Secret::new(id.clone(), id, BASE);
        nexts.push(("make", Ok(world.recorded(self.state.made(secret)))));
    }

    fn finish(&self) -> Result<Self, String> {
        let old = self.state.active.as_ref();
        if old.is_some_and(|old| self.active().any(|row| row.sha256 == old.sha256)) {
            return Err("the remote still takes what is given up".to_owned());
        }
        Ok(self.recorded(self.state.finished()))
    }

    /// I6.
    fn destroy(&self, nexts: &mut Vec<Next>) {
        let mut world = self.clone();
        for id in &self.state.doomed {
            let named = self.state.blobs().contains(&id.as_str());
            let taken = self.active().any(|row| row.sha256 == *id) && !self.meddled;
            if self.suspect || named || taken {
                nexts.push(("destroy", Err(format!("I6: {id} was destroyed"))));
            }
            world.custody.remove(id);
        }
        nexts.push(("destroy, then crash", Ok(world.crashed())));
        nexts.push(("destroy", Ok(world.recorded(self.state.destroyed()))));
    }

    fn call(&self, config: &Config, call: &Call, nexts: &mut Vec<Next>) {
        // Neither sent nor answered is the world as it is.
        let mut done = self.clone();
        let outcome = match done.apply(config, call, true) {
            Ok(outcome) => outcome,
            Err(violation) => return nexts.push(("call", Err(violation))),
        };
        done.list = None;
        nexts.push(("call, answer lost", Ok(done.clone())));
        nexts.push(("call, then crash", Ok(done.crashed())));
        let (Call::Add(target) | Call::Archive(target)) = call;
        if outcome {
            done.called.insert(target.clone());
        } else {
            done.refused.insert(target.clone());
        }
        nexts.push(("call", Ok(done)));
        if config.delays && self.delayed.is_none() {
            let mut world = self.clone();
            world.delayed = Some(call.clone());
            world.list = None;
            nexts.push(("call, delayed", Ok(world)));
        }
    }

    /// What the remote does with a call; `false`: refused. `now`: it was decided on just now.
    fn apply(&mut self, config: &Config, call: &Call, now: bool) -> Result<bool, String> {
        match call {
            Call::Add(sha256) => {
                if let Some(row) = self.remote.iter().find(|row| row.sha256 == *sha256) {
                    return Ok(row.active);
                }
                if self.active().count() >= SLOTS {
                    return Ok(false);
                }
                if !self.custody.contains(sha256) && !self.meddled {
                    return Err(format!("{sha256} was added and is not in custody"));
                }
                self.remote.push(Row {
                    sha256: sha256.clone(),
                    active: true,
                    used: false,
                });
            }
            Call::Archive(id) => {
                if now {
                    self.may_archive(id)?;
                }
                let row = self.remote.iter_mut().find(|row| row.sha256 == *id);
                let Some(row) = row else { return Ok(false) };
                row.active = false;
            }
        }
        if !config.lags {
            self.propagate();
        }
        Ok(true)
    }

    fn may_archive(&self, id: &str) -> Result<(), String> {
        if is_foreign(id) {
            return Err("a stranger's secret was archived".to_owned());
        }
        if self.suspect {
            return Err("archived by a clock that cannot be believed".to_owned());
        }
        if let Some(number) = self
            .proxies
            .iter()
            .position(|proxy| proxy.bound.as_deref() == Some(id))
        {
            return Err(format!("I1: {} was cut", name(number)));
        }
        let presented = self.state.presented();
        let used = self
            .active()
            .any(|row| row.used && presented.is_some_and(|one| one.sha256 == row.sha256));
        if presented.is_some() && !used {
            return Err("I6: archived before its successor was used".to_owned());
        }
        Ok(())
    }

    /// What it does becomes what it lists.
    fn propagate(&mut self) {
        self.accepts = self.active().map(|row| row.sha256.clone()).collect();
        let cut = |bound: &mut Option<String>| {
            bound.take_if(|sha256| !self.accepts.contains(sha256));
        };
        self.proxies
            .iter_mut()
            .for_each(|proxy| cut(&mut proxy.bound));
        cut(&mut self.thief);
    }

    fn listed(&self, config: &Config) -> Vec<Shown> {
        let holder = |replica: String| Holder {
            replica,
            address: String::new(),
            instance: String::new(),
        };
        self.active()
            .map(|row| {
                let bound = Some(&row.sha256);
                // Before that nobody asks who is on what.
                let rotation = self.state.rotation.as_ref();
                let asked = rotation.is_some_and(|one| one.phase >= Phase::Quiet);
                let mut live: Vec<Holder> = self
                    .proxies
                    .iter()
                    .enumerate()
                    .filter(|(_, proxy)| asked && proxy.bound.as_ref() == bound)
                    .map(|(number, _)| holder(name(number)))
                    .collect();
                if asked && self.thief.as_ref() == bound {
                    live.extend(config.thief.map(|name| holder(name.to_owned())));
                }
                (row.sha256.clone(), row.used, live)
            })
            .collect()
    }
}

fn name(number: usize) -> String {
    format!("p{number}")
}

fn is_foreign(sha256: &str) -> bool {
    sha256.starts_with('f')
}
