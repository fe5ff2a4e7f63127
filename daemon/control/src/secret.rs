//! A string that must not be seen.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Key material or a token in transit: erased when dropped, silent in `Debug`, without `Display`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(Zeroed);

#[derive(Clone, PartialEq, Eq)]
struct Zeroed(Zeroizing<String>);

impl Secret {
    /// Wraps `value`; the caller's own copy, if it kept one, is the caller's to erase.
    pub fn new(value: String) -> Self {
        Self(Zeroed(Zeroizing::new(value)))
    }

    /// The value itself. Named so that a reviewer can search for every place where a secret is read.
    pub fn expose(&self) -> &str {
        &self.0.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Serialize for Zeroed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Zeroed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|value| Self(Zeroizing::new(value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing_of_the_value() {
        let shown = format!("{:?}", Secret::new("canary".to_owned()));
        assert_eq!(shown, "Secret(..)");
    }
}
