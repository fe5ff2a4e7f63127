//! Every refusal by its text, its next step and its exit code; and what the stock file means.

use std::path::Path;
use std::time::{Duration, SystemTime};

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
fn each_refusal_of_routes_has_its_text_and_its_next_step() {
    let no_routes = "listen_addr: ':8080'\ncontrol: {socket: /run/k.sock}\n";
    let map = "write routes as a map with one line for each, name: scheme://host:port";
    let upstream = "write scheme, host and port and nothing else, for instance http://docs:8000";
    for (text, what, next) in [
        (
            format!("{no_routes}routes:\n  - docs: http://docs:80\n"),
            "routes: line 4: cannot unmarshal !!seq into map[string]string",
            map,
        ),
        (
            format!("{no_routes}routes: deamon\n"),
            "routes: line 3: cannot unmarshal !!str into map[string]string",
            map,
        ),
        (
            no_routes.to_owned(),
            "routes is not set",
            "write one line for each upstream, name: scheme://host:port",
        ),
        (
            format!("{no_routes}routes: {{a.b: 'http://docs:80/mcp'}}\n"),
            "route \"a.b\": invalid upstream (must be scheme://host:port): \"http://docs:80/mcp\"",
            upstream,
        ),
        (
            format!("{no_routes}routes: {{a.b: 'http://docs'}}\n"),
            "route \"a.b\": invalid upstream (must be scheme://host:port): \"http://docs\"",
            upstream,
        ),
        (
            format!("{no_routes}routes: {{A.b: 'http://a:80', a.B: 'http://b:80'}}\n"),
            "routes \"A.b\" and \"a.B\" are the same host",
            "remove \"a.B\"",
        ),
        (
            format!("{no_routes}routes: {{a.b: 'http://a:80', a.b: 'http://b:80'}}\n"),
            "key \"a.b\" is given twice, again in line 3",
            "remove one of the two",
        ),
        (
            format!("{no_routes}routes: {{a.b: 'https://a:443'}}\n"),
            "route \"a.b\" is https and no certificate authorities are configured for upstreams",
            "set upstream.tls.ca_file, or upstream.tls.include_system_cas: true",
        ),
        (
            "listen_addr: ':1'\ntls: {cert_file: /c, key_file: /k}\nroutes: {docs: 'http://a:80'}\n".to_owned(),
            "route \"docs\" is a bare subdomain and tunnel_domain is not set",
            "set tunnel_domain, or write the whole host name in place of \"docs\"",
        ),
    ] {
        assert_eq!(refusal(&text), format!("{what}\n  next: {next}"), "{text}");
    }
}

#[test]
fn each_refusal_of_keys_and_networks_has_its_text_and_its_next_step() {
    let no_routes = "listen_addr: ':8080'\ncontrol: {socket: /run/k.sock}\n";
    for (text, what, next) in [
        (
            with("log_levle: info"),
            "unknown key \"log_levle\" in line 4",
            "the nearest known key is \"log_level\"",
        ),
        (
            with("cert_file: /x"),
            "unknown key \"cert_file\" in line 4",
            "the nearest known key is \"tls.cert_file\"",
        ),
        (
            with("upstream:\n  tls:\n    ca_flie: /x"),
            "unknown key \"ca_flie\" in line 6",
            "the nearest known key is \"ca_file\"",
        ),
        (
            format!(
                "{no_routes}routes: {{a.b: {{upstream: 'http://a:80', preserve-host: true}}}}\n"
            ),
            "unknown key \"preserve-host\" in line 3",
            "the nearest known key is \"preserve_host\"",
        ),
        (
            with("upstream: {allowed_ips: [10.0.0.0/8], disable_ip_validation: true}"),
            "upstream.allowed_ips and upstream.disable_ip_validation exclude each other",
            "remove upstream.disable_ip_validation and keep the list",
        ),
        (
            with("upstream: {allowed_ips: [localhost]}"),
            "upstream.allowed_ips: \"localhost\" is neither an address nor a network",
            "write addresses or CIDR networks, for instance 192.0.2.0/24",
        ),
    ] {
        assert_eq!(refusal(&text), format!("{what}\n  next: {next}"), "{text}");
    }
}

