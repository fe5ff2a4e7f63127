//! Who holds which secret, seen from outside two programs that run as two users: what they show, what
//! is in their memory, and what one may do to the other. What concerns the daemon alone is in `cli`.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::io::AsyncWriteExt;

use crate::cli::process::{Daemon, KEYWARD, PROXY, Place, TOKEN};
use crate::rig::line::connect;
use crate::rig::{Canary, Carrier, Hello, Line, Proxy, Setup, Upstream, memory, until};

/// A daemon and a proxy, each as its own user, that say as much as they ever say.
struct Stage {
    place: Place,
    daemon: Daemon,
    proxy: std::sync::Arc<Proxy>,
}

impl Stage {
    async fn new() -> Self {
        let place = Place::new(KEYWARD);
        place.configure("subscribers: [65532]");
        let config = std::fs::read_to_string(place.path("keyward.yaml")).unwrap();
        let config = format!(
            "log_level: debug\n{}",
            config.replace("    client_ca: {}\n", "")
        );
        std::fs::write(place.path("keyward.yaml"), config).unwrap();
        let daemon = place.serve().await;
        let upstream = Upstream::start().await;
        let setup = Setup::new(&upstream)
            .subscribed(&place.path("run/control.sock"))
            .expecting_uid(KEYWARD)
            .log_level("debug")
            .user(PROXY, KEYWARD);
        let proxy = Proxy::start(&setup).await;
        proxy.ready().await;
        Self {
            place,
            daemon,
            proxy: proxy.into(),
        }
    }

    /// Trusts what the daemon's CA is now and what it will be next.
    async fn hello(&self) -> Hello {
        let status = self.place.keyward(&["status", "--json"]).await.json();
        let tunnel = &status["tunnels"]["main"];
        let pem = |key: &str| tunnel[key]["pem"].as_str().unwrap_or_default().to_owned();
        Hello::trusting(&[pem("ca"), pem("standby_ca")].concat())
    }

    /// Waits for the CA that a switch goes to.
    async fn standby(&self) {
        until("a standby CA", async || {
            let status = self.place.keyward(&["status", "--json"]).await.json();
            let standby = status["tunnels"]["main"]["standby_ca"]["pem"].as_str();
            standby.is_some().then_some(())
        })
        .await;
    }

    /// Every line of key material that is on the disk now.
    fn keys(&self, into: &mut BTreeSet<String>) {
        let mut left = vec![self.place.directory.path().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let kind = std::fs::symlink_metadata(&path).unwrap();
                if kind.is_dir() {
                    left.push(path);
                } else if kind.is_file() {
                    into.extend(key_lines(&path));
                }
            }
        }
    }
}

/// What is in a file of PEM that has a private key: its lines, and the number in the ways in which programs write bytes.
fn key_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut inside = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.starts_with("-----") {
            inside = line.starts_with("-----BEGIN") && line.contains("PRIVATE KEY");
        } else if inside && line.len() > 20 {
            lines.push(line.to_owned());
        }
    }
    if !lines.is_empty() {
        lines.extend(spellings(&scalar(&text)));
    }
    lines
}

/// Bytes as programs write them: hexadecimal, with and without colons, and Rust's `Debug`.
fn spellings(bytes: &[u8]) -> [String; 5] {
    let hexadecimal = |separator: &str| {
        let pairs: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        pairs.join(separator)
    };
    let list = format!("{bytes:?}");
    let list = list.trim_matches(['[', ']']).to_owned();
    [
        hexadecimal(""),
        hexadecimal("").to_uppercase(),
        hexadecimal(":"),
        hexadecimal(":").to_uppercase(),
        list,
    ]
}

