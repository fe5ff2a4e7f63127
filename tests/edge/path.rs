//! The whole path: agent, edge, proxy, upstream.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Request;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::stand::{EDGE, OPEN, Stand};
use crate::rig::{HOST, Hello, Line, line, until};

const CLIENTS: &str = "client_ca_files: [FOLDER/client-ca.pem]";

#[tokio::test]
async fn a_call_goes_through_on_both_versions_of_http_and_nothing_of_it_is_ended_on_the_way() {
    let stand = Stand::start(1, OPEN).await;
    let mut line = stand.line().await.unwrap();
    for _ in 0..3 {
        assert_eq!(line.get("/hello").await.unwrap().status, 200);
    }
    let port = stand.address.port();
    let resolve = format!("{HOST}:{port}:{}", stand.address.ip());
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["-sS", version, "--resolve", &resolve, "--cacert"])
            .arg(stand.file("tunnel-ca.pem"))
            .arg(format!("https://{HOST}:{port}/curl"))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"ok", "{version}: {said}");
    }
    assert_eq!(stand.upstream.seen(|line| line == "GET /curl").len(), 2);
}

#[tokio::test]
async fn openssl_sees_the_tunnels_certificate_through_the_edge_and_no_other() {
    let stand = Stand::start(1, OPEN).await;
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-brief",
            "-verify_return_error",
            "-servername",
            HOST,
        ])
        .args([
            "-verify_hostname",
            HOST,
            "-connect",
            &stand.address.to_string(),
        ])
        .args(["-CAfile", &stand.file("tunnel-ca.pem")])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Verification: OK"), "{said}");
    assert!(said.contains("TLSv1.3"), "{said}");
}