#[test]
fn each_refusal_of_anything_else_has_its_text_and_its_next_step() {
    let duration = "write a number with a unit, for instance 30s, 1m30s or 500ms";
    let address = "write IP:PORT or :PORT, for instance \":8080\"";
    for (text, what, next) in [
        (
            with("shutdown_timeout: 30"),
            "shutdown_timeout: \"30\" has no unit",
            duration,
        ),
        (
            with("shutdown_timeout: soon"),
            "shutdown_timeout: \"soon\" is not a duration",
            duration,
        ),
        (
            with("limits: {drain: 5d}"),
            "limits.drain: \"5d\" has an unknown unit",
            duration,
        ),
        (
            with("limits: {connect_timeout: 0s}"),
            "limits.connect_timeout: \"0\" would refuse everything",
            duration,
        ),
        (
            with("limits: {connections: 0}"),
            "limits.connections: \"0\" would refuse everything",
            "write a number above zero",
        ),
        (
            GOOD.replace("':8080'", "8080"),
            "listen_addr: \"8080\" is no address to listen on",
            address,
        ),
        (
            with("health: {listen_addr: 'localhost'}"),
            "health.listen_addr: \"localhost\" is no address to listen on",
            address,
        ),
        (
            GOOD.replace("listen_addr: ':8080'\n", ""),
            "no carrier is configured",
            "set listen_addr, for instance \":8080\", or carriers.tls.listen_addr",
        ),
        (
            with("carriers: {tls: {}}"),
            "carriers.tls.listen_addr is not set",
            address,
        ),
        (
            "listen_addr: ':1'\nroutes: {a.b: 'http://a:80'}\n".to_owned(),
            "no source of a server certificate is configured",
            "set tls.cert_file and tls.key_file, or control.socket",
        ),
        (
            with("tls: {cert_file: /c}"),
            "tls.key_file is not set",
            "write the path of the PEM private key",
        ),
        (
            "listen_addr: ':1'\ntls: {cert_file: /c, key_file: /k}\nroutes: daemon\n".to_owned(),
            "routes is \"daemon\" and control is not configured",
            "set control.socket, or write the routes here",
        ),
        (
            GOOD.replace("/run/k.sock", "''"),
            "control.socket is not set",
            "write the path of the daemon's control socket",
        ),
        (
            with("log_level: trace"),
            "log_level: \"trace\" is no level",
            "write one of debug, info, warn, error",
        ),
        (
            with("tunnel_domain: 'https://x'"),
            "tunnel_domain: \"https://x\" is no domain name",
            "write the tunnel's domain, for instance abcd1234.tunnel.anthropic.com",
        ),
    ] {
        assert_eq!(refusal(&text), format!("{what}\n  next: {next}"), "{text}");
    }
}

#[test]
fn what_is_no_yaml_or_has_the_wrong_shape_is_refused_in_one_line() {
    for text in [
        "log_level: [",
        "routes: {a: [1]}",
        "listen_addr: [1]",
        "- a",
        "\"",
        "log_level: b: c",
        "\u{0}",
        "limits: {connections: -1}",
    ] {
        let refusal = refusal(text);
        assert!(
            refusal.starts_with("the configuration is not valid YAML: "),
            "{text:?} {refusal}"
        );
        assert_eq!(refusal.lines().count(), 2, "{refusal}");
    }
}

mod files {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use pki::{
        Algorithm, Authority, AuthorityProfile, CertifiedKey, PrivateKey, Serial, ServerProfile,
    };

    use super::*;

    /// Some day of 2027.
    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn now() -> SystemTime {
        NOW + Duration::from_secs(1_800_000_000)
    }

    fn pair() -> CertifiedKey {
        let authority = Authority::generate(&AuthorityProfile::server("a CA"), now()).unwrap();
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        authority
            .issue(
                &ServerProfile::new("t.example"),
                key,
                Serial::random(),
                now(),
            )
            .unwrap()
    }

