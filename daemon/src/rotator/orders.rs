//! Orders: taken or refused at once, then followed to their end.

use std::collections::{BTreeMap, VecDeque};

use pki::ClientProfile;
use tokio::sync::oneshot;

use super::pending::{
    Ordered, ROTATE_CA, ROTATE_SERVER_CERTIFICATE, ROTATE_SHARED_SECRET, ROTATE_TUNNEL_TOKEN,
    running,
};
use super::tunnel::{Desk, SIGNER, StepError, Tunnel};
use crate::board::{Fault, Order, Refusal, Request};
use crate::rotation::Witness;
use crate::rotation::authority::Ca;
use crate::status::{Operation, OperationState};

/// Operations that the status shows.
const SHOWN: usize = 64;

/// The last operations, oldest first.
#[derive(Debug, Default)]
pub(super) struct Operations {
    list: VecDeque<Operation>,
}

impl Operations {
    pub(super) fn list(&self) -> Vec<Operation> {
        self.list.iter().cloned().collect()
    }

    pub(super) fn add(&mut self, operation: Operation) {
        // One that runs stays in sight.
        if self.list.len() >= SHOWN
            && let Some(oldest) = self
                .list
                .iter()
                .position(|operation| operation.state != OperationState::Running)
        {
            self.list.remove(oldest);
        }
        self.list.push_back(operation);
    }

    /// How far an operation is.
    pub(super) fn say(&mut self, id: &str, detail: &str) {
        let mut operations = self.list.iter_mut();
        if let Some(operation) = operations.find(|operation| operation.id == id) {
            detail.clone_into(&mut operation.detail);
        }
    }

    pub(super) fn end(&mut self, id: &str, state: OperationState, detail: String, now: u64) {
        let mut operations = self.list.iter_mut();
        if let Some(operation) = operations.find(|operation| operation.id == id) {
            tracing::info!(
                operation = id,
                what = operation.what,
                tunnel = operation.tunnel,
                actor = operation.actor,
                done = state == OperationState::Done,
                detail,
                "operation ended"
            );
            operation.state = state;
            operation.detail = detail;
            operation.ended = Some(now);
        }
    }

    /// Why the last of a kind failed; `None`: it did not, or is not in sight any more.
    pub(super) fn last_failure(&self, tunnel: &str, what: &str) -> Option<String> {
        let mut latest = self.list.iter().rev();
        let last = latest.find(|one| one.tunnel == tunnel && one.what == what)?;
        (last.state == OperationState::Failed).then(|| last.detail.clone())
    }
}

/// What is to be said to whoever ordered, once the status shows it.
pub(super) struct Answer {
    to: oneshot::Sender<Result<Operation, Refusal>>,
    outcome: Result<Operation, Refusal>,
}

impl Answer {
    pub(super) fn send(self) {
        // Whoever asked may have gone; the order stands.
        let _ = self.to.send(self.outcome);
    }
}

/// Takes or refuses an order.
pub(super) fn take(
    tunnels: &mut BTreeMap<String, Tunnel>,
    desk: &mut Desk<'_>,
    request: Request,
) -> Answer {
    let Request {
        order,
        actor,
        answer,
    } = request;
    let name = match &order {
        Order::RotateServerCertificate { tunnel }
        | Order::RotateCa { tunnel, .. }
        | Order::RotateTunnelToken { tunnel }
        | Order::RotateSharedSecret { tunnel }
        | Order::IssueClient { tunnel, .. } => tunnel,
    };
    let outcome = match tunnels.get_mut(name) {
        Some(tunnel) => tunnel.order(desk, &order, &actor),
        None => Err(Refusal {
            fault: Fault::Words,
            what: format!("there is no tunnel {name:?}"),
            next: format!(
                "configured are: {}",
                tunnels.keys().cloned().collect::<Vec<_>>().join(", ")
            ),
        }),
    };
    Answer {
        to: answer,
        outcome,
    }
}

