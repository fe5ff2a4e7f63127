//! When a certificate counts, and when its successor is due. Arithmetic only.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::identifier::{Serial, sha256};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Certificates that live this long or longer are replaced daily, which leaves a dead daemon days of
/// slack; shorter ones after two thirds of their life.
const DAILY_FROM: Duration = Duration::from_secs(3 * 24 * 3600);

/// First and last second of a certificate, both included (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: i64,
    not_after: i64,
}

impl Validity {
    /// From the second that `not_before` is in through the second that `not_after` is in.
    pub fn new(not_before: SystemTime, not_after: SystemTime) -> Self {
        Self {
            not_before: seconds(not_before),
            not_after: seconds(not_after),
        }
    }

    pub(crate) fn from_unix(not_before: i64, not_after: i64) -> Self {
        Self {
            not_before,
            not_after,
        }
    }

    /// Start of the first second.
    pub fn not_before(&self) -> SystemTime {
        instant(self.not_before)
    }

    /// Start of the last second, which is still valid as a whole.
    pub fn not_after(&self) -> SystemTime {
        instant(self.not_after)
    }

    /// The first second, as Unix time; 0 for everything before 1970.
    pub fn not_before_unix(&self) -> u64 {
        u64::try_from(self.not_before).unwrap_or_default()
    }

    /// The last second, as Unix time; 0 for everything before 1970.
    pub fn not_after_unix(&self) -> u64 {
        u64::try_from(self.not_after).unwrap_or_default()
    }

    /// Whether `now` is in it.
    pub fn contains(&self, now: SystemTime) -> bool {
        !self.begins_after(now) && !self.ended_before(now)
    }

    /// Whether it has not begun at `now`.
    pub fn begins_after(&self, now: SystemTime) -> bool {
        seconds(now) < self.not_before
    }

    /// Whether it is over at `now`.
    pub fn ended_before(&self, now: SystemTime) -> bool {
        seconds(now) > self.not_after
    }

    /// From `instant` to the last second; zero once that has passed.
    pub fn remaining(&self, instant: SystemTime) -> Duration {
        self.not_after()
            .duration_since(instant)
            .unwrap_or(Duration::ZERO)
    }

    /// When to replace the certificate: `issued_at + min(24 h, ⅔L)·(1 − u/10)`, and for L < 3 d
    /// `issued_at + ⅔L·(1 − u/10)`.
    ///
    /// `issued_at` is when it was really signed, from the journal, not the backdated `not_before`; L is
    /// the time from there to the last second. `u` in [0, 1) comes from the serial, so that the jitter
    /// is drawn once a certificate and is the same after a restart.
    pub fn rekey_at(&self, issued_at: SystemTime, serial: &Serial) -> SystemTime {
        let life = self.remaining(issued_at);
        let two_thirds = life * 2 / 3;
        let latest = if life < DAILY_FROM {
            two_thirds
        } else {
            two_thirds.min(DAY)
        };
        issued_at + latest.mul_f64(1.0 - share(serial) / 10.0)
    }

    /// From when on every failure to renew has to page somebody: `issued_at + 0.85 L`.
    pub fn hard_zone(&self, issued_at: SystemTime) -> SystemTime {
        issued_at + self.remaining(issued_at) * 17 / 20
    }
}

impl fmt::Display for Validity {
    /// `2026-11-21T08:53:00Z to 2026-11-28T08:58:00Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_date(self.not_before, f)?;
        f.write_str(" to ")?;
        write_date(self.not_after, f)
    }
}

/// A number in [0, 1) that is the certificate's own.
#[allow(
    clippy::cast_precision_loss,
    reason = "a jitter needs no more than the 53 bits of a double"
)]
fn share(serial: &Serial) -> f64 {
    let digest = sha256(serial.octets());
    let drawn = digest.iter().take(8);
    let drawn = drawn.fold(0_u64, |drawn, octet| drawn << 8 | u64::from(*octet));
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

/// Whole seconds since the epoch, rounded down also before it.
fn seconds(instant: SystemTime) -> i64 {
    match instant.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            let before = before.duration();
            let whole = before.as_secs() + u64::from(before.subsec_nanos() > 0);
            i64::try_from(whole).map_or(i64::MIN, |whole| -whole)
        }
    }
}

fn instant(seconds: i64) -> SystemTime {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 {
        SystemTime::UNIX_EPOCH - distance
    } else {
        SystemTime::UNIX_EPOCH + distance
    }
}

