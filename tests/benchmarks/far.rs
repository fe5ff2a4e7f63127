//! The far end of a proxy's connection inside the benchmark: it dials the edge as a proxy does, holds the control stream
//! open and takes no calls. Where hundreds of connections are held, or the moment of their end counts, it stands in for
//! proxies; whatever carries calls is a real one.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::Pending;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Either, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::{Failure, Tasks};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::caller::dial;
use crate::tunnel::EDGE;

/// One connection. Dropped, it is closed.
pub(crate) struct Far {
    ended: watch::Receiver<Option<Instant>>,
    bound: watch::Receiver<bool>,
    _open: oneshot::Sender<()>,
}

type Body = Either<Empty<Bytes>, StreamBody<Pending<Result<Frame<Bytes>, Infallible>>>>;

impl Far {
    /// Dials `edge` from the address `from` with `credential`. The inner error is the status of a refusal.
    pub(crate) async fn attach(
        (edge, from): (SocketAddr, Ipv4Addr),
        trust: &Arc<ClientConfig>,
        (tunnel, credential): (&str, &str),
        tasks: &Tasks,
    ) -> Result<Result<Self, StatusCode>, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::internal(format!("cannot dial the edge at {edge}")).caused_by(error)
        };
        let name = format!("api.{EDGE}");
        let host = ServerName::try_from(name.clone()).map_err(|error| failed(&error))?;
        let stream = dial(edge, from).await.map_err(|error| failed(&error))?;
        let connector = TlsConnector::from(Arc::clone(trust));
        let stream = connector.connect(host, stream).await;
        let io = TokioIo::new(stream.map_err(|error| failed(&error))?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|error| failed(&error))?;
        tasks.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        let ask = Request::get(wire::CONNECT_PATH)
            .header(header::HOST, name)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, wire::PROTOCOL)
            .header(header::AUTHORIZATION, format!("Bearer {credential}"))
            .header(wire::TUNNEL, tunnel)
            .header(wire::REPLICA, "far")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let answer = sender
            .send_request(ask)
            .await
            .map_err(|error| failed(&error))?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Err(answer.status()));
        }
        let upgraded = hyper::upgrade::on(answer)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Ok(Self::serve(upgraded, tasks)))
    }

    fn serve(upgraded: Upgraded, tasks: &Tasks) -> Self {
        let (ending, ended) = watch::channel(None);
        let (binding, bound) = watch::channel(false);
        let (open, closed) = oneshot::channel::<()>();
        let stopping = tasks.clone();
        tasks.spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(request, binding.clone(), &stopping);
                async move { Ok::<_, Infallible>(answer) }
            });
            let serving = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(wire::STREAM_WINDOW)
                .initial_connection_window_size(wire::CONNECTION_WINDOW)
                .max_frame_size(wire::MAX_FRAME)
                .serve_connection(upgraded, service);
            tokio::select! {
                _ = serving => {}
                _ = closed => {}
                () = stopping.stopping() => {}
            }
            let _ = ending.send(Some(Instant::now()));
        });
        Self {
            ended,
            bound,
            _open: open,
        }
    }

    /// Waits until the edge has said on the control stream what the connection is bound to.
    pub(crate) async fn bound(&mut self) -> Result<(), Failure> {
        let bound = self.bound.wait_for(|bound| *bound).await;
        bound
            .map(drop)
            .map_err(|_| Failure::internal("the edge closed a new connection"))
    }

    /// When it ended, if it has.
    pub(crate) fn has_ended(&self) -> Option<Instant> {
        *self.ended.borrow()
    }

    /// Waits for its end.
    pub(crate) async fn end(&mut self) -> Instant {
        let ended = self.ended.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|ended| *ended)
            .unwrap_or_else(Instant::now)
    }
}

fn answer(request: Request<Incoming>, bound: watch::Sender<bool>, tasks: &Tasks) -> Response<Body> {
    if request.method() != Method::POST {
        let mut refused = Response::new(Either::Left(Empty::new()));
        *refused.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return refused;
    }
    tasks.spawn(async move {
        let mut said = request.into_body();
        while let Some(Ok(_)) = said.frame().await {
            let _ = bound.send(true);
        }
    });
    let silent = StreamBody::new(futures_util::stream::pending());
    Response::new(Either::Right(silent))
}
