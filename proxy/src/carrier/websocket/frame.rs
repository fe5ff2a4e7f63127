//! WebSocket framing (RFC 6455 section 5), as the server of one peer needs it.
//!
//! Payload is handed on as it comes, frame or no frame complete: inner TLS is a byte stream and cares
//! about neither frames nor messages, so a message that never ends costs no memory and delays
//! nothing. That is why this is not done with a library of messages. Data is unmasked where it lies.

use thiserror::Error;

/// The longest payload of a control frame: section 5.5.
pub(super) const LONGEST_CONTROL: usize = 125;
/// First byte to mask: 2, an extended length of 8, a mask of 4.
const LONGEST_HEAD: usize = 14;

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const OPCODE: u8 = 0x0f;
const MASKED: u8 = 0x80;
const LENGTH: u8 = 0x7f;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// Why a connection is closed: section 7.4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Code {
    Normal = 1000,
    GoingAway = 1001,
    ProtocolError = 1002,
    UnsupportedData = 1003,
}

/// What a peer must not send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum Violation {
    /// Inner TLS is not text.
    #[error("a WebSocket text frame, inner TLS goes in binary ones")]
    Text,
    /// Anything that section 5 forbids.
    #[error("a malformed WebSocket frame: {0}")]
    Protocol(&'static str),
}

impl Violation {
    pub(super) fn code(self) -> Code {
        match self {
            Self::Text => Code::UnsupportedData,
            Self::Protocol(_) => Code::ProtocolError,
        }
    }
}

/// A control frame's payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Control {
    bytes: [u8; LONGEST_CONTROL],
    length: usize,
}

impl Control {
    const EMPTY: Self = Self {
        bytes: [0; LONGEST_CONTROL],
        length: 0,
    };

    pub(super) fn payload(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, byte: u8) {
        if let Some(free) = self.bytes.get_mut(self.length) {
            *free = byte;
            self.length += 1;
        }
    }
}

/// What the peer asks of us besides its data.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// The last ping: an answer to the last one answers all (section 5.5.3).
    pub(super) ping: Option<Control>,
    /// The peer closes; nothing after it counts.
    pub(super) close: Option<Control>,
}

/// Reads frames, wherever they are cut.
#[derive(Debug)]
pub(super) struct Decoder {
    head: [u8; LONGEST_HEAD],
    have: usize,
    /// Of the frame whose head is complete.
    opcode: u8,
    mask: [u8; 4],
    left: u64,
    control: Control,
    /// Inside a message of several frames.
    fragmented: bool,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            head: [0; LONGEST_HEAD],
            have: 0,
            opcode: BINARY,
            mask: [0; 4],
            left: 0,
            control: Control::EMPTY,
            fragmented: false,
        }
    }
}

impl Decoder {
    /// Reads `bytes` and leaves in front of them the data that was in them, of which it gives the
    /// length. Stops at a close.
    pub(super) fn decode(
        &mut self,
        bytes: &mut [u8],
        asked: &mut Asked,
    ) -> Result<usize, Violation> {
        let (mut at, mut out) = (0, 0);
        while at < bytes.len() && asked.close.is_none() {
            if self.left == 0 {
                at += self.read_head(bytes.get(at..).unwrap_or_default(), asked)?;
                continue;
            }
            let room = bytes.len() - at;
            let length = usize::try_from(self.left).map_or(room, |left| left.min(room));
            if self.opcode < CLOSE {
                bytes.copy_within(at..at + length, out);
                unmask(
                    bytes.get_mut(out..out + length).unwrap_or_default(),
                    self.mask,
                );
                out += length;
            } else {
                let payload = bytes.get(at..at + length).unwrap_or_default();
                for (index, byte) in payload.iter().enumerate() {
                    let [mask, ..] = rotated(self.mask, index);
                    self.control.push(byte ^ mask);
                }
            }
            at += length;
            self.mask = rotated(self.mask, length);
            self.left -= length as u64;
            if self.left == 0 {
                self.end_frame(asked)?;
            }
        }
        Ok(out)
    }

    /// Takes what it needs of `bytes` to complete a head, and says how much that was.
    fn read_head(&mut self, bytes: &[u8], asked: &mut Asked) -> Result<usize, Violation> {
        for (index, byte) in bytes.iter().enumerate() {
            if let Some(free) = self.head.get_mut(self.have) {
                *free = *byte;
            }
            self.have += 1;
            let [first, second, ..] = self.head;
            if self.have == 2 {
                self.check(first, second)?;
            }
            if self.have >= 2 && self.have == head_length(second) {
                self.begin_frame(first & OPCODE)?;
                if self.left == 0 {
                    self.end_frame(asked)?;
                }
                return Ok(index + 1);
            }
        }
        Ok(bytes.len())
    }

