//! Which addresses are called at all, and in which way.

use std::net::IpAddr;

use super::Url;

/// Whether calls to `url` are made: by `https`, or by `http` to this machine.
///
/// # Errors
///
/// What is wrong with it, without the URL.
pub fn check_url(url: &str) -> Result<(), &'static str> {
    parse(url).map(|_| ())
}

/// Host and port that `url` leads to; none if it is no URL.
pub(crate) fn leads_to(url: &str) -> Option<(String, u16)> {
    let url = Url::parse(url).ok()?;
    let host = url
        .host_str()?
        .trim_start_matches('[')
        .trim_end_matches(']');
    Some((host.to_owned(), url.port_or_known_default()?))
}

/// The header `Host` of a request to `url`.
pub(crate) fn host_header(url: &str) -> Option<String> {
    Url::parse(url).ok().map(|url| place(&url))
}

pub(super) fn parse(url: &str) -> Result<Url, &'static str> {
    let url = bare(url)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if url.host_str().is_some_and(is_this_machine) => Ok(url),
        "http" => Err("a token would be sent in plain text; write https"),
        _ => Err("write https"),
    }
}

pub(super) fn parse_near(url: &str) -> Result<Url, &'static str> {
    let url = bare(url)?;
    let near = |host: &str| is_this_machine(host) || is_metadata(host);
    if url.scheme() == "http" && url.host_str().is_some_and(near) {
        return Ok(url);
    }
    Err("plain HTTP goes to this machine and to its cloud's link-local addresses alone")
}

fn bare(url: &str) -> Result<Url, &'static str> {
    let url = Url::parse(url).map_err(|_| "it is no URL such as https://api.example.com")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("take user and password out of it");
    }
    url.host_str().ok_or("it has no host")?;
    Ok(url)
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Link-local addresses (RFC 3927, RFC 4291 §2.5.6), the IPv6 ones of Amazon and Google, and the one name.
fn is_metadata(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(IpAddr::V4(ip)) => ip.is_link_local(),
        Ok(IpAddr::V6(ip)) => {
            let known = matches!(ip.segments(), [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..]);
            known || ip.is_unicast_link_local()
        }
        Err(_) => host == "metadata.google.internal",
    }
}

pub(super) fn place(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_goes_in_plain_text_to_this_machine_alone() {
        for url in [
            "https://api.example.com",
            "http://127.0.0.1:80/x",
            "http://[::1]:1",
            "http://localhost:8080",
        ] {
            assert_eq!(check_url(url), Ok(()), "{url}");
        }
        for url in [
            "http://api.example.com",
            "http://127.0.0.1.example.com",
            "http://localhost.example.com",
            "ftp://127.0.0.1",
            "api.example.com",
            "https://user:secret@api.example.com",
        ] {
            let why = check_url(url).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
    }

    #[test]
    fn plain_http_goes_beside_this_machine_and_not_further() {
        for url in [
            "http://169.254.169.254/x",
            "http://169.254.170.23:80",
            "http://[fd00:ec2::254]/",
            "http://[fd20:ce::254]",
            "http://metadata.google.internal/",
            "http://127.0.0.1:8080",
            "http://localhost:42356/msi/token",
        ] {
            assert!(parse_near(url).is_ok(), "{url}");
        }
        for url in [
            "http://10.0.0.1/",
            "http://169.254.169.254.example.com",
            "http://metadata.google.internal.example.com",
            "http://[fd00:ec3::254]/",
            "https://169.254.169.254/",
            "http://u:p@169.254.169.254/",
            "169.254.169.254",
        ] {
            assert!(parse_near(url).is_err(), "{url}");
        }
        assert!(check_url("http://169.254.169.254/").is_err());
    }
}
