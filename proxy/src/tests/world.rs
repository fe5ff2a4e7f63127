//! What the tests stand on: authorities, credentials, callers, a proxy.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use control::{Credential, Leaf, Secret};
use pki::{
    Algorithm, Authority, AuthorityProfile, ClientProfile, PrivateKey, Serial, ServerProfile,
};
use process::{Clock, SystemClock, Tasks};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls, server};
use tokio_util::sync::CancellationToken;

use crate::carrier::Carriers;
use crate::config::Config;
use crate::credential::{Credentials, Established, Published, Source, fingerprint};
use crate::door;
use crate::forward::Forwarder;
use crate::handshake::{HandshakeError, Handshakes};
use crate::telemetry::Telemetry;

/// A limit for what happens at once when it happens at all.
pub(super) const SOON: Duration = Duration::from_secs(20);
pub(super) const DOMAIN: &str = "t.example";
pub(super) const NAME: &str = "echo.t.example";
const HOUR: Duration = Duration::from_secs(3600);

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future)
        .await
        .unwrap_or_else(|_| panic!("still waiting: {what}"))
}

/// Waits for a state.
pub(super) async fn until(what: &str, state: impl Fn() -> bool) {
    within(what, async {
        while !state() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A clock that a test can set.
#[derive(Debug)]
pub(super) struct Hands {
    ahead: Mutex<Duration>,
}

impl Hands {
    pub(super) fn advance(&self, by: Duration) {
        *self.ahead.lock().unwrap() += by;
    }

    /// Undoes every [`advance`](Self::advance).
    pub(super) fn set_back(&self) {
        *self.ahead.lock().unwrap() = Duration::ZERO;
    }
}

impl Clock for Hands {
    fn wall(&self) -> SystemTime {
        SystemClock.wall() + *self.ahead.lock().unwrap()
    }

    fn boot(&self) -> Duration {
        SystemClock.boot() + *self.ahead.lock().unwrap()
    }
}

/// A tunnel CA.
pub(super) struct Ca(Authority);

impl Ca {
    pub(super) fn new() -> Self {
        Self::at(SystemClock.wall(), 365 * 24 * HOUR)
    }

    pub(super) fn at(now: SystemTime, lifetime: Duration) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("tunnel CA {number}"), now, lifetime)
    }

    pub(super) fn named(name: &str, now: SystemTime, lifetime: Duration) -> Self {
        let profile = AuthorityProfile {
            lifetime,
            ..AuthorityProfile::server(name)
        };
        Self(Authority::generate(&profile, now).unwrap())
    }

    pub(super) fn pem(&self) -> String {
        self.0.certificate().to_pem()
    }

    pub(super) fn sha256(&self) -> String {
        self.0.certificate().fingerprint().to_string()
    }

    pub(super) fn leaf(&self) -> Leaf {
        self.leaf_for(DOMAIN, SystemClock.wall(), 24 * HOUR)
    }

    pub(super) fn leaf_for(&self, domain: &str, now: SystemTime, lifetime: Duration) -> Leaf {
        let profile = ServerProfile {
            lifetime,
            ..ServerProfile::new(domain)
        };
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        let pair = self.0.issue(&profile, key, Serial::random(), now).unwrap();
        Leaf {
            chain: pair.chain_pem(),
            key: Secret::new(pair.key_pem().to_string()),
            not_after: pair.certificate().validity().not_after_unix(),
        }
    }

    /// Generation `generation` of the tunnel `main`, with a new leaf.
    pub(super) fn credential(&self, generation: u64) -> Credential {
        Credential {
            tunnel: "main".to_owned(),
            generation,
            tunnel_domain: DOMAIN.to_owned(),
            leaf: self.leaf(),
            fallback: None,
            canary_share: None,
            ca_certificates: vec![self.pem()],
            client_ca_certificates: Vec::new(),
            lowest: 1,
        }
    }
}

/// A client CA and one client under it.
pub(super) struct Client {
    pub(super) ca: String,
    pub(super) fingerprint: String,
    chain: String,
    key: String,
}

impl Client {
    pub(super) fn new() -> Self {
        let now = SystemClock.wall();
        let authority = Authority::generate(&AuthorityProfile::client("client CA"), now).unwrap();
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        let profile = ClientProfile {
            name: "agent.example".to_owned(),
            lifetime: HOUR,
        };
        let request = pki::request(&key, "agent.example").unwrap();
        let certificate = authority
            .issue_client(&profile, &request, Serial::random(), now)
            .unwrap();
        Self {
            ca: authority.certificate().to_pem(),
            fingerprint: fingerprint(certificate.der()),
            chain: certificate.to_pem(),
            key: key.to_pem().to_string(),
        }
    }
}

pub(super) fn leaf_sha256(leaf: &Leaf) -> String {
    crate::credential::leaf_fingerprint(&leaf.chain).unwrap()
}

/// A caller that trusts `cas`.
pub(super) struct Caller {
    pub(super) config: ClientConfig,
}

pub(super) const TLS12: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(super) const TLS13: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13];

