use super::*;

const SMALLEST: &str = "\
tunnels:
  main:
    provider: static
    domain: abcd1234.tunnel.example.com
    store: dir:/var/lib/keyward/main
";

const WHOLE: &str = "\
state: /tmp/state
log_level: debug
control:
  socket: /tmp/control.sock
  group: keyward
  subscribers: [65532]
operator: { socket: /tmp/operator.sock, operators: [1000, 1001] }
health: { listen_addr: '[::1]:9000' }
tunnels:
  main:
    provider: static
    domain: abcd1234.tunnel.example.com
    store: dir:/tmp/store
    serve_dir: /tmp/served
    server_certificate: { lifetime: 2160h, algorithm: rsa-2048, extra_names: ['127.0.0.1', '*.b.abcd1234.tunnel.example.com'] }
    ca: { lifetime: 1825d, algorithm: ecdsa-p384, constrained: true }
    client_ca: { lifetime: 30d }
    routes:
      docs: http://127.0.0.1:8000
      wiki: { upstream: 'https://wiki_1.internal:443', preserve_host: true }
";

fn parse(text: &str) -> Result<Config, Failure> {
    Config::parse(text, "keyward.yaml")
}

/// The whole text that a person sees.
fn refusal(text: &str) -> String {
    let failure = parse(text).expect_err("it is refused");
    assert_eq!(failure.exit(), process::Exit::Config);
    failure.to_string()
}

#[test]
fn the_smallest_file_gets_every_default() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.state, Path::new("/var/lib/keyward"));
    assert_eq!(config.control.subscribers, [65_532, 65_533]);
    assert_eq!(config.control.group, None);
    assert_eq!(config.health.addr.to_string(), "127.0.0.1:9463");
    assert!(!config.health.explicit);
    let tunnel = &config.tunnels["main"];
    assert_eq!(tunnel.store, Path::new("/var/lib/keyward/main"));
    assert_eq!(tunnel.server_certificate.lifetime.as_secs(), 7 * 86_400);
    assert_eq!(tunnel.server_certificate.algorithm, Algorithm::EcdsaP256);
    assert_eq!(tunnel.ca.lifetime.as_secs(), 365 * 86_400);
    assert!(!tunnel.ca.constrained && tunnel.client_ca.is_none() && tunnel.routes.is_none());
}

#[test]
fn every_key_is_understood() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(
        config.control.group,
        Some(Group::Name("keyward".to_owned()))
    );
    assert_eq!(config.operator.operators, [1000, 1001]);
    assert!(config.health.explicit);
    let tunnel = &config.tunnels["main"];
    assert_eq!(tunnel.server_certificate.lifetime.as_secs(), 2160 * 3600);
    assert_eq!(tunnel.server_certificate.algorithm, Algorithm::Rsa2048);
    assert_eq!(tunnel.ca.algorithm, Algorithm::EcdsaP384);
    assert!(tunnel.ca.constrained);
    assert_eq!(tunnel.client_ca.unwrap().lifetime.as_secs(), 30 * 86_400);
    let routes = tunnel.routes.as_ref().unwrap();
    assert_eq!(routes["docs"].upstream, "http://127.0.0.1:8000");
    assert!(routes["wiki"].preserve_host && !routes["docs"].preserve_host);
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    for text in [SMALLEST, WHOLE] {
        let mut config = parse(text).unwrap();
        let effective = config.effective();
        // The one thing that the text says and the default does not.
        config.health.explicit = true;
        assert_eq!(parse(&effective).unwrap(), config, "{effective}");
    }
}

#[test]
fn every_key_that_is_documented_is_in_the_effective_configuration_of_the_smallest_file() {
    let effective = parse(SMALLEST).unwrap().effective();
    let value: serde_json::Value = serde_saphyr::from_str(&effective).unwrap();
    let documented = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let documented = std::fs::read_to_string(documented).unwrap();
    let (daemon, _) = documented.split_once("\n## The proxy\n").unwrap();
    let (daemon, _) = daemon.split_once("\n### identity\n").unwrap();
    let (whole, tunnel) = daemon.split_once("| Key under `tunnels.NAME` |").unwrap();
    let main = &value["tunnels"]["main"];
    let mut keys = 0;
    for (table, value) in [(whole, &value), (tunnel, main)] {
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        let names = rows.filter_map(|row| row.split('`').next());
        for name in names.filter(|name| *name != "tunnels.NAME") {
            let pointer = format!("/{}", name.replace('.', "/"));
            assert!(value.pointer(&pointer).is_some(), "{name}\n{effective}");
            keys += 1;
        }
    }
    assert!(keys > 18, "{keys}: the tables are found");
}

