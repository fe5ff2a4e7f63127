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
use http::{HeaderMap, HeaderValue, Version};

use crate::token::{lists, tokens};

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

/// Which of the headers that end here a message has. One pass over the names is cheaper than asking
/// for each, since most messages have none or one.
#[derive(Clone, Copy, Default)]
struct Found {
    connection: bool,
    /// One that only a proxy may say.
    claim: bool,
    /// Any other that ends here.
    fixed: bool,
}

impl Found {
    fn among(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for name in headers.keys() {
            match *name {
                header::CONNECTION => found.connection = true,
                header::FORWARDED => found.claim = true,
                header::TE
                | header::TRANSFER_ENCODING
                | header::UPGRADE
                | header::PROXY_AUTHENTICATE
                | header::PROXY_AUTHORIZATION => found.fixed = true,
                _ => {
                    found.claim |= is_claim(name);
                    found.fixed |= *name == KEEP_ALIVE || *name == PROXY_CONNECTION;
                }
            }
        }
        found
    }
}

/// Takes out of a request what concerns only the connection that it came on, and every claim about
/// who forwarded it.
pub(super) fn strip_request(headers: &mut HeaderMap) -> Hop {
    let found = Found::among(headers);
    let mut hop = Hop::default();
    if found.fixed {
        hop.trailers = lists(headers, &header::TE, "trailers");
    }
    if found.connection {
        if found.fixed && lists(headers, &header::CONNECTION, "upgrade") {
            hop.upgrade = headers.remove(header::UPGRADE).filter(is_passable);
        }
        strip_connection(headers);
    }
    if found.claim {
        let claims = headers.keys().filter(|name| is_claim(name));
        let claims: Vec<HeaderName> = claims.cloned().collect();
        for name in claims {
            headers.remove(name);
        }
    }
    if found.fixed {
        strip_fixed(headers);
        headers.remove(header::PROXY_AUTHORIZATION);
    }
    hop
}

/// Takes out of an answer what concerns only the connection to the upstream.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    let found = Found::among(headers);
    if found.connection {
        strip_connection(headers);
    }
    if found.fixed {
        strip_fixed(headers);
        headers.remove(header::PROXY_AUTHENTICATE);
    }
}

/// Gives each value bytes of its own. As hyper reads it, it is a part of the buffer that it came in, of up to 400 KiB, which
/// lives as long as any part: in HTTP/2, whose table of fields (RFC 7541 section 2.3.2) remembers values, as long as the
/// caller's connection.
pub(crate) fn detach(headers: &mut HeaderMap) {
    for value in headers.values_mut() {
        if let Ok(own) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = own;
        }
    }
}

fn strip_fixed(headers: &mut HeaderMap) {
    headers.remove(header::TE);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
}

