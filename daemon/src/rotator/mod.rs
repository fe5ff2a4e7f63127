//! The loop that keeps every tunnel's credentials: observe, decide, record, do one step, publish.
//!
//! What to do is decided by [`crate::rotation`]; this module does it. A turn works off everything that
//! can be done now and never waits: it ends in a publication, a status and the time of the next turn.
//! Turns run on a thread for blocking work, because they sync files.
//!
//! A step that fails is tried again later, more and more rarely; meanwhile what was published stays
//! published, and the status says what is wrong.

mod adopt;
mod ca;
mod calls;
mod client;
mod files;
mod issue;
mod kept;
mod leaf;
mod orders;
mod pending;
mod proof;
mod recover;
mod remote;
mod report;
mod schedule;
mod secret;
mod slots;
mod token;
mod tunnel;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use process::{Clock, Failure, Tasks};
use tokio::sync::mpsc;

use self::calls::Calls;
use self::orders::Operations;
pub(crate) use self::tunnel::fresh_id_at;
use self::tunnel::{Desk, Tunnel};
use crate::board::{Board, Request};
use crate::config::Config;
use crate::disk::Disk;
use crate::journal::Journal;
use crate::remote::{Ask, Remote, Told};
use crate::time::Doubt;

/// A turn is due at least this often, so that a suspended machine renews soon after it wakes up.
const TICK: Duration = Duration::from_secs(30);
/// Orders that are taken into one turn, and answers of the remote.
const ORDERS: usize = 256;

/// Keeps the credentials of all tunnels.
pub struct Rotator {
    clock: Arc<dyn Clock>,
    engine: Engine,
    remote: Option<Remote>,
}

impl std::fmt::Debug for Rotator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rotator").finish_non_exhaustive()
    }
}

/// The time of a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) wall: SystemTime,
    pub(crate) boot: Duration,
    /// The wall clock cannot be believed.
    pub(crate) suspect: bool,
}

impl Moment {
    /// Whole Unix seconds.
    pub(crate) fn unix(&self) -> u64 {
        unix(self.wall)
    }
}

/// Whole Unix seconds; 0 before 1970.
pub(crate) fn unix(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

impl Rotator {
    /// Takes the state directory and the stores, reads the journal, and takes up a CA and a server
    /// certificate that another tool left in a store. Nothing is issued and nothing published yet, and `remote`, which tunnels
    /// of `tunnels_api` need, is not called.
    ///
    /// # Errors
    ///
    /// Another daemon has them, they cannot be written, or what is there cannot be used; exit code 78.
    pub fn open(
        config: &Config,
        clock: Arc<dyn Clock>,
        remote: Option<Remote>,
    ) -> Result<Self, Failure> {
        let moment = Moment {
            wall: clock.wall(),
            boot: clock.boot(),
            suspect: false,
        };
        let engine = Engine::open(config, &Disk::default(), moment)?;
        Ok(Self {
            clock,
            engine,
            remote,
        })
    }

    /// Runs until the stop. The first publication follows at once.
    ///
    /// # Errors
    ///
    /// A turn panicked.
    pub async fn run(
        self,
        board: Board,
        mut requests: mpsc::Receiver<Request>,
        tasks: Tasks,
    ) -> Result<(), Failure> {
        let Self {
            clock,
            mut engine,
            remote,
        } = self;
        let mut replicas = board.replicas.subscribe();
        let (tell, mut heard) = mpsc::channel(ORDERS);
        let mut news = News::default();
        loop {
            let (wall, boot) = (clock.wall(), clock.boot());
            let board = board.clone();
            let turn = tokio::task::spawn_blocking(move || {
                let pause = engine.turn(&board, news, wall, boot);
                (engine, pause)
            });
            let pause;
            (engine, pause) = turn
                .await
                .map_err(|error| Failure::internal("a turn failed").caused_by(&error))?;
            for ask in engine.take_asks() {
                if let Some(remote) = &remote {
                    remote.ask(ask, tell.clone(), &tasks);
                }
            }
            news = News::default();
            tokio::select! {
                () = tasks.stopping() => return Ok(()),
                count = requests.recv_many(&mut news.requests, ORDERS) => {
                    if count == 0 {
                        return Ok(());
                    }
                }
                _ = heard.recv_many(&mut news.told, ORDERS) => {}
                changed = replicas.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

/// What happened since the last turn.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Orders.
    pub(crate) requests: Vec<Request>,
    /// What came of calls.
    pub(crate) told: Vec<Told>,
}

/// Everything but the waiting.
pub(crate) struct Engine {
    journal: Journal,
    doubt: Doubt,
    operations: Operations,
    calls: Calls,
    tunnels: BTreeMap<String, Tunnel>,
}

impl Engine {
    pub(crate) fn open(config: &Config, disk: &Disk, moment: Moment) -> Result<Self, Failure> {
        let mut journal = Journal::open_on(&config.state, disk.clone())?;
        let records = journal.records();
        let doubt = Doubt::since(records, journal.boot_id(), moment.wall, moment.boot);
        let group = config.control.group.as_ref();
        let group = group.map(crate::config::Group::resolve).transpose()?;
        let mut operations = Operations::default();
        let mut tunnels = BTreeMap::new();
        for (name, tunnel) in &config.tunnels {
            let place = recover::Place {
                name,
                state: &config.state,
                group,
                disk,
            };
            let mut tunnel = recover::open(&place, tunnel, &mut journal, moment)?;
            tunnel.resume_orders(&journal, &mut operations, moment);
            tunnels.insert(name.clone(), tunnel);
        }
        Ok(Self {
            journal,
            doubt,
            operations,
            calls: Calls::default(),
            tunnels,
        })
    }

    /// One turn; gives how long nothing more will be due.
    pub(crate) fn turn(
        &mut self,
        board: &Board,
        news: News,
        wall: SystemTime,
        boot: Duration,
    ) -> Duration {
        let moment = Moment {
            wall,
            boot,
            suspect: self.doubt.is_suspect(wall, boot),
        };
        let mut desk = Desk {
            journal: &mut self.journal,
            operations: &mut self.operations,
            calls: &mut self.calls,
            board,
            moment,
        };
        for told in news.told {
            desk.calls.over(&told.ask);
            if let Some(tunnel) = self.tunnels.get_mut(&told.ask.tunnel) {
                tunnel.told(&mut desk, told);
            }
        }
        // One publication first: an order must not delay what proxies wait for after a start.
        let answers: Vec<_> = news
            .requests
            .into_iter()
            .map(|request| orders::take(&mut self.tunnels, &mut desk, request))
            .collect();
        if !answers.is_empty() {
            // Whoever follows his order at once must find it.
            let status =
                report::status(&self.tunnels, desk.operations, desk.journal, board, moment);
            board.status.send_replace(Arc::new(status));
        }
        for answer in answers {
            answer.send();
        }
        let mut pause = TICK;
        for tunnel in self.tunnels.values_mut() {
            pause = pause.min(tunnel.turn(&mut desk));
        }
        let status = report::status(
            &self.tunnels,
            &self.operations,
            &self.journal,
            board,
            moment,
        );
        board.status.send_replace(Arc::new(status));
        pause
    }

    /// The calls that the last turn wants made. What comes of each has to be told to a later one.
    pub(crate) fn take_asks(&mut self) -> Vec<Ask> {
        self.calls.take()
    }
}

#[cfg(test)]
mod tests;