    /// Sections 5.2, 5.4 and 5.5, as far as two bytes tell.
    fn check(&mut self, first: u8, second: u8) -> Result<(), Violation> {
        let (fin, opcode) = (first & FIN != 0, first & OPCODE);
        if first & RESERVED != 0 {
            return Err(Violation::Protocol("reserved bits"));
        }
        if second & MASKED == 0 {
            return Err(Violation::Protocol("not masked"));
        }
        match opcode {
            CONTINUATION if !self.fragmented => Err(Violation::Protocol("nothing to continue")),
            BINARY if self.fragmented => Err(Violation::Protocol("a message inside a message")),
            CONTINUATION | BINARY => {
                self.fragmented = !fin;
                Ok(())
            }
            TEXT => Err(Violation::Text),
            CLOSE | PING | PONG if !fin => Err(Violation::Protocol("a control frame in parts")),
            CLOSE | PING | PONG if usize::from(second & LENGTH) > LONGEST_CONTROL => {
                Err(Violation::Protocol("a control frame too long"))
            }
            CLOSE | PING | PONG => Ok(()),
            _ => Err(Violation::Protocol("unknown opcode")),
        }
    }

    /// Takes length and mask out of the complete head.
    fn begin_frame(&mut self, opcode: u8) -> Result<(), Violation> {
        let [_, second, rest @ ..] = self.head;
        (self.left, self.mask) = match second & LENGTH {
            127 => split::<8>(rest),
            126 => split::<2>(rest),
            short => (u64::from(short), split::<0>(rest).1),
        };
        // "The minimal number of bytes MUST be used", and the most significant bit is zero.
        let least = match second & LENGTH {
            127 => 1 << 16,
            126 => LONGEST_CONTROL as u64 + 1,
            _ => 0,
        };
        if self.left < least || self.left >> 63 != 0 {
            return Err(Violation::Protocol("length"));
        }
        self.opcode = opcode;
        self.have = 0;
        self.control = Control::EMPTY;
        Ok(())
    }

    fn end_frame(&mut self, asked: &mut Asked) -> Result<(), Violation> {
        match self.opcode {
            PING => asked.ping = Some(self.control),
            // Section 5.5.1: a code, if there is a payload at all.
            CLOSE if self.control.length == 1 => {
                return Err(Violation::Protocol("a close code cut in half"));
            }
            CLOSE => asked.close = Some(self.control),
            _ => {}
        }
        Ok(())
    }
}

/// A big-endian number of `N` bytes, and the mask behind it.
fn split<const N: usize>(rest: [u8; LONGEST_HEAD - 2]) -> (u64, [u8; 4]) {
    let (number, rest) = rest.split_at(N);
    let number = number
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    (number, rest.first_chunk().copied().unwrap_or_default())
}

/// How long a head is, by its second byte; the mask included.
fn head_length(second: u8) -> usize {
    match second & LENGTH {
        127 => 14,
        126 => 8,
        _ => 6,
    }
}

/// The mask as the byte `by` further on sees it.
fn rotated(mask: [u8; 4], by: usize) -> [u8; 4] {
    let mut mask = mask;
    mask.rotate_left(by % 4);
    mask
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    // Eight at a time; the compiler makes more of it.
    let wide = u64::from_ne_bytes([mask, mask].concat().try_into().unwrap_or_default());
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// The head of an unmasked binary frame that is a message of its own, at most 64 KiB less one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    bytes: [u8; 4],
    length: u8,
}

impl Head {
    pub(super) fn binary(length: u16) -> Self {
        let first = FIN | BINARY;
        match u8::try_from(length) {
            Ok(short) if usize::from(short) <= LONGEST_CONTROL => Self {
                bytes: [first, short, 0, 0],
                length: 2,
            },
            _ => {
                let [high, low] = length.to_be_bytes();
                Self {
                    bytes: [first, 126, high, low],
                    length: 4,
                }
            }
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes
            .get(..usize::from(self.length))
            .unwrap_or_default()
    }
}

/// A close frame with a code.
pub(super) fn close(code: Code) -> [u8; 4] {
    let [high, low] = (code as u16).to_be_bytes();
    [FIN | CLOSE, 2, high, low]
}

/// The answer to a close: the peer's own code.
pub(super) fn close_answer(asked: &Control, into: &mut Vec<u8>) {
    let code = asked.payload().get(..2).unwrap_or_default();
    into.extend([FIN | CLOSE, if code.is_empty() { 0 } else { 2 }]);
    into.extend(code);
}

/// The answer to a ping: its payload.
pub(super) fn pong(asked: &Control, into: &mut Vec<u8>) {
    let payload = asked.payload();
    into.extend([FIN | PONG, u8::try_from(payload.len()).unwrap_or_default()]);
    into.extend(payload);
}

#[cfg(test)]
mod tests;
