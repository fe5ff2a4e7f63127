//! When rotations are due that nobody orders: five fields as POSIX has them, in a time zone, with days on which nothing
//! begins.
//!
//! A schedule opens a door and closes none: a server certificate is renewed by its own deadline, whatever stands here.
//! Runs that were missed are one run.
//!
//! The fields are searched in local time, by the library, as if that were UTC, where no hour is missing and none comes
//! twice; the zone is put on afterwards. A time that a clock change leaves out runs at the change, one that it repeats runs
//! at the first of the two.

mod fields;
mod window;

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use jiff::civil::{Date, DateTime as Civil};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};
use thiserror::Error;

use fields::Fields;
pub use window::Window;

/// Nothing is looked for later than this: there is no 30 February.
const HORIZON: SignedDuration = SignedDuration::from_hours(5 * 366 * 24);
/// Local time and its instants are less than this apart in order: no zone moves its clock by more than a day.
const LEAP: SignedDuration = SignedDuration::from_hours(25);
/// Candidates that are looked at for one answer; a minute-wise schedule has 1,500 within [`LEAP`].
const CANDIDATES: usize = 10_000;

/// Why a schedule cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Not five fields.
    #[error(
        "it has {0} fields: write five, minute hour day-of-month month day-of-week, such as \"0 10 * * 1\""
    )]
    Count(usize),
    /// One of them is wrong.
    #[error("the {field} is {text:?}: {why}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What it is.
        text: String,
        /// What it has to be.
        why: String,
    },
    /// There is no such day.
    #[error("it has no run within five years")]
    Never,
    /// Of a window.
    #[error("write it as 09:00-17:00, or with days before it as MON-FRI 09:00-17:00")]
    Window,
    /// Of a zone.
    #[error("{0:?} is no time zone of the IANA database, such as Europe/Berlin or UTC")]
    Zone(String),
}

/// Days and hours in which a rotation may begin by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calendar {
    zone: TimeZone,
    window: Option<Window>,
    frozen: BTreeSet<Date>,
}

/// Times of a wall clock, by five fields.
#[derive(Clone)]
pub struct Schedule {
    text: String,
    /// Each has one of the two fields for days; POSIX wants either.
    searched: Vec<cron::Schedule>,
}

impl Calendar {
    /// Reads the name of a zone; nothing is closed yet.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Zone`].
    pub fn of(zone: &str) -> Result<Self, ScheduleError> {
        let zone = TimeZone::get(zone).map_err(|_| ScheduleError::Zone(zone.to_owned()))?;
        Ok(Self {
            zone,
            window: None,
            frozen: BTreeSet::new(),
        })
    }

    /// With hours, and days on which nothing begins.
    #[must_use]
    pub fn limited(self, window: Option<Window>, frozen: BTreeSet<Date>) -> Self {
        Self {
            window,
            frozen,
            ..self
        }
    }

    /// Whether something may begin at `at`, in Unix seconds.
    pub fn is_open(&self, at: u64) -> bool {
        let civil = self.civil(instant(at));
        let window = self.window.as_ref();
        !self.frozen.contains(&civil.date()) && window.is_none_or(|window| window.has(civil))
    }

    /// The first second from `at` on at which something may begin; `None`: none within five years.
    pub fn opens(&self, at: u64) -> Option<u64> {
        let mut now = instant(at);
        let end = now.checked_add(HORIZON).ok()?;
        while now < end {
            if self.is_open(seconds(now)) {
                return Some(seconds(now));
            }
            let civil = self.civil(now);
            let next = match &self.window {
                Some(window) if !self.frozen.contains(&civil.date()) => window.next(civil),
                _ => civil.date().tomorrow().ok()?.at(0, 0, 0, 0),
            };
            now = self
                .instant_of(next)?
                .max(now.checked_add(SignedDuration::from_secs(1)).ok()?);
        }
        None
    }

    fn civil(&self, at: Timestamp) -> Civil {
        self.zone.to_datetime(at)
    }

    /// The first instant at which clocks of the zone show `civil` or later.
    fn instant_of(&self, civil: Civil) -> Option<Timestamp> {
        let found = self.zone.to_ambiguous_timestamp(civil);
        match found.offset() {
            AmbiguousOffset::Unambiguous { offset }
            | AmbiguousOffset::Fold { before: offset, .. } => offset.to_timestamp(civil).ok(),
            AmbiguousOffset::Gap { after, .. } => {
                // As the later offset has it, it is before the change.
                let before = after.to_timestamp(civil).ok()?;
                self.zone
                    .following(before)
                    .next()
                    .map(|change| change.timestamp())
            }
        }
    }
}

impl Schedule {
    /// When it runs next after `after`, in Unix seconds, on a calendar's clock; closed days and hours do not count here.
    pub fn next(&self, calendar: &Calendar, after: u64) -> Option<u64> {
        let after = instant(after);
        let from = calendar.civil(after).checked_sub(LEAP).ok()?;
        let from = utc(from)?;
        let each = self.searched.iter().filter_map(|searched| {
            let mut candidates = searched.after(&from).take(CANDIDATES);
            candidates.find_map(|candidate| {
                let at = calendar.instant_of(local(candidate)?)?;
                (at > after).then_some(at)
            })
        });
        let end = after.checked_add(HORIZON).ok()?;
        each.min().filter(|at| *at < end).map(seconds)
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let fields = Fields::parse(text)?;
        let searched = fields
            .translated()
            .into_iter()
            .map(|text| cron::Schedule::from_str(&text).map_err(|_| ScheduleError::Never));
        let this = Self {
            text: text.to_owned(),
            searched: searched.collect::<Result<_, _>>()?,
        };
        let utc = Calendar::of("UTC")?;
        // Any five years have every day that there is, but 29 February around 2100.
        match this.next(&utc, 1_800_000_000) {
            Some(_) => Ok(this),
            None => Err(ScheduleError::Never),
        }
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Schedule").field(&self.text).finish()
    }
}

impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Schedule {}

fn instant(seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.as_second()).unwrap_or_default()
}

/// The same digits on a clock that never changes.
fn utc(civil: Civil) -> Option<DateTime<Utc>> {
    let seconds = jiff::tz::Offset::UTC.to_timestamp(civil).ok()?.as_second();
    DateTime::from_timestamp(seconds, 0)
}

fn local(found: DateTime<Utc>) -> Option<Civil> {
    let at = Timestamp::from_second(found.timestamp()).ok()?;
    Some(jiff::tz::Offset::UTC.to_datetime(at))
}

#[cfg(test)]
mod tests;
