//! Lists of tokens in header values, RFC 9110 section 5.6.1.
//!
//! Read as bytes: a value with one byte beyond ASCII still names what it names, and the other side may
//! read it that way. The one reader of such lists here, so that no two parts disagree about one.

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

/// The elements of one value, without those that are empty.
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

/// Whether any value of `name` lists `wanted`, in any case.
pub(crate) fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let mut all = headers.get_all(name).iter().flat_map(tokens);
    all.any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

#[cfg(test)]
mod tests {
    use http::header;

    use super::*;

    #[test]
    fn a_byte_beyond_ascii_hides_no_token() {
        let value = HeaderValue::from_bytes(b" x-a ,, \xe9\xff,\tUPGRADE").unwrap();
        let found: Vec<_> = tokens(&value).collect();
        assert_eq!(found, [&b"x-a"[..], b"\xe9\xff", b"UPGRADE"]);
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("close"));
        headers.append(header::CONNECTION, value);
        assert!(lists(&headers, &header::CONNECTION, "upgrade"));
        assert!(lists(&headers, &header::CONNECTION, "close"));
        assert!(!lists(&headers, &header::CONNECTION, "x"));
    }
}
