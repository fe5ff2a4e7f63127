//! What the proxy says itself: refusals, and answers in an upstream's place.
//!
//! The caller gets a short text that names nothing of the inside; the log gets the chain, under the
//! same request id.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use thiserror::Error;

use super::body::Body;
use super::headers::X_REQUEST_ID;
use crate::upstream::ConnectError;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The request cannot be served by anybody.
    Client,
    /// The proxy will not, or not now.
    Proxy,
    /// The upstream does not answer as it should.
    Upstream,
}

/// Why a request has no answer from its upstream.
#[derive(Debug, Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum ForwardError {
    #[error("malformed request: {0}")]
    Malformed(&'static str),
    #[error("{0}")]
    NotServed(&'static str),
    #[error("the caller broke off its request")]
    CallerGone(#[source] hyper::Error),
    #[error("no route for host")]
    NoRoute,
    #[error("no policy received yet")]
    PolicyPending,
    #[error("time is up for this connection")]
    Cut,
    #[error("cannot reach upstream")]
    Unreachable(#[from] ConnectError),
    #[error("upstream broke off before its answer")]
    Broken(#[source] hyper::Error),
    #[error("upstream's answer cannot be passed on: {0}")]
    Unusable(&'static str),
}

/// How an error looks from outside.
struct Face {
    blame: Blame,
    status: StatusCode,
    /// Short, public.
    text: &'static str,
    /// For programs; also a metric's label.
    reason: &'static str,
}

impl ForwardError {
    /// Whose fault it is.
    pub fn blame(&self) -> Blame {
        self.face().blame
    }

    /// A word for programs, of a closed list.
    pub fn reason(&self) -> &'static str {
        self.face().reason
    }

    /// The one mapping of errors to what a caller sees.
    fn face(&self) -> Face {
        let (blame, status, reason, text) = match self {
            Self::Malformed(what) => (Blame::Client, StatusCode::BAD_REQUEST, "malformed", *what),
            Self::NotServed(what) => (
                Blame::Client,
                StatusCode::NOT_IMPLEMENTED,
                "not_served",
                *what,
            ),
            Self::CallerGone(_) => (
                Blame::Client,
                StatusCode::BAD_REQUEST,
                "caller_gone",
                "the request ended early",
            ),
            Self::NoRoute => (
                Blame::Client,
                StatusCode::BAD_GATEWAY,
                "no_route",
                "No route configured for host",
            ),
            Self::PolicyPending => (
                Blame::Proxy,
                StatusCode::SERVICE_UNAVAILABLE,
                "policy_pending",
                "not ready yet",
            ),
            Self::Cut => (
                Blame::Proxy,
                StatusCode::SERVICE_UNAVAILABLE,
                "cut",
                "connection is ending, try again",
            ),
            Self::Unreachable(ConnectError::NotAllowed(_) | ConnectError::NoTrust) => (
                Blame::Proxy,
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_not_allowed",
                "upstream is not allowed",
            ),
            Self::Unreachable(_) => (
                Blame::Upstream,
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_unreachable",
                "upstream is not reachable",
            ),
            Self::Broken(_) | Self::Unusable(_) => (
                Blame::Upstream,
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_broke",
                "upstream did not answer",
            ),
        };
        Face {
            blame,
            status,
            text,
            reason,
        }
    }

    /// The answer. `first`: what is known of the request's body, for its JSON-RPC `id`.
    pub(super) fn answer(&self, first: Option<&Bytes>, request_id: &HeaderValue) -> Response<Body> {
        let face = self.face();
        let in_place = face.status == StatusCode::SERVICE_UNAVAILABLE;
        let (kind, body) = if in_place {
            let id = first.and_then(|chunk| request_id_of(chunk));
            (
                "application/json",
                json_rpc_error(id.as_ref(), face.text, face.reason),
            )
        } else {
            (
                "text/plain; charset=utf-8",
                Bytes::from_static(face.text.as_bytes()),
            )
        };
        let mut response = Response::new(Body::full(body));
        *response.status_mut() = face.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(&X_REQUEST_ID, request_id.clone());
        if matches!(self, Self::Malformed(_)) {
            // What follows on the connection may be anything (RFC 9112 section 11.2). HTTP/2 drops it.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if in_place {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

/// Seconds; a restarting server is back by then, or the caller's own back-off takes over.
const RETRY_AFTER: &str = "1";

/// JSON-RPC 2.0 §5.1: −32000 to −32099 is the server's own; the reason tells them apart.
const SERVER_ERROR: i32 = -32000;

fn json_rpc_error(id: Option<&Value>, text: &str, reason: &str) -> Bytes {
    let error = serde_json::json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": { "code": SERVER_ERROR, "message": text, "data": { "reason": reason } },
    });
    Bytes::from(error.to_string())
}

/// The `id` of the JSON-RPC request that begins with `chunk`, which may be cut anywhere. `None`: it
/// has none, has two, is a batch, a notification or itself an answer, or it cannot be told.
pub fn request_id_of(chunk: &[u8]) -> Option<Value> {
    let mut found = Found::default();
    let mut json = serde_json::Deserializer::from_slice(chunk);
    // An error here is mostly the end of the chunk; what stood before it counts.
    let _ = Members(&mut found).deserialize(&mut json);
    // A number at the very end of the chunk could go on behind it.
    let cut = !found.closed && chunk.last().is_some_and(u8::is_ascii_digit);
    match found.id? {
        _ if found.ids != 1 || found.is_answer => None,
        Value::Number(_) if cut => None,
        id @ (Value::String(_) | Value::Number(_)) => Some(id),
        _ => None,
    }
}

#[derive(Default)]
struct Found {
    ids: usize,
    id: Option<Value>,
    /// Something follows the `id`.
    closed: bool,
    is_answer: bool,
}

struct Members<'f>(&'f mut Found);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<Cow<'_, str>>()? {
            self.0.closed = self.0.id.is_some();
            match &*key {
                "id" => {
                    self.0.ids += 1;
                    self.0.id = Some(map.next_value()?);
                }
                other => {
                    self.0.is_answer |= matches!(other, "result" | "error");
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        self.0.closed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_found_wherever_the_chunk_ends_behind_it() {
        let request =
            br#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"id":8,"x":[1,{"id":9}]}}"#;
        let known = request.iter().position(|byte| *byte == b'7').unwrap() + 1;
        for end in 0..=request.len() {
            // A number that is cut could go on.
            let expected = (end > known).then(|| Value::from(7));
            assert_eq!(request_id_of(&request[..end]), expected, "{end}");
        }
    }

    #[test]
    fn only_a_request_has_an_id_to_answer() {
        for (text, id) in [
            (r#"{"id":"a\"b"}"#, Some(Value::from("a\"b"))),
            (r#"{"params":{},"id":-3}"#, Some(Value::from(-3))),
            (
                r#"{"id":18446744073709551615}"#,
                Some(Value::from(u64::MAX)),
            ),
            (r#"{"method":"notifications/x"}"#, None),
            (r#"{"id":null}"#, None),
            (r#"{"id":{"a":1}}"#, None),
            (r#"{"id":1,"id":2}"#, None),
            (r#"{"id":1,"result":{}}"#, None),
            (r#"{"error":{},"id":1}"#, None),
            (r#"[{"id":1}]"#, None),
            ("7", None),
            ("", None),
            ("\u{0}", None),
        ] {
            assert_eq!(request_id_of(text.as_bytes()), id, "{text}");
        }
    }

    #[test]
    fn nested_brackets_do_not_exhaust_the_stack() {
        let deep = format!("{{\"params\":{}", "[".repeat(100_000));
        assert_eq!(request_id_of(deep.as_bytes()), None);
        let deep = format!("{{\"id\":{}", "[".repeat(100_000));
        assert_eq!(request_id_of(deep.as_bytes()), None);
    }

    #[test]
    fn each_error_has_one_face() {
        let faces: Vec<_> = [
            ForwardError::Malformed("x"),
            ForwardError::NotServed("x"),
            ForwardError::NoRoute,
            ForwardError::PolicyPending,
            ForwardError::Cut,
            ForwardError::Unusable("x"),
        ]
        .iter()
        .map(|error| (error.blame(), error.face().status.as_u16(), error.reason()))
        .collect();
        assert_eq!(
            faces,
            [
                (Blame::Client, 400, "malformed"),
                (Blame::Client, 501, "not_served"),
                (Blame::Client, 502, "no_route"),
                (Blame::Proxy, 503, "policy_pending"),
                (Blame::Proxy, 503, "cut"),
                (Blame::Upstream, 503, "upstream_broke"),
            ]
        );
    }
}
