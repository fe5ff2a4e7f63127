//! RFC 4648, the one direction that several programs need.

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
}
