//! Who subscribes: one entry a replica name, one live subscription an entry.
//!
//! The table on the board is what everybody reads; only a seat that still stands may write to it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control::{Ack, Hello, Nack, Report, Resource, Role};
use process::Clock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::bounded;
use crate::board::{Replica, Replicas};

/// Replicas that are remembered, at most. Beyond it the one that is gone longest is forgotten.
const MOST: usize = 512;

/// A name that is taken over twice within this time is used by two.
const CONTEST: Duration = Duration::from_secs(60);

/// The table of replicas and who may write to it.
pub(crate) struct Roster {
    board: watch::Sender<Replicas>,
    clock: Arc<dyn Clock>,
    standing: Mutex<Book>,
    /// Names of one uid that are remembered, at most.
    names: usize,
}

#[derive(Default)]
struct Book {
    last_seat: u64,
    standing: BTreeMap<String, Standing>,
}

struct Standing {
    seat: u64,
    uid: u32,
    role: Role,
    connected: bool,
    /// Cancelled when a newer subscription of the same name takes over.
    replaced: CancellationToken,
    /// Boot time when it was last heard: the wall clock may jump.
    heard: Duration,
    contest: Contest,
}

/// Live subscriptions of one name that were taken over, by boot time.
#[derive(Clone, Copy, Debug, Default)]
struct Contest {
    last: Option<Duration>,
    said: Option<Duration>,
}

impl Contest {
    /// Notes a take-over; `true`: it is the second within a minute, and time to say so.
    fn is_news(&mut self, now: Duration) -> bool {
        let lately =
            |then: Option<Duration>| then.is_some_and(|then| now.saturating_sub(then) < CONTEST);
        let news = lately(self.last) && !lately(self.said);
        self.last = Some(now);
        if news {
            self.said = Some(now);
        }
        news
    }
}

/// What a subscriber is sent.
#[derive(Debug, Default)]
pub(crate) struct Scope {
    pub(crate) tunnels: Vec<String>,
    pub(crate) dials: Vec<String>,
}

/// Why a name cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A subscription of another uid or role stands under this name.
    ByAnother,
    /// Too many subscriptions stand.
    Full,
}

/// The right to write one replica's entry, until a newer seat of the same name is taken.
pub(crate) struct Seat {
    roster: Arc<Roster>,
    name: String,
    number: u64,
    /// Whether two use the name, and nobody was told so within the last minute.
    pub(crate) contested: bool,
    /// Resolves when a newer subscription of the same name takes over.
    pub(crate) replaced: CancellationToken,
}

impl Roster {
    /// Of each uid `names` are remembered at most.
    pub(crate) fn new(board: watch::Sender<Replicas>, clock: Arc<dyn Clock>, names: usize) -> Self {
        Self {
            board,
            clock,
            standing: Mutex::default(),
            names,
        }
    }

    /// Takes the seat of `hello.replica`; an earlier subscription of that name is told to end.
    pub(crate) fn enter(
        self: &Arc<Self>,
        hello: &Hello,
        uid: u32,
        Scope { tunnels, dials }: Scope,
    ) -> Result<Seat, Taken> {
        let mut book = self.book();
        let now = self.clock.boot();
        let (mut contest, mut contested) = (Contest::default(), false);
        if let Some(earlier) = book.standing.get(&hello.replica) {
            if earlier.connected && (earlier.uid, earlier.role) != (uid, hello.role) {
                return Err(Taken::ByAnother);
            }
            earlier.replaced.cancel();
            contest = earlier.contest;
            contested = earlier.connected && contest.is_news(now);
        } else {
            self.make_room(&mut book, uid)?;
        }
        book.last_seat += 1;
        let replaced = CancellationToken::new();
        let standing = Standing {
            seat: book.last_seat,
            uid,
            role: hello.role,
            connected: true,
            replaced: replaced.clone(),
            heard: now,
            contest,
        };
        let number = standing.seat;
        book.standing.insert(hello.replica.clone(), standing);
        let replica = Replica {
            role: hello.role,
            uid,
            build: hello.build.clone(),
            tunnels,
            dials,
            connected: true,
            left: false,
            last_heard: self.clock.wall(),
            // What it had acknowledged in an earlier life says nothing about this one.
            acks: BTreeMap::new(),
            nacks: BTreeMap::new(),
            report: Report::default(),
        };
        self.board.send_modify(|replicas| {
            replicas.insert(hello.replica.clone(), replica);
        });
        Ok(Seat {
            roster: self.clone(),
            name: hello.replica.clone(),
            number,
            contested,
            replaced,
        })
    }

