//! What everybody may know.

mod credentials;

use std::collections::BTreeMap;

use control::{Reason, Resource};
use pki::Certificate;
use process::BUILD;

use super::orders::Operations;
use super::tunnel::Tunnel;
use super::{Moment, unix};
use crate::board::{Board, Replica, Replicas};
use crate::journal::Journal;
use crate::restart;
use crate::rotation::slots::{Grade, Rotation};
use crate::rotation::{authority, slots};
use crate::status::{
    CertificateStatus, ReplicaStatus, Rotations, SlotsStatus, Status, TunnelStatus,
};

/// What it is read from, besides the tunnels.
struct Sources<'a> {
    journal: &'a Journal,
    replicas: &'a Replicas,
    moment: Moment,
}

pub(super) fn status(
    tunnels: &BTreeMap<String, Tunnel>,
    operations: &Operations,
    journal: &Journal,
    board: &Board,
    moment: Moment,
) -> Status {
    // Borrowed once: a second time would wait for a writer who waits for the first.
    let replicas = board.replicas.borrow();
    let sources = Sources {
        journal,
        replicas: &replicas,
        moment,
    };
    let tunnels: BTreeMap<String, TunnelStatus> = tunnels
        .iter()
        .map(|(name, tunnel)| (name.clone(), tunnel.status(&sources)))
        .collect();
    let outages = tunnels.values().map(|tunnel| tunnel.first_outage.as_ref());
    Status {
        build: BUILD.to_owned(),
        at: moment.unix(),
        time_suspect: moment.suspect,
        first_outage: credentials::earliest(outages),
        tunnels,
        replicas: replicas
            .iter()
            .map(|(name, replica)| (name.clone(), replica_status(replica)))
            .collect(),
        operations: operations.list(),
    }
}

impl Tunnel {
    fn status(&self, sources: &Sources<'_>) -> TunnelStatus {
        let (credentials, first_outage) = self.credentials(sources);
        let serving = self.leaf.serving.as_ref();
        let ca = |ca: Option<&authority::Ca>| {
            let ca = ca.and_then(|ca| self.certificate(ca));
            ca.map(certificate_status)
        };
        TunnelStatus {
            domain: self.config.domain.clone(),
            provider: match self.config.remote() {
                Some(_) => "tunnels_api",
                None => "static",
            }
            .to_owned(),
            connector: self.config.connector.name().to_owned(),
            generation: serving.map_or(0, |leaf| leaf.generation),
            lowest: 0,
            server_certificate: serving
                .and_then(|leaf| self.pairs.get(&leaf.id))
                .map(|pair| certificate_status(pair.certificate())),
            phase: self.leaf.phase().to_owned(),
            renew_at: serving.map(|leaf| leaf.rekey_at),
            ca: ca(self.ca.active.as_ref()),
            standby_ca: ca(self.ca.standby.as_ref()),
            ca_slots: self.config.remote().map(|_| self.slots_status()),
            client_ca: ca(self.client_ca()),
            tunnel_token: self.token_status(),
            ca_key_unsealed: true,
            alarms: self.alarms(sources.replicas, sources.moment),
            shared_secret: self.secret_status(),
            rotations: Rotations {
                server_certificate: self.leaf.done,
                ca: self.ca.done,
                tunnel_token: self.token.done,
                shared_secret: self.shared.state.done,
            },
            credentials,
            first_outage,
        }
    }

    fn slots_status(&self) -> SlotsStatus {
        let seen = &self.slots.seen;
        let rotation = self.ca.slots.rotation.as_ref();
        SlotsStatus {
            used: seen
                .listing
                .as_ref()
                .map(|listing| listing.registrations.len()),
            phase: self.ca.phase().to_owned(),
            since: rotation.map(|rotation| rotation.since),
            proof: rotation.map_or_else(BTreeMap::new, |rotation| {
                let grade =
                    |served: &slots::Served| (served.name.clone(), proof(rotation, &served.name));
                seen.served.iter().map(grade).collect()
            }),
            accepted_by: rotation.and_then(|rotation| rotation.accepted.clone()),
        }
    }

    /// Proxies that go on with earlier routes and denials.
    fn refused_policies(&self, replicas: &Replicas) -> Vec<String> {
        let key = (self.name.clone(), Resource::Policy);
        let refused = replicas.iter().filter_map(|(name, replica)| {
            let (generation, reason) = replica.nacks.get(&key)?;
            Some(format!(
                "{name} refused the policy of generation {generation} ({}) and goes on with the one before",
                control::word(reason)
            ))
        });
        refused.collect()
    }

