//! Which file may name a dependency that we do not fully trust, in whatever way Rust can name one.

use std::path::Path;

use super::NONE;

/// A crate, and the one file that may name it (`crates.md` says why): replacing it is a change of that file.
pub(super) const QUARANTINED: [(&str, &str); 5] = [
    ("rcgen", "pki/src/sign.rs"),
    ("vaultrs", "identity/src/vault.rs"),
    ("openidconnect", "edge/src/command/login/provider.rs"),
    ("cron", "daemon/src/schedule.rs"),
    ("reqwest", "identity/src/http.rs"),
];

/// The quarantined crates that the file at `path` names without being their home.
pub(super) fn outside_quarantine(path: &Path, text: &str) -> Vec<String> {
    if !QUARANTINED.iter().any(|(name, _)| text.contains(name)) {
        return NONE;
    }
    let code = code(text);
    QUARANTINED
        .iter()
        .filter(|(name, home)| !path.ends_with(home) && names_crate(&code, name))
        .map(|(name, home)| format!("{name} in {}: only {home} may name it", path.display()))
        .collect()
}

/// The quarantined crates that the manifest at `path` gives another name, under which no source would be found.
pub(super) fn renamed(path: &Path, manifest: &str) -> Vec<String> {
    let lines = manifest.lines().map(|line| line.replace(' ', ""));
    lines
        .filter(|line| {
            let mut names = QUARANTINED.iter().map(|(name, _)| name);
            names.any(|name| line.contains(&format!("package=\"{name}\"")))
        })
        .map(|line| format!("{}: {line}", path.display()))
        .collect()
}

/// Whether `code` has `name` as a crate: before `::`, behind `extern crate`, or at the root of a `use`.
fn names_crate(code: &str, name: &str) -> bool {
    let in_a_path = words(code, name).any(|rest| rest.trim_start().starts_with("::"));
    let is_linked = words(code, "crate").any(|rest| starts_with_word(rest.trim_start(), name));
    let is_used = words(code, "use").any(|rest| {
        let tree = rest.split(';').next().unwrap_or_default();
        rest.starts_with(char::is_whitespace) && is_root(tree, name)
    });
    in_a_path || is_linked || is_used
}

/// Whether `name` is a root of the tree of a `use`.
fn is_root(tree: &str, name: &str) -> bool {
    let tree = tree.trim_start();
    let tree = tree.strip_prefix("::").unwrap_or(tree).trim_start();
    let Some(list) = tree.strip_prefix('{') else {
        return starts_with_word(tree, name);
    };
    let mut depth = 0_usize;
    let mut branches = list.split(|c: char| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    branches.any(|branch| is_root(branch, name))
}

/// What follows each `word` in `text` that is a whole one.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(word).filter_map(move |(at, _)| {
        let before = text.get(..at)?.chars().next_back();
        let rest = text.get(at..)?;
        let whole = !before.is_some_and(is_of_a_name) && starts_with_word(rest, word);
        rest.get(word.len()..).filter(|_| whole)
    })
}

fn starts_with_word(text: &str, word: &str) -> bool {
    let rest = text.strip_prefix(word);
    rest.is_some_and(|rest| !rest.starts_with(is_of_a_name))
}

fn is_of_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `text` without comments, strings and characters: prose may say any name.
pub(super) fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            string(rest)
        } else if first == 'r' && !code.ends_with(is_of_a_name) {
            raw_string(rest)
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        let taken = if skipped == 0 {
            code.push(first);
            first.len_utf8()
        } else {
            code.push(' ');
            skipped
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    code
}

/// How long the string is that `text` begins with.
fn string(text: &str) -> usize {
    let mut escaped = true;
    let end = text.char_indices().find(|&(_, c)| {
        let ends = c == '"' && !escaped;
        // The opening quote is the first one, and counts as escaped.
        escaped = c == '\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |(at, _)| at + 1)
}

/// How long the raw string is that `text` begins with; 0 if it is none.
fn raw_string(text: &str) -> usize {
    let hashes: String = text.chars().skip(1).take_while(|&c| c == '#').collect();
    let opening = 1 + hashes.len();
    let Some(body) = text.get(opening..).and_then(|body| body.strip_prefix('"')) else {
        return 0;
    };
    let closing = format!("\"{hashes}");
    let end = body.find(&closing);
    end.map_or(text.len(), |end| opening + 1 + end + closing.len())
}

/// How long the character is that `text` begins with; 0 if it is a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => chars
            .find(|&(_, c)| c == '\'')
            .map_or(text.len(), |(at, _)| at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 0,
    }
}
