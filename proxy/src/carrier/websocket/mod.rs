//! Carrier `websocket`: a plaintext HTTP/1.1 listener on which the stock connector opens `WebSockets`;
//! inner TLS runs in their binary messages.
//!
//! Any path and any host will do: what a caller may reach is decided inside inner TLS. Whatever is not
//! a WebSocket gets a short refusal in plaintext, on which `curl https://` fails as it does with the
//! stock proxy.

mod frame;
mod stream;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

pub(crate) use stream::WebSocket;

use super::{Arrival, Carrier, CarrierError, LOG_PACE, Leaving, Stream};
use crate::telemetry::Pace;
use crate::token::lists;
use frame::Violation;

/// The request that opens a WebSocket; cloudflared adds some headers, callers some more.
const LONGEST_REQUEST: usize = 32 << 10;
/// Appended to the key: RFC 6455 section 1.3.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The carrier; it has no settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Web {
    refusals: Arc<Refusals>,
}

/// What all connections of the carrier were refused for, so that not each of them fills the log.
#[derive(Debug)]
struct Refusals {
    text: Pace,
    malformed: Pace,
}

impl Default for Refusals {
    fn default() -> Self {
        Self {
            text: Pace::new(LOG_PACE),
            malformed: Pace::new(LOG_PACE),
        }
    }
}

impl Refusals {
    /// Logged here: the end of a stream is no event to those above.
    fn tell(&self, violation: Violation) {
        let pace = match violation {
            Violation::Text => &self.text,
            Violation::Protocol(_) => &self.malformed,
        };
        if let Some(count) = pace.due() {
            tracing::warn!(error = %violation, count, "websocket refused");
        }
    }
}

impl Carrier for Web {
    const NAME: &'static str = "websocket";

    async fn open(&self, socket: TcpStream, peer: SocketAddr) -> Result<Arrival, CarrierError> {
        let opened = AtomicBool::new(false);
        let service = service_fn(async |request: Request<Incoming>| {
            let answer = answer(request.method(), request.version(), request.headers());
            let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
            opened.store(switched, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        });
        // The whole opening has one time limit, set by the door.
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_header_size(LONGEST_REQUEST)
            .serve_connection(TokioIo::new(socket), service);
        let parts = connection.without_shutdown().await?;
        let mut socket = parts.io.into_inner();
        if !opened.load(Ordering::Relaxed) {
            let _ = socket.shutdown().await;
            return Err(CarrierError::NotWebSocket);
        }
        let leaving = Leaving::default();
        Ok(Arrival {
            stream: Stream::WebSocket(Box::new(WebSocket::new(
                socket,
                parts.read_buf,
                leaving.clone(),
                Arc::clone(&self.refusals),
            ))),
            peer: Some(peer),
            leaving,
            mutual: false,
            retire: CancellationToken::new(),
        })
    }
}

/// RFC 6455 section 4.2: 101 for a WebSocket of version 13, else a refusal.
fn answer(method: &Method, version: Version, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let wanted = lists(headers, &UPGRADE, "websocket") && lists(headers, &CONNECTION, "upgrade");
    if method != Method::GET || version != Version::HTTP_11 || !wanted {
        return refusal(
            StatusCode::UPGRADE_REQUIRED,
            "only a tunnel connector's WebSocket is served here\n",
        );
    }
    if headers
        .get(SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        return refusal(
            StatusCode::UPGRADE_REQUIRED,
            "WebSocket version 13 is served here\n",
        );
    }
    let Some(key) = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24) else {
        return refusal(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is missing or malformed\n",
        );
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(accept) = HeaderValue::try_from(accept(key.as_bytes())) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// RFC 6455 section 4.2.2: SHA-1 of key and GUID, in base64. It proves that a WebSocket was meant and
/// protects nothing, which is why SHA-1 will do.
fn accept(key: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key);
    context.update(GUID);
    let mut text = String::with_capacity(28);
    process::base64::encode(context.finish().as_ref(), &mut text);
    text
}

/// The data in `bytes`, which are read as frames in pieces of `cut` bytes, for the tests that throw
/// anything at it. `None`: refused.
pub fn probe(bytes: &[u8], cut: usize) -> Option<Vec<u8>> {
    let (mut decoder, mut asked) = (frame::Decoder::default(), frame::Asked::default());
    let mut data = Vec::new();
    for piece in bytes.chunks(cut.max(1)) {
        let mut piece = piece.to_vec();
        let length = decoder.decode(&mut piece, &mut asked).ok()?;
        data.extend(piece.get(..length)?);
    }
    Some(data)
}
