//! `application/x-www-form-urlencoded`, as token endpoints take it.

use zeroize::Zeroizing;

/// Every octet but the unreserved ones (RFC 3986 §2.3) in percent form, which every reader of forms understands.
pub(crate) fn form(pairs: &[(&str, &str)]) -> Zeroizing<String> {
    let length = pairs
        .iter()
        .map(|(name, value)| 3 * (name.len() + value.len()) + 2);
    // Never grown, so that no piece of a secret is left behind.
    let mut text = Zeroizing::new(String::with_capacity(length.sum()));
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        escape(name, &mut text);
        text.push('=');
        escape(value, &mut text);
    }
    text
}

fn escape(value: &str, text: &mut String) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or_default();
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_read_otherwise_is_escaped() {
        let text = form(&[("a", "b c&d=e/+~"), ("Audience.member.1", "https://\u{fc}")]);
        assert_eq!(
            *text,
            "a=b%20c%26d%3De%2F%2B~&Audience.member.1=https%3A%2F%2F%C3%BC"
        );
    }
}
