//! The texts that a configuration is made of: durations, addresses, networks, upstreams, names.
//!
//! Pure; each function takes text and gives a value that cannot be wrong, or says why not.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

/// Reads a duration as Go writes it: `30s`, `1m30s`, `1.5h`, `250ms`, `0`. Never negative.
///
/// # Errors
///
/// The reason, to be put behind the key.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err("is empty");
    }
    let (mut rest, mut total) = (text, 0f64);
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or("has no unit")?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let number: f64 = number.parse().map_err(|_| "is not a duration")?;
        total += number * seconds(unit).ok_or("has an unknown unit")?;
        rest = tail;
    }
    // Whole nanoseconds, so that what is printed reads back as the same value.
    Duration::try_from_secs_f64((total * 1e9).round() / 1e9).map_err(|_| "is too long")
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

/// Writes a duration so that [`duration`] reads it back.
pub fn write_duration(value: Duration) -> String {
    let (whole, nanos) = (value.as_secs(), value.subsec_nanos());
    if nanos != 0 {
        return if nanos % 1_000_000 == 0 {
            format!("{}ms", value.as_millis())
        } else {
            format!("{}ns", value.as_nanos())
        };
    }
    let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
    let mut text = String::new();
    for (count, unit) in [(hours, 'h'), (minutes, 'm'), (seconds, 's')] {
        if count != 0 {
            text.push_str(&count.to_string());
            text.push(unit);
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// Reads `HOST:PORT`, where an empty host means every address of both families, as in Go. `host`
/// may be an address, in brackets for IPv6, or `localhost`.
pub fn listen_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port_number(port)?;
    let ip = match host {
        "" => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(host) => IpAddr::V6(host.parse().ok()?),
            None => IpAddr::V4(host.parse().ok()?),
        },
    };
    Some(SocketAddr::new(ip, port))
}

/// A port in decimal, without sign; 0 means that the system chooses.
fn port_number(text: &str) -> Option<u16> {
    let decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    decimal.then(|| text.parse().ok()).flatten()
}

/// Reads a network in CIDR notation, or one address.
pub fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        // A network with host bits is a slip of the pen, but one that means something.
        Ok(network) => Some(network.trunc()),
        Err(_) => text.parse::<IpAddr>().ok().map(IpNet::from),
    }
}

/// Where an upstream is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// `https`, not `http`.
    pub tls: bool,
    /// Name, IPv4 address, or IPv6 address without brackets; lower case.
    pub host: Box<str>,
    /// Never 0.
    pub port: u16,
}

impl Target {
    /// Reads `scheme://host:port`: the port is mandatory, a path is refused, and so is everything
    /// else that a URL may have.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let (host, port) = authority.rsplit_once(':')?;
        let port = port_number(port).filter(|port| *port != 0)?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().ok()?.to_string(),
            None if is_name(host) => host.to_ascii_lowercase(),
            None => return None,
        };
        Some(Self {
            tls,
            host: host.into(),
            port,
        })
    }

    /// `host:port` as it stands in a `Host` header; a default port is left out (RFC 9110 §4.2.3).
    pub fn authority(&self) -> String {
        let mut text = self.address();
        if self.port == if self.tls { 443 } else { 80 } {
            text.truncate(text.rfind(':').unwrap_or(text.len()));
        }
        text
    }

    /// `host:port`, as it is dialled.
    fn address(&self) -> String {
        let bracketed = self.host.contains(':');
        let (open, close) = if bracketed { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }
}

/// As [`parse`](Target::parse) reads it, for logs and metrics.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.address())
    }
}

/// Reads `<tunnel-domain>`: lower case, without a dot at either end.
pub fn domain(text: &str) -> Option<String> {
    let name = text.trim_start_matches('.').trim_end_matches('.');
    is_name(name).then(|| name.to_ascii_lowercase())
}

/// Whether `text` may be a host name or an IPv4 address: letters, digits, `-`, `_` and single dots.
/// Underscores are no host names in RFC 1123, but Compose service names have them.
pub fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("2h45m", 9_900_000),
            ("0", 0),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("3us"), Ok(Duration::from_micros(3)));
        for bad in [
            "",
            "30",
            "s",
            "-5s",
            "5 s",
            "1d",
            "1.2.3s",
            "s5",
            "1e9s",
            "∞",
            "999999999999999999999h",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_written_duration_reads_back_as_the_same() {
        for nanos in [
            0,
            1,
            1_500,
            250_000_000,
            90_000_000_000,
            5_400_000_000_000,
            3_601_000_000_000,
        ] {
            let value = Duration::from_nanos(nanos);
            assert_eq!(duration(&write_duration(value)), Ok(value));
        }
    }

    #[test]
    fn listen_addresses_read_as_in_go() {
        for (text, expected) in [
            (":8080", "[::]:8080"),
            ("0.0.0.0:8080", "0.0.0.0:8080"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("[::1]:443", "[::1]:443"),
            ("localhost:9464", "127.0.0.1:9464"),
        ] {
            assert_eq!(
                listen_address(text),
                Some(expected.parse().unwrap()),
                "{text}"
            );
        }
        for bad in [
            "8080",
            "",
            ":",
            ":99999",
            "::1:80",
            "example.com:80",
            ":+80",
            "[1.2.3.4]:80",
        ] {
            assert_eq!(listen_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_upstream_is_scheme_host_and_port_and_nothing_else() {
        for (text, authority) in [
            ("http://docs:8000", "docs:8000"),
            ("http://docs:443", "docs:443"),
            ("http://docs.example:80", "docs.example"),
            ("https://10.0.0.1:443", "10.0.0.1"),
            ("https://[fd00::1]:443", "[fd00::1]"),
            ("https://[fd00::1]:8443", "[fd00::1]:8443"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!(target.authority(), authority, "{text}");
            assert_eq!(target.to_string(), text, "its port is always written");
        }
        let shouted = Target::parse("HTTP://Docs.Example:80").unwrap();
        assert_eq!(shouted.to_string(), "http://docs.example:80");
        for bad in [
            "docs:8000",
            "http://docs",
            "http://docs:8000/",
            "http://docs:8000/mcp",
            "http://docs:0",
            "http://docs:70000",
            "http://:80",
            "http://user@docs:80",
            "http://docs:80?x=1",
            "http://docs:80#x",
            "ftp://docs:80",
            "http://fd00::1:80",
            "http://[docs]:80",
            "http://do cs:80",
            "http://docs.:80",
            "",
        ] {
            assert_eq!(Target::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn networks_and_single_addresses_are_read() {
        for (text, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("fd00::1", "fd00::1/128"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(network(text), Some(expected.parse().unwrap()), "{text}");
        }
        assert_eq!(network("10.0.0.0/33"), None);
        assert_eq!(network("localhost"), None);
    }
}
