//! `/healthz`, `/readyz`, `/metrics`: what may be read without being asked who one is.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use crate::{Failure, Tasks};

/// A caller may take this long to send its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A page that is made when it is asked for.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// A page that takes its time.
pub type Asked = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = String> + Send>> + Send + Sync>;

/// What the health listener says.
#[derive(Clone)]
pub struct Health {
    /// Why the program is not ready; empty: it is.
    pub reasons: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// What else `/readyz` says, a line each; decides nothing.
    pub notes: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// Metrics in the Prometheus text format.
    pub metrics: Page,
    /// Read-only JSON under further paths.
    pub pages: Vec<(&'static str, Page)>,
    /// The same, of what has to be found out first.
    pub asked: Vec<(&'static str, Asked)>,
}

impl Health {
    /// Answers on `listener` until the stop; while the program drains `/readyz` says so.
    ///
    /// # Errors
    ///
    /// None: a connection that fails ends alone, a failing accept is tried again.
    pub async fn serve(self, listener: TcpListener, tasks: Tasks) -> Result<(), Failure> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = tasks.stopping() => return Ok(()),
            };
            match accepted {
                Ok((stream, _)) => tasks.spawn(self.clone().connection(stream, tasks.clone())),
                Err(error) => {
                    tracing::warn!(%error, "health listener cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(self, stream: TcpStream, tasks: Tasks) {
        let draining = tasks.clone();
        let service = service_fn(move |request| {
            let (this, draining) = (self.clone(), draining.is_stopping());
            async move { Ok::<_, Infallible>(this.answer(&request, draining).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(REQUEST_LIMIT)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            // A prober that breaks its connection is no event.
            _ = connection => {}
            () = tasks.stopping() => {}
        }
    }

    async fn answer(&self, request: &Request<Incoming>, draining: bool) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(
                StatusCode::METHOD_NOT_ALLOWED,
                "only GET is served here\n".to_owned(),
            );
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => self.ready(draining),
            "/metrics" => text(StatusCode::OK, (self.metrics)()),
            path => match self.page(path).await {
                Some(page) => reply(StatusCode::OK, "application/json", page),
                None => text(StatusCode::NOT_FOUND, "no such page\n".to_owned()),
            },
        }
    }

    async fn page(&self, path: &str) -> Option<String> {
        if let Some((_, page)) = self.pages.iter().find(|(known, _)| *known == path) {
            return Some(page());
        }
        let (_, asked) = self.asked.iter().find(|(known, _)| *known == path)?;
        Some(asked().await)
    }

    fn ready(&self, draining: bool) -> Response<Full<Bytes>> {
        let mut reasons = (self.reasons)();
        if draining {
            reasons.push("draining".to_owned());
        }
        let (status, word) = match reasons.as_slice() {
            [] => (StatusCode::OK, "ready\n"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        };
        let mut body = word.to_owned();
        for line in reasons.into_iter().chain((self.notes)()) {
            body.push_str(&line);
            body.push('\n');
        }
        text(status, body)
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    reply(status, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn reply(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let value = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}
