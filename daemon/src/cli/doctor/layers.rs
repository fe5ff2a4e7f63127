//! What is wrong with a tunnel, by the layers that a call passes: the way in, inner TLS, the way on to an upstream.
//!
//! Judged by what the daemon has been told – by the other side, by each proxy and each connector – and by what proxies say
//! when they are asked; nothing is found out here. Each finding ends with the next thing to do.

mod inside;
mod outbound;
mod routing;

use std::collections::BTreeMap;
use std::fmt::Write;

use super::proxies::Asked;
use crate::cli::table::table;
use crate::status::{CredentialStatus, ReplicaStatus, Status, TunnelStatus};

/// Where a call comes through, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layer {
    /// The connections that carry it, and the API by which they are kept.
    Outbound,
    /// The certificate.
    InnerTls,
    /// Routes and upstreams.
    Routing,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) layer: Layer,
    pub(super) tunnel: String,
    pub(super) what: String,
    pub(super) next: String,
}

/// What is to be said of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Found(usize),
    /// Nobody could say.
    NotTried,
}

/// What it is judged by.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    pub(super) status: &'a Status,
    /// This tunnel alone.
    pub(super) only: Option<&'a str>,
    pub(super) asked: &'a [Asked],
    /// Whether the Tunnels API is there; `None`: nobody has looked.
    pub(super) api: Option<Result<(), String>>,
    /// Unix seconds.
    pub(super) now: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// By tunnel, for each layer.
    pub(super) verdicts: BTreeMap<String, [Verdict; 3]>,
    /// In the order of the layers.
    pub(super) findings: Vec<Finding>,
    /// What could not be looked at, and what has to be known.
    pub(super) notes: Vec<String>,
}

/// One tunnel.
struct Tunnel<'a> {
    name: &'a str,
    status: &'a TunnelStatus,
    evidence: &'a Evidence<'a>,
}

/// Judges.
pub(super) fn examine(evidence: &Evidence<'_>) -> Report {
    let mut report = Report::default();
    for asked in evidence.asked {
        if let Err(error) = &asked.said {
            report.notes.push(format!(
                "the proxy at {} could not be asked: {error}; --proxy wants its health.listen_addr",
                asked.addr
            ));
        }
    }
    let tunnels = evidence.status.tunnels.iter();
    let wanted = tunnels.filter(|(name, _)| evidence.only.is_none_or(|only| only == *name));
    for (name, status) in wanted {
        let tunnel = Tunnel {
            name,
            status,
            evidence,
        };
        let before = report.findings.len();
        tunnel.outbound(&mut report);
        tunnel.inside(&mut report);
        tunnel.routing(&mut report);
        let found = report.findings.get(before..).unwrap_or_default();
        let verdicts =
            Layer::ALL.map(
                |layer| match found.iter().filter(|one| one.layer == layer).count() {
                    0 if layer == Layer::Routing && tunnel.routes().is_none() => Verdict::NotTried,
                    0 => Verdict::Good,
                    count => Verdict::Found(count),
                },
            );
        report.verdicts.insert(name.clone(), verdicts);
        if !status.alarms.is_empty() {
            report.notes.push(format!(
                "{name}: the daemon has {} alarms: keyward status",
                status.alarms.len()
            ));
        }
    }
    report.findings.sort_by_key(|finding| finding.layer);
    report
}

impl Tunnel<'_> {
    fn credential(&self, kind: &str) -> Option<&CredentialStatus> {
        let mut all = self.status.credentials.iter();
        all.find(|one| one.kind == kind)
    }

    /// The proxies that are connected and serve it.
    fn proxies(&self) -> impl Iterator<Item = (&String, &ReplicaStatus)> {
        let leaf = self.credential("server-certificate");
        let names = leaf.into_iter().flat_map(|leaf| leaf.replicas.keys());
        let all = names.filter_map(move |name| self.evidence.status.replicas.get_key_value(name));
        all.filter(|(_, replica)| replica.connected)
    }

    /// What proxies said of themselves when they were asked, with where.
    fn reasons(&self, layer: Layer) -> impl Iterator<Item = (&Asked, &str)> {
        let asked = self.evidence.asked.iter();
        let each = asked.flat_map(|asked| {
            let said = asked.said.iter().flat_map(|said| &said.reasons);
            said.map(move |reason| (asked, reason.as_str()))
        });
        each.filter(move |(_, reason)| {
            let of = reason
                .strip_prefix("tunnel ")
                .and_then(|rest| rest.split_once(": "));
            of.is_none_or(|(tunnel, _)| tunnel == self.name) && of_layer(reason) == layer
        })
    }

    fn found(&self, report: &mut Report, layer: Layer, what: String, next: impl Into<String>) {
        let finding = Finding {
            layer,
            tunnel: self.name.to_owned(),
            what,
            next: next.into(),
        };
        if !report.findings.contains(&finding) {
            report.findings.push(finding);
        }
    }
}

/// Which layer a reason of readiness belongs to.
fn of_layer(reason: &str) -> Layer {
    if reason.contains("carrier") || reason == "draining" {
        Layer::Outbound
    } else if reason.contains("no routes yet") {
        Layer::Routing
    } else {
        Layer::InnerTls
    }
}

impl Layer {
    pub(super) const ALL: [Self; 3] = [Self::Outbound, Self::InnerTls, Self::Routing];

    /// As the object has it.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::InnerTls => "inner_tls",
            Self::Routing => "routing",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound connection",
            Self::InnerTls => "inner TLS",
            Self::Routing => "routing and upstream",
        }
    }
}

impl Verdict {
    /// As the object has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Found(_) => "found",
            Self::NotTried => "not_tried",
        }
    }

    fn cell(self) -> String {
        match self {
            Self::Good => "good".to_owned(),
            Self::Found(count) => format!("{count} found"),
            Self::NotTried => "not tried".to_owned(),
        }
    }
}

impl Finding {
    /// What is wrong, and where.
    pub(super) fn sentence(&self) -> String {
        format!("{}, {}: {}", self.tunnel, self.layer.name(), self.what)
    }
}

impl Report {
    /// For a person.
    pub(super) fn text(&self) -> String {
        let rows: Vec<Vec<String>> = self
            .verdicts
            .iter()
            .map(|(tunnel, verdicts)| {
                let cells = verdicts.iter().map(|verdict| verdict.cell());
                std::iter::once(tunnel.clone()).chain(cells).collect()
            })
            .collect();
        let heading = ["TUNNEL", "OUTBOUND", "INNER TLS", "ROUTING"];
        let mut out = table(&heading, &rows);
        for finding in &self.findings {
            let _ = write!(out, "\n{}\n  next: {}\n", finding.sentence(), finding.next);
        }
        if !self.notes.is_empty() {
            out.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(out, "note: {note}");
        }
        out
    }
}

#[cfg(test)]
mod tests;