/// RFC 3339 in UTC, by the proleptic Gregorian calendar counted in eras of 400 years from 1 March, so
/// that the leap day is the last of its year.
fn write_date(seconds: i64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DAYS_TO_EPOCH: i64 = 719_468;
    const DAYS_IN_ERA: i64 = 146_097;
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = days + DAYS_TO_EPOCH;
    let (era, day) = (days.div_euclid(DAYS_IN_ERA), days.rem_euclid(DAYS_IN_ERA));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let second = second % 60;
    write!(
        f,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn living(life: Duration) -> (SystemTime, Validity) {
        let issued = at(1_800_000_000);
        (issued, Validity::new(issued - 5 * MINUTE, issued + life))
    }

    #[test]
    fn the_first_and_the_whole_last_second_are_valid() {
        let validity = Validity::new(at(100), at(200));
        let sliver = Duration::from_nanos(1);
        assert!(validity.contains(at(100)) && !validity.contains(at(100) - sliver));
        assert!(validity.contains(at(201) - sliver) && !validity.contains(at(201)));
    }

    #[test]
    fn a_week_is_renewed_daily_with_a_tenth_of_jitter() {
        let (issued, validity) = living(7 * DAY);
        for _ in 0..1000 {
            let after = validity
                .rekey_at(issued, &Serial::random())
                .duration_since(issued)
                .unwrap();
            assert!(after <= DAY && after > DAY * 9 / 10, "{after:?}");
        }
    }

    /// F11: a fleet that was issued at once, as after the change of a root.
    #[test]
    fn ten_thousand_that_were_issued_together_are_not_renewed_together() {
        let (issued, validity) = living(7 * DAY);
        let mut minutes = std::collections::BTreeMap::<u64, u32>::new();
        for _ in 0..10_000 {
            let due = validity.rekey_at(issued, &Serial::random());
            let minute = due.duration_since(issued).unwrap().as_secs() / 60;
            *minutes.entry(minute).or_default() += 1;
        }
        // 69 on the average of 144 minutes.
        let busiest = minutes.values().max().unwrap();
        assert!(*busiest < 140, "{busiest}");
    }

    #[test]
    fn less_than_three_days_are_renewed_after_two_thirds() {
        let serial: Serial = "7f".parse().unwrap();
        let jitter = 1.0 - share(&serial) / 10.0;
        let after = |life: Duration| {
            let (issued, validity) = living(life);
            let rekey = validity.rekey_at(issued, &serial);
            rekey.duration_since(issued).unwrap().as_secs_f64() / jitter
        };
        let close = |left: f64, right: Duration| (left - right.as_secs_f64()).abs() < 0.001;
        assert!(close(
            after(Duration::from_secs(3 * 86_400 - 3)),
            Duration::from_secs(2 * 86_400 - 2)
        ));
        assert!(close(after(3 * DAY), DAY));
        assert!(close(after(30 * HOUR), 20 * HOUR));
        assert!(close(after(Duration::from_secs(3)), Duration::from_secs(2)));
    }

    #[test]
    fn the_jitter_is_the_same_for_the_same_serial_and_spread_over_serials() {
        let (issued, validity) = living(7 * DAY);
        let serial = Serial::random();
        let first = validity.rekey_at(issued, &serial);
        assert_eq!(first, validity.rekey_at(issued, &serial));
        let shares: Vec<f64> = (0..2000).map(|_| share(&Serial::random())).collect();
        for tenth in 0..10 {
            let low = f64::from(tenth) / 10.0;
            let hits = shares.iter().filter(|u| (low..low + 0.1).contains(*u));
            assert!((120..280).contains(&hits.count()), "tenth {tenth}");
        }
    }

    #[test]
    fn nothing_is_due_right_after_it_was_issued_however_far_it_was_backdated() {
        let issued = at(1_800_000_000);
        for backdate in 0..=60 {
            for life in [Duration::from_secs(3), HOUR, DAY, 7 * DAY, 90 * DAY] {
                let validity = Validity::new(issued - MINUTE * backdate, issued + life);
                assert!(validity.rekey_at(issued, &Serial::random()) > issued);
                assert!(validity.hard_zone(issued) > issued);
            }
        }
    }

    #[test]
    fn the_hard_zone_begins_at_85_hundredths_of_the_life() {
        let (issued, validity) = living(100 * HOUR);
        assert_eq!(validity.hard_zone(issued), issued + 85 * HOUR);
    }

    #[test]
    fn a_certificate_that_ended_before_it_was_issued_is_due_at_once() {
        let validity = Validity::new(at(100), at(200));
        assert_eq!(validity.rekey_at(at(300), &Serial::random()), at(300));
    }

    #[test]
    fn dates_are_written_in_utc() {
        let shown = |seconds| Validity::from_unix(seconds, seconds).to_string();
        assert!(shown(0).starts_with("1970-01-01T00:00:00Z to "));
        assert!(shown(951_782_399).ends_with("2000-02-28T23:59:59Z"));
        assert!(shown(951_782_400).ends_with("2000-02-29T00:00:00Z"));
        assert!(shown(4_107_542_400).ends_with("2100-03-01T00:00:00Z"));
        assert!(shown(-1).ends_with("1969-12-31T23:59:59Z"));
    }
}
