//! Orders to rotate the token: what speaks against one, and how it ends.

use crate::board::Refusal;
use crate::rotation::tunnel_token::{DISTRIBUTION_LIMIT, Phase, Seen, obstacle, pending};
use crate::rotator::orders::refusal;
use crate::rotator::pending::Ordered;
use crate::rotator::tunnel::{Desk, Tunnel};
use crate::status::OperationState;

impl Tunnel {
    /// Everything that speaks against an order to rotate.
    pub(in crate::rotator) fn refuse_token_rotation(&self, desk: &Desk<'_>) -> Result<(), Refusal> {
        if self.config.remote().is_none() {
            return Err(refusal(
                "the tunnel has provider: static, so nobody can be asked for another token"
                    .to_owned(),
                format!(
                    "rotate it where it was made, then write the new one into {}: connectors are given it within half a minute",
                    self.config.store.join("tunnel-token").display()
                ),
            ));
        }
        self.refuse_other_tunnel()?;
        if self.token.rotation.is_some() {
            return Err(refusal(
                "the last rotation of the tunnel token is not over".to_owned(),
                "see in: keyward status, what it waits for".to_owned(),
            ));
        }
        let seen = self.seen_of_token(desk, None);
        match obstacle(&self.token, &seen) {
            None => Ok(()),
            Some(why) => Err(refusal(
                format!("the tunnel token is not rotated now: {why}"),
                "see in: keyward status, and order it when that is over".to_owned(),
            )),
        }
    }

    /// Orders that cannot be begun now, and those whose connectors take too long.
    pub(super) fn settle_token_order(&mut self, desk: &mut Desk<'_>, seen: &Seen) {
        let Some(ordered) = &self.token_order else {
            return;
        };
        let now = desk.moment.unix();
        let detail = if ordered.is_waiting() {
            let boot = desk.moment.boot;
            let fails =
                self.token_now.pace.is_failing(boot) || self.remote.hindrance(boot).is_some();
            let hindrance = fails.then_some("the remote cannot be asked now");
            let why = obstacle(&self.token, seen).or(hindrance);
            why.map(|why| format!("{why}; nothing was begun"))
        } else {
            let rotation = self.token.rotation.as_ref();
            let late = rotation.is_some_and(|rotation| {
                rotation.phase == Phase::Distributing
                    && now.abs_diff(rotation.began) >= DISTRIBUTION_LIMIT
            });
            late.then(|| {
                format!(
                    "rotated, but these connectors have not taken it: {}; it goes on by itself",
                    pending(&self.token, seen).join(", ")
                )
            })
        };
        let Some(detail) = detail else {
            return;
        };
        if let Some(ordered) = self.token_order.take() {
            let failed = OperationState::Failed;
            desk.operations.end(&ordered.operation, failed, detail, now);
        }
    }

    /// Ends the order that a rotation carried out.
    pub(super) fn end_token_order(
        &mut self,
        desk: &mut Desk<'_>,
        rotation: &str,
        state: OperationState,
        detail: String,
    ) {
        let is_its = |ordered: &mut Ordered| ordered.rotation.as_deref() == Some(rotation);
        if let Some(ordered) = self.token_order.take_if(is_its) {
            let now = desk.moment.unix();
            desk.operations.end(&ordered.operation, state, detail, now);
        }
    }
}
