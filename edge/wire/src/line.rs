//! One JSON object a line, out of pieces of any length, bounded, erased after use.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The longest line, its line feed included, in bytes.
pub const MAX_LINE: usize = 16 << 10;

/// What a peer sent is no message. The text is not repeated: it may hold a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LineError {
    /// A line of more than [`MAX_LINE`] bytes.
    #[error("a control message is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Not JSON, or not one of our messages.
    #[error("a control message is malformed at column {column}")]
    Malformed {
        /// Where in the line, counted from 1.
        column: usize,
    },
}

/// Puts pieces together and takes lines off.
#[derive(Default)]
pub struct Lines {
    held: Zeroizing<Vec<u8>>,
}

impl Lines {
    /// Adds a piece. Every line that is complete has to be taken off before the next one.
    pub fn push(&mut self, piece: &[u8]) {
        self.held.extend_from_slice(piece);
    }

    /// The next message; `None`: it has not come yet. The bounded remainder is kept.
    pub fn take<M: DeserializeOwned>(&mut self) -> Option<Result<M, LineError>> {
        let Some(end) = self.held.iter().position(|&byte| byte == b'\n') else {
            return (self.held.len() >= MAX_LINE).then_some(Err(LineError::TooLong));
        };
        let line = Zeroizing::new(self.held.drain(..=end).collect::<Vec<u8>>());
        if self.held.is_empty() {
            // What was drained is still in the buffer.
            self.held.zeroize();
        }
        if line.len() > MAX_LINE {
            return Some(Err(LineError::TooLong));
        }
        let read = serde_json::from_slice(&line);
        Some(read.map_err(|error| LineError::Malformed {
            column: error.column(),
        }))
    }
}

/// `message` as a line.
///
/// # Errors
///
/// It is longer than [`MAX_LINE`].
pub fn line<M: Serialize>(message: &M) -> Result<Zeroizing<Vec<u8>>, LineError> {
    let mut line = Zeroizing::new(Vec::with_capacity(1024));
    serde_json::to_writer(&mut *line, message).map_err(|error| LineError::Malformed {
        column: error.column(),
    })?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Err(LineError::TooLong);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FromProxy, Value};

    fn read(bytes: &[u8], cut: usize) -> Vec<Result<FromProxy, LineError>> {
        let mut lines = Lines::default();
        let mut read = Vec::new();
        for piece in bytes.chunks(cut) {
            lines.push(piece);
            while let Some(message) = lines.take() {
                let over = message == Err(LineError::TooLong);
                read.push(message);
                if over {
                    return read;
                }
            }
        }
        read
    }

    #[test]
    fn what_is_written_is_read_back_however_it_is_cut() {
        let present = FromProxy::Present {
            seq: 7,
            credential: Value::new("x".repeat(300)),
        };
        let mut bytes = line(&present).unwrap().to_vec();
        bytes.extend_from_slice(&line(&FromProxy::Draining).unwrap());
        for cut in [1, 2, 7, 100, bytes.len()] {
            let read = read(&bytes, cut);
            assert_eq!(read, [Ok(present.clone()), Ok(FromProxy::Draining)]);
        }
    }

    #[test]
    fn a_malformed_line_does_not_harm_the_next_one() {
        let read = read(b"{\"kind\":\n{\"kind\":\"draining\"}\n", 5);
        assert!(matches!(read[0], Err(LineError::Malformed { .. })));
        assert_eq!(read[1], Ok(FromProxy::Draining));
    }

    #[test]
    fn an_endless_line_is_refused_at_the_bound() {
        let endless = vec![b' '; MAX_LINE];
        assert_eq!(read(&endless, 100), [Err(LineError::TooLong)]);
        let long = [vec![b' '; MAX_LINE], b"\n".to_vec()].concat();
        assert_eq!(read(&long, long.len()), [Err(LineError::TooLong)]);
    }

    #[test]
    fn an_error_never_repeats_what_was_read() {
        let read = read(b"{\"kind\":\"present\",\"seq\":\"canary\"}\n", 100);
        assert!(!format!("{read:?}").contains("canary"));
    }
}
