//! The budget: which crates the proxy may link and how many, which way our packages may depend, which file may name a
//! dependency that we do not fully trust, and how long a file may grow. Each rule is a function of what it looks at, so
//! that the tests at the end can show it a violation. The size of the shipped proxy is checked by `.ci/run`, which builds it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Every crate that the proxy may link, one a line, sorted. A new line is a decision to review.
const ALLOWED: &str = include_str!("../proxy/allowed-crates.txt");

/// The most packages (name and version) that the proxy may link, ours included, itself left out.
const MAX_PACKAGES: usize = 90;

/// The most lines of a source file, its tests not counted, and of a `main.rs`.
const MAX_LINES: usize = 400;
const MAX_MAIN_LINES: usize = 40;

/// Which of our packages a package may depend on, directly or not, and which foreign crates it may never reach.
struct Direction {
    package: &'static str,
    ours: &'static [&'static str],
    never: &'static [&'static str],
}

/// A package that is not here may not exist, save `keyward-demo` and `keyward-tests`, which use everything.
const DIRECTIONS: [Direction; 5] = [
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
        ours: &["keyward-control", "keyward-process"],
        never: &["axum", "clap", "rcgen", "reqwest", "rmcp", "x509-parser"],
    },
    Direction {
        package: "keyward",
        ours: &["keyward-control", "keyward-pki", "keyward-process"],
        never: &["axum", "rmcp"],
    },
];

/// Packages that may depend on all others.
const UNBOUND: [&str; 2] = ["keyward-demo", "keyward-tests"];

