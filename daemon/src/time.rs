//! Whether the wall clock can be believed.
//!
//! It cannot for an hour after it moved by more than a minute against the time since boot, which
//! counts suspends and cannot be set. Meanwhile certificates are renewed as always, but nothing is
//! destroyed: a clock that was set a year ahead makes good certificates look dead, and setting it
//! back makes their successors useless. A reboot hides a jump; what is left to compare with then is when
//! the journal was last written.

use std::time::{Duration, SystemTime};

use crate::journal::Record;

/// How far the two clocks may part.
const TOLERANCE: Duration = Duration::from_secs(60);
/// The longest silence in the journal over a reboot that is believed. A daemon that runs renews daily and
/// records that; a machine that was off for longer has its clock doubted for an hour, which costs nothing.
const SILENCE: Duration = Duration::from_secs(86_400);
/// How long the wall clock has to run straight after a jump.
const PROBATION: Duration = Duration::from_secs(3600);

/// Compares the clocks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Doubt {
    /// Both clocks at one moment, not more than [`PROBATION`] ago.
    anchor: Option<(SystemTime, Duration)>,
    /// Boot time of the last jump.
    jumped: Option<Duration>,
}

impl Doubt {
    /// Begins with what the journal says. Its last record: the same boot is compared with; an earlier
    /// boot must not have happened later, nor longer ago than a machine is off for a moment, since the clock
    /// that came up with this boot may be anything. The ones before it, of the same boot: between two of them the
    /// process before may have seen a jump.
    pub(crate) fn since<'a>(
        records: impl Iterator<Item = &'a Record>,
        boot_id: &str,
        wall: SystemTime,
        boot: Duration,
    ) -> Self {
        let mut records: Vec<&Record> = records.collect();
        records.sort_by_key(|record| record.seq);
        let mut doubt = Self::default();
        let Some(record) = records.last() else {
            return doubt;
        };
        let recorded = SystemTime::UNIX_EPOCH + Duration::from_millis(record.wall);
        if record.boot_id == boot_id {
            for record in records.iter().filter(|record| record.boot_id == boot_id) {
                let recorded = SystemTime::UNIX_EPOCH + Duration::from_millis(record.wall);
                doubt.is_suspect(recorded, Duration::from_millis(record.mono));
            }
        } else if wall + TOLERANCE < recorded || recorded + SILENCE + TOLERANCE < wall {
            doubt.jumped = Some(boot);
        }
        doubt
    }

    /// Looks at both clocks; whether the wall clock cannot be believed.
    pub(crate) fn is_suspect(&mut self, wall: SystemTime, boot: Duration) -> bool {
        let anchor = self.anchor.get_or_insert((wall, boot));
        let passed = boot.saturating_sub(anchor.1);
        let expected = anchor.0 + passed;
        let apart = wall
            .duration_since(expected)
            .unwrap_or_else(|error| error.duration());
        if apart > TOLERANCE {
            self.jumped = Some(boot);
            *anchor = (wall, boot);
        } else if passed >= PROBATION {
            // A clock that is led slowly does not jump.
            *anchor = (wall, boot);
        }
        self.jumped = self
            .jumped
            .filter(|jumped| boot.saturating_sub(*jumped) < PROBATION);
        self.jumped.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_jump_of_more_than_a_minute_is_doubted_for_an_hour() {
        for jump in [61_i64, -61, 2 * 86_400, -365 * 86_400] {
            let mut doubt = Doubt::default();
            let start = 1_800_000_000;
            let boot = Duration::from_secs;
            assert!(!doubt.is_suspect(at(start), boot(100)));
            assert!(!doubt.is_suspect(at(start + 30), boot(130)));
            let jumped = start.checked_add_signed(jump).unwrap();
            assert!(doubt.is_suspect(at(jumped + 60), boot(160)), "{jump}");
            assert!(doubt.is_suspect(at(jumped + 3659), boot(3759)), "{jump}");
            assert!(!doubt.is_suspect(at(jumped + 3660), boot(3760)), "{jump}");
        }
    }

    #[test]
    fn a_clock_that_is_led_slowly_is_believed() {
        let mut doubt = Doubt::default();
        // A second off in each hour, for a year.
        for hour in 0..24 * 365 {
            let boot = Duration::from_secs(hour * 3600);
            assert!(
                !doubt.is_suspect(at(1_800_000_000 + hour * 3601), boot),
                "{hour}"
            );
        }
    }

    #[test]
    fn a_jump_while_the_daemon_was_down_is_noticed() {
        let record = |wall: u64, boot_id: &str| Record {
            v: 1,
            seq: 1,
            epoch: 1,
            tunnel: String::new(),
            kind: crate::journal::Kind::Ca,
            entry: crate::journal::Entry::default(),
            boot_id: boot_id.to_owned(),
            mono: 1000,
            wall: wall * 1000,
        };
        let (now, boot) = (at(100 * DAY), Duration::from_secs(11));
        let suspect = |record: &Record| {
            let records = std::iter::once(record);
            Doubt::since(records, "a", now, boot).is_suspect(now, boot)
        };
        assert!(!suspect(&record(100 * DAY - 10, "a")));
        assert!(suspect(&record(99 * DAY, "a")));
        assert!(suspect(&record(101 * DAY, "b")));
        assert!(!suspect(&record(99 * DAY, "b")));
        assert!(suspect(&record(99 * DAY - 61, "b")));
        assert!(suspect(&record(0, "b")));
        let none = std::iter::empty();
        assert!(!Doubt::since(none, "a", now, boot).is_suspect(now, boot));
        // A process that saw it wrote a record after it, and ended.
        let minutes = |minutes: u64, wall: u64| Record {
            seq: minutes,
            mono: minutes * 60_000,
            ..record(wall, "a")
        };
        let jump = 100 * DAY;
        let records = [
            minutes(10, 50 * DAY),
            minutes(20, jump),
            minutes(21, jump + 60),
        ];
        for (boot, suspect) in [(22, true), (79, true), (80, false)] {
            let (wall, boot) = (at(jump + (boot - 20) * 60), Duration::from_secs(boot * 60));
            let mut doubt = Doubt::since(records.iter(), "a", wall, boot);
            assert_eq!(doubt.is_suspect(wall, boot), suspect, "{boot:?}");
        }
    }
}