/// `curl --proxy https://agents.EDGE`, with these further words.
async fn curl(stand: &Stand, words: &[&str]) -> (String, String) {
    let port = stand.address.port();
    let resolve = format!("agents.{EDGE}:{port}:{}", stand.address.ip());
    let output = Command::new("curl")
        .args([
            "-sS",
            "--resolve",
            &resolve,
            "--cacert",
            &stand.file("tunnel-ca.pem"),
        ])
        .args(["--proxy", &format!("https://agents.{EDGE}:{port}")])
        .args(["--proxy-cacert", &stand.file("front-ca.pem")])
        .args(words)
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn curl_calls_through_outer_and_inner_mutual_tls() {
    let mut stand = Stand::start(0, CLIENTS).await;
    let proxy = stand.proxy("mutual", "mutual", "").await;
    proxy.ready().await;
    stand.proxies.push(proxy);
    let (certificate, key) = (stand.file("agent.crt"), stand.file("agent.key"));
    let outer = ["--proxy-cert", &*certificate, "--proxy-key", &*key];
    let inner = ["--cert", &*certificate, "--key", &*key];
    let url = format!("https://{HOST}/both");
    let both = [&outer[..], &inner[..], &[&*url]].concat();
    let (answer, said) = curl(&stand, &both).await;
    assert_eq!(answer, "ok", "{said}");

    // Without the outer certificate the edge refuses, without the inner one the proxy.
    let (_, said) = curl(&stand, &[&inner[..], &[&*url]].concat()).await;
    assert!(said.contains("403"), "{said}");
    // What the proxy says reaches the caller before the end of the tunnel does, each time.
    for _ in 0..20 {
        let (answer, said) = curl(&stand, &[&outer[..], &[&*url]].concat()).await;
        assert!(
            answer.is_empty() && said.contains("alert certificate required"),
            "{said}"
        );
    }
    // Passthrough cannot show an outer certificate at all.
    assert!(stand.line().await.is_err());
    let name = "keyward_edge_refusals_total{reason=\"certificate_required\"}";
    assert_eq!(stand.edge.metric(name).await, 2);
    assert_eq!(stand.upstream.seen(|line| line == "GET /both").len(), 1);
}

#[tokio::test]
async fn a_proxy_on_this_carrier_serves_nobody_without_a_client_ca_unless_told_so() {
    let stand = Stand::start(1, OPEN).await;
    let warned = "callers need no client certificate";
    stand.proxies[0].logs(warned, 1).await;
    let config = std::fs::read_to_string(stand.file("replica-0.yaml")).unwrap();
    let config = config.replace("    allow_without_client_certificate: true\n", "");
    std::fs::write(stand.file("strict.yaml"), config).unwrap();
    let program = demo::stack::Programs::beside().unwrap().proxy;
    let output = Command::new(program)
        .args(["--config", &stand.file("strict.yaml"), "--check"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("tls.client_ca"), "{said}");
}

#[tokio::test]
async fn calls_are_shared_among_proxies_and_go_on_when_one_stops() {
    let mut stand = Stand::start(2, OPEN).await;
    stand.links(4).await;
    let mut lines = Vec::new();
    for _ in 0..20 {
        lines.push(stand.line().await.unwrap());
    }
    for proxy in &stand.proxies {
        // A caller is through its handshake before the proxy has counted it.
        until("half of them", async || {
            (proxy.metric("keyward_connections").await == 10).then_some(())
        })
        .await;
    }
    let mut stopped = stand.proxies.remove(0);
    stopped.end(rustix::process::Signal::TERM).await;
    for _ in 0..20 {
        let mut line = stand.line().await.unwrap();
        assert_eq!(line.get("/after").await.unwrap().status, 200);
    }
    stand.links(2).await;
}

#[tokio::test]
async fn every_connection_is_back_within_three_seconds_of_an_edge_that_was_killed() {
    let mut stand = Stand::start(2, OPEN).await;
    stand.links(4).await;
    stand.edge.end(rustix::process::Signal::KILL).await;
    until("the proxies' notice", async || {
        let page = stand.proxies[0].page("/readyz").await?;
        page.contains("carrier edge: no connection").then_some(())
    })
    .await;
    stand.restart().await;
    let begun = tokio::time::Instant::now();
    stand.links(4).await;
    assert!(begun.elapsed().as_secs() < 3, "{:?}", begun.elapsed());
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/back").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_edge_is_known_by_the_pin_of_its_cas_key_and_by_no_other() {
    let stand = Stand::start(1, OPEN).await;
    let template = std::fs::read_to_string(stand.file("replica-0.yaml")).unwrap();
    let ca = template
        .lines()
        .find(|line| line.contains("ca_file:"))
        .unwrap();
    let pinned = |pem: &str| {
        let certificate = pki::Certificate::from_pem(pem).unwrap();
        let digits = pki::Fingerprint::of(certificate.public_key());
        template.replace(ca, &format!("    pin: 'sha256:{digits}'"))
    };
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let good = stand.with_config("pinned", &pinned(&front)).await;
    good.ready().await;
    stand.links(4).await;
    let bad = stand
        .with_config("misled", &pinned(&stand.issuer.ca_pem()))
        .await;
    bad.logs("edge not reached", 1).await;
    assert!(bad.log().contains("UnknownIssuer"), "{}", bad.log());
}

/// A forward proxy that notes what it is asked; it leads everybody to `to`, or nobody anywhere.
async fn forward(to: Option<SocketAddr>) -> (SocketAddr, Arc<Mutex<Vec<String>>>, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, tasks) = (Arc::new(Mutex::new(Vec::new())), Tasks::new());
    let (stop, noted) = (tasks.clone(), Arc::clone(&asked));
    tasks.spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.stopping() => return,
            };
            let (mut near, _) = accepted.unwrap();
            let (noted, inner) = (Arc::clone(&noted), stop.clone());
            stop.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(near.read_u8().await.unwrap());
                }
                noted.lock().unwrap().push(String::from_utf8(head).unwrap());
                let Some(to) = to else {
                    let refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n";
                    return near.write_all(refusal).await.unwrap();
                };
                near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    .await
                    .unwrap();
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                    () = inner.stopping() => {}
                }
            });
        }
    });
    (address, asked, tasks)
}

