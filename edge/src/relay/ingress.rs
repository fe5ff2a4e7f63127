//! `api.EDGE`: proxies that dial in are upgraded here, everything else is the control plane's.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Shared;
use super::answer::{Body, empty, error};
use super::http::{self as serving, Stream};
use super::quota::Key;
use super::session::{self, Proxy};
use crate::directory::Refusal;

/// Connections of one tunnel: a proxy holds two to each edge, and there may be many proxies.
const MAX_LINKS: usize = 256;
/// Different wrong credentials from one address in [`WRONG_WINDOW`]; beyond it none is looked at. The same
/// one again and again is no guess: a replica that was forgotten must not lock out those beside it.
const WRONG_LIMIT: usize = 30;
/// The same for wrong ones at all.
const WRONG_AT_ALL: u32 = 600;
const WRONG_WINDOW: Duration = Duration::from_secs(60);
/// The longest credential: a token is far shorter.
const MAX_CREDENTIAL: usize = 4096;

/// Serves HTTP on a connection whose TLS has been ended.
pub(super) async fn serve<S: Stream>(shared: Arc<Shared>, stream: S, peer: SocketAddr) {
    let (tasks, cut) = (shared.tasks.clone(), shared.cut.clone());
    let stall = shared.limits.stall;
    let handler = move |request: Request<Incoming>| {
        let shared = Arc::clone(&shared);
        let answering = async move {
            if request.uri().path() == wire::CONNECT_PATH {
                connect(&shared, request, peer).await
            } else {
                (shared.answer)(request, peer).await
            }
        };
        answering.boxed()
    };
    serving::serve(&tasks, &cut, stream, stall, Arc::new(handler)).await;
}

async fn connect(
    shared: &Arc<Shared>,
    mut request: Request<Incoming>,
    address: SocketAddr,
) -> Response<Body> {
    if request.method() != Method::GET || !wants_upgrade(&request) {
        let text = "only an upgrade to keyward-tunnel/1 over HTTP/1.1 is served here";
        let mut answer = error(StatusCode::UPGRADE_REQUIRED, "upgrade_required", text);
        let protocol = HeaderValue::from_static(wire::PROTOCOL);
        answer.headers_mut().insert(header::UPGRADE, protocol);
        return answer;
    }
    let proxy = match identify(shared, request.headers(), address).await {
        Ok(proxy) => proxy,
        Err(refusal) => return refuse(refusal),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let inner = Arc::clone(shared);
    shared.tasks.spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (tunnel, replica) = (proxy.bound.tunnel.clone(), proxy.replica.clone());
            let credential = proxy.bound.credential.clone();
            tracing::info!(tunnel, replica, %address, credential, "proxy connected");
            let cut = inner.cut.clone();
            let serving = session::run(inner, TokioIo::new(upgraded), proxy);
            let ended = tokio::select! {
                ended = serving => ended,
                () = cut.cancelled() => session::Ended::DrainLimit,
            };
            tracing::info!(tunnel, replica, %address, reason = %ended, "proxy disconnected");
        }
    });
    let mut answer = Response::new(empty());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(wire::PROTOCOL));
    let directory = &shared.directory;
    if let Ok(instance) = HeaderValue::from_str(directory.instance()) {
        headers.insert(wire::EDGE_INSTANCE, instance);
    }
    let instances = *directory.instances().borrow();
    headers.insert(wire::EDGE_INSTANCES, HeaderValue::from(instances));
    answer
}

fn wants_upgrade(request: &Request<Incoming>) -> bool {
    let is = |name: header::HeaderName, token: &str| {
        let values = request.headers().get_all(name);
        let mut tokens = values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','));
        tokens.any(|item| item.trim().eq_ignore_ascii_case(token))
    };
    request.version() == Version::HTTP_11
        && is(header::UPGRADE, wire::PROTOCOL)
        && is(header::CONNECTION, "upgrade")
}

