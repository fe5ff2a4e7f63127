//! The form of a token that cloudflared takes: base64 of `{"a": account, "t": tunnel, "s": secret}`.

use control::Secret;
use serde::Deserialize;
use zeroize::Zeroizing;

#[derive(Deserialize)]
struct Form {
    #[serde(rename = "a")]
    _account: String,
    #[serde(rename = "t")]
    _tunnel: String,
    #[serde(rename = "s")]
    _secret: Secret,
}

/// Whether cloudflared would take it. A process that does not is of no use, and a good one would be ended for it.
pub(crate) fn is_well_formed(token: &str) -> bool {
    let plain = |letter: char| match letter {
        '+' => '-',
        '/' => '_',
        other => other,
    };
    let text: Zeroizing<String> =
        Zeroizing::new(token.trim_end_matches('=').chars().map(plain).collect());
    let decoded = process::base64::decode_url(&text).map(Zeroizing::new);
    decoded.is_some_and(|bytes| serde_json::from_slice::<Form>(&bytes).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_form_is_known_from_anything_else() {
        // {"a":"acc","t":"8f2c","s":"c2VjcmV0+/"} with and without padding.
        for good in [
            "eyJhIjoiYWNjIiwidCI6IjhmMmMiLCJzIjoiYzJWamNtVjArLyJ9",
            "eyJhIjoiYSIsInQiOiJ0IiwicyI6InMifQ==",
        ] {
            assert!(is_well_formed(good), "{good}");
        }
        for bad in ["", "secret", "e30=", "eyJhIjoiYSJ9", "tok en", "eyJhIjoi"] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
