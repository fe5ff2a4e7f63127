//! `keyward doctor identity` as an operator types it: a real edge sells access to what real sources give, through an
//! HTTP proxy as a corporate network has one; and no token is seen anywhere but where it belongs.

mod beside;
mod clouds;
mod vault;
mod workload;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use process::Tasks;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::federation::{ADMINISTRATOR, AUDIENCE, Cluster};
use super::stand::EDGE;
use super::world::{Signer, URL, World};
use crate::cli::stage::{Ended, end, keyward};

/// An HTTP proxy that carries every CONNECT to one address and keeps what it was asked for.
struct Tunneler {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
}

impl Tunneler {
    async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, asked) = (Tasks::new(), Arc::<Mutex<Vec<String>>>::default());
        let (each, noted) = (tasks.clone(), Arc::clone(&asked));
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = each.stopping() => return,
                };
                let (noted, stop) = (Arc::clone(&noted), each.clone());
                each.spawn(async move {
                    tokio::select! {
                        () = carry(accepted, to, noted) => {}
                        () = stop.stopping() => {}
                    }
                });
            }
        });
        Self {
            address,
            asked,
            tasks,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Tunneler {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

async fn carry(mut stream: TcpStream, to: SocketAddr, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut octet = [0];
        if stream.read(&mut octet).await.unwrap_or(0) == 0 {
            return;
        }
        head.extend_from_slice(&octet);
    }
    let head = String::from_utf8(head).unwrap();
    asked.lock().unwrap().push(head);
    let mut far = TcpStream::connect(to).await.unwrap();
    let established = b"HTTP/1.1 200 Connection established\r\n\r\n";
    stream.write_all(established).await.unwrap();
    // Ends as either side does.
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut far).await;
}

/// An edge, somebody who signs, a rule, and the proxy in between.
struct Case {
    world: World,
    signer: Signer,
    proxy: Tunneler,
    rule: String,
}

impl Case {
    async fn start() -> Self {
        let world = World::start().await;
        let signer = Signer::new();
        let issuer = world.believe("workload", URL, &signer.jwks()).await;
        let words = ["--audience", AUDIENCE, "--subject", "workload"];
        let rule = world.rule("workload", &issuer, &words).await;
        let proxy = Tunneler::start(world.address).await;
        Self {
            world,
            signer,
            proxy,
            rule,
        }
    }

    /// The configuration with this source and these lines more.
    fn configure(&self, rule: &str, source: &str, more: &str) -> String {
        let text = format!(
            "tunnels: {{main: {{provider: static, domain: t.example, store: 'dir:/s'}}}}\n\
             identity:\n  url: https://api.{EDGE}\n  ca_file: {}\n  federation_rule: {rule}\n  source: {source}\n{more}",
            self.world.file("front-ca.pem"),
        );
        self.world.write("keyward.yaml", &text)
    }

    async fn doctor(&self, config: &str, more: &[&str]) -> Ended {
        let mut command = keyward(&["doctor", "identity", "--config", config]);
        command
            .args(more)
            .env("HTTPS_PROXY", format!("http://{}", self.proxy.address))
            .env("NO_PROXY", "127.0.0.1");
        end(&mut command).await
    }

    fn token(&self, claims: &Value) -> String {
        let mut all = json!({"iss": URL, "aud": AUDIENCE, "sub": "workload", "jti": "one"});
        let more = claims.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        self.signer.sign(&all)
    }
}

/// Nothing of the token, nor of what was bought with it, is in what was printed.
fn assert_silent(ended: &Ended, token: &str) {
    let printed = format!("{}{}", ended.stdout, ended.stderr);
    for part in token.split('.') {
        assert!(!printed.contains(part), "{printed}");
    }
    assert!(!printed.contains("sk-ant-oat"), "{printed}");
    assert!(!printed.contains(ADMINISTRATOR), "{printed}");
}

