//! The product's own SDKs and a certified OIDC provider, as `tests/install.sh` installs them.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::UNIX_EPOCH;

use http::Method;
use process::{Clock, SystemClock};
use serde_json::{Value, json};

use super::certificates::ca;
use super::http_client::Served;
use crate::state::{Issuer, KeySource, Matcher};
use crate::tests::issuer::{Signer, issuer};
use crate::tests::stage::Stage;

fn installed(path: &str) -> PathBuf {
    let tools = std::env::var_os("KEYWARD_TOOLS").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
            cache.unwrap_or_else(home).join("keyward-tests")
        },
        PathBuf::from,
    );
    let found = tools.join(path);
    assert!(
        found.exists(),
        "{} is not there: run tests/install.sh",
        found.display()
    );
    found
}

/// A script of ours beside the packages that it imports, since Node looks for them from there.
fn script(directory: &tempfile::TempDir, name: &str) -> PathBuf {
    let modules = directory.path().join("node_modules");
    if !modules.exists() {
        std::os::unix::fs::symlink(installed("npm/node_modules"), modules).unwrap();
    }
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/tools")
        .join(name);
    let target = directory.path().join(name);
    std::fs::copy(source, &target).unwrap();
    target
}

async fn sdk_goes_through(stage: Stage, interpreter: &str, name: &str) {
    let served = Served::new(stage).await;
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, served.assertion("sdk")).unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, ca("sdk")).unwrap();
    let mut command = Command::new(installed(interpreter));
    command
        .arg(script(&directory, name))
        .env_clear()
        .env("HOME", directory.path())
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("ANTHROPIC_BASE_URL", format!("http://{}", served.address))
        .env("ANTHROPIC_FEDERATION_RULE_ID", &served.rule.id)
        .env(
            "ANTHROPIC_ORGANIZATION_ID",
            "0d9e9b52-8f0e-4c6e-9a55-7f4b6e1c2a10",
        )
        .env("ANTHROPIC_SERVICE_ACCOUNT_ID", "svac_test")
        .env("ANTHROPIC_IDENTITY_TOKEN_FILE", &token)
        .env("CA_FILE", &ca_file)
        .current_dir(directory.path());
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(
        said.trim(),
        "done",
        "{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    let rows = served.stage.state.audit(u64::MAX, 100).await.unwrap();
    let minted = rows
        .iter()
        .filter(|row| row.action == "tunnel_access_token_minted")
        .count();
    assert_eq!(
        minted, 2,
        "one for the test, one for the SDK, which keeps it"
    );
}

#[tokio::test]
async fn the_python_sdk_goes_through_the_whole_api() {
    sdk_goes_through(Stage::sqlite().await, "python/bin/python", "tunnels.py").await;
}

#[tokio::test]
async fn the_typescript_sdk_goes_through_the_whole_api() {
    sdk_goes_through(Stage::postgres().await, "bin/node", "tunnels.mjs").await;
}

/// A provider of its own process; it ends with its standard input.
pub(super) struct Provider {
    pub(super) url: String,
    child: std::process::Child,
    _directory: tempfile::TempDir,
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

impl Provider {
    pub(super) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut child = Command::new(installed("bin/node"))
            .arg(script(&directory, "issuer.mjs"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !url.starts_with("http") {
            url = lines.next().expect("it says its URL").unwrap();
        }
        Self {
            url,
            child,
            _directory: directory,
        }
    }

    fn token(&self, audience: &str) -> String {
        let answer = Command::new("curl")
            .args(["-sS", "-u", "workload:workload-secret-of-a-test", "-d"])
            .arg(format!(
                "grant_type=client_credentials&resource={audience}&scope=tunnels"
            ))
            .arg(format!("{}/token", self.url))
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        answer["access_token"].as_str().unwrap().to_owned()
    }

    pub(super) fn issuer(&self) -> Issuer {
        Issuer {
            name: "provider".to_owned(),
            issuer_url: self.url.clone(),
            keys: KeySource::Discovery {
                discovery_base: None,
            },
            accepted_types: vec!["at+jwt".to_owned()],
            allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
            ..issuer(vec![Signer::p256().jwk("x")])
        }
    }
}

#[tokio::test]
async fn a_certified_provider_is_discovered_and_its_tokens_buy_access() {
    let stage = Stage::sqlite().await;
    // Its tokens are of today.
    let today = SystemClock
        .wall()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    stage.clock.set(today);
    let mut served = Served::new(stage).await;
    let provider = tokio::task::spawn_blocking(Provider::start).await.unwrap();
    let by = served.stage.by();
    let issuer = served
        .stage
        .state
        .add_issuer(&by, &provider.issuer())
        .await
        .unwrap();
    let mut rule = served.rule.clone();
    rule.name = "provider".to_owned();
    rule.issuer_id = issuer.id;
    rule.r#match = Matcher {
        audience: "https://api.edge.test".to_owned(),
        subject_prefix: Some("workload".to_owned()),
        claims: std::iter::once(("scope".to_owned(), "tunnels".to_owned())).collect(),
        ..Matcher::default()
    };
    served.rule = served.stage.state.add_rule(&by, &rule).await.unwrap();
    let good = provider.token("https://api.edge.test");
    let bought = served.buy(&good).await;
    assert_eq!(
        bought.status,
        200,
        "{} {:?}",
        bought.body,
        served.stage.state.audit(u64::MAX, 1).await
    );
    served.token = bought.body["access_token"].as_str().unwrap().to_owned();
    let made = served
        .call(Method::POST, "/v1/tunnels", &[], &json!({}).to_string())
        .await;
    assert_eq!(made.status, 200);
    assert_eq!(served.buy(&good).await.status, 401, "its jti was used");
    let other = provider.token("https://other.test");
    assert_eq!(served.buy(&other).await.status, 401);
    let row = served.last_row().await;
    assert!(
        row.reason
            .unwrap()
            .starts_with("aud is \"https://other.test\"")
    );
}