#[test]
fn a_group_may_be_a_number() {
    let config = parse(&format!("control: {{ group: 65532 }}\n{SMALLEST}")).unwrap();
    assert_eq!(config.control.group, Some(Group::Id(65_532)));
    assert_eq!(Group::Id(65_532).resolve(), Ok(65_532));
}

#[test]
fn a_group_is_found_by_its_whole_name() {
    let groups = "root:x:0:\nkeyward-proxy:x:7:\nkeyward:x:12:a,b\n";
    assert_eq!(group_id(groups, "keyward"), Some(12));
    assert_eq!(group_id(groups, "key"), None);
    let refused = Group::Name("no-such-group".to_owned())
        .resolve()
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "control.group is \"no-such-group\", which this host does not have\n  \
         next: groupadd --system no-such-group, or write the number of a group"
    );
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    assert_eq!(
        refusal("stat: /tmp\n"),
        "keyward.yaml:1:1: unknown key \"stat\"\n  next: did you mean \"state\"?"
    );
    let deep = SMALLEST.replace(
        "domain:",
        "server_certificate: { lifetme: 7d }\n    domain:",
    );
    assert_eq!(
        refusal(&deep),
        "keyward.yaml:4:27: unknown key \"lifetme\"\n  next: did you mean \"lifetime\"?"
    );
    let route = format!("{SMALLEST}    routes: {{ docs: {{ upstrem: 'http://a:1' }} }}\n");
    assert!(
        refusal(&route).contains("did you mean \"upstream\"?"),
        "{}",
        refusal(&route)
    );
    assert_eq!(
        refusal("zzzzzzzz: 1\n"),
        "keyward.yaml:1:1: unknown key \"zzzzzzzz\"\n  \
         next: known keys here: state, log_level, control, operator, health, identity, tunnels"
    );
}

/// Each text says what is wrong and what to write.
fn assert_refused(cases: &[(String, &str, &str)]) {
    for (text, what, next) in cases {
        assert!(text.contains(what), "{text}\nlacks {what}");
        assert!(text.contains(next), "{text}\nlacks {next}");
    }
}

