//! One JSON object a line, read through a bound and erased after use.

use std::io::Write;

use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use zeroize::{Zeroize, Zeroizing};

/// The longest line, its line feed included, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// What is at hand for a message before it is known how long it is, in bytes: they seldom are longer.
const AT_HAND: usize = 16 << 10;

/// Why a message could not be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The connection broke.
    #[error("the control connection broke")]
    Io(#[from] std::io::Error),
    /// A line of more than [`MAX_MESSAGE`] bytes.
    #[error("a control message is longer than {MAX_MESSAGE} bytes")]
    TooLong,
    /// Not JSON, or not one of our messages. The text is not repeated: it may hold a key.
    #[error("a control message is malformed at column {column}")]
    Malformed {
        /// Where in the line, counted from 1.
        column: usize,
    },
    /// The peer closed the connection in the middle of a line.
    #[error("the control connection ended inside a message")]
    Cut,
}

/// Reads messages from a peer.
pub struct Reader<R> {
    inner: BufReader<R>,
    line: Zeroizing<Vec<u8>>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Reads from `inner`.
    pub fn new(inner: R) -> Self {
        Self {
            inner: BufReader::new(inner),
            line: Zeroizing::new(Vec::with_capacity(AT_HAND)),
        }
    }

    /// The next message, or `None` when the peer closed the connection between two messages.
    ///
    /// Cancel safe: bytes of an unfinished line are kept for the next call.
    ///
    /// # Errors
    ///
    /// [`FrameError::Malformed`] leaves the connection usable, since the whole line was consumed;
    /// after any other error it has to be closed.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let room = (MAX_MESSAGE + 1).saturating_sub(self.line.len());
        let mut bounded = (&mut self.inner).take(room as u64);
        bounded.read_until(b'\n', &mut self.line).await?;
        if self.line.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong);
        }
        match self.line.last() {
            None => return Ok(None),
            Some(b'\n') => {}
            Some(_) => return Err(FrameError::Cut),
        }
        let parsed = serde_json::from_slice(&self.line);
        self.line.zeroize();
        self.line.shrink_to(AT_HAND);
        match parsed {
            Ok(message) => Ok(Some(message)),
            Err(error) => Err(FrameError::Malformed {
                column: error.column(),
            }),
        }
    }
}

/// Writes messages to a peer.
pub struct Writer<W> {
    inner: W,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes to `inner`.
    pub fn new(inner: W) -> Self {
        Self { inner }
    }

    /// Writes one message and flushes it. Not cancel safe: a dropped call may leave half a line, so
    /// the connection has to be closed then.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] before anything was written, [`FrameError::Io`] afterwards.
    pub async fn send<M: Serialize>(&mut self, message: &M) -> Result<(), FrameError> {
        let mut line = Line(Zeroizing::new(Vec::with_capacity(AT_HAND)));
        serde_json::to_writer(&mut line, message).map_err(|error| FrameError::Malformed {
            column: error.column(),
        })?;
        line.write_all(b"\n")?;
        let Line(line) = line;
        if line.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong);
        }
        self.inner.write_all(&line).await?;
        Ok(self.inner.flush().await?)
    }
}

/// A line that is being written. Where it has to move, nothing stays behind.
struct Line(Zeroizing<Vec<u8>>);

impl Write for Line {
    fn write(&mut self, part: &[u8]) -> std::io::Result<usize> {
        let length = self.0.len() + part.len();
        if length > self.0.capacity() {
            let mut longer = Zeroizing::new(Vec::with_capacity(2 * length));
            longer.extend_from_slice(&self.0);
            self.0 = longer;
        }
        self.0.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Bye, FromSubscriber};

    async fn read(bytes: &[u8]) -> Vec<Result<Option<FromSubscriber>, FrameError>> {
        let mut reader = Reader::new(bytes);
        let mut results = Vec::new();
        loop {
            let result = reader.next().await;
            let over = !matches!(result, Ok(Some(_)) | Err(FrameError::Malformed { .. }));
            results.push(result);
            if over {
                return results;
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_back() {
        let (near, far) = tokio::io::duplex(64);
        let bye = FromSubscriber::Bye(Bye {
            why: "x".repeat(500),
        });
        let sent = bye.clone();
        let write = async move { Writer::new(near).send(&sent).await };
        let mut reader = Reader::new(far);
        let (written, got) = tokio::join!(write, reader.next::<FromSubscriber>());
        written.expect("it fits");
        assert_eq!(got.expect("it parses"), Some(bye));
    }

    #[tokio::test]
    async fn a_malformed_line_does_not_harm_the_next_one() {
        let results = read(b"{\"kind\":\n{\"kind\":\"bye\"}\n").await;
        assert!(matches!(results[0], Err(FrameError::Malformed { .. })));
        assert!(matches!(results[1], Ok(Some(FromSubscriber::Bye(_)))));
        assert!(matches!(results[2], Ok(None)));
    }

    #[tokio::test]
    async fn a_long_line_leaves_no_room_behind() {
        let mut line = vec![b' '; MAX_MESSAGE - 20];
        line.extend(b"{\"kind\":\"bye\"}\n");
        let mut reader = Reader::new(&*line);
        let read = reader.next::<FromSubscriber>().await.expect("it fits");
        assert!(matches!(read, Some(FromSubscriber::Bye(_))));
        assert!(reader.line.capacity() <= AT_HAND);
    }

    #[tokio::test]
    async fn an_error_never_repeats_what_was_read() {
        let results = read(b"{\"kind\":\"ack\",\"generation\":\"canary\"}\n").await;
        let error = results[0].as_ref().expect_err("a string is no generation");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[tokio::test]
    async fn an_oversized_line_is_refused_after_the_limit() {
        let results = read(&vec![b' '; MAX_MESSAGE + 10]).await;
        assert!(matches!(results[0], Err(FrameError::TooLong)));
    }

    #[tokio::test]
    async fn a_connection_that_ends_inside_a_message_is_an_error() {
        assert!(matches!(read(b"{\"kind\"").await[0], Err(FrameError::Cut)));
    }
}
