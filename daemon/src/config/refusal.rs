//! What is said of a file that cannot be read: place, key, what it takes and what to write.
//!
//! The parser speaks of its own types and options; nobody who edits a file knows those. So each of its
//! errors is told here in the words of `docs/config.md`, and what is left over is said without details.
//! Values are not quoted: a file that was named by mistake may hold secrets.

use process::Failure;
use serde_saphyr::{Error, Location};

/// Behind each hint, since no hint says everything.
const REFERENCE: &str = "docs/config.md has every key and what it takes";

/// One line that names the place, and what to do.
pub(super) fn refusal(error: &Error, text: &str, path: &str) -> Failure {
    let at = error.location();
    let place = match &at {
        Some(at) => format!("{path}:{}:{}", at.line(), at.column()),
        None => path.to_owned(),
    };
    let said = |what: &str| Failure::config(format!("{place}: {what}"));
    match error.without_snippet() {
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let failure = said(&format!("unknown key {field:?}"));
            match nearest(field, expected) {
                Some(known) => failure.next(format!("did you mean {known:?}?")),
                None => failure.next(format!("known keys here: {}", expected.join(", "))),
            }
        }
        Error::DuplicateMappingKey { key, .. } => {
            let key = key.as_deref().unwrap_or("a key");
            said(&format!("{key} is written twice")).next("keep one of the two")
        }
        Error::SerdeMissingField { field, .. } => {
            said(&format!("{field} is missing")).next(format!("write it there; {REFERENCE}"))
        }
        Error::MultipleDocuments { .. } => said("a second document begins")
            .next("take out --- and what does not belong to one of the two"),
        // The parser's words for what is wrong with the YAML itself.
        Error::Message { msg, .. } | Error::ExternalMessage { msg, .. } => said("cannot be read")
            .cause(msg.clone())
            .next(format!("correct that line; {REFERENCE}")),
        error => match wanted(error) {
            Some((takes, next)) => {
                let find = match error {
                    Error::SerdeInvalidType { .. } => key_at,
                    _ => key_before,
                };
                let key = at.and_then(|at| find(text, &at)).unwrap_or("the file");
                said(&format!("{key} takes {takes}")).next(format!("{next}; {REFERENCE}"))
            }
            None => said("cannot be read")
                .cause("it is YAML of a kind that has no meaning here, such as a tag or an alias")
                .next(format!("write keys, lists and values only; {REFERENCE}")),
        },
    }
}

/// What the value should have been, and how that is written.
fn wanted(error: &Error) -> Option<(&str, &'static str)> {
    match error {
        Error::Unexpected { expected, .. } => match *expected {
            "mapping start" => Some(("keys of its own", "write them below it, or {} for none")),
            "sequence start" => Some(("a list", "write it in brackets, such as [1000, 1001]")),
            "string scalar" => Some(("one value", "write neither a list nor keys there")),
            _ => None,
        },
        Error::InvalidScalar { ty: "boolean", .. } | Error::InvalidBooleanStrict { .. } => {
            Some(("true or false", "write one of the two"))
        }
        // Users are the only numbers in the file.
        Error::InvalidScalar { .. } => Some((
            "whole numbers from 0 to 4294967295",
            "users are written by number, which id -u NAME prints",
        )),
        // The one value that comes in two shapes says itself what it takes.
        Error::SerdeInvalidType { expected, .. } => {
            Some((expected.as_str(), "write it in quotes, or keys below it"))
        }
        _ => None,
    }
}

/// The key that begins at a place, for what a visitor of ours refuses.
fn key_at<'a>(text: &'a str, at: &Location) -> Option<&'a str> {
    let line = usize::try_from(at.line()).ok()?;
    let column = usize::try_from(at.column()).ok()?;
    let line = text.lines().nth(line.checked_sub(1)?)?;
    let (start, _) = line.char_indices().nth(column.checked_sub(1)?)?;
    line.split_at(start).1.split(':').next()
}

/// The key whose value begins at a place: the last one before it. Lines of a comment have none.
fn key_before<'a>(text: &'a str, at: &Location) -> Option<&'a str> {
    let line = usize::try_from(at.line()).ok()?;
    let column = usize::try_from(at.column()).ok()?;
    let lines: Vec<&str> = text.lines().take(line).collect();
    let (last, before) = lines.split_last()?;
    let end = last.char_indices().nth(column.saturating_sub(1));
    let last = end.map_or(*last, |(end, _)| last.split_at(end).0);
    let mut upwards = std::iter::once(last).chain(before.iter().rev().copied());
    upwards.find_map(last_key)
}

/// The last `key:` of a line.
fn last_key(line: &str) -> Option<&str> {
    let line = line.split_once('#').map_or(line, |(code, _)| code);
    let is_key = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    line.rmatch_indices(':').find_map(|(colon, _)| {
        let (before, after) = line.split_at(colon);
        let rest = before.trim_end_matches(is_key);
        let key = before.strip_prefix(rest)?;
        let begins = rest.is_empty() || rest.ends_with([' ', '{', ',']);
        let ends = after.len() == 1 || after.starts_with(": ");
        (begins && ends && !key.is_empty()).then_some(key)
    })
}

/// The known key that most likely was meant; none if every one differs in more than a third of its letters.
fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (distance(key, candidate), *candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().max(key.len()) / 3)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut left = i + 1;
        let mut diagonal = i;
        for (cell, y) in row.iter_mut().skip(1).zip(&b) {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = *cell;
            left = replaced.min(left + 1).min(diagonal + 1);
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("lifetme", "lifetime", 1),
            ("same", "same", 0),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn the_key_of_a_value_is_the_last_one_before_it() {
        for (line, key) in [
            ("  socket: ", Some("socket")),
            ("control: {socket: /a, group: ", Some("group")),
            ("control: {subscribers: [1, ", Some("subscribers")),
            ("  - 1", None),
            ("    routes:", Some("routes")),
            ("    docs: http://a:1", Some("docs")),
            ("# not: ", None),
            ("", None),
        ] {
            assert_eq!(last_key(line), key, "{line}");
        }
    }
}
