//! Other people's MCP clients through `keyward-edge agent`: by URL, by command, and, for comparison, without it by the tunnel's
//! own name with the client's own CA setting. Outer and inner TLS are mutual.

use std::net::SocketAddr;
use std::path::Path;

use tokio::process::Command;

use super::conformance::{assert_same, outcome, passed};
use super::{CLIENTS, SESSIONS, STATELESS, Server, installed, run, said, scripts, text};
use crate::edge::{Agent, OPEN, Stand, command, mutual};
use crate::rig::DOMAIN;

fn route(server: &Server) -> String {
    format!("  docs: {}\n", server.url)
}

/// Every client with the server that `target` names.
async fn all(target: &str, prepare: impl Fn(&mut Command, &Path)) {
    let scripts = scripts();
    for (script, revision) in CLIENTS {
        let path = scripts.path().join(script);
        let python = Path::new(script)
            .extension()
            .is_some_and(|kind| kind == "py");
        let program = if python {
            "python/bin/python"
        } else {
            "bin/node"
        };
        let mut command = Command::new(installed(program));
        prepare(&mut command, scripts.path());
        let output = run(command.args([text(&path), target, "ours", revision])).await;
        let said = said(&output);
        let sound = output.status.success() && output.stdout.trim_ascii_end().ends_with(b"ok");
        assert!(sound, "{script} {revision} with {target}:\n{said}");
    }
}

#[tokio::test]
async fn every_sdk_reaches_both_servers_by_url() {
    let scripts = scripts();
    for server in [
        Server::npm(&scripts, "sample").await,
        Server::python(&scripts).await,
    ] {
        let stand = mutual(&route(&server)).await;
        let agent = Agent::start(&stand, &[]).await;
        all(&format!("http://{}/docs/mcp", agent.address), |_, _| {}).await;
    }
}

#[tokio::test]
async fn every_sdk_reaches_a_server_by_command() {
    let scripts = scripts();
    for server in [
        Server::npm(&scripts, "sample").await,
        Server::python(&scripts).await,
    ] {
        let stand = mutual(&route(&server)).await;
        let address = stand.address.to_string();
        let words = ["--edge-address", &*address, "--stdio", "docs"];
        let command = command(&stand, &words);
        let command = command.as_std();
        let program = command.get_program().to_str().unwrap();
        let words = command.get_args().map(|word| word.to_str().unwrap());
        let line: Vec<_> = std::iter::once(program).chain(words).collect();
        all(&serde_json::to_string(&line).unwrap(), |_, _| {}).await;
    }
}

#[tokio::test]
async fn every_sdk_reaches_a_server_without_an_agent_by_its_own_ca_setting() {
    let scripts = scripts();
    let server = Server::npm(&scripts, "sample").await;
    let mut stand = Stand::start(0, OPEN).await;
    let proxy = stand.proxy("plain", "", &route(&server)).await;
    proxy.ready().await;
    stand.proxies.push(proxy);
    let ca = stand.file("tunnel-ca.pem");
    let address: SocketAddr = stand.address;
    let url = format!("https://docs.{DOMAIN}:{}/mcp", address.port());
    all(&url, |command, scripts| {
        let resolve = scripts.join("resolve.mjs");
        command
            .env("RESOLVE_TO", address.ip().to_string())
            .env("NODE_OPTIONS", format!("--import {}", text(&resolve)))
            .env("NODE_EXTRA_CA_CERTS", &ca)
            .env("SSL_CERT_FILE", &ca);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_to_sign_in_finds_the_way_by_path_and_by_host() {
    let scripts = scripts();
    let script = scripts.path().join("signin.mjs");
    let node = installed("bin/node");
    let server = Server::start(&node, &[text(&script), "server", DOMAIN]).await;
    let more = format!("  docs: {0}\n  auth: {0}\n", server.url);
    let stand = mutual(&more).await;
    let agent = Agent::start(&stand, &[]).await;
    let resolve = scripts.path().join("resolve.mjs");
    for url in [
        format!("http://{}/docs/mcp", agent.address),
        format!("http://docs.localhost:{}/mcp", agent.address.port()),
    ] {
        let mut command = Command::new(&node);
        command
            .env("RESOLVE_TO", agent.address.ip().to_string())
            .args(["--import", text(&resolve), text(&script), "client", &url]);
        let output = run(&mut command).await;
        assert!(output.status.success(), "{url}:\n{}", said(&output));
    }
}

#[tokio::test]
async fn the_2025_11_25_suite_has_the_same_result_as_direct() {
    assert!(same_as_direct(SESSIONS).await >= 70);
}

#[tokio::test]
async fn the_2026_07_28_suite_has_the_same_result_as_direct() {
    assert!(same_as_direct(STATELESS).await >= 100);
}

/// Runs a revision's suite direct and through the agent; how many checks passed.
async fn same_as_direct(revision: &str) -> usize {
    let scripts = scripts();
    let server = Server::npm(&scripts, "fixtures").await;
    let stand = mutual(&route(&server)).await;
    let agent = Agent::start(&stand, &[]).await;
    let all = ["--requirements", revision];
    let node = || Command::new(installed("bin/node"));
    let url = server.url.replace("127.0.0.1", "localhost");
    let direct = outcome(node(), &url, &all).await;
    let url = format!("http://localhost:{}/docs", agent.address.port());
    let through = outcome(node(), &url, &all).await;
    assert_same(&direct, &through, "the agent");
    passed(&direct)
}
