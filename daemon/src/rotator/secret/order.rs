//! Orders for another shared secret, followed to their end, and what the status says.

use std::time::Duration;

use super::super::Moment;
use super::super::orders::{Operations, refusal};
use super::super::pending::{Ordered, ROTATE_SHARED_SECRET, TAKEN_UP, end, running};
use super::super::tunnel::{Desk, Tunnel};
use crate::board::{Refusal, Replicas};
use crate::config::write_duration;
use crate::journal::{Journal, Kind};
use crate::rotation::shared_secret::{Phase, Rotation, Seen, alarms};
use crate::status::{OperationState, SharedSecretStatus};

/// How long proxies have to dial with it, until an operation ends without them.
const LIMIT: Duration = Duration::from_secs(10);

impl Tunnel {
    /// Why there is none to rotate.
    pub(in super::super) fn refuse_secret(&self) -> Result<(), Refusal> {
        if self.has_secrets() {
            return self.refuse_other_tunnel();
        }
        Err(refusal(
            format!("{} has no shared secret", self.name),
            "write provider: tunnels_api and connector: builtin, if the other side is a keyward-edge that the proxy dials"
                .to_owned(),
        ))
    }

    /// Goes on with an order that an earlier process took; `noted`: the number of its record.
    pub(in super::super) fn resume_secret_order(
        &mut self,
        journal: &Journal,
        operations: &mut Operations,
        (order, noted): (Option<Ordered>, u64),
        moment: Moment,
    ) {
        let Some(mut order) = order else { return };
        let records = || journal.recent(&self.name, Kind::SharedSecret);
        let ordered = records().filter(|record| record.entry.reason == "ordered");
        order.attach(ordered, noted, "begun");
        operations.add(running(&self.name, ROTATE_SHARED_SECRET, &order, TAKEN_UP));
        let rotation = self.shared.state.rotation.as_ref();
        let is_open =
            |one: &Rotation| one.phase < Phase::Quiet && Some(&one.id) == order.rotation.as_ref();
        if order.is_waiting() || rotation.is_some_and(is_open) {
            self.secret_order = Some(order);
            return;
        }
        let proven = records()
            .filter(|record| Some(&record.entry.rotation_id) == order.rotation.as_ref())
            .any(|record| record.entry.phase == "quiet");
        end(operations, &order, proven, moment);
    }

    pub(super) fn proven(&self) -> String {
        let quiet = write_duration(self.config.shared_secret.quiet);
        format!(
            "every proxy in service dials with it; the old one is archived once nobody of ours has used it for {quiet}"
        )
    }

    pub(super) fn end_secret_order(
        &mut self,
        desk: &mut Desk<'_>,
        state: OperationState,
        detail: &str,
    ) {
        let is_its = |one: &mut Ordered| !one.is_waiting();
        if let Some(order) = self.secret_order.take_if(is_its) {
            let now = desk.moment.unix();
            desk.operations
                .end(&order.operation, state, detail.to_owned(), now);
        }
    }

    /// Ends an order that cannot be carried out now, or for too long.
    pub(super) fn settle_secret_order(&mut self, desk: &mut Desk<'_>) {
        if self.secret_order.is_none() {
            return;
        }
        let boot = desk.moment.boot;
        let fails = self.shared.calls.is_failing(boot)
            || self.shared.pace.is_on(boot)
            || self.remote.hindrance(boot).is_some();
        let rotation = self.shared.state.rotation.as_ref();
        let out = rotation.is_some_and(|one| one.phase >= Phase::Published);
        if fails && !out {
            if let Some(order) = self.secret_order.take() {
                let (now, failed) = (desk.moment.unix(), OperationState::Failed);
                let detail = self.failure_of(&order);
                desk.operations.end(&order.operation, failed, detail, now);
            }
            return;
        }
        if out && boot >= self.shared.published_at + LIMIT {
            let generation = self
                .shared
                .state
                .presented()
                .map_or(0, |one| one.generation);
            let replicas = desk.board.replicas.borrow().clone();
            let (dialers, _) = self.dialers(&replicas, desk.moment.wall);
            let behind = dialers.iter().filter(|one| one.acked < generation);
            let names: Vec<&str> = behind.map(|one| one.name.as_str()).collect();
            let (state, detail) = if dialers.is_empty() {
                (OperationState::Done, "it is out, but no proxy that dials is in service; the old one stays until one is, and uses it".to_owned())
            } else {
                (
                    OperationState::Failed,
                    format!(
                        "it is out, but not every connection of {} stands on it; the old one stays until they do: do not order it again",
                        names.join(", ")
                    ),
                )
            };
            self.end_secret_order(desk, state, &detail);
        }
    }

    /// What needs a person.
    pub(in super::super) fn secret_alarms(
        &self,
        replicas: &Replicas,
        moment: Moment,
    ) -> Vec<String> {
        if !self.has_secrets() {
            return Vec::new();
        }
        let seen = Seen {
            remote: self.shared.shown.clone(),
            ..self.see_secret(replicas, moment, false)
        };
        alarms(&self.shared.state, &seen, moment.unix())
    }

    /// What may be known of the secret that proxies are told to use.
    pub(in super::super) fn secret_status(&self) -> Option<SharedSecretStatus> {
        let state = &self.shared.state;
        let secret = state.presented().filter(|secret| secret.generation > 0)?;
        Some(SharedSecretStatus {
            id: secret.id.clone(),
            sha256: secret.sha256.clone(),
            generation: secret.generation,
            made_at: secret.made_at,
            phase: state.phase().to_owned(),
        })
    }
}
