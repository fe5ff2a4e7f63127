//! Orders that nobody gives: what the configuration has rotate by itself.
//!
//! When one is due is journalled together with the orders, so that the end of the process neither loses a run nor repeats
//! it. Runs that were missed, while the daemon was down or the calendar closed, are one run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tunnel::{Desk, Tunnel};
use crate::board::Order;
use crate::config::When;

/// Who orders.
const ACTOR: &str = "schedule";
/// Topic of its troubles.
const TOPIC: &str = "schedule";

/// When what is due, by the key of its kind.
pub(super) type Due = BTreeMap<String, Next>;

/// The next run of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Next {
    /// The schedule that it is of, as configured.
    when: String,
    /// Unix seconds.
    at: u64,
}

impl Tunnel {
    /// Orders what is due, if something may begin now.
    pub(super) fn step_schedule(&mut self, desk: &mut Desk<'_>) {
        let now = desk.moment.unix();
        let rotate = self.config.rotate.clone();
        let mut refused = Vec::new();
        for (key, when) in rotate.kinds() {
            let Some(next) = self.next_run(when, now) else {
                self.due.remove(key);
                continue;
            };
            let planned = self.due.get(key).filter(|due| due.when == next.when);
            let Some(at) = planned.map(|due| due.at) else {
                self.due.insert(key.to_owned(), next);
                continue;
            };
            if now < at || desk.moment.suspect || !rotate.calendar.is_open(now) {
                continue;
            }
            let before = self.due.insert(key.to_owned(), next);
            if self.has_order(key) {
                // What somebody ordered is under way: that is this run.
                continue;
            }
            if let Err(refusal) = self.order(desk, order(key, &self.name), ACTOR) {
                self.due
                    .extend(before.map(|before| (key.to_owned(), before)));
                refused.push(format!("rotate.{key} is due: {}", refusal.what));
            }
        }
        if refused.is_empty() {
            self.well(TOPIC);
        } else {
            self.trouble(TOPIC, refused.join("; "));
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

    /// The first run after `now`; `None`: there is no schedule.
    fn next_run(&self, when: &When, now: u64) -> Option<Next> {
        let at = match when {
            When::Auto | When::Off => return None,
            When::Every(pause) => now.saturating_add(pause.as_secs()),
            When::At(schedule) => schedule.next(&self.config.rotate.calendar, now)?,
        };
        Some(Next {
            when: when.to_string(),
            at,
        })
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
