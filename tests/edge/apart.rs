//! Edge, proxy and agent each in a network of its own, with packets lost and late, cables cut, one direction dead, and
//! firewalls that let through what the programs say they need. What toxiproxy cannot do (`toxics.rs`): it ends TCP itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use demo::stack::Programs;
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::network::{Namespace, Network};
use super::stand::{EDGE, TUNNEL, credentials};
use crate::real::installed;
use crate::rig::{DOMAIN, HOST, Issuer, LIMIT, until, until_for};

/// Everybody is alone, so that ports are free.
const EDGE_HEALTH: u16 = 9465;
const PROXY_HEALTH: u16 = 9464;
/// From the last that was heard to the end, with time for a busy machine.
const NOTICED: Duration = wire::PING_EVERY
    .saturating_add(wire::PING_TIMEOUT)
    .saturating_add(Duration::from_secs(10));

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
struct Inside {
    child: Child,
    place: Arc<Namespace>,
    health: u16,
    log: PathBuf,
}

impl Inside {
    fn start(place: &Arc<Namespace>, mut command: Command, health: u16, log: PathBuf) -> Self {
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

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn count(&self, part: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(part))
            .count()
    }

    async fn logs(&self, limit: Duration, part: &str, times: usize) {
        until_for(limit, part, async || {
            (self.count(part) >= times).then_some(())
        })
        .await;
    }

