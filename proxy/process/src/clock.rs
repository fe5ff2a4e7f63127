//! The only reader of time.

use std::time::{Duration, SystemTime};

/// Wall time for validity, boot time for pacing: the one trait of ours, because the paused time of
/// tokio's tests does not move the wall clock.
pub trait Clock: Send + Sync + 'static {
    /// The time that certificates are compared with. May jump.
    fn wall(&self) -> SystemTime;
    /// Time since boot, suspend included. Never goes back.
    fn boot(&self) -> Duration;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> SystemTime {
        #[allow(
            clippy::disallowed_methods,
            reason = "the one place that reads the wall clock"
        )]
        SystemTime::now()
    }

    fn boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        // Neither part is negative on a running machine.
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or_default(),
            u32::try_from(now.tv_nsec).unwrap_or_default(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_does_not_go_back() {
        let (first, second) = (SystemClock.boot(), SystemClock.boot());
        assert!(first <= second && first > Duration::ZERO);
    }
}
