//! One caller, step by step: TLS without a library's own ideas of when to read and write, so that a
//! test decides what goes out, what is held back and until when.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use control::Credential;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use tokio_websockets::{ClientBuilder, CloseCode, Message, WebSocketStream};

use super::{HOST, Issuer, LIMIT, Proxy};

/// How bytes get to the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carrier {
    Tls,
    WebSocket,
}

/// How a caller introduces itself.
#[derive(Clone)]
pub(crate) struct Hello(pub(crate) ClientConfig);

impl Hello {
    /// Trusts the CA of `issuer`, speaks HTTP/1.1 over TLS 1.3 or 1.2, and resumes nothing.
    pub(crate) fn new(issuer: &Issuer) -> Self {
        Self::trusting(&issuer.ca_pem())
    }

    /// The same for the CA certificates in `pem`.
    pub(crate) fn trusting(pem: &str) -> Self {
        Self::make(pem, None, rustls::ALL_VERSIONS)
    }

    /// TLS 1.2 alone, or TLS 1.3 alone.
    pub(crate) fn version(
        issuer: &Issuer,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> Self {
        Self::make(&issuer.ca_pem(), None, &[version])
    }

    /// With a client certificate.
    pub(crate) fn with_client(issuer: &Issuer, client: &(String, String)) -> Self {
        Self::trusting_with(&issuer.ca_pem(), client)
    }

    /// For the CA certificates in `pem`, with a client certificate.
    pub(crate) fn trusting_with(pem: &str, (certificate, key): &(String, String)) -> Self {
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Self::make(pem, Some((certificate, key)), rustls::ALL_VERSIONS)
    }

    fn make(
        pem: &str,
        client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(ca.unwrap()).unwrap();
        }
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(vec![certificate], key)
                .unwrap(),
        };
        config.resumption = Resumption::disabled();
        Self(config)
    }

    /// Offers `protocol` by ALPN.
    pub(crate) fn alpn(mut self, protocol: &[u8]) -> Self {
        self.0.alpn_protocols = vec![protocol.to_vec()];
        self
    }

    /// Keeps sessions and offers them, as long as clones of this one are used.
    pub(crate) fn resuming(mut self) -> Self {
        self.0.resumption = Resumption::in_memory_sessions(64);
        self
    }
}

enum Wire {
    Tcp(TcpStream),
    Web(Box<WebSocketStream<TcpStream>>),
}

/// A connection of inner TLS through a carrier.
pub(crate) struct Line {
    wire: Wire,
    tls: ClientConnection,
    /// Decrypted and not yet read.
    inbox: Vec<u8>,
    /// With which the WebSocket was closed.
    pub(crate) closed: Option<CloseCode>,
    /// The TLS connection was closed in an orderly way.
    pub(crate) notified: bool,
}

