//! A TCP connection to the edge, straight or through a forward proxy, and TLS on it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use super::pin::{self, TrustError};
use super::turns::Turns;
use crate::config::{EdgeCarrier, ForwardProxy};
use crate::socket;

/// An address that has not done its part of TCP and TLS within this is given up for the next one, if there is one.
const ADDRESS_LIMIT: Duration = Duration::from_secs(2);
/// The head of a forward proxy's answer.
const LONGEST_ANSWER: usize = 8 << 10;
/// No credentials come near it.
const LONGEST_CREDENTIALS: u64 = 4096;

/// Why the edge was not reached.
#[derive(Debug, Error)]
pub(super) enum ReachError {
    #[error("cannot resolve {host}")]
    Resolve {
        host: String,
        #[source]
        error: io::Error,
    },
    #[error("{0} has no addresses")]
    NoAddress(String),
    #[error("cannot connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        error: io::Error,
    },
    #[error("{address} did not answer within {} s", ADDRESS_LIMIT.as_secs())]
    Mute { address: SocketAddr },
    #[error("the forward proxy's credentials cannot be read")]
    Credentials(#[source] io::Error),
    #[error("the forward proxy broke off")]
    Forward(#[source] io::Error),
    #[error("the forward proxy answered: {0}")]
    Forwarded(String),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("the edge's name cannot be a TLS server name")]
    Name(#[from] InvalidDnsNameError),
    #[error("tls handshake with the edge failed")]
    Tls(#[source] io::Error),
}

/// Tries all addresses in turn until one answers.
pub(super) async fn reach(
    edge: &EdgeCarrier,
    turns: &Turns,
) -> Result<TlsStream<TcpStream>, ReachError> {
    let connector = TlsConnector::from(pin::client(edge)?);
    let name = ServerName::try_from(edge.host.clone())?;
    let addresses = turns.order(addresses(edge).await?);
    let mut last = ReachError::NoAddress(edge.host.clone());
    for (number, &address) in addresses.iter().enumerate() {
        let opening = Box::pin(open(edge, address, &connector, name.clone()));
        // The last one may have what is left.
        let limit = if number + 1 < addresses.len() {
            ADDRESS_LIMIT
        } else {
            Duration::MAX
        };
        let opened = tokio::time::timeout(limit, opening).await;
        let opened = opened.unwrap_or_else(|_| {
            turns.was_mute(address);
            Err(ReachError::Mute { address })
        });
        match opened {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Of the forward proxy, or else of the edge.
async fn addresses(edge: &EdgeCarrier) -> Result<Vec<SocketAddr>, ReachError> {
    let (host, port) = match &edge.forward_proxy {
        Some(forward) => (&forward.host, forward.port),
        None if edge.addresses.is_empty() => (&edge.host, edge.port),
        None => return Ok(edge.addresses.clone()),
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let found = lookup_host((bare, port)).await;
    let found = found.map_err(|error| ReachError::Resolve {
        host: host.clone(),
        error,
    })?;
    Ok(found.collect())
}

async fn open(
    edge: &EdgeCarrier,
    address: SocketAddr,
    connector: &TlsConnector,
    name: ServerName<'static>,
) -> Result<TlsStream<TcpStream>, ReachError> {
    let connected = TcpStream::connect(address).await;
    let mut stream = connected.map_err(|error| ReachError::Connect { address, error })?;
    if let Some(forward) = &edge.forward_proxy {
        stream = ask(stream, edge, forward).await?;
    }
    // Small frames must not wait for the acknowledgement of those before.
    let _ = stream.set_nodelay(true);
    socket::keep_alive(&stream);
    let connecting = connector.connect(name, stream);
    connecting.await.map_err(ReachError::Tls)
}

/// RFC 9110 section 9.3.6: CONNECT, with `Proxy-Authorization: Basic` where there are credentials.
async fn ask(
    mut stream: TcpStream,
    edge: &EdgeCarrier,
    forward: &ForwardProxy,
) -> Result<TcpStream, ReachError> {
    let authority = format!("{}:{}", edge.host, edge.port);
    let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
    if let Some(path) = &forward.credentials_file {
        let credentials = credentials(path).map_err(ReachError::Credentials)?;
        request.push_str("Proxy-Authorization: Basic ");
        process::base64::encode(credentials.expose().trim().as_bytes(), &mut request);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    // Erased when this function ends, in whatever way.
    let request = control::Secret::new(request);
    let sent = stream.write_all(request.expose().as_bytes()).await;
    sent.map_err(ReachError::Forward)?;
    let mut answer = Vec::with_capacity(256);
    while !answer.ends_with(b"\r\n\r\n") {
        // A byte at a time: what follows the head belongs to TLS.
        let byte = stream.read_u8().await.map_err(ReachError::Forward)?;
        answer.push(byte);
        if answer.len() > LONGEST_ANSWER {
            return Err(ReachError::Forwarded("a head too long".to_owned()));
        }
    }
    let head = String::from_utf8_lossy(&answer);
    let line = head.lines().next().unwrap_or_default();
    let status = line.split(' ').nth(1).unwrap_or_default();
    if line.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') {
        return Ok(stream);
    }
    let shown: String = line
        .chars()
        .filter(|letter| !letter.is_control())
        .take(80)
        .collect();
    Err(ReachError::Forwarded(shown))
}

/// `user:password`, out of a file.
fn credentials(path: &std::path::Path) -> io::Result<control::Secret> {
    use std::io::Read;
    let mut text = String::with_capacity(64);
    let file = std::fs::File::open(path)?;
    let read = file.take(LONGEST_CREDENTIALS).read_to_string(&mut text);
    let text = control::Secret::new(text);
    read.map(|_| text)
}
