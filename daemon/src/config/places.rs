//! Where a configuration puts sockets and directories, and whether one is in another's way.
//!
//! Two spellings of one place count as one: links are followed as far as there is something, and what
//! is not there yet is taken as it is written. What it does not do: it opens nothing, and does not know
//! who may read what.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use process::Failure;

use super::{Config, DEFAULT_CONTROL_SOCKET, DEFAULT_OPERATOR_SOCKET};
use crate::{custody, journal};

/// Links that are followed for one path; the kernel follows as many (`path_resolution(7)`).
const LINKS: usize = 40;

/// Refuses what would be two things in one place.
pub(super) fn distinct(config: &Config) -> Result<(), Failure> {
    sockets(config)?;
    directories(config)
}

/// The second to be bound would find the first listening.
fn sockets(config: &Config) -> Result<(), Failure> {
    let [control, operator] = [&config.control.socket, &config.operator.socket];
    if resolve(control) != resolve(operator) {
        return Ok(());
    }
    Err(Failure::config(format!(
        "control.socket and operator.socket are the same place, {}",
        operator.display()
    ))
    .cause("whoever may subscribe is not whoever may order")
    .next(format!(
        "give each its own, such as {DEFAULT_CONTROL_SOCKET} and {DEFAULT_OPERATOR_SOCKET}"
    )))
}

/// Two writers in one directory would replace each other's files, and a CA key next to files that a
/// proxy may read would be one mistake away from it.
fn directories(config: &Config) -> Result<(), Failure> {
    let places = places(config);
    let pairs = || {
        let earlier = |(count, here)| places.iter().take(count).map(move |there| (here, there));
        places.iter().enumerate().flat_map(earlier)
    };
    // What is the same is inside of the same places too, which says less.
    pairs().try_for_each(|(here, there)| refuse_same(here, there))?;
    pairs().try_for_each(|(here, there)| refuse_inside(here, there))
}

struct Place {
    /// As a message calls it.
    name: String,
    path: PathBuf,
    holds: Holds,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// What the daemon goes by; stores may lie beside it.
    State,
    /// A part of it.
    Part,
    /// Copies for other tools, the CA key among them.
    Store,
    /// What proxies may read.
    Served,
}

fn places(config: &Config) -> Vec<Place> {
    let place = |name: String, path: &Path, holds| Place {
        name,
        path: resolve(path),
        holds,
    };
    let part = |(what, file): (&str, &str)| {
        let path = config.state.join(file);
        place(format!("the {what} under state"), &path, Holds::Part)
    };
    let parts = [
        ("custody", custody::DIRECTORY),
        ("journal", journal::FILE),
        ("lock", journal::LOCK),
    ];
    let mut places = vec![place("state".to_owned(), &config.state, Holds::State)];
    places.extend(parts.map(part));
    for (name, tunnel) in &config.tunnels {
        let store = format!("tunnels.{name}.store");
        places.push(place(store, &tunnel.store, Holds::Store));
        let served = format!("tunnels.{name}.serve_dir");
        let served = |dir: &PathBuf| place(served, dir, Holds::Served);
        places.extend(tunnel.serve_dir.as_ref().map(served));
    }
    places
}

fn refuse_same(here: &Place, there: &Place) -> Result<(), Failure> {
    if here.path != there.path {
        return Ok(());
    }
    let what = format!("{} and {} are the same place", here.name, there.name);
    Err(Failure::config(what).next("give each its own"))
}

/// One place may lie in another in two cases only: a part of the state in it, and a store in it, beside
/// those parts, where the default of `state` has them.
fn refuse_inside(here: &Place, there: &Place) -> Result<(), Failure> {
    let (inner, outer) = if here.path.starts_with(&there.path) {
        (here, there)
    } else if there.path.starts_with(&here.path) {
        (there, here)
    } else {
        return Ok(());
    };
    let next = match (inner.holds, outer.holds) {
        (Holds::Part | Holds::Store, Holds::State) => return Ok(()),
        (Holds::Served, _) | (_, Holds::Served) => {
            "put serve_dir beside the others: it has other readers"
        }
        (_, Holds::Part) => "put it beside that: only the daemon writes there",
        _ => "put one beside the other; a store may lie under state, and nothing in a store",
    };
    let what = format!("{} is inside {}", inner.name, outer.name);
    Err(Failure::config(what).next(next))
}

/// The one spelling of a place: each link followed, `..` taken back, and what is not there as it is
/// written.
fn resolve(path: &Path) -> PathBuf {
    let parts = |path: &Path| -> Vec<OsString> {
        let parts = path.components().rev();
        parts.map(|part| part.as_os_str().to_owned()).collect()
    };
    let (mut place, mut ahead, mut links) = (PathBuf::new(), parts(path), LINKS);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            place.pop();
            continue;
        }
        let next = place.join(part);
        match next.read_link() {
            Ok(target) if links > 0 => {
                links -= 1;
                ahead.extend(parts(&target));
            }
            _ => place = next,
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn two_spellings_of_a_place_are_one() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        symlink(root.join("a/b"), root.join("link")).unwrap();
        symlink("./a/../link", root.join("here")).unwrap();
        symlink("later", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (spelling, place) in [
            ("a/b", "a/b"),
            ("a/./b/", "a/b"),
            ("./here/./x", "a/b/x"),
            ("a/b/../c", "a/c"),
            ("link", "a/b"),
            ("link/x", "a/b/x"),
            // As the kernel has it: the directory above what the link leads to.
            ("link/../x", "a/x"),
            ("none/../x/y", "x/y"),
            ("none/../../x", "../x"),
            ("dangling", "later"),
            ("dangling/x", "later/x"),
            ("loop/x", "loop/x"),
        ] {
            let place = match place.strip_prefix("../") {
                Some(rest) => root.parent().unwrap().join(rest),
                None => root.join(place),
            };
            assert_eq!(resolve(&root.join(spelling)), place, "{spelling}");
        }
        assert_eq!(resolve(Path::new("/..")), Path::new("/"));
    }
}
