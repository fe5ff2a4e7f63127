//! When the next call may be made.

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// First pause after an answer that says nothing about when to come back; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause of our own making.
const LONGEST: Duration = Duration::from_secs(60);
/// Longest pause that a remote may ask for: credentials end meanwhile.
const LONGEST_ASKED: Duration = Duration::from_secs(600);

/// Two limits: so many calls in a minute, and none while the other side asked for quiet. Times are since boot, and
/// count suspends.
#[derive(Debug)]
pub(super) struct Pace {
    /// Calls a minute, and how many may come at once.
    rate: u32,
    /// What is left of them, in calls.
    left: f64,
    filled: Option<Duration>,
    until: Option<Duration>,
    failures: u32,
}

impl Pace {
    pub(super) fn new(calls_per_minute: u32) -> Self {
        let rate = calls_per_minute.max(1);
        Self {
            rate,
            left: f64::from(rate),
            filled: None,
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
        self.left -= 1.0;
        Ok(())
    }

    /// How long no call may be made; zero: one may.
    pub(super) fn closed_for(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.filled.unwrap_or(now));
        self.filled = Some(now);
        let each = MINUTE / self.rate;
        let grown = self.left + passed.as_secs_f64() / each.as_secs_f64();
        self.left = grown.min(f64::from(self.rate));
        let asked = self.until.unwrap_or_default().saturating_sub(now);
        asked.max(each.mul_f64((1.0 - self.left).max(0.0)))
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
    fn calls_beyond_the_minute_s_number_wait_for_their_share() {
        let mut pace = Pace::new(60);
        let now = 100 * SECOND;
        for _ in 0..60 {
            assert_eq!(pace.admit(now), Ok(()));
        }
        assert_eq!(pace.admit(now), Err(SECOND));
        assert_eq!(pace.admit(now + SECOND / 2), Err(SECOND / 2));
        assert_eq!(pace.admit(now + SECOND), Ok(()));
        assert_eq!(pace.admit(now + SECOND), Err(SECOND));
        // A long silence saves up one minute's calls and no more.
        let later = now + 600 * SECOND;
        assert_eq!((0..100).filter(|_| pace.admit(later).is_ok()).count(), 60);
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
