//! What cloudflared says of itself on its metrics address: `GET /ready`.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

/// It is on the same machine.
const LIMIT: Duration = Duration::from_secs(2);
/// Longest answer, bytes.
const LONGEST: usize = 16 << 10;

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "readyConnections")]
    ready_connections: u32,
}

/// Connections that are registered; 0 if it does not answer.
pub(super) async fn connections(addr: SocketAddr) -> u32 {
    let asked = tokio::time::timeout(LIMIT, ask(addr)).await;
    asked.ok().flatten().unwrap_or(0)
}

async fn ask(addr: SocketAddr) -> Option<u32> {
    let stream = TcpStream::connect(addr).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let request = Request::get("/ready")
        .header(header::HOST, addr.to_string())
        .body(Empty::<Bytes>::new())
        .ok()?;
    let answer = async {
        let response = sender.send_request(request).await.ok()?;
        // 503 while it starts and while it ends.
        let good = response.status().is_success();
        let body = Limited::new(response.into_body(), LONGEST).collect();
        let body = body.await.ok()?.to_bytes();
        let answer: Answer = serde_json::from_slice(&body).ok()?;
        Some(if good { answer.ready_connections } else { 0 })
    };
    let mut answer = pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The end of the connection may be the end of the answer, which is there then.
        _ = connection => answer.await,
    }
}