impl Caller {
    pub(super) fn new(cas: &[&Ca]) -> Self {
        Self::speaking(cas, TLS13, None)
    }

    pub(super) fn speaking(
        cas: &[&Ca],
        versions: &[&'static rustls::SupportedProtocolVersion],
        client: Option<&Client>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        for ca in cas {
            roots.add(ca.0.certificate().der().clone()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let chain = CertificateDer::pem_slice_iter(client.chain.as_bytes());
                let chain = chain.collect::<Result<_, _>>().unwrap();
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        Self { config }
    }

    pub(super) fn http2(mut self) -> Self {
        self.config.alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    pub(super) fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::new(self.config.clone()))
    }

    pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> std::io::Result<TlsStream<S>> {
        connect(&self.connector(), stream).await
    }
}

pub(super) async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
    connector: &TlsConnector,
    stream: S,
) -> std::io::Result<TlsStream<S>> {
    let name = ServerName::try_from(NAME).unwrap();
    connector.connect(name, stream).await
}

/// SHA-256 of the certificate that a caller was shown.
pub(super) fn shown<S>(stream: &TlsStream<S>) -> String {
    fingerprint(&stream.get_ref().1.peer_certificates().unwrap()[0])
}

/// Handshakes over pipes in memory, on tokio's clock.
pub(super) struct Pipes {
    pub(super) clock: Arc<Hands>,
    pub(super) credentials: Credentials,
    pub(super) handshakes: Arc<Handshakes>,
}

pub(super) type Accepted = Result<(server::TlsStream<DuplexStream>, Established), HandshakeError>;

impl Pipes {
    pub(super) fn new() -> Self {
        let clock = Arc::new(Hands {
            ahead: Mutex::default(),
        });
        let grace = Duration::from_millis(500);
        let credentials = Credentials::new(clock.clone(), Tasks::new(), grace);
        let telemetry = Arc::new(Telemetry::default());
        let handshakes = Arc::new(Handshakes::new(credentials.clone(), telemetry, 1024));
        Self {
            clock,
            credentials,
            handshakes,
        }
    }

    pub(super) fn offer(&self, credential: &Credential) -> Published {
        self.credentials
            .offer(credential, Source::Channel)
            .unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// One handshake: what the caller and what the proxy made of it.
    pub(super) async fn handshake(
        &self,
        connector: &TlsConnector,
    ) -> (std::io::Result<TlsStream<DuplexStream>>, Accepted) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let caller = async {
            let mut stream = connect(connector, near).await?;
            // Session tickets come behind the handshake; a byte behind them says that they are in.
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            Ok(stream)
        };
        let proxy = async {
            let waiting = self.handshakes.wait();
            let mut accepted = self.handshakes.accept(far, &waiting, false).await;
            if let Ok((stream, _)) = &mut accepted {
                let _ = stream.write_all(b"x").await;
                let _ = stream.flush().await;
            }
            accepted
        };
        tokio::join!(caller, proxy)
    }
}

/// A whole front half on loopback, routing `echo` to an upstream of the test's own.
pub(super) struct Proxy {
    pub(super) tasks: Tasks,
    pub(super) clock: Arc<Hands>,
    pub(super) credentials: Credentials,
    pub(super) forwarder: Forwarder,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) tls: SocketAddr,
    pub(super) web: SocketAddr,
    pub(super) upstream: TcpListener,
    pub(super) cut: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
        self.credentials.end_all(crate::credential::Why::Stopping);
        self.cut.cancel();
    }
}

