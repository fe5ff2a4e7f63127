//! Who may ask here, and for what: pure decisions about a request's head.
//!
//! Whoever may connect to this port has the certificate's access, and so has every page in a browser on
//! this machine, whose scripts can make a foreign name lead here (DNS rebinding). So `Host` must be a name
//! of this machine, and `Origin`, where there is one, too.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use thiserror::Error;

use super::target::Route;

/// RFC 9728 section 3.1, RFC 8414 section 3.1 and its variant for `OpenID` Connect: the path of what is
/// described stands behind these.
const WELL_KNOWN: [&str; 3] = [
    "/.well-known/oauth-protected-resource",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
];

/// Names of this machine besides the ones that every machine has.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    /// `NAME`, and `<route>.NAME` with it. Lower case.
    pub(super) hosts: Vec<String>,
    /// Whole origins of pages that may ask.
    pub(super) origins: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) route: Route,
    /// Path and query as the route's server sees them.
    pub(super) path: String,
    pub(super) front: Front,
}

/// How the caller writes a route's address, so that other addresses can be written like it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// `http://<route>.REST`, REST with its port.
    Host { rest: String },
    /// `http://AUTHORITY/<route>`.
    Path { authority: String },
}

/// Why not.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Refusal {
    #[error(
        "this Host is not a name of this machine; ask for 127.0.0.1 or localhost, or start the agent with --allow-host"
    )]
    Host,
    #[error(
        "a page of this Origin may not ask here; if it is yours, start the agent with --allow-origin"
    )]
    Origin,
    #[error("another site may not ask here")]
    Site,
    #[error("no route is named; ask for /ROUTE/mcp, or for ROUTE.localhost")]
    NoRoute,
}

/// What a host is a name of.
enum Name<'a> {
    Machine,
    Route(&'a str),
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Host | Self::Origin | Self::Site => StatusCode::FORBIDDEN,
        }
    }
}

impl Names {
    /// What a request asks for, if it may.
    pub(super) fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<Ask, Refusal> {
        let authority = host(uri, headers).ok_or(Refusal::Host)?;
        let named = self.place(authority.host()).ok_or(Refusal::Host)?;
        self.origin(headers)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        if let Name::Route(route) = named {
            let rest = authority.as_str();
            let rest = rest.split_once('.').map_or(rest, |(_, rest)| rest);
            return Ok(Ask {
                route: route.parse().map_err(|_| Refusal::NoRoute)?,
                path: path.to_owned(),
                front: Front::Host {
                    rest: rest.to_owned(),
                },
            });
        }
        let (route, path) = split(path).ok_or(Refusal::NoRoute)?;
        Ok(Ask {
            route,
            path,
            front: Front::Path {
                authority: authority.as_str().to_owned(),
            },
        })
    }

    /// What `host` names here; `None`: it is no name of ours.
    fn place<'a>(&self, host: &'a str) -> Option<Name<'a>> {
        if is_loopback(host) {
            return Some(Name::Machine);
        }
        let ours = std::iter::once("localhost").chain(self.hosts.iter().map(String::as_str));
        for name in ours {
            if host.eq_ignore_ascii_case(name) {
                return Some(Name::Machine);
            }
            let cut = host.len().checked_sub(name.len() + 1);
            let parts = cut.and_then(|cut| host.split_at_checked(cut));
            if let Some((route, rest)) = parts
                && rest
                    .strip_prefix('.')
                    .is_some_and(|rest| rest.eq_ignore_ascii_case(name))
                && !route.contains('.')
            {
                return Some(Name::Route(route));
            }
        }
        None
    }

    fn origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut origins = headers.get_all(header::ORIGIN).iter().peekable();
        if origins.peek().is_none() {
            return site(headers);
        }
        for origin in origins {
            let origin = origin.to_str().map_err(|_| Refusal::Origin)?;
            let known = self
                .origins
                .iter()
                .any(|known| known.eq_ignore_ascii_case(origin));
            let uri: Option<Uri> = origin.parse().ok();
            let local = uri.is_some_and(|uri| {
                let web = matches!(uri.scheme_str(), Some("http" | "https"));
                web && uri.host().is_some_and(|host| self.place(host).is_some())
            });
            if !known && !local {
                return Err(Refusal::Origin);
            }
        }
        Ok(())
    }
}

