//! Connections that calls share, by route.
//!
//! A call goes out on a connection that was made with the files as they are now; one made with earlier
//! ones ends when what runs on it has. A call is sent again only where nothing of it went out, where the
//! proxy says that it has not looked at it, or where asking twice changes nothing (RFC 9110 section 9.2.2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use http::{Response, request};
use process::{Failure, Tasks};
use tokio::time::Instant;

use super::body::Upload;
use super::dial::{Dialer, Inside};
use super::error::CarryError;
use super::link::{Answer, InUse, Link};
use super::target::Route;

/// Calls at once on one connection. The proxy takes more; but not all answers are read, and one that is
/// not read must not hold up hundreds of others.
const SHARED: usize = 64;
/// A connection that nobody has needed for this long is closed.
const IDLE: Duration = Duration::from_secs(90);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// How often one call is tried.
const TRIES: usize = 4;
/// Routes in use at once: names come from whoever may connect here.
const ROUTES: usize = 1024;

/// All connections.
pub(super) struct Pool {
    dialer: Dialer,
    routes: Mutex<HashMap<Route, Place>>,
}

/// What there is for one route.
#[derive(Default)]
struct Place {
    links: Vec<Link>,
    /// One dials, the others wait for what comes of it.
    gate: Arc<tokio::sync::Mutex<()>>,
    failed: Option<(Instant, CarryError)>,
}

impl Pool {
    pub(super) fn new(dialer: Dialer) -> Self {
        Self {
            dialer,
            routes: Mutex::default(),
        }
    }

    /// `<route>.<tunnel-domain>`.
    pub(super) fn name(&self, route: &Route) -> String {
        self.dialer.name(route)
    }

    /// `<tunnel-domain>`.
    pub(super) fn domain(&self) -> &str {
        &self.dialer.domain.0
    }

    /// Sends one call, whose URI is a path, and gives the answer as soon as its head is there.
    ///
    /// # Errors
    ///
    /// The layer that failed.
    pub(super) async fn send(
        &self,
        route: &Route,
        parts: request::Parts,
        body: Upload,
    ) -> Result<Response<Answer>, CarryError> {
        let copy = match &body {
            Upload::Whole(bytes) => Some(bytes.clone()),
            Upload::Stream(_) => None,
        };
        let mut body = body;
        let mut left = TRIES;
        loop {
            left -= 1;
            let link = self.link(route).await?;
            let used = Arc::downgrade(&link.in_use);
            let failed = match link.send(parts.clone(), body).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => failed,
            };
            self.forget(route, &used);
            let again = failed.error.is_for_one_edge() && left > 0;
            body = match (failed.unsent, &copy) {
                (Some(body), _) if again => body,
                (None, Some(copy)) if again && (failed.untouched || parts.method.is_safe()) => {
                    Upload::Whole(copy.clone())
                }
                _ => return Err(failed.error),
            };
        }
    }

    /// Sends one call on a connection of its own, in HTTP/1.1: the answer may be an upgrade.
    ///
    /// # Errors
    ///
    /// The layer that failed.
    pub(super) async fn send_alone(
        &self,
        route: &Route,
        parts: request::Parts,
        body: Upload,
    ) -> Result<Response<Answer>, CarryError> {
        let link = self.dial(route, Inside::Http1).await?;
        link.send(parts, body).await.map_err(|failed| failed.error)
    }

    /// Closes what nobody needs, until the stop.
    ///
    /// # Errors
    ///
    /// None.
    pub(super) async fn sweep(self: Arc<Self>, tasks: Tasks) -> Result<(), Failure> {
        while !tasks.is_stopping() {
            tokio::select! {
                () = tokio::time::sleep(SWEEP) => {}
                () = tasks.stopping() => break,
            }
            let generation = self.dialer.material().generation;
            self.routes().retain(|_, place| {
                place.links.retain(|link| {
                    let busy = Arc::strong_count(&link.in_use) > 1;
                    let fresh =
                        link.generation == generation && link.in_use.last().elapsed() < IDLE;
                    !link.is_closed() && (busy || fresh)
                });
                !place.links.is_empty() || Arc::strong_count(&place.gate) > 1
            });
        }
        // What is idle must not keep the drain waiting.
        self.routes().clear();
        Ok(())
    }

    /// A connection of now with room for one more call.
    async fn link(&self, route: &Route) -> Result<Link, CarryError> {
        let arrived = Instant::now();
        let gate = {
            let mut routes = self.routes();
            if routes.len() >= ROUTES && !routes.contains_key(route) {
                return Err(CarryError::TooMany);
            }
            let place = routes.entry(route.clone()).or_default();
            if let Some(link) = self.kept(place) {
                return Ok(link);
            }
            Arc::clone(&place.gate)
        };
        let _turn = gate.lock().await;
        {
            let mut routes = self.routes();
            let place = routes.entry(route.clone()).or_default();
            if let Some(link) = self.kept(place) {
                return Ok(link);
            }
            // Whoever waited while somebody else failed has the same answer.
            if let Some((at, error)) = &place.failed
                && *at >= arrived
            {
                return Err(error.clone());
            }
        }
        let dialled = self.dial(route, Inside::Best).await;
        let mut routes = self.routes();
        let place = routes.entry(route.clone()).or_default();
        match &dialled {
            Ok(link) if link.is_shared() => place.links.push(link.clone()),
            Ok(_) => {}
            Err(error) => place.failed = Some((Instant::now(), error.clone())),
        }
        dialled
    }

    fn kept(&self, place: &mut Place) -> Option<Link> {
        let generation = self.dialer.material().generation;
        place.links.retain(|link| !link.is_closed());
        let mut now = place
            .links
            .iter()
            .filter(|link| link.generation == generation);
        now.find(|link| Arc::strong_count(&link.in_use) <= SHARED)
            .cloned()
    }

    fn forget(&self, route: &Route, gone: &Weak<InUse>) {
        if let Some(place) = self.routes().get_mut(route) {
            let gone = gone.as_ptr();
            place.links.retain(|link| Arc::as_ptr(&link.in_use) != gone);
        }
    }

    async fn dial(&self, route: &Route, inside: Inside) -> Result<Link, CarryError> {
        let material = self.dialer.material();
        let inner = self.dialer.connect(route, inside, &material).await?;
        let name = self.dialer.name(route);
        Link::new(inner, &name, material.generation, &self.dialer.tasks).await
    }

    fn routes(&self) -> MutexGuard<'_, HashMap<Route, Place>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
