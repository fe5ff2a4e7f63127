//! The agent's side: a caller that takes nothing but a URL, through outer and inner mutual TLS.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::stand::{EDGE, Stand};
use crate::rig::{DOMAIN, until};

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
    pub(super) async fn logs(&self, part: &str, times: usize) {
        until(part, async || {
            (self.log().matches(part).count() >= times).then_some(())
        })
        .await;
    }

    /// One request on a connection of its own: head and body as they came.
    pub(super) async fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("{head}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(super) async fn get(&self, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: {}", self.address);
        self.ask(&head).await
    }

    /// A call that is to fail: what it is told.
    pub(super) async fn fails(&self, layer: &str, reason: &str) {
        let answer = self.get("/up/call").await;
        let sound = answer.contains(&format!("\"layer\":\"{layer}\"")) && answer.contains(reason);
        assert!(sound, "{layer}, {reason}: {answer}");
        assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
    }

    /// An event stream that has reached the server.
    pub(super) async fn events(&self, stand: &Stand) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!("GET /up/events HTTP/1.1\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        until("the event stream", async || {
            (stand.upstream.streams() == 1).then_some(())
        })
        .await;
        stream
    }

    pub(super) async fn works(&self) {
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
async fn the_program_of_an_agent_calls_over_ipv6() {
    let (_, health) = super::stand::ports();
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let both = format!("{CLIENTS}, cidrs: ['::1/128']");
    let upstream = crate::rig::Upstream::start().await;
    let mut stand = Stand::at((address, health), upstream, &both, "").await;
    let proxy = stand.proxy("six", "mutual", "").await;
    proxy.ready().await;
    stand.proxies.push(proxy);
    let agent = Agent::start(&stand, &["--listen", "[::1]:0"]).await;
    assert!(agent.address.is_ipv6());
    agent.works().await;
    stand.tell(&super::stand::Tunnel::open_to(&format!(
        "{CLIENTS}, cidrs: ['::2/128']"
    )));
    stand.edge.logs("tunnels taken", 2).await;
    agent.fails("edge policy", "address").await;
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