#[tokio::test]
async fn a_token_in_a_file_buys_access_through_a_proxy_and_is_bought_with_once() {
    let case = Case::start().await;
    let token = case.token(&json!({}));
    let file = case.world.write("token", &format!("{token}\n"));
    let expect =
        format!("  expect: {{issuer: '{URL}', subject: workload, audience: {AUDIENCE}}}\n");
    let config = case.configure(&case.rule, &format!("{{file: '{file}'}}"), &expect);

    let looked = case.doctor(&config, &["--json"]).await;
    assert_eq!(looked.code, Some(0), "{looked:?}");
    assert_eq!(looked.json()["claims"]["sub"], "workload");
    assert!(
        case.proxy.asked().is_empty(),
        "nothing is sent without --exchange"
    );

    let bought = case.doctor(&config, &["--json", "--exchange"]).await;
    assert_eq!(bought.code, Some(0), "{bought:?}");
    let said = bought.json();
    let row = case.world.newest_row().await;
    assert_eq!(row["actor"], format!("rule:{}:workload", case.rule));
    assert_eq!(said["exchanged"]["request_id"], row["request_id"], "{row}");
    assert!(said["exchanged"]["expires_in"].as_u64().unwrap() >= 60);
    let asked = case.proxy.asked();
    assert!(
        asked[0].starts_with(&format!("CONNECT api.{EDGE}:443 ")),
        "{asked:?}"
    );

    let again = case.doctor(&config, &["--exchange"]).await;
    assert_eq!(again.code, Some(77), "{again:?}");
    let row = case.world.newest_row().await;
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.starts_with("jti_reused: "), "{reason}");
    for part in [
        "401 authentication_error",
        "used before",
        row["request_id"].as_str().unwrap(),
    ] {
        assert!(again.stderr.contains(part), "{part}: {again:?}");
    }
    for ended in [looked, bought, again] {
        assert_silent(&ended, &token);
    }
}

