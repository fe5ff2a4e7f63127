//! Which endpoint a request means, and the parameters in its path and query.

use http::{Method, Uri};

use super::answer::Failed;
use super::body;
use crate::percent;
use crate::state::Identifier;

/// Everything that is served. Pure data: who may call it is in `authenticate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Exchange,
    Edge,
    Document,
    Bundles,
    CreateTunnel,
    ListTunnels,
    Tunnel,
    ArchiveTunnel,
    SuspendTunnel,
    ResumeTunnel,
    RevealToken,
    RotateToken,
    CreateCertificate,
    ListCertificates,
    Certificate,
    ArchiveCertificate,
    CreateSecret,
    ListSecrets,
    ArchiveSecret,
    Access,
    PutAccess,
    PutBundle,
}

impl Endpoint {
    /// Whether it is served to anybody.
    pub(super) fn is_public(self) -> bool {
        matches!(self, Self::Edge | Self::Document | Self::Bundles)
    }

    /// Whether it tells and changes nothing. A token that is revealed is a change of who knows it.
    pub(super) fn is_read(self) -> bool {
        matches!(
            self,
            Self::ListTunnels
                | Self::Tunnel
                | Self::ListCertificates
                | Self::Certificate
                | Self::ListSecrets
                | Self::Access
        )
    }

    /// Longest body, bytes.
    pub(super) fn longest_body(self) -> usize {
        match self {
            Self::PutBundle => body::LONGEST_BUNDLE,
            _ => body::LONGEST,
        }
    }
}

/// A request's endpoint and parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) endpoint: Endpoint,
    /// `tnl_…`, or empty.
    pub(super) tunnel: String,
    /// Id of the part, or empty.
    pub(super) part: String,
    query: Vec<(String, String)>,
}

