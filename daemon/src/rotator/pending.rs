//! Orders that were answered: they stand in the journal, so that the end of the process, whenever it comes,
//! neither loses one nor carries one out twice.
//!
//! A record of them survives the process and is not synced: it becomes durable with the first step of the
//! rotation. What they lead to is known to the machines; here is only who waits for which rotation.

use serde::{Deserialize, Serialize};

use super::Moment;
use super::orders::Operations;
use super::schedule::Due;
use super::tunnel::{Desk, Tunnel, fresh_id};
use crate::disk::DiskError;
use crate::journal::{Entry, Journal, Kind, Record};
use crate::status::{Operation, OperationState};

/// How an order for a new server certificate is called.
pub(super) const ROTATE_SERVER_CERTIFICATE: &str = "rotate server-certificate";
/// How an order for a switch of the CA is called.
pub(super) const ROTATE_CA: &str = "rotate ca";
/// How an order for another tunnel token is called.
pub(super) const ROTATE_TUNNEL_TOKEN: &str = "rotate tunnel-token";
/// How an order for another shared secret is called.
pub(super) const ROTATE_SHARED_SECRET: &str = "rotate shared-secret";

/// An order that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ordered {
    /// Id of the operation.
    pub(super) operation: String,
    /// Who asked.
    pub(super) actor: String,
    /// When, in Unix seconds.
    pub(super) began: u64,
    /// Id of the rotation that carries it out, once it has begun.
    pub(super) rotation: Option<String>,
    /// It was taken where the other side is asked: nobody said that verifiers know the standby CA.
    #[serde(default)]
    pub(super) at_remote: bool,
}

/// The orders of a tunnel that are not carried out yet, as the journal has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Orders {
    leaf: Option<Ordered>,
    ca: Option<Ordered>,
    #[serde(default)]
    token: Option<Ordered>,
    #[serde(default)]
    secret: Option<Ordered>,
    #[serde(default)]
    due: Due,
}

impl Ordered {
    /// One that nobody has begun.
    pub(super) fn new(moment: Moment, actor: &str) -> Self {
        Self {
            operation: fresh_id(moment),
            actor: actor.to_owned(),
            began: moment.unix(),
            rotation: None,
            at_remote: false,
        }
    }

    /// Whether nothing has begun for it.
    pub(super) fn is_waiting(&self) -> bool {
        self.rotation.is_none()
    }

    /// What began after the record with number `noted` began for it.
    pub(super) fn attach<'a>(
        &mut self,
        mut records: impl DoubleEndedIterator<Item = &'a Record>,
        noted: u64,
        phase: &str,
    ) {
        if self.is_waiting() {
            let begun = records.rfind(|record| record.seq > noted && record.entry.phase == phase);
            self.rotation = begun.map(|record| record.entry.rotation_id.clone());
        }
    }
}

/// What is shown of an order that is not carried out yet.
pub(super) fn running(tunnel: &str, what: &str, ordered: &Ordered, detail: &str) -> Operation {
    Operation {
        id: ordered.operation.clone(),
        what: what.to_owned(),
        tunnel: tunnel.to_owned(),
        actor: ordered.actor.clone(),
        state: OperationState::Running,
        detail: detail.to_owned(),
        began: ordered.began,
        ended: None,
        certificate: None,
    }
}

impl Tunnel {
    /// Writes the orders into the journal, if they are not there as they are.
    pub(super) fn note_orders(&mut self, desk: &mut Desk<'_>) -> Result<(), DiskError> {
        let orders = Orders {
            leaf: self.leaf_order.clone(),
            ca: self.ca_order.clone(),
            token: self.token_order.clone(),
            secret: self.secret_order.clone(),
            due: self.due.clone(),
        };
        if orders == self.orders_noted {
            return Ok(());
        }
        let ordered = orders.leaf.as_ref().or(orders.ca.as_ref());
        let ordered = ordered.or(orders.token.as_ref());
        let ordered = ordered.or(orders.secret.as_ref());
        let entry = Entry {
            rotation_id: ordered
                .and_then(|one| one.rotation.clone())
                .unwrap_or_default(),
            phase: if ordered.is_some() { "ordered" } else { "idle" }.to_owned(),
            actor: ordered.map(|one| one.actor.clone()).unwrap_or_default(),
            state: serde_json::to_value(&orders).unwrap_or_default(),
            ..Entry::default()
        };
        desk.note(&self.name, Kind::Orders, entry)?;
        self.orders_noted = orders;
        Ok(())
    }

    /// Goes on with the orders that an earlier process took, under their ids. The machines are as the
    /// journal has them by now.
    pub(super) fn resume_orders(
        &mut self,
        journal: &Journal,
        operations: &mut Operations,
        moment: Moment,
    ) {
        let Some(record) = journal.last(&self.name, Kind::Orders) else {
            return;
        };
        let orders = serde_json::from_value::<Orders>(record.entry.state.clone());
        let orders = orders.unwrap_or_default();
        self.orders_noted = orders.clone();
        self.due = orders.due;
        let seq = record.seq;
        self.resume_leaf_order(journal, operations, orders.leaf, seq, moment);
        self.resume_ca_order(journal, operations, orders.ca, seq, moment);
        self.resume_token_order(journal, operations, orders.token, seq, moment);
        self.resume_secret_order(journal, operations, (orders.secret, seq), moment);
    }