#[tokio::test]
async fn the_edge_is_reached_through_a_forward_proxy_with_credentials_out_of_a_file() {
    let stand = Stand::start(0, OPEN).await;
    std::fs::write(stand.file("credentials"), "user:password\n").unwrap();
    let keys = |address| {
        let credentials = stand.file("credentials");
        format!("    forward_proxy: {{url: 'http://{address}', credentials_file: {credentials}}}\n")
    };
    let (address, asked, tasks) = forward(Some(stand.address)).await;
    let proxy = stand.proxy("behind", &keys(address), "").await;
    proxy.ready().await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/far").await.unwrap().status, 200);
    let head = asked.lock().unwrap()[0].clone();
    let port = stand.address.port();
    assert!(
        head.starts_with(&format!("CONNECT api.{EDGE}:{port} HTTP/1.1\r\n")),
        "{head}"
    );
    assert!(
        head.contains("Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n"),
        "{head}"
    );
    tasks.stop();

    let (address, _, tasks) = forward(None).await;
    let refused = stand.proxy("refused", &keys(address), "").await;
    refused
        .logs("the forward proxy answered: HTTP/1.1 407", 1)
        .await;
    assert!(!refused.log().contains("password"), "{}", refused.log());
    tasks.stop();
}

#[tokio::test]
async fn one_connection_to_the_agents_door_carries_many_calls_over_http2() {
    let stand = Stand::start(1, CLIENTS).await;
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let client = stand.issuer.client("agent.example");
    let outer = Hello::trusting_with(&front, &client).alpn(b"h2");
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = ServerName::try_from(format!("agents.{EDGE}")).unwrap();
    let outer = TlsConnector::from(Arc::new(outer.0))
        .connect(name, tcp)
        .await
        .unwrap();
    let tasks = Tasks::new();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(outer));
    let (mut sender, connection) = handshake.await.unwrap();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    let mut open = Vec::new();
    for _ in 0..10 {
        let ask = Request::connect(format!("{HOST}:443"))
            .body(Empty::<Bytes>::new())
            .unwrap();
        let answer = sender.send_request(ask).await.unwrap();
        assert_eq!(answer.status(), 200);
        let stream = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
        let inner = Arc::new(Hello::new(&stand.issuer).0);
        let name = ServerName::try_from(HOST).unwrap();
        let mut inner = TlsConnector::from(inner)
            .connect(name, stream)
            .await
            .unwrap();
        let ask = format!("GET /many HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        inner.write_all(ask.as_bytes()).await.unwrap();
        let mut said = [0; 12];
        inner.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"HTTP/1.1 200");
        open.push(inner);
    }
    assert_eq!(stand.edge.metric("keyward_edge_streams").await, 10);
    let refused = Request::connect("up.other.example:443")
        .body(Empty::new())
        .unwrap();
    assert_eq!(sender.send_request(refused).await.unwrap().status(), 404);
    drop(open);
    drop(sender);
    until("their end", async || {
        (stand.edge.metric("keyward_edge_streams").await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_stops_under_load_loses_no_call() {
    let mut stand = Stand::start(2, OPEN).await;
    stand.links(4).await;
    let (stop, calls) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut load = JoinSet::new();
    for _ in 0..8 {
        let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
        let (address, hello) = (stand.address, Hello::new(&stand.issuer));
        load.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let tcp = line::connect(address).await.unwrap();
                let mut line = Line::on(tcp, &hello).unwrap();
                line.handshake().await.unwrap();
                assert_eq!(line.get("/load").await.unwrap().status, 200);
                calls.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let more = async |count: u64| {
        let whole = calls.load(Ordering::Relaxed) + count;
        until("calls", async || {
            (calls.load(Ordering::Relaxed) >= whole).then_some(())
        })
        .await;
    };
    more(100).await;
    let mut stopped = stand.proxies.remove(0);
    stopped.end(rustix::process::Signal::TERM).await;
    more(100).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = load.join_next().await {
        ended.unwrap();
    }
    stand.links(2).await;
}
