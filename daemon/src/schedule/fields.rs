//! The five fields, as POSIX `crontab` has them: numbers, lists, ranges and steps; days and months also by their names.
//!
//! They are written out number by number for the library, whose own reading differs: it wants seconds, counts days of the
//! week from 1, and takes both fields for days together, where POSIX takes either.

use std::collections::BTreeSet;

use super::ScheduleError;

const DAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const MONTHS: [&str; 12] = [
    "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC",
];

/// What a field may be.
struct Kind {
    name: &'static str,
    from: u8,
    to: u8,
    /// Of the first number on.
    names: &'static [&'static str],
}

const KINDS: [Kind; 5] = [
    Kind {
        name: "minute",
        from: 0,
        to: 59,
        names: &[],
    },
    Kind {
        name: "hour",
        from: 0,
        to: 23,
        names: &[],
    },
    Kind {
        name: "day of the month",
        from: 1,
        to: 31,
        names: &[],
    },
    Kind {
        name: "month",
        from: 1,
        to: 12,
        names: &MONTHS,
    },
    // 7 is Sunday, too.
    Kind {
        name: "day of the week",
        from: 0,
        to: 7,
        names: &DAYS,
    },
];

/// The fields, each number that fits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fields {
    minute: BTreeSet<u8>,
    hour: BTreeSet<u8>,
    /// `None`: `*`.
    day: Option<BTreeSet<u8>>,
    month: BTreeSet<u8>,
    /// 0 is Sunday; `None`: `*`.
    weekday: Option<BTreeSet<u8>>,
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            return Err(ScheduleError::Count(fields.len()));
        };
        let [minutes, hours, days, months, weekdays] = &KINDS;
        let unless_all =
            |kind: &Kind, text: &str| (text != "*").then(|| kind.parse(text)).transpose();
        Ok(Self {
            minute: minutes.parse(minute)?,
            hour: hours.parse(hour)?,
            day: unless_all(days, day)?,
            month: months.parse(month)?,
            weekday: unless_all(weekdays, weekday)?
                .map(|found| found.into_iter().map(|day| day % 7).collect()),
        })
    }

    /// For the library: one expression, or two of which either may fit.
    pub(super) fn translated(&self) -> Vec<String> {
        let list = |set: &BTreeSet<u8>| {
            let numbers: Vec<String> = set.iter().map(ToString::to_string).collect();
            numbers.join(",")
        };
        let begins = format!("0 {} {}", list(&self.minute), list(&self.hour));
        let month = list(&self.month);
        let by_day = |days: &BTreeSet<u8>| format!("{begins} {} {month} *", list(days));
        let by_weekday = |days: &BTreeSet<u8>| {
            let names: Vec<&str> = days
                .iter()
                .filter_map(|day| DAYS.get(usize::from(*day)).copied())
                .collect();
            format!("{begins} * {month} {}", names.join(","))
        };
        match (&self.day, &self.weekday) {
            (None, None) => vec![format!("{begins} * {month} *")],
            (days, weekdays) => {
                let days = days.iter().map(by_day);
                days.chain(weekdays.iter().map(by_weekday)).collect()
            }
        }
    }
}

impl Kind {
    fn parse(&self, text: &str) -> Result<BTreeSet<u8>, ScheduleError> {
        let mut found = BTreeSet::new();
        for part in text.split(',') {
            found.extend(self.part(part).map_err(|why| ScheduleError::Field {
                field: self.name,
                text: text.to_owned(),
                why,
            })?);
        }
        Ok(found)
    }

    fn part(&self, part: &str) -> Result<impl Iterator<Item = u8> + use<>, String> {
        let (range, step) = match part.split_once('/') {
            None => (part, 1),
            Some((range, step)) => {
                let step = step.parse().ok().filter(|step| *step > 0);
                let step = step.ok_or("a step is a number from 1 on, as in */15")?;
                if range != "*" && !range.contains('-') {
                    return Err("a step wants a range before it, as in */15 or 8-18/2".to_owned());
                }
                (range, step)
            }
        };
        // 7 would be Sunday a second time.
        let last = if self.names.len() == 7 { 6 } else { self.to };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.from, last),
            None => (self.number(range)?, self.number(range)?),
            Some((from, to)) => (self.number(from)?, self.number(to)?),
        };
        if from > to {
            return Err("a range begins with its lower end; write 22-23,0-2 for 22-2".to_owned());
        }
        Ok((from..=to).step_by(step))
    }

    fn number(&self, text: &str) -> Result<u8, String> {
        let named = |name: &&str| name.eq_ignore_ascii_case(text);
        if let Some(place) = self.names.iter().position(named) {
            return Ok(self.from + u8::try_from(place).unwrap_or_default());
        }
        let plain = text.bytes().all(|letter| letter.is_ascii_digit());
        let number = text.parse().ok().filter(|_| plain);
        number
            .filter(|number| (self.from..=self.to).contains(number))
            .ok_or_else(|| format!("write numbers from {} to {}", self.from, self.to))
    }
}
