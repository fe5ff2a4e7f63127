//! The documentation of the configuration is complete, and what it prints is accepted.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::config::raw::KEYS;

fn page() -> &'static str {
    let page = include_str!("../../../../docs/config.md");
    page.split_once("\n## The proxy\n").unwrap().1
}

/// Key and default of each row, as written; keys of `limits` stand without their section.
fn rows() -> BTreeMap<&'static str, &'static str> {
    let mut rows = BTreeMap::new();
    for line in page().lines() {
        let mut cells = line.split(" | ");
        let (Some(keys), Some(default)) = (cells.next(), cells.next()) else {
            continue;
        };
        for key in keys.split('`').skip(1).step_by(2) {
            rows.insert(key, default.trim_matches('`'));
        }
    }
    rows
}

#[test]
fn every_key_is_documented() {
    let rows = rows();
    for key in KEYS {
        let section = KEYS
            .iter()
            .any(|other| other.starts_with(&format!("{key}.")));
        let written = key.strip_prefix("limits.").unwrap_or(key);
        assert!(section || rows.contains_key(written), "{key}");
    }
}

#[test]
fn every_default_is_documented_as_it_is() {
    let text = "listen_addr: ':1'\ncontrol: {socket: /s}\nroutes: {}\n";
    let effective = Config::from_text(text, None).unwrap().effective();
    let rows = rows();
    let (before, limits) = effective.split_once("\nlimits:\n").unwrap();
    let mut compared = 0;
    for line in limits.lines() {
        let (key, value) = line.trim().split_once(": ").unwrap();
        let documented = crate::config::value::duration(rows[key]);
        match (documented, crate::config::value::duration(value)) {
            (Ok(documented), Ok(value)) => assert_eq!(documented, value, "{key}"),
            _ => assert_eq!(rows[key], value, "{key}"),
        }
        compared += 1;
    }
    assert_eq!(compared, 11, "every limit");
    for key in ["log_level", "shutdown_timeout"] {
        assert!(before.contains(&format!("{key}: {}\n", rows[key])), "{key}");
    }
    assert_eq!(rows["health.listen_addr"], Config::HEALTH.to_string());
}

#[test]
fn every_printed_configuration_is_accepted() {
    let blocks = page()
        .split("\n```")
        .filter_map(|part| part.strip_prefix("yaml\n"));
    let mut count = 0;
    for text in blocks {
        Config::from_text(text, None).unwrap_or_else(|error| panic!("{error}\n{text}"));
        count += 1;
    }
    assert!(count > 0, "blocks are found");
}
