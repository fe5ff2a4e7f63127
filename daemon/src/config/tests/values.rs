//! Keys and values that mean nothing.

use super::*;

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
         next: known keys here: state, log_level, control, operator, health, identity, api, tunnels"
    );
}

/// What the libraries that read YAML say is about types and options, which nobody can edit.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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

/// What a template leaves that was not filled in must not turn anything off; `null` may, as `check` prints it.
#[test]
fn a_key_that_turns_something_on_is_refused_when_it_is_given_empty() {
    let with = |line: &str| format!("{SMALLEST}    {line}\n");
    for (key, next) in [
        (
            "client_ca",
            "write {} for its defaults, or leave it out if callers need no certificate",
        ),
        (
            "routes",
            "write {} for no route, or leave it out if the proxy's own file has them",
        ),
        ("serve_dir", "write an absolute path, or leave it out"),
    ] {
        let expected = format!(
            "tunnels.main.{key} is empty\n  cause: a key without a value says neither on nor off; null says off\n  next: {next}"
        );
        for empty in ["", " ", " # later"] {
            assert_eq!(refusal(&with(&format!("{key}:{empty}"))), expected);
        }
        for off in ["null", "~"] {
            let text = with(&format!("{key}: {off}"));
            assert_eq!(parse(&text).unwrap(), parse(SMALLEST).unwrap(), "{text}");
        }
    }
    assert_eq!(
        refusal(&format!("identity:\n{SMALLEST}")),
        "identity is empty\n  cause: a key without a value says neither on nor off; null says off\n  \
         next: write its keys below it, or leave it out"
    );
    for mutual in ["{}", "{lifetime: 30d}"] {
        let config = parse(&with(&format!("client_ca: {mutual}"))).unwrap();
        assert!(config.tunnels["main"].client_ca.is_some(), "{mutual}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
fn the_other_side_is_named_where_it_is_called_and_nowhere_else() {
    let config = parse(WHOLE).unwrap();
    assert_eq!(config.api.url.as_deref(), Some("https://api.edge.example"));
    assert_eq!(config.api.calls_per_minute, 5);
    let tunnel = &config.tunnels["main"];
    assert_eq!(
        (tunnel.remote(), tunnel.connector),
        (Some("tnl_1"), Connector::Builtin)
    );
    for (from, to, said, next) in [
        (
            "    tunnel_id: tnl_1\n",
            "",
            "tunnels.main.tunnel_id is missing",
            "tnl_",
        ),
        (
            "tnl_1",
            "tnl/1",
            "tunnels.main.tunnel_id is \"tnl/1\"",
            "tnl_",
        ),
        (
            "tunnels_api",
            "static",
            "tunnels.main.tunnel_id is written, and the provider is static",
            "leave tunnel_id out",
        ),
        (
            "builtin",
            "carrier",
            "tunnels.main.connector is \"carrier\"",
            "builtin, cloudflared, external",
        ),
        (
            "https://api.edge",
            "http://api.edge",
            "api.url is \"http://api.edge.example\"",
            "https://",
        ),
        (
            "_minute: 5",
            "_minute: 0",
            "api.calls_per_minute is 0",
            "1 or more",
        ),
    ] {
        let text = refusal(&WHOLE.replace(from, to));
        assert!(text.contains(said) && text.contains(next), "{text}");
    }
}

#[test]
fn what_can_rotate_by_itself_does_so_weekly_in_working_hours_at_a_minute_of_its_own() {
    let remote = |name: &str, connector: &str| {
        let text = WHOLE
            .replace("builtin", connector)
            .replace("  main:", &format!("  {name}:"));
        let (text, _) = text.split_once("    rotate:").unwrap();
        parse(text).unwrap().tunnels[name].rotate.clone()
    };
    let shown = |rotate: &RotateConfig| rotate.kinds().map(|(_, when)| when.to_string());
    let by_hand = &parse(SMALLEST).unwrap().tunnels["main"].rotate;
    assert_eq!(shown(by_hand), ["auto", "off", "off", "off"]);
    assert_eq!(
        shown(&remote("main", "external")),
        ["auto", "auto", "off", "off"]
    );
    let [_, _, token, secret] = shown(&remote("main", "cloudflared"));
    assert_eq!(secret, "off");
    let fields: Vec<u8> = token
        .replace('*', "0")
        .split(' ')
        .map(|field| field.parse().unwrap())
        .collect();
    assert!(
        (10..=15).contains(&fields[1]) && (1..=4).contains(&fields[4]),
        "{token}"
    );
    let distinct: std::collections::BTreeSet<String> = (0..50)
        .flat_map(|number| {
            let [_, _, token, secret] = shown(&remote(&format!("t{number}"), "builtin"));
            [token, secret]
        })
        .collect();
    assert!(distinct.len() > 90, "{} of 100", distinct.len());
}

#[test]
fn a_rotation_that_could_not_be_carried_out_by_itself_is_refused() {
    let with = |text: &str, from: &str, to: &str| refusal(&text.replace(from, to));
    for (from, to, said, next) in [
        (
            "'0 10 * * 1'",
            "'0 10 * *'",
            "tunnels.main.rotate.token is \"0 10 * *\"",
            "it has 4 fields",
        ),
        (
            "'0 10 * * 1'",
            "auto",
            "tunnels.main.rotate.token is \"auto\"",
            "five fields",
        ),
        (
            "180d",
            "30m",
            "tunnels.main.rotate.ca is \"30m\"",
            "from 1h to 3650d",
        ),
        (
            "Europe/Berlin",
            "Berlin",
            "tunnels.main.rotate.timezone is \"Berlin\"",
            "IANA",
        ),
        (
            "MON-FRI 09",
            "9",
            "tunnels.main.rotate.window is \"9:00-17:00\"",
            "09:00-17:00",
        ),
        (
            "..2027",
            "..2026",
            "tunnels.main.rotate.freeze has",
            "2026-12-24",
        ),
        (
            "builtin",
            "external",
            "tunnels.main.rotate.token cannot rotate by itself",
            "nobody restarts",
        ),
        ("secret: 'off'", "secret: 7d", "", ""),
    ] {
        if said.is_empty() {
            parse(&WHOLE.replace(from, to)).unwrap();
            let text = with(&WHOLE.replace(from, to), "builtin", "cloudflared");
            assert!(
                text.contains("rotate.secret cannot rotate by itself"),
                "{text}"
            );
            continue;
        }
        let text = with(WHOLE, from, to);
        assert!(text.contains(said) && text.contains(next), "{text}");
    }
    let by_hand = format!("{SMALLEST}    rotate: {{ca: auto}}\n");
    assert!(refusal(&by_hand).contains("verifiers are told by hand"));
}

#[test]
fn the_next_runs_are_those_that_window_and_frozen_days_let_begin() {
    let rotate = &parse(WHOLE).unwrap().tunnels["main"].rotate;
    // Friday 2026-12-18, 12:00 UTC.
    let coming = rotate.coming(1_797_595_200, 3);
    let shown = coming.iter().map(|(key, runs)| {
        let runs = runs
            .iter()
            .map(|at| process::rfc3339(std::time::UNIX_EPOCH + Duration::from_secs(*at)));
        (*key, runs.collect::<Vec<_>>())
    });
    let [certificate, token] = shown.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(certificate.0, "certificate");
    assert_eq!(
        certificate.1,
        [
            "2026-12-21T08:00:00Z",
            "2026-12-22T08:00:00Z",
            "2026-12-23T08:00:00Z"
        ]
    );
    assert_eq!(token.0, "token");
    assert_eq!(
        token.1,
        [
            "2026-12-21T09:00:00Z",
            "2027-01-04T08:00:00Z",
            "2027-01-04T09:00:00Z"
        ]
    );
}

#[test]
fn the_time_to_settle_is_of_the_ca_alone_and_shorter_than_what_is_given_up() {
    let config = parse(SMALLEST).unwrap();
    assert_eq!(config.tunnels["main"].ca.settle, Duration::from_secs(900));
    for (settings, said) in [
        ("ca: {settle: 13h}", "ca.settle is \"13h\""),
        ("ca: {settle: soon}", "ca.settle is \"soon\""),
        ("client_ca: {settle: 1m}", "client_ca.settle has no meaning"),
    ] {
        let text = refusal(&format!("{SMALLEST}    {settings}\n"));
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_command_that_restarts_is_for_somebody_elses_connector_and_lets_the_token_rotate_by_itself() {
    let external = WHOLE
        .replace("connector: builtin", "connector: external")
        .replace("secret: 7d", "secret: 'off'");
    let with = |command: &str| {
        external.replace(
            "connector: external",
            &format!("connector: external\n    restart: {command}"),
        )
    };
    let config = parse(&with("[/bin/systemctl, restart, 'it s']")).unwrap();
    let command = ["/bin/systemctl", "restart", "it s"].map(str::to_owned);
    assert_eq!(config.tunnels["main"].restart, Some(command.to_vec()));
    assert!(matches!(config.tunnels["main"].rotate.token, When::At(_)));
    for (command, said) in [
        ("[systemctl]", "does not begin with an absolute path"),
        ("[]", "does not begin with an absolute path"),
        ("/bin/true", "restart takes a list"),
        ("", "tunnels.main.restart is empty"),
    ] {
        let text = refusal(&with(command));
        assert!(text.contains(said), "{text}");
    }
    let by_hand = format!("{SMALLEST}    restart: [/bin/true]\n");
    assert!(refusal(&by_hand).contains("nothing is restarted"));
}