    /// Forgets replicas without a subscription that were last heard more than `silent` ago.
    pub(crate) fn sweep(&self, silent: Duration) {
        let now = self.clock.boot();
        let mut book = self.book();
        let gone: Vec<String> = book
            .standing
            .iter()
            .filter(|(_, one)| !one.connected && now.saturating_sub(one.heard) > silent)
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.forget(&mut book, &name);
        }
    }

    /// Makes room for one more name of `uid`.
    fn make_room(&self, book: &mut Book, uid: u32) -> Result<(), Taken> {
        let of_uid = |one: &Standing| one.uid == uid;
        if book.standing.values().filter(|one| of_uid(one)).count() >= self.names {
            self.forget_oldest(book, of_uid)?;
        }
        if book.standing.len() >= MOST {
            self.forget_oldest(book, |_| true)?;
        }
        Ok(())
    }

    /// Forgets the one that is gone longest `among` them.
    fn forget_oldest(
        &self,
        book: &mut Book,
        among: impl Fn(&Standing) -> bool,
    ) -> Result<(), Taken> {
        let oldest = book
            .standing
            .iter()
            .filter(|(_, one)| !one.connected && among(one))
            .min_by_key(|(_, one)| one.heard)
            .map(|(name, _)| name.clone())
            .ok_or(Taken::Full)?;
        self.forget(book, &oldest);
        Ok(())
    }

    fn forget(&self, book: &mut Book, name: &str) {
        book.standing.remove(name);
        self.board.send_modify(|replicas| {
            replicas.remove(name);
        });
        tracing::info!(replica = name, "replica forgotten");
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The replica's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A resource is in force.
    pub(crate) fn ack(&self, ack: &Ack) {
        let key = (ack.tunnel.clone(), ack.resource);
        self.write(|replica| {
            let highest = replica.acks.entry(key.clone()).or_default();
            *highest = ack.generation.max(*highest);
            if replica
                .nacks
                .get(&key)
                .is_some_and(|(refused, _)| *refused <= ack.generation)
            {
                replica.nacks.remove(&key);
            }
        });
    }

    /// A resource was refused.
    pub(crate) fn nack(&self, nack: &Nack) {
        let key: (String, Resource) = (nack.tunnel.clone(), nack.resource);
        self.write(|replica| {
            replica.nacks.insert(key, (nack.generation, nack.reason));
        });
    }

    /// How things stand, as far as it is kept; `true`: something was left out.
    pub(crate) fn report(&self, mut report: Report, tunnels: &[String]) -> bool {
        // Before the lock is taken: it may be long.
        let cut = bounded::report(&mut report, tunnels);
        self.write(|replica| replica.report = report);
        cut
    }

    /// It leaves on purpose.
    pub(crate) fn left(&self) {
        self.write(|replica| replica.left = true);
    }

    fn write(&self, change: impl FnOnce(&mut Replica)) {
        let now = self.roster.clock.wall();
        let mut book = self.roster.book();
        let Some(standing) = book.standing.get_mut(&self.name) else {
            return;
        };
        if standing.seat != self.number {
            return;
        }
        standing.heard = self.roster.clock.boot();
        self.roster.board.send_modify(|replicas| {
            if let Some(replica) = replicas.get_mut(&self.name) {
                replica.last_heard = now;
                change(replica);
            }
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut book = self.roster.book();
        let Some(standing) = book.standing.get_mut(&self.name) else {
            return;
        };
        if standing.seat != self.number {
            return;
        }
        standing.connected = false;
        self.roster.board.send_modify(|replicas| {
            if let Some(replica) = replicas.get_mut(&self.name) {
                replica.connected = false;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_over_twice_within_a_minute_is_told_once_a_minute() {
        let mut contest = Contest::default();
        let news = [0, 100, 130, 150, 185, 200, 300].map(|second| {
            let news = contest.is_news(Duration::from_secs(second));
            (second, news)
        });
        let told = news.into_iter().filter(|(_, news)| *news);
        assert_eq!(
            told.map(|(second, _)| second).collect::<Vec<_>>(),
            [130, 200]
        );
    }
}
