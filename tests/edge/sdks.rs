//! The product's own SDKs against the real program: over HTTPS, with the edge's CA by the setting that each of them has.

use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::stand::EDGE;
use super::world::{Signer, URL, World};
use crate::real::installed;
use crate::rig::Issuer;

/// Where every name leads, for Python: it is preloaded as Node's `resolve.mjs` is.
const RESOLVE: &str = "import os, socket\n\
    resolve, address = socket.getaddrinfo, os.environ['RESOLVE_TO']\n\
    socket.getaddrinfo = lambda _host, *more, **named: resolve(address, *more, **named)\n";

/// A folder with the script and what it finds beside itself.
fn folder(script: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools");
    for name in [script, "resolve.mjs"] {
        std::fs::copy(tools.join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("sitecustomize.py"), RESOLVE).unwrap();
    let modules = installed("npm/node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
    folder
}

/// The script to its end, believing the CA in `ca`: what it printed, and what it complained of.
async fn ended(world: &World, interpreter: &str, script: &str, ca: &str) -> (String, String) {
    let folder = folder(script);
    let file = |name: &str| folder.path().join(name);
    let signer = Signer::new();
    let issuer = world.believe("sdk", URL, &signer.jwks()).await;
    let words = ["--audience", "edge", "--subject", "sdk"];
    let rule = world.rule("sdk", &issuer, &words).await;
    let assertion = signer.sign(&json!({"iss": URL, "aud": "edge", "sub": "sdk"}));
    std::fs::write(file("token"), assertion).unwrap();
    std::fs::write(file("tunnel-ca.pem"), Issuer::new().ca_pem()).unwrap();
    let preload = format!("--import {}", file("resolve.mjs").display());
    let output = Command::new(installed(interpreter))
        .arg(file(script))
        .env_clear()
        .env("HOME", folder.path())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("PYTHONPATH", folder.path())
        .env("NODE_OPTIONS", preload)
        .env("RESOLVE_TO", world.address.ip().to_string())
        .env("SSL_CERT_FILE", ca)
        .env("NODE_EXTRA_CA_CERTS", ca)
        .env(
            "ANTHROPIC_BASE_URL",
            format!("https://api.{EDGE}:{}", world.address.port()),
        )
        .env("ANTHROPIC_FEDERATION_RULE_ID", &rule)
        .env("ANTHROPIC_ORGANIZATION_ID", organization(world).await)
        .env("ANTHROPIC_SERVICE_ACCOUNT_ID", "svac_test")
        .env("ANTHROPIC_IDENTITY_TOKEN_FILE", file("token"))
        .env("CA_FILE", file("tunnel-ca.pem"))
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// The one organization that the edge knows: `init` says it again where a state is there.
async fn organization(world: &World) -> String {
    let identity = world.command(&["init", "--name", EDGE]).await;
    identity["organization_id"].as_str().unwrap().to_owned()
}

async fn goes_through_the_real_edge(interpreter: &str, script: &str) {
    let world = World::start().await;
    let ca = world.file("front-ca.pem");
    let (said, complaint) = ended(&world, interpreter, script, &ca).await;
    assert_eq!(said, "done", "{complaint}");
    let rows = world.command(&["audit", "--limit", "100"]).await;
    let rows = rows["data"].as_array().unwrap();
    let of = |action: &str| rows.iter().filter(|row| row["action"] == action).count();
    assert_eq!(of("tunnel_access_token_minted"), 1, "it keeps it");
    assert_eq!(of("tunnel_created"), 3);
    assert_eq!(of("tunnel_token_rotated"), 1);

    // The same with the CA of somebody else gets nowhere.
    let world = World::start().await;
    let other = world.write("other-ca.pem", &Issuer::new().ca_pem());
    let (said, complaint) = ended(&world, interpreter, script, &other).await;
    assert_ne!(said, "done");
    // One of them does not say why: the edge was told, in the handshake.
    let refused = "keyward_edge_refusals_total{reason=\"handshake\"}";
    assert!(world.edge.metric(refused).await > 0, "{complaint}");
    let listed = world.command(&["tunnel", "list"]).await;
    assert_eq!(listed["data"], json!([]));
}

#[tokio::test]
async fn the_python_sdk_goes_through_the_whole_api_of_the_real_edge_over_https() {
    goes_through_the_real_edge("python/bin/python", "tunnels.py").await;
}

#[tokio::test]
async fn the_typescript_sdk_goes_through_the_whole_api_of_the_real_edge_over_https() {
    goes_through_the_real_edge("bin/node", "tunnels.mjs").await;
}
