//! The budget: which crates the proxy may link and how many, which way our packages may depend, that they use what they
//! depend on, which file may name a dependency that we do not fully trust, and how long a file may grow. Each rule is a
//! function of what it looks at, so that `planted` can show it a violation. The size of the shipped proxy is checked by `.ci/run`, which builds it.

mod dependencies;
mod planted;
mod quarantine;
mod workspace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dependencies::{owner, unused_in_the_package, unused_in_the_workspace};
use quarantine::{code, outside_quarantine, renamed};
use workspace::{linked, manifests, names, sources, workspace_packages};

/// Every crate that the proxy may link, one a line, sorted. A new line is a decision to review.
const ALLOWED: &str = include_str!("../proxy/allowed-crates.txt");

/// The most packages (name and version) that the proxy may link, ours included, itself left out.
const MAX_PACKAGES: usize = 90;

/// The most lines of a source file, its tests not counted; with them, or of a file of tests; and of a `main.rs`.
const MAX_LINES: usize = 400;
const MAX_LINES_WITH_TESTS: usize = 700;
const MAX_MAIN_LINES: usize = 40;

/// Which of our packages a package may depend on, directly or not, and which foreign crates it may never reach.
struct Direction {
    package: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

/// A package that is not here may not exist, save `keyward-demo` and `keyward-tests`, which use everything.
const DIRECTIONS: [Direction; 9] = [
    Direction {
        package: "keyward-pki",
        ours: &[],
        never: &["hyper", "tokio"],
    },
    Direction {
        package: "keyward-control",
        ours: &[],
        never: &["hyper", "rcgen", "rustls"],
    },
    Direction {
        package: "keyward-process",
        ours: &[],
        never: &["rcgen", "rustls", "serde-saphyr"],
    },
    Direction {
        package: "keyward-proxy",
        ours: &["keyward-control", "keyward-edge-wire", "keyward-process"],
        never: &["axum", "clap", "rcgen", "reqwest", "rmcp", "x509-parser"],
    },
    Direction {
        package: "keyward-edge-wire",
        ours: &[],
        never: &["hyper", "rcgen", "rustls", "tokio"],
    },
    Direction {
        package: "keyward-edge",
        ours: &[
            "keyward-edge-api",
            "keyward-edge-wire",
            "keyward-pki",
            "keyward-process",
        ],
        never: &["axum", "rmcp"],
    },
    Direction {
        package: "keyward",
        ours: &[
            "keyward-control",
            "keyward-edge-api",
            "keyward-identity",
            "keyward-pki",
            "keyward-process",
        ],
        never: &["axum", "native-tls", "ring", "rmcp"],
    },
    Direction {
        package: "keyward-identity",
        // For its clock, and nothing else of ours.
        ours: &["keyward-process"],
        never: &["axum", "native-tls", "rcgen", "ring"],
    },
    Direction {
        package: "keyward-edge-api",
        ours: &[],
        never: &["hyper", "rustls", "tokio"],
    },
];

/// Packages that may depend on all others.
const UNBOUND: [&str; 2] = ["keyward-demo", "keyward-tests"];

#[test]
fn proxy_links_only_the_allowed_crates() {
    assert_eq!(
        outside_the_list(&names(&linked("keyward-proxy")), ALLOWED),
        NONE
    );
}

#[test]
fn proxy_links_at_most_ninety_packages() {
    assert_eq!(too_many(&linked("keyward-proxy"), MAX_PACKAGES), NONE);
}

#[test]
fn dependencies_point_one_way() {
    for package in workspace_packages() {
        assert_eq!(
            against_the_direction(&package, &names(&linked(&package))),
            NONE
        );
    }
}

#[test]
fn quarantined_crates_are_named_in_one_file_each() {
    for (path, text) in sources() {
        assert_eq!(outside_quarantine(&path, &text), NONE);
    }
}

#[test]
fn quarantined_crates_keep_their_names() {
    for (path, text) in manifest_texts() {
        assert_eq!(renamed(&path, &text), NONE);
    }
}

#[test]
fn every_dependency_is_used() {
    let texts = manifest_texts();
    let is_root = |text: &str| text.contains("[workspace.dependencies]");
    let members: Vec<&str> = texts.values().map(String::as_str).collect();
    let packages: Vec<PathBuf> = texts
        .iter()
        .filter(|(_, text)| !is_root(text))
        .map(|(path, _)| path.clone())
        .collect();
    let mut codes: BTreeMap<&PathBuf, String> = BTreeMap::new();
    for (path, text) in sources() {
        if let Some(package) = owner(&path, &packages) {
            codes.entry(package).or_default().push_str(&code(&text));
        }
    }
    for (path, text) in &texts {
        let unused = if is_root(text) {
            unused_in_the_workspace(text, &members)
        } else {
            unused_in_the_package(path, text, &codes[path])
        };
        assert_eq!(unused, NONE);
    }
}

#[test]
fn none_of_our_crates_has_a_feature() {
    for (path, text) in manifest_texts() {
        assert_eq!(own_features(&path, &text), NONE);
    }
}

#[test]
fn files_stay_short() {
    for (path, text) in sources() {
        assert_eq!(too_long(&path, &text), NONE);
    }
}

/// What a rule answers when it holds.
const NONE: Vec<String> = Vec::new();

/// Crates that are linked and not listed, listed and not linked, or listed out of order.
fn outside_the_list(linked: &BTreeSet<String>, list: &str) -> Vec<String> {
    let lines: Vec<&str> = list.lines().collect();
    let allowed: BTreeSet<String> = lines.iter().map(|&line| line.to_owned()).collect();
    let added = linked
        .difference(&allowed)
        .map(|name| format!("{name} is not in proxy/allowed-crates.txt"));
    let gone = allowed
        .difference(linked)
        .map(|name| format!("{name} is listed and no longer linked"));
    let order = (!lines.is_sorted()).then(|| "the list is not sorted".to_owned());
    added.chain(gone).chain(order).collect()
}

/// Whether there are more packages than `most`. Two versions of one crate count twice.
fn too_many(packages: &BTreeSet<String>, most: usize) -> Vec<String> {
    if packages.len() <= most {
        return NONE;
    }
    vec![format!(
        "{} packages, at most {most}: {packages:?}",
        packages.len()
    )]
}

/// What `package`, which reaches the crates of `linked`, may not reach.
fn against_the_direction(package: &str, linked: &BTreeSet<String>) -> Vec<String> {
    if UNBOUND.contains(&package) {
        return NONE;
    }
    let Some(direction) = DIRECTIONS
        .iter()
        .find(|direction| direction.package == package)
    else {
        return vec![format!("{package} has no line in DIRECTIONS")];
    };
    linked
        .iter()
        .filter(|name| {
            let ours = name.starts_with("keyward") && !direction.ours.contains(&name.as_str());
            ours || direction.never.contains(&name.as_str())
        })
        .map(|name| format!("{package} depends on {name}"))
        .collect()
}

/// Cargo features that the manifest declares: the table, and optional dependencies, which are features too.
fn own_features(path: &Path, manifest: &str) -> Vec<String> {
    manifest
        .lines()
        .filter(|line| {
            let line = line.split('#').next().unwrap_or_default().replace(' ', "");
            line == "[features]" || line.contains("optional=true")
        })
        .map(|line| format!("{}: {line}", path.display()))
        .collect()
}

/// Whether the file at `path` is longer than its kind may be.
fn too_long(path: &Path, text: &str) -> Vec<String> {
    let is_of_tests = path.ends_with("tests.rs")
        || path.components().any(|part| part.as_os_str() == "tests")
            && !path.to_string_lossy().contains("/harness/");
    let most = if path.ends_with("main.rs") {
        MAX_MAIN_LINES
    } else {
        MAX_LINES
    };
    let checks = [
        (code_lines(text), most, is_of_tests),
        (text.lines().count(), MAX_LINES_WITH_TESTS, false),
    ];
    checks
        .into_iter()
        .filter(|&(lines, most, exempt)| lines > most && !exempt)
        .map(|(lines, most, _)| format!("{}: {lines} lines, at most {most}", path.display()))
        .collect()
}

/// How many lines of `text` are before its module of tests, which comes last.
fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| matches!(pair, ["#[cfg(test)]", next] if next.starts_with("mod ") && next.ends_with('{')))
        .unwrap_or(lines.len())
}

/// Every manifest of ours with its text.
fn manifest_texts() -> BTreeMap<PathBuf, String> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("manifests are UTF-8");
        (path, text)
    };
    manifests().into_iter().map(read).collect()
}
