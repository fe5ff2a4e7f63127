//! What an answer means for whoever has to decide what is done next.

use std::fmt;

use ::identity::{Answer, HttpError, Secret, TokenError, shown};
use api::{ErrorBody, ErrorKind};
use serde::de::DeserializeOwned;
use thiserror::Error;

/// What became of a call that did not go well.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CallError {
    /// The other side said no, and did nothing.
    #[error("the Tunnels API refused: {0}")]
    Refused(Refusal),
    /// Nothing of it left this machine.
    #[error("the Tunnels API was not called")]
    NotSent(#[source] NotSent),
    /// It may have had its effect, or may have it yet.
    #[error("the Tunnels API was called, and nobody knows what came of it")]
    Unknown(#[source] Unknown),
}

/// An answer from 300 to 499 but 408.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status.
    pub status: u16,
    /// As the body says; [`ErrorKind::Unknown`] if it has another form.
    pub kind: ErrorKind,
    /// For a person; without any part of the access token.
    pub message: Option<String>,
    /// What the other side calls the request in its log.
    pub request_id: Option<String>,
}

/// Why nothing was sent.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NotSent {
    /// The remote asked for quiet, or the calls of this minute are spent.
    #[error("it is left alone for another {} s", .0.as_secs_f64().ceil())]
    Paced(std::time::Duration),
    /// Nobody authorizes it.
    #[error("there is no access token")]
    Token(#[source] TokenError),
    /// Nobody was reached, or the settings are wrong.
    #[error("it was not reached")]
    Http(#[source] HttpError),
    /// It would have meant another endpoint.
    #[error("{0:?} is no identifier of the Tunnels API")]
    Identifier(String),
}

/// Why nobody knows.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Unknown {
    /// No answer came.
    #[error("no answer came")]
    Http(#[source] HttpError),
    /// 408, or from 500 on: whoever answered may not be who acted.
    #[error("the answer was {0}")]
    Status(Refusal),
    /// It went well, and what came back is not what was asked for.
    #[error("the answer cannot be read: {why}")]
    Unreadable {
        /// What is wrong with it.
        why: &'static str,
        /// As in [`Refusal`].
        request_id: Option<String>,
    },
}

/// A tunnel token. Erased when dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelToken {
    /// Another one after each rotation.
    pub id: String,
    /// The value.
    pub value: Secret,
}

impl From<api::Token> for TunnelToken {
    fn from(token: api::Token) -> Self {
        Self {
            id: token.id,
            value: Secret::new(token.tunnel_token),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        if let Some(message) = &self.message {
            write!(f, ", {message}")?;
        }
        match &self.request_id {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

/// A call without an answer.
pub(super) fn outcome(error: HttpError) -> CallError {
    match error {
        HttpError::Unknown { .. } | HttpError::TooLong { .. } => {
            CallError::Unknown(Unknown::Http(error))
        }
        _ => CallError::NotSent(NotSent::Http(error)),
    }
}

/// An answer; `token` is what must not be in an error.
pub(super) fn read<T: DeserializeOwned>(answer: &Answer, token: &str) -> Result<T, CallError> {
    match answer.status {
        200..=299 => serde_json::from_slice(&answer.body).map_err(|_| {
            CallError::Unknown(Unknown::Unreadable {
                why: "it is not the documented object",
                request_id: answer.request_id.clone(),
            })
        }),
        // Whoever gave up waiting is not whoever acts.
        300..=407 | 409..=499 => Err(CallError::Refused(refusal(answer, token))),
        _ => Err(CallError::Unknown(Unknown::Status(refusal(answer, token)))),
    }
}

fn refusal(answer: &Answer, token: &str) -> Refusal {
    let body: Option<ErrorBody> = serde_json::from_slice(&answer.body).ok();
    let said = |text: &str| Some(shown(text, token)).filter(|text| !text.is_empty());
    let (kind, message, id) = match body {
        Some(body) => (
            body.error.r#type,
            said(&body.error.message),
            body.request_id.as_deref().and_then(said),
        ),
        None => (ErrorKind::Unknown, None, None),
    };
    Refusal {
        status: answer.status,
        kind,
        message,
        request_id: answer.request_id.clone().or(id),
    }
}
