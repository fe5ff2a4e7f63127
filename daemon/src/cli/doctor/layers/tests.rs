use std::net::SocketAddr;

use super::*;
use crate::cli::doctor::proxies::{Checkup, Route};
use crate::status::{RemoteSays, RemoteState, ReplicaSays};

const NOW: u64 = 1_000_000;

/// A tunnel with nothing wrong, kept through the Tunnels API for one proxy that dials.
fn status() -> Status {
    let says = ReplicaSays {
        connected: true,
        in_force: true,
        generation: Some(7),
        ..ReplicaSays::default()
    };
    let credential = |kind: &str| CredentialStatus {
        kind: kind.to_owned(),
        journal: Some("ab".repeat(32)),
        generation: Some(7),
        not_after: Some(NOW + 10),
        remote: Some(RemoteSays {
            state: RemoteState::InForce,
            id: None,
            asked_at: Some(NOW),
        }),
        replicas: [("p".to_owned(), says.clone())].into(),
        ..CredentialStatus::default()
    };
    let kinds = ["server-certificate", "ca", "tunnel-token", "shared-secret"];
    let tunnel = TunnelStatus {
        provider: "tunnels_api".to_owned(),
        connector: "builtin".to_owned(),
        credentials: kinds.map(credential).into(),
        ..TunnelStatus::default()
    };
    let report = control::TunnelReport {
        tunnel: "main".to_owned(),
        leaf_sha256: "cd".to_owned(),
        ..control::TunnelReport::default()
    };
    let replica = ReplicaStatus {
        role: control::Role::Proxy,
        build: String::new(),
        connected: true,
        last_heard: NOW,
        acked: BTreeMap::new(),
        refused: BTreeMap::new(),
        report: control::Report {
            tunnels: vec![report],
            carriers: vec!["edge".to_owned()],
        },
    };
    Status {
        tunnels: [("main".to_owned(), tunnel)].into(),
        replicas: [("p".to_owned(), replica)].into(),
        ..Status::default()
    }
}

/// Of the CA in force.
fn verdicts(accepted: u64, refused: u64) -> BTreeMap<String, control::Verdicts> {
    let verdicts = control::Verdicts { accepted, refused };
    [("ab".repeat(32), verdicts)].into()
}

fn asked(reasons: &[&str], error: Option<&str>) -> Asked {
    let route = Route {
        tunnel: String::new(),
        name: "docs".to_owned(),
        upstream: "http://docs:80".to_owned(),
        error: error.map(str::to_owned),
        next: error.map(|_| "start the server".to_owned()),
    };
    Asked {
        addr: "127.0.0.1:9464".parse::<SocketAddr>().unwrap(),
        said: Ok(Checkup {
            reasons: reasons.iter().map(|reason| (*reason).to_owned()).collect(),
            carriers: Vec::new(),
            routes: vec![route],
        }),
        handshakes: Vec::new(),
    }
}

fn report(status: &Status, asked: &[Asked], api: Result<(), String>) -> Report {
    examine(&Evidence {
        status,
        only: None,
        asked,
        api: Some(api),
        now: NOW,
    })
}

/// What is found after `change`: layer and part of the sentence, one finding.
fn one(change: impl FnOnce(&mut Status)) -> (Layer, String) {
    let mut status = status();
    change(&mut status);
    let report = report(&status, &[asked(&[], None)], Ok(()));
    let [finding] = &report.findings[..] else {
        panic!("{report:#?}");
    };
    assert!(!finding.next.is_empty(), "{finding:?}");
    (finding.layer, finding.what.clone())
}

fn change(status: &mut Status, kind: &str, change: impl FnOnce(&mut CredentialStatus)) {
    let all = &mut status.tunnels.get_mut("main").unwrap().credentials;
    change(all.iter_mut().find(|one| one.kind == kind).unwrap());
}

#[test]
fn where_nothing_is_wrong_nothing_is_found() {
    let report = report(&status(), &[asked(&[], None)], Ok(()));
    assert_eq!(report.findings, []);
    assert_eq!(report.verdicts["main"], [Verdict::Good; 3]);
    let text = report.text();
    assert!(
        text.starts_with(
            "TUNNEL  OUTBOUND  INNER TLS  ROUTING\nmain    good      good       good\n"
        ),
        "{text}"
    );
}

#[test]
fn what_nobody_could_say_is_not_good() {
    let report = report(&status(), &[], Ok(()));
    assert_eq!(report.findings, []);
    assert_eq!(
        report.verdicts["main"],
        [Verdict::Good, Verdict::Good, Verdict::NotTried]
    );
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("no route was tried"))
    );
}

