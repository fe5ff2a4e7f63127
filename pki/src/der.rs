//! The outer frame of everything that is signed, read strictly.
//!
//! `SIGNED` (RFC 5280 §4.1.1): what is signed, how, and the signature. The signature protects the first
//! part alone, and x509-parser lets other tags and lengths pass around it: then one certificate would
//! have many fingerprints. DER leaves one way to write the frame, and this accepts no other. What is
//! inside of the first part is x509-parser's to read.

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The three parts of a frame.
#[derive(Debug)]
pub(crate) struct Signed<'a> {
    /// With its header, as the signature covers it.
    pub(crate) part: &'a [u8],
    /// `AlgorithmIdentifier` with its header.
    pub(crate) algorithm: &'a [u8],
    /// Contents of the BIT STRING.
    pub(crate) signature: &'a [u8],
}

impl<'a> Signed<'a> {
    /// `None` if there is another way to write the same, or anything behind it.
    pub(crate) fn read(der: &'a [u8]) -> Option<Self> {
        let (frame, []) = element(der, SEQUENCE)? else {
            return None;
        };
        let (part, rest) = element(frame.contents, SEQUENCE)?;
        let (algorithm, rest) = element(rest, SEQUENCE)?;
        let (signature, []) = element(rest, BIT_STRING)? else {
            return None;
        };
        let (&unused_bits, signature) = signature.contents.split_first()?;
        (unused_bits == 0).then_some(Self {
            part: part.whole,
            algorithm: algorithm.whole,
            signature,
        })
    }
}

struct Element<'a> {
    whole: &'a [u8],
    contents: &'a [u8],
}

/// The element of this tag at the start, and what is behind it. Lengths are definite, minimal (X.690
/// §10.1) and below 64 KiB.
fn element(input: &[u8], tag: u8) -> Option<(Element<'_>, &[u8])> {
    let (header, length) = match *input {
        [first, length @ 0..=0x7f, ..] if first == tag => (2, usize::from(length)),
        [first, 0x81, length @ 0x80..=0xff, ..] if first == tag => (3, usize::from(length)),
        [first, 0x82, high @ 1..=0xff, low, ..] if first == tag => {
            (4, usize::from(u16::from_be_bytes([high, low])))
        }
        _ => return None,
    };
    let (whole, rest) = input.split_at_checked(header + length)?;
    let contents = whole.get(header..)?;
    Some((Element { whole, contents }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_one_way_to_be_written() {
        let read =
            |input: &[u8]| element(input, SEQUENCE).map(|(element, _)| element.contents.len());
        assert_eq!(read(&[0x30, 0]), Some(0));
        assert_eq!(read(&[0x30, 1, 7, 9]), Some(1));
        let long = |header: &[u8], length| [header, &vec![0; length]].concat();
        assert_eq!(read(&long(&[0x30, 0x81, 0x80], 0x80)), Some(0x80));
        assert_eq!(read(&long(&[0x30, 0x82, 1, 0], 0x100)), Some(0x100));
        for bad in [
            &[0x31, 0][..],
            &[0x30],
            &[0x30, 1],
            &[0x30, 0x80, 0, 0],
            &[0x30, 0x81, 1, 7],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        assert_eq!(read(&long(&[0x30, 0x82, 0, 0x80], 0x80)), None);
    }
}
