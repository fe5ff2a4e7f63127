//! What the agent's side refuses by itself, and how it says who else has refused a call.

use tokio::net::TcpListener;

use super::agent::{Agent, CLIENTS, mutual};
use super::stand::Tunnel;
use crate::rig::{Issuer, until};

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
