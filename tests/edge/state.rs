//! The edge with a state: tunnels are made, credentials archived and access is given by command line and by API while
//! proxies are connected and calls go through.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use demo::stack::Programs;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

use super::stand::{EDGE, Program, front, ports};
use crate::rig::credentials::{now, server};
use crate::rig::{Issuer, Upstream, until};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An edge with an empty state, and what proxies and callers of it need.
struct World {
    folder: tempfile::TempDir,
    address: SocketAddr,
    edge: Program,
    issuer: Issuer,
    upstream: Upstream,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (address, health) = ports();
        front(folder.path());
        let at = folder.path().display();
        let config = format!(
            "listen_addr: {address}\nname: {EDGE}\nhealth: {{listen_addr: '{health}'}}\n\
             certificate: {{cert_file: {at}/front.crt, key_file: {at}/front.key, ca_files: [{at}/front-ca.pem]}}\n"
        );
        std::fs::write(folder.path().join("edge.yaml"), config).unwrap();
        let words = [
            "serve",
            "--config",
            &format!("{at}/edge.yaml"),
            "--state",
            &format!("{at}/state"),
        ];
        let edge = Program::start(&program(), &words, health, folder.path().join("edge.log")).await;
        let (issuer, upstream) = (Issuer::new(), Upstream::start().await);
        std::fs::write(folder.path().join("tunnel-ca.pem"), issuer.ca_pem()).unwrap();
        Self {
            folder,
            address,
            edge,
            issuer,
            upstream,
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self.file(name)
    }

    /// As an operator on the same machine.
    async fn command(&self, words: &[&str]) -> Value {
        let ended = Command::new(program())
            .args(words)
            .args(["--state", &self.file("state")])
            .output()
            .await
            .unwrap();
        assert!(
            ended.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        serde_json::from_slice(&ended.stdout).unwrap()
    }

    /// A tunnel with its CA, its proxy's certificate and callers from loopback: id and domain.
    async fn tunnel(&self) -> (String, String) {
        let tunnel = self.command(&["tunnel", "create", "--name", "test"]).await;
        let id = tunnel["id"].as_str().unwrap().to_owned();
        let domain = tunnel["domain"].as_str().unwrap().to_owned();
        let pair = self.issuer.pair_of(&server(&domain, DAY), now());
        self.write("leaf.crt", &pair.chain_pem());
        self.write("leaf.key", &pair.key_pem());
        let ca = self.file("tunnel-ca.pem");
        self.command(&["certificate", "add", &id, &ca]).await;
        let access = self.write("access.json", r#"{"cidrs":["127.0.0.0/8"]}"#);
        self.command(&["access", "set", &id, &access, "--if-version", "0"])
            .await;
        (id, domain)
    }

    async fn proxy(&self, name: &str, (id, domain): &(String, String), secret: &str) -> Program {
        let (_, health) = ports();
        let secret = self.write(&format!("{name}.secret"), secret);
        let at = self.folder.path().display();
        let text = format!(
            "tunnel_domain: {domain}\nhealth: {{listen_addr: '{health}'}}\n\
             tls: {{cert_file: {at}/leaf.crt, key_file: {at}/leaf.key}}\n\
             carriers:\n  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: ['{address}']\n\
             \x20   allow_without_client_certificate: true\n    ca_file: {at}/front-ca.pem\n\
             \x20   tunnel: {id}\n    secret_file: {secret}\n    replica: {name}\n\
             upstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes:\n  up: http://{upstream}\n",
            address = self.address,
            port = self.address.port(),
            upstream = self.upstream.address,
        );
        let config = self.write(&format!("{name}.yaml"), &text);
        let log = self.folder.path().join(format!("{name}.log"));
        let proxy = Programs::beside().unwrap().proxy;
        Program::start(&proxy, &["--config", &config], health, log).await
    }

    /// Status and body of what curl gets.
    async fn curl(&self, host: &str, path: &str, ca: &str, more: &[&str]) -> (u16, String) {
        let ended = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "20",
                "-w",
                "\n%{http_code}",
                "--cacert",
                &self.file(ca),
            ])
            .args(["--connect-to", &format!("{host}:443:{}", self.address)])
            .args(more)
            .arg(format!("https://{host}{path}"))
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(ended.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or_default(), body.to_owned())
    }

