//! When the next call may be made.

use std::collections::VecDeque;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// First pause after an answer that says nothing about when to come back; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause of our own making.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest pause that a remote may ask for: credentials end meanwhile.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// Two limits: so many calls in any minute, and none while the other side asked for quiet. Times are since boot, and
/// count suspends.
#[derive(Debug)]
pub(super) struct Pace {
    /// Calls a minute.
    rate: usize,
    /// When the calls of the last minute were made.
    made: VecDeque<Duration>,
    until: Option<Duration>,
    failures: u32,
}

impl Pace {
    pub(super) fn new(calls_per_minute: u32) -> Self {
        Self {
            rate: usize::try_from(calls_per_minute)
                .unwrap_or(usize::MAX)
                .max(1),
            made: VecDeque::new(),
            until: None,
            failures: 0,
        }
    }

    /// Takes one call, or says how long none is left.
    pub(super) fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        let left = self.closed_for(now);
        if !left.is_zero() {
            return Err(left);
        }
        self.made.push_back(now);
        Ok(())
    }

    /// How long no call may be made; zero: one may.
    pub(super) fn closed_for(&mut self, now: Duration) -> Duration {
        while self.made.front().is_some_and(|at| *at + MINUTE <= now) {
            self.made.pop_front();
        }
        let oldest = self.made.front().filter(|_| self.made.len() >= self.rate);
        let spent = oldest.map_or(Duration::ZERO, |at| (*at + MINUTE).saturating_sub(now));
        let asked = self.until.unwrap_or_default().saturating_sub(now);
        asked.max(spent)
    }

    /// The other side is overloaded, broken or not there.
    pub(super) fn hold(&mut self, asked: Option<Duration>, now: Duration) {
        let own = (FIRST * 2_u32.saturating_pow(self.failures.min(6))).min(LONGEST);
        let pause = asked.map_or(own, |asked| asked.min(LONGEST_ASKED));
        self.failures = self.failures.saturating_add(1);
        self.until = Some(self.until.unwrap_or_default().max(now + pause));
    }

    /// It answered as it should.
    pub(super) fn well(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn no_minute_has_more_calls_than_it_may() {
        let mut pace = Pace::new(60);
        let now = 100 * SECOND;
        for second in 0..30 {
            assert_eq!(pace.admit(now + second * SECOND), Ok(()));
            assert_eq!(pace.admit(now + second * SECOND), Ok(()));
        }
        // The first two were made a minute ago by then.
        assert_eq!(pace.admit(now + 30 * SECOND), Err(30 * SECOND));
        assert_eq!(pace.admit(now + 59 * SECOND), Err(SECOND));
        assert_eq!(pace.admit(now + 60 * SECOND), Ok(()));
        assert_eq!(pace.admit(now + 60 * SECOND), Ok(()));
        assert_eq!(pace.admit(now + 60 * SECOND), Err(SECOND));
        // Nor does a long silence save any up.
        let later = now + 600 * SECOND;
        assert_eq!((0..100).filter(|_| pace.admit(later).is_ok()).count(), 60);
        assert_eq!(pace.admit(later + 59 * SECOND), Err(SECOND));
    }

    #[test]
    fn a_remote_that_asks_for_quiet_gets_it_within_reason() {
        let mut pace = Pace::new(60);
        pace.hold(Some(30 * SECOND), SECOND);
        assert_eq!(pace.admit(30 * SECOND), Err(SECOND));
        assert_eq!(pace.admit(31 * SECOND), Ok(()));
        pace.hold(Some(100_000 * SECOND), 40 * SECOND);
        assert_eq!(pace.admit(40 * SECOND), Err(LONGEST_ASKED));
        // A later word does not shorten an earlier one.
        pace.hold(Some(SECOND), 41 * SECOND);
        assert_eq!(pace.admit(41 * SECOND), Err(599 * SECOND));
    }

    #[test]
    fn a_remote_that_fails_is_asked_more_and_more_rarely_until_it_is_well() {
        let mut pace = Pace::new(60);
        let mut now = SECOND;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pace.hold(None, now);
            let pause = pace.admit(now).unwrap_err();
            pauses.push(pause.as_secs());
            now += pause;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.well();
        pace.hold(None, now);
        assert_eq!(pace.admit(now), Err(SECOND));
    }
}
