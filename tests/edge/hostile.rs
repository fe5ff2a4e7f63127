//! An edge of the test's own, with the front key of a real one: what whoever has taken an edge over can do to the
//! proxies that dial it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use process::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto};
use tokio_rustls::server::TlsStream;
use wire::FromEdge;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Listens in the place of an edge.
pub(super) struct Hostile {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    pub(super) address: SocketAddr,
    /// Edges that it says there are.
    pub(super) instances: u32,
}

/// A proxy that has dialled.
pub(super) struct Taken {
    sender: SendRequest<Body>,
    _control: Incoming,
}

/// A stream to a proxy, as an agent would have it.
pub(super) type Opened = TokioIo<hyper::upgrade::Upgraded>;

impl Hostile {
    /// With the certificate chain and the key of the edge that it stands for, both in PEM.
    pub(super) async fn bind(chain: &str, key: &str) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let provider = Arc::new(crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect(), key)
            .unwrap();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            acceptor: TlsAcceptor::from(Arc::new(config)),
            listener,
            instances: 1,
        }
    }

    /// Takes the next proxy, whatever it presents; what comes next is HTTP/2.
    pub(super) async fn accept(&self) -> TlsStream<TcpStream> {
        loop {
            // One that has waited for too long has given up, and dials again.
            if let Ok(tls) = self.upgraded().await {
                return tls;
            }
        }
    }

    async fn upgraded(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let (tcp, _) = self.listener.accept().await?;
        let mut tls = self.acceptor.accept(tcp).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tls.read_u8().await?);
        }
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: {}\r\n{}: hostile\r\n{}: {}\r\n\r\n",
            wire::PROTOCOL,
            wire::EDGE_INSTANCE,
            wire::EDGE_INSTANCES,
            self.instances
        );
        tls.write_all(answer.as_bytes()).await?;
        tls.flush().await?;
        Ok(tls)
    }

    /// The same, and the connection is bound until `tasks` are stopped.
    pub(super) async fn take(&self, tasks: &Tasks) -> Taken {
        let stream = self.accept().await;
        let mut sender = Box::pin(speak(stream, tasks)).await;
        let bound = FromEdge::Bound {
            seq: 0,
            credential_id: "taken".to_owned(),
        };
        let line = Bytes::copy_from_slice(&wire::line(&bound).unwrap());
        let silent = futures_util::stream::pending();
        let said = futures_util::stream::iter([Ok::<_, Infallible>(Frame::data(line))]);
        let body = StreamBody::new(futures_util::StreamExt::chain(said, silent)).boxed_unsync();
        let control = Request::post(format!("https://proxy{}", wire::CONTROL_PATH));
        let control = sender
            .send_request(control.body(body).unwrap())
            .await
            .unwrap();
        assert_eq!(control.status(), 200);
        Taken {
            sender,
            _control: control.into_body(),
        }
    }
}

/// HTTP/2 on `stream` as its client, until `tasks` are stopped.
pub(super) async fn speak<S, B>(stream: S, tasks: &Tasks) -> SendRequest<B>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .unwrap();
    let stop = tasks.clone();
    tasks.spawn(async move {
        tokio::select! {
            _ = connection => {}
            () = stop.stopping() => {}
        }
    });
    sender
}

impl Taken {
    /// Opens a stream for `name`, and says that the caller has shown `certificate` (RFC 9440) where there is one.
    pub(super) async fn open(&mut self, name: &str, certificate: Option<&str>) -> Opened {
        let mut request =
            Request::connect(format!("{name}:443")).header(wire::FORWARDED, "for=\"127.0.0.1:1\"");
        if let Some(certificate) = certificate {
            request = request.header(wire::CLIENT_CERT, certificate);
        }
        let request = request.body(Empty::new().boxed_unsync()).unwrap();
        let answer = self.sender.send_request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        TokioIo::new(hyper::upgrade::on(answer).await.unwrap())
    }
}
