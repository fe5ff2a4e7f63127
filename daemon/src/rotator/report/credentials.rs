//! What the journal, the other side and each replica say of every credential of a tunnel, and what ends first.
//!
//! Nothing is decided here: it is read where the machines keep it.

use control::{Resource, Role};

use super::super::tunnel::{Tunnel, is_in_service};
use super::{Sources, acked, proof};
use crate::board::Replica;
use crate::config::When;
use crate::journal::Kind;
use crate::rotation::authority::Ca;
use crate::rotation::tunnel_token::Trouble;
use crate::rotation::{Leaf, slots};
use crate::status::{
    By, CredentialStatus, NextRotation, Outage, RemoteSays, RemoteState, ReplicaSays, seconds_left,
};

/// The CA that is registered is not what the remote lists.
const UNLISTED: &str = "ca";

impl Tunnel {
    /// Every one that there is, and what ends first.
    pub(super) fn credentials(
        &self,
        sources: &Sources<'_>,
    ) -> (Vec<CredentialStatus>, Option<Outage>) {
        let mut all = vec![self.served(sources)];
        let second = self.ca.old.as_ref().or(self.ca.retired.as_ref());
        for (kind, ca) in [
            ("ca", self.ca.active.as_ref()),
            ("standby-ca", self.ca.standby.as_ref()),
            ("old-ca", second),
        ] {
            all.extend(ca.map(|ca| self.authority(kind, ca, sources)));
        }
        all.extend(self.client_ca().map(|ca| self.of_clients(ca, sources)));
        if self.token.generation > 0 || self.config.remote().is_some() {
            all.push(self.token(sources));
        }
        all.extend(self.secret(sources));
        let outage = self.first_outage(&all, sources);
        (all, outage)
    }

    fn served(&self, sources: &Sources<'_>) -> CredentialStatus {
        let serving = self.leaf.serving.as_ref();
        let generation = serving.map_or(0, |leaf| leaf.generation);
        let replicas = self.serving_proxies(sources).map(|(name, replica)| {
            let acked = acked(replica, &self.name);
            let key = (self.name.clone(), Resource::Credential);
            let says = ReplicaSays {
                connected: replica.connected,
                in_force: generation > 0 && acked >= generation,
                generation: Some(acked),
                refused: replica.nacks.get(&key).map(|(_, reason)| *reason),
                proof: None,
            };
            (name.clone(), says)
        });
        let deadline = serving.map(|leaf| (leaf.rekey_at, By::Deadline));
        let scheduled = self.scheduled("certificate").map(|at| (at, By::Schedule));
        let next = deadline.into_iter().chain(scheduled).min();
        CredentialStatus {
            kind: "server-certificate".to_owned(),
            journal: serving.map(|leaf| leaf.sha256.clone()),
            generation: Some(generation),
            replicas: replicas.collect(),
            next: next.map(|(at, by)| NextRotation { at, by }),
            ..self.common(
                sources,
                Kind::ServerCertificate,
                self.leaf.phase(),
                serving.map(|leaf| leaf.not_after),
            )
        }
    }

    fn authority(&self, kind: &str, ca: &Ca, sources: &Sources<'_>) -> CredentialStatus {
        let rotation = self.ca.slots.rotation.as_ref();
        let replicas = self.serving_proxies(sources).map(|(name, replica)| {
            let says = ReplicaSays {
                connected: replica.connected,
                in_force: self
                    .leaf_at(replica)
                    .is_some_and(|leaf| leaf.issuer == ca.sha256),
                proof: rotation
                    .filter(|_| kind == "ca")
                    .and_then(|one| proof(one, name)),
                ..ReplicaSays::default()
            };
            (name.clone(), says)
        });
        CredentialStatus {
            kind: kind.to_owned(),
            journal: Some(ca.sha256.clone()),
            remote: self.config.remote().map(|_| self.listed(ca)),
            // A standby signs nothing yet.
            replicas: replicas.filter(|_| kind != "standby-ca").collect(),
            next: (kind == "ca").then(|| self.next_ca(ca)),
            ..self.common(sources, Kind::Ca, self.ca.phase(), Some(ca.not_after))
        }
    }