impl Tunnel {
    pub(super) fn order(
        &mut self,
        desk: &mut Desk<'_>,
        order: &Order,
        actor: &str,
    ) -> Result<Operation, Refusal> {
        let what = match order {
            Order::RotateServerCertificate { .. } => ROTATE_SERVER_CERTIFICATE,
            Order::RotateCa {
                accept_unproven: true,
                ..
            } => return self.accept_unproven(desk, actor),
            Order::RotateCa { .. } => ROTATE_CA,
            Order::RotateTunnelToken { .. } => ROTATE_TUNNEL_TOKEN,
            Order::RotateSharedSecret { .. } => ROTATE_SHARED_SECRET,
            Order::IssueClient {
                name,
                csr,
                lifetime_seconds,
                ..
            } => {
                let profile = ClientProfile {
                    name: name.clone(),
                    lifetime: std::time::Duration::from_secs(*lifetime_seconds),
                };
                return self.issue_client(desk, &profile, csr, actor);
            }
        };
        if let Some(running) = self.ordered(what) {
            return Err(refusal(
                format!("it is already running as operation {}", running.operation),
                "follow that one, or wait until it has ended".to_owned(),
            ));
        }
        match order {
            Order::RotateCa { .. } if self.config.remote().is_some() => self.refuse_rotation()?,
            Order::RotateCa {
                trusted, standby, ..
            } => self.refuse_switch(desk, *trusted, standby.as_deref())?,
            Order::RotateTunnelToken { .. } => self.refuse_token_rotation(desk)?,
            Order::RotateSharedSecret { .. } => self.refuse_secret()?,
            Order::RotateServerCertificate { .. } | Order::IssueClient { .. } => {}
        }
        let ordered = Ordered {
            at_remote: self.config.remote().is_some(),
            ..Ordered::new(desk.moment, actor)
        };
        self.promise(desk, what, ordered)
    }

    /// The order that is carried out at most once at a time.
    pub(super) fn ordered(&mut self, what: &str) -> &mut Option<Ordered> {
        match what {
            ROTATE_CA => &mut self.ca_order,
            ROTATE_TUNNEL_TOKEN => &mut self.token_order,
            ROTATE_SHARED_SECRET => &mut self.secret_order,
            _ => &mut self.leaf_order,
        }
    }

    /// Says yes to an order, once the journal has it: from then on it is carried out whatever becomes of
    /// this process.
    fn promise(
        &mut self,
        desk: &mut Desk<'_>,
        what: &str,
        ordered: Ordered,
    ) -> Result<Operation, Refusal> {
        let operation = running(&self.name, what, &ordered, "taken");
        *self.ordered(what) = Some(ordered);
        if let Err(error) = self.note_orders(desk) {
            *self.ordered(what) = None;
            return Err(refusal(
                format!(
                    "the order cannot be recorded: {}",
                    StepError::from(error).chain()
                ),
                "make space, or the state directory writable, and order again".to_owned(),
            ));
        }
        // Somebody is there and wants to see what is wrong now.
        self.leaf_pace.reset();
        match what {
            ROTATE_CA => self.ca_pace.reset(),
            ROTATE_TUNNEL_TOKEN => self.token_now.pace.reset(),
            ROTATE_SHARED_SECRET => self.shared.retry(),
            _ => {}
        }
        desk.operations.add(operation.clone());
        Ok(operation)
    }

    /// Everything that speaks against a switch of the CA.
    fn refuse_switch(
        &self,
        desk: &Desk<'_>,
        trusted: bool,
        named: Option<&str>,
    ) -> Result<(), Refusal> {
        let witnesses = self.witnesses(desk);
        let deserted = self.is_deserted(&witnesses, desk.moment.boot) && !desk.moment.suspect;
        if self.ca.switch.is_some() && !deserted {
            return Err(refusal(
                "the last switch of the CA is not over".to_owned(),
                if desk.moment.suspect {
                    "set the clock right; an hour after its jump the switch ends by itself"
                        .to_owned()
                } else if witnesses.is_empty() {
                    // Silence is neither success nor failure; whoever orders again after so long decides.
                    let left = self.until_deserted(desk.moment.boot).as_secs().div_ceil(60);
                    format!(
                        "start a proxy, which takes the new certificate and so ends the switch; without one, order again in {left} min, which destroys the key of the CA before"
                    )
                } else {
                    "see in: keyward status, which proxies have not followed, and restart or stop them".to_owned()
                },
            ));
        }
        let Some(standby) = &self.ca.standby else {
            return Err(refusal(
                "the standby CA is not made yet".to_owned(),
                "see the alarms in: keyward status".to_owned(),
            ));
        };
        self.refuse_without_key(standby)?;
        let what = match named {
            _ if !trusted => {
                "nobody says that the verifiers trust the standby CA, sha256".to_owned()
            }
            // As after an order whose answer was lost: it was carried out, and another one stands by.
            Some(named) if named != standby.sha256 => {
                format!("the verifiers are said to trust {named}, but the standby CA is sha256")
            }
            _ => return Ok(()),
        };
        Err(refusal(
            format!("{what} {}", standby.sha256),
            format!(
                "give them {} beside the CA that they have, then repeat with --trusted={}",
                self.config.store.join("ca-next.crt").display(),
                standby.sha256
            ),
        ))
    }

