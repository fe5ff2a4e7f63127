//! Names of hosts: which are well formed, which cover which, which a CA may certify.

use crate::extensions::NameConstraints;

/// RFC 1035 §2.3.4.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// Letters, digits and inner hyphens (RFC 1123 §2.1), no wildcard, no root dot.
pub(crate) fn is_host(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LONGEST_LABEL).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    name.len() <= LONGEST_NAME && name.split('.').all(is_label)
}

/// A host, or `*.` before one (RFC 9525 §6.3).
pub(crate) fn is_host_or_wildcard(name: &str) -> bool {
    name.len() <= LONGEST_NAME && is_host(name.strip_prefix("*.").unwrap_or(name))
}

impl NameConstraints {
    /// Whether a CA so constrained may certify `name` (RFC 5280 §4.2.1.10). A wildcard stands for
    /// everything that it matches: all of it must be permitted and none of it excluded.
    pub(crate) fn allow(&self, name: &str) -> bool {
        let wildcard = name.strip_prefix("*.");
        let name = wildcard.unwrap_or(name);
        let permitted =
            self.permitted.is_empty() || self.permitted.iter().any(|base| is_within(name, base));
        let excluded = self
            .excluded
            .iter()
            .any(|base| is_within(name, base) || wildcard.is_some() && is_within(base, name));
        permitted && !excluded
    }
}

/// `name` is `base` or ends with it after a dot; the empty base has everything.
fn is_within(name: &str, base: &str) -> bool {
    let base = base.strip_prefix('.').unwrap_or(base);
    let (name, base) = (name.to_ascii_lowercase(), base.to_ascii_lowercase());
    base.is_empty()
        || name
            .strip_suffix(&base)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_letters_digits_and_inner_hyphens() {
        for good in [
            "localhost",
            "a-b.c9",
            "xn--bcher-kva.example",
            &"a".repeat(63),
        ] {
            assert!(is_host(good), "{good}");
        }
        let long_name = ["a".repeat(63).as_str(); 4].join(".");
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a b",
            "*.a",
            "ü",
            "a_b",
            &"a".repeat(64),
            &long_name,
        ] {
            assert!(!is_host(bad), "{bad}");
        }
        assert!(
            is_host_or_wildcard("*.a.b")
                && !is_host_or_wildcard("*")
                && !is_host_or_wildcard("a.*")
        );
    }

    #[test]
    fn a_constraint_permits_itself_and_all_below_it_and_nothing_else() {
        let constraints = NameConstraints {
            permitted: vec!["tunnel.example".to_owned()],
            excluded: vec!["secret.tunnel.example".to_owned()],
        };
        for good in [
            "tunnel.example",
            "a.tunnel.example",
            "A.Tunnel.Example",
            "*.b.tunnel.example",
        ] {
            assert!(constraints.allow(good), "{good}");
        }
        for bad in [
            "example",
            "xtunnel.example",
            "a.secret.tunnel.example",
            "*.tunnel.example",
            "*.example",
        ] {
            assert!(!constraints.allow(bad), "{bad}");
        }
        assert!(NameConstraints::default().allow("anything"));
    }
}
