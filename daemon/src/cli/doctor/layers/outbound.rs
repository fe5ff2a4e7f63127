//! The first layer: whether something stands at the edge that brings calls in, and whether the API is there by which
//! that is kept.

use control::{Reason, Role};

use super::{Layer, Report, Tunnel};
use crate::status::{CredentialStatus, RemoteState, ReplicaSays};

const LAYER: Layer = Layer::Outbound;

impl Tunnel<'_> {
    pub(super) fn outbound(&self, report: &mut Report) {
        self.subscribed(report);
        self.carriers(report);
        self.connectors(report);
        self.refused(report);
        if self.status.provider == "tunnels_api" {
            self.remote(report);
        }
        for (asked, reason) in self.reasons(LAYER) {
            let what = format!("the proxy at {} is not ready: {reason}", asked.addr);
            self.found(report, LAYER, what, next(reason));
        }
    }

    fn subscribed(&self, report: &mut Report) {
        if self.proxies().next().is_none() {
            self.found(
                report,
                LAYER,
                "no proxy is subscribed to the daemon, so nobody ends inner TLS with what it keeps".to_owned(),
                "start keyward-proxy with control.socket in its file, as a user that control.subscribers lists; its log says why the daemon turns it away",
            );
        }
    }

    /// What proxies report of their own carriers.
    fn carriers(&self, report: &mut Report) {
        for (name, replica) in self.proxies() {
            let up = &replica.report.carriers;
            let dials = self.dials(name);
            let what = if up.is_empty() {
                format!("nothing can come in at {name}: none of its carriers is up")
            } else if dials && !up.iter().any(|carrier| carrier == "edge") {
                format!("{name} has no connection to the tunnel's edge")
            } else {
                continue;
            };
            self.found(report, LAYER, what, next("carrier edge: no connection"));
        }
    }

    /// Whether a proxy is given what it dials the edge with.
    fn dials(&self, replica: &str) -> bool {
        let kinds = ["tunnel-token", "shared-secret"].into_iter();
        let mut given = kinds.filter_map(|kind| self.credential(kind));
        given.any(|one| one.replicas.contains_key(replica))
    }

    fn connectors(&self, report: &mut Report) {
        match self.status.connector.as_str() {
            "cloudflared" => {}
            "external" => {
                report.notes.push(format!(
                    "{}: the connector is somebody else's (connector: external), so whether it stands at the edge is not seen here: ask it for its /ready",
                    self.name
                ));
                return;
            }
            _ => return,
        }
        let Some(token) = self.credential("tunnel-token") else {
            return;
        };
        let connectors: Vec<(&String, &ReplicaSays)> = token
            .replicas
            .iter()
            .filter(|(name, says)| says.connected && self.is_connector(name))
            .collect();
        if connectors.is_empty() {
            self.found(
                report,
                LAYER,
                "no connector is subscribed, so nothing is known to dial the tunnel's edge".to_owned(),
                "start keyward connector beside the proxy; its log says why the daemon turns it away",
            );
        }
        for (name, says) in connectors {
            if !says.in_force && says.refused.is_none() {
                let generation = token.generation.unwrap_or_default();
                self.found(
                    report,
                    LAYER,
                    format!("{name} has not registered at the tunnel's edge with the token of generation {generation}"),
                    "look at its log, and whether port 7844 is let through, TCP and UDP: keyward check --firewall",
                );
            }
        }
    }

    fn is_connector(&self, name: &str) -> bool {
        let replica = self.evidence.status.replicas.get(name);
        replica.is_some_and(|replica| replica.role == Role::Connector)
    }

    /// Who is not let in with what it was sent.
    fn refused(&self, report: &mut Report) {
        for (kind, what) in [
            ("tunnel-token", "tunnel token"),
            ("shared-secret", "shared secret"),
        ] {
            let Some(one) = self.credential(kind) else {
                continue;
            };
            let refused = |says: &ReplicaSays| says.refused == Some(Reason::TokenRefused);
            for (name, _) in one.replicas.iter().filter(|(_, says)| refused(says)) {
                self.found(
                    report,
                    LAYER,
                    format!("the tunnel's edge does not let {name} in with the {what} in force"),
                    self.another(one),
                );
            }
        }
    }

    fn another(&self, one: &CredentialStatus) -> String {
        if self.status.provider == "static" {
            return "put the token in force into tunnel-token of the store".to_owned();
        }
        format!(
            "see whether tunnel_id is right and the tunnel not archived, then: keyward rotate {}",
            one.kind
        )
    }

    /// The Tunnels API, and what it last said of the tunnel.
    fn remote(&self, report: &mut Report) {
        match &self.evidence.api {
            None => report.notes.push(
                "where the Tunnels API is was not found out: name the daemon's file with --config, as a user who may read it".to_owned(),
            ),
            Some(Ok(())) => {}
            Some(Err(error)) => self.found(
                report,
                LAYER,
                format!("the Tunnels API is not reached from here: {error}"),
                "look at the network, HTTPS_PROXY and NO_PROXY, and at identity.ca_file if TLS is inspected; nothing can be registered or rotated meanwhile",
            ),
        }
        let token = self.credential("tunnel-token");
        let token = token.and_then(|token| token.remote.as_ref());
        if token.is_some_and(|remote| remote.state == RemoteState::Missing) {
            self.found(
                report,
                LAYER,
                "the other side says that the tunnel is archived, or not there".to_owned(),
                "compare tunnel_id with the tunnel's page in the Console, or with: keyward-edge tunnel list",
            );
        }
        let ca = self.credential("ca").and_then(|ca| ca.remote.as_ref());
        if ca.is_some_and(|remote| remote.state == RemoteState::Unknown) {
            self.found(
                report,
                LAYER,
                "the other side has not answered the daemon yet: nobody knows which CA is registered".to_owned(),
                "see in the alarms of keyward status what it was told; whether it knows who we are: keyward doctor identity",
            );
        }
    }
}

/// What to do about a reason of readiness.
fn next(reason: &str) -> &'static str {
    if reason.contains("no secret") {
        "the daemon has to make one first: keyward status shows what holds it up"
    } else if reason == "draining" {
        "it is being stopped: start it again"
    } else if reason.contains("no carrier is configured") {
        "configure one in the proxy's file: listen_addr for cloudflared, carriers.edge for a keyward-edge"
    } else {
        "see whether the edge runs and this proxy's host reaches it (carriers.edge.url, addresses, HTTPS_PROXY); its log line edge not reached has the cause"
    }
}