impl Proxy {
    pub(super) async fn start() -> Self {
        Self::with("").await
    }

    /// `limits` are lines under that key, each with two spaces before it.
    pub(super) async fn with(limits: &str) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            "listen_addr: '127.0.0.1:0'\ntunnel_domain: {DOMAIN}\ncontrol: {{socket: none}}\n\
             upstream: {{allowed_ips: [127.0.0.0/8]}}\nroutes: {{echo: \"http://{}\"}}\n\
             carriers: {{tls: {{listen_addr: '127.0.0.1:0'}}}}\nlimits:\n  idle_comment: 60s\n{limits}",
            upstream.local_addr().unwrap()
        );
        let config = Config::from_text(&text, None).unwrap_or_else(|e| panic!("{e}\n{text}"));
        let tasks = Tasks::new();
        let clock = Arc::new(Hands {
            ahead: Mutex::default(),
        });
        let limits = config.limits;
        let telemetry = Arc::new(Telemetry::default());
        let forwarder = Forwarder::new(&config, &tasks).unwrap();
        let credentials = Credentials::new(clock.clone(), tasks.clone(), limits.swap_grace);
        let cut = CancellationToken::new();
        let door = door(&limits, &credentials, &forwarder, &telemetry, &tasks, &cut);
        let carriers = Carriers::bind(&config).unwrap();
        let [web, tls] = carriers.addresses()[..] else {
            panic!("two carriers");
        };
        carriers.listen(&door);
        tasks.spawn(credentials.clone().watch_expiry());
        Self {
            tasks,
            clock,
            credentials,
            forwarder,
            telemetry,
            tls,
            web,
            upstream,
            cut,
        }
    }

    pub(super) fn offer(&self, credential: &Credential) -> Published {
        self.credentials
            .offer(credential, Source::Channel)
            .unwrap_or_else(|refused| panic!("{refused}"))
    }

    /// A caller's connection through the carrier `tls`.
    pub(super) async fn call(&self, caller: &Caller) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.tls).await.unwrap();
        within("a handshake", caller.connect(stream)).await.unwrap()
    }
}

/// Reads until `what` has come.
pub(super) async fn read_until<R: AsyncRead + Unpin>(stream: &mut R, what: &str) -> String {
    let mut text = Vec::new();
    within(what, async {
        while !String::from_utf8_lossy(&text).contains(what) {
            let mut byte = [0];
            let read = stream.read(&mut byte).await.unwrap();
            assert!(
                read > 0,
                "{what}: ended after {:?}",
                String::from_utf8_lossy(&text)
            );
            text.push(byte[0]);
        }
    })
    .await;
    String::from_utf8(text).unwrap()
}

/// Reads to the end, clean or not.
pub(super) async fn read_rest<R: AsyncRead + Unpin>(stream: &mut R) -> String {
    let mut text = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut text)).await;
    String::from_utf8_lossy(&text).into_owned()
}

impl Client {
    /// The client's certificate, as if it were a server's.
    pub(super) fn as_leaf(&self) -> Leaf {
        Leaf {
            chain: self.chain.clone(),
            key: Secret::new(self.key.clone()),
            not_after: 0,
        }
    }
}

impl Proxy {
    /// One small call over HTTP/1.1, answered by the upstream.
    pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: &mut S) {
        let request = format!("GET /x HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let upstream = async {
            let (mut socket, _) = self.upstream.accept().await.unwrap();
            read_until(&mut socket, "\r\n\r\n").await;
            // Closed each time, so that the next call is seen to arrive.
            let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
            socket.write_all(answer).await.unwrap();
        };
        let both = async { tokio::join!(upstream, read_until(stream, "\r\n\r\nok")) };
        within("a call", both).await;
    }

    /// Opens an event stream and waits for its first event; gives the upstream's end.
    pub(super) async fn open_events<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
    ) -> TcpStream {
        let request = format!("GET /events HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let (mut socket, _) = within("the call", self.upstream.accept()).await.unwrap();
        read_until(&mut socket, "\r\n\r\n").await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
            Transfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
        socket.write_all(answer).await.unwrap();
        read_until(stream, "data: 1\n\n").await;
        socket
    }
}
