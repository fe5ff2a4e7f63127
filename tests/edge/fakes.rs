//! Proxies of the tests' own, which the edge takes for real ones.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

use super::stand::{EDGE, OPEN, Stand, TUNNEL};
use crate::rig::Hello;

/// The tunnel of [`another_tunnel`].
pub(super) const ANOTHER_TUNNEL: &str = "tnl_other";
/// How a proxy of the test's own behaves.
#[derive(Clone, Copy)]
pub(super) enum Fake {
    /// Says this on the control stream.
    Nonsense(&'static [u8]),
    /// Takes every stream and reads none.
    Deaf,
}

/// A connection that the edge has taken; else what it answered.
pub(super) async fn attach(stand: &Stand, secret: &str) -> Result<impl Wire + use<>, String> {
    attach_to(stand, TUNNEL, secret).await
}

/// A tunnel besides the one that there is, whose proxies have `secret-b`.
pub(super) async fn another_tunnel(stand: &Stand, domain: &str) {
    let tunnels = std::fs::read_to_string(stand.file("tunnels.yaml")).unwrap();
    let digest = pki::Fingerprint::of(b"secret-b");
    let other = format!(
        "- id: {ANOTHER_TUNNEL}\n  domain: {domain}\n  access: {{{OPEN}}}\n  secrets:\n  - {{id: b, sha256: '{digest}'}}\n"
    );
    stand.replace("tunnels.yaml", &format!("{tunnels}{other}"));
    stand.edge.logs("tunnels taken", 2).await;
}

/// As [`attach`], for this tunnel.
pub(super) async fn attach_to(
    stand: &Stand,
    tunnel: &str,
    secret: &str,
) -> Result<impl Wire + use<>, String> {
    let front = stand.file("front-ca.pem");
    attach_at(stand.address, &front, tunnel, secret).await
}

/// The same at the edge at `address`, whose CA is in the file `front`.
pub(super) async fn attach_at(
    address: SocketAddr,
    front: &str,
    tunnel: &str,
    secret: &str,
) -> Result<impl Wire + use<>, String> {
    let front = std::fs::read_to_string(front).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(format!("api.{EDGE}")).unwrap();
    let config = Arc::new(Hello::trusting(&front).0);
    let mut tls = tokio_rustls::TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .unwrap();
    let ask = format!(
        "GET {} HTTP/1.1\r\nHost: api.{EDGE}\r\nConnection: upgrade\r\nUpgrade: {}\r\n\
         Authorization: Bearer {secret}\r\nKeyward-Tunnel: {tunnel}\r\nKeyward-Replica: fake\r\n\r\n",
        wire::CONNECT_PATH,
        wire::PROTOCOL
    );
    tls.write_all(ask.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await.unwrap());
    }
    let mut head = String::from_utf8(head).unwrap();
    if head.starts_with("HTTP/1.1 101") {
        return Ok(tls);
    }
    let mut body = vec![0; 4096];
    let read = tls.read(&mut body).await.unwrap();
    head.push_str(&String::from_utf8_lossy(&body[..read]));
    Err(head)
}

pub(super) trait Wire:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static
{
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static> Wire for S {}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Attaches a proxy that behaves as `fake` until `tasks` is stopped.
pub(super) async fn fake(stand: &Stand, tasks: &Tasks, fake: Fake) {
    let stream = attach(stand, "secret-a").await.ok().unwrap();
    serve(tasks, stream, fake);
}

/// Behaves as `fake` on a connection that the edge has taken.
pub(super) fn serve(tasks: &Tasks, stream: impl Wire, fake: Fake) {
    let inner = tasks.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let tasks = inner.clone();
        async move { Ok::<_, Infallible>(behave(&tasks, request, fake)) }
    });
    let stop = tasks.clone();
    tasks.spawn(async move {
        let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(wire::STREAM_WINDOW)
            .initial_connection_window_size(wire::CONNECTION_WINDOW)
            .serve_connection(TokioIo::new(stream), service);
        tokio::select! {
            _ = serving => {}
            () = stop.stopping() => {}
        }
    });
}

fn behave(tasks: &Tasks, request: Request<Incoming>, fake: Fake) -> Response<Body> {
    if request.method() == Method::CONNECT {
        let stop = tasks.clone();
        tasks.spawn(async move {
            let held = hyper::upgrade::on(request).await;
            stop.stopping().await;
            drop(held);
        });
        return Response::new(Empty::new().boxed_unsync());
    }
    // The request's body must not end before the answer's.
    let stop = tasks.clone();
    tasks.spawn(async move {
        let held = request.into_body();
        stop.stopping().await;
        drop(held);
    });
    let said = match fake {
        Fake::Nonsense(nonsense) => Some(Ok(Frame::data(Bytes::from_static(nonsense)))),
        Fake::Deaf => None,
    };
    let silent = futures_util::stream::pending::<Result<Frame<Bytes>, Infallible>>();
    let body = futures_util::stream::iter(said).chain(silent);
    Response::new(StreamBody::new(body).boxed_unsync())
}
