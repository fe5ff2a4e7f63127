//! Signature Version 4 of AWS, for what is sent here: a form, posted to the root of a service.
//!
//! By hand, because the published crate brings 24 packages for these lines, a second implementation of SHA-2 among them
//! (`docs/decisions/0006`).

use std::fmt::Write;
use std::time::SystemTime;

use aws_lc_rs::{digest, hmac};
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::Secret;
use crate::http::FORM;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// With what a request is signed.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) id: String,
    pub(super) secret: Secret,
    /// With temporary credentials; sent as `X-Amz-Security-Token`.
    pub(super) session: Option<Secret>,
}

pub(super) struct Request<'a> {
    /// As the header `Host` has it.
    pub(super) host: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) body: &'a [u8],
}

/// Headers to be sent.
pub(super) struct Signed {
    pub(super) authorization: String,
    /// `X-Amz-Date`.
    pub(super) date: String,
}

/// `None`: the year has not four digits.
pub(super) fn sign(request: &Request<'_>, keys: &Keys, now: SystemTime) -> Option<Signed> {
    let date = date(now)?;
    let mut headers = vec![
        ("content-type", FORM),
        ("host", request.host),
        ("x-amz-date", &date),
    ];
    let session = keys.session.as_ref();
    headers.extend(session.map(|token| ("x-amz-security-token", token.expose())));
    let authorization = authorization("POST", &headers, request, keys, &date);
    Some(Signed {
        authorization,
        date,
    })
}

/// `headers`: names in lower case and in order.
fn authorization(
    verb: &str,
    headers: &[(&str, &str)],
    request: &Request<'_>,
    keys: &Keys,
    date: &str,
) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    let lines = Zeroizing::new(lines.concat());
    let body = hash(request.body);
    let canonical = Zeroizing::new(format!("{verb}\n/\n\n{}\n{names}\n{body}", lines.as_str()));
    let day = date.get(..8).unwrap_or_default();
    let scope = format!("{day}/{}/{}/aws4_request", request.region, request.service);
    let text = format!(
        "{ALGORITHM}\n{date}\n{scope}\n{}",
        hash(canonical.as_bytes())
    );
    let first = Zeroizing::new(format!("AWS4{}", keys.secret.expose()));
    let parts = [day, request.region, request.service, "aws4_request", &text];
    let mut key = Zeroizing::new(first.as_bytes().to_vec());
    for part in parts {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes());
        key = Zeroizing::new(tag.as_ref().to_vec());
    }
    format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        keys.id,
        hexadecimal(&key)
    )
}

fn date(now: SystemTime) -> Option<String> {
    let at = OffsetDateTime::from(now);
    let year = at.year();
    (0..=9999).contains(&year).then(|| {
        format!(
            "{year:04}{:02}{:02}T{:02}{:02}{:02}Z",
            u8::from(at.month()),
            at.day(),
            at.hour(),
            at.minute(),
            at.second()
        )
    })
}

fn hash(octets: &[u8]) -> String {
    hexadecimal(digest::digest(&digest::SHA256, octets).as_ref())
}

fn hexadecimal(octets: &[u8]) -> String {
    octets.iter().fold(String::new(), |mut text, octet| {
        write!(text, "{octet:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assertion::tests::at;

    /// Of AWS's signing test suite, all of it.
    const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

    fn keys() -> Keys {
        Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session: None,
        }
    }

    #[test]
    fn the_published_signatures_come_out() {
        let when = at(1_440_938_160);
        let date = date(when).unwrap();
        assert_eq!(date, "20150830T123600Z");
        let host = ("host", "example.amazonaws.com");
        let when = ("x-amz-date", date.as_str());
        let form = ("content-type", FORM);
        for (name, verb, headers, body, wanted) in [
            (
                "get-vanilla",
                "GET",
                vec![host, when],
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "post-vanilla",
                "POST",
                vec![host, when],
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                "POST",
                vec![
                    ("content-length", "13"),
                    form,
                    host,
                    (
                        "x-amz-content-sha256",
                        "9095672bbd1f56dfc5b65f3e153adc8731a4a654192329106275f4c7b24d0b6e",
                    ),
                    when,
                ],
                "Param1=value1",
                "d3875051da38690788ef43de4db0d8f280229d82040bfac253562e56c3f20e0b",
            ),
            (
                "post-sts-header-before",
                "POST",
                vec![host, when, ("x-amz-security-token", TOKEN)],
                "",
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ] {
            let request = Request {
                host: host.1,
                region: "us-east-1",
                service: "service",
                body: body.as_bytes(),
            };
            let said = authorization(verb, &headers, &request, &keys(), &date);
            let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
            let begin = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={}, ",
                names.join(";")
            );
            assert_eq!(said, format!("{begin}Signature={wanted}"), "{name}");
        }
    }
}
