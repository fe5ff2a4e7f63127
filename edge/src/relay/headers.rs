//! The header fields that tell a proxy who calls.

use std::net::SocketAddr;

use http::HeaderValue;
use process::base64;
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
    base64::encode(certificate, &mut value);
    value.push(':');
    HeaderValue::try_from(value).ok()
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
}