impl Route {
    /// A parameter of the query; what nobody asks for is ignored, such as `beta`.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// The route of a request.
///
/// # Errors
///
/// 404 for no such path, 405 for no such method on it, 400 for a query that is there twice.
pub(super) fn find(method: &Method, uri: &Uri) -> Result<Route, Failed> {
    let query = read_query(uri.query().unwrap_or_default())?;
    let segments: Vec<&str> = uri
        .path()
        .strip_prefix('/')
        .unwrap_or_default()
        .split('/')
        .collect();
    let tunnel_path = segments.starts_with(&["v1", "tunnels"]);
    let (tunnel, part) = match segments.as_slice() {
        ["v1", "tunnels", tunnel, _, part, ..] => (*tunnel, *part),
        ["v1", "tunnels", tunnel, ..] => (*tunnel, ""),
        _ => ("", ""),
    };
    if segments.len() > 2 && tunnel_path && !Identifier::Tunnel.fits(tunnel) {
        return Err(Failed::no_such("tunnel"));
    }
    let choices = endpoints(&segments).ok_or_else(Failed::not_found)?;
    let found = choices.iter().find(|(wanted, _)| wanted == method);
    let allowed = || choices.iter().map(|(method, _)| method.clone());
    let (_, endpoint) = found.ok_or_else(|| Failed::method(allowed()))?;
    Ok(Route {
        endpoint: *endpoint,
        tunnel: tunnel.to_owned(),
        part: part.to_owned(),
        query,
    })
}

fn endpoints(segments: &[&str]) -> Option<Vec<(Method, Endpoint)>> {
    use Endpoint as E;
    let (get, post, put) = (Method::GET, Method::POST, Method::PUT);
    Some(match segments {
        ["v1", "oauth", "token"] => vec![(post, E::Exchange)],
        ["v1", "edge"] => vec![(get, E::Edge)],
        ["v1", "openapi.yaml"] => vec![(get, E::Document)],
        ["v1", "tunnels"] => vec![(post, E::CreateTunnel), (get, E::ListTunnels)],
        ["v1", "tunnels", _] => vec![(get, E::Tunnel)],
        ["v1", "tunnels", _, "archive"] => vec![(post, E::ArchiveTunnel)],
        ["v1", "tunnels", _, "suspend"] => vec![(post, E::SuspendTunnel)],
        ["v1", "tunnels", _, "resume"] => vec![(post, E::ResumeTunnel)],
        ["v1", "tunnels", _, "reveal_token"] => vec![(post, E::RevealToken)],
        ["v1", "tunnels", _, "rotate_token"] => vec![(post, E::RotateToken)],
        ["v1", "tunnels", _, "certificates"] => {
            vec![(post, E::CreateCertificate), (get, E::ListCertificates)]
        }
        ["v1", "tunnels", _, "certificates", _] => vec![(get, E::Certificate)],
        ["v1", "tunnels", _, "certificates", _, "archive"] => vec![(post, E::ArchiveCertificate)],
        ["v1", "tunnels", _, "secrets"] => vec![(post, E::CreateSecret), (get, E::ListSecrets)],
        ["v1", "tunnels", _, "secrets", _, "archive"] => vec![(post, E::ArchiveSecret)],
        ["v1", "tunnels", _, "access"] => vec![(get, E::Access), (put, E::PutAccess)],
        ["v1", "tunnels", _, "bundles"] => vec![(get, E::Bundles)],
        ["v1", "tunnels", _, "bundles", _] => vec![(put, E::PutBundle)],
        _ => return None,
    })
}

fn read_query(text: &str) -> Result<Vec<(String, String)>, Failed> {
    let mut query: Vec<(String, String)> = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = percent::decode(name).zip(percent::decode(value));
        let (name, value) = decoded.ok_or_else(|| Failed::invalid("query: cannot be decoded"))?;
        if query.iter().any(|(known, _)| *known == name) {
            return Err(Failed::invalid(format!("{name}: is in the query twice")));
        }
        query.push((name, value));
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_the_openapi_document_is_served() {
        let document = include_str!("../../../docs/openapi.yaml");
        let paths: Vec<&str> = document
            .lines()
            .filter_map(|line| line.strip_prefix("  /")?.strip_suffix(':'))
            .collect();
        assert_eq!(paths.len(), 17);
        for path in paths {
            let path = format!("/{path}").replace("{tunnel}", "tnl_0");
            let segments: Vec<&str> = path.trim_start_matches('/').split('/').collect();
            assert!(endpoints(&segments).is_some(), "{path}");
        }
    }

    #[test]
    fn paths_and_methods_name_endpoints_and_nothing_else_does() {
        let find = |method: Method, uri: &str| find(&method, &uri.parse().unwrap());
        let found = find(
            Method::POST,
            "/v1/tunnels/tnl_1/certificates/tcrt_2/archive",
        )
        .unwrap();
        assert_eq!(found.endpoint, Endpoint::ArchiveCertificate);
        assert_eq!(
            (found.tunnel.as_str(), found.part.as_str()),
            ("tnl_1", "tcrt_2")
        );
        let list = find(Method::GET, "/v1/tunnels?beta=true&limit=5").unwrap();
        assert_eq!(list.query("limit"), Some("5"));
        for (method, uri) in [
            (Method::GET, "/"),
            (Method::GET, "/v1/tunnels/"),
            (Method::GET, "/v1/tunnels/../edge"),
            (Method::GET, "/v1/tunnels/tnl_1/"),
            (Method::DELETE, "/v1/tunnels/tnl_1"),
            (Method::GET, "/v1/tunnels/tnl_1/reveal_token"),
            (Method::GET, "/v1/tunnels?limit=1&limit=2"),
            (Method::GET, "/v1/tunnels?page=%"),
            (Method::GET, "//v1/tunnels"),
            (Method::GET, "/v1//tunnels"),
        ] {
            assert!(find(method, uri).is_err(), "{uri}");
        }
    }
}
