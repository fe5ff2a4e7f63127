//! Moments as the API writes them.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A second in UTC, from 1970 to 9999: `2026-11-21T12:05:00Z` (RFC 3339).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

/// The last second of the year 9999: later ones have no RFC 3339 form and are taken for it.
const LAST: u64 = 253_402_300_799;
const DAY: u64 = 86_400;

impl Timestamp {
    /// Seconds since 1970.
    pub fn from_seconds(seconds: u64) -> Self {
        Self(seconds.min(LAST))
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> u64 {
        self.0
    }
}

impl From<SystemTime> for Timestamp {
    /// Parts of a second are dropped; times before 1970 are taken for its beginning.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_seconds(since.as_secs())
    }
}

impl From<Timestamp> for SystemTime {
    fn from(timestamp: Timestamp) -> Self {
        UNIX_EPOCH + Duration::from_secs(timestamp.0)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / DAY);
        let second = self.0 % DAY;
        let (hour, minute) = (second / 3600, second / 60 % 60);
        let second = second % 60;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| de::Error::custom("not a time as RFC 3339 writes it"))
    }
}

/// Year, month and day of a day counted from 1970-01-01, in the calendar that begins on 1 March, so
/// that the leap day is a year's last (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month, day - (153 * march + 2) / 5 + 1)
}

/// The way back.
fn days(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year - u64::from(month <= 2);
    let march = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * march + 2) / 5 + day - 1;
    let (era, year) = (year / 400, year % 400);
    (era * 146_097 + year * 365 + year / 4 - year / 100 + of_year).checked_sub(719_468)
}

/// RFC 3339 with `Z` or an offset, with or without parts of a second, which are dropped.
fn parse(text: &str) -> Option<Timestamp> {
    let number = |from: usize, to: usize| -> Option<u64> {
        let digits = text.get(from..to)?;
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| digits.parse().ok()).flatten()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let marks = [4, 7, 13, 16].map(|at| text.as_bytes().get(at).copied());
    let shaped = marks == [Some(b'-'), Some(b'-'), Some(b':'), Some(b':')]
        && matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' '));
    let ranged = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24;
    if !shaped || !ranged || minute > 59 || second > 60 || year < 1970 {
        return None;
    }
    let rest = text.get(19..)?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let local = days(year, month, day)? * DAY + hour * 3600 + minute * 60 + second.min(59);
    offset(rest, local).map(Timestamp::from_seconds)
}

fn offset(rest: &str, local: u64) -> Option<u64> {
    if rest.eq_ignore_ascii_case("z") {
        return Some(local);
    }
    let (hours, minutes) = rest.get(1..)?.split_once(':')?;
    let seconds = hours.parse::<u64>().ok()? * 3600 + minutes.parse::<u64>().ok()? * 60;
    match rest.as_bytes().first()? {
        b'+' => local.checked_sub(seconds),
        b'-' => Some(local + seconds),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_rfc_3339_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_262_700, "2026-11-21T12:05:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (LAST, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Timestamp::from_seconds(seconds).to_string(), text);
            let read: Timestamp = serde_json::from_str(&format!("\"{text}\"")).unwrap();
            assert_eq!(read.seconds(), seconds.min(LAST));
        }
    }

    #[test]
    fn every_day_of_four_centuries_is_read_as_it_was_written() {
        for day in 0..146_097 {
            let moment = Timestamp::from_seconds(day * DAY + day % DAY);
            assert_eq!(parse(&moment.to_string()), Some(moment));
        }
    }

    #[test]
    fn fractions_and_offsets_are_read_and_anything_else_is_refused() {
        let noon = parse("2026-11-21T12:00:00Z");
        assert!(noon.is_some());
        for same in [
            "2026-11-21T12:00:00.999999Z",
            "2026-11-21T13:30:00+01:30",
            "2026-11-21T07:00:00-05:00",
        ] {
            assert_eq!(parse(same), noon, "{same}");
        }
        for bad in [
            "",
            "2026-11-21",
            "2026-13-21T12:00:00Z",
            "2026-11-21T24:00:00Z",
            "2026-11-21T12:00:00",
            "2026/11/21T12:00:00Z",
            "+026-11-21T12:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
