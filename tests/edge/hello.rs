//! What a client may say first: extensions of tomorrow, much of it, and protocols that nobody speaks.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::{EchGreaseConfig, EchMode};
use tokio_rustls::rustls::crypto::aws_lc_rs::{default_provider, hpke::ALL_SUPPORTED_SUITES};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::access::said_to;
use super::stand::{EDGE, OPEN, Stand};
use crate::rig::{HOST, Hello, Line, until, within};

/// Extension that nobody knows and everybody has to pass over (RFC 8701).
const GREASE: u16 = 0x0a0a;
/// Extension that is as long as one likes (RFC 7685).
const PADDING: u16 = 21;
/// A fatal alert, and another one as a client of TLS 1.3 tells it, to which it comes encrypted.
const DECODE_ERROR: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];
const NO_APPLICATION_PROTOCOL: &str = "received fatal alert: NoApplicationProtocol";

/// A whole `ClientHello` for `name`.
pub(crate) fn hello(name: &'static str) -> Vec<u8> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let name = ServerName::try_from(name).unwrap();
    let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// What is agreed on with `name` by somebody who speaks `protocols`, or why nothing is.
async fn spoken(
    stand: &Stand,
    mut hello: Hello,
    name: &str,
    protocols: &[&[u8]],
) -> Result<Option<Vec<u8>>, String> {
    hello.0.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(hello.0)).connect(name, tcp);
    let tls = within("the handshake", connecting).await;
    let tls = tls.map_err(|error| error.to_string())?;
    Ok(tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec))
}

/// `hello` with one more extension at the front (RFC 8446 section 4.1.2), in one record.
fn extended(hello: &[u8], kind: u16, length: u16) -> Vec<u8> {
    // Record and handshake header, version, random; then three vectors before the extensions.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    let mut bytes = hello.to_vec();
    let extension = [kind.to_be_bytes(), length.to_be_bytes()].concat();
    let extension = [extension, vec![0; usize::from(length)]].concat();
    let more = u16::try_from(extension.len()).unwrap();
    // The lengths of extensions, handshake message (its lower half) and record.
    for place in [at, 7, 3] {
        let old = u16::from_be_bytes([bytes[place], bytes[place + 1]]);
        bytes[place..place + 2].copy_from_slice(&(old + more).to_be_bytes());
    }
    bytes.splice(at + 2..at + 2, extension);
    bytes
}

/// The first byte of the answer to `hello`, a content type of TLS.
async fn first(stand: &Stand, hello: &[u8]) -> u8 {
    let mut tcp = TcpStream::connect(stand.address).await.unwrap();
    tcp.write_all(hello).await.unwrap();
    within("an answer", tcp.read_u8()).await.unwrap()
}

#[tokio::test]
async fn a_hello_with_extensions_of_tomorrow_goes_through() {
    let stand = Stand::start(1, OPEN).await;
    let whole = hello(HOST);
    assert_eq!(first(&stand, &extended(&whole, GREASE, 0)).await, 22);
    // As long as one record may be, with what is around it.
    assert_eq!(first(&stand, &extended(&whole, PADDING, 12_000)).await, 22);
    let giant = extended(&whole, PADDING, 17_000);
    assert_eq!(said_to(&stand, &giant).await, DECODE_ERROR);
    let api = hello("api.edge.example");
    assert_eq!(first(&stand, &extended(&api, GREASE, 300)).await, 22);

    // A client that pretends to have an encrypted hello: a whole call.
    let suite = ALL_SUPPORTED_SUITES[0];
    let (key, _) = suite.generate_key_pair().unwrap();
    let trusting = Hello::new(&stand.issuer).0;
    let ech = EchMode::from(EchGreaseConfig::new(suite, key));
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_ech(ech)
        .unwrap()
        .with_webpki_verifier(verifier(&stand))
        .with_no_client_auth();
    let mut hello = Hello(config);
    hello.0.resumption = trusting.resumption;
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let mut line = Line::on(tcp, &hello).unwrap();
    line.handshake().await.unwrap();
    assert_eq!(line.get("/grease").await.unwrap().status, 200);
}

fn verifier(stand: &Stand) -> Arc<tokio_rustls::rustls::client::WebPkiServerVerifier> {
    use tokio_rustls::rustls::client::WebPkiServerVerifier;
    let mut roots = RootCertStore::empty();
    let ca = pki::Certificate::from_pem(&stand.issuer.ca_pem()).unwrap();
    roots.add(ca.der().clone()).unwrap();
    let provider = Arc::new(default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_is_refused_where_tls_ends() {
    let stand = Stand::start(1, OPEN).await;
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    let (api, agents) = (format!("api.{EDGE}"), format!("agents.{EDGE}"));
    for name in [&api, &agents] {
        for bad in [&b"smtp"[..], b"h3", b"keyward-tunnel/1"] {
            let refused = spoken(&stand, Hello::trusting(&front), name, &[bad]).await;
            assert_eq!(refused.unwrap_err(), NO_APPLICATION_PROTOCOL);
        }
        // Without a word about it, and with a good one among bad ones, it is HTTP.
        let silent = spoken(&stand, Hello::trusting(&front), name, &[]).await;
        assert_eq!(silent.unwrap(), None);
        let among = spoken(
            &stand,
            Hello::trusting(&front),
            name,
            &[b"smtp", b"http/1.1"],
        )
        .await;
        assert_eq!(among.unwrap().unwrap(), b"http/1.1");
    }
    // On passthrough that is between the client and the proxy.
    let refused = spoken(&stand, Hello::new(&stand.issuer), HOST, &[b"smtp"]).await;
    assert_eq!(refused.unwrap_err(), NO_APPLICATION_PROTOCOL);
    let refused = "keyward_edge_refusals_total{reason=\"handshake\"}";
    until("the count of them", async || {
        (stand.edge.metric(refused).await == 6).then_some(())
    })
    .await;

    // A proxy that dials has to speak HTTP/1.1: an upgrade is not known in HTTP/2.
    let hello = Hello::trusting(&front).alpn(b"h2");
    let tcp = TcpStream::connect(stand.address).await.unwrap();
    let name = ServerName::try_from(format!("api.{EDGE}")).unwrap();
    let tls = TlsConnector::from(Arc::new(hello.0))
        .connect(name, tcp)
        .await
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(tls);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io)
            .await
            .unwrap();
    let tasks = process::Tasks::new();
    tasks.spawn(async move {
        let _ = connection.await;
    });
    let ask = http::Request::get(format!("https://api.{EDGE}{}", wire::CONNECT_PATH))
        .header("authorization", "Bearer secret-a")
        .header(wire::TUNNEL, super::stand::TUNNEL)
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    assert_eq!(sender.send_request(ask).await.unwrap().status(), 426);
}