/// What came back for a request.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Line {
    /// A carrier's stream on which nothing of TLS was said yet.
    pub(crate) async fn dial(proxy: &Proxy, carrier: Carrier, hello: &Hello) -> io::Result<Self> {
        let address = match carrier {
            Carrier::Tls => proxy.tls,
            Carrier::WebSocket => proxy.web,
        };
        let tcp = connect(address).await?;
        let wire = match carrier {
            Carrier::Tls => Wire::Tcp(tcp),
            Carrier::WebSocket => {
                let uri = format!("ws://{HOST}/").parse().map_err(io::Error::other)?;
                let builder = ClientBuilder::from_uri(uri);
                let (web, _) = builder.connect_on(tcp).await.map_err(io::Error::other)?;
                Wire::Web(Box::new(web))
            }
        };
        Self::new(wire, hello)
    }

    /// The same on a connection that somebody else has made.
    pub(crate) fn on(tcp: TcpStream, hello: &Hello) -> io::Result<Self> {
        Self::new(Wire::Tcp(tcp), hello)
    }

    fn new(wire: Wire, hello: &Hello) -> io::Result<Self> {
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let tls =
            ClientConnection::new(Arc::new(hello.0.clone()), name).map_err(io::Error::other)?;
        Ok(Self {
            wire,
            tls,
            inbox: Vec::new(),
            closed: None,
            notified: false,
        })
    }

    /// A connection whose handshake is complete on this side.
    pub(crate) async fn open(proxy: &Proxy, carrier: Carrier, hello: &Hello) -> io::Result<Self> {
        let mut line = Self::dial(proxy, carrier, hello).await?;
        line.handshake().await?;
        Ok(line)
    }

    pub(crate) async fn handshake(&mut self) -> io::Result<()> {
        limited(async {
            while self.tls.is_handshaking() {
                self.flush().await?;
                if self.tls.is_handshaking() && !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            self.flush().await
        })
        .await
    }

    /// What TLS wants to send now, without sending it.
    pub(crate) fn pending(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut bytes).expect("a vector takes all");
        }
        bytes
    }

    /// Bytes of the carrier's stream as they are.
    pub(crate) async fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Tcp(tcp) => tcp.write_all(bytes).await,
            Wire::Web(web) => {
                let message = Message::binary(Bytes::copy_from_slice(bytes));
                web.send(message).await.map_err(io::Error::other)
            }
        }
    }

    /// A WebSocket text frame.
    pub(crate) async fn send_text(&mut self, text: &'static str) {
        let Wire::Web(web) = &mut self.wire else {
            panic!("only a WebSocket has text frames");
        };
        web.send(Message::text(text)).await.unwrap();
    }

    /// Reads from the carrier once; `false`: its stream has ended.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        let bytes = self.receive().await?;
        let mut rest = bytes.as_slice();
        if rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
        }
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest)?;
            let state = self.tls.process_new_packets();
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    // The alert is the peer's due.
                    let _ = self.flush().await;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error));
                }
            };
            self.notified |= state.peer_has_closed();
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            self.tls.reader().read_exact(&mut plain)?;
            self.inbox.extend(plain);
        }
        Ok(!bytes.is_empty())
    }

    async fn receive(&mut self) -> io::Result<Vec<u8>> {
        match &mut self.wire {
            Wire::Tcp(tcp) => {
                let mut bytes = vec![0; 16 << 10];
                let length = tcp.read(&mut bytes).await?;
                bytes.truncate(length);
                Ok(bytes)
            }
            Wire::Web(web) => loop {
                match web.next().await {
                    None => return Ok(Vec::new()),
                    Some(Err(error)) => return Err(io::Error::other(error)),
                    Some(Ok(message)) => {
                        if let Some((code, _)) = message.as_close() {
                            self.closed = Some(code);
                            return Ok(Vec::new());
                        }
                        if message.is_binary() && !message.as_payload().is_empty() {
                            return Ok(message.into_payload().to_vec());
                        }
                    }
                }
            },
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        let bytes = self.pending();
        if bytes.is_empty() {
            return Ok(());
        }
        self.send_raw(&bytes).await
    }

    /// Plaintext to the peer.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(16 << 10) {
            self.tls.writer().write_all(part)?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Reads until `enough` is content with what has come, and takes that much of it.
    pub(crate) async fn read(
        &mut self,
        enough: impl Fn(&[u8]) -> Option<usize>,
    ) -> io::Result<Vec<u8>> {
        limited(async {
            loop {
                if let Some(length) = enough(&self.inbox) {
                    let rest = self.inbox.split_off(length);
                    return Ok(std::mem::replace(&mut self.inbox, rest));
                }
                if !self.fill().await? {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        })
        .await
    }

    /// Reads until `text` has come, that included.
    pub(crate) async fn read_to(&mut self, text: &str) -> io::Result<String> {
        let bytes = self.read(|inbox| find(inbox, text.as_bytes())).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Reads to the end of the stream, orderly or not, and gives what came.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let ended = limited(async {
            while self.fill().await? {}
            Ok(())
        });
        match ended.await {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                panic!(
                    "the stream goes on behind {:?}",
                    String::from_utf8_lossy(&self.inbox)
                )
            }
            _ => std::mem::take(&mut self.inbox),
        }
    }

    /// `GET path`, answered with a body of known length.
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<Answered> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
        self.send(request.as_bytes()).await?;
        self.answer().await
    }

    /// An answer with a body of known length.
    pub(crate) async fn answer(&mut self) -> io::Result<Answered> {
        let head = self.read_to("\r\n\r\n").await?;
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(':'));
            lines
                .find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value.trim()))
        };
        let length: usize = match field("content-length") {
            Some(length) => length.parse().map_err(io::Error::other)?,
            None => 0,
        };
        let body = self
            .read(|inbox| (inbox.len() >= length).then_some(length))
            .await?;
        let status = head.get(9..12).and_then(|status| status.parse().ok());
        Ok(Answered {
            status: status.ok_or_else(|| io::Error::other(head.clone()))?,
            body: String::from_utf8_lossy(&body).into_owned(),
            head,
        })
    }

    /// Lower-case hexadecimal SHA-256 of the server certificate.
    pub(crate) fn leaf(&self) -> String {
        let chain = self
            .tls
            .peer_certificates()
            .expect("the handshake is complete");
        pki::Fingerprint::of(&chain[0]).to_string()
    }

    /// The last second of the server certificate, in Unix seconds.
    pub(crate) fn not_after(&self) -> u64 {
        let chain = self.tls.peer_certificates();
        let leaf = &chain.expect("the handshake is complete")[0];
        let leaf = pki::Certificate::from_der(leaf.to_vec()).unwrap();
        leaf.validity().not_after_unix()
    }

    /// Whether the handshake is complete on this side, its last word sent or not.
    pub(crate) fn is_complete(&self) -> bool {
        !self.tls.is_handshaking()
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Whether the server certificate is that of `credential`.
    pub(crate) fn is_on(&self, credential: &Credential) -> bool {
        self.leaf() == super::credentials::fingerprint(credential)
    }
}

pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Where `part` ends in `bytes`.
pub(crate) fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(part.len());
    windows
        .position(|window| window == part)
        .map(|at| at + part.len())
}

async fn limited<T>(future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let result = tokio::time::timeout(LIMIT, future).await;
    result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
