//! What the configuration file says, as types that cannot be wrong.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// Everything the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `debug`, `info`, `warn`, `error`.
    pub log_level: String,
    /// Where the stock connector's WebSockets arrive (`listen_addr`).
    pub websocket: Option<SocketAddr>,
    /// Where plain TCP carries inner TLS.
    pub tls: Option<TlsListener>,
    /// `<tunnel-domain>`, lower case, without a leading dot.
    pub tunnel_domain: Option<String>,
    /// Certificate and key files, watched.
    pub files: Option<CredentialFiles>,
    /// The daemon's control channel.
    pub control: Option<ControlSource>,
    /// Where routes come from.
    pub routes: RouteSource,
    /// Which addresses may be dialled, and how.
    pub upstream: UpstreamPolicy,
    /// Where health and metrics are read.
    pub health: HealthListener,
    /// How much and how long.
    pub limits: Limits,
}

/// The carrier `tls`.
#[derive(Clone, Copy, Debug)]
pub struct TlsListener {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Each connection begins with a PROXY protocol v2 header.
    pub proxy_protocol: bool,
}

/// Source 2: files, hashed every 250 ms.
#[derive(Clone, Debug)]
pub struct CredentialFiles {
    /// PEM chain, the server certificate first.
    pub certificate: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates; present: a client certificate under one of them is required.
    pub client_ca: Option<PathBuf>,
}

/// Source 1: the control channel.
#[derive(Clone, Debug)]
pub struct ControlSource {
    /// Path of the daemon's socket.
    pub socket: PathBuf,
    /// The uid that the daemon must have; `None`: root or our own.
    pub daemon_uid: Option<u32>,
    /// The tunnels to subscribe to; empty: all.
    pub tunnels: Vec<String>,
    /// Name of this replica; default: the host's name.
    pub replica: String,
}

/// Where routes come from.
#[derive(Clone, Debug)]
pub enum RouteSource {
    /// This file; it is read again when it changes.
    File(BTreeMap<String, control::Route>),
    /// The daemon's policy.
    Daemon,
}

/// Which addresses may be dialled, and how.
#[derive(Clone, Debug)]
pub struct UpstreamPolicy {
    /// Replaces the private ranges when given. Empty with `validate: false`.
    pub allowed_ips: Option<Vec<IpNet>>,
    /// `false`: `disable_ip_validation`.
    pub validate: bool,
    /// PEM bundle for https upstreams.
    pub ca_file: Option<PathBuf>,
    /// The system's certificate authorities for https upstreams.
    pub include_system_cas: bool,
}

/// Where health and metrics are read.
#[derive(Clone, Copy, Debug)]
pub struct HealthListener {
    /// Loopback unless told otherwise.
    pub addr: SocketAddr,
    /// Written in the file: failing to bind is fatal then, a warning otherwise.
    pub explicit: bool,
}

/// How much and how long. Every one has a default in `config`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From accept to the end of the inner TLS handshake.
    pub handshake_timeout: Duration,
    /// Connections that may be in front of a complete handshake at once; beyond it the oldest ends.
    pub pending_handshakes: usize,
    /// Established connections; beyond it a new one is refused.
    pub connections: usize,
    /// Handshakes begun under the last generation get this long before the ack.
    pub swap_grace: Duration,
    /// Calls in flight get this long when their generation falls below `lowest`.
    pub drain: Duration,
    /// Everything in flight gets this long at SIGTERM.
    pub shutdown_timeout: Duration,
    /// An event stream that says nothing gets a comment this often.
    pub idle_comment: Duration,
    /// Dialling an upstream, TLS included.
    pub connect_timeout: Duration,
    /// HTTP/2: streams at once on a connection.
    pub concurrent_streams: u32,
}
