//! Answers that nobody reads.

use std::sync::Arc;

use process::base64;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::stand::EDGE;
use super::world::{Kind, Signer, World};
use crate::rig::{Hello, until};

/// What they may add to the edge, in KiB.
const GROWTH: u64 = 48 << 10;

#[tokio::test]
async fn bundles_that_many_ask_for_and_nobody_reads_take_little_memory_and_end_their_connections() {
    let world = World::with(Kind::Sqlite, "limits: {stall_timeout: 2s}\n").await;
    let (tunnel, _) = world.tunnel().await;
    let bearer = format!("authorization: Bearer {}", world.operator().await);
    let signer = Signer::new();
    // As long as they may be, and each to be kept because it names another key.
    for sequence in 1..=20_u8 {
        let next = base64::encode_url(&[sequence; 32]);
        let payload = json!({"tunnel": tunnel, "sequence": sequence, "next_key_thumbprint": next,
                             "ca_certificates": ["x".repeat(140 << 10)]});
        let body = json!({"bundle": signer.bundle(&payload)}).to_string();
        let body = format!("@{}", world.write("bundle.json", &body));
        let kind = "content-type: application/json";
        let words = ["-X", "PUT", "-H", &bearer, "-H", kind, "-d", &body];
        let path = format!("/v1/tunnels/{tunnel}/bundles/{sequence}");
        let (status, said) = world.api(&path, &words).await;
        assert_eq!(status, 200, "{said}");
    }
    let before = world.edge.peak();
    let front = std::fs::read_to_string(world.file("front-ca.pem")).unwrap();
    let connector = TlsConnector::from(Arc::new(Hello::trusting(&front).0));
    let ask = format!("GET /v1/tunnels/{tunnel}/bundles HTTP/1.1\r\nHost: api.{EDGE}\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..40 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let tcp = socket.connect(world.address).await.unwrap();
        let name = ServerName::try_from(format!("api.{EDGE}")).unwrap();
        let mut tls = connector.connect(name, tcp).await.unwrap();
        // More than the buffers of the system hold.
        tls.write_all(ask.repeat(12).as_bytes()).await.unwrap();
        held.push(tls);
    }
    until("their end", async || {
        (world.edge.metric("keyward_edge_sockets").await == 0).then_some(())
    })
    .await;
    let grown = world.edge.peak() - before;
    assert!(grown < GROWTH, "{grown} KiB");
    let path = format!("/v1/tunnels/{tunnel}/bundles?after=19");
    let (status, last) = world.api(&path, &[]).await;
    assert_eq!((status, &last["data"][0]["sequence"]), (200, &json!(20)));
}