/// Removes `Connection` and what it names; what frames or routes a message cannot be named.
fn strip_connection(headers: &mut HeaderMap) {
    let mut values = headers.get_all(header::CONNECTION).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    if values.next().is_none() && matches!(first, Some(b"keep-alive" | b"close")) {
        // What nearly everybody says, and it names nothing.
        headers.remove(header::CONNECTION);
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .filter(|name| !matches!(*name, header::HOST | header::CONTENT_LENGTH))
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
}

/// A change to HTTP/2 would let requests through that nobody looks at (RFC 9113 removed it).
fn is_passable(upgrade: &HeaderValue) -> bool {
    !tokens(upgrade).any(|name| name.eq_ignore_ascii_case(b"h2c"))
}

/// Only a proxy may say these.
fn is_claim(name: &HeaderName) -> bool {
    let text = name.as_str();
    text.starts_with("x-forwarded-") || text == "x-real-ip" || *name == header::FORWARDED
}

/// Tells the upstream what the caller asked for and how it came.
pub(super) fn introduce(
    headers: &mut HeaderMap,
    hop: Hop,
    host: HeaderValue,
    peer: Option<IpAddr>,
    version: Version,
) {
    headers.append(header::VIA, via(version));
    headers.insert(&X_FORWARDED_HOST, host);
    headers.insert(&X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Some(value) = peer.and_then(address) {
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

/// RFC 9110 §7.6.3: in which version the request came, and to whom, by a name that says nothing of the
/// inside.
fn via(version: Version) -> HeaderValue {
    HeaderValue::from_static(match version {
        Version::HTTP_2 => "2.0 keyward",
        Version::HTTP_10 => "1.0 keyward",
        _ => "1.1 keyward",
    })
}

fn address(ip: IpAddr) -> Option<HeaderValue> {
    let mut text = Text::<45>::default();
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            for (index, octet) in ip.octets().into_iter().enumerate() {
                if index > 0 {
                    text.push(b'.');
                }
                text.decimal(octet);
            }
        }
        IpAddr::V6(ip) => write!(text, "{ip}").ok()?,
    }
    text.value()
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

/// Makes ids for requests that came without: unique, and spread over all values.
#[derive(Debug)]
pub(super) struct Ids {
    /// Where this process begins.
    seed: u64,
    next: AtomicU64,
}

impl Default for Ids {
    fn default() -> Self {
        Self {
            // The one source of randomness in the standard library.
            seed: RandomState::new().hash_one(0),
            next: AtomicU64::new(0),
        }
    }
}

impl Ids {
    /// The request's `X-Request-Id` and its W3C `traceparent`, kept or made.
    pub(super) fn identify(&self, headers: &mut HeaderMap) -> HeaderValue {
        if !headers.contains_key(&TRACEPARENT) {
            headers.insert(&TRACEPARENT, self.traceparent());
        }
        let kept = headers.get(&X_REQUEST_ID).filter(|id| is_sound_id(id));
        if let Some(id) = kept {
            return id.clone();
        }
        let mut text = Text::<16>::default();
        text.hexadecimal(self.next());
        let id = text.value().unwrap_or(HeaderValue::from_static("-"));
        headers.insert(&X_REQUEST_ID, id.clone());
        id
    }

    /// Version 0, not sampled, since we record nothing. An all-zero id is invalid, hence the ones.
    fn traceparent(&self) -> HeaderValue {
        let mut text = Text::<55>::default();
        text.bytes(b"00-");
        text.hexadecimal(self.next());
        text.hexadecimal(self.next() | 1);
        text.push(b'-');
        text.hexadecimal(self.next() | 1);
        text.bytes(b"-00");
        text.value().unwrap_or(HeaderValue::from_static("-"))
    }

    /// `SplitMix64` (Steele, Lea, Flood 2014): visits every value once.
    fn next(&self) -> u64 {
        let step = self.next.fetch_add(GOLDEN, Ordering::Relaxed);
        let z = self.seed.wrapping_add(step);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// 2⁶⁴ divided by the golden ratio, odd.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn is_sound_id(id: &HeaderValue) -> bool {
    let id = id.as_bytes();
    !id.is_empty() && id.len() <= LONGEST_REQUEST_ID && id.iter().all(u8::is_ascii_graphic)
}

/// A short text on the stack, so that a header costs one allocation and no formatting machinery.
struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
        }
    }
}

impl<const N: usize> Text<N> {
    /// What does not fit is left out, and [`value`](Self::value) says so.
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
        }
        self.length += 1;
    }

    fn bytes(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(bytes);
        }
        self.length = end;
    }

    fn decimal(&mut self, number: u8) {
        if number >= 100 {
            self.push(b'0' + number / 100);
        }
        if number >= 10 {
            self.push(b'0' + number / 10 % 10);
        }
        self.push(b'0' + number % 10);
    }

    fn hexadecimal(&mut self, number: u64) {
        let mut digits = [0; 16];
        let mut rest = number;
        for digit in digits.iter_mut().rev() {
            let value = (rest & 15) as u8;
            *digit = value + if value < 10 { b'0' } else { b'a' - 10 };
            rest >>= 4;
        }
        self.bytes(&digits);
    }

    fn value(&self) -> Option<HeaderValue> {
        HeaderValue::from_bytes(self.bytes.get(..self.length)?).ok()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.bytes(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_detached_value_says_the_same_and_keeps_nothing_else() {
        let came_in = Bytes::from(b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-b: \xff\t2\r\n\r\n".to_vec());
        let part = |from, to| HeaderValue::from_maybe_shared(came_in.slice(from..to)).unwrap();
        let name = HeaderName::from_static;
        let mut headers = HeaderMap::new();
        headers.append(name("x-a"), part(22, 23));
        headers.append(name("x-a"), part(0, 0));
        headers.append(name("x-b"), part(30, 33));
        let before = headers.clone();
        detach(&mut headers);
        assert_eq!(headers, before);
        drop(before);
        assert!(came_in.is_unique());
    }
}
