//! The parameter `resource` (RFC 8707) on its way to an authorization server behind the same tunnel.
//!
//! A client names the server that it wants a token for by the address that it asked, which is one of this
//! machine and means nothing elsewhere: the token would be for nobody. So in a query and in a form it is
//! written as the tunnel knows it.

use super::gate::Front;
use crate::percent;

/// `text`, a query or a form, with every `resource` that `front` leads to as the tunnel knows it; `None`:
/// there is none.
pub(super) fn inward(text: &str, front: &Front, domain: &str) -> Option<String> {
    let mut changed = false;
    let parts = text.split('&').map(|part| {
        let known = part
            .strip_prefix("resource=")
            .and_then(|value| front.read(&percent::decode(value)?))
            .map(|(route, path)| format!("https://{}.{domain}{path}", route.0));
        match known {
            Some(url) => {
                changed = true;
                format!("resource={}", encoded(&url))
            }
            None => part.to_owned(),
        }
    });
    let whole = parts.collect::<Vec<_>>().join("&");
    changed.then_some(whole)
}

/// RFC 3986 section 2.1, all but the unreserved characters.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len() * 3 / 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // A String takes everything.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_of_this_machine_is_named_as_the_tunnel_knows_it() {
        let path = Front::Path {
            authority: "127.0.0.1:7777".to_owned(),
        };
        let host = Front::Host {
            rest: "localhost:7777".to_owned(),
        };
        let by_path = "client_id=a&resource=http%3A%2F%2F127.0.0.1%3A7777%2Fdocs%2Fmcp&x=%20";
        let by_host = "client_id=a&resource=http%3A%2F%2Fdocs.localhost%3A7777%2Fmcp&x=%20";
        let known = "client_id=a&resource=https%3A%2F%2Fdocs.t.example%2Fmcp&x=%20";
        assert_eq!(inward(by_path, &path, "t.example").as_deref(), Some(known));
        assert_eq!(inward(by_host, &host, "t.example").as_deref(), Some(known));
        for other in [
            "",
            "resource=",
            "resource=https%3A%2F%2Felsewhere.example%2Fmcp",
            "resource=http%3A%2F%2F127.0.0.1%3A1%2Fdocs%2Fmcp",
            "resource=%zz",
            "resource=%+f",
            "a=b",
        ] {
            assert_eq!(inward(other, &path, "t.example"), None, "{other}");
        }
    }
}
