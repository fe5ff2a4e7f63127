//! The agent's side: a caller that takes nothing but a URL, through outer and inner mutual TLS.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::stand::{EDGE, Stand, Tunnel};
use crate::rig::{DOMAIN, Issuer, until};

pub(crate) const CLIENTS: &str =
    "client_ca_files: [FOLDER/client-ca.pem], streams: 100000, connections_per_minute: 10000000";

/// `keyward-edge agent`. Dropped, it is killed.
pub(crate) struct Agent {
    pub(crate) address: SocketAddr,
    pub(crate) child: Child,
    log: String,
}

impl Agent {
    /// For the stand's tunnel, with its files; `words` come last.
    pub(crate) async fn start(stand: &Stand, words: &[&str]) -> Self {
        let address = stand.address.to_string();
        let known = ["--edge-address", &*address];
        Self::at(stand, &[&known[..], words].concat()).await
    }

    /// The same without an address.
    pub(crate) async fn at(stand: &Stand, words: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = stand.file(&format!("agent-{number}.log"));
        let mut child = command(stand, words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let address = until("the agent", async || {
            let text = std::fs::read_to_string(&log).unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the agent ended with {status}: {text}");
            }
            let line = text.lines().find(|line| line.contains("agent serves"))?;
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["listen"].as_str().unwrap().parse().ok()
        })
        .await;
        Self {
            address,
            child,
            log,
        }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until `part` was logged at least `times` times.
    async fn logs(&self, part: &str, times: usize) {
        until(part, async || {
            (self.log().matches(part).count() >= times).then_some(())
        })
        .await;
    }

    /// One request on a connection of its own: head and body as they came.
    async fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}", self.address);
        self.ask(&head).await
    }

    /// A call that is to fail: what it is told.
    async fn fails(&self, layer: &str, reason: &str) {
        let answer = self.get("/up/call").await;
        let sound = answer.contains(&format!("\"layer\":\"{layer}\"")) && answer.contains(reason);
        assert!(sound, "{layer}, {reason}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    }

    /// An event stream that has reached the server.
    async fn events(&self, stand: &Stand) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET /up/events HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        until("the event stream", async || {
            (stand.upstream.streams() == 1).then_some(())
        })
        .await;
        stream
    }

    async fn works(&self) {
        let answer = self.get("/up/call").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// The program with the words that say which tunnel and with what, unless `words` say it.
pub(crate) fn command(stand: &Stand, words: &[&str]) -> Command {
    let known = [
        ("--edge", format!("https://{EDGE}:{}", stand.address.port())),
        ("--edge-ca", stand.file("front-ca.pem")),
        ("--tunnel-domain", DOMAIN.to_owned()),
        ("--cert", stand.file("agent.crt")),
        ("--key", stand.file("agent.key")),
        ("--ca", stand.file("tunnel-ca.pem")),
        ("--listen", "127.0.0.1:0".to_owned()),
    ];
    let mut command = Command::new(super::stand::program());
    command.arg("agent").env_clear().kill_on_drop(true);
    for (word, value) in known {
        if !words.contains(&word) {
            command.args([word, &value]);
        }
    }
    command.args(words);
    command
}

/// A stand whose edge and whose proxy both want the client certificate; `more` are further routes.
pub(crate) async fn mutual(more: &str) -> Stand {
    let mut stand = Stand::start(0, CLIENTS).await;
    let proxy = stand.proxy("mutual", "mutual", more).await;
    proxy.ready().await;
    stand.proxies.push(proxy);
    stand
}

#[tokio::test]
async fn a_caller_with_nothing_but_a_url_is_carried_by_path_and_by_host() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let port = agent.address.port();
    for (host, path) in [
        (agent.address.to_string(), "/up/mcp?a=b"),
        (format!("localhost:{port}"), "/up/mcp?a=b"),
        (format!("up.localhost:{port}"), "/mcp?a=b"),
    ] {
        let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}";
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(agent.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok"),
            "{host}: {answer}"
        );
    }
    assert_eq!(stand.upstream.seen(|line| line == "POST /mcp").len(), 3);
    // Several calls on one connection through the tunnel, and each connection shows its certificate.
    let opened = stand.edge.metric("keyward_edge_streams").await;
    assert!(opened <= 1, "{opened}");
    let documents = [
        (
            "/.well-known/oauth-protected-resource/up/mcp",
            "GET /.well-known/oauth-protected-resource/mcp",
        ),
        (
            "/up/.well-known/openid-configuration",
            "GET /.well-known/openid-configuration",
        ),
    ];
    for (asked, seen) in documents {
        assert!(
            agent.get(asked).await.starts_with("HTTP/1.1 200"),
            "{asked}"
        );
        assert_eq!(stand.upstream.seen(|line| line == seen).len(), 1, "{asked}");
    }
}