#[tokio::test]
async fn a_claim_that_differs_is_named_and_the_token_is_not_sent() {
    let case = Case::start().await;
    let token = case.token(&json!({"aud": format!("https://{AUDIENCE}"), "sub": "Workload"}));
    let file = case.world.write("token", &token);
    let expect =
        format!("  expect: {{issuer: '{URL}', subject: workload, audience: {AUDIENCE}}}\n");
    let config = case.configure(&case.rule, &format!("{{file: '{file}'}}"), &expect);
    let ended = case.doctor(&config, &["--exchange"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for part in [
        "aud is \"https://keyward-edge\", wanted is \"keyward-edge\": they differ in https:// at the beginning",
        "sub is \"Workload\", wanted is \"workload\": they differ in upper and lower case",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    assert!(case.proxy.asked().is_empty());
    assert_silent(&ended, &token);
    // What nobody wrote down is the edge's to refuse.
    let config = case.configure(&case.rule, &format!("{{file: '{file}'}}"), "");
    let ended = case.doctor(&config, &["--exchange"]).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    // A malformed request is the configuration's fault.
    let config = case.configure("fdrl_", &format!("{{file: '{file}'}}"), "");
    let ended = case.doctor(&config, &["--exchange"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("federation_rule_id"), "{ended:?}");
}

#[tokio::test]
async fn a_source_that_gives_nothing_is_told_by_its_exit_code() {
    let case = Case::start().await;
    let expired = case.token(&json!({"exp": 1000, "iat": 900}));
    let expired = case.world.write("expired", &expired);
    let empty = case.world.write("empty", " \n");
    for (source, code, part) in [
        (
            "{file: /nonexistent/token}".to_owned(),
            78,
            "/nonexistent/token",
        ),
        (format!("{{file: '{empty}'}}"), 78, "empty"),
        (format!("{{file: '{expired}'}}"), 78, "exp: it was"),
        ("{environment: NO_SUCH}".to_owned(), 78, "NO_SUCH"),
        (
            "{exec: {command: [/bin/false]}}".to_owned(),
            69,
            "exit status: 1",
        ),
        (
            "{github_actions: {}}".to_owned(),
            78,
            "ACTIONS_ID_TOKEN_REQUEST_URL",
        ),
        (
            "{gitlab: {variable: NO_SUCH}}".to_owned(),
            78,
            "declare it in the job that runs this: id_tokens",
        ),
    ] {
        let config = case.configure(&case.rule, &source, "");
        let ended = case.doctor(&config, &[]).await;
        assert_eq!(ended.code, Some(code), "{source}: {ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains(part), "{part}: {ended:?}");
    }
    // Nobody is behind the proxy.
    let token = case.world.write("token", &case.token(&json!({})));
    let config = case.configure(&case.rule, &format!("{{file: '{token}'}}"), "");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let mut command = keyward(&["doctor", "identity", "--exchange", "--config", &config]);
    command.env(
        "HTTPS_PROXY",
        format!("http://user:canary-password@{address}"),
    );
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(
        !format!("{ended:?}").contains("canary-password"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_program_gets_no_variable_but_those_that_are_named() {
    let case = Case::start().await;
    let token = case.token(&json!({}));
    let file = case.world.write("token", &token);
    let seen = case.world.file("seen");
    let script = format!("env > '{seen}'\necho canary-on-stderr >&2\ncat '{file}'\n");
    let program = case.world.write("program", &script);
    let source = format!("{{exec: {{command: [/bin/sh, '{program}'], environment: [GIVEN]}}}}");
    let config = case.configure(&case.rule, &source, "");
    let mut command = keyward(&["doctor", "identity", "--exchange", "--config", &config]);
    command
        .env("HTTPS_PROXY", format!("http://{}", case.proxy.address))
        .env("GIVEN", "given")
        .env("API_TOKEN", "canary-in-the-environment");
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("GIVEN=given"), "{seen}");
    assert!(
        !seen.contains("canary") && !seen.contains("HTTPS_PROXY"),
        "{seen}"
    );
    assert!(!format!("{ended:?}").contains("canary"), "{ended:?}");
    assert_silent(&ended, &token);
}

#[tokio::test]
async fn a_job_of_gitlab_buys_with_the_token_of_its_variable() {
    let case = Case::start().await;
    let token = case.token(&json!({"jti": "one"}));
    let config = case.configure(&case.rule, "{gitlab: {variable: KEYWARD_TOKEN}}", "");
    let words = [
        "doctor",
        "identity",
        "--exchange",
        "--json",
        "--config",
        &config,
    ];
    let mut command = keyward(&words);
    command
        .env("HTTPS_PROXY", format!("http://{}", case.proxy.address))
        .env("KEYWARD_TOKEN", &token);
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = ended.json();
    assert_eq!(said["source"], "gitlab");
    assert!(said["exchanged"]["expires_in"].is_u64(), "{said}");
    let note = said["notes"][0].as_str().unwrap();
    assert!(note.contains("second exchange in this job"), "{said}");
    assert_silent(&ended, &token);
    // And it is.
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    let over = case.token(&json!({"exp": 1000, "iat": 900}));
    command.env("KEYWARD_TOKEN", &over);
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert_silent(&ended, &over);
}

#[tokio::test]
async fn the_variables_of_the_stock_stack_are_enough_without_a_file() {
    let case = Case::start().await;
    let token = case.token(&json!({}));
    let ca = case.world.file("front-ca.pem");
    let mut command = keyward(&["doctor", "identity", "--exchange", "--json"]);
    command
        .env("HTTPS_PROXY", format!("http://{}", case.proxy.address))
        .env("SSL_CERT_FILE", ca)
        .env("ANTHROPIC_BASE_URL", format!("https://api.{EDGE}"))
        .env("ANTHROPIC_FEDERATION_RULE_ID", &case.rule)
        .env("ANTHROPIC_IDENTITY_TOKEN", &token);
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = ended.json();
    assert_eq!(said["chosen_by"], "ANTHROPIC_IDENTITY_TOKEN");
    assert!(said["exchanged"]["expires_in"].is_u64(), "{said}");
    assert_silent(&ended, &token);
    let mut command = keyward(&["doctor", "identity", "--json"]);
    command.env("API_TOKEN", "canary-ready");
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!format!("{ended:?}").contains("canary"), "{ended:?}");
    command.env("API_TOKEN", "");
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("API_TOKEN is empty"), "{ended:?}");
}

#[tokio::test]
async fn a_kubernetes_api_server_is_asked_for_a_fresh_token_each_time() {
    let (case, cluster) = tokio::join!(Case::start(), Cluster::start());
    let account =
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "keyward"}});
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    cluster.make(accounts, &account).await;
    let (_, jwks) = cluster.ask("/openid/v1/jwks", None).await;
    let issuer = case.world.believe("cluster", &cluster.url, &jwks).await;
    let subject = "system:serviceaccount:default:keyward";
    let words = ["--audience", AUDIENCE, "--subject", subject];
    let rule = case.world.rule("cluster", &issuer, &words).await;
    let authority = cluster.authority();
    let own = case.world.write("own-token", ADMINISTRATOR);
    let source = |account: &str| {
        format!(
            "{{kubernetes: {{url: '{}', ca_file: '{authority}', token_file: '{own}', namespace: default, \
             service_account: {account}, audiences: [{AUDIENCE}]}}}}",
            cluster.url
        )
    };
    let expect = format!(
        "  expect: {{issuer: '{}', subject: '{subject}', audience: {AUDIENCE}}}\n",
        cluster.url
    );
    let config = case.configure(&rule, &source("keyward"), &expect);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let ended = case.doctor(&config, &["--exchange", "--json"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        seen.push(ended.json()["claims"]["jti"].clone());
        let row = case.world.newest_row().await;
        assert_eq!(row["actor"], format!("rule:{rule}:{subject}"));
        assert!(!format!("{ended:?}").contains(ADMINISTRATOR));
    }
    assert!(seen[0].is_string() && seen[0] != seen[1], "{seen:?}");
    let config = case.configure(&rule, &source("nobody"), "");
    let ended = case.doctor(&config, &[]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stderr.contains("\"nobody\" not found"), "{ended:?}");
    // The token with which it is asked is read each time, too.
    case.world.write("own-token", "canary-that-is-wrong");
    let config = case.configure(&rule, &source("keyward"), "");
    let ended = case.doctor(&config, &[]).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(!format!("{ended:?}").contains("canary"), "{ended:?}");
}
