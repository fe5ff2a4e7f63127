//! Who may call: decided at each connection, and again for open ones when it changes.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::hello::hello;
use super::stand::{OPEN, Stand, Tunnel, ports};
use crate::rig::{Hello, Upstream};

/// Record of type alert: fatal, `unrecognized_name` (RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];
const SECOND: Duration = Duration::from_secs(1);

/// What the edge says to a hello for `name`.
pub(super) async fn said_to(stand: &Stand, hello: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(stand.address).await.unwrap();
    tcp.write_all(hello).await.unwrap();
    let mut said = Vec::new();
    let _ = tcp.read_to_end(&mut said).await;
    said
}

#[tokio::test]
async fn unknown_suspended_and_closed_names_look_the_same_and_are_refused_within_a_second() {
    let stand = Stand::start(1, OPEN).await;
    let refused = async |name, reason: &str| {
        let begun = Instant::now();
        assert_eq!(
            said_to(&stand, &hello(name)).await,
            UNRECOGNIZED_NAME,
            "{reason}"
        );
        assert!(begun.elapsed() < SECOND, "{reason}");
        let name = format!("keyward_edge_refusals_total{{reason=\"{reason}\"}}");
        assert!(stand.edge.metric(&name).await > 0, "{reason}");
    };
    refused("docs.other.example", "unknown_tunnel").await;
    refused("a.b.t.example", "unknown_tunnel").await;
    refused("127.0.0.1", "unknown_tunnel").await;
    assert_eq!(
        said_to(&stand, &hello("up.t.example")).await[0],
        22,
        "a handshake"
    );

    let mut line = stand.line().await.unwrap();
    stand.tell(&Tunnel {
        suspended: true,
        ..Tunnel::open_to(OPEN)
    });
    line.rest().await;
    refused("up.t.example", "suspended").await;
    stand.tell(&Tunnel::open_to(""));
    stand.edge.logs("tunnels taken", 3).await;
    refused("up.t.example", "closed").await;
    stand.tell(&Tunnel::open_to("cidrs: [192.0.2.0/24, '2001:db8::/32']"));
    stand.edge.logs("tunnels taken", 4).await;
    refused("up.t.example", "address").await;
}

#[tokio::test]
async fn an_open_stream_ends_within_a_second_when_its_caller_may_not_call_any_more() {
    let stand = Stand::start(1, OPEN).await;
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/open").await.unwrap().status, 200);
    // What does not concern it leaves it alone.
    stand.tell(&Tunnel::open_to("cidrs: ['127.0.0.0/8', '192.0.2.0/24']"));
    stand.edge.logs("tunnels taken", 2).await;
    assert_eq!(line.get("/open").await.unwrap().status, 200);
    let begun = Instant::now();
    stand.tell(&Tunnel::open_to("cidrs: [192.0.2.0/24]"));
    line.rest().await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!(stand.edge.metric("keyward_edge_cut_total").await, 1);
    stand.links(2).await;
}

#[tokio::test]
async fn streams_beyond_a_callers_limit_are_refused_until_one_ends() {
    let access = "cidrs: ['127.0.0.0/8'], streams: 3, connections_per_minute: 1000000";
    let stand = Stand::start(1, access).await;
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(stand.line().await.unwrap());
    }
    assert!(stand.line().await.is_err());
    let name = "keyward_edge_refusals_total{reason=\"too_many\"}";
    assert_eq!(stand.edge.metric(name).await, 1);
    lines.pop();
    crate::rig::until("a place", async || stand.line().await.ok()).await;
}

/// CONNECT on `agents.EDGE`; the status, and the connection when it is 200.
pub(super) async fn connect(
    stand: &Stand,
    client: Option<&(String, String)>,
    name: &str,
) -> (u16, String) {
    use tokio_rustls::rustls::pki_types::ServerName;
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let hello = match client {
        Some(client) => Hello::trusting_with(&front, client),
        None => Hello::trusting(&front),
    };
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name_of_edge = ServerName::try_from(format!("agents.{}", super::stand::EDGE)).unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(hello.0));
    let mut tls = connector.connect(name_of_edge, tcp).await.unwrap();
    let request = format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    let read = tls.read(&mut piece).await.unwrap();
    head.extend_from_slice(&piece[..read]);
    let text = String::from_utf8_lossy(&head).into_owned();
    (text[9..12].parse().unwrap(), text)
}