/// F51.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_and_no_token_is_shown_by_either_program() {
    let stage = Stage::new().await;
    let mut secrets = BTreeSet::from([TOKEN.to_owned()]);
    let mut shown = String::new();
    stage.keys(&mut secrets);
    for arguments in [
        &["rotate", "server-certificate"][..],
        &["rotate", "server-certificate", "--json"],
        &["rotate", "ca"],
        &["rotate", "ca", "--trusted", "--json"],
        &["rotate", "nonsense"],
        &["status", "--json"],
    ] {
        stage.standby().await;
        let ended = stage.place.keyward(arguments).await;
        shown.extend([ended.stdout, ended.stderr]);
        stage.keys(&mut secrets);
    }
    // Errors and refusals at the proxy.
    let hello = stage.hello().await;
    let mut line = Line::open(&stage.proxy, Carrier::Tls, &hello)
        .await
        .unwrap();
    assert_eq!(line.get("/").await.unwrap().status, 200);
    line.send(b"GET / HTTP/1.1\r\nHost: none\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(line.answer().await.unwrap().status, 502);
    line.send(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(line.answer().await.unwrap().status, 400);
    let mut tcp = connect(stage.proxy.tls).await.unwrap();
    tcp.write_all(b"\x16\x03\x01\xff\xff").await.unwrap();
    stage.proxy.logs_at_least("tls handshake failed", 1).await;
    let untrusting = Hello::trusting("");
    assert!(
        Line::open(&stage.proxy, Carrier::Tls, &untrusting)
            .await
            .is_err()
    );

    for page in ["/metrics", "/readyz", "/healthz", "/nothing"] {
        shown.push_str(&stage.proxy.page(page).await.unwrap());
    }
    for pid in [stage.proxy.id(), stage.daemon.pid()] {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            shown.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    shown.push_str(&stage.proxy.log());
    shown.push_str(&stage.daemon.log());
    assert!(shown.contains("credential published"), "it was listened to");
    // One of the CA and one of the server at least, and those that took their place.
    assert!(secrets.len() > 8, "{}", secrets.len());
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()), "a secret is shown");
    }
}

/// The proxy holds a server certificate with its key, and nothing that could make another.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_the_proxy_holds_no_ca_key_and_no_token() {
    let stage = Stage::new().await;
    stage.place.keyward(&["rotate", "server-certificate"]).await;
    let hello = stage.hello().await;
    let mut line = Line::open(&stage.proxy, Carrier::Tls, &hello)
        .await
        .unwrap();
    assert_eq!(line.get("/").await.unwrap().status, 200);

    // What was mapped from a file is known; a secret is in what can be written.
    let memory = memory::of(stage.proxy.id(), |rights| rights.starts_with("rw"));
    let holds = |part: &[u8]| memory.iter().any(|region| find(region, part));
    let read = |name: &str| std::fs::read_to_string(stage.place.path(name)).unwrap();
    let leaf = pki::Certificate::from_pem(&read("store/tls.crt")).unwrap();
    assert!(holds(leaf.der().as_ref()), "this finds what is there");

    let text = read("store/ca.key");
    let ca_lines = key_lines(&stage.place.path("store/ca.key"));
    assert!(!ca_lines.is_empty() && text.contains("PRIVATE KEY"));
    for line in ca_lines {
        assert!(!holds(line.as_bytes()), "the CA key as text");
    }
    let mut scalar = scalar(&text);
    assert!(!holds(&scalar), "the CA key");
    // As a library for large numbers keeps it.
    scalar.reverse();
    assert!(!holds(&scalar), "the CA key");
    assert!(!holds(TOKEN.as_bytes()), "the tunnel token");
}

/// The secret number of a P-256 key in PKCS #8: RFC 5915 section 3, an octet string of 32.
fn scalar(pem: &str) -> Vec<u8> {
    let key = pki::PrivateKey::from_pem(pem).unwrap();
    assert_eq!(key.algorithm(), pki::Algorithm::EcdsaP256);
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    // In the alphabet for URLs, without padding (RFC 4648 section 5).
    let base64 = base64.replace('+', "-").replace('/', "_");
    let der = process::base64::decode_url(base64.trim_end_matches('=')).unwrap();
    let at = der.windows(2).position(|two| two == [0x04, 0x20]).unwrap();
    der[at + 2..at + 34].to_vec()
}

