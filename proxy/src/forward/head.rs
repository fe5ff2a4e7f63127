//! The head of a request: what is refused, which route it takes, what the upstream sees of it.
//!
//! hyper refuses before we see it: conflicting or malformed `Content-Length`, obsolete line folding,
//! `Transfer-Encoding` that does not end in `chunked` or comes with HTTP/1.0, and every connection
//! header in HTTP/2. `Transfer-Encoding` together with `Content-Length` it resolves as RFC 9112 §6.3
//! allows: the length is dropped and the connection closes behind the answer. The rest is here.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::uri::{Authority, Uri};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use process::Chain;

use super::answer::ForwardError;
use super::call::Call;
use super::headers::{introduce, join_cookies, strip_request, strip_response};
use super::table::Entry;
use super::{Body, Caller, Shared};
use crate::route;
use crate::upstream::{ConnectError, Upload};

impl Shared {
    /// Checks a request, finds its route and makes it ready; or gives the refusal.
    pub(super) fn receive(
        &self,
        mut request: Request<Incoming>,
        caller: &Caller,
    ) -> Result<(Request<Upload>, Call), Box<Response<Body>>> {
        let id = self.ids.identify(request.headers_mut());
        let found = sound(&request).and_then(|host| {
            started(&request, &host, &id);
            let entry = self.find(&host, caller)?;
            count_down(&mut request)?;
            Ok((entry, host))
        });
        let (entry, host) = match found {
            Ok(found) => found,
            Err(error) => {
                match error {
                    ForwardError::NoRoute => self.refused.no_route.increment(),
                    ForwardError::PolicyPending => self.refused.policy_pending.increment(),
                    ForwardError::NotServed(_) => self.refused.not_served.increment(),
                    _ => self.refused.malformed.increment(),
                }
                refused(&error, &request, &id);
                return Err(Box::new(error.answer(None, &id)));
            }
        };
        let (request, upgrade) = outgoing(request, &entry, host, caller);
        let call = Call { entry, id, upgrade };
        Ok((request, call))
    }

    fn find(&self, host: &HeaderValue, caller: &Caller) -> Result<Arc<Entry>, ForwardError> {
        let domain = caller.tunnel_domain.as_deref().or(self.domain.as_deref());
        let find = |host| self.tables.find(&caller.tunnel, host, domain);
        // Names of routes are in normal form, so a host that is found as it stands is too.
        let bare = host.to_str().map_or("", route::without_port);
        match find(bare) {
            Err(ForwardError::NoRoute) => find(&normal(host)?),
            found => found,
        }
    }
}

fn normal(host: &HeaderValue) -> Result<Cow<'_, str>, ForwardError> {
    let host = host.to_str().ok().and_then(route::normal_host);
    host.ok_or(ForwardError::Malformed("bad host"))
}

/// Refuses what two readers could understand in two ways (RFC 9112 §11.2). Gives the host asked for.
fn sound(request: &Request<Incoming>) -> Result<HeaderValue, ForwardError> {
    if request.method() == Method::CONNECT {
        return Err(ForwardError::Malformed("CONNECT is not served here"));
    }
    // It would show the caller what the way adds to a request (RFC 9110 §9.3.8).
    if request.method() == Method::TRACE {
        return Err(ForwardError::NotServed("TRACE is not served here"));
    }
    let headers = request.headers();
    let framed = lengths(headers, request.body())?;
    let coded = codings(headers, request.version())?;
    if framed && coded {
        return Err(ForwardError::Malformed(
            "both Content-Length and Transfer-Encoding",
        ));
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(ForwardError::Malformed("more than one Host"));
    }
    match (request.uri().authority(), host) {
        (None, Some(host)) => Ok(host.clone()),
        (None, None) => Err(ForwardError::Malformed("no host")),
        // HTTP/2, or the absolute form, which a proxy has to take as the host (RFC 9112 §3.2.2).
        (Some(authority), host) => {
            let asked = value(authority)?;
            if let Some(host) = host
                && normal(host)? != normal(&asked)?
            {
                return Err(ForwardError::Malformed(
                    "Host differs from the request's authority",
                ));
            }
            Ok(asked)
        }
    }
}

/// RFC 9110 §7.6.2: an OPTIONS that may go no further ends here, and any other is one hop older.
fn count_down(request: &mut Request<Incoming>) -> Result<(), ForwardError> {
    if request.method() != Method::OPTIONS {
        return Ok(());
    }
    let hops = request.headers().get(header::MAX_FORWARDS);
    let hops = hops.and_then(|hops| hops.to_str().ok()?.parse::<u32>().ok());
    let Some(hops) = hops else { return Ok(()) };
    let left = hops.checked_sub(1);
    let left = left.ok_or(ForwardError::NotServed("the proxy has no options"))?;
    let headers = request.headers_mut();
    headers.insert(header::MAX_FORWARDS, HeaderValue::from(left));
    Ok(())
}

