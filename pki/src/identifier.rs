//! The two numbers that name a certificate: the serial that its CA gave it, and the digest of it.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::{digest, rand};
use thiserror::Error;

/// Octets of a serial number that we draw: 126 random bits, far above the 64 that CAs owe.
const DRAWN: usize = 16;
/// RFC 5280 §4.1.2.2: at most 20 octets, the sign bit counted.
const LONGEST: usize = 20;

/// Serial number of a certificate: positive, at most 20 octets (RFC 5280 §4.1.2.2).
///
/// Written as lower-case hexadecimal, two digits an octet, no leading zero octet.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Draws one with 126 random bits. Each certificate gets its own: never the digest of the key,
    /// which repeats when a key is certified twice.
    ///
    /// # Panics
    ///
    /// Never: the generator of AWS-LC ends the process rather than fail.
    pub fn random() -> Self {
        let mut octets = [0; DRAWN];
        rand::fill(&mut octets).expect("AWS-LC aborts when it has no randomness");
        // The sign bit off, the next one on: every serial is positive and of the same length.
        octets[0] = octets[0] & 0x3f | 0x40;
        Self(octets.to_vec())
    }

    /// Takes big-endian octets as they stand in a certificate, leading zeros ignored.
    ///
    /// # Errors
    ///
    /// [`IdentifierError`] if the number is zero or longer than 20 octets. A negative one cannot be
    /// said in unsigned octets; the reader of certificates refuses it.
    pub fn from_octets(octets: &[u8]) -> Result<Self, IdentifierError> {
        let zeros = octets.iter().take_while(|octet| **octet == 0).count();
        let octets = octets.get(zeros..).unwrap_or_default();
        let first = octets.first().ok_or(IdentifierError::Serial)?;
        let encoded = octets.len() + usize::from(first & 0x80 != 0);
        if encoded > LONGEST {
            return Err(IdentifierError::Serial);
        }
        Ok(Self(octets.to_vec()))
    }

    /// Big-endian, without leading zeros.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// How many bits the number takes.
    pub fn bits(&self) -> u32 {
        let leading = self.0.first().map_or(8, |octet| octet.leading_zeros());
        u32::try_from(self.0.len()).map_or(u32::MAX, |octets| octets * 8 - leading)
    }
}

/// SHA-256 of a certificate's DER, written as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these bytes.
    pub fn of(der: &[u8]) -> Self {
        Self(sha256(der))
    }

    /// The 32 octets.
    pub fn octets(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Why a text is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum IdentifierError {
    /// Not hexadecimal, zero, or too long.
    #[error("a serial number is 1 to 20 octets in hexadecimal, positive")]
    Serial,
    /// Not 64 hexadecimal digits.
    #[error("a fingerprint is 64 hexadecimal digits")]
    Fingerprint,
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hexadecimal(&self.0, f)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

impl FromStr for Serial {
    type Err = IdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let octets = read_hexadecimal(text).ok_or(IdentifierError::Serial)?;
        Self::from_octets(&octets)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hexadecimal(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = IdentifierError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        read_hexadecimal(text)
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            .ok_or(IdentifierError::Fingerprint)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().expect("SHA-256 has 32 octets")
}

fn write_hexadecimal(octets: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    octets.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
}

fn read_hexadecimal(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut octets = Vec::with_capacity(text.len() / 2);
    for pair in text.as_bytes().chunks(2) {
        let [high, low] = pair else { return None };
        octets.push(u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()?);
    }
    Some(octets)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_random_serial_is_positive_long_and_does_not_repeat() {
        let drawn: HashSet<_> = (0..10_000).map(|_| Serial::random()).collect();
        assert_eq!(drawn.len(), 10_000);
        assert!(drawn.iter().all(|serial| serial.bits() == 127));
        assert!(drawn.iter().all(|serial| serial.octets()[0] & 0x80 == 0));
    }

    #[test]
    fn a_serial_survives_being_written_and_read() {
        let serial = Serial::random();
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_eq!("0A0b".parse::<Serial>().unwrap().to_string(), "0a0b");
        assert_eq!("00000a".parse::<Serial>().unwrap().to_string(), "0a");
    }

    #[test]
    fn zero_overlong_and_odd_serials_are_refused() {
        let longest = "7f".repeat(20);
        assert!(longest.parse::<Serial>().is_ok());
        for bad in [
            "",
            "00",
            "0",
            "abc",
            "zz",
            &"ff".repeat(20),
            &"01".repeat(21),
        ] {
            assert_eq!(bad.parse::<Serial>(), Err(IdentifierError::Serial), "{bad}");
        }
    }

    #[test]
    fn a_fingerprint_is_64_lower_case_digits() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Fingerprint::of(b"").to_string(), empty);
        assert_eq!(empty.parse(), Ok(Fingerprint::of(b"")));
        assert!(empty[2..].parse::<Fingerprint>().is_err());
    }
}
