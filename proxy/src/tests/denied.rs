//! Mutual inner TLS, and client certificates that are refused.

use std::io::Write;
use std::sync::Arc;

use control::{Credential, Policy};
use process::metrics::Exposition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;

use super::world::{
    Ca, Caller, Client, NAME, Pipes, Proxy, TLS12, TLS13, read_rest, until, within,
};

fn with_clients(ca: &Ca, client: &Client, generation: u64) -> Credential {
    Credential {
        client_ca_certificates: vec![client.ca.clone()],
        ..ca.credential(generation)
    }
}

fn denying(generation: u64, fingerprints: &[&str]) -> Policy {
    Policy {
        tunnel: "main".to_owned(),
        generation,
        routes: None,
        denied: fingerprints.iter().map(|&text| text.to_owned()).collect(),
    }
}

#[tokio::test]
async fn a_client_ca_requires_a_certificate_under_it() {
    let (ca, client, pipes) = (Ca::new(), Client::new(), Pipes::new());
    pipes.offer(&with_clients(&ca, &client, 1)).settled().await;
    for versions in [TLS12, TLS13] {
        let anonymous = Caller::speaking(&[&ca], versions, None).connector();
        assert!(pipes.handshake(&anonymous).await.1.is_err());
        let stranger = Caller::speaking(&[&ca], versions, Some(&Client::new())).connector();
        assert!(pipes.handshake(&stranger).await.1.is_err());
        let known = Caller::speaking(&[&ca], versions, Some(&client)).connector();
        pipes.handshake(&known).await.1.unwrap();
    }
}

#[tokio::test]
async fn a_denial_ends_the_connection_at_once_and_lets_no_resumed_session_in() {
    let (ca, client, proxy) = (Ca::new(), Client::new(), Proxy::start().await);
    proxy.offer(&with_clients(&ca, &client, 1)).settled().await;
    let known = Caller::speaking(&[&ca], TLS13, Some(&client));
    let connector = known.connector();
    let call = async || {
        let stream = TcpStream::connect(proxy.tls).await.unwrap();
        super::world::connect(&connector, stream).await.unwrap()
    };
    let mut stream = call().await;
    proxy.ask(&mut stream).await;
    let mut other = call().await;
    let resumed = other.get_ref().1.handshake_kind();
    assert_eq!(resumed, Some(tokio_rustls::rustls::HandshakeKind::Resumed));
    proxy.ask(&mut other).await;

    proxy
        .credentials
        .deny(&denying(1, &[&client.fingerprint.to_uppercase()]))
        .unwrap();
    assert_eq!(read_rest(&mut stream).await, "");
    assert_eq!(read_rest(&mut other).await, "");
    let mut late = call().await;
    assert_eq!(read_rest(&mut late).await, "");
    until("three connections were denied", || {
        proxy.telemetry.denied.get() == 3
    })
    .await;

    // A later policy takes it back; an earlier one that comes late does not.
    proxy.credentials.deny(&denying(3, &[])).unwrap();
    let stale = proxy.credentials.deny(&denying(2, &[&client.fingerprint]));
    assert_eq!(stale.unwrap_err().reason, control::Reason::Stale);
    proxy.ask(&mut call().await).await;
}

/// Ends the handshake and asks in one segment.
async fn ask_at_once(proxy: &Proxy, caller: Caller) -> TcpStream {
    let mut socket = TcpStream::connect(proxy.tls).await.unwrap();
    let name = ServerName::try_from(NAME).unwrap();
    let mut session = ClientConnection::new(Arc::new(caller.config), name).unwrap();
    let mut out = Vec::new();
    while session.is_handshaking() {
        out.clear();
        while session.wants_write() {
            session.write_tls(&mut out).unwrap();
        }
        socket.write_all(&out).await.unwrap();
        let mut bytes = vec![0; 1 << 14];
        let read = within("the server's flight", socket.read(&mut bytes)).await;
        let mut bytes = &bytes[..read.unwrap()];
        while !bytes.is_empty() {
            session.read_tls(&mut bytes).unwrap();
            session.process_new_packets().unwrap();
        }
    }
    let request = format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    session.writer().write_all(request.as_bytes()).unwrap();
    out.clear();
    while session.wants_write() {
        session.write_tls(&mut out).unwrap();
    }
    socket.write_all(&out).await.unwrap();
    socket
}

fn forwarded(proxy: &Proxy) -> u64 {
    let mut page = Exposition::default();
    proxy.forwarder.metrics(&mut page);
    let page = page.finish();
    let line = page.lines().find(|line| line.contains("requests_total{"));
    let (_, count) = line.unwrap().rsplit_once(' ').unwrap();
    count.parse().unwrap()
}

#[tokio::test]
async fn a_request_that_comes_with_the_end_of_a_denied_handshake_is_not_forwarded() {
    let (ca, client, proxy) = (Ca::new(), Client::new(), Proxy::start().await);
    proxy.offer(&with_clients(&ca, &client, 1)).settled().await;
    // The same bytes do reach the upstream while nobody is denied.
    let _served = ask_at_once(&proxy, Caller::speaking(&[&ca], TLS13, Some(&client))).await;
    until("it is forwarded", || forwarded(&proxy) == 1).await;
    proxy
        .credentials
        .deny(&denying(1, &[&client.fingerprint]))
        .unwrap();
    let mut denied = ask_at_once(&proxy, Caller::speaking(&[&ca], TLS13, Some(&client))).await;
    read_rest(&mut denied).await;
    until("both connections were denied", || {
        proxy.telemetry.denied.get() == 2
    })
    .await;
    assert_eq!(forwarded(&proxy), 1);
}
