//! Answers, good and bad, in the forms of the API.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use process::Chain;
use serde::Serialize;

use super::shared::Shared;
use crate::state::{ChangeError, DatabaseError};

/// What is answered when it went well: 200.
#[derive(Debug)]
pub(super) struct Good {
    body: Bytes,
    kind: &'static str,
    etag: Option<u64>,
}

impl Good {
    pub(super) fn json(of: &impl Serialize) -> Self {
        let body = serde_json::to_vec(of).expect("plain data has a JSON form");
        Self {
            body: body.into(),
            kind: "application/json",
            etag: None,
        }
    }

    /// A document of another kind.
    pub(super) fn document(kind: &'static str, text: &'static str) -> Self {
        Self {
            body: Bytes::from_static(text.as_bytes()),
            kind,
            etag: None,
        }
    }

    /// The same, in memory once with all that are being sent `among` others and say as much.
    pub(super) fn shared(mut self, among: &Shared) -> Self {
        self.body = among.of(self.body);
        self
    }

    /// With the version that `If-Match` is compared with.
    pub(super) fn version(mut self, version: u64) -> Self {
        self.etag = Some(version);
        self
    }
}

/// What is answered when it did not.
#[derive(Debug)]
pub(super) struct Failed {
    status: StatusCode,
    kind: api::ErrorKind,
    message: String,
    /// Seconds.
    retry_after: Option<u64>,
    /// With 405 (RFC 9110 §15.5.6).
    allow: Option<String>,
    /// RFC 6749 §5.2 instead of the API's own form.
    oauth: Option<&'static str>,
}

impl Failed {
    fn new(status: StatusCode, kind: api::ErrorKind, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            retry_after: None,
            allow: None,
            oauth: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            api::ErrorKind::InvalidRequestError,
            message,
        )
    }

    /// The same words for every reason.
    pub(super) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            api::ErrorKind::AuthenticationError,
            "Authentication failed",
        )
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            api::ErrorKind::PermissionError,
            message,
        )
    }

    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            api::ErrorKind::NotFoundError,
            "Not found",
        )
    }

    pub(super) fn no_such(what: &str) -> Self {
        Self {
            message: format!("There is no such {what}"),
            ..Self::not_found()
        }
    }

    /// `allowed`: the methods that are.
    pub(super) fn method(allowed: impl Iterator<Item = Method>) -> Self {
        let allowed: Vec<String> = allowed.map(|method| method.to_string()).collect();
        Self {
            allow: Some(allowed.join(", ")),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                api::ErrorKind::InvalidRequestError,
                "Method not allowed here",
            )
        }
    }

    pub(super) fn too_large(most: usize) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            api::ErrorKind::RequestTooLarge,
            format!("The body may have {most} bytes"),
        )
    }

    pub(super) fn too_often(retry_after: u64) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                api::ErrorKind::RateLimitError,
                "Too many requests",
            )
        }
    }

    fn unavailable() -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                api::ErrorKind::OverloadedError,
                "The edge's database does not answer",
            )
        }
    }

    /// In the form of RFC 6749, for those who asked with a form. Refusals are 400 there.
    pub(super) fn oauth(mut self) -> Self {
        self.oauth = Some(match self.status {
            StatusCode::UNAUTHORIZED => {
                self.status = StatusCode::BAD_REQUEST;
                "invalid_grant"
            }
            status if status.is_client_error() => "invalid_request",
            _ => "temporarily_unavailable",
        });
        self
    }
}

impl From<DatabaseError> for Failed {
    fn from(error: DatabaseError) -> Self {
        tracing::error!(error = %Chain(&error), "the database failed");
        Self::unavailable()
    }
}

impl From<ChangeError> for Failed {
    fn from(error: ChangeError) -> Self {
        let conflict = |message: String| {
            Self::new(StatusCode::CONFLICT, api::ErrorKind::ConflictError, message)
        };
        match error {
            ChangeError::NotFound(what) => Self::no_such(what),
            ChangeError::Invalid(message) => Self::invalid(message),
            ChangeError::Conflict(message) => conflict(message),
            ChangeError::Unrevealable(message) => conflict(message.to_owned()),
            ChangeError::Stale { .. } => Self {
                status: StatusCode::PRECONDITION_FAILED,
                ..Self::invalid(format!("if-match: {error}"))
            },
            ChangeError::Database(error) => error.into(),
        }
    }
}

/// Whatever version is meant is served in the same shapes: the SDKs of 2026 name a newer one than the
/// documents of the Tunnels API do. Only what is no version is refused.
pub(super) fn check_version(headers: &HeaderMap) -> Result<(), Failed> {
    let Some(version) = headers.get(api::VERSION_HEADER) else {
        return Ok(());
    };
    let dated = version
        .as_bytes()
        .iter()
        .enumerate()
        .all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if dated && version.len() == 10 {
        Ok(())
    } else {
        Err(Failed::invalid(
            "anthropic-version: must be a date such as 2023-06-01",
        ))
    }
}

/// The response, with what every response has.
pub(super) fn response(result: Result<Good, Failed>, request_id: &str) -> Response<Full<Bytes>> {
    let mut kind = "application/json";
    let mut response = match result {
        Ok(good) => {
            kind = good.kind;
            let mut response = Response::new(Full::new(good.body));
            if let Some(etag) = good.etag.and_then(|v| format!("\"{v}\"").parse().ok()) {
                response.headers_mut().insert(ETAG, etag);
            }
            response
        }
        Err(failed) => failure(&failed, request_id),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    // Answers hold tokens or say who may call: no cache is to have them (RFC 6749 §5.1).
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(id) = request_id.parse() {
        headers.insert(api::REQUEST_ID_HEADER, id);
    }
    response
}

fn failure(failed: &Failed, request_id: &str) -> Response<Full<Bytes>> {
    let body = match failed.oauth {
        Some(error) => Good::json(&api::OAuthError {
            error: error.to_owned(),
            error_description: Some(failed.message.clone()),
        }),
        None => Good::json(&api::ErrorBody {
            r#type: "error".to_owned(),
            error: api::ErrorDetail {
                r#type: failed.kind,
                message: failed.message.clone(),
            },
            request_id: Some(request_id.to_owned()),
        }),
    };
    let mut response = Response::new(Full::new(body.body));
    *response.status_mut() = failed.status;
    if let Some(seconds) = failed.retry_after {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    if let Some(allowed) = failed.allow.as_deref().and_then(|text| text.parse().ok()) {
        response.headers_mut().insert(ALLOW, allowed);
    }
    if failed.status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
    }
    response
}