/// A browser that leaves `Origin` out says this instead. Going there by a link is no script's doing, and
/// how a person comes back from signing in.
fn site(headers: &HeaderMap) -> Result<(), Refusal> {
    let is = |name: &str, value: &str| {
        let said: Option<&HeaderValue> = headers.get(name);
        said.is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(value.as_bytes()))
    };
    if is("sec-fetch-site", "cross-site") && !is("sec-fetch-mode", "navigate") {
        return Err(Refusal::Site);
    }
    Ok(())
}

/// RFC 9112 section 3.2.2: what an absolute URI says counts. Two `Host` fields are none.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    let mut fields = headers.get_all(header::HOST).iter();
    let field = fields.next()?;
    if fields.next().is_some() {
        return None;
    }
    let named: Authority = field.to_str().ok()?.parse().ok()?;
    let authority = uri.authority().cloned().unwrap_or(named);
    (!authority.as_str().contains('@')).then_some(authority)
}

/// Whether `path` is one of the documents that are known by their place, or below one.
pub(super) fn is_well_known(path: &str) -> bool {
    under_well_known(path).is_some()
}

fn under_well_known(path: &str) -> Option<(&'static str, &str)> {
    WELL_KNOWN.into_iter().find_map(|known| {
        let rest = path.strip_prefix(known)?;
        (rest.is_empty() || rest.starts_with(['/', '?'])).then_some((known, rest))
    })
}

pub(super) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .is_ok_and(|address| address.to_canonical().is_loopback())
}

/// `/docs/mcp`: the route `docs` and `/mcp`. What is known by its place under `/.well-known/` keeps it.
fn split(path: &str) -> Option<(Route, String)> {
    let (before, rest) = under_well_known(path).unwrap_or(("", path));
    let rest = rest.strip_prefix('/')?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (route, rest) = rest.split_at(end);
    let root = if before.is_empty() && !rest.starts_with('/') {
        "/"
    } else {
        ""
    };
    Some((route.parse().ok()?, format!("{before}{root}{rest}")))
}

impl Front {
    /// Route and path of an address that is written like the caller's.
    pub(super) fn read(&self, url: &str) -> Option<(Route, String)> {
        let rest = url.strip_prefix("http://")?;
        match self {
            Self::Host { rest: ours } => {
                let (label, rest) = rest.split_once('.')?;
                let path = rest.strip_prefix(ours.as_str())?;
                let whole = path.is_empty() || path.starts_with('/');
                whole.then_some((label.parse().ok()?, path.to_owned()))
            }
            Self::Path { authority } => split(rest.strip_prefix(authority.as_str())?),
        }
    }

