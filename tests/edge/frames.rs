//! HTTP/2 frames as bytes (RFC 9113), for whoever does not keep to the rules.

/// The client's first bytes.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RESET: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const WINDOW: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

/// `END_HEADERS`, and `END_STREAM` with it.
pub(super) const WHOLE: u8 = 4;
pub(super) const WHOLE_AND_LAST: u8 = 5;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header block of RFC 7541: `method` for `path` of `authority`.
pub(super) fn head(method: &str, path: &str, authority: &str) -> Vec<u8> {
    // Literals without indexing, by the names 2, 4 and 1 of the static table; 0x87: `https`.
    let mut block = vec![0x87];
    for (name, value) in [(2, method), (4, path), (1, authority)] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value.as_bytes());
    }
    block
}

/// The kinds of whole frames in `bytes`, and their first four octets of payload.
pub(super) fn kinds(mut bytes: &[u8]) -> Vec<(u8, u32)> {
    let mut kinds = Vec::new();
    while let Some(header) = bytes.get(..9) {
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let Some(payload) = bytes.get(9..9 + length) else {
            break;
        };
        let at = if header[3] == 7 { 4 } else { 0 };
        let word = payload.get(at..at + 4).map(|word| word.try_into().unwrap());
        kinds.push((header[3], word.map_or(0, u32::from_be_bytes)));
        bytes = &bytes[9 + length..];
    }
    kinds
}
