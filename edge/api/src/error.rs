//! Error bodies.

use serde::{Deserialize, Serialize};

/// `{"type":"error","error":{…},"request_id":…}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// Always `error`; some gateways leave it out.
    #[serde(default)]
    pub r#type: String,
    /// Which, and for a person.
    pub error: ErrorDetail,
    /// As in the header `request-id`.
    #[serde(default)]
    pub request_id: Option<String>,
}

/// Inside [`ErrorBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// For a program.
    pub r#type: ErrorKind,
    /// For a person.
    pub message: String,
}

/// What a program may branch on; each has one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// 400; 412 if `If-Match` does not hold.
    InvalidRequestError,
    /// 401; says no more than that.
    AuthenticationError,
    /// 403: known, and may not.
    PermissionError,
    /// 404.
    NotFoundError,
    /// 409: does not fit what there is. *Ours.*
    ConflictError,
    /// 413.
    RequestTooLarge,
    /// 429, with `Retry-After`.
    RateLimitError,
    /// 500.
    ApiError,
    /// 503, with `Retry-After`.
    OverloadedError,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}