    /// The caller's address of a route's `path`.
    pub(super) fn write(&self, route: &str, path: &str) -> String {
        match self {
            Self::Host { rest } => format!("http://{route}.{rest}{path}"),
            Self::Path { authority } => {
                let (before, rest) = under_well_known(path).unwrap_or(("", path));
                format!("http://{authority}{before}/{route}{rest}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(
        host: &str,
        path: &str,
        more: &[(&'static str, &'static str)],
    ) -> Result<(String, String), Refusal> {
        let names = Names {
            hosts: vec!["box.lan".to_owned()],
            origins: vec!["vscode-file://vscode-app".to_owned()],
        };
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        for (name, value) in more {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let ask = names.admit(&path.parse().unwrap(), &headers)?;
        Ok((ask.route.0, ask.path))
    }

    fn is(asked: impl Into<Result<(String, String), Refusal>>, route: &str, path: &str) {
        assert_eq!(asked.into(), Ok((route.to_owned(), path.to_owned())));
    }

    #[test]
    fn a_route_is_named_by_host_or_by_path() {
        is(
            ask("docs.localhost:7777", "/mcp?a=b", &[]),
            "docs",
            "/mcp?a=b",
        );
        is(ask("Docs.LocalHost", "/mcp", &[]), "docs", "/mcp");
        is(ask("docs.box.lan", "/mcp", &[]), "docs", "/mcp");
        for host in [
            "127.0.0.1:7777",
            "localhost",
            "[::1]:7777",
            "127.9.9.9",
            "box.lan:1",
        ] {
            is(ask(host, "/docs/mcp?a=/b", &[]), "docs", "/mcp?a=/b");
        }
        is(ask("localhost", "/docs", &[]), "docs", "/");
        is(ask("localhost", "/docs?x", &[]), "docs", "/?x");
        for path in [
            "/",
            "//mcp",
            "/a.b/mcp",
            "/.well-known/oauth-protected-resource",
        ] {
            assert_eq!(ask("localhost", path, &[]), Err(Refusal::NoRoute), "{path}");
        }
    }

    #[test]
    fn what_describes_a_route_is_found_where_clients_look_for_it() {
        for known in WELL_KNOWN {
            let path = format!("{known}/docs/mcp");
            is(
                ask("localhost", &path, &[]),
                "docs",
                &format!("{known}/mcp"),
            );
            let path = format!("{known}/docs");
            is(ask("localhost", &path, &[]), "docs", known);
        }
        let under = "/docs/.well-known/openid-configuration";
        let path = "/.well-known/openid-configuration";
        is(ask("localhost", under, &[]), "docs", path);
        let front = Front::Path {
            authority: "localhost:7".to_owned(),
        };
        assert_eq!(front.write("docs", "/mcp"), "http://localhost:7/docs/mcp");
        assert_eq!(
            front.write("docs", "/.well-known/oauth-protected-resource/mcp"),
            "http://localhost:7/.well-known/oauth-protected-resource/docs/mcp"
        );
        assert_eq!(
            front.write("docs", "/.well-known/oauth-protected-resource"),
            "http://localhost:7/.well-known/oauth-protected-resource/docs"
        );
    }

    #[test]
    fn a_foreign_host_is_refused_whatever_it_leads_to() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "docs.localhost.evil.example",
            "a.docs.localhost",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "user@localhost",
            "up.t.example",
        ] {
            assert_eq!(ask(host, "/docs/mcp", &[]), Err(Refusal::Host), "{host}");
        }
        let two = [("host", "localhost")];
        assert_eq!(ask("localhost", "/docs/mcp", &two), Err(Refusal::Host));
        // What is in the request line counts, and not what Host says beside it.
        let absolute = ask("localhost", "http://evil.example/docs/mcp", &[]);
        assert_eq!(absolute, Err(Refusal::Host));
    }

    #[test]
    fn a_foreign_page_is_refused_and_one_of_this_machine_is_not() {
        let from = |origin: &'static str| ask("localhost", "/docs/mcp", &[("origin", origin)]);
        for origin in [
            "http://localhost:6274",
            "http://127.0.0.1",
            "https://docs.localhost:1",
            "http://[::1]:5",
            "vscode-file://vscode-app",
        ] {
            assert!(from(origin).is_ok(), "{origin}");
        }
        for origin in [
            "null",
            "https://evil.example",
            "http://localhost.evil.example",
            "file://localhost",
            "",
        ] {
            assert_eq!(from(origin), Err(Refusal::Origin), "{origin}");
        }
        let both = [
            ("origin", "http://localhost"),
            ("origin", "http://evil.example"),
        ];
        assert_eq!(ask("localhost", "/docs/mcp", &both), Err(Refusal::Origin));
        let image = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "no-cors"),
        ];
        assert_eq!(ask("localhost", "/docs/mcp", &image), Err(Refusal::Site));
        let link = [
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-mode", "navigate"),
        ];
        assert!(ask("localhost", "/docs/mcp", &link).is_ok());
    }
}
