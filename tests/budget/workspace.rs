//! Reads the workspace: what cargo says of it, and its files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The workspace root.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What `package` links on Linux, itself left out: one `name vVERSION` each.
pub(super) fn linked(package: &str) -> BTreeSet<String> {
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
pub(super) fn names(packages: &BTreeSet<String>) -> BTreeSet<String> {
    packages
        .iter()
        .filter_map(|line| line.split(' ').next().map(str::to_owned))
        .collect()
}

/// The names of our packages.
pub(super) fn workspace_packages() -> Vec<String> {
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
pub(super) fn sources() -> Vec<(PathBuf, String)> {
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
pub(super) fn manifests() -> Vec<PathBuf> {
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
