//! The other form in which the holder of a certificate can show it.
//!
//! If (r, s) is an ECDSA signature, so is (r, n − s) with n the order of the curve (SEC 1 section 4.1.4): whoever holds a
//! certificate can write the one for the other, and has one with another fingerprint that verifies as well. A list of
//! fingerprints therefore has to be asked for both. Everything else in a certificate is signed or has one encoding: RSA
//! and Ed25519 signatures have no second form.

/// Orders of P-256, P-384 and P-521 (FIPS 186-4 D.1.2), most significant byte first.
const ORDERS: [&[u8]; 3] = [
    b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\
      \xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\
      \xc7\x63\x4d\x81\xf4\x37\x2d\xdf\x58\x1a\x0d\xb2\x48\xb0\xa7\x7a\xec\xec\x19\x6a\xcc\xc5\x29\x73",
    b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfa\
      \x51\x86\x87\x83\xbf\x2f\x96\x6b\x7f\xcc\x01\x48\xf7\x09\xa5\xd0\x3b\xb5\xc9\xb8\x89\x9c\x47\xae\xbb\x6f\xb7\x1e\x91\x38\x64\x09",
];

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// The same certificate with the other form of its signature; `None` where there is none, or no certificate.
pub fn twin(certificate: &[u8]) -> Option<Vec<u8>> {
    let (whole, _) = element(certificate, SEQUENCE)?;
    let (_, rest) = element(whole, SEQUENCE)?;
    let (_, rest) = element(rest, SEQUENCE)?;
    let signed = whole.get(..whole.len() - rest.len())?;
    let (bits, _) = element(rest, BIT_STRING)?;
    let (0, signature) = bits.split_first()? else {
        return None;
    };
    let (numbers, _) = element(signature, SEQUENCE)?;
    let (r, rest) = element(numbers, INTEGER)?;
    let (s, _) = element(rest, INTEGER)?;
    let order = ORDERS
        .into_iter()
        .find(|order| is_less(r, order) && is_less(s, order))?;
    let other = integer(&difference(order, s));
    let numbers = wrapped(
        SEQUENCE,
        &[wrapped(INTEGER, r), wrapped(INTEGER, &other)].concat(),
    );
    let bits = wrapped(BIT_STRING, &[&[0][..], &numbers].concat());
    Some(wrapped(SEQUENCE, &[signed, &bits].concat()))
}

/// Content of the DER element at the beginning, and what comes after it.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut length = usize::from(*first);
    if length >= 0x80 {
        let (octets, after) = rest
            .split_at_checked(length - 0x80)
            .filter(|(octets, _)| octets.len() <= 4)?;
        length = octets
            .iter()
            .fold(0, |length, octet| length << 8 | usize::from(*octet));
        rest = after;
    }
    (*found == tag).then_some(())?;
    rest.split_at_checked(length)
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = significant(&length);
    let mut out = vec![tag];
    match length {
        [] => out.push(0),
        [short] if *short < 0x80 => out.push(*short),
        long => {
            out.push(0x80 | u8::try_from(long.len()).unwrap_or(0x7f));
            out.extend(long);
        }
    }
    out.extend(content);
    out
}

/// Without leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    let start = number.iter().position(|byte| *byte != 0);
    number
        .get(start.unwrap_or(number.len())..)
        .unwrap_or_default()
}

/// Content of a positive INTEGER.
fn integer(number: &[u8]) -> Vec<u8> {
    let number = significant(number);
    let sign: &[u8] = if number.first().is_some_and(|first| *first < 0x80) {
        &[]
    } else {
        &[0]
    };
    [sign, number].concat()
}

fn is_less(number: &[u8], limit: &[u8]) -> bool {
    let number = significant(number);
    number.len() < limit.len() || (number.len() == limit.len() && number < limit)
}

/// `from - number`, which is not negative.
fn difference(from: &[u8], number: &[u8]) -> Vec<u8> {
    let number = significant(number);
    let digits = number.iter().rev().copied().chain(std::iter::repeat(0));
    let mut borrow = false;
    let mut out: Vec<u8> = from
        .iter()
        .rev()
        .zip(digits)
        .map(|(from, digit)| {
            let (rest, one) = from.overflowing_sub(digit);
            let (rest, two) = rest.overflowing_sub(u8::from(borrow));
            borrow = one || two;
            rest
        })
        .collect();
    out.reverse();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(r: &[u8], s: &[u8]) -> Vec<u8> {
        let numbers = [wrapped(INTEGER, &integer(r)), wrapped(INTEGER, &integer(s))].concat();
        let bits = [vec![0], wrapped(SEQUENCE, &numbers)].concat();
        let parts = [
            wrapped(SEQUENCE, &[7; 300]),
            wrapped(SEQUENCE, b"algorithm"),
            wrapped(BIT_STRING, &bits),
        ];
        wrapped(SEQUENCE, &parts.concat())
    }

    #[test]
    fn the_twin_has_the_difference_to_the_order_and_its_twin_is_the_first_one() {
        for order in ORDERS {
            let r = vec![0x7f; order.len() - 1];
            let mut s = order.to_vec();
            *s.last_mut().unwrap() -= 1;
            let one = certificate(&r, &s);
            if order.len() == 32 {
                assert_eq!(twin(&one), Some(certificate(&r, &[1])));
            }
            let r = [&[1][..], &vec![0x55; order.len() - 1]].concat();
            let first = certificate(&r, &[3]);
            let other = twin(&first).unwrap();
            assert_ne!(other, first);
            assert_eq!(twin(&other), Some(first));
        }
    }

    #[test]
    fn what_is_no_such_certificate_has_none() {
        let whole = certificate(&[1], &[2]);
        for end in 0..whole.len() {
            assert_eq!(twin(&whole[..end]), None, "{end}");
        }
        assert_eq!(
            twin(&certificate(&[1], &[0xff; 80])),
            None,
            "larger than any order"
        );
        assert_eq!(twin(b"\x30\x84\xff\xff\xff\xff"), None);
        assert_eq!(twin(b"\x30\xff"), None);
    }
}
