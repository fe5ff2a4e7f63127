//! How much of what a subscriber says about itself is kept.
//!
//! It may say a MiB a second, and everybody reads what is kept of it: the status, the metrics, the
//! rotator. The bound is by length in the status, so that a subscriber that means no harm does not notice it,
//! and one that does cannot make the status longer than an operator's client takes.

use std::collections::{BTreeMap, BTreeSet};

use control::{Report, Serving, TunnelReport};

/// What the parts of a report may take in the status, in bytes, in equal shares of the tunnels. With it and
/// a KiB for each tunnel's own line, verdicts and all, the 512 replicas that are remembered at most make a status of some
/// 9 MiB; those of one uid, which are 64, of little more than one.
const REPORT: usize = 16 << 10;
/// A number of 64 bits, quotes, colon and comma.
const BESIDE: usize = 24;
/// A SHA-256 in hexadecimal; no name of an alert is longer.
const LABEL: usize = 64;
/// A host name (RFC 1035 section 2.3.4).
const HOST: usize = 253;
/// Carriers that are named, and how long each name may be: there are four kinds.
const CARRIERS: (usize, usize) = (8, 32);

/// Cuts `report` down to what is kept for `tunnels`, one entry each; `true`: something was left out.
pub(super) fn report(report: &mut Report, tunnels: &[String]) -> bool {
    let mut cut = false;
    let mut missing: BTreeSet<&String> = tunnels.iter().collect();
    report.tunnels.retain(|one| {
        // Of a tunnel that is not its own is no matter; a second entry of one is.
        let first = missing.remove(&one.tunnel);
        cut |= !first && tunnels.contains(&one.tunnel);
        first
    });
    report.tunnels.shrink_to_fit();
    let part = REPORT / tunnels.len().max(1) / 4;
    for one in &mut report.tunnels {
        cut |= tunnel(one, part);
    }
    let (most, longest) = CARRIERS;
    let before = report.carriers.len();
    report.carriers.retain(|name| is_plain(name, longest));
    report.carriers.truncate(most);
    report.carriers.shrink_to_fit();
    cut | (report.carriers.len() < before)
}

/// What of a `hello`'s list is about `tunnels`, one entry each: the last one, as the status has it.
pub(super) fn serving(said: Vec<Serving>, tunnels: &BTreeSet<String>) -> Vec<Serving> {
    let ours = said
        .into_iter()
        .filter(|one| tunnels.contains(&one.tunnel) && is_plain(&one.leaf_sha256, LABEL))
        .map(|one| (one.tunnel.clone(), one));
    ours.collect::<BTreeMap<_, _>>().into_values().collect()
}

/// Cuts each of its four parts down to `part` bytes.
fn tunnel(one: &mut TunnelReport, part: usize) -> bool {
    let strange = !one.leaf_sha256.is_empty() && !is_plain(&one.leaf_sha256, LABEL);
    if strange {
        one.leaf_sha256 = String::new();
    }
    // Of the leaves the one in force, of the generations the newest: those are asked for.
    let in_force = one.handshakes.remove_entry(&one.leaf_sha256);
    let (mut handshakes, mut failures) = (Room::new(part), Room::new(part));
    one.handshakes
        .retain(|leaf, _| handshakes.takes(leaf, LABEL));
    one.handshakes.extend(in_force);
    one.failures.retain(|alert, _| failures.takes(alert, LABEL));
    let mut routes = Room::new(part);
    one.uncovered_routes
        .retain(|route| routes.takes(route, HOST));
    one.uncovered_routes.shrink_to_fit();
    let generations = one.connections.len();
    while one.connections.len() > (part / (2 * BESIDE)).max(1) {
        one.connections.pop_first();
    }
    let fewer = one.connections.len() < generations;
    let cas = one.verdicts.len();
    one.verdicts.retain(|ca, _| is_plain(ca, LABEL));
    while one.verdicts.len() > TunnelReport::CAS {
        one.verdicts.pop_last();
    }
    let fewer = fewer || one.verdicts.len() < cas;
    strange || handshakes.cut || failures.cut || routes.cut || fewer
}

/// What is left of one part.
struct Room {
    bytes: usize,
    /// Something did not fit.
    cut: bool,
}

impl Room {
    fn new(bytes: usize) -> Self {
        Self { bytes, cut: false }
    }

    fn takes(&mut self, label: &str, longest: usize) -> bool {
        let left = self.bytes.checked_sub(label.len() + BESIDE);
        let left = left.filter(|_| is_plain(label, longest));
        self.bytes = left.unwrap_or(self.bytes);
        self.cut |= left.is_none();
        left.is_some()
    }
}

