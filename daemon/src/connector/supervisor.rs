//! Which processes there are to be.
//!
//! | Seen | Done |
//! |---|---|
//! | another token | a process is started on it, beside the one in service |
//! | it is registered | it is in service; the one before it is told to end |
//! | its token is refused, or it does not register in time | it is told to end, and another one is started later |
//! | the one in service ended, or its token is refused and it has no connection left | another one is started |
//!
//! A process that is in service is ended for one thing only: a registered successor.

use std::collections::BTreeMap;
use std::time::Duration;

use control::Reason;
use process::Tasks;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::instance::{Event, Instance};
use super::{Offer, Settings, Standing};

/// First wait after a process was of no use; doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Processes at a time, those that let streams finish included: tokens that follow each other faster wait.
const MOST: usize = 4;

/// Keeps cloudflared running.
pub(super) struct Supervisor {
    settings: Settings,
    offers: watch::Receiver<Option<Offer>>,
    standing: watch::Sender<Standing>,
    tasks: Tasks,
    processes: BTreeMap<u64, Process>,
    /// For the processes that are started.
    tells: mpsc::UnboundedSender<(u64, Event)>,
    events: mpsc::UnboundedReceiver<(u64, Event)>,
    /// The last one that was looked at.
    wanted: Option<Offer>,
    started: u64,
    failures: u32,
    /// Nothing is started before.
    wait_until: Option<Instant>,
    refused: Option<(u64, Reason)>,
}

/// One process.
struct Process {
    offer: Offer,
    role: Role,
    registered: bool,
    since: Instant,
    end: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Has not registered yet.
    Coming,
    /// In service.
    Serving,
    /// Was told to end.
    Leaving,
}

impl Supervisor {
    pub(super) fn new(
        settings: Settings,
        offers: watch::Receiver<Option<Offer>>,
        standing: watch::Sender<Standing>,
        tasks: Tasks,
    ) -> Self {
        let (tells, events) = mpsc::unbounded_channel();
        Self {
            settings,
            offers,
            standing,
            tasks,
            processes: BTreeMap::new(),
            tells,
            events,
            wanted: None,
            started: 0,
            failures: 0,
            wait_until: None,
            refused: None,
        }
    }

    /// Until the stop, and until every process has ended.
    pub(super) async fn run(mut self) {
        let tasks = self.tasks.clone();
        let mut known = true;
        loop {
            self.step();
            self.tell();
            let due = self.due();
            tokio::select! {
                changed = self.offers.changed(), if known => known = changed.is_ok(),
                event = self.events.recv() => {
                    if let Some((id, event)) = event {
                        self.take(id, event);
                    }
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
                () = tasks.stopping() => break,
            }
        }
        for process in self.processes.values_mut() {
            process.leave();
        }
        while !self.processes.is_empty() {
            match self.events.recv().await {
                Some((id, Event::Ended)) => drop(self.processes.remove(&id)),
                Some(_) => {}
                None => break,
            }
        }
    }

    fn take(&mut self, id: u64, event: Event) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        match event {
            Event::Registered(registered) => {
                process.registered = registered;
                if registered && process.role == Role::Coming {
                    self.put_into_service(id);
                }
            }
            Event::Refused => {
                let generation = process.offer.generation;
                tracing::error!(
                    instance = id,
                    generation,
                    next = "rotate the tunnel token, or put the one in force into the store",
                    "the tunnel's edge does not accept the token"
                );
                self.refused = Some((generation, Reason::TokenRefused));
                // One in service may have connections that live on.
                if process.role == Role::Coming || !process.registered {
                    process.leave();
                    self.fail();
                }
            }
            Event::Ended => {
                let process = self.processes.remove(&id);
                if process.is_some_and(|process| process.role != Role::Leaving) {
                    self.fail();
                }
            }
        }
    }

