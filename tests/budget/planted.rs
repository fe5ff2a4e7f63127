//! A violation of each rule, and that it is found.

use super::quarantine::QUARANTINED;
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
    for leaf in [
        "keyward-pki",
        "keyward-control",
        "keyward-edge-wire",
        "keyward-process",
    ] {
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
fn a_quarantined_crate_is_found_however_it_is_named() {
    let path = Path::new("/checkout/proxy/src/lib.rs");
    for (name, _) in QUARANTINED {
        for text in [
            format!("use {name};\n"),
            format!("use {name} as other;\n"),
            format!("pub(crate) use ::{name};\n"),
            format!("use {{bytes::Bytes, {name} as other}};\n"),
            format!("use ::{{bytes::{{Bytes, BytesMut}}, {name}}};\n"),
            format!("extern crate {name};\n"),
            format!("extern crate {name} as other;\n"),
            format!("let key = ::{name}::Key::new('\\'', \"\\\"\");\n"),
            format!("fn a<'a>(b: &'a {name} ::Key) {{}}\n"),
            format!("let text = r#\"\"\"#; {name}::make();\n"),
        ] {
            assert_eq!(outside_quarantine(path, &text).len(), 1, "{text}");
        }
        for text in [
            format!("// {name}::Key is not used\n"),
            format!("/* use {name}; */\n"),
            format!("let text = \"\\\"{name}::\";\n"),
            format!("let text = r#\"\"{name}::\"#;\n"),
            format!("use crate::config::{name};\n"),
            format!("use bytes::{{{name}, Bytes}};\n"),
            format!("let {name} = 1;\n"),
            format!("use {name}s::Key;\n"),
        ] {
            assert_eq!(outside_quarantine(path, &text), NONE, "{text}");
        }
        let manifest = format!("x = {{ package = \"{name}\", version = \"1\" }}\n");
        assert_eq!(renamed(Path::new("Cargo.toml"), &manifest).len(), 1);
    }
}

#[test]
fn a_dependency_that_is_not_used_is_found() {
    let root =
        "[workspace.dependencies]\nbytes = \"1\"\nhttp = \"1\"\n[profile.dev]\nopt-level = 1\n";
    let member = "[dependencies]\nbytes.workspace = true\n[dev-dependencies]\nrustls-webpki = \"1\"\n[lints]\nworkspace = true\n";
    assert_eq!(
        unused_in_the_workspace(root, &[root, member]),
        ["nobody takes http from the workspace"]
    );
    let path = Path::new("proxy/Cargo.toml");
    assert_eq!(
        unused_in_the_package(path, member, "use bytes::Bytes; webpki::Error"),
        NONE
    );
    assert_eq!(
        unused_in_the_package(path, member, "let bytes = 1; let a_webpki = 2;"),
        ["proxy/Cargo.toml: rustls-webpki is not used"]
    );
    let manifests = ["daemon/Cargo.toml", "daemon/control/Cargo.toml"].map(PathBuf::from);
    let owner_of = |path: &str| owner(Path::new(path), &manifests);
    assert_eq!(owner_of("daemon/src/lib.rs"), Some(&manifests[0]));
    assert_eq!(owner_of("daemon/control/src/lib.rs"), Some(&manifests[1]));
    assert_eq!(owner_of("pki/src/lib.rs"), None);
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
    let more = "// a line\n".repeat(MAX_LINES_WITH_TESTS - MAX_LINES - 4);
    let tests = format!("{code}#[cfg(test)]\nmod tests {{\n{more}}}\n");
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
    for (path, most) in [
        ("/checkout/tests/budget.rs", MAX_LINES_WITH_TESTS),
        (
            "/checkout/daemon/src/rotator/tests.rs",
            MAX_LINES_WITH_TESTS,
        ),
        (
            "/checkout/daemon/src/rotator/tests/crash.rs",
            MAX_LINES_WITH_TESTS,
        ),
        ("/checkout/tests/harness/mod.rs", MAX_LINES),
    ] {
        let path = Path::new(path);
        assert_eq!(too_long(path, &"\n".repeat(most)), NONE);
        assert_eq!(too_long(path, &"\n".repeat(most + 1)).len(), 1);
    }
    let short = format!("#[cfg(test)]\nmod tests {{\n{}", code.repeat(2));
    assert_eq!(too_long(file, &short).len(), 1);
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
