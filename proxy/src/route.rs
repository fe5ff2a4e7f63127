//! Which upstream a host means. Pure: no sockets, no clock; whatever has no route is denied.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

use thiserror::Error;

use crate::config::value::{Target, is_name};

/// One route, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Bare subdomain or whole host name, lower case.
    pub name: Box<str>,
    /// Where it leads.
    pub target: Target,
    /// Send the caller's `Host` upstream.
    pub preserve_host: bool,
}

/// Why routes cannot be used. All of them are refused then, and the earlier ones stay.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RouteError {
    /// Worded as the stock proxy does.
    #[error("route {route:?}: invalid upstream (must be scheme://host:port): {upstream:?}")]
    Upstream {
        /// Its name.
        route: String,
        /// What was given.
        upstream: String,
    },
    /// Not a host name.
    #[error("route {route:?} is no host name")]
    Name {
        /// Its name.
        route: String,
    },
    /// Host names do not tell upper from lower case.
    #[error("routes {first:?} and {second:?} are the same host")]
    Twice {
        /// The first of them, in order.
        first: String,
        /// The second.
        second: String,
    },
    /// An https upstream that nothing vouches for.
    #[error("route {route:?} is https and no certificate authorities are configured for upstreams")]
    NoTrust {
        /// Its name.
        route: String,
    },
}

impl RouteError {
    /// The next thing to do.
    pub fn next(&self) -> String {
        match self {
            Self::Upstream { .. } => {
                "write scheme, host and port and nothing else, for instance http://docs:8000"
                    .to_owned()
            }
            Self::Name { .. } => {
                "write a subdomain such as docs, or a whole host name, without scheme and port"
                    .to_owned()
            }
            Self::Twice { second, .. } => format!("remove {second:?}"),
            Self::NoTrust { .. } => {
                "set upstream.tls.ca_file, or upstream.tls.include_system_cas: true".to_owned()
            }
        }
    }
}

/// Checks routes; `trust`: https upstreams can be verified.
///
/// # Errors
///
/// The first that cannot be used, in the order of their names.
pub fn compile(
    routes: &BTreeMap<String, control::Route>,
    trust: bool,
) -> Result<Vec<Rule>, RouteError> {
    let mut seen: HashMap<Box<str>, &str> = HashMap::new();
    let mut rules = Vec::with_capacity(routes.len());
    for (name, route) in routes {
        if !is_name(name) {
            return Err(RouteError::Name {
                route: name.clone(),
            });
        }
        let target = Target::parse(&route.upstream).ok_or_else(|| RouteError::Upstream {
            route: name.clone(),
            upstream: route.upstream.clone(),
        })?;
        if target.tls && !trust {
            return Err(RouteError::NoTrust {
                route: name.clone(),
            });
        }
        let lower: Box<str> = name.to_ascii_lowercase().into();
        if let Some(first) = seen.insert(lower.clone(), name) {
            return Err(RouteError::Twice {
                first: first.to_owned(),
                second: name.clone(),
            });
        }
        rules.push(Rule {
            name: lower,
            target,
            preserve_host: route.preserve_host,
        });
    }
    Ok(rules)
}

/// The host of a `Host` header or `:authority` in the form in which routes are kept: lower case,
/// without port and without the root's dot. `None`: not a host at all. Takes any text.
pub fn normal_host(authority: &str) -> Option<Cow<'_, str>> {
    let host = match authority.rsplit_once(':') {
        // An IPv6 address ends with its bracket, so what follows a colon there is part of it.
        Some((host, port)) if !port.ends_with(']') => {
            if !port.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            host
        }
        _ => authority,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let literal = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let valid = match literal {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_name(host),
    };
    if !valid {
        return None;
    }
    Some(if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    })
}

/// A host as it stands, but for a port behind it.
pub fn without_port(authority: &str) -> &str {
    let host = authority.trim_end_matches(|c: char| c.is_ascii_digit());
    host.strip_suffix(':').unwrap_or(authority)
}

