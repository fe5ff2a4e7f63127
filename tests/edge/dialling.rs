//! A proxy among edges and other proxies: full, with a secret that nobody knows yet, before an edge that says nothing,
//! and with more connections than are wanted.

use tokio::io::AsyncReadExt;

use super::hostile::Hostile;
use super::stand::{OPEN, Stand, Tunnel};
use crate::rig::{until, within};

fn told(instances: u32) -> Tunnel {
    Tunnel {
        instances,
        ..Tunnel::open_to(OPEN)
    }
}

#[tokio::test]
async fn a_stream_that_a_full_proxy_does_not_take_goes_to_another() {
    let stand = Stand::start(1, OPEN).await;
    let full = stand.proxy("full", "", "limits: {connections: 1}\n").await;
    full.ready().await;
    stand.links(4).await;
    let mut lines = Vec::new();
    for number in 0..4 {
        let mut line = stand
            .line()
            .await
            .unwrap_or_else(|error| panic!("{number}: {error}"));
        assert_eq!(line.get("/somewhere").await.unwrap().status, 200);
        lines.push(line);
    }
    assert_eq!(full.metric("keyward_connections").await, 1);
    assert_eq!(stand.proxies[0].metric("keyward_connections").await, 3);
    assert!(
        full.metric("keyward_refused_total").await > 0,
        "it was asked"
    );
}

#[tokio::test]
async fn a_full_proxy_is_passed_over_at_once_and_left_alone_for_a_moment() {
    let stand = Stand::start(1, OPEN).await;
    let full = stand.proxy("full", "", "limits: {connections: 1}\n").await;
    full.ready().await;
    stand.links(4).await;
    let call = async || {
        let mut line = stand.line().await.unwrap();
        assert_eq!(line.get("/somewhere").await.unwrap().status, 200);
        line
    };
    let mut lines = vec![call().await];
    until("the one place of the full one", async || {
        lines.push(call().await);
        (full.metric("keyward_connections").await == 1).then_some(())
    })
    .await;
    let before = full.metric("keyward_refused_total").await;
    let begun = std::time::Instant::now();
    for _ in 0..30 {
        lines.push(call().await);
    }
    // It is the one with the least to do, so without that every caller would be brought there first.
    let asked = full.metric("keyward_refused_total").await - before;
    let moments = begun.elapsed().as_secs();
    assert!(asked <= moments + 1, "{asked} times in {moments} s");
    // Nor was a stream kept back on the connection that has no room for one.
    assert!(!stand.edge.log().contains("proxy does not answer"));
    drop(lines);
    until("its place again", async || {
        let _line = call().await;
        (full.metric("keyward_connections").await == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_proxy_whose_new_secret_is_not_known_yet_comes_back_with_the_one_before() {
    let mut stand = Stand::start(1, OPEN).await;
    stand.links(2).await;
    stand.replace("secret", "secret-b");
    stand.proxies[0].logs("secret refused", 2).await;
    stand.edge.end(rustix::process::Signal::KILL).await;
    stand.restart().await;
    stand.links(2).await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/back").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_edge_that_opens_no_control_stream_is_left_and_dialled_again() {
    let stand = Stand::start(0, OPEN).await;
    let read = |name: &str| std::fs::read_to_string(stand.file(name)).unwrap();
    let hostile = Hostile::bind(&read("front.crt"), &read("front.key")).await;
    let addresses = format!("    addresses: ['{}']\n", hostile.address);
    let proxy = stand.proxy_at("waiting", &addresses).await;
    let mut silent = within("the proxy", hostile.accept()).await;
    let mut said = Vec::new();
    let _ = within("its end", silent.read_to_end(&mut said)).await;
    proxy.logs("no control stream", 1).await;
    assert!(!proxy.page("/readyz").await.unwrap().starts_with("ready"));
    let _again = within("the proxy again", hostile.accept()).await;
}

#[tokio::test]
async fn an_address_at_which_nobody_speaks_costs_neither_the_attempt_nor_the_next_one() {
    let stand = Stand::start(0, OPEN).await;
    // The system takes connections here; no program does.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = mute.local_addr().unwrap();
    let addresses = format!("    addresses: ['{first}', '{}']\n", stand.address);
    let proxy = stand.proxy_at("patient", &addresses).await;
    until("both connections", async || {
        (stand.edge.metric("keyward_edge_links").await == 2).then_some(())
    })
    .await;
    assert!(
        !proxy.log().contains("edge not reached"),
        "by one attempt each"
    );
    drop(mute);
}

#[tokio::test]
async fn what_exceeds_the_number_is_drained_and_no_call_of_it_is_lost() {
    let stand = Stand::start(0, OPEN).await;
    stand.tell(&told(2));
    let (second, address) = stand.second().await;
    let both = format!("    addresses: ['{}', '{address}']\n", stand.address);
    let proxy = stand.proxy_at("several", &both).await;
    let count = async || {
        let there = second.metric("keyward_edge_links").await;
        stand.edge.metric("keyward_edge_links").await + there
    };
    until("connections to both", async || {
        (count().await == 4).then_some(())
    })
    .await;
    let mut first = stand.line().await.unwrap();
    let tcp = crate::rig::line::connect(address).await.unwrap();
    let mut other = crate::rig::Line::on(tcp, &crate::rig::Hello::new(&stand.issuer)).unwrap();
    other.handshake().await.unwrap();

    // The file counts for both edges: each says that there is one.
    stand.tell(&told(1));
    proxy.logs("a connection too many, drained", 2).await;
    assert_eq!(first.get("/first").await.unwrap().status, 200);
    assert_eq!(other.get("/other").await.unwrap().status, 200);
    drop((first, other));
    until("those that are wanted", async || {
        (count().await == 2).then_some(())
    })
    .await;
    let ready = proxy.page("/readyz").await.unwrap();
    assert_eq!(ready.matches("2 of 2 connections").count(), 1, "{ready}");
}
