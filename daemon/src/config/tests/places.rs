//! Places and names that cannot be used.

use super::*;

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn a_place_or_a_name_that_cannot_be_used_is_refused_with_what_to_write() {
    let tunnel = |from: &str, to: &str| refusal(&SMALLEST.replace(from, to));
    let with = |line: &str| refusal(&format!("{SMALLEST}    {line}\n"));
    assert_refused(&[
        (
            refusal(""),
            "no tunnel is configured",
            "write tunnels: with",
        ),
        (
            refusal(&format!("log_level: loud\n{SMALLEST}")),
            "log_level is \"loud\"",
            "write one of debug, info, warn, error",
        ),
        (
            refusal(&format!("state: var\n{SMALLEST}")),
            "state is \"var\"",
            "write an absolute path",
        ),
        (
            refusal(&format!("health: {{ listen_addr: '9463' }}\n{SMALLEST}")),
            "health.listen_addr is \"9463\"",
            "write an address and a port",
        ),
        (
            tunnel("  main:", "  Main:"),
            "tunnels has the name \"Main\"",
            "lower-case letters",
        ),
        (
            tunnel("static", "openai"),
            "tunnels.main.provider is \"openai\"",
            "write tunnels_api or static",
        ),
        (
            tunnel("    provider: static\n", ""),
            "tunnels.main.provider is missing",
            "write provider: tunnels_api",
        ),
        (
            tunnel("abcd1234", "'*"),
            "cannot be read",
            "docs/config.md has every key",
        ),
        (
            tunnel("abcd1234", "ABCD"),
            "tunnels.main.domain is \"ABCD.tunnel.example.com\"",
            "in lower case, without wildcard",
        ),
        (
            tunnel("dir:/var", "/var"),
            "tunnels.main.store is \"/var/lib/keyward/main\"",
            "write dir:",
        ),
        (
            with(
                "\n  other:\n    provider: static\n    domain: abcd1234.tunnel.example.com\n    store: dir:/tmp/other",
            ),
            "tunnels.main.domain and tunnels.other.domain are both abcd1234.tunnel.example.com",
            "give each tunnel the domain",
        ),
        (
            refusal(&format!("bogus: 1\n{SMALLEST}")),
            "unknown key \"bogus\"",
            "known keys here: state, ",
        ),
        (
            with("serve_dir: /var/lib/keyward/main"),
            "tunnels.main.serve_dir and tunnels.main.store are the same place",
            "give each its own",
        ),
        (
            with("serve_dir: /var/lib"),
            "state is inside tunnels.main.serve_dir",
            "put serve_dir beside the others",
        ),
        (
            with("serve_dir: /var/lib/keyward/main/served"),
            "tunnels.main.serve_dir is inside state",
            "put serve_dir beside the others",
        ),
    ]);
}

#[test]
fn the_two_sockets_are_two() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().display();
    std::fs::create_dir(directory.path().join("run")).unwrap();
    std::os::unix::fs::symlink("run", directory.path().join("link")).unwrap();
    let with = |control: &str, operator: &str| {
        let sockets = format!(
            "control: {{ socket: {root}/{control} }}\noperator: {{ socket: {root}/{operator} }}\n"
        );
        parse(&(sockets + SMALLEST))
    };
    for (control, operator) in [
        ("run/x", "run/x"),
        ("run/x", "run/../run/./x"),
        ("run/x", "none/../run/x"),
        ("link/x", "run/x"),
    ] {
        let refused = with(control, operator).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!(
                "control.socket and operator.socket are the same place, {root}/{operator}\n  \
                 cause: whoever may subscribe is not whoever may order\n  \
                 next: give each its own, such as /run/keyward/control.sock and /run/keyward/operator.sock"
            )
        );
        assert_eq!(refused.exit(), process::Exit::Config);
    }
    with("run/x", "run/y").unwrap();
    let default = format!("control: {{ socket: {DEFAULT_OPERATOR_SOCKET} }}\n{SMALLEST}");
    assert!(refusal(&default).contains("are the same place"));
}

#[test]
fn a_store_lies_beside_what_the_daemon_keeps_in_its_state_and_never_around_it() {
    let with = |store: &str| {
        let text = SMALLEST.replace("/var/lib/keyward/main", store);
        parse(&text).map_err(|failure| failure.to_string())
    };
    for store in [
        "/var/lib/keyward/a/b",
        "/var/lib/keyward/custodian",
        "/srv/t",
    ] {
        with(store).unwrap();
    }
    let beside = "next: put it beside that: only the daemon writes there";
    for (store, what, next) in [
        (
            "/var/lib/keyward",
            "tunnels.main.store and state are the same place",
            "next: give each its own",
        ),
        (
            "/var/lib/keyward/main/..",
            "tunnels.main.store and state are the same place",
            "next: give each its own",
        ),
        (
            "/var/lib/keyward/custody",
            "tunnels.main.store and the custody under state are the same place",
            "next: give each its own",
        ),
        (
            "/var/lib/keyward/custody/main",
            "tunnels.main.store is inside the custody under state",
            beside,
        ),
        (
            "/var/lib/keyward/journal.jsonl",
            "tunnels.main.store and the journal under state are the same place",
            "next: give each its own",
        ),
        (
            "/var/lib",
            "state is inside tunnels.main.store",
            "next: put one beside the other; a store may lie under state, and nothing in a store",
        ),
    ] {
        assert_eq!(
            with(store).unwrap_err(),
            format!("{what}\n  {next}"),
            "{store}"
        );
    }
    let other =
        "  other: { provider: static, domain: o.example, store: 'dir:/var/lib/keyward/main/o' }\n";
    assert!(
        refusal(&format!("{SMALLEST}{other}"))
            .starts_with("tunnels.other.store is inside tunnels.main.store")
    );
}
