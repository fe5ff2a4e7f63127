//! What the host of the daemon knows of the time.
//!
//! The rotator's own doubt is private to it; the rule is the same: a wall clock that moved by more than a minute against
//! the time since boot is not believed for an hour, nor one that a reboot brought up a day off the journal.

use super::disk::Written;

pub(super) const HOUR: u64 = 3600;
pub(super) const DAY: u64 = 86_400;

const TOLERANCE: u64 = 60;
const PROBATION: u64 = HOUR;
const SILENCE: u64 = DAY;

/// The time of a turn, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// As the daemon's wall clock has it, Unix.
    pub(super) wall: u64,
    /// Runs straight.
    pub(super) boot: u64,
    /// The wall clock cannot be believed.
    pub(super) suspect: bool,
}

/// Compares the clocks.
#[derive(Clone, Debug, Default)]
pub(super) struct Doubt {
    anchor: Option<(u64, u64)>,
    jumped: Option<u64>,
}

impl Doubt {
    /// Begins with the last record of the journal.
    pub(super) fn since(last: Option<Written>, boot_id: u32, wall: u64, boot: u64) -> Self {
        let mut doubt = Self::default();
        let Some(last) = last else { return doubt };
        if last.boot_id == boot_id {
            doubt.anchor = Some((last.wall, last.boot));
        } else if wall + TOLERANCE < last.wall || last.wall + SILENCE + TOLERANCE < wall {
            doubt.jumped = Some(boot);
        }
        doubt
    }

    pub(super) fn is_suspect(&mut self, wall: u64, boot: u64) -> bool {
        let anchor = self.anchor.get_or_insert((wall, boot));
        let passed = boot.saturating_sub(anchor.1);
        if wall.abs_diff(anchor.0 + passed) > TOLERANCE {
            self.jumped = Some(boot);
            *anchor = (wall, boot);
        } else if passed >= PROBATION {
            *anchor = (wall, boot);
        }
        self.jumped = self
            .jumped
            .filter(|jumped| boot.saturating_sub(*jumped) < PROBATION);
        self.jumped.is_some()
    }

    /// When a doubt ends, since boot.
    pub(super) fn ends(&self) -> Option<u64> {
        self.jumped.map(|jumped| jumped + PROBATION)
    }
}

/// How long to leave something alone after it failed.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    failures: u32,
    until: Option<u64>,
}

impl Pace {
    pub(super) fn is_on(&self, boot: u64) -> bool {
        self.until.is_some_and(|until| boot < until)
    }

    /// Doubles with each failure, from one second to five minutes.
    pub(super) fn fail(&mut self, boot: u64) {
        let pause = (1_u64 << self.failures.min(16)).min(300);
        self.failures += 1;
        self.until = Some(boot + pause);
    }

    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn until(&self, boot: u64) -> Option<u64> {
        self.until.filter(|until| boot < *until)
    }
}
