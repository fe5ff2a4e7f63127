//! The third layer: whether each route leads to something that can be dialled.

use super::{Layer, Report, Tunnel};
use crate::cli::doctor::proxies::{Asked, Route};

const LAYER: Layer = Layer::Routing;

impl Tunnel<'_> {
    pub(super) fn routing(&self, report: &mut Report) {
        for (asked, reason) in self.reasons(LAYER) {
            self.found(
                report,
                LAYER,
                format!("the proxy at {} is not ready: {reason}", asked.addr),
                "write routes: under the tunnel in keyward.yaml, or into the proxy's file in the place of routes: daemon",
            );
        }
        let Some(routes) = self.routes() else {
            report.notes.push(format!(
                "{}: no route was tried: name the health listener of a proxy with --proxy",
                self.name
            ));
            return;
        };
        if routes.is_empty() {
            self.found(
                report,
                LAYER,
                "no proxy that was asked has a route, so every call is answered: no route configured for host".to_owned(),
                "write routes: into the proxy's file, or under the tunnel in keyward.yaml",
            );
        }
        for (asked, route) in routes {
            let Some(error) = &route.error else { continue };
            let next = route.next.clone();
            self.found(
                report,
                LAYER,
                format!(
                    "route {} leads to {}, which the proxy at {} cannot dial: {error}",
                    route.name, route.upstream, asked.addr
                ),
                next.unwrap_or_else(|| "look at the proxy's log".to_owned()),
            );
        }
    }

    /// The routes of this tunnel at every proxy that answered; `None`: none did.
    pub(super) fn routes(&self) -> Option<Vec<(&Asked, &Route)>> {
        let answered = self.evidence.asked.iter().filter_map(|asked| {
            let said = asked.said.as_ref().ok()?;
            Some((asked, said))
        });
        let mut all = None;
        for (asked, said) in answered {
            let own = said.routes.iter();
            let own = own.filter(|route| route.tunnel.is_empty() || route.tunnel == self.name);
            all.get_or_insert_with(Vec::new)
                .extend(own.map(|route| (asked, route)));
        }
        all
    }
}
