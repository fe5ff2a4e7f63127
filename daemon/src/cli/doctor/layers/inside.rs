//! The second layer: whether whoever trusts the CA that is registered takes what is served.

use super::{Layer, Report, Tunnel};
use crate::cli::table::span;
use crate::status::RemoteState;

const LAYER: Layer = Layer::InnerTls;

impl Tunnel<'_> {
    pub(super) fn inside(&self, report: &mut Report) {
        self.dates(report);
        self.registered(report);
        self.served(report);
        self.callers(report);
        self.shaken(report);
        for (asked, reason) in self.reasons(LAYER) {
            let what = format!("the proxy at {} is not ready: {reason}", asked.addr);
            let next = if reason.contains("refuse") {
                self.give()
            } else {
                "let it subscribe to this daemon (control.socket, and its user among control.subscribers), or give it the files of the store".to_owned()
            };
            self.found(report, LAYER, what, next);
        }
    }

    fn dates(&self, report: &mut Report) {
        let leaf = self.credential("server-certificate");
        if leaf.is_none_or(|leaf| leaf.journal.is_none()) {
            self.found(
                report,
                LAYER,
                "no server certificate is published".to_owned(),
                "the alarms of keyward status say what the daemon lacks",
            );
        }
        for (kind, what) in [
            ("server-certificate", "the server certificate"),
            ("ca", "the CA"),
            ("client-ca", "the client CA"),
        ] {
            let end = self.credential(kind).and_then(|one| one.not_after);
            if let Some(end) = end.filter(|end| *end < self.evidence.now) {
                let over = span(self.evidence.now - end);
                self.found(
                    report,
                    LAYER,
                    format!("{what} is over since {over}"),
                    "see in the alarms of keyward status why it was not renewed, and whether this host's clock is right",
                );
            }
        }
    }

    fn registered(&self, report: &mut Report) {
        let Some(ca) = self.credential("ca") else {
            return;
        };
        let missing = ca
            .remote
            .as_ref()
            .filter(|one| one.state == RemoteState::Missing);
        if missing.is_some() {
            let sha256 = ca.journal.as_deref().unwrap_or_default();
            self.found(
                report,
                LAYER,
                format!("the other side does not list the CA in force ({sha256}), so every caller refuses what is served"),
                "if it is being registered, wait for it; if somebody archived it, register ca.crt of the store there again, or: keyward rotate ca",
            );
        }
    }

    /// Who serves something else than what is in force.
    fn served(&self, report: &mut Report) {
        let Some(leaf) = self.credential("server-certificate") else {
            return;
        };
        let behind = leaf.replicas.iter();
        for (name, says) in behind.filter(|(_, says)| says.connected && !says.in_force) {
            let why = says.refused.map(|reason| control::word(&reason));
            let why = why.map_or_else(String::new, |why| format!(": it refused it ({why})"));
            self.found(
                report,
                LAYER,
                format!(
                    "{name} serves generation {} of the server certificate, not {}{why}",
                    says.generation.unwrap_or_default(),
                    leaf.generation.unwrap_or_default()
                ),
                "its log line credential refused says what it found wrong; a proxy that was just told needs a moment",
            );
        }
        for (name, replica) in self.proxies() {
            let mut reports = replica.report.tunnels.iter();
            let own = reports.find(|one| one.tunnel == self.name);
            let uncovered = own.map_or(&[][..], |own| &own.uncovered_routes);
            if !uncovered.is_empty() {
                self.found(
                    report,
                    LAYER,
                    format!(
                        "the certificate that {name} serves does not cover its routes {}",
                        uncovered.join(", ")
                    ),
                    "write them into server_certificate.extra_names of the tunnel, or as subdomains of its domain",
                );
            }
        }
    }

    /// What callers made of it, as proxies count them.
    fn callers(&self, report: &mut Report) {
        let ca = self.credential("ca").and_then(|ca| ca.journal.as_ref());
        for (name, replica) in self.proxies() {
            let mut reports = replica.report.tunnels.iter();
            let Some(own) = reports.find(|one| one.tunnel == self.name) else {
                continue;
            };
            // By CA: one that was renewed has not shown its leaf to anybody yet.
            let verdicts = ca.and_then(|ca| own.verdicts.get(ca)).copied();
            let verdicts = verdicts.unwrap_or_default();
            if verdicts.refused == 0 {
                continue;
            }
            let refused = verdicts.refused;
            if verdicts.accepted == 0 {
                self.found(
                    report,
                    LAYER,
                    format!(
                        "callers refuse what {name} serves: {refused} handshakes ended with an alert about the certificate, and none under this CA was completed"
                    ),
                    self.give(),
                );
            } else {
                report.notes.push(format!(
                    "{}: {refused} handshakes with {name} ended with an alert about the certificate; others take it, so those callers lack the CA",
                    self.name
                ));
            }
        }
    }

    /// The handshakes that were begun just now, trusting the CA in force and nothing else.
    fn shaken(&self, report: &mut Report) {
        let mut any = false;
        for asked in self.evidence.asked {
            for shake in asked
                .handshakes
                .iter()
                .filter(|one| one.tunnel == self.name)
            {
                any = true;
                if let Err(error) = &shake.outcome {
                    let (addr, carrier) = (asked.addr, &shake.carrier);
                    let chain = process::Chain(error);
                    self.found(
                        report,
                        LAYER,
                        format!("a handshake over carrier {carrier} with the proxy at {addr}, trusting the CA in force alone, came to nothing: {chain}"),
                        error.next(),
                    );
                }
            }
        }
        if !any {
            report.notes.push(format!(
                "{}: no handshake was tried: name the health listener of a proxy whose carrier listens (tls, websocket) with --proxy; inner TLS is judged by what proxies reported",
                self.name
            ));
        }
    }

    /// How callers get the CA.
    fn give(&self) -> String {
        match self.status.provider.as_str() {
            "static" => "give callers ca.crt of the store: register it with the tunnel's provider; which one they have is shown there by its SHA-256".to_owned(),
            _ => "the other side lists the CA, so wait as long as it takes to make it known (ca.settle); then find out which caller does not have it".to_owned(),
        }
    }
}
