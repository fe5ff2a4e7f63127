//! Refusals of the text itself.

use super::{GOOD, refusal, with};

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
            format!("{no_routes}routes: 8080\n"),
            "routes: line 3: cannot unmarshal !!int into map[string]string",
            map,
        ),
        (
            format!("{no_routes}routes: true\n"),
            "routes: line 3: cannot unmarshal !!bool into map[string]string",
            map,
        ),
        (
            format!("{no_routes}routes:\n  a.b: [http://docs:80]\n"),
            "routes: line 4: cannot unmarshal !!seq into string, the upstream of route \"a.b\"",
            map,
        ),
        (
            format!("{no_routes}routes:\n  a.b: {{preserve_host: true}}\n"),
            "routes: line 4: cannot unmarshal !!map without upstream into route \"a.b\"",
            map,
        ),
        (
            format!("{no_routes}routes:\n  a.b:\n    http: {{url: 'http://docs:80'}}\n"),
            "unknown key \"http\" in line 5",
            "the nearest known key is \"upstream\"",
        ),
        (
            format!("{no_routes}routes: {{a.b: 8000}}\n"),
            "route \"a.b\": invalid upstream (must be scheme://host:port): \"8000\"",
            upstream,
        ),
        (
            format!("{no_routes}routes: {{a.b: {{upstream: 8000}}}}\n"),
            "route \"a.b\": invalid upstream (must be scheme://host:port): \"8000\"",
            upstream,
        ),
        (
            format!("{no_routes}routes:\n  a.b:\n"),
            "route \"a.b\": invalid upstream (must be scheme://host:port): \"\"",
            upstream,
        ),
        (
            format!("{no_routes}routes: {{a.b: 'http://docs:http'}}\n"),
            "route \"a.b\": invalid upstream (must be scheme://host:port): \"http://docs:http\"",
            upstream,
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
            with("upstream: {allowed_ips: []}"),
            "upstream.allowed_ips is an empty list, with which nothing could be dialled",
            "remove the key for the private ranges, or list the networks of your upstreams",
        ),
        (
            with("upstream: {allowed_ips: [localhost]}"),
            "upstream.allowed_ips: \"localhost\" is neither an address nor a network",
            "write addresses or CIDR networks, for instance 192.0.2.0/24",
        ),
        (
            with("tls: {cert_file: /c, key_file: /k, client_ca: ''}"),
            "tls.client_ca: \"\" is empty",
            "write the path of the file, or leave the line out",
        ),
        (
            with("tls:\n  cert_file: /c\n  key_file: /k\n  client_ca:"),
            "tls.client_ca: \"\" is empty",
            "write the path of the file, or leave the line out",
        ),
    ] {
        assert_eq!(refusal(&text), format!("{what}\n  next: {next}"), "{text}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
            with("limits: {swap_grace: 1m1s}"),
            "limits.swap_grace: \"1m1s\" would hold an ack back for more than a minute",
            "write 60s or less; 500ms is the default",
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
            "set listen_addr, for instance \":8080\", carriers.tls.listen_addr, or carriers.edge",
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
        "tls: {cert_file: [1]}",
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
