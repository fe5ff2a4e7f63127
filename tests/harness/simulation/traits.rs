//! What kind of tunnel a run is about, and how hard its days are.

use std::collections::BTreeSet;

use daemon::schedule::{Calendar, Schedule, Window};

use super::dice::Dice;
use super::far::PROPAGATION;
use super::guards::Guard;
use super::time::{DAY, HOUR};

/// When every run begins: in January 2027.
pub(super) const START: u64 = 1_800_000_000;
/// Zones whose clocks change by an hour, by half an hour, and never.
const ZONES: [&str; 5] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "UTC",
];
/// Weekly, some of them in hours that a clock change leaves out or repeats.
const WEEKLY: [&str; 4] = ["0 10 * * 1", "30 2 * * 0", "15 1 * * 7", "59 23 * * 6"];

/// What is drawn for a run.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each named where it is drawn"
)]
pub(super) struct Traits {
    /// The proxies dial a `keyward-edge`; otherwise two connectors do, with a provider's token.
    pub(super) builtin: bool,
    pub(super) proxies: u64,
    pub(super) calls_a_day: u64,
    /// The first proxy is never chosen.
    pub(super) silent: bool,
    /// Proxies have clocks of their own, which are right.
    pub(super) apart: bool,
    pub(super) leaf_life: u64,
    pub(super) ca_life: u64,
    pub(super) settle: u64,
    pub(super) quiet: u64,
    pub(super) calendar: Calendar,
    pub(super) token: Schedule,
    pub(super) secret: Schedule,
    pub(super) lag: u64,
    pub(super) doubles: bool,
    /// Everything happens more often.
    pub(super) rough: bool,
}

impl Traits {
    /// Draws them. Nothing is drawn that the configuration would refuse.
    pub(super) fn draw(dice: &mut Dice, rough: bool, guard: Option<Guard>) -> Self {
        let drawn = dice.one_in(2);
        let builtin = guard.and_then(Guard::is_of_secrets).unwrap_or(drawn);
        let calls_a_day = if rough {
            dice.of(&[10, 50], 10)
        } else {
            dice.of(&[0, 1, 10], 1)
        };
        let zone = dice.of(&ZONES, "UTC");
        let calendar = Calendar::of(zone).expect("every zone of the list is in the database");
        let window: Option<Window> = dice
            .one_in(2)
            .then(|| "MON-FRI 08:00-18:00".parse().ok())
            .flatten();
        let day = |text: &str| text.parse().ok();
        let frozen = ["2027-12-24", "2027-12-25", "2028-12-25", "2029-01-01"];
        let frozen: BTreeSet<_> = frozen.into_iter().filter_map(day).collect();
        let schedule = |text: &str| text.parse().expect("every schedule of the list runs");
        Self {
            builtin,
            proxies: dice.between(1, 3),
            calls_a_day,
            silent: !rough && dice.one_in(4),
            apart: dice.one_in(2),
            leaf_life: dice.of(&[DAY, 2 * DAY, 7 * DAY], 7 * DAY),
            ca_life: dice.of(&[60 * DAY, 180 * DAY, 365 * DAY], 180 * DAY),
            settle: PROPAGATION,
            quiet: if rough {
                dice.of(&[60, 300, 600], 300)
            } else {
                HOUR
            },
            calendar: calendar.limited(window, frozen),
            token: schedule(dice.of(&WEEKLY, "0 10 * * 1")),
            secret: schedule(dice.of(&WEEKLY, "30 2 * * 0")),
            lag: dice.of(&[0, 5, 20], 0),
            doubles: dice.one_in(2),
            rough,
        }
    }

    /// The longest time without a daemon, in seconds: what is left of a leaf when its successor is due, and a part of it
    /// for the way back.
    pub(super) fn longest_outage(&self) -> u64 {
        let left = self.leaf_life - (self.leaf_life * 2 / 3).min(DAY);
        (left / 2).min(2 * DAY)
    }
}
