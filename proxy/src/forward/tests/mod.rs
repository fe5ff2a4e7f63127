//! Whole requests over loopback sockets. Upstreams are bare sockets, so that a test decides byte by
//! byte what is on the wire and when; nothing here measures time.

mod cancel;
mod heads;
mod https;
mod place;
mod pool;
mod routes;
mod streams;
mod upgrade;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use process::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{Caller, Forwarder};
use crate::config::Config;

/// A limit for what happens at once when it happens at all.
pub(super) const SOON: Duration = Duration::from_secs(20);

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("still waiting: {what}"))
}

/// A forwarder behind plain HTTP/1.1 and HTTP/2 listeners.
pub(super) struct Proxy {
    pub(super) http1: SocketAddr,
    pub(super) http2: SocketAddr,
    pub(super) forwarder: Forwarder,
    pub(super) cut: CancellationToken,
    tasks: Tasks,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

impl Proxy {
    /// Routes `docs` to `upstream`; `more` is further configuration.
    pub(super) async fn to(upstream: SocketAddr, more: &str) -> Self {
        Self::configured(&format!("routes: {{docs: \"http://{upstream}\"}}\n{more}")).await
    }

    pub(super) async fn configured(routes: &str) -> Self {
        let upstream = if routes.contains("upstream:\n") {
            ""
        } else {
            "upstream: {allowed_ips: [127.0.0.0/8]}\n"
        };
        let text = format!(
            "listen_addr: ':0'\ntunnel_domain: t.example\ncontrol: {{socket: none}}\n{upstream}{routes}"
        );
        let config = Config::from_text(&text, None).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let tasks = Tasks::new();
        let forwarder = Forwarder::new(&config, &tasks).expect("the configuration is good");
        let cut = CancellationToken::new();
        let mut listeners = Vec::new();
        for two in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listeners.push(listener.local_addr().unwrap());
            tasks.spawn(serve(
                listener,
                forwarder.clone(),
                cut.clone(),
                tasks.clone(),
                two,
            ));
        }
        Self {
            http1: listeners[0],
            http2: listeners[1],
            forwarder,
            cut,
            tasks,
        }
    }

    /// A caller's HTTP/1.1 connection.
    pub(super) async fn caller(&self) -> Peer {
        Peer(TcpStream::connect(self.http1).await.unwrap())
    }

    /// Says `request` on a new connection and reads until it is closed.
    pub(super) async fn say(&self, request: &str) -> String {
        let mut caller = self.caller().await;
        caller.write(request).await;
        caller.rest().await
    }

    /// A caller's HTTP/2 connection.
    pub(super) async fn caller_http2<B>(&self) -> hyper::client::conn::http2::SendRequest<B>
    where
        B: http_body::Body<Data = bytes::Bytes, Error = Infallible> + Send + Unpin + 'static,
    {
        let stream = TcpStream::connect(self.http2).await.unwrap();
        let io = TokioIo::new(stream);
        let spawner = self.tasks.clone();
        let handshake = hyper::client::conn::http2::handshake(spawner, io);
        let (sender, connection) = handshake.await.unwrap();
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        sender
    }
}

async fn serve(
    listener: TcpListener,
    forwarder: Forwarder,
    cut: CancellationToken,
    tasks: Tasks,
    two: bool,
) {
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => accepted.unwrap(),
            () = tasks.stopping() => return,
        };
        let caller = Arc::new(Caller {
            tunnel: "main".into(),
            tunnel_domain: None,
            peer: Some(peer),
            generation: 1,
            client_certificate: None,
            cut: cut.clone(),
        });
        let forwarder = forwarder.clone();
        let service = service_fn(move |request| {
            let (forwarder, caller) = (forwarder.clone(), caller.clone());
            async move { forwarder.forward(request, caller).await }
        });
        let io = TokioIo::new(stream);
        if two {
            let builder = http2::Builder::new(tasks.clone());
            tasks.spawn(async move {
                let _ = builder.serve_connection(io, service).await;
            });
        } else {
            tasks.spawn(async move {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(io, service);
                let _ = connection.with_upgrades().await;
            });
        }
    }
}

/// An upstream that does what the test says.
pub(super) struct Upstream(TcpListener);

impl Upstream {
    pub(super) async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection.
    pub(super) async fn accept(&self) -> Peer {
        let accepted = within("a connection to the upstream", self.0.accept()).await;
        Peer(accepted.unwrap().0)
    }

    /// Whether nobody connected so far.
    pub(super) async fn is_untouched(&self) -> bool {
        tokio::select! {
            biased;
            _ = self.0.accept() => false,
            () = tokio::task::yield_now() => true,
        }
    }
}

/// The other end of a socket, read and written by hand.
pub(super) struct Peer(pub(super) TcpStream);

impl Peer {
    pub(super) async fn write(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Everything up to and including `end`, and not a byte more.
    pub(super) async fn until(&mut self, end: &str) -> String {
        let mut text = Vec::new();
        while !text.ends_with(end.as_bytes()) {
            let read = within(end, self.0.read_u8()).await;
            let sofar = String::from_utf8_lossy(&text).into_owned();
            text.push(
                read.unwrap_or_else(|error| panic!("{error} before {end:?}, after {sofar:?}")),
            );
        }
        String::from_utf8(text).unwrap()
    }

    /// A message's head.
    pub(super) async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// Everything until the other side closes or breaks.
    pub(super) async fn rest(&mut self) -> String {
        let mut text = Vec::new();
        let _ = within("the end of the connection", self.0.read_to_end(&mut text)).await;
        String::from_utf8(text).unwrap()
    }

    /// Reads a request's head and answers with `response`.
    pub(super) async fn answer(&mut self, response: &str) -> String {
        let head = self.head().await;
        self.write(response).await;
        head
    }
}

/// The lines of a head that begin with `name:`, lower case, without it.
pub(super) fn values<'h>(head: &'h str, name: &str) -> Vec<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(found, _)| found.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

pub(super) const GET: &str = "GET /mcp HTTP/1.1\r\nHost: docs.t.example\r\n\r\n";
pub(super) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A JSON-RPC call with the id 7.
pub(super) fn call() -> String {
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#;
    format!(
        "POST /mcp HTTP/1.1\r\nHost: docs.t.example\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
