//! An MCP server's place: answers, notes every request, and says an event when it is told to.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use process::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// `/events` is an event stream, `/ws` an echo behind an upgrade, `/large/NUMBER` a quarter of a MiB with that number in a field of
/// its head, everything else answers `ok`, `/held` not before the next event.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    events: broadcast::Sender<u64>,
    tasks: Tasks,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self::at([127, 0, 0, 1].into()).await
    }

    /// On another address.
    pub(crate) async fn at(address: IpAddr) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let this = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            events: broadcast::Sender::new(1024),
            tasks: Tasks::new(),
        };
        let serving = this.clone();
        this.tasks.spawn(async move {
            let stop = serving.tasks.clone();
            tokio::select! {
                () = serving.accept(listener) => {}
                () = stop.stopping() => {}
            }
        });
        this
    }

    /// Every event stream gets the event `number`.
    pub(crate) fn say(&self, number: u64) {
        let _ = self.events.send(number);
    }

    /// Event streams that are open here.
    pub(crate) fn streams(&self) -> usize {
        self.events.receiver_count()
    }

    /// `METHOD path` of the requests so far that `filter` takes.
    pub(crate) fn seen(&self, filter: impl Fn(&str) -> bool) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|line| filter(line)).cloned().collect()
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            let Ok((socket, _)) = listener.accept().await else {
                continue;
            };
            let this = self.clone();
            self.tasks.spawn(async move {
                let stop = this.tasks.clone();
                tokio::select! {
                    () = this.connection(socket) => {}
                    () = stop.stopping() => {}
                }
            });
        }
    }

    async fn connection(self, socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        let service = service_fn(|request| {
            let answer = self.answer(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
        let _ = connection.with_upgrades().await;
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Response<Body> {
        // Before it is noted, so that whoever has seen it can let it go.
        let held = (request.uri().path() == "/held").then(|| self.events.subscribe());
        let line = format!("{} {}", request.method(), request.uri().path());
        self.seen.lock().unwrap().push(line);
        match request.uri().path() {
            "/events" => self.stream(),
            "/ws" => self.echo(&mut request),
            path if path.starts_with("/large/") => large(path),
            _ => {
                let body = request.into_body().collect().await;
                if let Some(mut events) = held {
                    let _ = events.recv().await;
                }
                let status = match body {
                    Ok(_) => StatusCode::OK,
                    Err(_) => StatusCode::BAD_REQUEST,
                };
                let mut answer = Response::new(Full::from("ok").boxed_unsync());
                *answer.status_mut() = status;
                answer
            }
        }
    }

    fn stream(&self) -> Response<Body> {
        let events = futures_util::stream::unfold(self.events.subscribe(), |mut events| async {
            let number = events.recv().await.ok()?;
            let event = Bytes::from(format!("data: {number}\n\n"));
            Some((Ok(Frame::data(event)), events))
        });
        let mut answer = Response::new(StreamBody::new(events).boxed_unsync());
        let kind = HeaderValue::from_static("text/event-stream");
        answer.headers_mut().insert(header::CONTENT_TYPE, kind);
        answer
    }

    fn echo(&self, request: &mut Request<Incoming>) -> Response<Body> {
        let upgrade = hyper::upgrade::on(request);
        self.tasks.spawn(async move {
            let Ok(upgraded) = upgrade.await else { return };
            let mut stream = TokioIo::new(upgraded);
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    return;
                }
            }
        });
        let mut answer = Response::new(Full::default().boxed_unsync());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("echo"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        answer
    }
}

fn large(path: &str) -> Response<Body> {
    let mut answer = Response::new(Full::from(vec![b'x'; 256 << 10]).boxed_unsync());
    let number = HeaderValue::from_str(path).unwrap();
    answer.headers_mut().insert("x-number", number);
    answer
}
