//! Orders that nobody gives: what the configuration has rotate by itself.
//!
//! When one is due is journalled together with the orders, so that the end of the process neither loses a run nor repeats
//! it. Runs that were missed, while the daemon was down or the calendar closed, are one run. One that failed is an alarm,
//! and is due again an hour later, not only at its next time.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Moment;
use super::pending::{
    ROTATE_CA, ROTATE_SERVER_CERTIFICATE, ROTATE_SHARED_SECRET, ROTATE_TUNNEL_TOKEN,
};
use super::tunnel::{Desk, Tunnel};
use crate::board::{Order, Refusal};
use crate::config::{KEYS, When};

/// Who orders.
const ACTOR: &str = "schedule";
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
    /// While a run is under way: how many rotations of the kind were done before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    run: Option<u64>,
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
        // What was compared with the file once in this process stays as it is.
        if moment.suspect || !review && self.due.contains_key(key) {
            return;
        }
        let text = when.to_string();
        let planned = self.due.get(key).filter(|due| due.when == text);
        let at = planned.map(|due| due.at);
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

    /// What became of the run under way: what was done says so, not how an order ended, since a rotation goes on when
    /// whoever ordered it is told that it takes too long.
    fn follow_run(&mut self, key: &'static str, desk: &Desk<'_>) {
        if self.ordered(what(key)).is_some() || self.is_rotating(key) {
            return;
        }
        let done = self.done_of(key);
        let Some(due) = self.due.get_mut(key) else {
            return;
        };
        let Some(before) = due.run.take() else { return };
        due.failure = None;
        if done <= before {
            let failure = desk.operations.last_failure(&self.name, what(key));
            due.failure = Some(failure.unwrap_or_else(|| "it was given up".to_owned()));
            due.at = due.at.min(desk.moment.unix() + AGAIN);
        }
    }

    /// Begins the run that is due, and plans the next one. What is under way already is this run.
    fn run(&mut self, key: &'static str, desk: &mut Desk<'_>) -> Result<(), Refusal> {
        let now = desk.moment.unix();
        let next = self.next_run(self.config.rotate.when(key), now);
        let before = self.due.get(key).cloned();
        let done = self.done_of(key);
        if let Some(due) = self.due.get_mut(key) {
            due.at = next.unwrap_or(u64::MAX);
            due.run = Some(done);
        }
        if self.ordered(what(key)).is_some() || self.is_rotating(key) {
            return Ok(());
        }
        // The order and the run are in one record.
        let ordered = self.order(desk, &order(key, &self.name), ACTOR);
        if ordered.is_err() {
            self.due
                .extend(before.map(|before| (key.to_owned(), before)));
        }
        ordered.map(drop)
    }

    /// Whether one is in flight, whoever began it.
    fn is_rotating(&self, key: &str) -> bool {
        match key {
            "ca" => self.ca.slots.rotation.is_some() || self.ca.switch.is_some(),
            "token" => self.token.rotation.is_some(),
            "secret" => self.shared.state.rotation.is_some(),
            _ => self.leaf.rotation.is_some(),
        }
    }

    fn done_of(&self, key: &str) -> u64 {
        match key {
            "ca" => self.ca.done,
            "token" => self.token.done,
            "secret" => self.shared.state.done,
            _ => self.leaf.done,
        }
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

/// How its operation is called.
fn what(key: &str) -> &'static str {
    match key {
        "ca" => ROTATE_CA,
        "token" => ROTATE_TUNNEL_TOKEN,
        "secret" => ROTATE_SHARED_SECRET,
        _ => ROTATE_SERVER_CERTIFICATE,
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