fn find(bytes: &[u8], part: &[u8]) -> bool {
    let first = part[0];
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
    starts
        .into_iter()
        .any(|(at, _)| bytes[at..].starts_with(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_program_leaves_a_core_and_nobody_reads_its_memory() {
    let stage = Stage::new().await;
    for (pid, own) in [(stage.proxy.id(), PROXY), (stage.daemon.pid(), KEYWARD)] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let words: Vec<&str> = core.unwrap().split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{core:?}");
        // Not even its own user: whoever breaks into one process of a user has not got the others.
        for uid in [own, KEYWARD, PROXY] {
            for file in ["mem", "environ", "maps"] {
                let path = format!("/proc/{pid}/{file}");
                let read = stage.place.probe(uid, "head", &["-c", "1", &path]).await;
                assert!(
                    read.stderr.contains("Permission denied"),
                    "{uid} {path}: {read:?}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_and_started_again_costs_no_call() {
    let stage = Stage::new().await;
    let carriers = [Carrier::Tls, Carrier::WebSocket];
    let canary = Canary::start(&stage.proxy, &stage.hello().await, &carriers);
    canary.more(4).await;
    stage.daemon.signal(rustix::process::Signal::KILL);
    stage.daemon.end().await;
    canary.more(10).await;
    let daemon = stage.place.serve().await;
    canary.more(4).await;
    let rotated = stage.place.keyward(&["rotate", "server-certificate"]).await;
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    canary.finish().await;
    let pem = std::fs::read_to_string(stage.place.path("store/tls.crt")).unwrap();
    let leaf = pki::Certificate::from_pem(&pem).unwrap().fingerprint();
    let ca = std::fs::read_to_string(stage.place.path("store/ca.crt")).unwrap();
    let hello = Hello::trusting(&ca);
    let line = Line::open(&stage.proxy, Carrier::Tls, &hello)
        .await
        .unwrap();
    assert_eq!(line.leaf(), leaf.to_string());
    drop(daemon);
}

/// Keys that were in force once are nowhere any more, neither as the text that was read nor as the number.
#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_the_daemon_holds_no_key_of_an_earlier_certificate() {
    let stage = Stage::new().await;
    let key = |name: &str| std::fs::read_to_string(stage.place.path(name)).unwrap();
    let mut earlier = vec![key("store/tls.key")];
    // A key that is made and one that is read leave their texts in different places.
    stage.daemon.signal(rustix::process::Signal::TERM);
    stage.daemon.end().await;
    let daemon = stage.place.serve().await;
    until("the proxy's return", async || {
        let status = stage.place.keyward(&["status", "--json"]).await.json();
        let mut replicas = status["replicas"].as_object().unwrap().values();
        replicas.any(|one| one["connected"] == true).then_some(())
    })
    .await;
    for _ in 0..6 {
        let rotated = stage.place.keyward(&["rotate", "server-certificate"]).await;
        assert_eq!(rotated.code, Some(0), "{rotated:?}");
        earlier.push(key("store/tls.key"));
    }
    let current = earlier.pop().unwrap();
    assert!(!earlier.contains(&current));
    let lines = |pem: &str| -> Vec<String> {
        let lines = pem
            .lines()
            .filter(|line| !line.starts_with('-') && line.len() > 20);
        lines.map(str::to_owned).collect()
    };
    // Each is kept for the case that the next one is refused, and let go once that is in force everywhere.
    until("the end of every key but one", async || {
        let memory = memory::of(daemon.pid(), |rights| rights.starts_with("rw"));
        let holds = |part: &[u8]| memory.iter().any(|region| find(region, part));
        let holds_text = |pem: &str| lines(pem).iter().any(|line| holds(line.as_bytes()));
        let holds_number = |pem: &str| {
            let mut number = scalar(pem);
            let forward = holds(&number);
            number.reverse();
            forward || holds(&number)
        };
        assert!(holds_text(&current), "this finds what is there");
        let held = earlier
            .iter()
            .any(|pem| holds_text(pem) || holds_number(pem));
        (!held).then_some(())
    })
    .await;
}
