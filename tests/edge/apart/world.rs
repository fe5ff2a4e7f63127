//! Edge, proxy, agent and upstream, each in a network of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use demo::stack::Programs;
use tokio::process::{Child, Command};

use super::super::network::{Namespace, Network};
use super::super::stand::{EDGE, TUNNEL, credentials, program};
use crate::real::installed;
use crate::rig::{DOMAIN, HOST, Issuer, LIMIT, until, until_for};

/// Everybody is alone, so that ports are free.
const EDGE_HEALTH: u16 = 9465;
pub(super) const PROXY_HEALTH: u16 = 9464;
/// An MCP server's place: answers a POST once it has all of it, and says an event now and then.
const UPSTREAM: &str = r#"
import http.server, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        whole = len(self.rfile.read(length)) == length
        self.send_response(200 if whole else 400)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"data: 1\n\n")
                self.wfile.flush()
                time.sleep(0.2)
        except OSError:
            pass
http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Handler).serve_forever()
"#;

/// A program in a namespace. Dropped, it is killed.
pub(super) struct Inside {
    child: Child,
    place: Arc<Namespace>,
    health: u16,
    log: PathBuf,
}

impl Inside {
    pub(super) fn start(
        place: &Arc<Namespace>,
        mut command: Command,
        health: u16,
        log: PathBuf,
    ) -> Self {
        let child = command
            .stdout(std::process::Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Self {
            child,
            place: Arc::clone(place),
            health,
            log,
        }
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(super) fn count(&self, part: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(part))
            .count()
    }

    pub(super) async fn logs(&self, limit: Duration, part: &str, times: usize) {
        until_for(limit, part, async || {
            (self.count(part) >= times).then_some(())
        })
        .await;
    }

    pub(super) async fn page(&self, path: &str) -> String {
        let mut curl = self.place.command("curl");
        curl.args(["-sS", "--max-time", "5"]);
        let url = format!("http://127.0.0.1:{}{path}", self.health);
        let output = curl.arg(url).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    pub(super) async fn ready(&self) {
        until("readiness", async || {
            self.page("/readyz")
                .await
                .starts_with("ready")
                .then_some(())
        })
        .await;
    }

    pub(super) async fn metric(&self, name: &str) -> Option<u64> {
        let page = self.page("/metrics").await;
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines.find_map(|rest| rest.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    pub(super) async fn end(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Programs before the namespaces, so that they end first.
pub(super) struct World {
    pub(super) upstream: Inside,
    pub(super) edge: Inside,
    pub(super) proxy: Inside,
    _agent: Inside,
    pub(super) network: Network,
    pub(super) folder: tempfile::TempDir,
}

impl World {
    /// Everything, ready.
    pub(super) async fn start() -> Self {
        let network = Network::new();
        let folder = tempfile::tempdir().unwrap();
        files(folder.path());
        let log = |name: &str| folder.path().join(format!("{name}.log"));
        let mut python = network.proxy.command(installed("python/bin/python"));
        python.args(["-u", "-c", UPSTREAM]);
        let upstream = Inside::start(&network.proxy, python, 8000, log("upstream"));
        let serve = edge_command(&network, folder.path(), &["serve"]);
        let edge = Inside::start(&network.edge, serve, EDGE_HEALTH, log("edge"));
        edge.ready().await;
        let proxy = Inside::start(
            &network.proxy,
            proxy_command(&network, folder.path(), &[]),
            PROXY_HEALTH,
            log("proxy"),
        );
        let agent = agent_command(&network, folder.path(), &[]);
        let agent = Inside::start(&network.agent, agent, 0, log("agent"));
        agent.logs(LIMIT, "agent serves", 1).await;
        let this = Self {
            upstream,
            edge,
            proxy,
            _agent: agent,
            network,
            folder,
        };
        this.proxy.ready().await;
        this.links(LIMIT, 2).await;
        until("a call", async || this.call().await.then_some(())).await;
        this
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(super) async fn links(&self, limit: Duration, count: u64) {
        until_for(limit, "the proxy's connections", async || {
            (self.edge.metric("keyward_edge_links").await == Some(count)).then_some(())
        })
        .await;
    }

    /// A call of some length from where the agent is, by the agent.
    pub(super) async fn call(&self) -> bool {
        self.curl(&["http://127.0.0.1:7777/up/mcp"]).await
    }

    /// The same on new connections, outer and inner, by curl alone.
    pub(super) async fn call_anew(&self) -> bool {
        let (edge, certificate, key) = (
            format!("agents.{EDGE}:443:{}", Network::EDGE_TO_AGENT),
            self.file("agent.crt"),
            self.file("agent.key"),
        );
        let proxy = format!("https://agents.{EDGE}:443");
        let (front, tunnel) = (self.file("front-ca.pem"), self.file("tunnel-ca.pem"));
        let outer = [
            "--resolve",
            &*edge,
            "--proxy",
            &*proxy,
            "--proxy-cacert",
            &*front,
            "--proxy-cert",
            &*certificate,
            "--proxy-key",
            &*key,
        ];
        let inner = [
            "--cacert",
            &*tunnel,
            "--cert",
            &*certificate,
            "--key",
            &*key,
        ];
        let url = format!("https://{HOST}/mcp");
        self.curl(&[&outer[..], &inner, &[&*url]].concat()).await
    }

    pub(super) async fn curl(&self, words: &[&str]) -> bool {
        let mut curl = self.network.agent.command("curl");
        curl.args([
            "-sS",
            "--max-time",
            "50",
            "--connect-timeout",
            "6",
            "-H",
            "Content-Type: application/json",
        ]);
        let body = format!("@{}", self.file("call.json"));
        let output = curl.args(["-d", &body]).args(words).output().await.unwrap();
        output.stdout == b"ok"
    }

    pub(super) fn calls(&self) -> usize {
        self.upstream.count("\"POST /mcp HTTP/1.1\" 200")
    }

    pub(super) async fn works_again(&self) {
        self.links(LIMIT, 2).await;
        self.proxy.ready().await;
        until("a call by the agent", async || {
            self.call().await.then_some(())
        })
        .await;
        assert!(self.call_anew().await);
    }
}

/// What all programs are told.
pub(super) fn files(folder: &Path) {
    credentials(folder, &Issuer::new());
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    let text = "x".repeat(50_000);
    write(
        "call.json",
        &format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"text":"{text}"}}}}"#
        ),
    );
    let at = folder.display();
    write(
        "edge.yaml",
        &format!(
            "listen_addr: 0.0.0.0:443\nname: {EDGE}\nhealth: {{listen_addr: '127.0.0.1:{EDGE_HEALTH}'}}\n\
             certificate: {{cert_file: {at}/front.crt, key_file: {at}/front.key}}\n\
             tunnels_file: {at}/tunnels.yaml\n"
        ),
    );
    let digest = pki::Fingerprint::of(b"secret-a");
    write(
        "tunnels.yaml",
        &format!(
            "tunnels:\n- id: {TUNNEL}\n  domain: {DOMAIN}\n  access: {{client_ca_files: [{at}/client-ca.pem]}}\n\
             \x20 secrets: [{{id: a, sha256: '{digest}'}}]\n"
        ),
    );
    let edge = Network::EDGE_TO_PROXY;
    write(
        "proxy.yaml",
        &format!(
            "tunnel_domain: {DOMAIN}\nhealth: {{listen_addr: '127.0.0.1:{PROXY_HEALTH}'}}\n\
             tls:\n  cert_file: {at}/leaf.crt\n  key_file: {at}/leaf.key\n  client_ca: {at}/client-ca.pem\n\
             carriers:\n  edge:\n    url: https://api.{EDGE}\n    addresses: ['{edge}:443']\n\
             \x20   ca_file: {at}/front-ca.pem\n    tunnel: {TUNNEL}\n    secret_file: {at}/secret\n\
             \x20   replica: far\nupstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes:\n  up: http://127.0.0.1:8000\n"
        ),
    );
}

pub(super) fn edge_command(network: &Network, folder: &Path, words: &[&str]) -> Command {
    let mut command = network.edge.command(program());
    command
        .args(words)
        .arg("--config")
        .arg(folder.join("edge.yaml"));
    command
}

pub(super) fn proxy_command(network: &Network, folder: &Path, words: &[&str]) -> Command {
    let mut command = network.proxy.command(Programs::beside().unwrap().proxy);
    command
        .arg("--config")
        .arg(folder.join("proxy.yaml"))
        .args(words);
    command
}

pub(super) fn agent_command(network: &Network, folder: &Path, words: &[&str]) -> Command {
    let mut command = network.agent.command(program());
    let address = format!("{}:443", Network::EDGE_TO_AGENT);
    command.args([
        "agent",
        "--edge",
        &format!("https://{EDGE}"),
        "--edge-address",
        &address,
    ]);
    command.args(["--tunnel-domain", DOMAIN]);
    for (word, file) in [
        ("--edge-ca", "front-ca.pem"),
        ("--cert", "agent.crt"),
        ("--key", "agent.key"),
        ("--ca", "tunnel-ca.pem"),
    ] {
        command.arg(word).arg(folder.join(file));
    }
    command.args(words);
    command
}