/// Who dials, if it may.
async fn identify(
    shared: &Shared,
    headers: &HeaderMap,
    address: SocketAddr,
) -> Result<Proxy, Refusal> {
    let key = Key::of(address.ip());
    if shared.wrong.is_full(&key) {
        return Err(Refusal::TooMany);
    }
    if shared.directory.is_stale() || shared.tasks.is_stopping() {
        return Err(Refusal::Unavailable);
    }
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let credential = text(header::AUTHORIZATION.as_str())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, value)| value.trim())
        .filter(|value| !value.is_empty() && value.len() <= MAX_CREDENTIAL);
    let tunnel = text(wire::TUNNEL);
    let replica = text(wire::REPLICA)
        .filter(|name| !name.is_empty() && name.len() <= wire::MAX_REPLICA)
        .unwrap_or("proxy");
    let decided = match (tunnel, credential) {
        (Some(tunnel), Some(credential)) => {
            let value = credential.as_bytes();
            shared.directory.authenticate(tunnel, value).await
        }
        _ => Err(Refusal::Credential),
    };
    let bound = decided.inspect_err(|&refusal| {
        if refusal == Refusal::Credential {
            shared.wrong.count(&key, credential.unwrap_or_default());
        }
        tracing::warn!(tunnel, replica, %address, %refusal, "proxy refused");
    })?;
    if shared.links.count(&bound.tunnel) >= MAX_LINKS {
        return Err(Refusal::TooMany);
    }
    Ok(Proxy {
        bound,
        replica: replica.to_owned(),
        address,
    })
}

fn refuse(refusal: Refusal) -> Response<Body> {
    let (status, word) = match refusal {
        Refusal::Credential => (StatusCode::UNAUTHORIZED, "authentication_error"),
        Refusal::Suspended => (StatusCode::FORBIDDEN, "permission_error"),
        Refusal::Archived => (StatusCode::NOT_FOUND, "not_found_error"),
        Refusal::TooMany => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        Refusal::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "overloaded_error"),
    };
    error(status, word, &refusal.to_string())
}

/// Wrong credentials by source, so that nobody may guess for long.
#[derive(Debug, Default)]
pub(super) struct Wrong(Mutex<HashMap<Key, Tries>>);

#[derive(Debug)]
struct Tries {
    since: Instant,
    count: u32,
    /// SHA-256 of each.
    different: HashSet<Vec<u8>>,
}

impl Tries {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            count: 0,
            different: HashSet::new(),
        }
    }

    fn is_over(&self) -> bool {
        self.since.elapsed() >= WRONG_WINDOW
    }

    fn is_full(&self) -> bool {
        let many = self.different.len() >= WRONG_LIMIT || self.count >= WRONG_AT_ALL;
        many && !self.is_over()
    }
}

impl Wrong {
    /// Most sources that are remembered; to make room, those are forgotten that have not guessed often.
    const MOST: usize = 10_000;

    fn is_full(&self, key: &Key) -> bool {
        self.lock().get(key).is_some_and(Tries::is_full)
    }

    fn count(&self, key: &Key, credential: &str) {
        let mut known = self.lock();
        if known.len() >= Self::MOST {
            known.retain(|_, tries| tries.is_full());
            // Room for as many as it takes to look at, or looking would be all that is done.
            if known.len() > Self::MOST / 2 {
                known.clear();
            }
        }
        let tries = known.entry(key.clone()).or_insert_with(Tries::new);
        if tries.is_over() {
            *tries = Tries::new();
        }
        tries.count += 1;
        let digest = digest::digest(&digest::SHA256, credential.as_bytes());
        tries.different.insert(digest.as_ref().to_vec());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Tries>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn thirty_wrong_credentials_a_minute_are_enough_from_one_address() {
        let wrong = Wrong::default();
        let key = |text: &str| Key::of(text.parse().unwrap());
        let (guesser, other) = (key("192.0.2.1"), key("192.0.2.2"));
        for number in 0..WRONG_LIMIT {
            assert!(!wrong.is_full(&guesser));
            wrong.count(&guesser, &number.to_string());
        }
        assert!(wrong.is_full(&guesser));
        for _ in 0..WRONG_LIMIT {
            wrong.count(&other, "an old one");
        }
        assert!(!wrong.is_full(&other), "no guess");
        tokio::time::advance(WRONG_WINDOW).await;
        assert!(!wrong.is_full(&guesser));
        wrong.count(&guesser, "x");
        assert!(!wrong.is_full(&guesser), "counted anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_crowd_of_sources_takes_no_more_room_and_hides_nobody_who_guesses() {
        let wrong = Wrong::default();
        let source = |number: u32| Key::Address(std::net::IpAddr::from(number.to_be_bytes()));
        for number in 0..WRONG_LIMIT {
            wrong.count(&source(0), &number.to_string());
        }
        for number in 1..100_000 {
            wrong.count(&source(number), "x");
            assert!(!wrong.is_full(&source(number)));
        }
        assert!(wrong.lock().len() <= Wrong::MOST);
        assert!(wrong.is_full(&source(0)));
    }
}
