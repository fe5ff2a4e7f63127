//! What a server says instead of a token, in the dialects that there are.
//!
//! | Who | How |
//! |---|---|
//! | Kubernetes, GitHub, App Service, container credentials | `{"message", "code"?}` |
//! | Entra, Azure IMDS (RFC 6749 §5.2) | `{"error", "error_description"}`, which begins with `AADSTS` and a number |
//! | Vault, `OpenBao` | `{"errors": [..]}` |
//! | AWS STS | XML with `Code` and `Message` |
//! | others | a line of text |

use serde_json::Value;

use super::SourceError;
use crate::http::Answer;
use crate::shown::shown;

/// `secret` is what was sent, no part of which is repeated.
pub(super) fn refusal(answer: &Answer, secret: &str) -> SourceError {
    let (code, message) = read(&answer.body);
    let clean = |text: String| Some(shown(&text, secret)).filter(|text| !text.is_empty());
    SourceError::Refused {
        status: answer.status,
        code: code.and_then(clean),
        message: message.and_then(clean),
    }
}

/// Code and message, as far as there are any.
fn read(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(text) = std::str::from_utf8(body) else {
        return (None, None);
    };
    if let Ok(Value::Object(object)) = serde_json::from_str(text) {
        let said = |name: &str| Some(object.get(name)?.as_str()?.to_owned());
        let description = said("error_description");
        if let Some((number, rest)) = description.as_deref().and_then(entra) {
            return (Some(number.to_owned()), Some(rest.to_owned()));
        }
        let nested = object.get("error").and_then(Value::as_object);
        let within = |name: &str| Some(nested?.get(name)?.as_str()?.to_owned());
        let first = || Some(object.get("errors")?.get(0)?.as_str()?.to_owned());
        return (
            said("code")
                .or_else(|| said("error"))
                .or_else(|| within("code")),
            description
                .or_else(|| said("message"))
                .or_else(|| within("message"))
                .or_else(first),
        );
    }
    if text.trim_start().starts_with('<') {
        let found = |name| element(text, name).map(str::to_owned);
        return (found("Code"), found("Message"));
    }
    (None, text.lines().next().map(str::to_owned))
}

/// The number and what it says.
fn entra(description: &str) -> Option<(&str, &str)> {
    let (number, rest) = description.split_once(": ")?;
    number.starts_with("AADSTS").then_some((number, rest))
}

/// The text of the first element of that name, if it has no markup in it.
pub(super) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let value = value.trim();
    (!value.contains(['<', '&'])).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialect_is_understood() {
        for (body, code, message) in [
            (r#"{"message": "no"}"#, None, Some("no")),
            (r#"{"code": "C", "message": "no"}"#, Some("C"), Some("no")),
            (
                r#"{"error": "invalid_client", "error_description": "AADSTS700024: late. Trace ID: 1"}"#,
                Some("AADSTS700024"),
                Some("late. Trace ID: 1"),
            ),
            (
                r#"{"error": "invalid_request", "error_description": "Identity not found"}"#,
                Some("invalid_request"),
                Some("Identity not found"),
            ),
            (
                r#"{"error": {"code": "C", "message": "no"}}"#,
                Some("C"),
                Some("no"),
            ),
            (
                r#"{"errors": ["permission denied"]}"#,
                None,
                Some("permission denied"),
            ),
            (
                "<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>\n<Message>User: a</Message></Error>",
                Some("AccessDenied"),
                Some("User: a"),
            ),
            ("<html>&amp;</html>", None, None),
            ("no such thing\nmore", None, Some("no such thing")),
        ] {
            let (found, said) = read(body.as_bytes());
            assert_eq!(
                (found.as_deref(), said.as_deref()),
                (code, message),
                "{body}"
            );
        }
        assert_eq!(read(&[0xff]), (None, None));
    }

    #[test]
    fn what_was_sent_is_not_repeated() {
        let answer = Answer {
            status: 400,
            request_id: None,
            retry_after: None,
            flavor: None,
            body: zeroize::Zeroizing::new(
                b"{\"message\": \"bad: abcdefghijklmnopqrst.\"}".to_vec(),
            ),
        };
        let error = refusal(&answer, "Xabcdefghijklmnopqrst");
        assert_eq!(
            error.to_string(),
            "the source answered 400: bad: [of the token]"
        );
    }
}