/// Layer, part of the sentence, and what brings it about.
type Case<'a> = (Layer, &'a str, &'a dyn Fn(&mut Status));

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn each_fault_is_found_in_its_layer_and_has_a_next_step() {
    let says = |status: &mut Status, kind: &str, set: fn(&mut ReplicaSays)| {
        change(status, kind, |one| set(one.replicas.get_mut("p").unwrap()));
    };
    let state = |status: &mut Status, kind: &str, state: RemoteState| {
        change(status, kind, |one| {
            one.remote.as_mut().unwrap().state = state;
        });
    };
    let own = |status: &mut Status, set: fn(&mut control::TunnelReport)| {
        let replica = status.replicas.get_mut("p").unwrap();
        set(&mut replica.report.tunnels[0]);
    };
    let cases: [Case<'_>; 12] = [
        (Layer::Outbound, "no proxy is subscribed", &|status| {
            status.replicas.get_mut("p").unwrap().connected = false;
        }),
        (Layer::Outbound, "none of its carriers is up", &|status| {
            status
                .replicas
                .get_mut("p")
                .unwrap()
                .report
                .carriers
                .clear();
        }),
        (
            Layer::Outbound,
            "no connection to the tunnel's edge",
            &|status| {
                status.replicas.get_mut("p").unwrap().report.carriers = vec!["tls".to_owned()];
            },
        ),
        (
            Layer::Outbound,
            "does not let p in with the shared secret",
            &|status| {
                says(status, "shared-secret", |says| {
                    says.refused = Some(control::Reason::TokenRefused);
                });
            },
        ),
        (Layer::Outbound, "archived, or not there", &|status| {
            state(status, "tunnel-token", RemoteState::Missing);
        }),
        (
            Layer::Outbound,
            "has not answered the daemon yet",
            &|status| {
                state(status, "ca", RemoteState::Unknown);
            },
        ),
        (Layer::Outbound, "no connector is subscribed", &|status| {
            status.tunnels.get_mut("main").unwrap().connector = "cloudflared".to_owned();
        }),
        (
            Layer::InnerTls,
            "does not list the CA in force (abab",
            &|status| {
                state(status, "ca", RemoteState::Missing);
            },
        ),
        (Layer::InnerTls, "the CA is over since 5 s", &|status| {
            change(status, "ca", |one| one.not_after = Some(NOW - 5));
        }),
        (
            Layer::InnerTls,
            "p serves generation 6 of the server certificate, not 7",
            &|status| {
                says(status, "server-certificate", |says| {
                    (says.in_force, says.generation) = (false, Some(6));
                });
            },
        ),
        (
            Layer::InnerTls,
            "callers refuse what p serves: 2 handshakes ended",
            &|status| {
                own(status, |own| {
                    own.verdicts = verdicts(0, 2);
                });
            },
        ),
        (
            Layer::InnerTls,
            "does not cover its routes docs.other",
            &|status| {
                own(status, |own| {
                    own.uncovered_routes = vec!["docs.other".to_owned()];
                });
            },
        ),
    ];
    for (layer, part, change) in cases {
        let (found, what) = one(change);
        assert_eq!(found, layer, "{what}");
        assert!(what.contains(part), "{part:?} in {what:?}");
    }
}

#[test]
fn callers_that_refuse_while_others_do_not_are_a_note() {
    let mut status = status();
    let own = &mut status.replicas.get_mut("p").unwrap().report.tunnels[0];
    own.verdicts = verdicts(1, 2);
    let report = report(&status, &[asked(&[], None)], Ok(()));
    assert_eq!(report.findings, []);
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("2 handshakes with p"))
    );
}

#[test]
fn the_reasons_of_readiness_are_findings_of_their_layers_and_the_first_layer_comes_first() {
    let reasons = [
        "tunnel main: callers refuse the certificate",
        "tunnel other: the certificate has expired",
        "tunnel main: no routes yet; write them",
        "carrier edge: no connection to api.edge: refused",
    ];
    let refused = Some("cannot connect to 127.0.0.1:80: refused");
    let report = report(
        &status(),
        &[asked(&reasons, refused)],
        Err("no DNS".to_owned()),
    );
    let layers: Vec<Layer> = report.findings.iter().map(|one| one.layer).collect();
    assert_eq!(
        layers,
        [
            Layer::Outbound,
            Layer::Outbound,
            Layer::InnerTls,
            Layer::Routing,
            Layer::Routing
        ]
    );
    let text = report.text();
    for part in [
        "the Tunnels API is not reached from here: no DNS",
        "main, routing and upstream: route docs leads to http://docs:80, which the proxy at 127.0.0.1:9464 cannot dial",
        "  next: start the server\n",
    ] {
        assert!(text.contains(part), "{part:?} in {text}");
    }
    assert!(!text.contains("expired"), "{text}");
}