    fn of_clients(&self, ca: &Ca, sources: &Sources<'_>) -> CredentialStatus {
        let replicas = self.serving_proxies(sources).map(|(name, replica)| {
            let leaf = self.leaf_at(replica);
            let says = ReplicaSays {
                connected: replica.connected,
                in_force: leaf.is_some_and(|leaf| leaf.client_ca.as_ref() == Some(&ca.sha256)),
                ..ReplicaSays::default()
            };
            (name.clone(), says)
        });
        CredentialStatus {
            kind: "client-ca".to_owned(),
            journal: Some(ca.sha256.clone()),
            replicas: replicas.collect(),
            ..self.common(
                sources,
                Kind::ClientCa,
                self.client_ca.phase(),
                Some(ca.not_after),
            )
        }
    }

    fn token(&self, sources: &Sources<'_>) -> CredentialStatus {
        let token = &self.token;
        let value = (token.generation > 0).then(|| token.sha256.clone());
        let remote = self.config.remote().map(|_| {
            let (state, asked_at) = match token.trouble {
                Some(Trouble::Archived) => (RemoteState::Missing, token.asked),
                _ if token.verified > 0 => (RemoteState::InForce, token.verified),
                _ => (RemoteState::Unknown, token.asked),
            };
            RemoteSays {
                state,
                id: token.id.clone(),
                asked_at: Some(asked_at).filter(|at| *at > 0),
            }
        });
        let (holders, _) = self.token_holders(sources.replicas, sources.moment);
        let replicas = holders.into_iter().map(|holder| {
            let says = ReplicaSays {
                connected: holder.connected,
                in_force: token.generation > 0 && holder.acked >= token.generation,
                generation: Some(holder.acked),
                refused: holder.refused.map(|(_, reason)| reason),
                proof: None,
            };
            (holder.name, says)
        });
        CredentialStatus {
            kind: "tunnel-token".to_owned(),
            journal: token.id.clone().or(value),
            generation: Some(token.generation),
            remote,
            replicas: replicas.collect(),
            next: self.by_schedule("token"),
            ..self.common(sources, Kind::TunnelToken, token.phase(), None)
        }
    }

    fn secret(&self, sources: &Sources<'_>) -> Option<CredentialStatus> {
        if !self.has_secrets() {
            return None;
        }
        let state = &self.shared.state;
        let secret = state.presented();
        let generation = secret.map_or(0, |secret| secret.generation);
        let shown = self.shared.shown();
        let listed = secret.and_then(|secret| {
            let mut all = shown?.secrets.iter();
            all.find(|listed| listed.sha256 == secret.sha256)
        });
        let (dialers, _) = self.dialers(sources.replicas, sources.moment.wall);
        let replicas = dialers.into_iter().map(|dialer| {
            let replica = sources.replicas.get(&dialer.name);
            let says = ReplicaSays {
                connected: replica.is_some_and(|replica| replica.connected),
                in_force: generation > 0 && dialer.acked >= generation,
                generation: Some(dialer.acked),
                refused: dialer.refused.map(|(_, reason)| reason),
                proof: None,
            };
            (dialer.name, says)
        });
        Some(CredentialStatus {
            kind: "shared-secret".to_owned(),
            journal: secret.map(|secret| secret.sha256.clone()),
            generation: Some(generation),
            remote: Some(RemoteSays {
                state: match (shown, listed) {
                    (None, _) => RemoteState::Unknown,
                    (Some(_), Some(_)) => RemoteState::InForce,
                    (Some(_), None) => RemoteState::Missing,
                },
                id: listed.map(|listed| listed.id.clone()),
                asked_at: shown.map(|shown| shown.asked_at),
            }),
            replicas: replicas.collect(),
            next: self.by_schedule("secret"),
            ..self.common(sources, Kind::SharedSecret, state.phase(), None)
        })
    }

    /// What every credential has.
    fn common(
        &self,
        sources: &Sources<'_>,
        kind: Kind,
        phase: &str,
        not_after: Option<u64>,
    ) -> CredentialStatus {
        let now = sources.moment.unix();
        let mut records = sources.journal.recent(&self.name, kind).rev().peekable();
        let newest = records.peek().map(|record| record.wall);
        let begun = records
            .take_while(|record| record.entry.phase == phase)
            .last();
        // One that was given up leaves another word than what goes on.
        let since = begun.map(|record| record.wall).or(newest);
        CredentialStatus {
            phase: phase.to_owned(),
            since: since.map(|at| at / 1000),
            not_after,
            left: not_after.map(|end| seconds_left(end, now)),
            ..CredentialStatus::default()
        }
    }