/// Looks `host` up, which [`normal_host`] made: as a whole first, then without `.DOMAIN`.
pub fn find<'t, T, S: BuildHasher>(
    table: &'t HashMap<Box<str>, T, S>,
    host: &str,
    domain: Option<&str>,
) -> Option<&'t T> {
    table.get(host).or_else(|| {
        let subdomain = host.strip_suffix(domain?)?.strip_suffix('.')?;
        table.get(subdomain)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(list: &[(&str, &str)]) -> BTreeMap<String, control::Route> {
        let route = |upstream: &str| control::Route {
            upstream: upstream.to_owned(),
            preserve_host: false,
        };
        list.iter()
            .map(|(name, upstream)| ((*name).to_owned(), route(upstream)))
            .collect()
    }

    #[test]
    fn a_host_loses_port_case_and_root_dot() {
        for (authority, host) in [
            ("docs.example", Some("docs.example")),
            ("DOCS.example:443", Some("docs.example")),
            ("docs.example.", Some("docs.example")),
            ("docs.example.:8443", Some("docs.example")),
            ("docs:", Some("docs")),
            ("10.0.0.1:80", Some("10.0.0.1")),
            ("[fd00::1]:80", Some("[fd00::1]")),
            ("[fd00::1]", Some("[fd00::1]")),
            ("", None),
            (":80", None),
            (".", None),
            ("docs..example", None),
            ("a@docs.example", None),
            ("docs.example:80:80", None),
            ("docs.example:http", None),
            ("docs example", None),
            ("docs/../x", None),
            ("fd00::1", None),
            ("[docs]", None),
            ("docs.example\u{e9}", None),
        ] {
            assert_eq!(normal_host(authority).as_deref(), host, "{authority}");
        }
    }

    #[test]
    fn the_whole_host_stands_before_the_subdomain_and_the_rest_is_denied() {
        let table: HashMap<Box<str>, u8> =
            [("docs", 1), ("docs.t.example", 2), ("wiki", 3), ("a.b", 4)]
                .map(|(name, value)| (name.into(), value))
                .into();
        for (host, domain, expected) in [
            ("docs.t.example", Some("t.example"), Some(2)),
            ("wiki.t.example", Some("t.example"), Some(3)),
            ("a.b.t.example", Some("t.example"), Some(4)),
            ("wiki", None, Some(3)),
            ("wiki.t.example", None, None),
            ("wiki.other.example", Some("t.example"), None),
            ("wikit.example", Some("t.example"), None),
            ("t.example", Some("t.example"), None),
            (".t.example", Some("t.example"), None),
            ("x.wiki.t.example", Some("t.example"), None),
        ] {
            assert_eq!(find(&table, host, domain).copied(), expected, "{host}");
        }
    }

    #[test]
    fn routes_that_cannot_be_used_are_refused_with_their_name() {
        let refused = |list: &[(&str, &str)], trust| compile(&routes(list), trust).unwrap_err();
        assert_eq!(
            refused(&[("docs", "http://docs:80/mcp")], true).to_string(),
            "route \"docs\": invalid upstream (must be scheme://host:port): \"http://docs:80/mcp\""
        );
        assert_eq!(
            refused(&[("Docs", "http://a:80"), ("docs", "http://b:80")], true).to_string(),
            "routes \"Docs\" and \"docs\" are the same host"
        );
        assert!(matches!(
            refused(&[("do cs", "http://a:80")], true),
            RouteError::Name { .. }
        ));
        assert!(matches!(
            refused(&[("a:80", "http://a:80")], true),
            RouteError::Name { .. }
        ));
        assert!(matches!(
            refused(&[("a", "https://a:443")], false),
            RouteError::NoTrust { .. }
        ));
        assert_eq!(
            compile(&routes(&[("A.b", "https://a:443")]), true).unwrap()[0]
                .name
                .as_ref(),
            "a.b"
        );
    }
}
