//! One gRPC call on a Unix socket: a request, a response, a status (gRPC over HTTP/2, `PROTOCOL-HTTP2.md`).
//!
//! No stream, no compression, no second call on the connection.

use std::error::Error;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{HeaderMap, Request};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::shown::shown;
use crate::source::SourceError;

const METHOD: &str = "http://localhost/SpiffeWorkloadAPI/FetchJWTSVID";
/// Against requests that somebody was tricked into (SPIFFE Workload Endpoint §6).
const SECURITY: &str = "workload.spiffe.io";
/// From connecting to the status.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest response that is read, octets; many tokens fit in.
const LONGEST: usize = 1024 * 1024;

/// gRPC's names of its status codes, from 0.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

type Cause = Box<dyn Error + Send + Sync>;

/// What came back: a message, or a status that is not 0.
enum Reply {
    Message(Zeroizing<Vec<u8>>),
    Refused { code: u16, message: String },
}

pub(super) async fn call(socket: &Path, message: &[u8]) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let failed = |cause: Cause| SourceError::Socket {
        path: socket.to_owned(),
        cause,
    };
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        let (send, connection) = client::handshake(stream).await?;
        let mut reply = pin!(exchange(send, message));
        // The connection moves only while somebody polls it; what came before its end is still to be read.
        tokio::select! {
            biased;
            reply = &mut reply => reply,
            _ended = connection => reply.await,
        }
    };
    let reply = tokio::time::timeout(LIMIT, exchange).await;
    match reply.map_err(|late| failed(late.into()))?.map_err(failed)? {
        Reply::Message(message) => Ok(message),
        Reply::Refused { code, message } => Err(SourceError::Refused {
            status: code,
            code: CODES.get(usize::from(code)).map(|&name| name.to_owned()),
            message: Some(message).filter(|message| !message.is_empty()),
        }),
    }
}

async fn exchange(send: SendRequest<Bytes>, message: &[u8]) -> Result<Reply, Cause> {
    let request = Request::post(METHOD)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(SECURITY, "true")
        .body(())?;
    let (response, mut body) = send.ready().await?.send_request(request, false)?;
    body.send_data(framed(message)?, true)?;
    let (head, mut body) = response.await?.into_parts();
    if head.status != 200 {
        return Err(format!("it answered {}, which is not gRPC", head.status).into());
    }
    let mut octets = Zeroizing::new(Vec::new());
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        if octets.len() + chunk.len() > LONGEST {
            return Err("its answer is too long".into());
        }
        body.flow_control().release_capacity(chunk.len())?;
        octets.extend_from_slice(&chunk);
    }
    // A refusal may come without a body, and its status with the head.
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    let code = text(&trailers, "grpc-status").and_then(|code| code.parse().ok());
    match code {
        Some(0) => unframed(&octets),
        Some(code) => Ok(Reply::Refused {
            code,
            message: shown(
                &unescaped(text(&trailers, "grpc-message").unwrap_or_default()),
                "",
            ),
        }),
        None => Err("its answer has no status".into()),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Not compressed, and its length.
fn framed(message: &[u8]) -> Result<Bytes, Cause> {
    let length = u32::try_from(message.len())?;
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Ok(frame.into())
}

fn unframed(octets: &[u8]) -> Result<Reply, Cause> {
    match octets.split_first_chunk::<5>() {
        Some(([0, length @ ..], message))
            if usize::try_from(u32::from_be_bytes(*length)) == Ok(message.len()) =>
        {
            Ok(Reply::Message(Zeroizing::new(message.to_vec())))
        }
        _ => Err("its answer is not one uncompressed message".into()),
    }
}

/// Percent form of a status message.
fn unescaped(text: &str) -> String {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).filter(|_| first == b'%');
        let pair = pair.and_then(|pair| std::str::from_utf8(pair).ok());
        if let Some(octet) = pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            octets.push(octet);
            rest = after.get(2..).unwrap_or_default();
        } else {
            octets.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&octets).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_message_is_read_in_percent_form() {
        for (text, wanted) in [
            ("no identity issued", "no identity issued"),
            ("a%20b%C3%BC", "a b\u{fc}"),
            ("100%", "100%"),
            ("%zz%2", "%zz%2"),
        ] {
            assert_eq!(unescaped(text), wanted);
        }
    }

    #[test]
    fn a_frame_holds_one_message_and_says_its_length() {
        let framed = framed(b"abc").unwrap();
        assert_eq!(framed[..], *b"\0\0\0\0\x03abc");
        for (octets, good) in [
            (&b"\0\0\0\0\x03abc"[..], true),
            (b"\0\0\0\0\0", true),
            (b"\x01\0\0\0\x03abc", false),
            (b"\0\0\0\0\x02abc", false),
            (b"\0\0\0", false),
            (b"", false),
        ] {
            let read = unframed(octets);
            assert_eq!(read.is_ok(), good, "{octets:?}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_or_hangs_up_is_told_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let missing = call(&path, b"").await.unwrap_err();
        assert!(matches!(&missing, SourceError::Socket { path: at, .. } if *at == path));
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (answer, ()) = tokio::join!(call(&path, b""), hang_up);
        assert!(matches!(answer.unwrap_err(), SourceError::Socket { .. }));
    }
}
