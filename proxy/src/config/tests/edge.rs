//! What `carriers.edge` may say.

use std::path::Path;

use super::refusal;
use crate::config::{Config, SecretSource};

/// Every key.
pub(super) const WHOLE: &str = "carriers: {edge: {url: 'https://API.Edge.example:8443', \
    addresses: ['192.0.2.1:1', '[::1]:2'], ca_file: /ca, \
    pin: 'sha256:0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a', tunnel: tnl_1, \
    secret_file: /s, replica: r, connections: 3, \
    forward_proxy: {url: 'http://proxy:3128', credentials_file: /p}}}\n\
    control: {socket: /s, replica: r}\nroutes: {}\n";

const GOOD: &str = "url: https://api.e.example, tunnel: t, secret_file: /s";

fn file(keys: &str) -> String {
    format!(
        "carriers: {{edge: {{{keys}}}}}\nroutes: {{a.b: 'http://a:80'}}\n\
         tls: {{cert_file: /c, key_file: /k, client_ca: /d}}\n"
    )
}

#[test]
fn what_is_missing_is_named() {
    Config::from_text(&file(GOOD), None).expect("it is good");
    for key in ["url", "tunnel"] {
        let rest: Vec<_> = GOOD
            .split(", ")
            .filter(|part| !part.starts_with(key))
            .collect();
        let said = refusal(&file(&rest.join(", ")));
        let missing = format!("carriers.edge.{key} is not set");
        assert!(said.contains(&missing), "{said}");
    }
}

#[test]
fn without_a_secret_file_the_daemon_is_asked_about_the_one_tunnel_that_is_named() {
    let keys = GOOD.replace(", secret_file: /s", "");
    let with = |keys: &str, control: &str| format!("{}control: {{{control}}}\n", file(keys));
    let said = refusal(&file(&keys));
    for part in ["carriers.edge.secret_file", "control.socket"] {
        assert!(said.contains(part), "{said}");
    }
    for tunnels in ["", ", tunnels: []", ", tunnels: [one, two]"] {
        let said = refusal(&with(&keys, &format!("socket: /s{tunnels}")));
        assert!(
            said.contains("carriers.edge.secret_file is not set"),
            "{said}"
        );
        assert!(said.contains("control.tunnels"), "{said}");
    }
    let one = "socket: /s, tunnels: [one]";
    let config = Config::from_text(&with(&keys, one), None).unwrap();
    let read_back = Config::from_text(&config.effective(), None).unwrap();
    for config in [config, read_back] {
        let source = config.edge.unwrap().secret;
        assert!(matches!(source, SecretSource::Daemon(name) if name == "one"));
    }
    let both = Config::from_text(&with(GOOD, one), None).unwrap();
    let source = both.edge.unwrap().secret;
    assert!(matches!(source, SecretSource::File(path) if path == Path::new("/s")));
    for nothing in ["", "null", "''"] {
        let said = refusal(&with(&format!("{keys}, secret_file: {nothing}"), one));
        assert!(
            said.starts_with("carriers.edge.secret_file: \"\" is empty"),
            "{said}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    for (bad, what) in [
        ("url: http://e.example", "has another scheme"),
        (
            "url: https://u:p@e.example",
            "is more than scheme, host and port",
        ),
        (
            "url: https://e.example/path",
            "is more than scheme, host and port",
        ),
        (
            "connections: 0",
            "carriers.edge.connections: \"0\" is out of range",
        ),
        (
            "connections: 17",
            "carriers.edge.connections: \"17\" is out of range",
        ),
        ("addresses: [e.example]", "\"e.example\" is no address"),
        ("pin: 'sha256:00'", "\"sha256:00\" is no SHA-256"),
        (
            "forward_proxy: {}",
            "carriers.edge.forward_proxy.url is not set",
        ),
        ("secret: s", "unknown key \"secret\""),
    ] {
        let key = format!("{}:", bad.split(':').next().unwrap_or_default());
        let kept = GOOD.split(", ").filter(|part| !part.starts_with(&key));
        let keys: Vec<_> = kept.chain([bad]).collect();
        let said = refusal(&file(&keys.join(", ")));
        assert!(said.contains(what), "{bad}: {said}");
    }
}

/// Nothing behind the key is a template that was not filled in, and not the wish to trust everybody.
#[test]
fn an_authority_that_is_given_empty_is_not_left_out() {
    for (key, what) in [
        ("ca_file", "carriers.edge.ca_file: \"\" is empty"),
        ("pin", "carriers.edge.pin: \"\" is no SHA-256"),
    ] {
        for value in ["", "null", "~", "''"] {
            let said = refusal(&file(&format!("{GOOD}, {key}: {value}")));
            assert!(said.starts_with(what), "{key}: {value}: {said}");
        }
    }
}

#[test]
fn mutual_inner_tls_is_required_unless_the_switch_is_named() {
    let open = file(GOOD).replace(", client_ca: /d", "");
    assert!(refusal(&open).contains("whoever runs the edge could call"));
    let switched = format!("{GOOD}, allow_without_client_certificate: true");
    let switched = file(&switched).replace(", client_ca: /d", "");
    let config = Config::from_text(&switched, None).expect("the switch is named");
    let note = "# whoever runs the edge, and whoever it lets in, can call";
    assert!(config.effective().contains(note));
    let closed = Config::from_text(&file(GOOD), None).unwrap().effective();
    assert!(!closed.contains(note));
}

#[test]
fn a_replica_that_has_no_name_is_called_as_its_host_is() {
    let config = Config::from_text(&file(GOOD), None).unwrap();
    let edge = config.edge.unwrap();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(edge.replica, host.trim());
    assert_eq!((edge.port, edge.connections), (443, 2));
}
