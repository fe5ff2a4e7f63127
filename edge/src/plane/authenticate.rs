//! Who calls the Tunnels API, and whether that will do.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::Plane;
use super::answer::Failed;
use super::route::{Endpoint, Route};
use crate::state::{By, Grant, Scope};

/// Longest access token that is looked up, bytes.
const LONGEST: usize = 256;

impl Plane {
    /// The grant behind `Authorization: Bearer`; there is no other way in.
    pub(super) async fn authenticate(
        &self,
        headers: &HeaderMap,
        source: IpAddr,
        by: &By,
    ) -> Result<Grant, Failed> {
        let found = match bearer(headers) {
            Some(token) => self.state().grant(token, by.now).await?,
            None => None,
        };
        found.ok_or_else(|| {
            self.limits.failure(source, self.settings.clock.boot());
            tracing::info!(%source, request = by.request_id, "a request without a valid access token");
            Failed::unauthenticated()
        })
    }
}

/// Whether the grant allows what the route asks for.
pub(super) fn authorize(grant: &Grant, route: &Route) -> Result<(), Failed> {
    if grant.scope == Scope::Read && !route.endpoint.is_read() {
        return Err(Failed::forbidden(format!(
            "This needs the scope {}",
            Scope::Manage.as_str()
        )));
    }
    let Some(only) = &grant.tunnel else {
        return Ok(());
    };
    if route.endpoint == Endpoint::ListTunnels || *only == route.tunnel {
        Ok(())
    } else if route.tunnel.is_empty() {
        Err(Failed::forbidden("This token is for one tunnel only"))
    } else {
        // Whoever may not see a tunnel does not learn that it is there.
        Err(Failed::no_such("tunnel"))
    }
}

/// RFC 6750 §2.1; exactly one such header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    let fits = scheme.eq_ignore_ascii_case("bearer") && token.len() <= LONGEST;
    (fits && !token.is_empty()).then_some(token)
}