#[tokio::test]
async fn refusals_on_the_agents_door_carry_their_reason_and_denials_count_at_each_connect() {
    let clients = "client_ca_files: [FOLDER/client-ca.pem]";
    let stand = Stand::start(1, clients).await;
    let good = stand.issuer.client("agent.example");
    let (status, _) = connect(&stand, Some(&good), "up.t.example").await;
    assert_eq!(status, 200);
    let refused = async |client: Option<&(String, String)>, name: &str, status: u16, word: &str| {
        let begun = Instant::now();
        let (answered, text) = connect(&stand, client, name).await;
        assert!(answered == status && text.contains(word), "{word}: {text}");
        assert!(begun.elapsed() < SECOND, "{word}");
    };
    refused(None, "up.t.example", 403, "certificate_required").await;
    refused(Some(&good), "up.other.example", 404, "unknown_tunnel").await;
    let foreign = crate::rig::Issuer::new().client("agent.example");
    refused(Some(&foreign), "up.t.example", 403, "unknown_ca").await;

    let only = format!("{clients}, clients: ['agent.*']");
    stand.tell(&Tunnel::open_to(&only));
    stand.edge.logs("tunnels taken", 2).await;
    assert_eq!(connect(&stand, Some(&good), "up.t.example").await.0, 200);
    let other = stand.issuer.client("other.example");
    refused(Some(&other), "up.t.example", 403, "client_not_listed").await;

    let leaf = pki::Certificate::from_pem(&good.0).unwrap();
    let denied = format!("{clients}, denied: ['{}']", leaf.fingerprint());
    stand.tell(&Tunnel::open_to(&denied));
    stand.edge.logs("tunnels taken", 3).await;
    refused(Some(&good), "up.t.example", 403, "certificate_denied").await;
    stand.tell(&Tunnel {
        suspended: true,
        ..Tunnel::open_to(clients)
    });
    stand.edge.logs("tunnels taken", 4).await;
    refused(Some(&good), "up.t.example", 403, "suspended").await;
    // Where addresses alone decide, no certificate proves anything.
    stand.tell(&Tunnel::open_to(OPEN));
    stand.edge.logs("tunnels taken", 5).await;
    refused(Some(&good), "up.t.example", 403, "certificate_required").await;
}

#[tokio::test]
async fn a_client_ca_file_that_is_replaced_counts_within_a_second_and_a_broken_one_does_not() {
    let clients = "client_ca_files: [FOLDER/client-ca.pem]";
    let stand = Stand::start(1, clients).await;
    let good = stand.issuer.client("agent.example");
    assert_eq!(connect(&stand, Some(&good), "up.t.example").await.0, 200);
    stand.replace("client-ca.pem", "");
    stand.edge.logs("holds no certificate", 1).await;
    assert_eq!(connect(&stand, Some(&good), "up.t.example").await.0, 200);
    assert_eq!(connect(&stand, None, "up.t.example").await.0, 403);
    let other = crate::rig::Issuer::new();
    let begun = Instant::now();
    stand.replace("client-ca.pem", &other.client_ca_pem());
    stand.edge.logs("tunnels taken", 2).await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    let (status, text) = connect(&stand, Some(&good), "up.t.example").await;
    assert!(status == 403 && text.contains("unknown_ca"), "{text}");
    let new = other.client("agent.example");
    assert_eq!(connect(&stand, Some(&new), "up.t.example").await.0, 200);
}

#[tokio::test]
async fn a_connect_for_one_name_does_not_open_another() {
    let clients = "client_ca_files: [FOLDER/client-ca.pem]";
    let stand = Stand::start(1, clients).await;
    let good = stand.issuer.client("agent.example");
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = format!("agents.{}", super::stand::EDGE);
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from(name).unwrap();
    let config = std::sync::Arc::new(Hello::trusting_with(&front, &good).0);
    let mut tls = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .unwrap();
    let request = "CONNECT up.t.example:443 HTTP/1.1\r\nHost: up.t.example:443\r\n\r\n";
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut piece = [0; 1024];
    let read = tls.read(&mut piece).await.unwrap();
    assert!(piece[..read].starts_with(b"HTTP/1.1 200"));
    tls.write_all(&hello("down.t.example")).await.unwrap();
    let mut said = Vec::new();
    let _ = tls.read_to_end(&mut said).await;
    assert_eq!(said, UNRECOGNIZED_NAME);
}

