//! The header fields that tell a proxy who calls.

use std::net::SocketAddr;

use http::HeaderValue;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// `Forwarded: for="192.0.2.43:47011"` (RFC 7239 section 6): a port, and an address of version 6, want
/// quotes.
pub(super) fn forwarded(peer: SocketAddr) -> String {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    format!("for=\"{peer}\"")
}

/// `Client-Cert: :MIIB…:` (RFC 9440 section 2.2): a byte sequence of RFC 8941.
pub(super) fn client_cert(certificate: &CertificateDer<'_>) -> Option<HeaderValue> {
    let mut value = String::with_capacity(certificate.len() / 3 * 4 + 6);
    value.push(':');
    base64(certificate, &mut value);
    value.push(':');
    HeaderValue::try_from(value).ok()
}

/// RFC 4648 section 4, with padding.
fn base64(bytes: &[u8], text: &mut String) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let group = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let sextet = group >> (18 - 6 * place) & 0x3f;
            let letter = ALPHABET.get(sextet as usize).copied().unwrap_or_default();
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_rfc_7239_says() {
        let written = |text: &str| forwarded(text.parse().unwrap());
        assert_eq!(written("192.0.2.43:47011"), r#"for="192.0.2.43:47011""#);
        assert_eq!(written("[2001:db8::1]:9"), r#"for="[2001:db8::1]:9""#);
        assert_eq!(written("[::ffff:192.0.2.1]:9"), r#"for="192.0.2.1:9""#);
    }

    #[test]
    fn base64_is_that_of_rfc_4648() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            let mut written = String::new();
            base64(bytes.as_bytes(), &mut written);
            assert_eq!(written, text);
        }
    }
}
