//! A connection with or without TLS, as one type.

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::one_of::one_of;

/// Bytes to and from an upstream.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

one_of!(Stream: Plain, Tls);
