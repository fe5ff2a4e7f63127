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

/// A second in UTC as RFC 3339 writes it; parts of a second are dropped, and what is before 1970 is 1970.
///
/// By the Gregorian calendar counted in eras of 400 years from 1 March, so that the leap day is the last
/// of its year.
pub fn rfc3339(time: SystemTime) -> String {
    const DAYS_TO_EPOCH: u64 = 719_468;
    const DAYS_IN_ERA: u64 = 146_097;
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400 + DAYS_TO_EPOCH, seconds % 86_400);
    let (era, day) = (days / DAYS_IN_ERA, days % DAYS_IN_ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    // Months count from March.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(rfc3339(time), text);
        }
    }

    #[test]
    fn boot_time_does_not_go_back() {
        let (first, second) = (SystemClock.boot(), SystemClock.boot());
        assert!(first <= second && first > Duration::ZERO);
    }
}
