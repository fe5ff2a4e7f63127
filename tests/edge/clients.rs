//! Client certificates on `agents.EDGE`: by the URIs in them, until their last second, and to the replica that is meant.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::access::connect;
use super::keys::openssl;
use super::stand::{EDGE, OPEN, Stand, Tunnel};
use crate::rig::{HOST, Hello, Line, until, within};

const CLIENTS: &str = "client_ca_files: [FOLDER/client-ca.pem]";

/// A CA of somebody else's tools and a certificate under it with this one name.
#[expect(clippy::too_many_lines, reason = "one stage, set up in one place")]
async fn issued(stand: &Stand, name: &str) -> (String, String) {
    let file = |name: &str| stand.file(name);
    let new = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    if !std::path::Path::new(&file("other-ca.pem")).exists() {
        let words = ["req", "-x509", "-days", "2", "-subj", "/CN=other CA"];
        let usage = ["-addext", "keyUsage=critical,keyCertSign"];
        let files = [
            "-keyout",
            &file("other-ca.key"),
            "-out",
            &file("other-ca.pem"),
        ];
        openssl(words.into_iter().chain(new).chain(usage).chain(files)).await;
    }
    let words = [
        "req",
        "-new",
        "-subj",
        "/CN=agent",
        "-keyout",
        &file("other.key"),
    ];
    openssl(
        words
            .into_iter()
            .chain(new)
            .chain(["-out", &file("other.csr")]),
    )
    .await;
    let extensions = format!("extendedKeyUsage=clientAuth\nsubjectAltName={name}\n");
    std::fs::write(file("other.ext"), extensions).unwrap();
    let words = [
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        &file("other.csr"),
        "-extfile",
        &file("other.ext"),
    ];
    let ca = [
        "-CA",
        &file("other-ca.pem"),
        "-CAkey",
        &file("other-ca.key"),
    ];
    openssl(
        words
            .into_iter()
            .chain(ca)
            .chain(["-out", &file("other.crt")]),
    )
    .await;
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();
    (read("other.crt"), read("other.key"))
}

#[tokio::test]
async fn a_client_may_be_listed_by_its_spiffe_id() {
    let stand = Stand::start(1, OPEN).await;
    let agent = issued(&stand, "URI:spiffe://example.org/agent/7").await;
    let mut taken = 1;
    let mut asked = async |rule: &str, client: &(String, String)| {
        let access = format!("client_ca_files: [FOLDER/other-ca.pem], clients: ['{rule}']");
        stand.tell(&Tunnel::open_to(&access));
        taken += 1;
        stand.edge.logs("tunnels taken", taken).await;
        connect(&stand, Some(client), HOST).await
    };
    for good in [
        "spiffe://example.org/agent/7",
        "spiffe://example.org/agent/*",
    ] {
        assert_eq!(asked(good, &agent).await.0, 200, "{good}");
    }
    for bad in [
        "spiffe://example.org/agent/8",
        "spiffe://example.org/AGENT/*",
        "spiffe*",
        "agent",
    ] {
        let (status, said) = asked(bad, &agent).await;
        assert!(
            status == 403 && said.contains("client_not_listed"),
            "{bad}: {said}"
        );
    }
    let named = issued(&stand, "DNS:agent.example").await;
    let (status, said) = asked("spiffe://example.org/agent/*", &named).await;
    assert!(
        status == 403 && said.contains("client_not_listed"),
        "{said}"
    );
    assert_eq!(asked("agent.example", &named).await.0, 200);
}

/// CONNECT with this certificate and these further header lines; the status, and what is behind it.
pub(super) async fn door(
    stand: &Stand,
    client: &(String, String),
    more: &str,
) -> (u16, TlsStream<TcpStream>) {
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let hello = Hello::trusting_with(&front, client);
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = ServerName::try_from(format!("agents.{EDGE}")).unwrap();
    let connector = TlsConnector::from(Arc::new(hello.0));
    let mut tls = connector.connect(name, tcp).await.unwrap();
    let ask = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{more}\r\n");
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.unwrap());
    }
    let status = String::from_utf8_lossy(&head[9..12]).parse().unwrap();
    (status, tls)
}

/// Inner TLS on it, and a call.
async fn call<S>(stand: &Stand, stream: S) -> TlsStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(HOST).unwrap();
    let connector = TlsConnector::from(Arc::new(Hello::new(&stand.issuer).0));
    let mut tls = connector.connect(name, stream).await.unwrap();
    let ask = format!("GET /inner HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut said = [0; 12];
    tls.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
    tls
}

