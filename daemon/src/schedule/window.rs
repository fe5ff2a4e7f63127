//! Hours of some days, in local time.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{DateTime, Time, Weekday};

use super::ScheduleError;

/// Monday first, as they are written.
const NAMES: [&str; 7] = ["MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN"];

/// From the first minute to the last, on these days; it ends before midnight, or at it (`24:00`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    text: String,
    /// Days by their place in [`NAMES`].
    days: [bool; 7],
    from: Time,
    /// Not any more; `None`: midnight.
    until: Option<Time>,
}

impl Window {
    /// Whether it is open.
    pub(super) fn has(&self, at: DateTime) -> bool {
        let time = at.time();
        self.is_on(at.weekday()) && time >= self.from && self.until.is_none_or(|end| time < end)
    }

    /// When it may open next after `at`, at which it is closed: today, or at midnight.
    pub(super) fn next(&self, at: DateTime) -> DateTime {
        if self.is_on(at.weekday()) && at.time() < self.from {
            return at.date().to_datetime(self.from);
        }
        let tomorrow = at.date().tomorrow().unwrap_or(jiff::civil::Date::MAX);
        tomorrow.to_datetime(Time::midnight())
    }

    fn is_on(&self, day: Weekday) -> bool {
        let place = usize::try_from(day.to_monday_zero_offset()).unwrap_or_default();
        self.days.get(place).copied().unwrap_or_default()
    }
}

impl FromStr for Window {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let wrong = || ScheduleError::Window;
        let (days, hours) = match text.split_once(' ') {
            None => ([true; 7], text),
            Some((days, hours)) => (days_of(days).ok_or_else(wrong)?, hours),
        };
        let (from, until) = hours.split_once('-').ok_or_else(wrong)?;
        let from = time(from).ok_or_else(wrong)?;
        let until = match until {
            "24:00" => None,
            text => Some(time(text).ok_or_else(wrong)?),
        };
        if until.is_some_and(|until| until <= from) {
            return Err(wrong());
        }
        Ok(Self {
            text: text.to_owned(),
            days,
            from,
            until,
        })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn time(text: &str) -> Option<Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let plain = text.len() == 2 && text.bytes().all(|letter| letter.is_ascii_digit());
        text.parse::<i8>().ok().filter(|_| plain)
    };
    Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

/// `MON-FRI`, `SAT,SUN`, `WED`.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let place = |name: &str| NAMES.iter().position(|day| day.eq_ignore_ascii_case(name));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (place(from)?, place(to)?);
        days.get_mut(from..=to)?.fill(true);
    }
    Some(days)
}
