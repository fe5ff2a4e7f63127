//! What another side said, in a form that may be shown.

/// Longest text of the other side that is passed on, characters.
const LONGEST_MESSAGE: usize = 300;
/// A word of the other side's as long as this is looked for in what was sent.
const TELLTALE: usize = 16;

/// A text of the other side, short, on one line, and without what it repeats of the secret that it was sent.
#[must_use]
pub fn shown(text: &str, secret: &str) -> String {
    let is_of_a_token = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let mut out = String::new();
    for piece in text.split_inclusive(|c: char| !is_of_a_token(c)) {
        let word = piece.trim_end_matches(|c: char| !is_of_a_token(c));
        let repeats = word.len() >= TELLTALE
            && word
                .as_bytes()
                .windows(TELLTALE)
                .any(|part| secret.as_bytes().windows(TELLTALE).any(|of| of == part));
        if repeats {
            out.push_str("[of the token]");
            out.push_str(piece.get(word.len()..).unwrap_or_default());
        } else {
            out.push_str(piece);
        }
    }
    let printable = out.chars().filter(|c| !c.is_control());
    printable.take(LONGEST_MESSAGE).collect()
}
