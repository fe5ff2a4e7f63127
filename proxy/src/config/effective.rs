//! The configuration in force, written so that it reads back.

use std::fmt::Write;

use super::{Config, RouteSource, SecretSource, value::write_duration};

/// What the switch means. Whom the edge lets in is not known here.
const OPEN: &str = "whoever runs the edge, and whoever it lets in, can call: give the tunnel client rules or \
    networks at the edge, or set this to false and tls.client_ca";

pub(super) fn write(config: &Config) -> String {
    let mut page = Page(String::new());
    page.line(0, "log_level", &config.log_level);
    if let Some(addr) = config.websocket {
        page.text(0, "listen_addr", &addr.to_string());
    }
    let limits = &config.limits;
    page.line(
        0,
        "shutdown_timeout",
        &write_duration(limits.shutdown_timeout),
    );
    if let Some(domain) = &config.tunnel_domain {
        page.text(0, "tunnel_domain", domain);
    }
    credential(&mut page, config);
    carriers(&mut page, config);
    routes(&mut page, &config.routes);
    upstream(&mut page, config);
    page.section(0, "health");
    page.text(1, "listen_addr", &config.health.addr.to_string());
    page.section(0, "limits");
    for (key, value) in [
        ("handshake_timeout", limits.handshake_timeout),
        ("swap_grace", limits.swap_grace),
        ("drain", limits.drain),
        ("idle_comment", limits.idle_comment),
        ("idle_timeout", limits.idle_timeout),
        ("connect_timeout", limits.connect_timeout),
        ("upstream_idle", limits.upstream_idle),
    ] {
        page.line(1, key, &write_duration(value));
    }
    for (key, value) in [
        ("pending_handshakes", limits.pending_handshakes),
        ("connections", limits.connections),
        (
            "upstream_idle_connections",
            limits.upstream_idle_connections,
        ),
    ] {
        page.line(1, key, &value.to_string());
    }
    page.line(
        1,
        "concurrent_streams",
        &limits.concurrent_streams.to_string(),
    );
    page.0
}

fn carriers(page: &mut Page, config: &Config) {
    if config.tls.is_some() || config.edge.is_some() {
        page.section(0, "carriers");
    }
    if let Some(tls) = config.tls {
        page.section(1, "tls");
        page.text(2, "listen_addr", &tls.addr.to_string());
        page.line(2, "proxy_protocol", &tls.proxy_protocol.to_string());
    }
    let Some(edge) = &config.edge else { return };
    page.section(1, "edge");
    page.text(2, "url", &format!("https://{}:{}", edge.host, edge.port));
    let addresses = edge.addresses.iter().map(ToString::to_string);
    page.list(2, "addresses", addresses);
    if let Some(path) = &edge.ca_file {
        page.text(2, "ca_file", &path.to_string_lossy());
    }
    if let Some(pin) = &edge.pin {
        let mut text = "sha256:".to_owned();
        for octet in pin {
            let _ = write!(text, "{octet:02x}");
        }
        page.text(2, "pin", &text);
    }
    page.text(2, "tunnel", &edge.tunnel);
    match &edge.secret {
        SecretSource::File(path) => page.text(2, "secret_file", &path.to_string_lossy()),
        SecretSource::Daemon(name) => {
            let from = format!("the daemon sends the secret of {}", quote(name));
            page.note(2, &from);
        }
    }
    page.text(2, "replica", &edge.replica);
    page.line(2, "connections", &edge.connections.to_string());
    if let Some(forward) = &edge.forward_proxy {
        page.section(2, "forward_proxy");
        page.text(
            3,
            "url",
            &format!("http://{}:{}", forward.host, forward.port),
        );
        if let Some(path) = &forward.credentials_file {
            page.text(3, "credentials_file", &path.to_string_lossy());
        }
    }
    let switch = edge.allow_without_client_certificate;
    page.line(2, "allow_without_client_certificate", &switch.to_string());
    if switch {
        page.note(2, OPEN);
    }
}

fn credential(page: &mut Page, config: &Config) {
    if let Some(files) = &config.files {
        page.section(0, "tls");
        page.text(1, "cert_file", &files.certificate.to_string_lossy());
        page.text(1, "key_file", &files.key.to_string_lossy());
        if let Some(path) = &files.client_ca {
            page.text(1, "client_ca", &path.to_string_lossy());
        }
    }
    if let Some(control) = &config.control {
        page.section(0, "control");
        page.text(1, "socket", &control.socket.to_string_lossy());
        if let Some(uid) = control.daemon_uid {
            page.line(1, "daemon_uid", &uid.to_string());
        }
        page.list(1, "tunnels", control.tunnels.iter().cloned());
        page.text(1, "replica", &control.replica);
    }
}

fn routes(page: &mut Page, routes: &RouteSource) {
    let RouteSource::File(routes) = routes else {
        return page.line(0, "routes", "daemon");
    };
    if routes.is_empty() {
        return page.line(0, "routes", "{}");
    }
    page.section(0, "routes");
    for (name, route) in routes {
        if route.preserve_host {
            page.section(1, &quote(name));
            page.text(2, "upstream", &route.upstream);
            page.line(2, "preserve_host", "true");
        } else {
            page.text(1, &quote(name), &route.upstream);
        }
    }
}

fn upstream(page: &mut Page, config: &Config) {
    let policy = &config.upstream;
    page.section(0, "upstream");
    if let Some(networks) = &policy.allowed_ips {
        page.list(1, "allowed_ips", networks.iter().map(ToString::to_string));
    }
    page.line(1, "disable_ip_validation", &(!policy.validate).to_string());
    page.section(1, "tls");
    if let Some(path) = &policy.ca_file {
        page.text(2, "ca_file", &path.to_string_lossy());
    }
    page.line(
        2,
        "include_system_cas",
        &policy.include_system_cas.to_string(),
    );
}

struct Page(String);

impl Page {
    fn section(&mut self, depth: usize, key: &str) {
        let _ = writeln!(self.0, "{:1$}{key}:", "", depth * 2);
    }

    fn line(&mut self, depth: usize, key: &str, value: &str) {
        let _ = writeln!(self.0, "{:1$}{key}: {value}", "", depth * 2);
    }

    fn note(&mut self, depth: usize, text: &str) {
        let _ = writeln!(self.0, "{:1$}# {text}", "", depth * 2);
    }

    fn text(&mut self, depth: usize, key: &str, value: &str) {
        self.line(depth, key, &quote(value));
    }

    fn list(&mut self, depth: usize, key: &str, items: impl Iterator<Item = String>) {
        let items: Vec<String> = items.map(|item| quote(&item)).collect();
        self.line(depth, key, &format!("[{}]", items.join(", ")));
    }
}

/// YAML's double-quoted style is a superset of a JSON string.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
