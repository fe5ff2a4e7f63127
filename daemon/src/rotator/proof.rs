//! What the proxies' reports say of callers under the CA in force, and what an operator says in their place.

use super::orders::refusal;
use super::pending::{Ordered, ROTATE_CA, running};
use super::tunnel::{Desk, StepError, Tunnel};
use crate::board::Refusal;
use crate::rotation::Witness;
use crate::rotation::authority::Ca;
use crate::rotation::slots::{Grade, Phase, SLOTS, Served, Tally};
use crate::status::{Operation, OperationState};

impl Tunnel {
    /// The replicas in service, as far as the CA goes.
    pub(super) fn served_slots(&self, desk: &Desk<'_>, witnesses: &[Witness]) -> Vec<Served> {
        let generation = self.leaf.serving.as_ref().map_or(0, |leaf| leaf.generation);
        let replicas = desk.board.replicas.borrow();
        let served = |witness: &Witness| {
            let reports = replicas.get(&witness.name).map(|one| &one.report.tunnels);
            let mut reports = reports.into_iter().flatten();
            let report = reports.find(|report| report.tunnel == self.name);
            let tally = |ca: Option<&Ca>| {
                let verdicts = ca.and_then(|ca| report?.verdicts.get(&ca.sha256));
                let verdicts = verdicts.copied().unwrap_or_default();
                Tally {
                    completed: verdicts.accepted,
                    alerts: verdicts.refused,
                }
            };
            let new = tally(self.ca.active.as_ref());
            Served {
                name: witness.name.clone(),
                acknowledged: witness.acked >= generation,
                grade: (new.completed > 0).then_some(Grade::Observed),
                new,
                old: tally(self.ca.old.as_ref()),
            }
        };
        witnesses.iter().map(served).collect()
    }

    /// Everything that speaks against a rotation of the CA.
    pub(super) fn refuse_rotation(&self) -> Result<(), Refusal> {
        self.refuse_other_tunnel()?;
        if let Some(rotation) = &self.ca.slots.rotation {
            return Err(refusal(
                format!(
                    "a rotation of the CA is in flight, and {}",
                    rotation.phase.word().replace('_', " ")
                ),
                "see in: keyward status, what it waits for; if that is proof: keyward rotate ca --accept-unproven"
                    .to_owned(),
            ));
        }
        let Some(standby) = &self.ca.standby else {
            return Err(refusal(
                "the standby CA is not made yet".to_owned(),
                "see the alarms in: keyward status".to_owned(),
            ));
        };
        let listed = self.slots.seen.listing.as_ref();
        if listed.is_some_and(|listing| listing.registrations.len() >= SLOTS) {
            return Err(refusal(
                "both slots of the remote are taken".to_owned(),
                "archive the CA there that nobody needs; keyward status names it".to_owned(),
            ));
        }
        self.refuse_without_key(standby)
    }

    /// Lets the rotation in flight end without proof.
    pub(super) fn accept_unproven(
        &mut self,
        desk: &mut Desk<'_>,
        actor: &str,
    ) -> Result<Operation, Refusal> {
        if self.config.remote().is_none() || !self.ca.is_in(Phase::Switched) {
            return Err(refusal(
                "no rotation of the CA waits for proof".to_owned(),
                "see in: keyward status, how far it is".to_owned(),
            ));
        }
        let next = self.ca.accepted(actor);
        self.advance_ca(desk, next).map_err(|error| {
            refusal(
                format!("it cannot be recorded: {}", StepError::from(error).chain()),
                "make space, or the state directory writable, and order again".to_owned(),
            )
        })?;
        tracing::warn!(
            tunnel = self.name,
            actor,
            "CA rotation goes on without proof"
        );
        let ordered = Ordered::new(desk.moment, actor);
        let detail = "the CA before is archived without proof that callers take the new one";
        let operation = running(&self.name, ROTATE_CA, &ordered, detail);
        desk.operations.add(operation.clone());
        let (done, now) = (OperationState::Done, desk.moment.unix());
        desk.operations
            .end(&operation.id, done, detail.to_owned(), now);
        Ok(Operation {
            state: done,
            ended: Some(now),
            ..operation
        })
    }
}
