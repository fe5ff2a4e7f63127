//! The first thing that any client sends: its `ClientHello`, read on a copy.
//!
//! rustls's own acceptor finds the server name, so that there is no second parser of TLS to be wrong. The
//! bytes are kept as they came, for whoever ends TLS or relays it. Bounded in length here and in time by
//! whoever calls.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Poll, ready};

use rustls::server::Acceptor;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::rustls;
use tokio_rustls::rustls::AlertDescription;

/// The longest `ClientHello`, its record headers included. With post-quantum key shares it is near 2 KiB.
pub const MAX_HELLO: usize = 16 << 10;
/// Read at a time: most fit into one.
const PIECE: usize = 4 << 10;
/// What a refused client may still send before its socket is closed.
const LINGER: usize = 64 << 10;

/// What was read, to the byte.
#[derive(Debug)]
pub struct ClientHello {
    /// Everything so far: the whole hello and whatever came with it.
    pub bytes: Vec<u8>,
    /// As it was sent, in lower case.
    pub server_name: Option<String>,
}

/// Why there is no `ClientHello`.
#[derive(Debug, Error)]
pub enum HelloError {
    /// The connection broke or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Longer than [`MAX_HELLO`].
    #[error("the ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    /// No TLS, or not the beginning of it.
    #[error(transparent)]
    Tls(rustls::Error),
}

/// Puts a `ClientHello` together out of pieces.
#[derive(Default)]
pub struct Reader {
    acceptor: Acceptor,
    bytes: Vec<u8>,
}

impl Reader {
    /// Adds a piece. `Some`: the hello is complete, and the reader is used up.
    ///
    /// # Errors
    ///
    /// It never will be.
    pub fn feed(&mut self, piece: &[u8]) -> Result<Option<ClientHello>, HelloError> {
        if self.bytes.len() + piece.len() > MAX_HELLO {
            return Err(HelloError::TooLong);
        }
        self.bytes.extend_from_slice(piece);
        let mut rest = piece;
        while !rest.is_empty() {
            let taken = self.acceptor.read_tls(&mut rest)?;
            match self.acceptor.accept() {
                Ok(Some(accepted)) => {
                    let said = accepted.client_hello();
                    return Ok(Some(ClientHello {
                        server_name: said.server_name().map(str::to_ascii_lowercase),
                        bytes: std::mem::take(&mut self.bytes),
                    }));
                }
                Ok(None) if taken == 0 => return Err(HelloError::TooLong),
                Ok(None) => {}
                Err((error, _)) => return Err(HelloError::Tls(error)),
            }
        }
        Ok(None)
    }
}

/// Reads a `ClientHello` from `stream`. Dropping the future gives it up.
///
/// # Errors
///
/// There is none.
pub(super) async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Result<ClientHello, HelloError> {
    // There may be thousands who say nothing: each costs no buffer, and one who has begun what was said.
    let mut reader: Option<Box<Reader>> = None;
    let taking = poll_fn(|context| {
        loop {
            let mut room = [0; PIECE];
            let mut piece = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
            if let Some(hello) = reader.get_or_insert_default().feed(piece.filled())? {
                return Poll::Ready(Ok(hello));
            }
        }
    });
    taking.await
}

/// Says no in the words of TLS (RFC 8446 section 6) and closes. The caller sets the limit.
pub(super) async fn refuse<S>(mut stream: S, alert: AlertDescription)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Record of type alert, TLS 1.2 on the record layer, two bytes: fatal, and which.
    let record = [21, 3, 3, 0, 2, 2, u8::from(alert)];
    if stream.write_all(&record).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // What is unread at a close becomes a reset, which may overtake the alert.
    let mut piece = [0; 1024];
    let mut left = LINGER;
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        left = left.saturating_sub(length);
        if left == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What rustls's client says for `name`.
    fn hello(name: &'static str) -> Vec<u8> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same in TLS records of `length` bytes.
    fn fragmented(hello: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in hello[5..].chunks(length) {
            bytes.extend_from_slice(&[22, 3, 1]);
            bytes.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        bytes
    }

    fn feed(bytes: &[u8], cut: usize) -> Result<Option<ClientHello>, HelloError> {
        let mut reader = Reader::default();
        for piece in bytes.chunks(cut) {
            if let Some(hello) = reader.feed(piece)? {
                return Ok(Some(hello));
            }
        }
        Ok(None)
    }

    #[test]
    fn the_name_is_found_however_the_hello_is_cut_and_fragmented() {
        let whole = hello("Docs.T.example");
        for bytes in [whole.clone(), fragmented(&whole, 40), fragmented(&whole, 1)] {
            for cut in [1, 3, 100, 1400, bytes.len()] {
                let found = feed(&bytes, cut).unwrap().unwrap();
                assert_eq!(found.server_name.as_deref(), Some("docs.t.example"));
                assert_eq!(found.bytes, bytes, "kept to the byte");
            }
        }
    }

    #[test]
    fn a_client_that_names_an_address_names_nobody() {
        let found = feed(&hello("127.0.0.1"), 100).unwrap().unwrap();
        assert_eq!(found.server_name, None);
    }

    #[test]
    fn what_comes_behind_the_hello_is_kept() {
        let mut bytes = hello("docs.t.example");
        bytes.extend_from_slice(&[20, 3, 3, 0, 1, 1]);
        let found = feed(&bytes, bytes.len()).unwrap().unwrap();
        assert_eq!(found.bytes, bytes);
    }

    #[test]
    fn a_giant_hello_ends_at_the_bound() {
        let mut giant = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
        giant.resize(MAX_HELLO + 1, 0);
        for cut in [100, 4096] {
            let result = feed(&giant, cut);
            assert!(result.is_err(), "{result:?}");
        }
        assert!(matches!(feed(&giant[..MAX_HELLO], 4096), Ok(None) | Err(_)));
    }

    #[test]
    fn what_is_no_tls_is_refused_at_once() {
        for text in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"SSH-2.0-x\r\n",
            &[0; 64],
        ] {
            assert!(matches!(feed(text, 64), Err(HelloError::Tls(_))));
        }
    }
}