    /// A directory with a good pair and a configuration that names it.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            let pair = pair();
            files.write("tls.crt", &pair.chain_pem());
            files.write("tls.key", &pair.key_pem());
            files
        }

        fn path(&self, name: &str) -> String {
            self.0.path().join(name).to_str().unwrap().to_owned()
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.path(name), text).unwrap();
        }

        /// What is said to a configuration of these files and `more`, where `DIR` stands for the
        /// directory; the directory is written `/data`.
        fn verdict(&self, more: &str, now: SystemTime) -> String {
            let text = "listen_addr: ':0'\ntls: {cert_file: DIR/tls.crt, key_file: DIR/tls.key}\n";
            let routes = if more.contains("routes:") {
                ""
            } else {
                "routes: {a.b: 'http://a:80'}\n"
            };
            let here = self.0.path().to_str().unwrap();
            self.write(
                "config.yaml",
                &format!("{text}{routes}{more}").replace("DIR", here),
            );
            let config = self.path("config.yaml");
            match Config::read(Path::new(&config), None, now) {
                Ok(_) => "good".to_owned(),
                Err(error) => {
                    let failure = Failure::from(error);
                    assert_eq!(failure.exit(), Exit::Config);
                    failure.to_string().replace(here, "/data")
                }
            }
        }
    }

    #[test]
    fn a_good_pair_is_taken() {
        assert_eq!(Files::new().verdict("", now()), "good");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let missing = Config::load(Path::new("/nonexistent/config.yaml"), None).unwrap_err();
        assert_eq!(missing.exit(), Exit::Config);
        assert_eq!(
            missing.to_string(),
            "open /nonexistent/config.yaml: no such file or directory\n  \
             next: create /nonexistent/config.yaml, or correct the path"
        );
        let files = Files::new();
        fs::remove_file(files.path("tls.crt")).unwrap();
        assert_eq!(
            files.verdict("", now()),
            "open /data/tls.crt: no such file or directory\n  next: create /data/tls.crt, or correct the path"
        );
    }

    #[test]
    fn a_key_that_may_not_be_read_is_refused_as_the_stock_proxy_does() {
        let files = Files::new();
        fs::set_permissions(files.path("tls.key"), fs::Permissions::from_mode(0o000)).unwrap();
        let denied = "open /data/tls.key: permission denied\n  next: let the user of this process read /data/tls.key";
        match files.verdict("", now()).as_str() {
            // Root reads everything, so for root the same text is made from the same error.
            "good" => {
                let error = super::super::ConfigError::Open {
                    path: "/data/tls.key".into(),
                    error: std::io::Error::from_raw_os_error(13),
                };
                assert_eq!(Failure::from(error).to_string(), denied);
            }
            refused => assert_eq!(refused, denied),
        }
        fs::remove_file(files.path("tls.key")).unwrap();
        fs::create_dir(files.path("tls.key")).unwrap();
        assert_eq!(
            files.verdict("", now()),
            "open /data/tls.key: is a directory\n  next: make /data/tls.key a readable file"
        );
    }

    #[test]
    fn a_pair_that_is_none_is_refused() {
        let files = Files::new();
        files.write("tls.key", &pair().key_pem());
        assert_eq!(
            files.verdict("", now()),
            "/data/tls.key is not the key of the certificate in /data/tls.crt\n  next: put certificate and \
             key of the same issuance there, or let keyward renew-cert write both"
        );
        files.write("tls.key", "");
        let unencrypted = "write the private key there as unencrypted PEM";
        assert_eq!(
            files.verdict("", now()),
            format!("/data/tls.key holds no private key\n  next: {unencrypted}")
        );
        files.write(
            "tls.key",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        );
        assert_eq!(
            files.verdict("", now()),
            format!("/data/tls.key is no usable private key\n  next: {unencrypted}")
        );
        files.write("tls.crt", "no pem");
        assert_eq!(
            files.verdict("", now()),
            "/data/tls.crt holds no certificate\n  \
             next: write the PEM certificate chain there, the server certificate first"
        );
    }

    #[test]
    fn a_certificate_out_of_its_dates_is_refused() {
        let files = Files::new();
        let day = Duration::from_secs(24 * 3600);
        assert_eq!(
            files.verdict("", now() + 30 * day),
            "the certificate in /data/tls.crt has expired\n  next: renew it: keyward renew-cert"
        );
        assert_eq!(
            files.verdict("", now() - 30 * day),
            "the certificate in /data/tls.crt is not yet valid\n  \
             next: compare the clocks of this machine and of the issuer"
        );
    }

    #[test]
    fn bad_files_are_no_reason_to_refuse_where_the_daemon_brings_the_certificate() {
        let files = Files::new();
        fs::remove_file(files.path("tls.key")).unwrap();
        assert_eq!(files.verdict("control: {socket: /s}\n", now()), "good");
    }

    #[test]
    fn an_https_route_needs_authorities_that_can_be_read() {
        let files = Files::new();
        let routes = "routes: {a.b: 'https://a:443'}\nupstream: {tls: {ca_file: DIR/ca.pem}}\n";
        assert!(
            files
                .verdict(routes, now())
                .starts_with("open /data/ca.pem: no such file or directory\n")
        );
        files.write("ca.pem", "");
        assert_eq!(
            files.verdict(routes, now()),
            "/data/ca.pem holds no certificate\n  \
             next: write the PEM certificate chain there, the server certificate first"
        );
        files.write(
            "ca.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        assert!(
            files
                .verdict(routes, now())
                .starts_with("/data/ca.pem is no certificate that TLS can serve: ")
        );
        files.write("ca.pem", &pair().chain_pem());
        assert_eq!(files.verdict(routes, now()), "good");
        // Without an https route nobody needs it yet.
        files.write("ca.pem", "");
        assert_eq!(
            files.verdict("upstream: {tls: {ca_file: DIR/ca.pem}}\n", now()),
            "good"
        );
    }

    #[test]
    fn client_authorities_must_be_there_when_they_are_named() {
        let files = Files::new();
        files.write("ca.pem", "");
        let tls = "tls: {cert_file: DIR/tls.crt, key_file: DIR/tls.key, client_ca: DIR/ca.pem}";
        let here = files.0.path().to_str().unwrap();
        let text = format!("listen_addr: ':0'\n{tls}\nroutes: {{}}\n").replace("DIR", here);
        files.write("config.yaml", &text);
        let refused = Config::read(Path::new(&files.path("config.yaml")), None, now()).unwrap_err();
        assert!(
            refused.to_string().ends_with("ca.pem holds no certificate"),
            "{refused}"
        );
    }
}
