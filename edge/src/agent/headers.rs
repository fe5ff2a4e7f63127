//! Which header fields end here: those of the connection that they came on (RFC 9110 section 7.6.1).
//!
//! Everything else is the two ends' business and passes as it is; what a caller claims about forwarding
//! ends at the proxy.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Takes out of a request what concerns only its connection. Gives the protocol that it wants to change
/// to, if it does.
pub(super) fn strip_request(headers: &mut HeaderMap) -> Option<HeaderValue> {
    let wants =
        tokens(headers, &header::CONNECTION).any(|name| name.eq_ignore_ascii_case("upgrade"));
    let upgrade = headers.remove(header::UPGRADE).filter(|upgrade| {
        let text = upgrade.to_str().unwrap_or_default();
        // To HTTP/2: there is none here, and RFC 9113 has removed it.
        wants
            && !text
                .split(',')
                .any(|name| name.trim().eq_ignore_ascii_case("h2c"))
    });
    let trailers = tokens(headers, &header::TE).any(|name| name.eq_ignore_ascii_case("trailers"));
    strip(headers);
    for name in [header::HOST, header::EXPECT, header::PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    upgrade
}

/// Takes out of an answer what concerns only its connection.
pub(super) fn strip_answer(headers: &mut HeaderMap) {
    strip(headers);
    headers.remove(header::PROXY_AUTHENTICATE);
}

/// Asks for, or grants, the change to `protocol`.
pub(super) fn upgrade(headers: &mut HeaderMap, protocol: HeaderValue) {
    headers.insert(header::UPGRADE, protocol);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &header::CONNECTION)
        .filter_map(|name| name.parse().ok())
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
        .collect();
    for name in &named {
        headers.remove(name);
    }
    let fixed = [
        &header::CONNECTION,
        &header::TE,
        &header::TRANSFER_ENCODING,
        &header::UPGRADE,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
    ];
    for name in fixed {
        headers.remove(name);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_belongs_to_one_connection_ends_with_it() {
        let mut headers = map(&[
            ("host", "localhost:7777"),
            ("connection", "keep-alive, X-Private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers, deflate"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("proxy-authorization", "Basic x"),
            ("authorization", "Bearer x"),
            ("mcp-session-id", "s"),
        ]);
        assert_eq!(strip_request(&mut headers), None);
        let left = map(&[
            ("authorization", "Bearer x"),
            ("mcp-session-id", "s"),
            ("te", "trailers"),
        ]);
        assert_eq!(headers, left);
    }

    #[test]
    fn a_change_of_protocol_is_one_only_if_the_connection_says_so() {
        let asked = |fields: &[(&'static str, &'static str)]| strip_request(&mut map(fields));
        let socket = ("upgrade", "websocket");
        assert!(asked(&[socket, ("connection", "Upgrade")]).is_some());
        assert!(asked(&[socket]).is_none());
        assert!(asked(&[("upgrade", "h2c"), ("connection", "upgrade")]).is_none());
    }
}
