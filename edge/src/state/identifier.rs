//! Ids: a prefix that says what they name, then 120 random bits.

use aws_lc_rs::rand;

/// Crockford's base 32 in small letters: no `i`, `l`, `o`, `u`, so that an id can be read out, and all
/// of it may stand in a DNS name.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LETTERS: usize = 24;

/// What an id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identifier {
    /// A tunnel.
    Tunnel,
    /// A tunnel token.
    Token,
    /// A shared secret.
    Secret,
    /// A registered CA certificate.
    Certificate,
    /// An issuer of identity tokens.
    Issuer,
    /// A federation rule.
    Rule,
    /// A request.
    Request,
}

impl Identifier {
    /// What such an id begins with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Tunnel => "tnl_",
            Self::Token => "ttok_",
            Self::Secret => "tsec_",
            Self::Certificate => "tcrt_",
            Self::Issuer => "fdis_",
            Self::Rule => "fdrl_",
            Self::Request => "req_",
        }
    }

    /// Whether `text` has the form of such an id; there need be no such thing.
    pub fn fits(self, text: &str) -> bool {
        text.strip_prefix(self.prefix()).is_some_and(|rest| {
            (1..=64).contains(&rest.len()) && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    }
}

/// A new id.
pub fn random_identifier(of: Identifier) -> String {
    format!("{}{}", of.prefix(), random_letters())
}

/// 120 random bits as 24 letters.
pub(super) fn random_letters() -> String {
    let mut octets = [0; LETTERS];
    rand::fill(&mut octets).expect("AWS-LC aborts when it has no randomness");
    octets
        .iter()
        .filter_map(|octet| ALPHABET.get(usize::from(octet & 31)).copied())
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_it_names() {
        let id = random_identifier(Identifier::Tunnel);
        assert!(Identifier::Tunnel.fits(&id), "{id}");
        assert!(!Identifier::Certificate.fits(&id));
        assert_ne!(id, random_identifier(Identifier::Tunnel));
        for bad in [
            "tnl_",
            "tnl_a-b",
            "tnl_../x",
            "",
            &format!("tnl_{}", "a".repeat(65)),
        ] {
            assert!(!Identifier::Tunnel.fits(bad), "{bad}");
        }
    }
}
