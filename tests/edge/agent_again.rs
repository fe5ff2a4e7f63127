//! Edges and proxies that are not there, or not any more: where the agent goes instead, and which calls it makes
//! again.

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::agent::{Agent, CLIENTS, mutual};
use super::stand::{Stand, Tunnel};
use crate::rig::until;

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
    stand.edge.end(Signal::KILL).await;
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

/// A call that the server takes and does not answer; the answer, once there is one.
async fn held(agent: &Agent, method: &str) -> String {
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#;
    let (address, length) = (agent.address, body.len());
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} /up/held HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn taken(stand: &Stand, method: &str, times: usize) {
    let line = format!("{method} /held");
    until("the server to take it", async || {
        (stand.upstream.seen(|seen| seen == line).len() >= times).then_some(())
    })
    .await;
}

/// Kills the proxy that carries the one call.
async fn kill(stand: &mut Stand) {
    let mut carries = None;
    for (at, proxy) in stand.proxies.iter().enumerate() {
        if proxy.metric("keyward_connections").await == 1 {
            carries = Some(at);
        }
    }
    let mut proxy = stand.proxies.remove(carries.expect("somebody carries it"));
    proxy.end(Signal::KILL).await;
}

#[tokio::test]
async fn a_call_that_may_have_happened_is_not_made_again_and_a_question_is() {
    let mut stand = Stand::start(0, CLIENTS).await;
    for name in ["one", "two", "three"] {
        let proxy = stand.proxy(name, "mutual", "").await;
        proxy.ready().await;
        stand.proxies.push(proxy);
    }
    stand.links(6).await;
    let agent = Agent::start(&stand, &[]).await;
    let broken = async {
        taken(&stand, "POST", 1).await;
        kill(&mut stand).await;
    };
    let (answer, ()) = tokio::join!(held(&agent, "POST"), broken);
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(
        answer.contains("\"layer\":\"tunnel\"") && answer.contains("\"id\":7"),
        "{answer}"
    );
    let calls = stand.upstream.seen(|line| line == "POST /held").len();
    assert_eq!(calls, 1, "there were proxies enough to make it again");

    let broken = async {
        taken(&stand, "GET", 1).await;
        kill(&mut stand).await;
        taken(&stand, "GET", 2).await;
        stand.upstream.say(1);
    };
    let (answer, ()) = tokio::join!(held(&agent, "GET"), broken);
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(stand.upstream.seen(|line| line == "GET /held").len(), 2);
}
