//! One request: from the caller to its upstream and back.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;

/// Who calls: one for each connection, shared by its requests.
#[derive(Debug)]
pub struct Caller {
    /// Name of the tunnel that the connection came in for.
    pub tunnel: Arc<str>,
    /// `<tunnel-domain>` of it.
    pub tunnel_domain: Option<Arc<str>>,
    /// Address of the peer as far as the carrier knows it.
    pub peer: Option<SocketAddr>,
    /// Generation of the credential that ended inner TLS.
    pub generation: u64,
    /// SHA-256 of the client certificate, lower-case hexadecimal, where one was proven.
    pub client_certificate: Option<String>,
    /// Cancelled when time is up: calls without an answer get the error of `reply`, event streams
    /// end at their next event boundary.
    pub cut: CancellationToken,
}

/// Body of an answer.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// Forwards requests to upstream MCP servers. Clones share routes and connections.
#[derive(Clone, Debug)]
pub struct Forwarder {}

impl Forwarder {
    /// Answers `request`, whatever happens.
    pub async fn forward(
        &self,
        request: Request<Incoming>,
        caller: Arc<Caller>,
    ) -> Result<Response<Body>, Infallible> {
        let _ = (request, caller);
        unimplemented!("filled by the forwarding half")
    }
}
