//! Several edges, one of which goes: the others serve on, and proxies say what is missing.

use rustix::process::Signal;

use super::stand::{OPEN, Stand, Tunnel};
use crate::rig::{Hello, Line, line, until};

fn two() -> Tunnel {
    Tunnel {
        instances: 2,
        secrets: vec![("a", "secret-a".to_owned(), "")],
        suspended: false,
        access: OPEN.to_owned(),
    }
}

#[tokio::test]
async fn a_proxy_holds_its_connections_to_each_edge_and_serves_through_either() {
    let mut stand = Stand::start(0, OPEN).await;
    stand.tell(&two());
    let (mut second, address) = stand.second().await;
    let both = format!("    addresses: ['{}', '{address}']\n", stand.address);
    let proxy = stand.proxy_at("several", &both).await;
    let links = async |edge: &super::stand::Program, count: u64| {
        until("connections", async || {
            (edge.metric("keyward_edge_links").await == count).then_some(())
        })
        .await;
    };
    links(&stand.edge, 2).await;
    links(&second, 2).await;
    let ready = proxy.page("/readyz").await.unwrap();
    assert_eq!(ready.matches("2 of 2 connections").count(), 2, "{ready}");

    let call = async |address| {
        let tcp = line::connect(address).await.unwrap();
        let mut line = Line::on(tcp, &Hello::new(&stand.issuer)).unwrap();
        line.handshake().await.unwrap();
        assert_eq!(line.get("/call").await.unwrap().status, 200);
    };
    call(stand.address).await;
    call(address).await;
    second.end(Signal::KILL).await;
    until("the notice", async || {
        let page = proxy.page("/readyz").await?;
        page.contains("1 of 2 instances want connections")
            .then_some(page)
    })
    .await;
    assert!(proxy.page("/readyz").await.unwrap().starts_with("ready"));
    call(stand.address).await;
    // The first one goes as well, in an orderly way, and comes back.
    stand.edge.end(Signal::KILL).await;
    stand.restart().await;
    links(&stand.edge, 2).await;
    call_again(&stand).await;
}

async fn call_again(stand: &Stand) {
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/again").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_edge_that_stops_lets_calls_in_flight_end_and_closes_what_is_idle() {
    let mut stand = Stand::with(1, OPEN, "shutdown_timeout: 8s\n").await;
    let mut idle = stand.line().await.unwrap();
    assert_eq!(idle.get("/idle").await.unwrap().status, 200);
    let mut events = stand.line().await.unwrap();
    let ask = format!("GET /events HTTP/1.1\r\nHost: {}\r\n\r\n", crate::rig::HOST);
    events.send(ask.as_bytes()).await.unwrap();
    events.read_to("\r\n\r\n").await.unwrap();
    until("the event stream", async || {
        (stand.upstream.streams() == 1).then_some(())
    })
    .await;
    let begun = tokio::time::Instant::now();
    let ending = stand.edge.end(Signal::TERM);
    let flowing = async {
        idle.rest().await;
        assert!(idle.notified, "closed in an orderly way");
        assert!(begun.elapsed().as_secs() < 6, "before the limit");
        stand.upstream.say(7);
        events.read_to("data: 7").await.unwrap();
    };
    tokio::join!(ending, flowing);
    assert!(events.rest().await.is_empty() || begun.elapsed().as_secs() >= 7);
}

#[tokio::test]
async fn a_secret_that_is_renewed_while_its_edge_stops_keeps_no_connection() {
    let mut stand = Stand::with(1, OPEN, "shutdown_timeout: 10s\n").await;
    stand.tell(&Tunnel {
        secrets: ["a", "b"]
            .map(|name| (name, format!("secret-{name}"), ""))
            .into(),
        ..Tunnel::open_to(OPEN)
    });
    stand.edge.logs("tunnels taken", 2).await;
    stand.links(2).await;
    let mut idle = stand.line().await.unwrap();
    assert_eq!(idle.get("/idle").await.unwrap().status, 200);
    let proxy = stand.proxies.remove(0);
    let begun = tokio::time::Instant::now();
    let ending = stand.edge.end(Signal::TERM);
    let (folder, log) = (stand.folder.path().to_owned(), || proxy.log());
    let flowing = async {
        proxy.logs("the edge will cut the connection", 1).await;
        std::fs::write(folder.join("next"), "secret-b").unwrap();
        std::fs::rename(folder.join("next"), folder.join("secret")).unwrap();
        proxy.logs("connection bound anew", 1).await;
        // What is bound anew stays as a rule, so that it has to be told again.
        until("the end of it, told again", async || {
            let log = log();
            let mut lines = log.lines();
            lines.find(|line| line.contains("connection bound anew"))?;
            let told = lines.find(|line| line.contains("the edge will cut the connection"));
            told.map(drop)
        })
        .await;
        idle.rest().await;
        assert!(idle.notified, "closed in an orderly way");
        assert!(begun.elapsed().as_secs() < 9, "before the limit");
    };
    tokio::join!(ending, flowing);
}

#[tokio::test]
async fn a_proxy_that_only_dials_listens_on_nothing_but_loopback() {
    let stand = Stand::start(1, OPEN).await;
    let listeners = stand.proxies[0].listeners();
    assert_eq!(listeners.len(), 1, "health alone: {listeners:?}");
    // Little endian: the last octet pair is the 127.
    let address = listeners[0].split(':').next().unwrap();
    assert!(address.len() == 8 && address.ends_with("7F"), "{address}");
}