    async fn api(&self, path: &str, more: &[&str]) -> (u16, Value) {
        let host = format!("api.{EDGE}");
        let (status, body) = self.curl(&host, path, "front-ca.pem", more).await;
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    async fn call(&self, domain: &str) -> u16 {
        self.curl(&format!("up.{domain}"), "/call", "tunnel-ca.pem", &[])
            .await
            .0
    }
}

fn program() -> PathBuf {
    Programs::beside()
        .unwrap()
        .proxy
        .with_file_name("keyward-edge")
}

fn sha256(value: &str) -> String {
    pki::Fingerprint::of(value.as_bytes()).to_string()
}

#[tokio::test]
async fn a_tunnel_made_by_the_command_line_carries_calls_until_its_secret_is_archived() {
    let world = World::start().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let (a, b) = (sha256("secret-a"), sha256("secret-b"));
    let first = world.command(&["secret", "add", id, &a]).await;
    assert_eq!(first["enforced"], json!({"instances": 1, "of": 1}));
    let proxy = world.proxy("one", &tunnel, "secret-a").await;
    proxy.ready().await;
    assert_eq!(world.call(domain).await, 200);
    let live = async || {
        let listed = world.command(&["secret", "list", id]).await;
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|secret| secret["live"].as_array().unwrap().len())
            .sum::<usize>()
    };
    until("both connections in the list", async || {
        (live().await == 2).then_some(())
    })
    .await;

    // Verifiers first, users second, verifiers last: no call fails.
    world.command(&["secret", "add", id, &b]).await;
    let thief = world.proxy("thief", &tunnel, "secret-a").await;
    thief.ready().await;
    world.write("one.secret", "secret-b");
    world.edge.logs("bound to another", 2).await;
    let archive = ["secret", "archive", id, first["id"].as_str().unwrap()];
    let begun = Instant::now();
    let archived = world.command(&archive).await;
    assert_eq!(archived["enforced"], json!({"instances": 1, "of": 1}));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        world.edge.metric("keyward_edge_links").await,
        2,
        "the thief's are gone when it is answered"
    );
    assert_eq!(world.call(domain).await, 200);

    let suspended = world.command(&["tunnel", "suspend", id]).await;
    assert_eq!(suspended["enforced"], json!({"instances": 1, "of": 1}));
    assert_eq!(world.call(domain).await, 0);
    world.command(&["tunnel", "resume", id]).await;
    until("calls again", async || {
        (world.call(domain).await == 200).then_some(())
    })
    .await;
    world.command(&["tunnel", "archive", id]).await;
    assert_eq!(world.call(domain).await, 0);
    assert_eq!(world.edge.metric("keyward_edge_links").await, 0);
}

#[tokio::test]
async fn the_tunnels_api_is_served_beside_the_tunnels_and_the_state_outlives_the_edge() {
    let world = World::start().await;
    let (status, edge) = world.api("/v1/edge", &[]).await;
    assert_eq!((status, &edge["name"]), (200, &json!(EDGE)));
    let ca = std::fs::read_to_string(world.file("front-ca.pem")).unwrap();
    assert_eq!(edge["edge_ca_certificates"], json!([ca]));
    let (status, refused) = world.api("/v1/tunnels", &["--http1.1"]).await;
    assert_eq!(
        (status, &refused["error"]["type"]),
        (401, &json!("authentication_error"))
    );
    let body = r#"{"grant_type":"urn:ietf:params:oauth:grant-type:jwt-bearer","assertion":"x","federation_rule_id":"fdrl_0"}"#;
    let json_body = [
        "--http2",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ];
    let (status, _) = world.api("/v1/oauth/token", &json_body).await;
    assert_eq!(status, 401);
    let audit = world.command(&["audit"]).await;
    assert_eq!(audit["data"][0]["action"], "tunnel_access_token_refused");
    assert_eq!(
        audit["data"][0]["actor"],
        format!("source:{}", std::net::Ipv4Addr::LOCALHOST)
    );

    let (id, domain) = world.tunnel().await;
    let World { folder, edge, .. } = world;
    drop(edge);
    let listed = Command::new(program())
        .args(["tunnel", "list", "--state"])
        .arg(folder.path().join("state"))
        .output()
        .await
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["domain"]),
        (&json!(id), &json!(domain))
    );
}