    /// Connectors, and proxies that dial, whose edge does not let them in with what they were sent.
    fn refused_tokens(&self, replicas: &Replicas) -> Vec<String> {
        let key = (self.name.clone(), Resource::Tunnel);
        let refused = replicas.iter().filter_map(|(name, replica)| {
            let (generation, reason) = replica.nacks.get(&key)?;
            let secret = replica.role == control::Role::Proxy && self.publication.secret.is_some();
            if name.starts_with(restart::NAME) {
                return Some(format!(
                    "the connector was not restarted for the tunnel token of generation {generation}, and has the one before: the command of restart: fails, the log says how; it is tried again"
                ));
            }
            Some(match reason {
                Reason::TokenRefused if secret => format!(
                    "{name}: the tunnel's edge does not accept the shared secret of generation {generation}; what was connected before goes on with the one before"
                ),
                Reason::TokenRefused if self.config.remote().is_some() => format!(
                    "{name}: the tunnel's edge does not accept the token of generation {generation}, though the other side says that it is in force"
                ),
                Reason::TokenRefused => format!(
                    "{name}: the tunnel's edge does not accept the token of generation {generation}; put the one in force into the store"
                ),
                _ => format!(
                    "{name} refused the token of generation {generation} ({}) and goes on with the one before",
                    control::word(reason)
                ),
            })
        });
        refused.collect()
    }

    fn alarms(&self, replicas: &Replicas, moment: Moment) -> Vec<String> {
        let now = moment.unix();
        let lifetime = self.config.server_certificate.lifetime.as_secs();
        let mut alarms = match self.config.remote() {
            Some(_) => slots::alarms(&self.ca, &self.slots.seen, now),
            None => authority::alarms(&self.ca, now, lifetime),
        };
        match self.client_ca() {
            Some(ca) if ca.not_after < now => {
                alarms.push("the client CA has expired: every caller is refused".to_owned());
            }
            Some(ca) if ca.not_after - now < 30 * 86_400 => {
                let days = (ca.not_after - now) / 86_400;
                alarms.push(format!("the client CA ends in {days} days"));
            }
            _ => {}
        }
        alarms.extend(self.refused_policies(replicas));
        alarms.extend(self.refused_tokens(replicas));
        alarms.extend(self.token_alarms(replicas, moment));
        alarms.extend(self.secret_alarms(replicas, moment));
        alarms.extend(self.facts.conflict.clone());
        alarms.extend(self.facts.troubles.values().cloned());
        match &self.leaf.serving {
            Some(leaf) if now > leaf.not_after => {
                alarms.push("the server certificate has expired".to_owned());
            }
            Some(leaf) if now >= leaf.page_at => {
                let hours = leaf.not_after.saturating_sub(now) / 3600;
                alarms.push(format!("the server certificate ends in {hours} hours"));
            }
            _ => {}
        }
        if moment.suspect {
            alarms.push(
                "the wall clock jumped: nothing is destroyed until it has run straight for an hour"
                    .to_owned(),
            );
        }
        let generation = self.leaf.serving.as_ref().map_or(0, |leaf| leaf.generation);
        if self.is_overdue(moment.boot) {
            for (name, replica) in replicas {
                let acked = acked(replica, &self.name);
                let counts = replica.connected
                    && replica.role == control::Role::Proxy
                    && replica.tunnels.contains(&self.name);
                if counts && acked < generation {
                    alarms.push(format!(
                        "{name} has not acknowledged generation {generation}, but {acked}"
                    ));
                }
            }
        }
        alarms
    }
}

/// How well it is known that callers of a replica take the new CA; `None`: it does not sign yet.
fn proof(rotation: &Rotation, replica: &str) -> Option<Grade> {
    let switched = rotation.phase >= slots::Phase::Switched && rotation.failure.is_none();
    let known = rotation.proofs.get(replica).copied();
    switched.then(|| known.unwrap_or(Grade::Settled))
}

fn acked(replica: &Replica, tunnel: &str) -> u64 {
    let key = (tunnel.to_owned(), Resource::Credential);
    replica.acks.get(&key).copied().unwrap_or_default()
}

fn replica_status(replica: &Replica) -> ReplicaStatus {
    // A connector is sent the token alone, a proxy is judged by its credential.
    let resource = match replica.role {
        control::Role::Proxy => Resource::Credential,
        control::Role::Connector => Resource::Tunnel,
    };
    let of_resource = |key: &&(String, Resource)| key.1 == resource;
    ReplicaStatus {
        role: replica.role,
        build: replica.build.clone(),
        connected: replica.connected,
        last_heard: unix(replica.last_heard),
        acked: replica
            .acks
            .iter()
            .filter(|(key, _)| of_resource(key))
            .map(|(key, generation)| (key.0.clone(), *generation))
            .collect(),
        refused: replica
            .nacks
            .iter()
            .filter(|(key, _)| of_resource(key))
            .map(|(key, (_, reason))| (key.0.clone(), *reason))
            .collect(),
        report: replica.report.clone(),
    }
}

fn certificate_status(certificate: &Certificate) -> CertificateStatus {
    let validity = certificate.validity();
    CertificateStatus {
        sha256: certificate.fingerprint().to_string(),
        serial: certificate.serial().to_string(),
        not_before: validity.not_before_unix(),
        not_after: validity.not_after_unix(),
        pem: certificate.to_pem(),
    }
}
