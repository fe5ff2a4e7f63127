//! What a line says, as far as HTTP has to know it: which kind of message, and what its head repeats.
//!
//! Up to 2025-11-25 there is a session, begun by `initialize`. From 2026-07-28 on each request names its
//! revision in `_meta`, and HTTP repeats method, name and marked arguments in header fields.

use std::collections::HashMap;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use process::base64;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Where a request of 2026-07-28 names its revision.
const REVISION: &str = "io.modelcontextprotocol/protocolVersion";
/// Methods whose head repeats a member of `params`.
const NAMED: [(&str, &str); 6] = [
    ("tools/call", "name"),
    ("prompts/get", "name"),
    ("resources/read", "uri"),
    ("tasks/get", "taskId"),
    ("tasks/update", "taskId"),
    ("tasks/cancel", "taskId"),
];
/// Tools whose marked arguments are remembered.
const TOOLS: usize = 4096;
/// Objects inside objects, at most.
const DEPTH: usize = 16;

/// A message of the client.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// The revision that it names, from 2026-07-28 on.
    pub(super) revision: Option<String>,
    params: Value,
    pub(super) text: Bytes,
}

/// Of what kind it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Request {
        id: Value,
        method: String,
    },
    Notification {
        method: String,
    },
    /// An answer to a request of the server, or several messages at once.
    Other,
}

#[derive(Deserialize)]
struct Shape {
    id: Option<Value>,
    method: Option<String>,
    #[serde(default)]
    params: Value,
}

/// What a message of the server is, as far as it matters here.
#[derive(Default, Deserialize)]
pub(super) struct Said {
    #[serde(default)]
    jsonrpc: Value,
    id: Option<Value>,
    #[serde(default, deserialize_with = "is_there")]
    method: bool,
    #[serde(default, deserialize_with = "is_there")]
    result: bool,
    #[serde(default, deserialize_with = "is_there")]
    error: bool,
}

impl Said {
    /// The messages of a text, one or a batch; `None`: it is no JSON. What is no object is no message.
    pub(super) fn read(text: &[u8]) -> Option<Vec<Self>> {
        // The batch first: a list would fill the members of one in their order.
        if let Ok(batch) = serde_json::from_slice::<Vec<Self>>(text) {
            return Some(batch);
        }
        if let Ok(one) = serde_json::from_slice::<Self>(text) {
            return Some(vec![one]);
        }
        let other = serde_json::from_slice::<IgnoredAny>(text).ok();
        other.map(|_| vec![Self::default()])
    }

    /// Whether it is JSON-RPC 2.0: a request, a notification or an answer.
    pub(super) fn is_message(&self) -> bool {
        let answer = self.result != self.error && !self.method;
        self.jsonrpc == "2.0" && (self.method || answer)
    }

    /// Whether it answers the request `id`.
    pub(super) fn answers(&self, id: &Value) -> bool {
        self.is_message() && !self.method && self.id.as_ref() == Some(id)
    }
}

