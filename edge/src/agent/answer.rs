//! What the agent itself answers: one sentence, as a JSON-RPC error, so that MCP clients show it.

use http::StatusCode;
use http_body_util::Either;
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::CarryError;
use super::gate::Refusal;
use super::serve::Reply;
use crate::relay::json_answer;

/// JSON-RPC 2.0 section 5.1: of the range that is left to servers.
const CODE: i64 = -32000;

/// A call that was not carried; `called` is what the caller sent, as far as it is known.
pub(super) fn failed(error: &CarryError, called: &[u8]) -> Reply {
    let message = refusal(&id(called), error);
    reply(error.status(), &message)
}

/// A JSON-RPC error for the request `id`.
pub(super) fn refusal(id: &Value, error: &CarryError) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": {
            "code": CODE,
            "message": error.sentence(),
            "data": {"layer": error.layer()},
        },
    })
}

/// A request that is not carried at all.
pub(super) fn refused(refusal: Refusal) -> Reply {
    let message = json!({
        "jsonrpc": "2.0",
        "id": null,
        "error": {"code": CODE, "message": refusal.to_string(), "data": {"layer": "agent"}},
    });
    reply(refusal.status(), &message)
}

fn reply(status: StatusCode, message: &Value) -> Reply {
    json_answer(status, message).map(Either::Right)
}

#[derive(Deserialize)]
struct Called {
    id: Value,
}

/// Of the request that was sent; null where it cannot be told.
fn id(called: &[u8]) -> Value {
    let read: Option<Called> = serde_json::from_slice(called).ok();
    let id = read.map(|called| called.id);
    id.filter(|id| id.is_string() || id.is_number())
        .unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_id_of_what_was_asked() {
        assert_eq!(id(br#"{"jsonrpc":"2.0","id":7,"method":"x"}"#), json!(7));
        assert_eq!(id(br#"{"id":"a"}"#), json!("a"));
        for unknown in [&b"[]"[..], b"", b"{\"id\":{}}", b"{\"method\":\"x\"}"] {
            assert_eq!(id(unknown), Value::Null);
        }
    }
}
