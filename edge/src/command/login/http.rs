//! The requests of a sign-in: one connection each, no redirect, no proxy, bounded in time and size.
//!
//! HTTPS, and without TLS only on loopback. Not the client of issuers' keys (`assertion::fetch`): that one
//! runs in the edge and guards what it dials, this one runs where a person told it whom to call.

use std::net::SocketAddr;
use std::time::Duration;

use http::header::{HOST, HeaderValue, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::assertion::trust;

/// For all of it: name, connection, handshake, answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Longest answer, bytes.
const LONGEST: usize = 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    /// Not one that is called.
    #[error("{0}: must be https://, or http:// on loopback")]
    Url(Uri),
    /// No connection, no TLS, no HTTP.
    #[error("{host}: {why}")]
    Failed {
        /// The host.
        host: String,
        /// What happened.
        why: String,
    },
    /// Took longer than the limit.
    #[error("{0}: no answer within 30 seconds")]
    Slow(String),
}

/// Whom to trust, and where to dial.
#[derive(Clone, Debug)]
pub(super) struct Client {
    ca: Option<String>,
    address: Option<SocketAddr>,
}

impl Client {
    /// `ca`: PEM, instead of the machine's; `address`: instead of the name's.
    pub(super) fn new(ca: Option<String>, address: Option<SocketAddr>) -> Self {
        Self { ca, address }
    }

    /// Sends one request. Dropped halfway, it may have been answered.
    pub(super) async fn send(
        &self,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, HttpError> {
        let host = request.uri().host().unwrap_or_default();
        let host = host.trim_matches(['[', ']']).to_owned();
        tokio::time::timeout(LIMIT, self.call(request, &host))
            .await
            .unwrap_or_else(|_| Err(HttpError::Slow(host.clone())))
    }

    async fn call(
        &self,
        request: Request<Vec<u8>>,
        host: &str,
    ) -> Result<Response<Vec<u8>>, HttpError> {
        let failed = |why: &dyn std::fmt::Display| HttpError::Failed {
            host: host.to_owned(),
            why: why.to_string(),
        };
        let uri = request.uri().clone();
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(HttpError::Url(uri)),
        };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let stream = match self.address {
            Some(address) => TcpStream::connect(address).await,
            None => TcpStream::connect((host, port)).await,
        };
        let stream = stream.map_err(|error| failed(&error))?;
        if tls {
            let config = trust(self.ca.as_deref()).map_err(|why| failed(&why))?;
            let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
            let stream = TlsConnector::from(config).connect(name, stream).await;
            return exchange(stream.map_err(|error| failed(&error))?, request, &failed).await;
        }
        let peer = stream.peer_addr().map_err(|error| failed(&error))?;
        if !peer.ip().to_canonical().is_loopback() {
            return Err(HttpError::Url(uri));
        }
        exchange(stream, request, &failed).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Vec<u8>>,
    failed: &(dyn Fn(&dyn std::fmt::Display) -> HttpError + Sync),
) -> Result<Response<Vec<u8>>, HttpError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = in_origin_form(request);
    let answer = async move {
        let response = sender.send_request(request).await;
        read(response.map_err(|error| failed(&error))?, failed).await
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // Whoever closes early may have answered before that.
        _ = &mut connection => answer.await,
    }
}

/// RFC 9112 §3.2.1, with the `Host` that the URL names.
fn in_origin_form(request: Request<Vec<u8>>) -> Request<Full<Bytes>> {
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map_or("", |found| found.as_str());
    if let Ok(host) = HeaderValue::from_str(authority) {
        parts.headers.insert(HOST, host);
    }
    let agent = concat!("keyward-edge/", env!("CARGO_PKG_VERSION"));
    parts
        .headers
        .insert(USER_AGENT, HeaderValue::from_static(agent));
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = path.parse().unwrap_or_default();
    Request::from_parts(parts, Full::new(body.into()))
}

async fn read(
    response: Response<Incoming>,
    failed: &(dyn Fn(&dyn std::fmt::Display) -> HttpError + Sync),
) -> Result<Response<Vec<u8>>, HttpError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, LONGEST).collect().await;
    let body = body.map_err(|error| failed(&error))?;
    Ok(Response::from_parts(parts, body.to_bytes().to_vec()))
}