    /// The proxies in service for this tunnel.
    fn serving_proxies<'a>(
        &'a self,
        sources: &'a Sources<'_>,
    ) -> impl Iterator<Item = (&'a String, &'a Replica)> {
        sources.replicas.iter().filter(move |(_, replica)| {
            replica.role == Role::Proxy
                && replica.tunnels.contains(&self.name)
                && is_in_service(replica, sources.moment.wall)
        })
    }

    /// The leaf that a proxy says it serves, if it is one of those that are still known.
    fn leaf_at(&self, replica: &Replica) -> Option<&Leaf> {
        let mut reports = replica.report.tunnels.iter();
        let report = reports.find(|report| report.tunnel == self.name);
        let acked = acked(replica, &self.name);
        let mut leaves = self
            .leaf
            .serving
            .iter()
            .chain(&self.leaf.kept)
            .chain(&self.leaf.fallback);
        leaves.find(|leaf| match report {
            Some(report) if !report.leaf_sha256.is_empty() => leaf.sha256 == report.leaf_sha256,
            _ => leaf.generation == acked,
        })
    }

    fn listed(&self, ca: &Ca) -> RemoteSays {
        let listing = self.slots.shown.as_ref();
        let known = self.ca.slots.registered.get(&ca.sha256);
        let found = listing.and_then(|listing| {
            let mut all = listing.registrations.iter();
            all.find(|one| one.sha256 == ca.sha256)
        });
        RemoteSays {
            state: match (listing, found) {
                (None, _) => RemoteState::Unknown,
                (Some(_), Some(_)) => RemoteState::InForce,
                (Some(_), None) => RemoteState::Missing,
            },
            id: found.map(|one| one.id.clone()).or(known.cloned()),
            asked_at: listing.map(|listing| listing.at),
        }
    }

    /// When its successor is due, and who begins.
    fn next_ca(&self, ca: &Ca) -> NextRotation {
        let lifetime = self.config.server_certificate.lifetime.as_secs();
        let due = slots::due_at(ca, lifetime);
        match self.config.rotate.ca {
            When::Off => NextRotation {
                at: due,
                by: By::Operator,
            },
            When::Auto => NextRotation {
                at: self.config.rotate.calendar.opens(due).unwrap_or(due),
                by: By::Deadline,
            },
            When::Every(_) | When::At(_) => self.by_schedule("ca").unwrap_or(NextRotation {
                at: due,
                by: By::Operator,
            }),
        }
    }

    fn by_schedule(&self, key: &str) -> Option<NextRotation> {
        let at = self.scheduled(key)?;
        let by = By::Schedule;
        Some(NextRotation { at, by })
    }

    /// When the next run of a schedule may begin.
    fn scheduled(&self, key: &str) -> Option<u64> {
        let due = self.due.get(key)?.at();
        // One that never comes is at the end of time.
        let due = Some(due).filter(|due| *due < u64::MAX)?;
        Some(self.config.rotate.calendar.opens(due).unwrap_or(due))
    }

    /// What ends first if nothing rotates any more.
    fn first_outage(&self, all: &[CredentialStatus], sources: &Sources<'_>) -> Option<Outage> {
        let now = sources.moment.unix();
        let mut ends: Vec<(u64, &str, Option<&str>)> = Vec::new();
        for one in all {
            // The others sign nothing that is served, or for nobody who does not know another.
            if matches!(&*one.kind, "server-certificate" | "ca" | "client-ca") {
                ends.extend(one.not_after.map(|end| (end, &*one.kind, None)));
            }
        }
        for (name, replica) in self.serving_proxies(sources) {
            let end = self.leaf_at(replica).map(|leaf| leaf.not_after);
            ends.extend(end.map(|end| (end, "server-certificate", Some(&**name))));
        }
        // Nobody trusts what a CA signs that is not registered: that is an end, too.
        let unlisted = all.iter().find(|one| one.kind == UNLISTED);
        let unlisted = unlisted.and_then(|one| one.remote.as_ref());
        if let Some(remote) = unlisted.filter(|remote| remote.state == RemoteState::Missing) {
            ends.extend(remote.asked_at.map(|at| (at, UNLISTED, None)));
        }
        let (at, what, replica) = ends.into_iter().min_by_key(|(end, ..)| *end)?;
        Some(Outage::new(&self.name, what, replica, at, now))
    }
}

/// What ends first of all tunnels.
pub(super) fn earliest<'a>(outages: impl Iterator<Item = Option<&'a Outage>>) -> Option<Outage> {
    outages.flatten().min_by_key(|outage| outage.at).cloned()
}
