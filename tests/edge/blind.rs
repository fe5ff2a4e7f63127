//! The edge is blind: of what goes through it nothing is on the wire beside it, in its memory, its files or its
//! log. The same searches find what must be there, so that each of them could fail. What the edge does see is
//! listed in `docs/what-the-edge-sees.md`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use process::Tasks;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;

use super::evidence::{Capture, Flow, canaries, canary, files, holds};
use super::stand::EDGE;
use super::world::{Kind, World, sha256};
use crate::rig::{memory, until};

/// What a call carries, beside what comes back.
const SENT: [&str; 6] = ["argument", "cookie", "path", "query", "session", "token"];

/// A server that answers a call with canaries of its own, at `/hold…` when it is told to.
struct Upstream {
    address: SocketAddr,
    release: watch::Sender<bool>,
    arrived: watch::Receiver<u32>,
}

impl Upstream {
    async fn start(tasks: &Tasks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (release, (count, arrived)) = (watch::Sender::new(false), watch::channel(0));
        let (told, stop) = (release.clone(), tasks.clone());
        tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = stop.stopping() => return,
                };
                let socket = TokioIo::new(accepted.unwrap().0);
                let (told, count, inner) = (told.clone(), count.clone(), stop.clone());
                stop.spawn(async move {
                    let service = service_fn(|request| {
                        let (told, count) = (told.subscribe(), count.clone());
                        async move { Ok::<_, Infallible>(answer(request, told, &count).await) }
                    });
                    tokio::select! {
                        _ = http1::Builder::new().serve_connection(socket, service) => {}
                        () = inner.stopping() => {}
                    }
                });
            }
        });
        Self {
            address,
            release,
            arrived,
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    mut told: watch::Receiver<bool>,
    count: &watch::Sender<u32>,
) -> Response<Full<Bytes>> {
    let held = request.uri().path().starts_with("/hold");
    // Held with its body unread, so that what was sent is still on its way.
    if held {
        count.send_modify(|count| *count += 1);
        let _ = told.wait_for(|told| *told).await;
    }
    let _ = request.into_body().collect().await;
    let result = format!(
        r#"{{"jsonrpc":"2.0","id":1,"result":{{"content":[{{"type":"text","text":"{}"}}]}}}}"#,
        canary("result").repeat(2000)
    );
    Response::builder()
        .header("content-type", "application/json")
        .header("set-cookie", canary("reply"))
        .body(Full::from(result))
        .unwrap()
}

/// The words for curl that make a call with a canary wherever one can be.
fn call() -> Vec<String> {
    let arguments = canary("argument").repeat(2000);
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"text":"{arguments}"}}}}}}"#
    );
    let headers = [
        "Content-Type: application/json".to_owned(),
        format!("Authorization: Bearer {}", canary("token")),
        format!("Cookie: {}", canary("cookie")),
        format!("Mcp-Session-Id: {}", canary("session")),
    ];
    let mut words = vec!["--http1.1".to_owned(), "-d".to_owned(), body];
    words.extend(
        headers
            .into_iter()
            .flat_map(|header| ["-H".to_owned(), header]),
    );
    words
}

