//! PEM (RFC 7468): writing it, and reading the sections that this crate knows.

use rustls_pki_types::pem::{PemObject, SectionKind};
use zeroize::Zeroizing;

/// RFC 7468 §2: 64 characters a line.
const LINE: usize = 64;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// One section. Erased when dropped, because it may be a key.
pub(crate) type Section = (SectionKind, Zeroizing<Vec<u8>>);

/// All sections of known kinds in order; `None` if the text is broken.
pub(crate) fn sections(text: &str) -> Option<Vec<Section>> {
    if holds_key(text) {
        read(&erasing(text)?)
    } else {
        read(text)
    }
}

/// `text` between two sections of no kind, each as long as all of it, for a reader that collects the
/// lines of each section in one buffer and does not erase that: the first makes room, so that no key is
/// moved and left behind, and the second is written over the last key. `None` if a section has no end, on
/// which the second would follow.
fn erasing(text: &str) -> Option<Zeroizing<String>> {
    const BEGIN: &str = "-----BEGIN NOTHING-----\n";
    const END: &str = "\n-----END NOTHING-----\n";
    let mut open = None;
    for line in text.split(['\n', '\r']) {
        if let Some(label) = line.strip_prefix("-----BEGIN ") {
            open = Some(label.trim_end().trim_end_matches('-'));
        } else if let (Some(label), Some(end)) = (open, line.strip_prefix("-----END ")) {
            let rest = end.strip_prefix(label);
            open = open.filter(|_| !rest.is_some_and(|rest| rest.starts_with("-----")));
        }
    }
    if open.is_some() {
        return None;
    }
    let length = 3 * text.len() + 2 * (BEGIN.len() + END.len()) + 1;
    let mut whole = Zeroizing::new(String::with_capacity(length));
    let nothing = |whole: &mut String| {
        whole.push_str(BEGIN);
        whole.extend(std::iter::repeat_n('0', text.len()));
        whole.push_str(END);
    };
    nothing(&mut whole);
    whole.push_str(text);
    whole.push('\n');
    nothing(&mut whole);
    Some(whole)
}

fn read(text: &str) -> Option<Vec<Section>> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes())
        .map(|section| section.map(|(kind, der)| (kind, Zeroizing::new(der))))
        .collect::<Result<_, _>>()
        .ok()
}

/// Whether the text holds a private key in any form, also one that [`sections`] would not show.
pub(crate) fn holds_key(text: &str) -> bool {
    text.lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.contains("PRIVATE KEY"))
}

/// Writes one section. Erased when dropped; the length is known beforehand, so that no half-written
/// copy is left behind by a growing buffer.
pub(crate) fn write(label: &str, der: &[u8]) -> Zeroizing<String> {
    let encoded = der.len().div_ceil(3) * 4;
    let frame = 2 * label.len() + "-----BEGIN -----\n-----END -----\n".len();
    let mut text = Zeroizing::new(String::with_capacity(
        encoded + encoded.div_ceil(LINE) + frame,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    for line in der.chunks(LINE / 4 * 3) {
        line.chunks(3)
            .for_each(|group| push_group(group, &mut text));
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// One to three octets as four characters (RFC 4648 §4).
fn push_group(group: &[u8], text: &mut String) {
    let octet = |index| group.get(index).copied().map_or(0, u32::from);
    let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
    for index in 0..4 {
        let sextet = usize::try_from(bits >> (18 - 6 * index) & 0x3f);
        let symbol = sextet.ok().and_then(|sextet| ALPHABET.get(sextet));
        let padding = index > group.len();
        text.push(
            symbol
                .filter(|_| !padding)
                .map_or('=', |byte| char::from(*byte)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_agrees_with_rfc_4648() {
        let pairs = [
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, encoded) in pairs {
            let text = write("X", plain.as_bytes());
            assert_eq!(
                *text,
                format!("-----BEGIN X-----\n{encoded}\n-----END X-----\n")
            );
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_never_reallocated() {
        for length in 0..400_u16 {
            let der: Vec<u8> = (0..length).map(|n| n.to_be_bytes()[1] ^ 0x5a).collect();
            let text = write("CERTIFICATE", &der);
            assert_eq!(text.capacity(), text.len());
            let sections = sections(&text).unwrap();
            assert_eq!(*sections[0].1, der);
            assert!(text.lines().all(|line| line.len() <= LINE));
        }
    }

    #[test]
    fn a_text_with_a_key_is_read_like_any_other() {
        let key = write("PRIVATE KEY", &[7; 1300]);
        let certificate = write("CERTIFICATE", b"certificate");
        let whole = format!("in front\n{}between\r\n{}", *certificate, *key);
        let read = sections(&whole).unwrap();
        let kinds = [SectionKind::Certificate, SectionKind::PrivateKey];
        assert_eq!([read[0].0, read[1].0], kinds);
        assert_eq!(
            (&**read[0].1, &**read[1].1),
            (&b"certificate"[..], &[7; 1300][..])
        );
        assert_eq!(read.len(), 2);
        let padded = erasing(&whole).unwrap();
        assert_eq!(padded.capacity(), padded.len(), "and never reallocated");
        let cut = whole.trim_end();
        assert_eq!(
            sections(cut).unwrap().len(),
            2,
            "the last line needs no end"
        );
        for broken in [
            &cut[..cut.len() - 30],
            &whole.replace("END PRIVATE", "END PUBLIC"),
            &format!("{}-----BEGIN CERTIFICATE-----\n", *key),
            &format!("-----BEGIN CERTIFICATE---\n{}", *key),
        ] {
            assert!(sections(broken).is_none(), "{broken}");
        }
    }

    #[test]
    fn a_key_of_any_kind_is_seen() {
        for kind in [
            "PRIVATE",
            "RSA PRIVATE",
            "EC PRIVATE",
            "ENCRYPTED PRIVATE",
            "OPENSSH PRIVATE",
        ] {
            assert!(holds_key(&write(&format!("{kind} KEY"), b"x")));
        }
        assert!(!holds_key(&write("PUBLIC KEY", b"x")));
    }
}