#[tokio::test]
async fn a_long_request_and_a_long_answer_go_through_as_they_come() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let mut stream = TcpStream::connect(agent.address).await.unwrap();
    let head = format!(
        "POST /up/long HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        agent.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // It is at the server before it is at its end.
    stream.write_all(b"5\r\nhello\r\n").await.unwrap();
    until("the request's begin", async || {
        (!stand.upstream.seen(|line| line == "POST /long").is_empty()).then_some(())
    })
    .await;
    let piece = vec![b'x'; 0x10000];
    for _ in 0..32 {
        stream.write_all(b"10000\r\n").await.unwrap();
        stream.write_all(&piece).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn events_come_one_by_one_and_a_caller_that_leaves_cancels_at_the_server() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let mut stream = agent.events(&stand).await;
    let mut seen = String::new();
    let mut piece = [0; 4096];
    for number in 0..20 {
        stand.upstream.say(number);
        let event = format!("data: {number}\n\n");
        while !seen.contains(&event) {
            let read = stream.read(&mut piece).await.unwrap();
            assert!(read > 0, "the stream ended: {seen}");
            seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
        }
    }
    drop(stream);
    until("the end at the server", async || {
        (stand.upstream.streams() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_protocol_is_carried_both_ways() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let mut stream = TcpStream::connect(agent.address).await.unwrap();
    let head = format!(
        "GET /up/ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n",
        agent.address
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        seen.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(seen).unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("upgrade: echo"),
        "{head}"
    );
    for word in [&b"one"[..], b"another"] {
        stream.write_all(word).await.unwrap();
        let mut back = vec![0; word.len()];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(back, word);
    }
}

#[tokio::test]
async fn foreign_names_and_foreign_pages_reach_nothing() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let here = agent.address;
    for (head, status) in [
        (
            "GET /up/mcp HTTP/1.1\r\nHost: evil.example".to_owned(),
            "403",
        ),
        ("GET /mcp HTTP/1.1\r\nHost: up.t.example".to_owned(), "403"),
        (
            "GET /mcp HTTP/1.1\r\nHost: up.localhost.evil.example".to_owned(),
            "403",
        ),
        (
            format!("GET http://evil.example/up/mcp HTTP/1.1\r\nHost: {here}"),
            "403",
        ),
        (
            format!("GET /up/mcp HTTP/1.1\r\nHost: {here}\r\nOrigin: https://evil.example"),
            "403",
        ),
        (
            format!("GET /up/mcp HTTP/1.1\r\nHost: {here}\r\nOrigin: null"),
            "403",
        ),
        (
            format!(
                "GET /up/mcp HTTP/1.1\r\nHost: {here}\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors"
            ),
            "403",
        ),
        (
            format!("GET /up/mcp HTTP/1.1\r\nHost: {here}\r\nHost: {here}"),
            "4",
        ),
        ("GET /up/mcp HTTP/1.1".to_owned(), "4"),
        (format!("GET / HTTP/1.1\r\nHost: {here}"), "404"),
        (
            format!("CONNECT up.t.example:443 HTTP/1.1\r\nHost: {here}"),
            "40",
        ),
    ] {
        let answer = agent.ask(&head).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{head}: {answer}"
        );
    }
    assert_eq!(stand.upstream.seen(|_| true), Vec::<String>::new());
    let page = format!("GET /up/mcp HTTP/1.1\r\nHost: {here}\r\nOrigin: http://localhost:6274");
    assert!(agent.ask(&page).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_refusal_names_its_layer_and_its_reason() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    agent.works().await;
    let refused = async |access: &str, times: usize, reason: &str| {
        stand.tell(&Tunnel::open_to(access));
        stand.edge.logs("tunnels taken", times).await;
        until("the end of what is open", async || {
            (stand.edge.metric("keyward_edge_streams").await == 0).then_some(())
        })
        .await;
        agent.fails("edge policy", reason).await;
    };
    let certificate = std::fs::read_to_string(stand.file("agent.crt")).unwrap();
    let leaf = pki::Certificate::from_pem(&certificate).unwrap();
    let denied = format!("{CLIENTS}, denied: ['{}']", leaf.fingerprint());
    refused(&denied, 2, "certificate_denied").await;
    refused(
        &format!("{CLIENTS}, clients: ['other.*']"),
        3,
        "client_not_listed",
    )
    .await;
    std::fs::write(stand.file("other-ca.pem"), Issuer::new().client_ca_pem()).unwrap();
    refused("client_ca_files: [FOLDER/other-ca.pem]", 4, "unknown_ca").await;
    stand.tell(&Tunnel::open_to(CLIENTS));
    stand.edge.logs("tunnels taken", 5).await;
    agent.works().await;

    let elsewhere = Agent::start(&stand, &["--tunnel-domain", "other.example"]).await;
    elsewhere.fails("edge policy", "unknown_tunnel").await;
    drop(elsewhere);
    let foreign = Issuer::new().ca_pem();
    std::fs::write(stand.file("foreign.pem"), foreign).unwrap();
    let foreign = stand.file("foreign.pem");
    let agent = Agent::start(&stand, &["--ca", &foreign]).await;
    agent.fails("tunnel certificate", "is not trusted").await;
    let agent = Agent::start(&stand, &["--edge-ca", &foreign]).await;
    agent.fails("edge certificate", "is not trusted").await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = free.local_addr().unwrap().to_string();
    drop(free);
    let agent = Agent::at(&stand, &["--edge-address", &dead]).await;
    agent.fails("edge", &dead).await;
}

#[tokio::test]
async fn a_proxy_that_refuses_the_certificate_is_told_apart_from_the_edge() {
    let mut stand = mutual("").await;
    // The edge takes another client CA than the proxy.
    stand.proxies.clear();
    let other = Issuer::new();
    std::fs::write(stand.file("other-ca.pem"), other.client_ca_pem()).unwrap();
    let text = std::fs::read_to_string(stand.file("mutual.yaml")).unwrap();
    let text = text.replace("client-ca.pem", "other-ca.pem");
    let proxy = stand.with_config("strict", &text).await;
    proxy.ready().await;
    let agent = Agent::start(&stand, &[]).await;
    agent
        .fails("client certificate", "refuses the client certificate")
        .await;
    drop(proxy);
    until("no proxy", async || {
        (stand.edge.metric("keyward_edge_links").await == 0).then_some(())
    })
    .await;
    agent.fails("edge policy", "no_proxy").await;
}

#[tokio::test]
async fn every_file_is_taken_up_while_calls_go_through_and_a_bad_one_is_not() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    agent.works().await;
    // Half of a pair is no pair.
    let (certificate, key) = stand.issuer.client("renewed.example");
    stand.replace("agent.crt", &certificate);
    agent.logs("files not taken", 1).await;
    agent.works().await;
    // The whole one is shown from there on.
    stand.replace("agent.key", &key);
    agent.logs("files taken", 2).await;
    stand.tell(&Tunnel::open_to(&format!(
        "{CLIENTS}, clients: ['renewed.*']"
    )));
    stand.edge.logs("tunnels taken", 2).await;
    agent.works().await;
    // The tunnel's CA, and back.
    let good = std::fs::read_to_string(stand.file("tunnel-ca.pem")).unwrap();
    let foreign = Issuer::new().ca_pem();
    stand.replace("tunnel-ca.pem", &foreign);
    agent.logs("files taken", 3).await;
    agent.fails("tunnel certificate", "is not trusted").await;
    stand.replace("tunnel-ca.pem", &format!("{foreign}{good}"));
    agent.logs("files taken", 4).await;
    agent.works().await;
    // The edge's.
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    stand.replace("front-ca.pem", &foreign);
    agent.logs("files taken", 5).await;
    agent.fails("edge certificate", "is not trusted").await;
    stand.replace("front-ca.pem", &front);
    agent.logs("files taken", 6).await;
    agent.works().await;
    for (file, bad) in [
        ("tunnel-ca.pem", "no PEM"),
        ("agent.key", ""),
        ("front-ca.pem", "x"),
    ] {
        let before = std::fs::read_to_string(stand.file(file)).unwrap();
        let times = agent.log().matches("files not taken").count();
        stand.replace(file, bad);
        agent.logs("files not taken", times + 1).await;
        agent.works().await;
        stand.replace(file, &before);
        until("the same file again", async || {
            (std::fs::read_to_string(stand.file(file)).ok()? == before).then_some(())
        })
        .await;
    }
    let log = agent.log();
    assert!(!log.contains("PRIVATE") && !log.contains("BEGIN"), "{log}");
}

#[tokio::test]
async fn a_stream_that_runs_goes_on_when_the_files_change() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let mut stream = agent.events(&stand).await;
    let (certificate, key) = stand.issuer.client("renewed.example");
    stand.replace("agent.key", &key);
    stand.replace("agent.crt", &certificate);
    agent.logs("files taken", 2).await;
    agent.works().await;
    stand.upstream.say(7);
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !seen.contains("data: 7") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
}

#[tokio::test]
async fn an_address_that_is_dead_or_has_no_proxy_is_passed_over() {
    let stand = mutual("").await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead = free.local_addr().unwrap().to_string();
    drop(free);
    // Takes the connection and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = mute.local_addr().unwrap().to_string();
    let (_second, lonely) = stand.second().await;
    let (lonely, good) = (lonely.to_string(), stand.address.to_string());
    for first in [&dead, &silent, &lonely] {
        let words = ["--edge-address", first, "--edge-address", &good];
        let agent = Agent::at(&stand, &words).await;
        agent.works().await;
        agent.works().await;
    }
}

#[tokio::test]
async fn calls_go_on_by_the_other_edge_when_one_is_killed() {
    let mut stand = Stand::start(0, CLIENTS).await;
    stand.tell(&Tunnel {
        instances: 2,
        ..Tunnel::open_to(CLIENTS)
    });
    let (second, address) = stand.second().await;
    let both = format!("    addresses: ['{}', '{address}']\n", stand.address);
    let proxy = stand.proxy_at("several", &both).await;
    for edge in [&stand.edge, &second] {
        until("connections to both", async || {
            (edge.metric("keyward_edge_links").await == 2).then_some(())
        })
        .await;
    }
    let other = address.to_string();
    let agent = Agent::start(&stand, &["--edge-address", &other]).await;
    agent.works().await;
    assert_eq!(stand.edge.metric("keyward_edge_streams").await, 1);
    stand.edge.end(rustix::process::Signal::KILL).await;
    for _ in 0..10 {
        agent.works().await;
    }
    stand.restart().await;
    drop(second);
    until("the first edge's connections", async || {
        (stand.edge.metric("keyward_edge_links").await == 2).then_some(())
    })
    .await;
    for _ in 0..10 {
        agent.works().await;
    }
    drop(proxy);
}

#[tokio::test]
async fn it_listens_on_loopback_unless_told_otherwise_and_ends_when_asked() {
    let stand = Stand::start(0, CLIENTS).await;
    let refused = command(&stand, &["--listen", "0.0.0.0:0"])
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(64));
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("--allow-remote"), "{said}");
    let missing = command(&stand, &["--key", "/nowhere"])
        .output()
        .await
        .unwrap();
    assert_eq!(missing.status.code(), Some(78));
    let swapped = stand.file("tunnel-ca.pem");
    let foreign = command(&stand, &["--cert", &swapped])
        .output()
        .await
        .unwrap();
    assert_eq!(foreign.status.code(), Some(78));

    let mut agent = Agent::start(&stand, &[]).await;
    let id = i32::try_from(agent.child.id().unwrap()).unwrap();
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    assert!(agent.child.wait().await.unwrap().success());
}
