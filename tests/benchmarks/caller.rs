//! An agent inside the benchmark: inner TLS through the edge's passthrough, HTTP/1.1 on it. Where a benchmark needs ten
//! thousand of them, or one that misbehaves, no load generator does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use process::Failure;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::tunnel::HOST;

/// The source address of callers that are not told another one.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// One connection, as a rule through an edge.
pub(crate) struct Caller<S = TlsStream<TcpStream>> {
    stream: S,
}

/// TLS as callers and far ends speak it: trusts the certificates in the file, resumes nothing.
pub(crate) fn trusting(path: &Path) -> Result<Arc<ClientConfig>, Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::internal(format!("{} cannot be trusted", path.display())).caused_by(error)
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
        let certificate = certificate.map_err(|error| failed(&error))?;
        roots.add(certificate).map_err(|error| failed(&error))?;
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// A connection to `to` from the address `from`, without delay.
pub(crate) async fn dial(to: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    connect(TcpSocket::new_v4()?, to, from).await
}

async fn connect(socket: TcpSocket, to: SocketAddr, from: Ipv4Addr) -> io::Result<TcpStream> {
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Caller {
    /// To [`HOST`], up to the end of the inner handshake.
    pub(crate) async fn connect(
        trust: &Arc<ClientConfig>,
        edge: SocketAddr,
        from: Ipv4Addr,
    ) -> io::Result<Self> {
        Self::named(HOST, trust, edge, from).await
    }

    /// To `host`.
    pub(crate) async fn named(
        host: &str,
        trust: &Arc<ClientConfig>,
        edge: SocketAddr,
        from: Ipv4Addr,
    ) -> io::Result<Self> {
        Self::on(dial(edge, from).await?, host, trust).await
    }

    /// To [`HOST`] with a receive buffer of `bytes`: whoever stops reading stops after these and not after megabytes.
    pub(crate) async fn narrow(
        bytes: u32,
        trust: &Arc<ClientConfig>,
        edge: SocketAddr,
        from: Ipv4Addr,
    ) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(bytes)?;
        Self::on(connect(socket, edge, from).await?, HOST, trust).await
    }

    async fn on(stream: TcpStream, host: &str, trust: &Arc<ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(Arc::clone(trust))
            .connect(name, stream)
            .await?;
        Ok(Self { stream })
    }
}

impl Caller<TcpStream> {
    /// Without TLS: to the agent's program.
    pub(crate) async fn plain(to: SocketAddr) -> io::Result<Self> {
        let stream = dial(to, HERE).await?;
        Ok(Self { stream })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Caller<S> {
    /// Sends a request, whatever it is, and reads the answer to its end: bytes of its body.
    ///
    /// # Errors
    ///
    /// The connection ended, or the answer is not a 200 with a length.
    pub(crate) async fn call(&mut self, request: &[u8]) -> io::Result<usize> {
        self.ask(request).await?;
        let mut held = Vec::new();
        // Not in the future: ten thousand of them may wait here.
        let mut space = vec![0; 16 << 10];
        let (before, length) = loop {
            held.extend_from_slice(self.some(&mut space).await?);
            if let Some(found) = head(&held)? {
                break found;
            }
        };
        let mut left = (before + length).saturating_sub(held.len());
        while left > 0 {
            left = left.saturating_sub(self.some(&mut space).await?.len());
        }
        Ok(length)
    }

    /// Sends a request and reads nothing.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await?;
        self.stream.flush().await
    }

    async fn some<'a>(&mut self, space: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = self.stream.read(space).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(space.get(..length).unwrap_or_default())
    }
}

/// A GET of `path` of `host`.
pub(crate) fn get(host: &str, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// A POST of `length` bytes.
pub(crate) fn post(length: usize) -> Vec<u8> {
    let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

/// Lengths of an answer's head and body; none: more has to come.
fn head(held: &[u8]) -> io::Result<Option<(usize, usize)>> {
    let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(held.get(..end).unwrap_or_default()).to_ascii_lowercase();
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|value| value.trim().parse().ok());
    match length {
        Some(length) if text.starts_with("http/1.1 200") => Ok(Some((end + 4, length))),
        _ => Err(io::Error::other(
            text.lines().next().unwrap_or_default().to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_by_its_length_and_anything_but_200_is_an_error() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nabc";
        assert_eq!(head(answer).unwrap(), Some((39, 12)));
        assert_eq!(head(&answer[..30]).unwrap(), None);
        let refused = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 12\r\n\r\n";
        assert!(head(refused).unwrap_err().to_string().contains("503"));
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
