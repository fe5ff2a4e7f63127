//! Somebody's own MCP server: is it there, and does it speak MCP? Asked directly, before anything of
//! ours stands in between, so that a wrong port is not taken for a fault of the stack.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::uri::Scheme;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use process::{Exit, Failure};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;

use crate::client::chain;

/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(5);

/// A server that was seen to speak MCP.
#[derive(Clone, Debug)]
pub struct Upstream {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Path and query of its MCP endpoint.
    pub path: String,
    /// What its name resolves to.
    pub addresses: Vec<IpAddr>,
}

/// Why it cannot be used. Variants are the steps, in their order.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UpstreamError {
    /// The URL cannot be used.
    #[error("--upstream {url} cannot be used: {why}")]
    Url {
        /// As it was given.
        url: String,
        /// What is wrong.
        why: &'static str,
    },
    /// Its name is not known.
    #[error("the name {host} is not known")]
    Name {
        /// The host of the URL.
        host: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// Nothing listens there.
    #[error("nothing answers at {address}")]
    Tcp {
        /// The first address that was tried.
        address: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// TLS with it failed.
    #[error("TLS with {host}:{port} failed")]
    Tls {
        /// The host of the URL.
        host: String,
        /// Its port.
        port: u16,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// It does not speak HTTP.
    #[error("{url} does not speak HTTP")]
    Http {
        /// As it was given.
        url: String,
        /// What came instead.
        why: String,
    },
    /// It refuses.
    #[error("{url} answers {status}")]
    Status {
        /// As it was given.
        url: String,
        /// What it answers `initialize` with.
        status: StatusCode,
    },
    /// It answers and the answer is not MCP's.
    #[error("{url} does not speak MCP")]
    Mcp {
        /// As it was given.
        url: String,
        /// What came instead.
        why: String,
    },
}

impl UpstreamError {
    /// For the person who gave the URL: what, which layer, the next step.
    pub fn failure(&self) -> Failure {
        let exit = match self {
            Self::Url { .. } => Exit::Usage,
            _ => Exit::Unavailable,
        };
        let failure = Failure::new(exit, self.to_string());
        match self {
            Self::Url { .. } => failure.next("write it as http://127.0.0.1:8000/mcp"),
            Self::Name { error, .. } => failure
                .caused_by(error)
                .next("check the host in --upstream"),
            Self::Tcp { error, .. } => failure
                .caused_by(error)
                .next("start the server, or correct the port in --upstream"),
            Self::Tls { error, .. } => failure.caused_by(error).next(
                "write http:// if it has no TLS; its certificate must be one the system trusts",
            ),
            Self::Http { why, .. } => failure
                .cause(why)
                .next("check the port; write https:// if the server has TLS"),
            Self::Status { status, .. } => match *status {
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => failure
                    .cause("there is no MCP endpoint under this path")
                    .next("correct the path in --upstream; most servers use /mcp"),
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => failure
                    .cause("it wants to know who asks, and the demo is nobody")
                    .next(
                        "point --upstream at a server that lets anonymous callers list its tools",
                    ),
                StatusCode::MISDIRECTED_REQUEST => failure
                    .cause("it accepts only hosts that it knows")
                    .next("write --upstream with the host that it listens on, such as 127.0.0.1"),
                _ => failure
                    .cause("it refused initialize")
                    .next("read the log of that server"),
            },
            Self::Mcp { why, .. } => failure
                .cause(why)
                .next("check path and port in --upstream; most servers use /mcp"),
        }
    }
}

impl Upstream {
    /// Reads `url`, then asks the server directly, layer by layer.
    ///
    /// # Errors
    ///
    /// The first layer that is not as it should be.
    pub async fn check(url: &str) -> Result<Self, UpstreamError> {
        let mut this = Self::parse(url)?;
        this.resolve().await?;
        let stream = this.connect().await?;
        let answer = if this.is_https() {
            this.ask(this.encrypt(stream).await?, url).await
        } else {
            this.ask(stream, url).await
        };
        answer.map(|()| this)
    }

    /// `scheme://host:port`, as a route is written.
    pub fn origin(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.host, self.port)
    }

    /// It is reached by TLS.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    fn parse(url: &str) -> Result<Self, UpstreamError> {
        let bad = |why| UpstreamError::Url {
            url: url.to_owned(),
            why,
        };
        let uri: Uri = url.parse().map_err(|_| bad("it is no URL"))?;
        let scheme = uri
            .scheme()
            .ok_or_else(|| bad("it has no http:// in front"))?;
        if *scheme != Scheme::HTTP && *scheme != Scheme::HTTPS {
            return Err(bad("only http and https are spoken here"));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host"))?;
        if authority.as_str().contains('@') {
            // The URL is not repeated: it may hold a password.
            return Err(UpstreamError::Url {
                url: "URL".to_owned(),
                why: "it has a user in it, and the demo sends no credentials",
            });
        }
        if authority.host().is_empty() {
            return Err(bad("it names no host"));
        }
        let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        Ok(Self {
            scheme: scheme.clone(),
            host: authority.host().to_owned(),
            port: authority.port_u16().unwrap_or(default),
            path: uri
                .path_and_query()
                .map_or("/", |path| path.as_str())
                .to_owned(),
            addresses: Vec::new(),
        })
    }

    /// The host without the brackets of an IPv6 address.
    fn name(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    async fn resolve(&mut self) -> Result<(), UpstreamError> {
        let unknown = |error| UpstreamError::Name {
            host: self.host.clone(),
            error,
        };
        let found = tokio::net::lookup_host((self.name(), self.port)).await;
        let mut addresses: Vec<IpAddr> = found.map_err(unknown)?.map(|found| found.ip()).collect();
        addresses.dedup();
        self.addresses = addresses;
        Ok(())
    }

    async fn connect(&self) -> Result<TcpStream, UpstreamError> {
        let mut failed = None;
        for address in &self.addresses {
            let address = SocketAddr::new(*address, self.port);
            let error = match tokio::time::timeout(LIMIT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => error,
                Err(_) => std::io::ErrorKind::TimedOut.into(),
            };
            failed.get_or_insert(UpstreamError::Tcp { address, error });
        }
        Err(failed.unwrap_or_else(|| UpstreamError::Name {
            host: self.host.clone(),
            error: std::io::ErrorKind::NotFound.into(),
        }))
    }

    async fn encrypt(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, UpstreamError> {
        let failed = |error| UpstreamError::Tls {
            host: self.host.clone(),
            port: self.port,
            error,
        };
        let other = |error: &dyn std::error::Error| failed(std::io::Error::other(chain(error)));
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| other(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(self.name().to_owned());
        let name = name.map_err(|error| other(&error))?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        match tokio::time::timeout(LIMIT, handshake).await {
            Ok(stream) => stream.map_err(failed),
            Err(_) => Err(failed(std::io::ErrorKind::TimedOut.into())),
        }
    }

    async fn ask<S>(&self, stream: S, url: &str) -> Result<(), UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let broken = |why: String| UpstreamError::Http {
            url: url.to_owned(),
            why,
        };
        let exchange = async {
            let made = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
            let (mut sender, connection) = made.map_err(|error| chain(&error))?;
            let answer = async {
                let request = self.initialize().map_err(|error| chain(&error))?;
                let answer = sender.send_request(request).await;
                let answer = answer.map_err(|error| chain(&error))?;
                let status = answer.status();
                Ok((status, first_message(answer.into_body()).await))
            };
            tokio::select! {
                answer = answer => answer,
                // It ends first only when the answer cannot come any more.
                Err(error) = connection => Err(chain(&error)),
            }
        };
        let (status, text) = match tokio::time::timeout(LIMIT, exchange).await {
            Ok(answer) => answer.map_err(broken)?,
            Err(_) => return Err(broken(format!("no answer within {} s", LIMIT.as_secs()))),
        };
        if !status.is_success() {
            return Err(UpstreamError::Status {
                url: url.to_owned(),
                status,
            });
        }
        if text.contains("protocolVersion") {
            return Ok(());
        }
        let shown: String = text.chars().take(120).collect();
        Err(UpstreamError::Mcp {
            url: url.to_owned(),
            why: format!("its answer to initialize begins with {shown:?}"),
        })
    }

    fn initialize(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let body: Value = json!({
            "jsonrpc": "2.0", "id": 0, "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": { "name": "keyward-demo", "version": env!("CARGO_PKG_VERSION") },
            },
        });
        Request::post(&self.path)
            .header(header::HOST, format!("{}:{}", self.host, self.port))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, text/event-stream")
            .body(Full::new(Bytes::from(body.to_string())))
    }
}

/// The beginning of the answer, until it holds what is looked for: an event stream may stay open.
async fn first_message(body: hyper::body::Incoming) -> String {
    let mut body = Limited::new(body, 256 << 10);
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.windows(15).any(|part| part == b"protocolVersion") {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_that_cannot_be_used_is_refused_by_name() {
        for (url, why) in [
            ("127.0.0.1:8000", "it has no http:// in front"),
            ("ftp://127.0.0.1", "only http and https are spoken here"),
            ("http://me:secret@127.0.0.1/", "it has a user in it"),
            ("http://[::1", "it is no URL"),
        ] {
            let error = Upstream::parse(url).expect_err(url);
            assert!(error.to_string().contains(why), "{url}: {error}");
            assert!(!error.failure().to_string().contains("secret"), "{error}");
            assert_eq!(error.failure().exit(), Exit::Usage, "{url}");
        }
    }

    #[test]
    fn the_port_is_the_schemes_unless_it_is_written() {
        let origin = |url| Upstream::parse(url).expect(url).origin();
        assert_eq!(origin("http://example.com/mcp"), "http://example.com:80");
        assert_eq!(origin("https://example.com"), "https://example.com:443");
        assert_eq!(origin("http://[::1]:8000/a?b=c"), "http://[::1]:8000");
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_told_as_such() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let error = Upstream::check(&format!("http://{address}/mcp")).await;
        let failure = error.expect_err("nothing listens").failure();
        assert_eq!(failure.exit(), Exit::Unavailable);
        let text = failure.to_string();
        assert!(
            text.contains("nothing answers at") && text.contains("start the server"),
            "{text}"
        );
    }
}
