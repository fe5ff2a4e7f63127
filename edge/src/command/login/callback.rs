//! Where the browser comes back to: a port on loopback for one answer (RFC 8252 §7.3).
//!
//! Any page in any browser can send requests there. So what does not name the state of this sign-in is
//! answered 400 and changes nothing, and the first answer that does ends the wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::Tasks;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use crate::percent;

const PATH: &str = "/callback";
/// A connection that says nothing for so long ends.
const LIMIT: Duration = Duration::from_secs(10);
/// The browser gets its page within this time, or not.
const FAREWELL: Duration = Duration::from_secs(1);

/// What is expected of the one answer.
pub(super) struct Callback {
    pub(super) state: String,
    pub(super) issuer: String,
}

/// What the provider says instead of a code (RFC 6749 §4.1.2.1).
#[derive(Debug, Error)]
pub(super) enum Refused {
    /// `error`, and `error_description` if any.
    #[error("the identity provider answers {error:?} {description:?}")]
    Provider {
        /// `error`.
        error: String,
        /// `error_description`.
        description: String,
    },
    /// `iss` (RFC 9207 §2.4) is somebody else.
    #[error("the answer is from {found:?}, the sign-in was at {wanted:?}")]
    Issuer {
        /// In the answer.
        found: String,
        /// `--issuer`.
        wanted: String,
    },
    /// The listener failed.
    #[error("cannot take the browser's answer")]
    Listener(#[from] std::io::Error),
}

/// An authorization code.
pub(super) type Code = Zeroizing<String>;

/// The URL that the provider is to send the browser to.
pub(super) fn url(listener: &TcpListener) -> std::io::Result<String> {
    Ok(format!("http://{}{PATH}", listener.local_addr()?))
}

impl Callback {
    /// Waits for the answer with the right state. Dropped, nothing has happened.
    pub(super) async fn wait(self, listener: &TcpListener) -> Result<Code, Refused> {
        let (found, mut answers) = mpsc::channel(1);
        let (this, tasks) = (Arc::new(self), Tasks::new());
        let code = loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted?.0,
                // There is always one sender, the one here.
                Some(answer) = answers.recv() => break answer,
            };
            let (this, found) = (Arc::clone(&this), found.clone());
            let service = service_fn(move |request| {
                let (status, text, answer) = this.answer(&request);
                if let Some(answer) = answer {
                    // Of two right answers the first counts.
                    let _ = found.try_send(answer);
                }
                async move { Ok::<_, Infallible>(page(status, text)) }
            });
            tasks.spawn(async move {
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(LIMIT)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        };
        tasks.drain(FAREWELL).await;
        code
    }

    fn answer(
        &self,
        request: &Request<Incoming>,
    ) -> (StatusCode, &'static str, Option<Result<Code, Refused>>) {
        if request.method() != Method::GET || request.uri().path() != PATH {
            return (StatusCode::NOT_FOUND, "There is nothing here.", None);
        }
        let foreign = "This is not the answer to the sign-in that is open.";
        let Some(state) = parameter(request.uri(), "state") else {
            return (StatusCode::BAD_REQUEST, foreign, None);
        };
        if verify_slices_are_equal(state.as_bytes(), self.state.as_bytes()).is_err() {
            return (StatusCode::BAD_REQUEST, foreign, None);
        }
        if let Some(found) = parameter(request.uri(), "iss").filter(|iss| *iss != self.issuer) {
            let wanted = self.issuer.clone();
            let refused = Refused::Issuer { found, wanted };
            return (StatusCode::BAD_REQUEST, foreign, Some(Err(refused)));
        }
        if let Some(code) = parameter(request.uri(), "code") {
            let text = "The sign-in goes on in the terminal. This page can be closed.";
            return (StatusCode::OK, text, Some(Ok(Zeroizing::new(code))));
        }
        let said = |name| parameter(request.uri(), name).unwrap_or_default();
        let refused = Refused::Provider {
            error: said("error"),
            description: said("error_description"),
        };
        let text = "The identity provider refused. The terminal says why.";
        (StatusCode::OK, text, Some(Err(refused)))
    }
}

/// A parameter that stands in the query once; twice is as good as never (RFC 6749 §3.1).
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut values = pairs.filter_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        (found == name).then_some(value)
    });
    match (values.next(), values.next()) {
        (Some(value), None) => percent::decode(value),
        _ => None,
    }
}

fn page(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONNECTION, "close"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