    async fn page(&self, path: &str) -> String {
        let mut curl = self.place.command("curl");
        curl.args(["-sS", "--max-time", "5"]);
        let url = format!("http://127.0.0.1:{}{path}", self.health);
        let output = curl.arg(url).output().await.unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    async fn ready(&self) {
        until("readiness", async || {
            self.page("/readyz")
                .await
                .starts_with("ready")
                .then_some(())
        })
        .await;
    }

    async fn metric(&self, name: &str) -> Option<u64> {
        let page = self.page("/metrics").await;
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines.find_map(|rest| rest.strip_prefix(' '))?;
        Some(value.parse().unwrap())
    }

    async fn end(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Programs before the namespaces, so that they end first.
struct World {
    upstream: Inside,
    edge: Inside,
    proxy: Inside,
    _agent: Inside,
    network: Network,
    folder: tempfile::TempDir,
}

impl World {
    /// Everything, ready.
    async fn start() -> Self {
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

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    async fn links(&self, limit: Duration, count: u64) {
        until_for(limit, "the proxy's connections", async || {
            (self.edge.metric("keyward_edge_links").await == Some(count)).then_some(())
        })
        .await;
    }

    /// A call of some length from where the agent is, by the agent.
    async fn call(&self) -> bool {
        self.curl(&["http://127.0.0.1:7777/up/mcp"]).await
    }

    /// The same on new connections, outer and inner, by curl alone.
    async fn call_anew(&self) -> bool {
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

    async fn curl(&self, words: &[&str]) -> bool {
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

    fn calls(&self) -> usize {
        self.upstream.count("\"POST /mcp HTTP/1.1\" 200")
    }

    async fn works_again(&self) {
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
fn files(folder: &Path) {
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

fn edge_command(network: &Network, folder: &Path, words: &[&str]) -> Command {
    let mut command = network.edge.command(super::stand::program());
    command
        .args(words)
        .arg("--config")
        .arg(folder.join("edge.yaml"));
    command
}

fn proxy_command(network: &Network, folder: &Path, words: &[&str]) -> Command {
    let mut command = network.proxy.command(Programs::beside().unwrap().proxy);
    command
        .arg("--config")
        .arg(folder.join("proxy.yaml"))
        .args(words);
    command
}

fn agent_command(network: &Network, folder: &Path, words: &[&str]) -> Command {
    let mut command = network.agent.command(super::stand::program());
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

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_lost_cost_no_call_and_no_connection() {
    let world = World::start().await;
    let network = &world.network;
    let places = [
        (&network.edge, &["proxy", "agent"][..]),
        (&network.proxy, &["edge"][..]),
        (&network.agent, &["edge"][..]),
    ];
    let losses = places.map(|(place, devices)| (place, place.lose(devices)));
    let before = world.calls();
    for number in 0..30 {
        assert!(world.call().await, "{number}");
    }
    for number in 0..5 {
        assert!(world.call_anew().await, "{number}");
    }
    assert_eq!(world.calls(), before + 35, "each once");
    let lost: u64 = losses.iter().map(|(place, loss)| place.lost(*loss)).sum();
    assert!(lost > 10, "{lost} packets were lost");
    let log = world.edge.log();
    assert!(!log.contains("proxy disconnected"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_cut_is_noticed_at_both_ends_and_calls_go_on_once_it_is_mended() {
    let world = World::start().await;
    let far = &world.network.proxy;
    let begun = Instant::now();
    for chain in ["INPUT", "OUTPUT"] {
        far.drop_all(chain);
    }
    // Nobody was told: only a ping that is not answered says it.
    world.links(NOTICED, 0).await;
    let ended = "connection to the edge ended";
    world.proxy.logs(NOTICED, ended, 2).await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    assert_eq!(world.edge.count("the proxy answers no ping"), 2);
    let page = world.proxy.page("/readyz").await;
    assert!(page.starts_with("not ready"), "{page}");
    let before = world.calls();
    assert!(!world.call().await && !world.call_anew().await);
    far.heal();
    world.works_again().await;
    assert_eq!(world.calls(), before + 2, "what was refused was not made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direction_that_is_dead_is_noticed_at_both_ends_and_so_is_a_proxy_that_dies_unheard() {
    let mut world = World::start().await;
    let ended = "connection to the edge ended";
    for (number, chain) in ["INPUT", "OUTPUT"].into_iter().enumerate() {
        world.network.proxy.drop_all(chain);
        let begun = Instant::now();
        world.links(NOTICED, 0).await;
        world.proxy.logs(NOTICED, ended, 2 * number + 2).await;
        assert!(begun.elapsed() < NOTICED, "{chain}: {:?}", begun.elapsed());
        world.network.proxy.heal();
        world.works_again().await;
    }
    let silent = "the proxy answers no ping";
    let before = world.edge.count(silent);
    world.network.proxy.drop_all("OUTPUT");
    // What the system would say for it is lost as well.
    world.proxy.end().await;
    world.links(NOTICED, 0).await;
    assert_eq!(world.edge.count(silent), before + 2);
    assert!(!world.call().await);
    world.network.proxy.heal();
    let command = proxy_command(&world.network, world.folder.path(), &[]);
    let log = world.folder.path().join("proxy-2.log");
    world.proxy = Inside::start(&world.network.proxy, command, PROXY_HEALTH, log);
    world.works_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_vanish_are_noticed_and_the_tunnel_is_not_touched() {
    let world = World::start().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut curl = world.network.agent.command("curl");
        curl.args(["-sSN", "http://127.0.0.1:7777/up/events"]);
        curl.stdout(std::process::Stdio::null());
        held.push(curl.stderr(std::process::Stdio::null()).spawn().unwrap());
    }
    until("their event streams", async || {
        (world.upstream.count("\"GET /events HTTP/1.1\" 200") == 3).then_some(())
    })
    .await;
    for chain in ["INPUT", "OUTPUT"] {
        world.network.agent.drop_all(chain);
    }
    // What is not acknowledged is given up after 45 seconds.
    until_for(2 * LIMIT, "the edge's notice", async || {
        (world.edge.metric("keyward_edge_streams").await == Some(0)).then_some(())
    })
    .await;
    until("the proxy's notice", async || {
        (world.proxy.metric("keyward_connections").await == Some(0)).then_some(())
    })
    .await;
    assert!(!world.edge.log().contains("proxy disconnected"));
    world.network.agent.heal();
    assert!(world.call_anew().await);
    until("a call by the agent", async || {
        world.call().await.then_some(())
    })
    .await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn firewalls_that_let_through_what_each_program_says_and_no_more_are_enough() {
    let mut world = World::start().await;
    let Network { edge, proxy, agent } = &world.network;
    let folder = world.folder.path();
    let told = async |mut command: Command| {
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let of_edge = told(edge_command(
        &world.network,
        folder,
        &["check", "--firewall"],
    ))
    .await;
    let words = ["--check", "--firewall"];
    let of_proxy = told(proxy_command(&world.network, folder, &words)).await;
    let of_agent = told(agent_command(&world.network, folder, &["--firewall"])).await;
    for place in [edge, proxy, agent] {
        place.close();
    }
    world.proxy.end().await;
    world.links(LIMIT, 0).await;
    let command = proxy_command(&world.network, folder, &[]);
    let log = folder.join("closed.log");
    world.proxy = Inside::start(proxy, command, PROXY_HEALTH, log);
    until("the proxy's page", async || {
        let page = world.proxy.page("/readyz").await;
        page.starts_with("not ready").then_some(())
    })
    .await;
    assert!(!world.call_anew().await, "nothing is open");

    edge.open(&of_edge);
    proxy.open(&of_proxy);
    assert!(
        !of_proxy
            .lines()
            .any(|line| line.starts_with("in\t") && !line.ends_with("this machine alone"))
    );
    world.links(LIMIT, 2).await;
    assert!(!world.call_anew().await, "the agent's is closed");
    agent.open(&of_agent);
    world.works_again().await;
}
