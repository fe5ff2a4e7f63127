//! `/ready` as cloudflared answers it.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use process::Tasks;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Who answers.
#[derive(Clone)]
pub(super) struct Ready {
    pub(super) connector: String,
}

impl Ready {
    /// Answers until `end`, also while the connector drains.
    pub(super) async fn serve(self, listener: TcpListener, tasks: Tasks, end: CancellationToken) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        tasks.spawn(self.clone().connection(stream, tasks.clone(), end.clone()));
                    }
                    Err(error) => tracing::warn!(%error, "metrics listener cannot accept"),
                },
                () = end.cancelled() => return,
            }
        }
    }

    async fn connection(self, stream: TcpStream, tasks: Tasks, end: CancellationToken) {
        let service = service_fn(move |request| {
            let answer = self.answer(&request, tasks.is_stopping());
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = connection => {}
            () = end.cancelled() => {}
        }
    }

    fn answer(&self, request: &Request<Incoming>, draining: bool) -> Response<Full<Bytes>> {
        let status = match (request.uri().path(), draining) {
            ("/ready", false) => StatusCode::OK,
            ("/ready", true) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::NOT_FOUND,
        };
        let text = json!({
            "status": status.as_u16(),
            // One edge address gives one connection.
            "readyConnections": u8::from(status == StatusCode::OK),
            "connectorId": self.connector,
        });
        let mut answer = Response::new(Full::new(Bytes::from(text.to_string())));
        *answer.status_mut() = status;
        let json = header::HeaderValue::from_static("application/json");
        answer.headers_mut().insert(header::CONTENT_TYPE, json);
        answer
    }
}