    /// A CA without its key signs nothing.
    pub(super) fn refuse_without_key(&self, standby: &Ca) -> Result<(), Refusal> {
        let key = |what: &str| {
            format!(
                "the key of the standby CA, sha256 {}, {what}",
                standby.sha256
            )
        };
        match self.ca_key(standby) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(refusal(
                key("is not in custody"),
                "restore it from a backup of the state directory, or restart the daemon, which makes another standby CA"
                    .to_owned(),
            )),
            Err(error) => Err(refusal(key("cannot be read"), error.next())),
        }
    }

    /// Ends the order for a rotation of the server certificate, if it belongs to this one.
    pub(super) fn end_leaf_order(
        &mut self,
        desk: &mut Desk<'_>,
        rotation: &str,
        state: OperationState,
        detail: String,
    ) {
        let is_its = |ordered: &mut Ordered| ordered.rotation.as_deref() == Some(rotation);
        if let Some(ordered) = self.leaf_order.take_if(is_its) {
            let now = desk.moment.unix();
            desk.operations.end(&ordered.operation, state, detail, now);
        }
    }

    /// Ends orders that cannot be carried out now, or for too long.
    pub(super) fn settle_orders(&mut self, desk: &mut Desk<'_>, witnesses: &[Witness]) {
        let (now, boot) = (desk.moment.unix(), desk.moment.boot);
        let failed = OperationState::Failed;
        // Without a CA that can sign nothing is tried, so nothing is paced either.
        let leaf_fails = self.leaf_pace.is_on(boot) || self.facts.troubles.contains_key(SIGNER);
        if leaf_fails && let Some(ordered) = self.leaf_order.take() {
            let detail = self.failure_of(&ordered);
            desk.operations.end(&ordered.operation, failed, detail, now);
        }
        if (self.ca_pace.is_on(boot) || leaf_fails)
            && let Some(ordered) = self.ca_order.take()
        {
            let detail = self.failure_of(&ordered);
            desk.operations.end(&ordered.operation, failed, detail, now);
        }
        // There it ends with the rotation, which waits for proof.
        if self.config.remote().is_some() {
            let hindrance = self.remote.hindrance(boot);
            let hindered = |ordered: &mut Ordered| {
                hindrance.is_some_and(|hindrance| ordered.is_waiting() || hindrance.lasts)
            };
            if let Some(ordered) = self.ca_order.take_if(hindered) {
                let detail = self.failure_of(&ordered);
                desk.operations.end(&ordered.operation, failed, detail, now);
            }
            return;
        }
        if self.leaf.rotation.is_none()
            && witnesses.is_empty()
            && let Some(ordered) = self.ca_order.take_if(|ordered| !ordered.is_waiting())
        {
            let detail = "the new certificate is published, but no proxy is connected; the old CA's key is kept until a proxy has taken it, or until the next switch of the CA";
            let done = OperationState::Done;
            desk.operations
                .end(&ordered.operation, done, detail.to_owned(), now);
        }
        let generation = self.leaf.serving.as_ref().map_or(0, |leaf| leaf.generation);
        let mut missing = witnesses
            .iter()
            .filter(|witness| witness.acked < generation)
            .map(|witness| witness.name.as_str())
            .peekable();
        if self.leaf.rotation.is_none()
            && self.is_overdue(boot)
            && missing.peek().is_some()
            && let Some(ordered) = self.ca_order.take_if(|ordered| !ordered.is_waiting())
        {
            let missing: Vec<&str> = missing.collect();
            let detail = format!(
                "switched, but these replicas have not acknowledged: {}; the old CA key is kept until they have",
                missing.join(", ")
            );
            desk.operations.end(&ordered.operation, failed, detail, now);
        }
    }

    /// Why an order ends before what it asked for, and what becomes of that.
    pub(super) fn failure_of(&self, ordered: &Ordered) -> String {
        let troubles: Vec<&str> = self.facts.troubles.values().map(String::as_str).collect();
        let why = if troubles.is_empty() {
            "it failed".to_owned()
        } else {
            troubles.join("; ")
        };
        if ordered.is_waiting() {
            format!("{why}; nothing was begun")
        } else {
            format!(
                "{why}; what was begun goes on by itself as soon as it can: do not order it again"
            )
        }
    }
}

pub(super) fn refusal(what: String, next: String) -> Refusal {
    Refusal {
        fault: Fault::State,
        what,
        next,
    }
}