#[tokio::test]
async fn a_client_certificate_that_is_over_ends_its_streams_and_no_others() {
    let stand = Stand::start(1, CLIENTS).await;
    let short = stand
        .issuer
        .client_for("short.example", Duration::from_secs(10));
    let long = stand.issuer.client("long.example");
    let leaf = pki::Certificate::from_pem(&short.0).unwrap();
    let (status, stays) = door(&stand, &long, "").await;
    assert_eq!(status, 200);
    let mut stays = call(&stand, stays).await;
    let (status, goes) = door(&stand, &short, "").await;
    assert_eq!(status, 200);
    let mut goes = call(&stand, goes).await;

    let mut rest = Vec::new();
    let _ = within("the end of its stream", goes.read_to_end(&mut rest)).await;
    stand.edge.logs("certificate_expired", 1).await;
    // Its last second is part of it, and the edge ends the stream in the one after that: by its own log, which
    // does not depend on when this test is given the processor.
    let written = stand.edge.log();
    let cut = written
        .lines()
        .find(|line| line.contains("stream cut"))
        .unwrap();
    let cut: serde_json::Value = serde_json::from_str(cut).unwrap();
    assert_eq!(cut["reason"], "certificate_expired");
    let second = process::rfc3339(leaf.validity().not_after() + Duration::from_secs(1));
    assert_eq!(&cut["timestamp"].as_str().unwrap()[..19], &second[..19]);
    let (status, _) = door(&stand, &short, "").await;
    assert_eq!(status, 403);
    until("the count of what was cut", async || {
        (stand.edge.metric("keyward_edge_cut_total").await == 1).then_some(())
    })
    .await;
    let ask = format!("GET /still HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stays.write_all(ask.as_bytes()).await.unwrap();
    until("the call of the other", async || {
        let seen = stand.upstream.seen(|line| line == "GET /still");
        (!seen.is_empty()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_connect_that_names_a_replica_gets_that_one_or_none() {
    let mut stand = Stand::start(2, CLIENTS).await;
    stand.links(4).await;
    let agent = stand.issuer.client("agent.example");
    let mut open = Vec::new();
    for _ in 0..4 {
        let (status, stream) = door(&stand, &agent, "Keyward-Replica: replica-1\r\n").await;
        assert_eq!(status, 200);
        open.push(call(&stand, stream).await);
    }
    assert_eq!(stand.proxies[1].metric("keyward_connections").await, 4);
    assert_eq!(stand.proxies[0].metric("keyward_connections").await, 0);
    let (status, _) = door(&stand, &agent, "Keyward-Replica: replica-2\r\n").await;
    assert_eq!(status, 503);
    let mut gone = stand.proxies.remove(1);
    gone.end(rustix::process::Signal::KILL).await;
    stand.links(2).await;
    let (status, _) = door(&stand, &agent, "Keyward-Replica: replica-1\r\n").await;
    assert_eq!(status, 503, "and not the other one");
    let (status, stream) = door(&stand, &agent, "").await;
    assert_eq!(status, 200);
    call(&stand, stream).await;
}

#[tokio::test]
async fn a_new_table_of_networks_counts_at_once_and_for_open_streams() {
    let access = "cidrs: ['127.0.0.0/8'], asns: [64500]";
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("asn.tsv");
    let write = |text: &str| {
        let next = table.with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, &table).unwrap();
    };
    write("127.0.0.0\t127.255.255.255\t64501\n");
    let stand = Stand::with(1, access, &format!("asn_file: {}\n", table.display())).await;
    assert!(stand.line().await.is_err());
    let name = "keyward_edge_refusals_total{reason=\"network\"}";
    assert_eq!(stand.edge.metric(name).await, 1);

    write("127.0.0.0\t127.255.255.255\t64500\n");
    let mut line: Line = until("the new table", async || stand.line().await.ok()).await;
    assert_eq!(line.get("/known").await.unwrap().status, 200);
    // What cannot be used leaves the last good one in force.
    write("nonsense\n");
    stand.edge.logs("asn_file not taken", 1).await;
    assert_eq!(line.get("/known").await.unwrap().status, 200);
    write("192.0.2.0\t192.0.2.255\t64500\n");
    line.rest().await;
    assert!(stand.line().await.is_err());
    until("the count of what was cut", async || {
        (stand.edge.metric("keyward_edge_cut_total").await == 1).then_some(())
    })
    .await;
}
