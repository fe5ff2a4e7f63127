//! Fetches discovery documents and key sets: the one place where the edge dials what a document says.
//!
//! A name is resolved once, and the very address that was checked is dialled. No redirect is followed,
//! no proxy asked, nothing sent but the path. HTTPS on port 443 of the public Internet; where the
//! operator listed the network of the issuer, any port, and without TLS only on loopback.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AGE, CACHE_CONTROL, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::address;
use crate::pinned::Pinned;

/// For all of it: name, connection, handshake, answer.
const LIMIT: Duration = Duration::from_secs(5);

/// Turns a name into addresses.
pub type Resolver =
    Arc<dyn Fn(String, u16) -> Pinned<std::io::Result<Vec<SocketAddr>>> + Send + Sync>;

/// As the machine resolves names.
pub fn system_resolver() -> Resolver {
    Arc::new(|name, port| {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), port)).await?;
            Ok(found.collect())
        })
    })
}

/// Why a document cannot be had.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The URL is not one that is dialled.
    #[error("{url}: {why}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Its host is at no address that may be dialled.
    #[error("{host} is at {addresses}: not public, and not in allowed_networks")]
    Private {
        /// The host.
        host: String,
        /// Where it is.
        addresses: String,
    },
    /// No connection, no TLS, no HTTP.
    #[error("{host}: {why}")]
    Failed {
        /// The host.
        host: String,
        /// What happened.
        why: String,
    },
    /// Took longer than five seconds.
    #[error("{0}: no answer within 5 seconds")]
    Slow(String),
    /// Another status than 200; redirects are not followed.
    #[error("{url} answers {status}: only 200 is taken, no redirect is followed")]
    Status {
        /// The URL.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// Not JSON, or not what it should be.
    #[error("{url}: {why}")]
    Document {
        /// The URL.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// It failed a moment ago, and is not asked again so soon.
    #[error("it failed less than {0} seconds ago: {1}")]
    Recently(u64, String),
}

/// A URL that may be dialled, as far as that can be told without resolving it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

/// What the operator allowed beyond the public Internet.
pub(super) struct Reach<'a> {
    pub(super) networks: &'a [IpNet],
    pub(super) ca: Option<&'a str>,
    pub(super) resolver: &'a Resolver,
}

/// Reads a URL.
pub(super) fn parse(text: &str) -> Result<Target, &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is not a URL")?;
    let authority = uri.authority().ok_or("has no host")?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err("must begin with https://"),
    };
    if authority.as_str().contains('@') {
        return Err("must not hold a user's name");
    }
    if text.contains('#') {
        return Err("must not have a fragment");
    }
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    Ok(Target {
        uri,
        host,
        port,
        tls,
    })
}

/// What [`fetch`] would refuse about a URL whatever its name resolves to, `networks` being those of the
/// issuer: told to the operator who adds it, instead of to the log at the first exchange.
pub(super) fn check(text: &str, networks: &[IpNet]) -> Result<(), &'static str> {
    let target = parse(text)?;
    let address = target.host.parse::<IpAddr>().ok();
    let address = address.map(|address| address.to_canonical());
    if address.is_some_and(|address| !address::may_dial(address, networks)) {
        return Err(
            "is at an address that is not public: add its network to allowed_networks (--allow-network)",
        );
    }
    // A name may be anywhere in the networks that were listed.
    let is_loopback = |network: &IpNet| network.addr().to_canonical().is_loopback();
    let (listed, loopback) = match address {
        Some(address) => (
            networks.iter().any(|network| network.contains(&address)),
            address.is_loopback(),
        ),
        None => (!networks.is_empty(), networks.iter().any(is_loopback)),
    };
    let may_be_plain = listed && loopback;
    if !target.tls && !may_be_plain {
        return Err(
            "must begin with https://: without TLS an issuer is asked on loopback alone, with its network in allowed_networks (--allow-network)",
        );
    }
    if target.port != 443 && !listed {
        return Err(
            "must use port 443: another port needs its network in allowed_networks (--allow-network)",
        );
    }
    Ok(())
}

/// What was fetched.
pub(super) struct Document {
    /// JSON, if the server keeps its word.
    pub(super) body: Bytes,
    /// How long it may be kept, as its server says.
    pub(super) max_age: Option<Duration>,
}

/// The JSON document at `url`, at most `most` bytes long.
pub(super) async fn json(
    url: &str,
    most: usize,
    reach: &Reach<'_>,
) -> Result<Document, FetchError> {
    let target = parse(url).map_err(|why| FetchError::Url {
        url: url.to_owned(),
        why,
    })?;
    tokio::time::timeout(LIMIT, fetch(&target, url, most, reach))
        .await
        .unwrap_or_else(|_| Err(FetchError::Slow(target.host.clone())))
}

