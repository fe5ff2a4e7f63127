//! The official MCP SDKs as clients and as servers, through both carriers, over TLS with the tunnel's own CA: tools/list,
//! tools/call, progress by event stream, cancellation, with sessions (2025-11-25) and without (2026-07-28). What is checked
//! is in `tests/tools/exercise.mjs` and `client.py`.

use std::net::SocketAddr;
use std::path::Path;

use futures_util::future::join_all;

use super::{CLIENTS, Front, SESSIONS, Server, installed, run, said, scripts, text};

#[tokio::test]
async fn every_sdk_reaches_the_sample_on_the_rust_sdk() {
    let front = Front::start(None, |_| {}).await;
    all(&front, "ours", &CLIENTS).await;
    front.stop().await;
}

#[tokio::test]
async fn every_sdk_reaches_a_server_on_the_npm_sdk() {
    let scripts = scripts();
    let server = Server::npm(&scripts, "sample").await;
    let front = Front::start(Some(server.url.clone()), |_| {}).await;
    all(&front, "ours", &CLIENTS).await;
    front.stop().await;
}

#[tokio::test]
async fn every_sdk_reaches_a_server_on_the_python_sdk() {
    let scripts = scripts();
    let server = Server::python(&scripts).await;
    let front = Front::start(Some(server.url.clone()), |_| {}).await;
    all(&front, "ours", &CLIENTS).await;
    front.stop().await;
}

#[tokio::test]
async fn every_sdk_reaches_server_everything() {
    let server = Server::everything().await;
    let front = Front::start(Some(server.url.clone()), |_| {}).await;
    // It speaks revisions up to 2025-11-25.
    let clients = CLIENTS
        .iter()
        .copied()
        .filter(|(_, revision)| *revision == SESSIONS)
        .collect::<Vec<_>>();
    all(&front, "everything", &clients).await;
    front.stop().await;
}

/// Every client over both carriers.
async fn all(front: &Front, kind: &str, clients: &[(&str, &str)]) {
    let scripts = scripts();
    for (script, revision) in clients {
        let both = front.carriers().map(|(carrier, address)| {
            let script = scripts.path().join(script);
            async move { one(front, carrier, address, &script, kind, revision).await }
        });
        join_all(both).await;
    }
}

async fn one(
    front: &Front,
    carrier: &str,
    address: SocketAddr,
    script: &Path,
    kind: &str,
    revision: &str,
) {
    let program = if script
        .extension()
        .is_some_and(|extension| extension == "py")
    {
        "python/bin/python"
    } else {
        "bin/node"
    };
    let url = format!("https://localhost:{}/mcp", address.port());
    let mut command = front.client(&installed(program));
    let output = run(command.args([text(script), &url, kind, revision])).await;
    let said = said(&output);
    assert!(
        output.status.success() && output.stdout.trim_ascii_end().ends_with(b"ok"),
        "{} {revision} over {carrier}:\n{said}",
        script.display()
    );
}
