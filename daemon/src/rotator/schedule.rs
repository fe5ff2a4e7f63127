//! Orders that nobody gives: what the configuration has rotate by itself.
//!
//! When one is due is journalled together with the orders, so that the end of the process neither loses a run nor repeats
//! it. Runs that were missed, while the daemon was down or the calendar closed, are one run. One that failed is an alarm,
//! and is due again an hour later, not only at its next time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;
use super::orders::Outcome;
use super::tunnel::{Desk, Tunnel};
use crate::board::{Order, Refusal};
use crate::config::{KEYS, When};

/// Who orders.
pub(super) const ACTOR: &str = "schedule";
/// Topic of its troubles.
const TOPIC: &str = "schedule";
/// A run that failed is due again after so many seconds.
const AGAIN: u64 = 3600;
/// A plan is compared with the clock so often: one that was made while the clock was ahead lies too far off.
const REVIEW: Duration = Duration::from_secs(3600);

/// When what is due, by the key of its kind.
pub(super) type Due = BTreeMap<String, Next>;

/// When the plans were compared with the clock, since boot.
pub(super) type Reviewed = Option<Duration>;

/// The next run of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Next {
    /// The schedule that it is of, as configured.
    when: String,
    /// Unix seconds.
    at: u64,
    /// The last run, while it is under way: id of the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// Why the last run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
}

impl Next {
    /// When, in Unix seconds.
    pub(super) fn at(&self) -> u64 {
        self.at
    }
}

impl Tunnel {
    /// Orders what is due, if something may begin now.
    pub(super) fn step_schedule(&mut self, desk: &mut Desk<'_>) {
        let (now, boot) = (desk.moment.unix(), desk.moment.boot);
        let review = |at: Duration| boot >= at + REVIEW;
        let reviewed = self.reviewed.is_none_or(review) && !desk.moment.suspect;
        if reviewed {
            self.reviewed = Some(boot);
        }
        let mut troubles = Vec::new();
        for key in KEYS {
            self.plan(key, desk.moment, reviewed);
            self.follow_run(key, desk);
            let Some(due) = self.due.get(key) else {
                continue;
            };
            let opens = self.config.rotate.calendar.is_open(now);
            // What somebody ordered meanwhile is waited for: it may be this run, and then it fails or not.
            let begins = now >= due.at && due.run.is_none() && opens && !desk.moment.suspect;
            if begins && let Err(refusal) = self.run(key, desk) {
                troubles.push(format!("rotate.{key} is due: {}", refusal.what));
            } else if let Some(failure) = self.due.get(key).and_then(|due| due.failure.as_ref()) {
                troubles.push(format!(
                    "rotate.{key} was due and failed, and is tried again within an hour: {failure}"
                ));
            }
        }
        if troubles.is_empty() {
            self.well(TOPIC);
        } else {
            self.trouble(TOPIC, troubles.join("; "));
        }
    }

    /// Plans the next run of a kind, if that is not done; pulls one back that lies too far off.
    fn plan(&mut self, key: &'static str, moment: Moment, review: bool) {
        let when = self.config.rotate.when(key);
        if matches!(when, When::Auto | When::Off) {
            self.due.remove(key);
            return;
        }
        let text = when.to_string();
        let planned = self.due.get(key).filter(|due| due.when == text);
        let at = planned.map(|due| due.at);
        if at.is_some() && !review || moment.suspect {
            return;
        }
        let Some(next) = self.next_run(when, moment.unix()) else {
            return;
        };
        let due = self.due.entry(key.to_owned()).or_default();
        if due.when != text {
            *due = Next {
                when: text,
                ..Next::default()
            };
        }
        due.at = at.map_or(next, |at| at.min(next));
    }

    /// What became of the run under way.
    fn follow_run(&mut self, key: &'static str, desk: &mut Desk<'_>) {
        let has_order = self.has_order(key);
        let Some(due) = self.due.get_mut(key) else {
            return;
        };
        let Some(run) = &due.run else { return };
        match desk.operations.take_outcome(run) {
            Some(Outcome { done: true, .. }) => (due.run, due.failure) = (None, None),
            Some(Outcome { detail, .. }) => {
                (due.run, due.failure) = (None, Some(detail));
                due.at = due.at.min(desk.moment.unix() + AGAIN);
            }
            // It ended in the last moments of the process before.
            None if !has_order => due.run = None,
            None => {}
        }
    }

    /// Begins the run that is due, and plans the next one.
    fn run(&mut self, key: &'static str, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        let now = desk.moment.unix();
        let next = self.next_run(self.config.rotate.when(key), now);
        let before = self.due.get(key).cloned();
        if let Some(due) = self.due.get_mut(key) {
            due.at = next.unwrap_or(u64::MAX);
        }
        if self.has_order(key) {
            // What somebody ordered is under way: that is this run.
            return Ok(());
        }
        match self.order(desk, &order(key, &self.name), ACTOR) {
            Ok(operation) => {
                if let Some(due) = self.due.get_mut(key) {
                    due.run = Some(operation.id);
                }
                Ok(())
            }
            Err(refusal) => {
                self.due
                    .extend(before.map(|before| (key.to_owned(), before)));
                Err(refusal)
            }
        }
    }

    fn has_order(&self, key: &str) -> bool {
        let order = match key {
            "ca" => &self.ca_order,
            "token" => &self.token_order,
            "secret" => &self.secret_order,
            _ => &self.leaf_order,
        };
        order.is_some()
    }

    /// The first run after `now`, in Unix seconds; `None`: there is no schedule, or it names no time that ever comes.
    fn next_run(&self, when: &When, now: u64) -> Option<u64> {
        match when {
            When::Auto | When::Off => None,
            When::Every(pause) => Some(now.saturating_add(pause.as_secs())),
            When::At(schedule) => schedule.next(&self.config.rotate.calendar, now),
        }
    }
}

fn order(key: &str, tunnel: &str) -> Order {
    let tunnel = tunnel.to_owned();
    match key {
        "ca" => Order::RotateCa {
            tunnel,
            trusted: false,
            accept_unproven: false,
            standby: None,
        },
        "token" => Order::RotateTunnelToken { tunnel },
        "secret" => Order::RotateSharedSecret { tunnel },
        _ => Order::RotateServerCertificate { tunnel },
    }
}
