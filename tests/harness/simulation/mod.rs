//! A tunnel's credentials over years, in moments: the decisions that are shipped, against a world that is made up.
//!
//! `daemon::rotation` decides; here is everything around it – journal, custody, the remote with its verifiers, proxies,
//! connectors, callers, clocks – as numbers and names, with a queue of events that skips to the next. What the daemon's
//! driver does with a decision is done alike here. Nothing is proven of the driver itself, of TLS or of HTTP: real
//! programs are for that.
//!
//! A seed is a run: the same seed does the same. Each rule can be taken away, see [`Guard`]; a judge who knows
//! everything must then see something break, or the rule, the judge or the world is worth nothing.

mod calls;
mod dice;
mod disk;
mod event;
mod far;
mod faults;
mod guards;
mod judge;
mod leaf;
mod plane;
mod process;
mod replica;
mod secret;
mod slots;
mod time;
mod token;
mod traits;
mod turn;
mod world;

pub use guards::Guard;

use world::World;

/// Seeds that are tried to catch a rule's absence.
const SEEDS: u64 = 60;
/// Days of each of them.
const DAYS: u64 = 60;

/// A run that is to be made.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named where it is asked for"
)]
pub struct Plan {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// How long it lasts, in simulated days.
    pub days: u64,
    /// What goes wrong does so many times a day, not a few times a month.
    pub rough: bool,
    /// What is known to break happens and is looked at as well: a clock that is days or years off while a CA is made, a
    /// doubt that ends with the process, connectors and replicas from old files that come back to a new process after the
    /// others.
    pub known: bool,
    /// The rule that is looked at: what it is there for happens more often.
    pub guard: Option<Guard>,
    /// It is taken away.
    pub removed: bool,
    /// What happened is told in [`Outcome::trace`].
    pub traced: bool,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The invariant that was broken first.
    pub broken: Option<String>,
    /// When it ended, in seconds since it began.
    pub at: u64,
    /// What happened, in numbers.
    pub counts: Counts,
    /// What happened, in words.
    pub trace: Vec<String>,
}

/// How often something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is its name")]
pub struct Counts {
    pub days: u64,
    pub events: u64,
    pub turns: u64,
    pub calls: u64,
    pub troubled: u64,
    pub crashes: u64,
    pub outages: u64,
    pub handshakes: u64,
    pub leaves: u64,
    pub cas: u64,
    pub tokens: u64,
    pub secrets: u64,
}

impl Counts {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            days: self.days + other.days,
            events: self.events + other.events,
            turns: self.turns + other.turns,
            calls: self.calls + other.calls,
            troubled: self.troubled + other.troubled,
            crashes: self.crashes + other.crashes,
            outages: self.outages + other.outages,
            handshakes: self.handshakes + other.handshakes,
            leaves: self.leaves + other.leaves,
            cas: self.cas + other.cas,
            tokens: self.tokens + other.tokens,
            secrets: self.secrets + other.secrets,
        }
    }
}

impl Plan {
    /// An ordinary life with all its rules.
    pub fn new(seed: u64, days: u64) -> Self {
        Self {
            seed,
            days,
            rough: false,
            known: false,
            guard: None,
            removed: false,
            traced: false,
        }
    }

    /// A life in which everything goes wrong all the time.
    #[must_use]
    pub fn rough(self) -> Self {
        Self {
            rough: true,
            ..self
        }
    }

    /// Makes the run.
    pub fn run(self) -> Outcome {
        World::new(self).run()
    }
}

/// The first rough life in which the absence of a rule is seen, and as what; `None`: in none of those that are tried. With
/// the rule the same life holds.
pub fn caught(guard: Guard) -> Option<(u64, String)> {
    (0..SEEDS).find_map(|seed| {
        let with = Plan {
            guard: Some(guard),
            ..Plan::new(seed, DAYS).rough()
        };
        let without = Plan {
            removed: true,
            ..with
        };
        let broken = without.run().broken?;
        with.run().broken.is_none().then_some((seed, broken))
    })
}
