//! Text as forms and queries write it (the URL Standard, section 5.1), read strictly: what somebody else may
//! read in another way is refused.

/// `%41` and `+`; `None` for what is neither or is no UTF-8.
pub(crate) fn decode(text: &str) -> Option<String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        octets.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let value = digit(rest.next()?)? << 4 | digit(rest.next()?)?;
                u8::try_from(value).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(octets).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_octet_is_two_digits_and_a_text_is_utf8() {
        assert_eq!(decode("a%41%c3%A9+b").as_deref(), Some("aA\u{e9} b"));
        for wrong in ["%", "%4", "%+f", "%-1", "% f", "%zz", "%ff"] {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