async fn fetch(
    target: &Target,
    url: &str,
    most: usize,
    reach: &Reach<'_>,
) -> Result<Document, FetchError> {
    let failed = |why: String| FetchError::Failed {
        host: target.host.clone(),
        why,
    };
    let address = address(target, url, reach).await?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| failed(error.to_string()))?;
    if !target.tls {
        return exchange(stream, target, url, most).await;
    }
    let config = trust(reach.ca).map_err(&failed)?;
    let name =
        ServerName::try_from(target.host.clone()).map_err(|error| failed(error.to_string()))?;
    let stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|error| failed(error.to_string()))?;
    exchange(stream, target, url, most).await
}

/// The address to dial: resolved once, checked, and then this one and no other.
async fn address(target: &Target, url: &str, reach: &Reach<'_>) -> Result<SocketAddr, FetchError> {
    let found = match target.host.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, target.port)],
        Err(_) => (reach.resolver)(target.host.clone(), target.port)
            .await
            .map_err(|error| FetchError::Failed {
                host: target.host.clone(),
                why: error.to_string(),
            })?,
    };
    let listed = |address: &SocketAddr| {
        let address = address.ip().to_canonical();
        reach
            .networks
            .iter()
            .any(|network| network.contains(&address))
    };
    let refused = |why| FetchError::Url {
        url: url.to_owned(),
        why,
    };
    let may = found
        .iter()
        .find(|found| address::may_dial(found.ip(), reach.networks));
    let Some(chosen) = may else {
        let addresses: Vec<String> = found.iter().map(|found| found.ip().to_string()).collect();
        return Err(FetchError::Private {
            host: target.host.clone(),
            addresses: addresses.join(", "),
        });
    };
    if listed(chosen) {
        if !target.tls && !chosen.ip().to_canonical().is_loopback() {
            return Err(refused("must begin with https://"));
        }
        return Ok(*chosen);
    }
    if !target.tls {
        return Err(refused("must begin with https://"));
    }
    if target.port != 443 {
        return Err(refused("must use port 443"));
    }
    if target.host.parse::<IpAddr>().is_ok() {
        return Err(refused("must name its host, not an address"));
    }
    Ok(*chosen)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    target: &Target,
    url: &str,
    most: usize,
) -> Result<Document, FetchError> {
    let failed = |error: hyper::Error| FetchError::Failed {
        host: target.host.clone(),
        why: error.to_string(),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let path = target
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let authority = target
        .uri
        .authority()
        .map_or("", |authority| authority.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        // A Kubernetes API server gives its keys only to those who name their type.
        .header(ACCEPT, "application/json, application/jwk-set+json")
        .header(
            USER_AGENT,
            concat!("keyward-edge/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Document {
            url: url.to_owned(),
            why: error.to_string(),
        })?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        read(response, url, most).await
    };
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // Whoever closes early may have answered before that.
        _ = &mut connection => answer.await,
    }
}

async fn read(
    response: http::Response<hyper::body::Incoming>,
    url: &str,
    most: usize,
) -> Result<Document, FetchError> {
    let document = |why: String| FetchError::Document {
        url: url.to_owned(),
        why,
    };
    let status = response.status();
    if status != StatusCode::OK {
        return Err(FetchError::Status {
            url: url.to_owned(),
            status,
        });
    }
    let kind = response.headers().get(CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !is_json(kind) {
        return Err(document(format!("its type is {kind:?}, not JSON")));
    }
    let max_age = max_age(response.headers());
    let body = Limited::new(response.into_body(), most).collect().await;
    let body = body.map_err(|error| document(error.to_string()))?;
    let body = body.to_bytes();
    Ok(Document { body, max_age })
}

/// RFC 9111 §5.2.2.1, less what is over already (§5.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |text: &str| text.trim().trim_matches('"').parse::<u64>().ok();
    let lines = headers.get_all(CACHE_CONTROL).into_iter();
    let mut directives = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    let whole = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        let named = name.trim().eq_ignore_ascii_case("max-age");
        named.then(|| seconds(value))?
    })?;
    let age = headers.get(AGE).and_then(|age| age.to_str().ok());
    let age = age.and_then(seconds).unwrap_or_default();
    Some(Duration::from_secs(whole.saturating_sub(age)))
}

/// `application/json` or `application/…+json` (RFC 6839 §3.1).
fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json"))
}

/// The CA that is given, PEM, else those of the machine.
pub(crate) fn trust(ca: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    static MACHINE: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    let mut roots = RootCertStore::empty();
    if let Some(pem) = ca {
        let ca = pki::Certificate::from_pem(pem).map_err(|error| error.to_string())?;
        roots
            .add(ca.der().clone())
            .map_err(|error| error.to_string())?;
        return config(roots);
    }
    if let Some(config) = MACHINE.get() {
        return Ok(config.clone());
    }
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let config = config(roots)?;
    Ok(MACHINE.get_or_init(|| config).clone())
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
