//! Answers of the operator channel, all in one shape, and the reading of what was asked.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::time::timeout;

use super::{ErrorBody, Problem};

/// The longest body of a request: a CSR is about one KiB.
const LONGEST_BODY: usize = 64 << 10;

/// Body of an answer.
pub(super) type Body = BoxBody<Bytes, Infallible>;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Denial(pub(super) StatusCode, pub(super) Problem);

/// The whole body of the request.
pub(super) async fn whole(request: Request<Incoming>, limit: Duration) -> Result<Bytes, Denial> {
    let body = Limited::new(request.into_body(), LONGEST_BODY).collect();
    match timeout(limit, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Denial(
            StatusCode::PAYLOAD_TOO_LARGE,
            Problem {
                what: format!("the body is longer than {LONGEST_BODY} bytes"),
                why: None,
                next: None,
            },
        )),
        Ok(Err(_)) | Err(_) => Err(unusable(
            "the body did not arrive".to_owned(),
            "send all of it at once".to_owned(),
        )),
    }
}

pub(super) fn unusable(what: String, next: String) -> Denial {
    Denial(
        StatusCode::BAD_REQUEST,
        Problem {
            what,
            why: None,
            next: Some(next),
        },
    )
}

pub(super) fn wrong_method(request: &Request<Incoming>) -> Denial {
    Denial(
        StatusCode::METHOD_NOT_ALLOWED,
        Problem {
            what: format!(
                "{} is not served for {}",
                request.method(),
                request.uri().path()
            ),
            why: None,
            next: Some("GET reads, POST orders".to_owned()),
        },
    )
}

pub(super) fn no_such_path(path: &str) -> Denial {
    Denial(
        StatusCode::NOT_FOUND,
        Problem {
            what: format!("no such path {path:?}"),
            why: Some("this version does not serve it".to_owned()),
            next: Some(
                "there are /v1/status, /v1/events, /v1/rotations, /v1/operations/ID and \
                 /v1/client-certificates"
                    .to_owned(),
            ),
        },
    )
}

impl Denial {
    pub(super) fn response(self) -> Response<Body> {
        json(self.0, &ErrorBody { error: self.1 })
    }
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let mut text = serde_json::to_string(value).expect("our own types have string keys");
    text.push('\n');
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}
