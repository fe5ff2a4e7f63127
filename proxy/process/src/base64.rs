//! RFC 4648, as far as several programs need it.

const STANDARD: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Appends `bytes` to `text`, with padding (section 4).
pub fn encode(bytes: &[u8], text: &mut String) {
    write(bytes, STANDARD, text);
    let padding = (3 - bytes.len() % 3) % 3;
    text.extend(std::iter::repeat_n('=', padding));
}

/// For URLs and JSON Web Signatures, without padding (section 5).
pub fn encode_url(bytes: &[u8]) -> String {
    let mut text = String::new();
    write(bytes, URL, &mut text);
    text
}

/// Reads what [`encode_url`] writes, strictly: one text for each octet string and no other.
///
/// `None` for padding, white space, another alphabet, a length that cannot be, and bits left over that
/// are not zero: else one token would have several texts.
pub fn decode_url(text: &str) -> Option<Vec<u8>> {
    let mut octets = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.as_bytes().chunks(4) {
        let mut bits: u32 = 0;
        for byte in group {
            bits = bits << 6 | sextet(*byte)?;
        }
        let (kept, spare) = match group.len() {
            4 => (3, 0),
            3 => (2, 2),
            2 => (1, 4),
            _ => return None,
        };
        if bits & ((1 << spare) - 1) != 0 {
            return None;
        }
        let aligned = (bits >> spare) << (8 * (4 - kept));
        octets.extend_from_slice(aligned.to_be_bytes().get(..kept)?);
    }
    Some(octets)
}

fn write(bytes: &[u8], alphabet: &[u8; 64], text: &mut String) {
    text.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=chunk.len() {
            let sextet = group >> (18 - 6 * place) & 0x3f;
            let letter = alphabet.get(sextet as usize).copied().unwrap_or_default();
            text.push(char::from(letter));
        }
    }
}

fn sextet(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut written = String::new();
            encode(bytes.as_bytes(), &mut written);
            assert_eq!(written, text);
            assert_eq!(encode_url(bytes.as_bytes()), text.trim_end_matches('='));
        }
        let mut written = String::new();
        encode(&[0xfb, 0xff], &mut written);
        assert_eq!(written, "+/8=");
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn it_agrees_with_rfc_4648() {
        for (plain, encoded) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("fooba", "Zm9vYmE"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode_url(plain.as_bytes()), encoded);
            assert_eq!(decode_url(encoded).unwrap(), plain.as_bytes());
        }
        assert_eq!(encode_url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn every_octet_string_has_one_text() {
        for bad in [
            "Zg==", "Zh", "Zm9", "Z", "Zm+v", "Zm/v", "Zm 9", "Zm9v\n", "Zg.", "é",
        ] {
            assert_eq!(decode_url(bad), None, "{bad}");
        }
        for length in 0..200_u8 {
            let octets: Vec<u8> = (0..length).map(|n| n.wrapping_mul(37) ^ length).collect();
            assert_eq!(decode_url(&encode_url(&octets)).unwrap(), octets);
        }
    }
}