/// Whether the status may have `label` as it is: nothing in it has to be escaped there.
fn is_plain(label: &str, longest: usize) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    !label.is_empty() && label.len() <= longest && label.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use control::Verdicts;

    use super::*;

    fn full(tunnel: &str, label: impl Fn(usize) -> String) -> TunnelReport {
        let counted = || (0..9000).map(|n| (label(n), u64::MAX)).collect();
        TunnelReport {
            tunnel: tunnel.to_owned(),
            generation: u64::MAX,
            leaf_sha256: "f".repeat(64),
            handshakes: counted(),
            failures: counted(),
            verdicts: (0..9000)
                .map(|n| {
                    let most = u64::MAX;
                    let verdicts = Verdicts {
                        accepted: most,
                        refused: most,
                    };
                    (label(n), verdicts)
                })
                .collect(),
            connections: (0..9000).map(|n| (u64::MAX - n, u64::MAX)).collect(),
            uncovered_routes: (0..9000).map(&label).collect(),
        }
    }

    #[test]
    fn whatever_is_said_takes_no_more_than_its_share_in_the_status() {
        let labels: [fn(usize) -> String; 4] = [
            |n| n.to_string(),
            |n| format!("{n:064x}"),
            |n| format!("{n:0253}"),
            |n| format!("{n}\u{1}\"\\"),
        ];
        for count in [1, 2, 8] {
            let tunnels: Vec<_> = (0..count).map(|n| format!("tunnel-{n}")).collect();
            for label in labels {
                let mut said = Report {
                    tunnels: tunnels.iter().map(|name| full(name, label)).collect(),
                    carriers: (0..9000).map(label).collect(),
                };
                let all = said.tunnels.clone();
                said.tunnels.extend(all);
                assert!(report(&mut said, &tunnels));
                assert_eq!(said.tunnels.len(), count, "one entry each");
                let length = serde_json::to_string(&said).unwrap().len();
                assert!(length <= REPORT + 1024 * count + 512, "{count}: {length}");
            }
        }
    }

    #[test]
    fn what_a_proxy_says_of_eight_tunnels_is_kept_whole() {
        let tunnels: Vec<_> = (0..8).map(|n| format!("tunnel-{n}")).collect();
        let leaf = |n: usize| format!("{n:064x}");
        let of = |tunnel: &String| TunnelReport {
            tunnel: tunnel.clone(),
            generation: 1000,
            leaf_sha256: leaf(3),
            handshakes: (0..4).map(|n| (leaf(n), 1_000_000)).collect(),
            failures: [
                "unknown_ca",
                "bad_certificate",
                "io",
                "timeout",
                "evicted",
                "other",
            ]
            .map(|alert| (alert.to_owned(), 1_000_000))
            .into(),
            verdicts: (0..TunnelReport::CAS)
                .map(|n| (leaf(n), Verdicts::default()))
                .collect(),
            connections: (991..=1000).map(|n| (n, 10_000)).collect(),
            uncovered_routes: vec!["docs.internal.example".to_owned()],
        };
        let said = Report {
            tunnels: tunnels.iter().map(of).collect(),
            carriers: vec!["websocket".to_owned(), "tls".to_owned()],
        };
        let mut kept = said.clone();
        assert!(!report(&mut kept, &tunnels));
        assert_eq!(kept, said);
        // The leaf in force and the newest generations are the last to go.
        kept.tunnels[0].handshakes = (3..9000).map(|n| (leaf(12_000 - n), 1)).collect();
        kept.tunnels[0].handshakes.insert(leaf(3), 7);
        kept.tunnels[0].connections = (1..=1000).map(|n| (n, 1)).collect();
        assert!(report(&mut kept, &tunnels));
        assert_eq!(kept.tunnels[0].handshakes[&leaf(3)], 7);
        assert!(kept.tunnels[0].connections.contains_key(&1000));
    }

    #[test]
    fn a_hello_is_remembered_for_its_tunnels_once_each() {
        let said = |tunnel: &str, generation, leaf: &str| Serving {
            tunnel: tunnel.to_owned(),
            generation,
            leaf_sha256: leaf.to_owned(),
        };
        let all = vec![
            said("main", 1, "aa"),
            said("other", 1, "bb"),
            said("main", 2, "cc"),
            said("main", 3, &"d".repeat(65)),
        ];
        let kept = serving(all, &["main".to_owned()].into());
        assert_eq!(kept, [said("main", 2, "cc")]);
    }
}
