//! The two messages of `FetchJWTSVID`, in the wire format of Protocol Buffers.
//!
//! ```text
//! JWTSVIDRequest  { repeated string audience = 1; string spiffe_id = 2; }
//! JWTSVIDResponse { repeated JWTSVID svids = 1; }
//! JWTSVID         { string spiffe_id = 1; string svid = 2; string hint = 3; }
//! ```

/// Wire types.
const VARINT: u64 = 0;
const EIGHT: u64 = 1;
const OCTETS: u64 = 2;
const FOUR: u64 = 5;

pub(super) fn request(audience: &str, spiffe_id: Option<&str>) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, 1, audience);
    if let Some(id) = spiffe_id {
        write(&mut out, 2, id);
    }
    out
}

/// `svid` of the first of `svids`: the one that an agent means if nobody chooses.
pub(super) fn first_token(response: &[u8]) -> Option<&str> {
    let svid = find(response, 1)?;
    std::str::from_utf8(find(svid, 2)?).ok()
}

fn write(out: &mut Vec<u8>, number: u64, text: &str) {
    varint(out, number << 3 | OCTETS);
    varint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

/// The first field of that number that has octets. Whatever else there is is passed over, as newer messages have more.
fn find(mut message: &[u8], number: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let tag = read(&mut message)?;
        let length = match tag & 7 {
            VARINT => {
                read(&mut message)?;
                0
            }
            EIGHT => 8,
            OCTETS => usize::try_from(read(&mut message)?).ok()?,
            FOUR => 4,
            _ => return None,
        };
        let (value, rest) = message.split_at_checked(length)?;
        message = rest;
        if tag == number << 3 | OCTETS {
            return Some(value);
        }
    }
    None
}

fn read(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&octet, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(octet & 0x7f) << shift;
        if octet & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_as_other_libraries_write_them() {
        assert_eq!(request("ab", Some("s")), b"\x0a\x02ab\x12\x01s");
        let long = request(&"a".repeat(300), None);
        assert_eq!(long[..3], [0x0a, 0xac, 0x02]);
        // An unknown varint, fixed32 and fixed64 before the field, a hint behind it, and a second token.
        let svid = b"\x18\x96\x01\x25abcd\x29abcdefgh\x0a\x01s\x12\x03tok\x1a\x01h";
        let mut response = vec![0x0a, u8::try_from(svid.len()).unwrap()];
        response.extend_from_slice(svid);
        response.extend_from_slice(b"\x0a\x05\x12\x03two");
        assert_eq!(first_token(&response), Some("tok"));
    }

    #[test]
    fn what_is_cut_short_or_no_message_has_no_token() {
        let whole = b"\x0a\x05\x12\x03tok";
        assert_eq!(first_token(whole), Some("tok"));
        for length in 0..whole.len() {
            assert_eq!(first_token(&whole[..length]), None, "{length}");
        }
        for text in [
            &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x0b",
            b"\x0a\x04\x12\x02\xff\xfe",
        ] {
            assert_eq!(first_token(text), None, "{text:?}");
        }
    }
}