/// `null` is there, too.
fn is_there<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl Message {
    /// Reads a line; `None`: it is no JSON-RPC.
    pub(super) fn read(text: Bytes) -> Option<Self> {
        let value: Value = serde_json::from_slice(&text).ok()?;
        if value.is_array() {
            return Some(Self {
                kind: Kind::Other,
                revision: None,
                params: Value::Null,
                text,
            });
        }
        let shape: Shape = serde_json::from_value(value).ok()?;
        let kind = match (shape.id, shape.method) {
            (Some(id), Some(method)) => Kind::Request { id, method },
            (None, Some(method)) => Kind::Notification { method },
            (Some(_), None) => Kind::Other,
            (None, None) => return None,
        };
        let revision = shape
            .params
            .get("_meta")
            .and_then(|meta| meta.get(REVISION));
        Some(Self {
            kind,
            revision: revision.and_then(Value::as_str).map(str::to_owned),
            params: shape.params,
            text,
        })
    }

    pub(super) fn is(&self, wanted: &str) -> bool {
        match &self.kind {
            Kind::Request { method, .. } | Kind::Notification { method } => method == wanted,
            Kind::Other => false,
        }
    }

    /// Of a request.
    pub(super) fn id(&self) -> Option<&Value> {
        match &self.kind {
            Kind::Request { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Which request `notifications/cancelled` means.
    pub(super) fn cancels(&self) -> Option<&Value> {
        self.is("notifications/cancelled")
            .then(|| self.params.get("requestId"))?
    }

    /// Header fields that repeat what the message says (2026-07-28, Streamable HTTP).
    pub(super) fn repeat(&self, marked: &Marked, headers: &mut HeaderMap) {
        let (Kind::Request { method, .. }, Some(_)) = (&self.kind, &self.revision) else {
            return;
        };
        let mut say = |name: HeaderName, text: &str| {
            if let Ok(value) = HeaderValue::try_from(encoded(text)) {
                headers.insert(name, value);
            }
        };
        say(HeaderName::from_static("mcp-method"), method);
        let member = NAMED.iter().find(|(named, _)| named == method);
        let name = member.and_then(|(_, member)| self.params.get(member)?.as_str());
        let Some(name) = name else { return };
        say(HeaderName::from_static("mcp-name"), name);
        if method == "tools/call" {
            for mark in marked.0.get(name).into_iter().flatten() {
                let value = mark.path.iter().try_fold(
                    self.params.get("arguments").unwrap_or(&Value::Null),
                    |value, key| value.get(key),
                );
                if let Some(text) = value.and_then(plain) {
                    say(mark.header.clone(), &text);
                }
            }
        }
    }
}

/// Arguments that a tool's schema marks with `x-mcp-header`, by tool.
#[derive(Debug, Default)]
pub(super) struct Marked(HashMap<String, Vec<Mark>>);

#[derive(Debug)]
struct Mark {
    path: Vec<String>,
    header: HeaderName,
}

impl Marked {
    /// Remembers what the answer to `tools/list` says.
    pub(super) fn learn(&mut self, answer: &Value) {
        let tools = answer.pointer("/result/tools").and_then(Value::as_array);
        for tool in tools.into_iter().flatten() {
            let (Some(name), Some(schema)) = (
                tool.get("name").and_then(Value::as_str),
                tool.get("inputSchema"),
            ) else {
                continue;
            };
            let mut marks = Vec::new();
            collect(schema, &mut Vec::new(), &mut marks);
            if self.0.len() < TOOLS || self.0.contains_key(name) {
                self.0.insert(name.to_owned(), marks);
            }
        }
    }
}

/// Marks stand along chains of `properties` alone.
fn collect(schema: &Value, path: &mut Vec<String>, marks: &mut Vec<Mark>) {
    let kind = schema.get("type").and_then(Value::as_str);
    let header = schema.get("x-mcp-header").and_then(Value::as_str);
    if let (Some("string" | "integer" | "boolean"), Some(header)) = (kind, header)
        && let Ok(header) = HeaderName::try_from(format!("mcp-param-{header}"))
    {
        marks.push(Mark {
            path: path.clone(),
            header,
        });
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, schema) in properties.into_iter().flatten() {
        if path.len() < DEPTH {
            path.push(key.clone());
            collect(schema, path, marks);
            path.pop();
        }
    }
}

fn plain(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        _ => None,
    }
}

/// As it is if a field can say it so, else `=?base64?…?=`.
fn encoded(text: &str) -> String {
    let sound = text
        .bytes()
        .all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    let ambiguous = text.starts_with("=?base64?") && text.ends_with("?=");
    if sound && !ambiguous && !text.is_empty() && text.trim() == text {
        return text.to_owned();
    }
    let mut encoded = "=?base64?".to_owned();
    base64::encode(text.as_bytes(), &mut encoded);
    encoded.push_str("?=");
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Message {
        Message::read(Bytes::from(text.to_owned())).unwrap()
    }

    fn repeated(text: &str, marked: &Marked) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        read(text).repeat(marked, &mut headers);
        let mut all: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn a_line_is_a_request_a_notification_or_something_else() {
        let request = read(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
        assert_eq!(request.id(), Some(&Value::from(1)));
        let cancelled = r#"{"method":"notifications/cancelled","params":{"requestId":"a"}}"#;
        assert_eq!(read(cancelled).cancels(), Some(&Value::from("a")));
        assert_eq!(read(r#"{"id":1,"result":{}}"#).kind, Kind::Other);
        assert_eq!(read("[]").kind, Kind::Other);
        for bad in ["", "{}", "7", "{\"id\":1", "\"text\""] {
            assert!(Message::read(Bytes::from(bad)).is_none(), "{bad}");
        }
    }

    #[test]
    fn what_the_server_says_is_json_rpc_or_is_not() {
        let one = Value::from(1);
        let answers = |text: &str| {
            let said = Said::read(text.as_bytes()).unwrap();
            said.iter().any(|said| said.answers(&one))
        };
        for good in [
            r#"{"jsonrpc":"2.0","id":1,"result":null}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{}}"#,
            r#"[{"jsonrpc":"2.0","method":"m"},{"jsonrpc":"2.0","id":1,"result":{}}]"#,
        ] {
            assert!(answers(good), "{good}");
        }
        for other in [
            r#"{"path":"/mcp"}"#,
            r#"{"jsonrpc":"2.0","id":1}"#,
            r#"{"jsonrpc":"2.0","id":2,"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#,
            r#"{"id":1,"result":{}}"#,
            "7",
            "null",
            "[]",
        ] {
            assert!(!answers(other), "{other}");
        }
        assert!(Said::read(b"<html>").is_none());
    }

    #[test]
    fn a_request_that_names_its_revision_is_repeated_in_its_head_and_no_other_is() {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        let mut marked = Marked::default();
        let schema = serde_json::json!({"result": {"tools": [{"name": "a", "inputSchema": {
            "type": "object",
            "properties": {
                "region": {"type": "string", "x-mcp-header": "Region"},
                "share": {"type": "number", "x-mcp-header": "Share"},
                "deep": {"properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
                "plain": {"type": "string"},
            },
            "$defs": {"x": {"type": "string", "x-mcp-header": "Never"}},
        }}]}});
        marked.learn(&schema);
        let arguments = r#"{"region":"zürich","share":1.5,"deep":{"n":7},"plain":"p"}"#;
        let call = format!(
            r#"{{"id":1,"method":"tools/call","params":{{"name":"a","arguments":{arguments},{meta}}}}}"#
        );
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            repeated(&call, &marked),
            [
                pair("mcp-method", "tools/call"),
                pair("mcp-name", "a"),
                pair("mcp-param-n", "7"),
                pair("mcp-param-region", "=?base64?esO8cmljaA==?="),
            ]
        );
        let old = r#"{"id":1,"method":"tools/call","params":{"name":"a","arguments":{}}}"#;
        assert!(repeated(old, &marked).is_empty());
        let list = format!(r#"{{"id":1,"method":"tools/list","params":{{{meta}}}}}"#);
        assert_eq!(repeated(&list, &marked), [pair("mcp-method", "tools/list")]);
    }
}
