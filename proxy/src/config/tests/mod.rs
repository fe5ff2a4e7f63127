//! What a file means, and that every refusal has its text, its next step and its exit code.

mod documents;
mod edge;
mod files;
mod refusals;

use std::path::Path;
use std::time::Duration;

use process::{Exit, Failure};

use super::{Config, RouteSource};

/// A file that is right in everything that a test does not change.
const GOOD: &str =
    "listen_addr: ':8080'\ncontrol: {socket: /run/k.sock}\nroutes: {a.b: 'http://a:80'}\n";

fn refusal(text: &str) -> String {
    let error = Config::from_text(text, None).map(|config| config.effective());
    let error = error.expect_err(text);
    let failure = Failure::from(error);
    assert_eq!(failure.exit(), Exit::Config, "{failure}");
    failure.to_string()
}

fn with(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

#[test]
fn the_stock_file_is_read_unchanged() {
    let text = r#"
# /etc/mcp-gateway/config.yaml
listen_addr: ":8080"
log_level: info
shutdown_timeout: 30s
tunnel_domain: "ABCD1234.tunnel.anthropic.com"
tls:
  cert_file: /data/tls.crt
  key_file: /data/tls.key
routes:
  docs: http://docs-mcp:8000
  wiki.example.com: https://10.0.0.7:8443
upstream:
  allowed_ips:
    - 10.0.0.0/8
    - 192.0.2.7
  disable_ip_validation: false
  tls:
    ca_file: /data/ca.pem
    include_system_cas: true
"#;
    let config = Config::from_text(text, None).unwrap();
    assert_eq!(config.websocket.unwrap().to_string(), "[::]:8080");
    assert_eq!(
        config.tunnel_domain.as_deref(),
        Some("abcd1234.tunnel.anthropic.com")
    );
    assert_eq!(config.limits.shutdown_timeout, Duration::from_secs(30));
    let files = config.files.as_ref().unwrap();
    assert_eq!(files.certificate, Path::new("/data/tls.crt"));
    let RouteSource::File(routes) = &config.routes else {
        panic!("routes of the file");
    };
    assert_eq!(routes["docs"].upstream, "http://docs-mcp:8000");
    let networks = config.upstream.allowed_ips.as_ref().unwrap();
    assert_eq!(networks[1].to_string(), "192.0.2.7/32");
    assert!(config.upstream.include_system_cas && config.upstream.validate);
    assert_eq!(config.health.addr.to_string(), "127.0.0.1:9464");
    assert!(!config.health.explicit);
    let empty = text.replace("ca_file: /data/ca.pem", "ca_file: \"\"");
    let config = Config::from_text(&empty, None).unwrap();
    assert_eq!(config.upstream.ca_file, None, "a template without a value");
}

#[test]
fn the_flag_stands_before_the_files_tunnel_domain() {
    let text = with("tunnel_domain: file.example");
    let domain = |flag| {
        Config::from_text(&text, flag)
            .unwrap()
            .tunnel_domain
            .unwrap()
    };
    assert_eq!(domain(Some(".Flag.example.")), "flag.example");
    assert_eq!(domain(Some("")), "file.example");
    assert_eq!(domain(None), "file.example");
}

#[test]
fn what_is_printed_reads_back_to_the_same() {
    for text in [
        GOOD.to_owned(),
        "carriers: {tls: {listen_addr: '127.0.0.1:8443', proxy_protocol: true}}\nroutes: daemon\n\
         control: {socket: /s, daemon_uid: 7, tunnels: [a, b], replica: r}\nhealth: {listen_addr: ':1'}\n\
         limits: {idle_comment: 1m30s, idle_timeout: 2m30s, swap_grace: 250ms, connections: 5, upstream_idle: 1us}\n"
            .to_owned(),
        "listen_addr: ':1'\ntls: {cert_file: \"/a b\", key_file: \"/c\\\"\", client_ca: /d}\n\
         routes: {'a.b': {upstream: 'http://a:80', preserve_host: true}, 'c.d': 'http://c:1'}\n\
         upstream: {disable_ip_validation: true}\n"
            .to_owned(),
        "listen_addr: ':1'\ncontrol: {socket: /s}\nroutes: {}\n".to_owned(),
        edge::WHOLE.to_owned(),
    ] {
        let config = Config::from_text(&text, None).unwrap_or_else(|e| panic!("{e} {text}"));
        let printed = config.effective();
        let again = Config::from_text(&printed, None).unwrap_or_else(|e| panic!("{e} {printed}"));
        assert_eq!(again.effective(), printed);
        // Printing makes the default listener of health explicit, and nothing else changes.
        let shown = |config: &Config| format!("{config:?}").replace("explicit: false", "explicit: true");
        assert_eq!(shown(&again), shown(&config));
    }
}

#[test]
fn every_instance_of_a_host_has_a_name_of_its_own_and_keeps_it() {
    let directory = tempfile::tempdir().unwrap();
    let name = |file: &str, port: u16, more: &str| {
        let path = directory.path().join(file);
        let text = format!(
            "listen_addr: ':{port}'\ncontrol: {{socket: /s{more}}}\nroutes: {{a.b: 'http://a:80'}}\n"
        );
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path, None, std::time::SystemTime::UNIX_EPOCH).unwrap();
        config.control.unwrap().replica
    };
    let first = name("a.yaml", 1, "");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let mark = first.strip_prefix(host.trim()).unwrap();
    assert_eq!(mark.len(), "-00000000".len(), "{first}");
    assert_eq!(name("a.yaml", 1, ""), first);
    assert_eq!(name("a.yaml", 1, ", tunnels: [x]"), first);
    assert_ne!(name("b.yaml", 1, ""), first);
    assert_ne!(name("a.yaml", 2, ""), first);
    assert_eq!(name("a.yaml", 1, ", replica: r"), "r");
}
