//! The head of an HTTP/1.1 request as text, because here the spelling of each name matters.

use std::fmt::Write;
use std::net::IpAddr;

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest head, in bytes.
const LONGEST: usize = 32 << 10;

/// Why a head cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HeadError {
    /// The peer broke off.
    #[error("the peer broke off inside the head of its request")]
    Io(#[from] std::io::Error),
    /// It is longer than this program reads.
    #[error("the head of the request is longer than {LONGEST} bytes")]
    TooLong,
    /// It is no HTTP/1.1 head.
    #[error("not the head of an HTTP/1.1 request")]
    Malformed,
}

/// A request line and its header fields, as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `GET /path HTTP/1.1`.
    pub request: String,
    /// Name and value, in the order and spelling in which they came.
    pub fields: Vec<(String, String)>,
    /// What came after the head in the same read.
    rest: Vec<u8>,
}

/// Reads a head; `None`: the peer said nothing at all.
///
/// # Errors
///
/// See [`HeadError`].
pub async fn read_head<R: AsyncRead + Unpin>(from: &mut R) -> Result<Option<Head>, HeadError> {
    let mut bytes = Vec::with_capacity(1 << 10);
    loop {
        if from.read_buf(&mut bytes).await? == 0 {
            if bytes.is_empty() {
                return Ok(None);
            }
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            let text = String::from_utf8(bytes).map_err(|_| HeadError::Malformed)?;
            return Head::parse(&text, rest)
                .map(Some)
                .ok_or(HeadError::Malformed);
        }
        if bytes.len() > LONGEST {
            return Err(HeadError::TooLong);
        }
    }
}

impl Head {
    fn parse(text: &str, rest: Vec<u8>) -> Option<Self> {
        let mut lines = text.split("\r\n").filter(|line| !line.is_empty());
        let request = lines.next()?.to_owned();
        request.ends_with(" HTTP/1.1").then_some(())?;
        let fields = lines
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_owned(), value.trim().to_owned()))
            })
            .collect::<Option<_>>()?;
        Some(Self {
            request,
            fields,
            rest,
        })
    }

    /// The value of the first field of that name, whatever its spelling.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        let (_, value) = fields.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// What cloudflared writes to the origin: `Host` first, then the fields by name in the
    /// spelling of Go's `net/http`, with its own added.
    pub(super) fn as_forwarded(&self, peer: IpAddr, ray: &str, connector: &str) -> Vec<u8> {
        let upgrade = self
            .field("upgrade")
            .is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
        let own = ["host", "connection", "upgrade", "sec-websocket-version"];
        let mut fields: Vec<(String, String)> = self
            .fields
            .iter()
            .filter(|(name, _)| !own.contains(&name.to_ascii_lowercase().as_str()))
            .map(|(name, value)| (canonical(name), value.clone()))
            .collect();
        let mut add = |name: &str, value: &str| fields.push((name.to_owned(), value.to_owned()));
        add("Cf-Connecting-Ip", &peer.to_string());
        add("Cf-Ray", ray);
        add("Cf-Warp-Tag-Id", connector);
        if upgrade {
            add("Connection", "Upgrade");
            add("Sec-Websocket-Version", "13");
            add("Upgrade", "websocket");
        } else {
            add("Connection", "close");
        }
        fields.sort();
        let host = self.field("host").unwrap_or_default();
        let mut text = format!("{}\r\nHost: {host}\r\n", self.request);
        for (name, value) in fields {
            let _ = write!(text, "{name}: {value}\r\n");
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.rest);
        bytes
    }
}

/// `sec-WebSocket-key` → `Sec-Websocket-Key`, as Go's `CanonicalMIMEHeaderKey`.
fn canonical(name: &str) -> String {
    let mut start = true;
    name.chars()
        .map(|letter| {
            let written = if start {
                letter.to_ascii_uppercase()
            } else {
                letter.to_ascii_lowercase()
            };
            start = letter == '-';
            written
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_upgrade_reaches_the_origin_as_the_stock_connector_writes_it() {
        let mut sent: &[u8] = b"GET /any?x=1 HTTP/1.1\r\nhost: a.tunnel.example\r\nUpgrade: websocket\r\n\
            Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k==\r\nsec-websocket-version: 13\r\n\
            X-own: 1\r\n\r\nearly";
        let head = read_head(&mut sent).await.unwrap().unwrap();
        let address = "127.0.0.9".parse().unwrap();
        let bytes = head.as_forwarded(address, "ray", "id");
        let expected = "GET /any?x=1 HTTP/1.1\r\nHost: a.tunnel.example\r\n\
            Cf-Connecting-Ip: 127.0.0.9\r\nCf-Ray: ray\r\nCf-Warp-Tag-Id: id\r\n\
            Connection: Upgrade\r\nSec-Websocket-Key: k==\r\nSec-Websocket-Version: 13\r\n\
            Upgrade: websocket\r\nX-Own: 1\r\n\r\nearly";
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[tokio::test]
    async fn a_head_that_never_ends_is_refused() {
        let endless = vec![b'x'; LONGEST + (64 << 10)];
        let refused = read_head(&mut endless.as_slice()).await;
        assert!(matches!(refused, Err(HeadError::TooLong)), "{refused:?}");
    }

    #[tokio::test]
    async fn silence_is_no_error() {
        assert_eq!(read_head(&mut &b""[..]).await.unwrap(), None);
    }
}
