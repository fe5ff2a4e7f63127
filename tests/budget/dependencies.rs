//! That every dependency that is declared is used.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Packages whose library has another name.
const LIBRARIES: [(&str, &str); 1] = [("rustls-webpki", "webpki")];

/// Dependencies of the workspace that no manifest of `members` takes.
pub(super) fn unused_in_the_workspace(root: &str, members: &[&str]) -> Vec<String> {
    let taken: BTreeSet<String> = members.iter().flat_map(|text| declared(text)).collect();
    let offered = keys(root, |section| section == "[workspace.dependencies]");
    offered
        .into_iter()
        .filter(|name| !taken.contains(name))
        .map(|name| format!("nobody takes {name} from the workspace"))
        .collect()
}

/// Dependencies in the manifest at `path` that the code of its package does not name.
pub(super) fn unused_in_the_package(path: &Path, manifest: &str, code: &str) -> Vec<String> {
    let words: BTreeSet<&str> = code
        .split(|c: char| !c.is_alphanumeric() && c != '_')
        .collect();
    declared(manifest)
        .into_iter()
        .filter(|name| {
            let library = LIBRARIES.iter().find(|(package, _)| package == name);
            let library =
                library.map_or_else(|| name.replace('-', "_"), |(_, name)| (*name).to_owned());
            !words.contains(library.as_str())
        })
        .map(|name| format!("{}: {name} is not used", path.display()))
        .collect()
}

/// The manifest, of those in `manifests`, of the package that the source at `path` belongs to.
pub(super) fn owner<'a>(path: &Path, manifests: &'a [PathBuf]) -> Option<&'a PathBuf> {
    let folder = |manifest: &Path| manifest.parent().map(Path::to_path_buf).unwrap_or_default();
    manifests
        .iter()
        .filter(|manifest| path.starts_with(folder(manifest)))
        .max_by_key(|manifest| folder(manifest).components().count())
}

/// The dependencies of a package, of every kind.
fn declared(manifest: &str) -> Vec<String> {
    keys(manifest, |section| {
        section.ends_with("dependencies]") && !section.starts_with("[workspace")
    })
}

/// The keys in the sections that are `wanted`.
fn keys(manifest: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut keys = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = wanted(line.trim());
        } else if inside && !line.starts_with([' ', '#']) {
            let key = line.split(['.', '=', ' ']).next().unwrap_or_default();
            keys.extend((!key.is_empty()).then(|| key.to_owned()));
        }
    }
    keys
}
