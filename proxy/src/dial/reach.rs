//! A TCP connection to the edge, straight or through a forward proxy, and TLS on it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::{InvalidDnsNameError, ServerName};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsConnector, rustls};

use super::pin::{self, TrustError};
use crate::config::{EdgeCarrier, ForwardProxy};
use crate::socket;

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

/// Dials the next address.
pub(super) async fn reach(edge: &EdgeCarrier) -> Result<TlsStream<TcpStream>, ReachError> {
    let config = pin::client(edge)?;
    let name = ServerName::try_from(edge.host.clone())?;
    let stream = match &edge.forward_proxy {
        None => dial(&edge.host, edge.port, &edge.addresses, &edge.turn).await?,
        Some(forward) => {
            let stream = dial(&forward.host, forward.port, &[], &edge.turn).await?;
            ask(stream, edge, forward).await?
        }
    };
    // Small frames must not wait for the acknowledgement of those before.
    let _ = stream.set_nodelay(true);
    socket::keep_alive(&stream);
    let connecting = TlsConnector::from(config).connect(name, stream);
    connecting.await.map_err(ReachError::Tls)
}

/// All addresses, beginning with another one each time, until one answers.
async fn dial(
    host: &str,
    port: u16,
    given: &[SocketAddr],
    turn: &AtomicUsize,
) -> Result<TcpStream, ReachError> {
    let addresses = if given.is_empty() {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let found = lookup_host((bare, port)).await;
        let found = found.map_err(|error| ReachError::Resolve {
            host: host.to_owned(),
            error,
        })?;
        found.collect()
    } else {
        given.to_vec()
    };
    let first = turn.fetch_add(1, Ordering::Relaxed) % addresses.len().max(1);
    let mut last = ReachError::NoAddress(host.to_owned());
    for &address in addresses.iter().cycle().skip(first).take(addresses.len()) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ReachError::Connect { address, error },
        }
    }
    Err(last)
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
