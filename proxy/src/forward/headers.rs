//! Which headers go on and which end here: RFC 9110 §7.6, and what tells the upstream who asked.
//!
//! `X-Forwarded-*` is ours to say: whatever the caller wrote there is replaced. `X-Forwarded-For` is
//! the peer's address as the carrier knows it and is left out where no carrier knows one: a guess is
//! worse than nothing. `Authorization`, `WWW-Authenticate`, `Mcp-*` and `Last-Event-ID` are the two
//! ends' business and pass as they are.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue};

pub(super) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Longer ids would fill logs; 128 printable characters are more than any scheme in use needs.
const LONGEST_REQUEST_ID: usize = 128;

/// What the hop from the caller asked for that the hop to the upstream must be told anew.
#[derive(Clone, Debug, Default)]
pub(super) struct Hop {
    /// Another protocol, with `Connection: upgrade`.
    pub(super) upgrade: Option<HeaderValue>,
    /// The caller takes trailers.
    pub(super) trailers: bool,
}

/// Takes out of a request what concerns only the connection that it came on, and every claim about
/// who forwarded it.
pub(super) fn strip_request(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    let (mut connection, mut claims) = (false, false);
    for name in headers.keys() {
        if *name == header::CONNECTION {
            connection = true;
        } else if *name == header::TE {
            hop.trailers = true;
        } else {
            claims |= is_claim(name);
        }
    }
    if hop.trailers {
        hop.trailers = lists(headers, &header::TE, "trailers");
        headers.remove(header::TE);
    }
    if connection {
        if lists(headers, &header::CONNECTION, "upgrade") {
            hop.upgrade = headers.remove(header::UPGRADE).filter(is_passable);
        }
        strip_connection(headers);
    }
    if claims {
        let claimed: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_claim(name))
            .cloned()
            .collect();
        for name in claimed {
            headers.remove(name);
        }
    }
    strip_fixed(headers);
    headers.remove(header::PROXY_AUTHORIZATION);
    hop
}

/// Takes out of an answer what concerns only the connection to the upstream.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        strip_connection(headers);
    }
    strip_fixed(headers);
    headers.remove(header::PROXY_AUTHENTICATE);
}

fn strip_fixed(headers: &mut HeaderMap) {
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
}

/// Removes `Connection` and what it names; what frames or routes a message cannot be named.
fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
}

/// A change to HTTP/2 would let requests through that nobody looks at (RFC 9113 removed it).
fn is_passable(upgrade: &HeaderValue) -> bool {
    !tokens(upgrade).any(|name| name.eq_ignore_ascii_case("h2c"))
}

/// Only a proxy may say these.
fn is_claim(name: &HeaderName) -> bool {
    *name == header::FORWARDED || {
        let name = name.as_str();
        name.starts_with("x-forwarded-") || name == "x-real-ip"
    }
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let mut tokens = headers.get_all(name).iter().flat_map(tokens);
    tokens.any(|token| token.eq_ignore_ascii_case(wanted))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &str> {
    let text = value.to_str().unwrap_or_default();
    text.split(',')
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// Tells the upstream what the caller asked for and how it came.
pub(super) fn introduce(
    headers: &mut HeaderMap,
    hop: Hop,
    host: HeaderValue,
    peer: Option<IpAddr>,
) {
    headers.insert(&X_FORWARDED_HOST, host);
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Some(value) = peer.and_then(|ip| Text::of(format_args!("{}", ip.to_canonical()))) {
        headers.insert(&X_FORWARDED_FOR, value);
    }
    if let Some(protocol) = hop.upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else if hop.trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// HTTP/2 may send a cookie in crumbs, HTTP/1.1 may not (RFC 9113 §8.2.3).
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(header::COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = crumbs.iter().map(HeaderValue::as_bytes).collect();
    if let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, whole);
    }
}

/// Makes ids for requests that came without: unique, and not to be guessed from one another.
#[derive(Debug, Default)]
pub(super) struct Ids {
    key: RandomState,
    next: AtomicU64,
}

impl Ids {
    /// The request's `X-Request-Id` and its W3C `traceparent`, kept or made.
    pub(super) fn identify(&self, headers: &mut HeaderMap) -> HeaderValue {
        let kept = headers
            .get(&X_REQUEST_ID)
            .filter(|id| is_sound_id(id))
            .cloned();
        let trace = !headers.contains_key(&TRACEPARENT);
        if !trace && let Some(id) = kept {
            return id;
        }
        let number = self.next.fetch_add(2, Ordering::Relaxed);
        let (high, low) = (self.key.hash_one(number), self.key.hash_one(number + 1));
        if trace {
            // Not sampled: we record nothing. An all-zero id is invalid, hence the ones.
            let span = (high ^ low.rotate_left(32)) | 1;
            let text = format_args!("00-{high:016x}{:016x}-{span:016x}-00", low | 1);
            if let Some(value) = Text::of(text) {
                headers.insert(&TRACEPARENT, value);
            }
        }
        kept.unwrap_or_else(|| {
            let made = Text::of(format_args!("{high:016x}"));
            let id = made.unwrap_or(HeaderValue::from_static("-"));
            headers.insert(&X_REQUEST_ID, id.clone());
            id
        })
    }
}

fn is_sound_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    !id.is_empty() && id.len() <= LONGEST_REQUEST_ID && id.iter().all(u8::is_ascii_graphic)
}

/// A short text on the stack, so that a header costs one allocation and not two.
struct Text {
    bytes: [u8; 64],
    length: usize,
}

impl Text {
    fn of(text: std::fmt::Arguments<'_>) -> Option<HeaderValue> {
        let mut this = Self {
            bytes: [0; 64],
            length: 0,
        };
        this.write_fmt(text).ok()?;
        HeaderValue::from_bytes(this.bytes.get(..this.length)?).ok()
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self
            .bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}
