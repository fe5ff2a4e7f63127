//! Where the edge is and which tunnel is meant: what the command line says, as types that cannot be wrong.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Uri;
use pki::Certificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use tokio::net::lookup_host;
use tokio_rustls::rustls;

use super::error::CarryError;

/// A resolver that does not answer is no resolver.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// Addresses that are tried for one connection.
const MOST: usize = 16;
/// Where the door for agents is.
const PORT: u16 = 443;

/// Why a word is no edge.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is its own text")]
pub enum BadTarget {
    #[error("write https:// and the edge's name, for instance https://edge.example.com")]
    Edge,
    #[error("no domain name")]
    Domain,
    #[error("no route: one label of letters, digits and hyphens")]
    Route,
}

/// `https://EDGE[:PORT]`; `agents.EDGE` and `api.EDGE` mean the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeUrl {
    /// `agents.EDGE`.
    pub(super) host: String,
    port: u16,
}

impl FromStr for EdgeUrl {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let uri: Uri = text.parse().map_err(|_| BadTarget::Edge)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let (Some("https"), Some(authority), "/") = (uri.scheme_str(), uri.authority(), path)
        else {
            return Err(BadTarget::Edge);
        };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        if authority.as_str().contains('@') || !is_domain(&host) {
            return Err(BadTarget::Edge);
        }
        let bare = host
            .strip_prefix("api.")
            .or_else(|| host.strip_prefix("agents."))
            .unwrap_or(&host);
        Ok(Self {
            host: format!("agents.{bare}"),
            port: authority.port_u16().unwrap_or(PORT),
        })
    }
}

impl EdgeUrl {
    /// `agents.EDGE`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Where it is dialled.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for EdgeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}:{}", self.host, self.port)
    }
}

/// `<tunnel-domain>`, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelDomain(pub(super) String);

impl FromStr for TunnelDomain {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let domain = text.trim_matches('.').to_ascii_lowercase();
        if is_domain(&domain) {
            Ok(Self(domain))
        } else {
            Err(BadTarget::Domain)
        }
    }
}

impl fmt::Display for TunnelDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TunnelDomain {
    /// The one domain that the tunnel's CA certificates in the PEM file `tunnel_ca` are for, by their name
    /// constraints. `None`: they name none, or several, or there are none that can be read.
    pub fn of(tunnel_ca: &Path) -> Option<Self> {
        let mut found = None;
        for certificate in CertificateDer::pem_file_iter(tunnel_ca).ok()? {
            let certificate = Certificate::from_der(certificate.ok()?.to_vec()).ok()?;
            let [domain] = certificate.permitted_domains() else {
                return None;
            };
            let domain: Self = domain.parse().ok()?;
            if found.as_ref().is_some_and(|found| *found != domain) {
                return None;
            }
            found = Some(domain);
        }
        found
    }
}

/// A route's name, lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route(pub(super) String);

impl FromStr for Route {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        if is_label(text) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(BadTarget::Route)
        }
    }
}

fn is_domain(text: &str) -> bool {
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.contains('.')
        && text.split('.').all(is_label)
        && !last.bytes().all(|letter| letter.is_ascii_digit())
}

/// RFC 1123 section 2.1.
fn is_label(text: &str) -> bool {
    let sound = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(sound)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// One address of one edge.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) name: ServerName<'static>,
    pub(super) address: SocketAddr,
}

/// All edges that serve the tunnel.
pub(super) struct Edges {
    urls: Vec<EdgeUrl>,
    /// In place of what the names resolve to.
    given: Vec<SocketAddr>,
    /// What answered last is asked first.
    last_good: Mutex<Option<SocketAddr>>,
}

impl Edges {
    pub(super) fn new(urls: Vec<EdgeUrl>, given: Vec<SocketAddr>) -> Self {
        Self {
            urls,
            given,
            last_good: Mutex::default(),
        }
    }

    /// Every address, the one that answered last before all others.
    pub(super) async fn candidates(&self) -> Result<Vec<Candidate>, CarryError> {
        let mut found = Vec::new();
        let mut failed = None;
        for url in &self.urls {
            let name = ServerName::try_from(url.host.clone());
            let name = name.map_err(|error| url.unresolved(&error))?;
            let addresses = if self.given.is_empty() {
                url.resolve().await
            } else {
                Ok(self.given.clone())
            };
            match addresses {
                Ok(addresses) => found.extend(addresses.into_iter().map(|address| Candidate {
                    name: name.clone(),
                    address,
                })),
                Err(error) => failed = Some(error),
            }
        }
        if found.is_empty() {
            return Err(failed.unwrap_or(CarryError::TooMany));
        }
        let good = *self.lock();
        found.sort_by_key(|candidate| Some(candidate.address) != good);
        found.truncate(MOST);
        Ok(found)
    }

    /// `address` is to be asked first from here on.
    pub(super) fn answered(&self, address: SocketAddr) {
        *self.lock() = Some(address);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<SocketAddr>> {
        self.last_good
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl EdgeUrl {
    async fn resolve(&self) -> Result<Vec<SocketAddr>, CarryError> {
        let looking = lookup_host((self.host.as_str(), self.port));
        match tokio::time::timeout(RESOLVE_LIMIT, looking).await {
            Ok(Ok(found)) => Ok(found.collect()),
            Ok(Err(error)) => Err(self.unresolved(&error)),
            Err(slow) => Err(self.unresolved(&slow)),
        }
    }

    fn unresolved(&self, error: &dyn std::error::Error) -> CarryError {
        CarryError::Resolve {
            host: self.host.clone(),
            cause: error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_is_named_by_any_of_its_names() {
        let edge = |text: &str| text.parse::<EdgeUrl>();
        let named = EdgeUrl {
            host: "agents.edge.example".to_owned(),
            port: 443,
        };
        for text in [
            "https://edge.example",
            "https://agents.Edge.example/",
            "https://api.edge.example:443",
        ] {
            assert_eq!(edge(text).as_ref(), Ok(&named), "{text}");
        }
        assert_eq!(edge("https://edge.example:8443").unwrap().port, 8443);
        for bad in [
            "http://edge.example",
            "edge.example",
            "https://user@edge.example",
            "https://edge.example/path",
            "https://127.0.0.1",
            "https://edge",
        ] {
            assert!(edge(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_route_is_one_label() {
        assert_eq!("Docs".parse::<Route>().unwrap().0, "docs");
        for bad in ["", "a.b", "-a", "a-", "a_b", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<Route>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn what_answered_last_is_asked_first() {
        let given: Vec<SocketAddr> = ["127.0.0.1:1", "127.0.0.2:1", "127.0.0.3:1"]
            .map(|text| text.parse().unwrap())
            .to_vec();
        let edges = Edges::new(vec!["https://edge.example".parse().unwrap()], given.clone());
        edges.answered(given[2]);
        let order: Vec<_> = edges
            .candidates()
            .await
            .unwrap()
            .into_iter()
            .map(|candidate| candidate.address)
            .collect();
        assert_eq!(order, [given[2], given[0], given[1]]);
    }
}
