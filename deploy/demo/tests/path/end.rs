//! A plain end of inner TLS in front of an MCP server: rustls and hyper with nothing in between.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{Algorithm, Authority, AuthorityProfile, PrivateKey, Serial, ServerProfile};
use process::{Clock, SystemClock, Tasks};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs};
use tokio_websockets::{Message, ServerBuilder};

pub(crate) const HOST: &str = "sample.tunnel.example";

pub(crate) struct End {
    pub(crate) websocket: SocketAddr,
    pub(crate) tls: SocketAddr,
    /// Heads of the WebSocket upgrades, as they came.
    pub(crate) upgrades: Arc<Mutex<Vec<String>>>,
    pub(crate) ca: String,
}

impl End {
    pub(crate) async fn start(upstream: SocketAddr, tasks: &Tasks) -> Self {
        let (config, ca) = credential();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let websocket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            websocket: websocket.local_addr().unwrap(),
            tls: tls.local_addr().unwrap(),
            upgrades: Arc::default(),
            ca,
        };
        let (owner, ender) = (tasks.clone(), acceptor.clone());
        tasks.spawn(async move {
            while let Ok((stream, _)) = tls.accept().await {
                owner.spawn(serve(stream, ender.clone(), upstream));
            }
        });
        let (owner, upgrades) = (tasks.clone(), Arc::clone(&this.upgrades));
        tasks.spawn(async move {
            while let Ok((stream, _)) = websocket.accept().await {
                let (near, far) = tokio::io::duplex(64 << 10);
                owner.spawn(unwrap_messages(stream, near, Arc::clone(&upgrades)));
                owner.spawn(serve(far, acceptor.clone(), upstream));
            }
        });
        this
    }
}

fn credential() -> (ServerConfig, String) {
    let now = SystemClock.wall();
    let authority = Authority::generate(&AuthorityProfile::server("a test CA"), now).unwrap();
    let key = PrivateKey::generate(Algorithm::default()).unwrap();
    let pem = key.to_pem();
    let profile = ServerProfile::new("tunnel.example");
    let pair = authority
        .issue(&profile, key, Serial::random(), now)
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.certificate().der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (config, authority.certificate().to_pem())
}

async fn unwrap_messages(
    mut stream: TcpStream,
    near: tokio::io::DuplexStream,
    upgrades: Arc<Mutex<Vec<String>>>,
) {
    let mut head = vec![0; 4096];
    let seen = stream.peek(&mut head).await.unwrap();
    let head = String::from_utf8_lossy(&head[..seen]).into_owned();
    upgrades.lock().unwrap().push(head);
    let Ok((_, socket)) = ServerBuilder::new().accept(&mut stream).await else {
        return;
    };
    let (mut sink, mut messages) = socket.split();
    let (mut read, mut write) = tokio::io::split(near);
    let inward = async {
        while let Some(Ok(message)) = messages.next().await {
            if message.is_binary() && write.write_all(message.as_payload()).await.is_err() {
                break;
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0; 8 << 10];
        while let Ok(length @ 1..) = read.read(&mut buffer).await {
            let message = Message::binary(buffer[..length].to_vec());
            if sink.send(message).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

async fn serve<S>(stream: S, acceptor: TlsAcceptor, upstream: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let service = service_fn(move |request| forward(request, upstream));
    let io = TokioIo::new(stream);
    if two {
        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = builder.serve_connection(io, service).await;
    } else {
        let builder = hyper::server::conn::http1::Builder::new();
        let _ = builder.serve_connection(io, service).await;
    }
}

async fn forward(
    mut request: Request<Incoming>,
    upstream: SocketAddr,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(upstream).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let path = request.uri().path_and_query().cloned().unwrap();
    *request.uri_mut() = http::Uri::from(path);
    *request.version_mut() = http::Version::HTTP_11;
    let host = http::HeaderValue::try_from(upstream.to_string())?;
    request.headers_mut().insert(http::header::HOST, host);
    let answer = sender.send_request(request);
    let mut connection = Box::pin(connection);
    let answer = tokio::select! {
        answer = answer => answer?,
        ended = connection.as_mut() => return Err(format!("the upstream left: {ended:?}").into()),
    };
    let (parts, mut body) = answer.into_parts();
    // The connection is driven by whoever reads the body, so that no task is needed for it.
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let pump = async move {
        while let Some(frame) = body.frame().await {
            if sender.send(frame).await.is_err() {
                return;
            }
        }
    };
    let frames = futures_util::stream::unfold(
        (
            receiver,
            Box::pin(async move { drop(tokio::join!(pump, connection)) }),
            false,
        ),
        |(mut receiver, mut pump, mut over)| async move {
            loop {
                tokio::select! {
                    biased;
                    frame = receiver.recv() => return frame.map(|frame| (frame, (receiver, pump, over))),
                    () = pump.as_mut(), if !over => over = true,
                }
            }
        },
    );
    let body = http_body_util::StreamBody::new(frames);
    Ok(Response::from_parts(
        parts,
        SyncBody(Mutex::new(Box::pin(body))).boxed(),
    ))
}

/// `BoxBody` wants `Sync`; a body is only ever polled by one.
struct SyncBody<B>(Mutex<std::pin::Pin<Box<B>>>);

impl<B: hyper::body::Body> hyper::body::Body for SyncBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<B::Data>, B::Error>>> {
        self.0.lock().unwrap().as_mut().poll_frame(context)
    }
}