fn path(kind: &str) -> String {
    format!("/{kind}/{}?q={}", canary("path"), canary("query"))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_what_goes_through_the_edge_can_be_found_there() {
    let tasks = Tasks::new();
    // It says all that it can say.
    let world = World::with(Kind::Sqlite, "log_level: debug\n").await;
    let upstream = Upstream::start(&tasks).await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let secret = "shared-secret-that-opens-the-tunnel";
    world.command(&["secret", "add", id, &sha256(secret)]).await;
    let edges = world.address.ip();
    let filter = format!("tcp and (host {edges} or port {})", upstream.address.port());
    let capture = Capture::start(world.folder.path(), &filter).await;
    let config = world.proxy_config("one", &tunnel, secret, &[world.address]);
    let (usual, own) = (world.upstream.address, upstream.address);
    let config = config.replace(&format!("http://{usual}"), &format!("http://{own}"));
    let proxy = world.proxy_with("one", &config).await;
    proxy.ready().await;

    let words = call();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let host = format!("up.{domain}");
    let pass = async |kind: &str| {
        let (status, body) = world
            .curl(&host, &path(kind), "tunnel-ca.pem", &words)
            .await;
        assert!(
            status == 200 && body.contains(&canary("result")),
            "{status} {body}"
        );
    };
    pass("call").await;
    // While a call is on its way, what it carries is in the proxy's memory, and not in the edge's.
    let mut arrived = upstream.arrived.clone();
    let looking = async {
        arrived.wait_for(|count| *count == 1).await.unwrap();
        let of_proxy = memory::of(proxy.id(), |_| true);
        let seen: Vec<_> = SENT
            .into_iter()
            .filter(|place| {
                of_proxy
                    .iter()
                    .any(|region| canaries(region).contains(*place))
            })
            .collect();
        assert!(
            seen.contains(&"token") && seen.contains(&"argument"),
            "{seen:?}"
        );
        blind(world.edge.id(), &host);
        upstream.release.send_replace(true);
    };
    tokio::join!(pass("hold"), looking);

    door(&world, &tunnel, &words).await;
    blind(world.edge.id(), &host);
    drop(proxy);
    until("the proxy's end", async || {
        (world.edge.metric("keyward_edge_links").await == 0).then_some(())
    })
    .await;
    blind(world.edge.id(), &host);

    let flows = capture.finish(world.address).await;
    unheard(&flows, edges, &host, secret);
    unwritten(&world, &tunnel, secret);
    tasks.stop();
}

/// Everything is on the wire behind the proxy, and nothing of it on either leg of the edge; its name is.
fn unheard(flows: &[Flow], edges: IpAddr, host: &str, secret: &str) {
    let (edge, behind): (Vec<_>, Vec<_>) = flows
        .iter()
        .partition(|flow| flow.from.ip() == edges || flow.to.ip() == edges);
    let mut plain = canaries(
        &behind
            .iter()
            .flat_map(|flow| flow.bytes.clone())
            .collect::<Vec<_>>(),
    );
    for place in SENT.into_iter().chain(["result", "reply"]) {
        assert!(
            plain.remove(place),
            "{place} is on the plain leg behind the proxy"
        );
    }
    let names = edge
        .iter()
        .filter(|flow| holds(&flow.bytes, host.as_bytes()));
    assert!(names.count() >= 2, "the server name is on the wire");
    for flow in edge {
        let found = canaries(&flow.bytes);
        assert!(found.is_empty(), "{} to {}: {found:?}", flow.from, flow.to);
        assert!(
            !holds(&flow.bytes, secret.as_bytes()),
            "{} to {}",
            flow.from,
            flow.to
        );
    }
}

/// Neither what the edge stores nor what it logs has anything of it, nor the secret.
fn unwritten(world: &World, (id, domain): &(String, String), secret: &str) {
    let stored = files(&world.folder.path().join("state"));
    assert!(stored.values().any(|bytes| holds(bytes, domain.as_bytes())));
    for (file, bytes) in &stored {
        let found = canaries(bytes);
        assert!(found.is_empty(), "{}: {found:?}", file.display());
        assert!(!holds(bytes, secret.as_bytes()), "{}", file.display());
    }
    let log = world.edge.log();
    assert!(
        log.contains(id) && log.contains("\"level\":\"DEBUG\""),
        "{log}"
    );
    assert!(
        canaries(log.as_bytes()).is_empty() && !log.contains(secret),
        "{log}"
    );
}

/// The same call through outer mutual TLS.
async fn door(world: &World, (id, domain): &(String, String), words: &[&str]) {
    let (certificate, key) = world.issuer.client("agent.example");
    let (certificate, key) = (
        world.write("agent.crt", &certificate),
        world.write("agent.key", &key),
    );
    let access = serde_json::json!({"client_ca_certificates": [world.issuer.client_ca_pem()]});
    let access = world.write("access.json", &access.to_string());
    world.command(&["access", "set", id, &access]).await;
    let port = world.address.port();
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "20",
            "--cacert",
            &world.file("tunnel-ca.pem"),
        ])
        .args([
            "--resolve",
            &format!("agents.{EDGE}:{port}:{}", world.address.ip()),
        ])
        .args(["--proxy", &format!("https://agents.{EDGE}:{port}")])
        .args(["--proxy-cacert", &world.file("front-ca.pem")])
        .args(["--proxy-cert", &certificate, "--proxy-key", &key])
        .args(words)
        .arg(format!("https://up.{domain}{}", path("door")))
        .output()
        .await
        .unwrap();
    let (body, said) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    assert!(canaries(&body).contains("result"), "{said}");
}

/// Nothing of a call is in the edge's memory; the name that it went to is.
fn blind(pid: u32, host: &str) {
    let mut named = false;
    for region in memory::of(pid, |_| true) {
        let found = canaries(&region);
        assert!(found.is_empty(), "in the edge's memory: {found:?}");
        named |= holds(&region, host.as_bytes());
    }
    assert!(named, "this finds what is there");
}