#[tokio::test]
async fn whoever_makes_a_certificate_for_each_call_uses_up_the_connections_of_his_address() {
    let clients = "client_ca_files: [FOLDER/client-ca.pem], streams: 2, connections_per_minute: 1";
    let stand = Stand::start(1, clients).await;
    let good = stand.issuer.client("agent.example");
    assert_eq!(connect(&stand, Some(&good), "up.t.example").await.0, 200);
    let mut answers = Vec::new();
    for _ in 0..5 {
        let made = crate::rig::Issuer::new().client("agent.example");
        answers.push(connect(&stand, Some(&made), "up.t.example").await.0);
    }
    assert_eq!(answers, [403, 403, 429, 429, 429]);
    let name = "keyward_edge_refusals_total{reason=\"too_many\"}";
    assert_eq!(stand.edge.metric(name).await, 3);
    // Where he calls from, somebody else has called before, and still has what is his own.
    assert_eq!(connect(&stand, Some(&good), "up.t.example").await.0, 200);
    assert_eq!(connect(&stand, Some(&good), "up.t.example").await.0, 429);
}

#[tokio::test]
async fn those_who_are_refused_use_up_their_connections_too() {
    let stand = Stand::start(0, OPEN).await;
    let elsewhere = "cidrs: [192.0.2.0/24], streams: 3, connections_per_minute: 1";
    stand.tell(&Tunnel::open_to(elsewhere));
    stand.edge.logs("tunnels taken", 2).await;
    for _ in 0..5 {
        assert_eq!(
            said_to(&stand, &hello("up.t.example")).await,
            UNRECOGNIZED_NAME
        );
    }
    for (reason, count) in [("address", 3), ("too_many", 2)] {
        let name = format!("keyward_edge_refusals_total{{reason=\"{reason}\"}}");
        assert_eq!(stand.edge.metric(&name).await, count, "{reason}");
    }
}

#[tokio::test]
async fn each_client_certificate_has_its_own_limits_on_the_agents_door() {
    let clients = "client_ca_files: [FOLDER/client-ca.pem], streams: 3, connections_per_minute: 1";
    let stand = Stand::start(1, clients).await;
    let one = stand.issuer.client("one.example");
    for _ in 0..3 {
        assert_eq!(connect(&stand, Some(&one), "up.t.example").await.0, 200);
    }
    let (status, said) = connect(&stand, Some(&one), "up.t.example").await;
    assert!(status == 429 && said.contains("too_many"), "{said}");
    assert!(said.to_lowercase().contains("retry-after"), "{said}");
    // From the same address with another certificate, also one of the same name.
    for name in ["two.example", "one.example"] {
        let other = stand.issuer.client(name);
        let (status, said) = connect(&stand, Some(&other), "up.t.example").await;
        assert_eq!(status, 200, "{name}: {said}");
    }
    assert_eq!(connect(&stand, Some(&one), "up.t.example").await.0, 429);
}

/// An edge on `[::1]` with one proxy.
async fn over_version_six(access: &str) -> Stand {
    let (_, health) = ports();
    let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut stand = Stand::at((address, health), Upstream::start().await, access, "").await;
    let proxy = stand.proxy("six", "", "").await;
    proxy.ready().await;
    stand.proxies.push(proxy);
    stand
}

#[tokio::test]
async fn an_agent_over_ipv6_is_let_in_by_its_address_and_by_no_other() {
    let access = "cidrs: ['::1/128'], streams: 2, connections_per_minute: 1000000";
    let stand = over_version_six(access).await;
    assert!(stand.address.is_ipv6());
    {
        let mut lines = [stand.line().await.unwrap(), stand.line().await.unwrap()];
        for line in &mut lines {
            assert_eq!(line.get("/six").await.unwrap().status, 200);
        }
        assert!(stand.line().await.is_err(), "it has its limits, too");
    }
    for (number, elsewhere) in ["::2/128", "2000::/3", "127.0.0.0/8", "0.0.0.0/0"]
        .into_iter()
        .enumerate()
    {
        stand.tell(&Tunnel::open_to(&format!("cidrs: ['{elsewhere}']")));
        stand.edge.logs("tunnels taken", number + 2).await;
        let said = said_to(&stand, &hello("up.t.example")).await;
        assert_eq!(said, UNRECOGNIZED_NAME, "{elsewhere}");
    }
    let refused = "keyward_edge_refusals_total{reason=\"address\"}";
    assert_eq!(stand.edge.metric(refused).await, 4);
    let log = stand.proxies[0].log();
    assert!(!log.contains("panicked"), "{log}");
}
