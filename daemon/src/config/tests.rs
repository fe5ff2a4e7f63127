mod places;
mod values;

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
api: { url: 'https://api.edge.example', addresses: ['192.0.2.1', '2001:db8::1'], calls_per_minute: 5 }
tunnels:
  main:
    provider: tunnels_api
    tunnel_id: tnl_1
    connector: builtin
    domain: abcd1234.tunnel.example.com
    store: dir:/tmp/store
    serve_dir: /tmp/served
    server_certificate: { lifetime: 2160h, algorithm: rsa-2048, extra_names: ['127.0.0.1', '*.b.abcd1234.tunnel.example.com'] }
    ca: { lifetime: 1825d, algorithm: ecdsa-p384, constrained: true, settle: 0s }
    client_ca: { lifetime: 30d }
    routes:
      docs: http://127.0.0.1:8000
      wiki: { upstream: 'https://wiki_1.internal:443', preserve_host: true }
    rotate: { certificate: '0 3 * * *', ca: 180d, token: '0 10 * * 1', secret: 'off', window: 'MON-FRI 09:00-17:00', freeze: ['2026-12-24..2027-01-02'], timezone: Europe/Berlin }
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
    assert_eq!((&config.api.url, config.api.calls_per_minute), (&None, 60));
    let tunnel = &config.tunnels["main"];
    assert_eq!(
        (tunnel.remote(), tunnel.connector),
        (None, Connector::External)
    );
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
    assert!(tunnel.ca.constrained && tunnel.ca.settle.is_zero());
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

/// Each text says what is wrong and what to write.
fn assert_refused(cases: &[(String, &str, &str)]) {
    for (text, what, next) in cases {
        assert!(text.contains(what), "{text}\nlacks {what}");
        assert!(text.contains(next), "{text}\nlacks {next}");
    }
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