    fn resume_leaf_order(
        &mut self,
        journal: &Journal,
        operations: &mut Operations,
        mut leaf: Option<Ordered>,
        noted: u64,
        moment: Moment,
    ) {
        let leaves = || journal.recent(&self.name, Kind::ServerCertificate);
        if let Some(ordered) = &mut leaf {
            ordered.attach(leaves(), noted, "begun");
            let what = ROTATE_SERVER_CERTIFICATE;
            operations.add(running(&self.name, what, ordered, TAKEN_UP));
        }
        // One whose end was the last that was recorded.
        let in_flight = self.leaf.rotation.as_ref().map(|rotation| &rotation.id);
        let over = |one: &mut Ordered| !one.is_waiting() && one.rotation.as_ref() != in_flight;
        if let Some(ended) = leaf.take_if(over) {
            let of_it =
                |record: &&Record| Some(&record.entry.rotation_id) == ended.rotation.as_ref();
            let adopted = leaves()
                .filter(of_it)
                .any(|record| ["soak", "serving"].contains(&record.entry.phase.as_str()));
            end(operations, &ended, adopted, moment);
        }
        self.leaf_order = leaf;
    }

    fn resume_ca_order(
        &mut self,
        journal: &Journal,
        operations: &mut Operations,
        mut ca: Option<Ordered>,
        noted: u64,
        moment: Moment,
    ) {
        let at_remote = self.config.remote().is_some();
        let cas = || journal.recent(&self.name, Kind::Ca);
        if let Some(ordered) = &mut ca {
            let begun = if at_remote {
                "registering"
            } else {
                "switching"
            };
            ordered.attach(cas(), noted, begun);
            operations.add(running(&self.name, ROTATE_CA, ordered, TAKEN_UP));
        }
        let switch = self.ca.switch.as_ref().filter(|switch| !switch.adopted);
        let rotation = self.ca.slots.rotation.as_ref();
        let rotation = rotation.map(|rotation| &rotation.id);
        let in_flight = switch.map(|switch| &switch.id).or(rotation);
        let over = |one: &mut Ordered| !one.is_waiting() && one.rotation.as_ref() != in_flight;
        if let Some(ended) = ca.take_if(over) {
            let of_it =
                |record: &&Record| Some(&record.entry.rotation_id) == ended.rotation.as_ref();
            let phases = cas().filter(of_it).map(|record| &*record.entry.phase);
            let done = phases.fold(false, |done, phase| match phase {
                "archived" | "adopted" => true,
                "rolling_back" => false,
                _ => done,
            });
            end(operations, &ended, done, moment);
        }
        // Nobody who was asked at the remote said that verifiers know the standby, and the other way round.
        let elsewhere = |one: &mut Ordered| one.is_waiting() && one.at_remote != at_remote;
        if let Some(ended) = ca.take_if(elsewhere) {
            end(operations, &ended, false, moment);
        }
        self.ca_order = ca;
    }

    fn resume_token_order(
        &mut self,
        journal: &Journal,
        operations: &mut Operations,
        mut token: Option<Ordered>,
        noted: u64,
        moment: Moment,
    ) {
        let tokens = || journal.recent(&self.name, Kind::TunnelToken);
        if let Some(ordered) = &mut token {
            ordered.attach(tokens(), noted, "intent");
            operations.add(running(&self.name, ROTATE_TUNNEL_TOKEN, ordered, TAKEN_UP));
        }
        let in_flight = self.token.rotation.as_ref().map(|rotation| &rotation.id);
        let over = |one: &mut Ordered| !one.is_waiting() && one.rotation.as_ref() != in_flight;
        if let Some(ended) = token.take_if(over) {
            let mut of_it = tokens()
                .filter(|record| Some(&record.entry.rotation_id) == ended.rotation.as_ref());
            // What was given up says so in its last record.
            let last = of_it.next_back();
            let done = last.is_some_and(|record| {
                let open = ["intent", "rotating", "distributing"];
                record.entry.error_class.is_none() && !open.contains(&&*record.entry.phase)
            });
            end(operations, &ended, done, moment);
        }
        self.token_order = token;
    }
}

pub(super) const TAKEN_UP: &str = "taken up again after a restart of the daemon";

pub(super) fn end(operations: &mut Operations, ordered: &Ordered, done: bool, moment: Moment) {
    let (state, detail) = if done {
        (
            OperationState::Done,
            "carried out before the daemon was restarted",
        )
    } else {
        (
            OperationState::Failed,
            "given up before the daemon was restarted; its log says why",
        )
    };
    operations.end(&ordered.operation, state, detail.to_owned(), moment.unix());
}