fn value(authority: &Authority) -> Result<HeaderValue, ForwardError> {
    HeaderValue::from_str(authority.as_str()).map_err(|_| ForwardError::Malformed("bad host"))
}

/// At most one `Content-Length`, and the one that the body has.
fn lengths(headers: &HeaderMap, body: &Incoming) -> Result<bool, ForwardError> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(false);
    };
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    let exact = body.size_hint().exact();
    let stated = length.to_str().ok().and_then(|text| text.parse().ok());
    if lengths.next().is_some() || !digits || (exact.is_some() && exact != stated) {
        return Err(ForwardError::Malformed("bad Content-Length"));
    }
    Ok(true)
}

/// `chunked` and nothing else: any other coding would reach the upstream without its name.
fn codings(headers: &HeaderMap, version: Version) -> Result<bool, ForwardError> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(false);
    };
    let chunked = coding
        .as_bytes()
        .trim_ascii()
        .eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some() || !chunked || version != Version::HTTP_11 {
        return Err(ForwardError::Malformed("bad Transfer-Encoding"));
    }
    Ok(true)
}

/// The request as the upstream gets it.
fn outgoing(
    mut request: Request<Incoming>,
    entry: &Entry,
    host: HeaderValue,
    caller: &Caller,
) -> (Request<Upload>, Option<OnUpgrade>) {
    let version = request.version();
    let mut hop = strip_request(request.headers_mut());
    if version != Version::HTTP_11 {
        hop.upgrade = None;
        join_cookies(request.headers_mut());
    }
    let upgrade = hop
        .upgrade
        .is_some()
        .then(|| hyper::upgrade::on(&mut request));
    let unsized_body =
        !request.body().is_end_stream() && request.body().size_hint().exact().is_none();
    let headers = request.headers_mut();
    let authority = entry.authority.as_ref().unwrap_or(&host).clone();
    headers.insert(header::HOST, authority);
    let peer = caller.peer.map(|peer| peer.ip());
    introduce(headers, hop, host, peer, version);
    if unsized_body {
        // Said outright, since hyper would take the body off a GET otherwise.
        headers.insert(
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
    }
    if request.uri().authority().is_some() {
        let origin = request.uri().path_and_query().cloned();
        *request.uri_mut() = origin.map_or_else(Uri::default, Uri::from);
    }
    *request.version_mut() = Version::HTTP_11;
    request.extensions_mut().clear();
    (request.map(Upload::new), upgrade)
}

/// Makes the head of an upstream's answer fit to pass on.
pub(super) fn answer(parts: &mut response::Parts) -> Result<(), ForwardError> {
    let headers = &mut parts.headers;
    let coded = headers.contains_key(header::TRANSFER_ENCODING);
    if coded {
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings
            .next()
            .is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            return Err(ForwardError::Unusable("a transfer coding besides chunked"));
        }
        // It does not count beside a coding (RFC 9112 §6.3), and must not reach anyone who counts it.
        headers.remove(header::CONTENT_LENGTH);
    }
    let protocol = headers.remove(header::UPGRADE);
    strip_response(headers);
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        let protocol = protocol.ok_or(ForwardError::Unusable("a change to no protocol"))?;
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    parts.version = Version::HTTP_11;
    Ok(())
}

fn started(request: &Request<Incoming>, host: &HeaderValue, id: &HeaderValue) {
    tracing::info!(
        method = request.method().as_str(),
        host = &*without_userinfo(host.as_bytes()),
        path = request.uri().path(),
        request_id = id.to_str().unwrap_or_default(),
        "request started"
    );
}

fn refused(error: &ForwardError, request: &Request<Incoming>, id: &HeaderValue) {
    let host = request
        .headers()
        .get(header::HOST)
        .map(HeaderValue::as_bytes);
    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = without_userinfo(authority.or(host).unwrap_or_default());
    let request_id = id.to_str().unwrap_or_default();
    match error {
        ForwardError::NoRoute => tracing::warn!(%host, request_id, "no route for host"),
        error => tracing::warn!(%host, request_id, %error, "request refused"),
    }
}

/// What stands before an `@` may be a password, and is never logged.
fn without_userinfo(host: &[u8]) -> Cow<'_, str> {
    let host = host.rsplit(|byte| *byte == b'@').next();
    String::from_utf8_lossy(host.unwrap_or_default())
}

pub(super) fn log(error: &ForwardError, entry: &Entry, id: &HeaderValue) {
    let request_id = id.to_str().unwrap_or_default();
    let (route, reason) = (entry.name(), error.reason());
    if let ForwardError::Unreachable(ConnectError::NotAllowed(refused)) = error {
        let add = refused.line();
        tracing::error!(request_id, route, reason, error = %refused, add, "upstream address refused");
    } else {
        tracing::warn!(request_id, route, reason, error = %Chain(error), "answered in the upstream's place");
    }
}
