//! An inner TLS handshake with a proxy, as a caller begins it who trusts one CA and nothing else.
//!
//! It ends before the client's last message: the certificate is judged by then, and a handshake that is not completed is
//! no proof that callers take a new CA. Nor is an alert sent, which would speak against one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};

/// From the first packet to the verdict.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest head of an answer to an upgrade, and longest frame, in bytes.
const LONGEST: usize = 64 << 10;

/// A carrier that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// Inner TLS on TCP.
    Tls,
    /// Inner TLS in the binary messages of a WebSocket.
    WebSocket,
}

/// Why the certificate was not judged good.
#[derive(Debug, Error)]
pub(super) enum ShakeError {
    #[error("nothing can be dialled there")]
    Dial(#[source] std::io::Error),
    #[error("there was no answer within {} s", LIMIT.as_secs())]
    Timeout,
    #[error("the connection ended before a certificate came")]
    Ended,
    #[error("it opens no WebSocket: {0}")]
    Upgrade(String),
    #[error("the CA cannot be used")]
    Ca,
    #[error("the handshake failed")]
    Tls(#[source] rustls::Error),
}

impl ShakeError {
    /// Whether it is the certificate that is at fault, and not the way to it.
    pub(super) fn next(&self) -> &'static str {
        match self {
            Self::Dial(_) | Self::Timeout => "look whether the proxy still runs, and at its log",
            Self::Ended | Self::Upgrade(_) => {
                "look at the proxy's log: it says why it ended the connection; a carrier with proxy_protocol: true wants a header that is not sent here"
            }
            Self::Ca => "look at the daemon's alarms: keyward status",
            Self::Tls(rustls::Error::InvalidCertificate(error)) => match error {
                CertificateError::UnknownIssuer => {
                    "the proxy serves what another CA signed: let it subscribe to this daemon (control.socket), or give it the files of this store (tls.crt, tls.key)"
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "look at the proxy's log for why it does not take what the daemon renewed, then: keyward rotate server-certificate"
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "set the clocks of the daemon's and the proxy's hosts right"
                }
                _ => {
                    "compare tunnels.NAME.domain with the tunnel's domain; certificates are issued for that"
                }
            },
            Self::Tls(_) => "look at the proxy's log: the line tls handshake failed says why",
        }
    }
}

/// Whether what is served at `address` for `name` is good for whoever trusts `ca` alone, PEM.
pub(super) async fn shake(
    carrier: Carrier,
    address: SocketAddr,
    name: &str,
    ca: &str,
) -> Result<(), ShakeError> {
    let tls = client(name, ca)?;
    let shaking = judge(carrier, address, name, tls);
    let judged = tokio::time::timeout(LIMIT, Box::pin(shaking)).await;
    judged.unwrap_or(Err(ShakeError::Timeout))
}

fn client(name: &str, ca: &str) -> Result<ClientConnection, ShakeError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|_| ShakeError::Ca)?;
        roots.add(certificate).map_err(|_| ShakeError::Ca)?;
    }
    // In TLS 1.3 all is said before the client's last message.
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(ShakeError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = name.to_owned().try_into().map_err(|_| ShakeError::Ca)?;
    ClientConnection::new(Arc::new(config), name).map_err(ShakeError::Tls)
}

async fn judge(
    carrier: Carrier,
    address: SocketAddr,
    name: &str,
    mut tls: ClientConnection,
) -> Result<(), ShakeError> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(ShakeError::Dial)?;
    if carrier == Carrier::WebSocket {
        upgrade(&mut stream, name).await?;
    }
    loop {
        let mut out = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut out).map_err(ShakeError::Dial)?;
        }
        if carrier == Carrier::WebSocket {
            out = framed(&out);
        }
        stream
            .write_all(&out)
            .await
            .map_err(|_| ShakeError::Ended)?;
        let bytes = match carrier {
            Carrier::Tls => some(&mut stream).await?,
            Carrier::WebSocket => message(&mut stream).await?,
        };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            tls.read_tls(&mut rest).map_err(ShakeError::Dial)?;
            tls.process_new_packets().map_err(ShakeError::Tls)?;
        }
        if !tls.is_handshaking() {
            return Ok(());
        }
    }
}

/// What has come.
async fn some(stream: &mut TcpStream) -> Result<Vec<u8>, ShakeError> {
    let mut bytes = vec![0; 16 << 10];
    let count = stream.read(&mut bytes).await;
    let count = count.map_err(|_| ShakeError::Ended)?;
    bytes.truncate(count);
    if bytes.is_empty() {
        return Err(ShakeError::Ended);
    }
    Ok(bytes)
}

/// RFC 6455 section 4.1. The key is for those who want to know that they are understood; a handshake will tell.
async fn upgrade(stream: &mut TcpStream, name: &str) -> Result<(), ShakeError> {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {name}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a2V5d2FyZCBkb2N0b3IhIQ==\r\n\r\n"
    );
    let sent = stream.write_all(request.as_bytes()).await;
    sent.map_err(|_| ShakeError::Ended)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < LONGEST {
        // What follows the head belongs to the first message.
        head.push(stream.read_u8().await.map_err(|_| ShakeError::Ended)?);
    }
    let head = String::from_utf8_lossy(&head);
    let line = head.lines().next().unwrap_or_default();
    if line.starts_with("HTTP/1.1 101 ") {
        return Ok(());
    }
    let shown = line.chars().filter(|letter| !letter.is_control()).take(80);
    Err(ShakeError::Upgrade(shown.collect()))
}

/// One binary message, RFC 6455 section 5.2. It is masked with zeros: nobody in between has to be kept from reading it.
fn framed(bytes: &[u8]) -> Vec<u8> {
    if bytes.is_empty() {
        return Vec::new();
    }
    let mut frame = vec![0x82];
    match u16::try_from(bytes.len()) {
        Ok(length @ 0..126) => frame.push(0x80 | length.to_be_bytes()[1]),
        Ok(length) => {
            frame.push(0x80 | 0x7e);
            frame.extend(length.to_be_bytes());
        }
        Err(_) => {
            frame.push(0x80 | 0x7f);
            frame.extend((bytes.len() as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(bytes);
    frame
}

/// The payload of the next frame that has one for us.
async fn message(stream: &mut TcpStream) -> Result<Vec<u8>, ShakeError> {
    let ended = |_| ShakeError::Ended;
    loop {
        let kind = stream.read_u8().await.map_err(ended)? & 0x0f;
        let length = match stream.read_u8().await.map_err(ended)? & 0x7f {
            126 => u64::from(stream.read_u16().await.map_err(ended)?),
            127 => stream.read_u64().await.map_err(ended)?,
            length => u64::from(length),
        };
        let length = usize::try_from(length)
            .ok()
            .filter(|length| *length <= LONGEST);
        let mut payload = vec![0; length.ok_or(ShakeError::Ended)?];
        stream.read_exact(&mut payload).await.map_err(ended)?;
        match kind {
            0..=2 if !payload.is_empty() => return Ok(payload),
            8 => return Err(ShakeError::Ended),
            _ => {}
        }
    }
}
