//! Answers of the relay itself: short JSON in the shape of the Tunnels API's errors.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;

/// The body of an answer.
pub type Body = BoxBody<Bytes, Infallible>;

/// Answers everything on `api.EDGE` but `/v1/connect`; the address is the peer's.
pub type Answer =
    Arc<dyn Fn(Request<Incoming>, SocketAddr) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Nothing.
pub(super) fn empty() -> Body {
    Empty::new().boxed()
}

/// An error: its status, a word of a closed list, and a text for a person.
pub(super) fn error(status: StatusCode, word: &str, text: &str) -> Response<Body> {
    let body = serde_json::json!({
        "type": "error",
        "error": {"type": word, "message": text},
    });
    json(status, &body).map(BodyExt::boxed)
}

/// A short document that says when to come again, where that is the status's sense (RFC 9110 section 10.2.3).
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/json");
    headers.insert(header::CONTENT_TYPE, kind);
    let again = matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    );
    if again {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// What a path that nobody serves is answered with.
pub fn no_such_path() -> Response<Body> {
    error(
        StatusCode::NOT_FOUND,
        "not_found_error",
        "no such path is served here",
    )
}
