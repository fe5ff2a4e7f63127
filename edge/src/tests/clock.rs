//! A clock that stands until it is moved.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use process::Clock;

/// 2027-01-15, and a machine that has run for a day.
pub(crate) const START: u64 = 1_800_000_000;

#[derive(Debug)]
pub(crate) struct StandingClock(Mutex<(u64, Duration)>);

impl StandingClock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new((START, Duration::from_secs(86_400))))
    }

    /// Both clocks.
    pub(crate) fn advance(&self, seconds: u64) {
        let mut now = self.0.lock().unwrap();
        now.0 += seconds;
        now.1 += Duration::from_secs(seconds);
    }

    /// The wall clock alone.
    pub(crate) fn set(&self, seconds: u64) {
        self.0.lock().unwrap().0 = seconds;
    }

    pub(crate) fn seconds(&self) -> u64 {
        self.0.lock().unwrap().0
    }
}

impl Clock for StandingClock {
    fn wall(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.seconds())
    }

    fn boot(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}
