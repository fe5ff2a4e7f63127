//! Addresses in answers that a caller could not follow, written as it can.
//!
//! A server behind a tunnel names itself by its public name, or by whatever it takes for its own, and an
//! MCP client follows three of those: `resource_metadata` in a challenge (RFC 9728 section 5.1), what the
//! documents under `/.well-known/` say – whose `resource` must be the address that the client asked, or it
//! goes no further – and redirects. Nothing else is looked at, and no other site's address is touched.

use http::{HeaderMap, HeaderValue, Uri, header};
use serde_json::Value;

use super::gate::{Front, is_loopback, is_well_known};
use super::target::Route;

/// How one call's answer is written.
pub(super) struct Rewriting<'a> {
    pub(super) front: &'a Front,
    /// The route that answered: what the server calls this machine is itself.
    pub(super) route: &'a Route,
    /// `<tunnel-domain>`.
    pub(super) domain: &'a str,
}

/// Whether the answer to a request for `path` is a document that names addresses.
pub(super) fn describes(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    is_well_known(path) || path.ends_with("/.well-known/openid-configuration")
}

impl Rewriting<'_> {
    /// Challenge and redirect.
    pub(super) fn headers(&self, headers: &mut HeaderMap) {
        let challenges: Vec<HeaderValue> = headers
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .map(|value| self.challenge(value).unwrap_or_else(|| value.clone()))
            .collect();
        headers.remove(header::WWW_AUTHENTICATE);
        for challenge in challenges {
            headers.append(header::WWW_AUTHENTICATE, challenge);
        }
        let location = headers.get(header::LOCATION);
        let location = location.and_then(|value| self.url(value.to_str().ok()?));
        if let Some(Ok(location)) = location.map(HeaderValue::try_from) {
            headers.insert(header::LOCATION, location);
        }
    }

    /// Every address in a JSON document, in place; `None`: it is none.
    pub(super) fn document(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut document: Value = serde_json::from_slice(text).ok()?;
        self.value(&mut document);
        serde_json::to_vec(&document).ok()
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some(url) = self.url(text) {
                    *text = url;
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.value(value)),
            Value::Object(members) => members.values_mut().for_each(|value| self.value(value)),
            _ => {}
        }
    }

    fn challenge(&self, value: &HeaderValue) -> Option<HeaderValue> {
        const KEY: &str = "resource_metadata=";
        let text = value.to_str().ok()?;
        let (before, rest) = text.split_once(KEY)?;
        let (url, after) = match rest.strip_prefix('"') {
            Some(rest) => rest.split_once('"')?,
            None => rest.split_at(rest.find([',', ' ']).unwrap_or(rest.len())),
        };
        let url = self.url(url)?;
        HeaderValue::try_from(format!("{before}{KEY}\"{url}\"{after}")).ok()
    }

    /// The address as the caller can ask for it, if it leads into the tunnel.
    fn url(&self, text: &str) -> Option<String> {
        let uri: Uri = text.parse().ok()?;
        let authority = uri.authority()?;
        let scheme = uri.scheme_str()?;
        // As it is written: an issuer with a slash at its end is another one than without.
        let path = text.get(scheme.len() + "://".len() + authority.as_str().len()..)?;
        let host = authority.host();
        let label = host.len().checked_sub(self.domain.len() + 1);
        let label = label.and_then(|cut| host.split_at_checked(cut));
        let inside = label.and_then(|(label, rest)| {
            let rest = rest.strip_prefix('.')?;
            let ours = rest.eq_ignore_ascii_case(self.domain) && scheme == "https";
            (ours && matches!(authority.port_u16(), None | Some(443))).then_some(label)
        });
        if let Some(label) = inside {
            let route: Route = label.parse().ok()?;
            return Some(self.front.write(&route.0, path));
        }
        let itself = is_loopback(host) || host.eq_ignore_ascii_case("localhost");
        let web = matches!(scheme, "http" | "https");
        (itself && web).then(|| self.front.write(&self.route.0, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(front: &Front, text: &str) -> Option<String> {
        let route = "docs".parse().unwrap();
        let rewriting = Rewriting {
            front,
            route: &route,
            domain: "t.example",
        };
        rewriting.url(text)
    }

    fn fronts() -> [Front; 2] {
        [
            Front::Host {
                rest: "localhost:7777".to_owned(),
            },
            Front::Path {
                authority: "127.0.0.1:7777".to_owned(),
            },
        ]
    }

    #[test]
    fn addresses_of_the_tunnel_are_written_as_the_caller_writes_them_and_no_others() {
        let [host, path] = &fronts();
        for (text, by_host, by_path) in [
            (
                "https://docs.t.example/mcp?a=b",
                "http://docs.localhost:7777/mcp?a=b",
                "http://127.0.0.1:7777/docs/mcp?a=b",
            ),
            (
                "https://auth.T.example",
                "http://auth.localhost:7777",
                "http://127.0.0.1:7777/auth",
            ),
            (
                "https://auth.t.example:443/",
                "http://auth.localhost:7777/",
                "http://127.0.0.1:7777/auth/",
            ),
            (
                "http://127.0.0.1:8000/.well-known/oauth-protected-resource/mcp",
                "http://docs.localhost:7777/.well-known/oauth-protected-resource/mcp",
                "http://127.0.0.1:7777/.well-known/oauth-protected-resource/docs/mcp",
            ),
        ] {
            assert_eq!(url(host, text).as_deref(), Some(by_host));
            assert_eq!(url(path, text).as_deref(), Some(by_path));
        }
        for other in [
            "https://login.example.com/authorize",
            "https://t.example/mcp",
            "https://a.b.t.example/mcp",
            "https://eviltexample/mcp",
            "https://evil.xt.example/mcp",
            "https://docs.t.example:8443/mcp",
            "http://docs.t.example/mcp",
            "urn:ietf:wg:oauth:2.0:oob",
            "/relative",
            "S256",
        ] {
            assert_eq!(url(path, other), None, "{other}");
        }
    }

    #[test]
    fn a_challenge_leads_to_where_the_client_can_look() {
        let [_, front] = &fronts();
        let route = "docs".parse().unwrap();
        let rewriting = Rewriting {
            front,
            route: &route,
            domain: "t.example",
        };
        let mut headers = HeaderMap::new();
        let said = "Bearer realm=\"x\", resource_metadata=\"https://docs.t.example/.well-known/oauth-protected-resource/mcp\", scope=\"a b\"";
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(said));
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic"));
        rewriting.headers(&mut headers);
        let values: Vec<_> = headers.get_all(header::WWW_AUTHENTICATE).iter().collect();
        assert_eq!(
            values[0],
            "Bearer realm=\"x\", resource_metadata=\"http://127.0.0.1:7777/.well-known/oauth-protected-resource/docs/mcp\", scope=\"a b\""
        );
        assert_eq!(values[1], "Basic");
    }
}