/// A crate, and the one file that may name it (`crates.md` says why): replacing it is a change of that file.
const QUARANTINED: [(&str, &str); 4] = [
    ("rcgen", "pki/src/sign.rs"),
    ("vaultrs", "identity/src/vault.rs"),
    ("openidconnect", "identity/src/login.rs"),
    ("cron", "daemon/src/schedule.rs"),
];

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
fn none_of_our_crates_has_a_feature() {
    for manifest in manifests() {
        let text = fs::read_to_string(&manifest).expect("manifests are UTF-8");
        assert_eq!(own_features(&manifest, &text), NONE);
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

/// The quarantined crates that the file at `path` names without being their home.
fn outside_quarantine(path: &Path, text: &str) -> Vec<String> {
    QUARANTINED
        .iter()
        .filter(|(name, home)| names_crate(text, name) && !path.ends_with(home))
        .map(|(name, home)| format!("{name} in {}: only {home} may name it", path.display()))
        .collect()
}

/// Whether `text` has `name::` where `name` is a whole word.
fn names_crate(text: &str, name: &str) -> bool {
    let path = format!("{name}::");
    text.match_indices(&path).any(|(at, _)| {
        let before = text.get(..at).and_then(|before| before.chars().next_back());
        !before.is_some_and(|last| last.is_alphanumeric() || last == '_')
    })
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

/// Whether the file at `path` is longer than its kind may be. Tests are not counted: neither a module of tests at the
/// end of a file nor files of tests.
fn too_long(path: &Path, text: &str) -> Vec<String> {
    let tests = path.components().any(|part| part.as_os_str() == "tests")
        && !path.to_string_lossy().contains("/harness/");
    let lines = code_lines(text);
    let most = if path.ends_with("main.rs") {
        MAX_MAIN_LINES
    } else {
        MAX_LINES
    };
    if tests || lines <= most {
        return NONE;
    }
    vec![format!("{}: {lines} lines, at most {most}", path.display())]
}

/// How many lines of `text` are before its module of tests, which comes last.
fn code_lines(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .position(|pair| matches!(pair, ["#[cfg(test)]", next] if next.starts_with("mod ") && next.ends_with('{')))
        .unwrap_or(lines.len())
}

/// What `package` links on Linux, itself left out: one `name vVERSION` each.
fn linked(package: &str) -> BTreeSet<String> {
    cargo(&[
        "tree",
        "--locked",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
        "--package",
        package,
    ])
    .lines()
    .filter_map(|line| {
        let mut words = line.split(' ');
        let (name, version) = (words.next()?, words.next()?);
        (name != package).then(|| format!("{name} {version}"))
    })
    .collect()
}

/// The names alone.
fn names(packages: &BTreeSet<String>) -> BTreeSet<String> {
    packages
        .iter()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

/// The names of our packages.
fn workspace_packages() -> Vec<String> {
    let metadata = cargo(&["metadata", "--locked", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value =
        serde_json::from_str(&metadata).expect("cargo metadata prints JSON");
    let packages = metadata["packages"]
        .as_array()
        .expect("a workspace has packages");
    let names = packages.iter().map(|package| {
        package["name"]
            .as_str()
            .expect("a package has a name")
            .to_owned()
    });
    names.collect()
}

/// What cargo prints.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(if arguments.contains(&"tree") {
            &["--target", "x86_64-unknown-linux-gnu"][..]
        } else {
            &[]
        })
        .current_dir(ROOT)
        .output()
        .expect("cargo runs while tests run");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("cargo prints UTF-8")
}

/// Every source file of ours with its text.
fn sources() -> Vec<(PathBuf, String)> {
    let paths = files(Path::new(ROOT))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    let read = paths.map(|path| {
        let text = fs::read_to_string(&path).expect("sources are UTF-8");
        (path, text)
    });
    read.collect()
}

/// Every manifest of ours.
fn manifests() -> Vec<PathBuf> {
    files(Path::new(ROOT))
        .into_iter()
        .filter(|path| path.ends_with("Cargo.toml"))
        .collect()
}

/// Every file under `folder`, build output and hidden folders left out.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

mod planted {
    //! A violation of each rule, and that it is found.

    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_crate_that_is_not_listed_is_found() {
        assert_eq!(
            outside_the_list(&set(&["bytes", "http"]), "bytes\nhttp\n"),
            NONE
        );
        assert_eq!(
            outside_the_list(&set(&["bytes", "http"]), "bytes\n"),
            ["http is not in proxy/allowed-crates.txt"]
        );
        assert_eq!(
            outside_the_list(&set(&["bytes"]), "bytes\nhttp\n"),
            ["http is listed and no longer linked"]
        );
        assert_eq!(
            outside_the_list(&set(&["bytes", "http"]), "http\nbytes\n"),
            ["the list is not sorted"]
        );
    }

    #[test]
    fn one_package_too_many_is_found() {
        assert_eq!(too_many(&set(&["syn v2.0.0", "syn v3.0.0"]), 2), NONE);
        assert_eq!(too_many(&set(&["syn v2.0.0", "syn v3.0.0"]), 1).len(), 1);
    }

    #[test]
    fn a_dependency_against_the_direction_is_found() {
        let found = against_the_direction(
            "keyward-proxy",
            &set(&["bytes", "clap", "keyward-control", "keyward-pki"]),
        );
        assert_eq!(
            found,
            [
                "keyward-proxy depends on clap",
                "keyward-proxy depends on keyward-pki"
            ]
        );
        let found = against_the_direction(
            "keyward",
            &set(&["axum", "clap", "keyward-pki", "keyward-proxy"]),
        );
        assert_eq!(
            found,
            [
                "keyward depends on axum",
                "keyward depends on keyward-proxy"
            ]
        );
        for leaf in ["keyward-pki", "keyward-control", "keyward-process"] {
            assert_eq!(
                against_the_direction(leaf, &set(&["keyward"])),
                [format!("{leaf} depends on keyward")]
            );
        }
        assert_eq!(
            against_the_direction("keyward-new", &set(&[])),
            ["keyward-new has no line in DIRECTIONS"]
        );
        assert_eq!(
            against_the_direction("keyward-tests", &set(&["keyward"])),
            NONE
        );
    }

    #[test]
    fn a_quarantined_crate_named_elsewhere_is_found() {
        // Put together here, so that this file does not name them.
        for (name, home) in QUARANTINED {
            let text = format!("use {name}::Thing;\n");
            assert_eq!(
                outside_quarantine(Path::new("/checkout").join(home).as_path(), &text),
                NONE
            );
            assert_eq!(
                outside_quarantine(Path::new("/checkout/proxy/src/lib.rs"), &text).len(),
                1
            );
            assert_eq!(
                outside_quarantine(
                    Path::new("/checkout/proxy/src/lib.rs"),
                    &format!("a{name}::b")
                ),
                NONE
            );
        }
    }

    #[test]
    fn a_feature_of_ours_is_found() {
        let path = Path::new("Cargo.toml");
        assert_eq!(
            own_features(
                path,
                "[dependencies]\nserde = { version = \"1\", features = [\"derive\"] }\n"
            ),
            NONE
        );
        assert_eq!(
            own_features(path, "[features]\n"),
            ["Cargo.toml: [features]"]
        );
        assert_eq!(
            own_features(path, "serde = { version = \"1\", optional = true }\n").len(),
            1
        );
    }

    #[test]
    fn a_file_that_grew_too_long_is_found() {
        let code = "// a line\n".repeat(MAX_LINES);
        let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n");
        let file = Path::new("/checkout/proxy/src/lib.rs");
        assert_eq!(too_long(file, &tests), NONE);
        assert_eq!(too_long(file, &format!("// one more\n{tests}")).len(), 1);
        assert_eq!(
            too_long(
                Path::new("/checkout/proxy/src/main.rs"),
                &"\n".repeat(MAX_MAIN_LINES)
            ),
            NONE
        );
        assert_eq!(
            too_long(
                Path::new("/checkout/proxy/src/main.rs"),
                &"\n".repeat(MAX_MAIN_LINES + 1)
            )
            .len(),
            1
        );
        assert_eq!(
            too_long(
                Path::new("/checkout/tests/budget.rs"),
                &format!("{code}{code}")
            ),
            NONE
        );
    }

    #[test]
    fn the_walk_finds_our_sources_and_manifests() {
        assert!(
            sources()
                .iter()
                .any(|(path, _)| path.ends_with("proxy/src/main.rs"))
        );
        assert!(manifests().len() > DIRECTIONS.len());
        assert!(workspace_packages().contains(&"keyward-proxy".to_owned()));
        assert!(names(&linked("keyward-proxy")).contains("tokio-rustls"));
    }
}
