//! The MCP conformance suite: the same result through the proxy as direct, over both carriers, for both revisions.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_rustls::TlsConnector;

use super::{Front, Server, installed, run, said, scripts, text};

/// Scenario and check, with its status.
pub(super) type Outcome = BTreeMap<String, String>;

/// The name that the suite's check against DNS rebinding asks for. It must be in the certificate and lead to the upstream,
/// or the client never gets to hear the server's refusal.
const REBINDING: &str = "evil.example.com";

/// How the suite ends the name of a folder of results.
const TIME: &str = "-2026-07-28T00-00-00-000Z";

#[tokio::test]
async fn the_2025_11_25_suite_has_the_same_result_as_direct() {
    let direct = same_as_direct("2025-11-25").await;
    // Equal results mean little if both are bad.
    let failed: Vec<_> = direct
        .iter()
        .filter(|(_, status)| *status == "FAILURE")
        .collect();
    assert!(failed.is_empty(), "direct failures: {failed:?}");
    assert!(passed(&direct) >= 70, "{direct:#?}");
}

#[tokio::test]
async fn the_2026_07_28_suite_has_the_same_result_as_direct() {
    let direct = same_as_direct("2026-07-28").await;
    // Tasks and multi-round tools are the server's matter and not in the fixtures: they fail alike.
    assert!(passed(&direct) >= 100, "{direct:#?}");
}

/// Scenarios that speak plain HTTP whatever the URL says (`node:http` in the suite, 0.2.0-alpha.12).
const PLAIN: [&str; 2] = [
    "http-header-validation",
    "http-custom-header-server-validation",
];

/// Runs a revision's suite direct and over both carriers, and gives the result, which is the same.
async fn same_as_direct(revision: &str) -> Outcome {
    let scripts = scripts();
    let server = Server::npm(&scripts, "fixtures").await;
    let front = Front::start(Some(server.url.clone()), |options| {
        options.extra_names.push(REBINDING.to_owned());
        // The server must see the foreign host, or it has nothing to refuse.
        let upstream = &server.url;
        options.proxy_yaml =
            format!("  {REBINDING}:\n    upstream: {upstream}\n    preserve_host: true\n");
    })
    .await;
    let url = server.url.replace("127.0.0.1", "localhost");
    let all = ["--requirements", revision];
    let direct = suite(&front, &url, &all).await;
    for (carrier, address) in front.carriers() {
        let mut through = suite(
            &front,
            &format!("https://localhost:{}", address.port()),
            &all,
        )
        .await;
        let plain = unwrapped(&front, address).await;
        for scenario in PLAIN
            .into_iter()
            .filter(|scenario| direct.keys().any(|check| of(check, scenario)))
        {
            through.retain(|check, _| !of(check, scenario));
            let only = ["--scenario", scenario, "--spec-version", revision];
            through
                .extend(suite(&front, &format!("http://localhost:{}", plain.port()), &only).await);
        }
        assert_same(&direct, &through, carrier);
    }
    front.stop().await;
    direct
}

/// Whether a check is one of `scenario`.
fn of(check: &str, scenario: &str) -> bool {
    check.split_once('/').is_some_and(|(of, _)| {
        of.trim_start_matches("server-") == scenario.trim_start_matches("server-")
    })
}

/// A port of loopback whose bytes go through inner TLS to `address`, for who cannot speak TLS.
async fn unwrapped(front: &Front, address: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let bound = listener.local_addr().expect("its address");
    let client = front.stack.trust().client(b"http/1.1");
    let connector = TlsConnector::from(client.expect("there is a CA to trust"));
    let tasks = front.tasks.clone();
    let accept = async move {
        while let Ok((mut plain, _)) = listener.accept().await {
            let connector = connector.clone();
            tasks.spawn(async move {
                let name = "localhost".try_into().expect("a name");
                let inner = TcpStream::connect(address)
                    .await
                    .expect("the carrier listens");
                let mut inner = connector.connect(name, inner).await.expect("inner TLS");
                // Either side may end it as it likes.
                let _ = tokio::io::copy_bidirectional(&mut plain, &mut inner).await;
            });
        }
    };
    let stopping = front.tasks.clone();
    front.tasks.spawn(async move {
        tokio::select! {
            () = accept => {}
            () = stopping.stopping() => {}
        }
    });
    bound
}

pub(super) fn passed(outcome: &Outcome) -> usize {
    outcome
        .values()
        .filter(|status| *status == "SUCCESS")
        .count()
}

async fn suite(front: &Front, base: &str, what: &[&str]) -> Outcome {
    outcome(front.client(&installed("bin/node")), base, what).await
}

/// What the suite says about the server behind `base`, run by `node`.
pub(super) async fn outcome(mut node: Command, base: &str, what: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = installed("npm/node_modules/@modelcontextprotocol/conformance/dist/index.js");
    let url = format!("{base}/mcp");
    node.args([
        text(&program),
        "server",
        "--url",
        &url,
        "-o",
        text(folder.path()),
    ]);
    node.args(what);
    // Its exit code says whether everything passed, which is not the question here.
    let output = run(&mut node).await;
    let outcome = read(folder.path());
    assert!(!outcome.is_empty(), "no results:\n{}", said(&output));
    outcome
}

/// Fails, with what differs, unless both are the same.
pub(super) fn assert_same(direct: &Outcome, through: &Outcome, by: &str) {
    let checks: BTreeSet<&String> = direct.keys().chain(through.keys()).collect();
    let differing: Vec<_> = checks
        .into_iter()
        .filter(|check| direct.get(*check) != through.get(*check))
        .map(|check| {
            format!(
                "{check}: {:?} direct, {:?} through",
                direct.get(check),
                through.get(check)
            )
        })
        .collect();
    assert!(differing.is_empty(), "over {by}: {differing:#?}");
}

/// The results as the suite leaves them: a folder `server-SCENARIO-TIME` each, with its checks.
fn read(folder: &Path) -> Outcome {
    let mut outcome = Outcome::new();
    for scenario in fs::read_dir(folder)
        .expect("the results")
        .map(|entry| entry.expect("an entry").path())
    {
        let name = scenario
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let scenario_name = name
            .get(..name.len().saturating_sub(TIME.len()))
            .unwrap_or_default();
        let checks = fs::read_to_string(scenario.join("checks.json")).expect("its checks");
        let checks: Vec<Value> = serde_json::from_str(&checks).expect("JSON");
        let mut seen = BTreeMap::new();
        for check in checks {
            let of = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
            let count = seen
                .entry(of("id"))
                .and_modify(|count| *count += 1)
                .or_insert(1);
            outcome.insert(
                format!("{scenario_name}/{} {count}", of("id")),
                of("status"),
            );
        }
    }
    outcome
}
