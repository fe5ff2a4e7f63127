//! Bodies of requests: bounded in size and time, then JSON in which nothing stands twice.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::Body;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::answer::Failed;
use crate::assertion::object;
use crate::percent;

/// Longest body, bytes.
pub(super) const LONGEST: usize = 64 * 1024;
/// Longest body with a bundle in it, bytes.
pub(super) const LONGEST_BUNDLE: usize = 256 * 1024;
/// Of a body that is not wanted, so much is thrown away, bytes ...
const THROWN_AWAY: usize = 1024 * 1024;
/// ... for at most this long.
const THROWING: Duration = Duration::from_secs(1);
/// A caller may take this long to send it.
const LIMIT: Duration = Duration::from_secs(10);

/// All of it.
pub(super) async fn read<B>(mut body: Pin<&mut B>, most: usize) -> Result<Bytes, Failed>
where
    B: Body<Data = Bytes> + Send,
    B::Error: std::fmt::Display,
{
    // Refused before a byte is read, if the caller said how many there are.
    if body.size_hint().lower() > most as u64 {
        return Err(Failed::too_large(most));
    }
    let mut read = Vec::new();
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Failed::invalid("The body broke off"))?;
            if let Ok(data) = frame.into_data() {
                if read.len() + data.len() > most {
                    return Err(Failed::too_large(most));
                }
                read.extend_from_slice(&data);
            }
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, reading)
        .await
        .map_err(|_| Failed::invalid("The body took longer than 10 seconds"))??;
    Ok(read.into())
}

/// Takes what most senders still have and throws it away, because whoever is cut off while it sends never reads why.
pub(super) async fn discard<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) {
    let discarding = async {
        let mut seen = 0;
        while let Some(Ok(frame)) = body.frame().await {
            seen += frame.data_ref().map_or(0, Bytes::len);
            if seen > THROWN_AWAY {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(THROWING, discarding).await;
}

/// An object; an empty body is an empty one.
pub(super) fn json<T: DeserializeOwned>(body: &[u8], headers: &HeaderMap) -> Result<T, Failed> {
    if body.is_empty() {
        return from_object(serde_json::Map::new());
    }
    if !is_json(headers) {
        return Err(Failed::invalid("content-type: must be application/json"));
    }
    let invalid = |why: String| Failed::invalid(format!("The body is not one JSON object: {why}"));
    from_object(object(body).map_err(invalid)?)
}

pub(super) fn is_json(headers: &HeaderMap) -> bool {
    has_type(headers, "application/json")
}

pub(super) fn is_form(headers: &HeaderMap) -> bool {
    has_type(headers, "application/x-www-form-urlencoded")
}

fn has_type(headers: &HeaderMap, wanted: &str) -> bool {
    let found = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let bare = found.and_then(|found| found.split(';').next());
    bare.is_some_and(|bare| bare.trim().eq_ignore_ascii_case(wanted))
}

fn from_object<T: DeserializeOwned>(object: serde_json::Map<String, Value>) -> Result<T, Failed> {
    let object = whole(Value::Object(object));
    serde_json::from_value(object).map_err(|why| Failed::invalid(why.to_string()))
}

/// `1.0` is as whole as `1` (JSON Schema 2020-12, Validation §6.1.1).
fn whole(value: Value) -> Value {
    // As far as every whole number has a double of its own.
    const MOST: f64 = 9_007_199_254_740_991.0;
    match value {
        Value::Array(list) => list.into_iter().map(whole).collect(),
        Value::Object(object) => object.into_iter().map(|(k, v)| (k, whole(v))).collect(),
        Value::Number(number) => {
            let found = number.as_f64().filter(|_| number.is_f64());
            match found.filter(|n| n.fract() == 0.0 && n.abs() <= MOST) {
                #[allow(clippy::cast_possible_truncation, reason = "it was just compared")]
                Some(found) => Value::from(found as i64),
                None => Value::Number(number),
            }
        }
        other => other,
    }
}

/// A form (`application/x-www-form-urlencoded`) as an object; no name may be there twice (RFC 6749 §3.2).
pub(super) fn form<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failed> {
    let text = std::str::from_utf8(body).map_err(|_| Failed::invalid("The body is not a form"))?;
    let mut object = serde_json::Map::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent::decode(name).zip(percent::decode(value));
        let (name, value) = decoded.ok_or_else(|| Failed::invalid("The body is not a form"))?;
        if object.insert(name, Value::String(value)).is_some() {
            return Err(Failed::invalid("The form has a name twice"));
        }
    }
    from_object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_whole_however_it_is_written() {
        let value = serde_json::json!({"a": [1.0, 1.5, 1e3, -2.0, 1e300, 7], "b": "1.0"});
        let wanted = serde_json::json!({"a": [1, 1.5, 1000, -2, 1e300, 7], "b": "1.0"});
        assert_eq!(whole(value), wanted);
    }

    #[test]
    fn a_form_is_decoded_and_a_name_may_stand_once() {
        let exchange: api::Exchange = form(b"grant_type=a%3Ab&assertion=x+y&other=1").unwrap();
        assert_eq!(exchange.grant_type, "a:b");
        assert_eq!(exchange.assertion.as_deref(), Some("x y"));
        for bad in [
            &b"assertion=a&assertion=b"[..],
            b"a=%4",
            b"a=%zz",
            b"a=%ff",
            b"\xff=1",
        ] {
            assert!(form::<api::Exchange>(bad).is_err());
        }
    }
}