    fn put_into_service(&mut self, id: u64) {
        for (other, process) in &mut self.processes {
            if *other == id {
                process.role = Role::Serving;
                let generation = process.offer.generation;
                tracing::info!(instance = id, generation, "cloudflared is in service");
                self.refused = self.refused.filter(|(of, _)| *of != generation);
            } else {
                process.leave();
            }
        }
        self.failures = 0;
        self.wait_until = None;
    }

    /// Starts what has to be started, gives up what does not come.
    fn step(&mut self) {
        let now = Instant::now();
        let Some(wanted) = self.offers.borrow_and_update().clone() else {
            return;
        };
        let known = self.wanted.replace(wanted.clone());
        if known.is_none_or(|known| known.token != wanted.token) {
            // What was wrong with the one before says nothing about this one.
            (self.failures, self.wait_until, self.refused) = (0, None, None);
        }
        let limit = self.settings.register_within;
        let mut late = false;
        for process in self.processes.values_mut() {
            let same = process.offer.token == wanted.token;
            if same {
                // The same value under another number: nothing changes but what is acknowledged.
                process.offer.generation = wanted.generation;
            }
            if process.role == Role::Coming && (!same || now >= process.since + limit) {
                late |= same;
                process.leave();
            }
        }
        if late {
            tracing::warn!("cloudflared did not register in time");
            self.fail();
        }
        let is_there = self.processes.values().any(|process| {
            process.offer.token == wanted.token
                && match process.role {
                    Role::Coming => true,
                    Role::Serving => process.registered || !self.is_refused(&wanted),
                    Role::Leaving => false,
                }
        });
        let waiting = self.wait_until.is_some_and(|until| now < until);
        if !is_there && !waiting && self.processes.len() < MOST {
            self.start(wanted);
        }
    }

    fn start(&mut self, offer: Offer) {
        self.started += 1;
        let id = self.started;
        let instance = match Instance::start(id, &self.settings, &offer.token) {
            Ok(instance) => instance,
            Err(error) => {
                let program = self.settings.program.display();
                tracing::error!(%error, %program, "cannot start cloudflared");
                self.fail();
                return;
            }
        };
        let (end, ends) = watch::channel(false);
        self.tasks.spawn(instance.watch(ends, self.tells.clone()));
        let process = Process {
            offer,
            role: Role::Coming,
            registered: false,
            since: Instant::now(),
            end,
        };
        self.processes.insert(id, process);
    }

    fn fail(&mut self) {
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(self.failures.min(6))).min(LONGEST_WAIT);
        self.failures = self.failures.saturating_add(1);
        self.wait_until = Some(Instant::now() + wait);
    }

    fn is_refused(&self, offer: &Offer) -> bool {
        self.refused.is_some_and(|(of, _)| of == offer.generation)
    }

    /// When there is something to do though nothing is seen.
    fn due(&self) -> Option<Instant> {
        let coming = self.processes.values();
        let coming = coming.filter(|process| process.role == Role::Coming);
        let limits = coming.map(|process| process.since + self.settings.register_within);
        let now = Instant::now();
        let wait = self.wait_until.filter(|until| *until > now);
        limits.chain(wait).min()
    }

    fn tell(&self) {
        let serving = |process: &&Process| process.role == Role::Serving;
        let serving = self.processes.values().find(serving);
        let held = serving.filter(|process| {
            let wanted = self.wanted.as_ref();
            process.registered && wanted.is_some_and(|offer| offer.token == process.offer.token)
        });
        let standing = Standing {
            held: held.map(|process| process.offer.generation),
            refused: self.refused,
            registered: self.processes.values().any(|process| process.registered),
            processes: self.processes.len(),
            started: self.started,
        };
        self.standing.send_if_modified(|last| {
            let news = *last != standing;
            *last = standing;
            news
        });
    }
}

impl Process {
    fn leave(&mut self) {
        self.role = Role::Leaving;
        self.end.send_replace(true);
    }
}