#[test]
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
            "write static",
        ),
        (
            tunnel("    provider: static\n", ""),
            "tunnels.main.provider is missing",
            "write provider: static",
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

/// What the libraries that read YAML say is about types and options, which nobody can edit.
#[test]
fn a_value_of_the_wrong_kind_is_refused_by_its_key_in_words_of_the_documentation() {
    let before = |line: &str| refusal(&format!("{line}\n{SMALLEST}"));
    let with = |line: &str| refusal(&format!("{SMALLEST}    {line}\n"));
    let reference = "docs/config.md has every key and what it takes";
    let keys = "next: write them below it, or {} for none";
    let list = "next: write it in brackets, such as [1000, 1001]";
    let number = "next: users are written by number, which id -u NAME prints";
    for (text, what, next) in [
        (
            before("control: x"),
            "1:10: control takes keys of its own",
            keys,
        ),
        (
            before("control: { subscribers: 1 }"),
            "1:25: subscribers takes a list",
            list,
        ),
        (
            before("control: { subscribers: [1, keyward] }"),
            "1:29: subscribers takes whole numbers from 0 to 4294967295",
            number,
        ),
        (
            before("operator:\n  # x: y\n  operators:\n    - 1\n    - -1"),
            "5:7: operators takes whole numbers from 0 to 4294967295",
            number,
        ),
        (
            before("control: { group: [a] }"),
            "1:19: group takes one value",
            "next: write neither a list nor keys there",
        ),
        (
            with("ca: { constrained: maybe }"),
            "6:24: constrained takes true or false",
            "next: write one of the two",
        ),
        (
            with("server_certificate: { extra_names: a.example }"),
            "6:40: extra_names takes a list",
            list,
        ),
        (
            with("routes: { docs: 7 }"),
            "6:15: docs takes an upstream such as http://127.0.0.1:8000",
            "next: write it in quotes, or keys below it",
        ),
        (refusal("- a"), "1:1: the file takes keys of its own", keys),
    ] {
        let expected = format!("keyward.yaml:{what}\n  {next}; {reference}");
        assert_eq!(text, expected);
    }
    for (text, expected) in [
        (
            before("state: /a\nstate: /b"),
            "keyward.yaml:2:1: state is written twice\n  next: keep one of the two",
        ),
        (
            with("routes: { docs: { preserve_host: true } }"),
            "keyward.yaml:6:23: upstream is missing\n  next: write it there; docs/config.md has every key and what it takes",
        ),
        (
            before("--- {}\n---"),
            "keyward.yaml:3:1: a second document begins\n  next: take out --- and what does not belong to one of the two",
        ),
        (
            before("state: !!binary x"),
            "keyward.yaml:1:17: cannot be read\n  cause: it is YAML of a kind that has no meaning here, such as a tag or an alias\n  next: write keys, lists and values only; docs/config.md has every key and what it takes",
        ),
        (
            before("control:\n\tsocket: /a"),
            "keyward.yaml:2:2: cannot be read\n  cause: tabs disallowed within this context (block indentation)\n  next: correct that line; docs/config.md has every key and what it takes",
        ),
    ] {
        assert_eq!(text, expected);
    }
}

#[test]
fn a_life_or_a_route_that_cannot_be_used_is_refused_with_what_to_write() {
    let with = |line: &str| refusal(&format!("{SMALLEST}    {line}\n"));
    assert_refused(&[
        (
            with("server_certificate: { lifetime: 7 }"),
            "tunnels.main.server_certificate.lifetime is \"7\"",
            "a number needs a unit",
        ),
        (
            with("server_certificate: { lifetime: 10s }"),
            "tunnels.main.server_certificate.lifetime is \"10s\"",
            "write something from 1m to 398d",
        ),
        (
            with("ca: { lifetime: 7d }"),
            "tunnels.main.ca.lifetime is 7d, too short for a server certificate of 7d",
            "lengthen the CA's life",
        ),
        (
            with("ca: { algorithm: ed25519 }"),
            "tunnels.main.ca.algorithm is \"ed25519\"",
            "write one of ecdsa-p256, ecdsa-p384, rsa-2048, rsa-3072, rsa-4096",
        ),
        (
            with("server_certificate: { extra_names: [Local_Host] }"),
            "tunnels.main.server_certificate.extra_names has \"Local_Host\"",
            "write DNS names",
        ),
        (
            with(
                "ca: { constrained: true }\n    server_certificate: { extra_names: ['127.0.0.1', localhost] }",
            ),
            "tunnels.main.server_certificate.extra_names has \"localhost\", for which a CA that is constrained to abcd1234.tunnel.example.com cannot issue",
            "take the name out, or tunnels.main.ca.constrained off",
        ),
        (
            with("routes: [docs]"),
            "routes takes keys of its own",
            "docs/config.md has every key",
        ),
        (
            with("routes: { docs: 'http://a:1/mcp' }"),
            "tunnels.main.routes.docs is \"http://a:1/mcp\"",
            "without a path",
        ),
        (
            with("routes: { docs: 'http://a' }"),
            "tunnels.main.routes.docs is \"http://a\"",
            "add the port",
        ),
        (
            with("routes: { docs: 'a:1' }"),
            "tunnels.main.routes.docs is \"a:1\"",
            "begin with http://",
        ),
        (
            with("routes: { docs: 'http://u:p@a:1' }"),
            "tunnels.main.routes.docs is",
            "take user and password out",
        ),
        (
            with("routes: { docs: 'http://[::1:1' }"),
            "tunnels.main.routes.docs is",
            "IPv6 in brackets",
        ),
        (
            with("routes: { docs: 'http://a:0' }"),
            "tunnels.main.routes.docs is",
            "a port from 1",
        ),
    ]);
}

#[test]
fn a_file_that_is_not_there_says_so() {
    let failure = Config::load(Path::new("/no/such/keyward.yaml")).unwrap_err();
    assert_eq!(failure.exit(), process::Exit::Config);
    assert!(
        failure
            .to_string()
            .starts_with("cannot read /no/such/keyward.yaml\n  cause: ")
    );
}

#[test]
fn what_deserves_a_thought_is_said() {
    let smallest = parse(SMALLEST).unwrap();
    assert_eq!(smallest.warnings(), Vec::<String>::new());
    assert_eq!(
        smallest.notes(),
        ["tunnels.main: the CA key is unsealed on the disk that holds /var/lib/keyward/main"]
    );
    let text = WHOLE
        .replace("lifetime: 2160h", "lifetime: 2400h")
        .replace("subscribers: [65532]", "subscribers: []")
        .replace("[::1]:9000", "0.0.0.0:9000");
    let warnings = parse(&text).unwrap().warnings().join("\n");
    for part in [
        "no proxy can subscribe",
        "is not loopback",
        "is 100d",
        "is 1825d",
    ] {
        assert!(warnings.contains(part), "{warnings}\nlacks {part}");
    }
}
