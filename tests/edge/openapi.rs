//! The `OpenAPI` document and the edge that serves it, against each other.

use std::time::Duration;

use tokio::process::Command;

use super::stand::EDGE;
use super::world::World;

/// Examples for each operation in each phase.
const EXAMPLES: &str = "10";
/// All of it; a fifth of that is usual.
const LIMIT: Duration = Duration::from_secs(100);

#[tokio::test]
async fn schemathesis_finds_nothing_that_the_document_does_not_say() {
    let world = World::start().await;
    let token = world.write("token", &world.operator().await);
    let python = installed("../python/bin/python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/openapi.py");
    let child = Command::new(python)
        .args([script, &format!("api.{EDGE}")])
        .arg(world.address.ip().to_string())
        .arg(world.address.port().to_string())
        .args([&world.file("front-ca.pem"), &token])
        .args(["--max-examples", EXAMPLES])
        .current_dir(world.folder.path())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(LIMIT, child).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(
        ended.status.success() && said.contains("Tested: 21"),
        "{said}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let faults: Vec<String> = world
        .edge
        .log()
        .lines()
        .filter(|line| line.contains("\"ERROR\""))
        .map(str::to_owned)
        .collect();
    assert_eq!(faults, Vec::<String>::new());
}

#[tokio::test]
async fn whoever_sends_too_much_is_told_so_over_either_version_of_http() {
    let world = World::start().await;
    let token = world.operator().await;
    let large = world.write("large", &"x".repeat(400_000));
    for version in ["--http1.1", "--http2"] {
        let words = [
            version,
            "-H",
            &format!("authorization: Bearer {token}"),
            "-H",
            "content-type: application/json",
            "-H",
            "expect:",
            "--data-binary",
            &format!("@{large}"),
        ];
        let (status, body) = world.api("/v1/tunnels", &words).await;
        assert_eq!(status, 413, "{version}");
        assert_eq!(body["error"]["type"], "request_too_large");
    }
}

/// A program that `tests/install.sh` installed.
fn installed(name: &str) -> std::path::PathBuf {
    let found = harness::tool(name);
    assert!(
        found.exists(),
        "{} is not there: run tests/install.sh",
        found.display()
    );
    found
}
