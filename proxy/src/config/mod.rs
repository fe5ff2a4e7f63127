//! What the configuration file says, as types that cannot be wrong.
//!
//! The stock `mcp-gateway` file is read unchanged; our own keys stand beside its keys. Reading goes
//! in three steps, each in its file: text to `raw` keys, keys to [`Config`] (`build`), and a look at
//! the files that it names (`check`). Nothing here listens, dials or watches.

mod build;
mod check;
mod edge;
mod effective;
mod error;
mod firewall;
mod raw;
#[cfg(test)]
mod tests;
pub mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use process::{Clock, Failure, SystemClock};

pub(crate) use check::{authorities, check_pair};
pub use edge::{EdgeCarrier, ForwardProxy, SecretSource};
pub use error::ConfigError;
pub use raw::{Raw, parse};

/// Where the file is looked for when the command line does not say: the stock proxy's two places, and ours.
pub const DEFAULT_PATHS: [&str; 3] = [
    "/etc/mcp-gateway/config.yaml",
    "/etc/mcp-proxy/config.yaml",
    "/etc/keyward/proxy.yaml",
];

/// Everything the proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// `debug`, `info`, `warn`, `error`.
    pub log_level: String,
    /// Where the stock connector's connections arrive (`listen_addr`). `:8080` is `[::]:8080`, which
    /// takes IPv4 too, and is `0.0.0.0:8080` on a machine without IPv6.
    pub websocket: Option<SocketAddr>,
    /// Where plain TCP carries inner TLS.
    pub tls: Option<TlsListener>,
    /// The edge that is dialled.
    pub edge: Option<EdgeCarrier>,
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
    /// Name of this replica, which nobody else has: the host's name with a mark of this instance, unless
    /// told otherwise.
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
    /// Replaces the private ranges when given; never an empty list.
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
    /// An event stream that says nothing gets a comment this often; zero: never.
    pub idle_comment: Duration,
    /// HTTP/1.1: until a request's head is complete, counted from the end of the one before.
    pub idle_timeout: Duration,
    /// Dialling an upstream, TLS included.
    pub connect_timeout: Duration,
    /// HTTP/2: streams at once on a connection.
    pub concurrent_streams: u32,
    /// An idle upstream connection is closed after this long, in whole seconds, rounded up.
    pub upstream_idle: Duration,
    /// Idle connections kept for each upstream.
    pub upstream_idle_connections: usize,
}

impl Limits {
    /// A cloud's round trip and a slow client's key exchange fit many times over.
    pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
    /// Some 30 MiB of buffers at worst.
    pub const PENDING_HANDSHAKES: usize = 1024;
    /// Each is two descriptors; the usual hard limit for a service is half a million.
    pub const CONNECTIONS: usize = 10_000;
    /// `architecture.md`: the longest that an ack waits for handshakes in flight.
    pub const SWAP_GRACE: Duration = Duration::from_millis(500);
    /// The longest that `swap_grace` may be: so long a withdrawn certificate could still be shown.
    pub const LONGEST_SWAP_GRACE: Duration = Duration::from_secs(60);
    /// As long as a shutdown gives them.
    pub const DRAIN: Duration = Duration::from_secs(30);
    /// The stock proxy's default, and Kubernetes' grace period.
    pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
    /// Below the 30 s after which the strictest proxies between cut an idle stream.
    pub const IDLE_COMMENT: Duration = Duration::from_secs(15);
    /// Well above the 75 s after which common clients forget an idle connection, so that it is they who
    /// close it.
    pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
    /// Two SYN retransmissions (1 s and 3 s) and a TLS handshake.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
    /// What nginx offers.
    pub const CONCURRENT_STREAMS: u32 = 128;
    /// Node and uvicorn close an idle connection after 5 s; whoever asks later races with that.
    pub const UPSTREAM_IDLE: Duration = Duration::from_secs(4);
    /// As many as calls are usually in flight to one MCP server, with room.
    pub const UPSTREAM_IDLE_CONNECTIONS: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Self::HANDSHAKE_TIMEOUT,
            pending_handshakes: Self::PENDING_HANDSHAKES,
            connections: Self::CONNECTIONS,
            swap_grace: Self::SWAP_GRACE,
            drain: Self::DRAIN,
            shutdown_timeout: Self::SHUTDOWN_TIMEOUT,
            idle_comment: Self::IDLE_COMMENT,
            idle_timeout: Self::IDLE_TIMEOUT,
            connect_timeout: Self::CONNECT_TIMEOUT,
            concurrent_streams: Self::CONCURRENT_STREAMS,
            upstream_idle: Self::UPSTREAM_IDLE,
            upstream_idle_connections: Self::UPSTREAM_IDLE_CONNECTIONS,
        }
    }
}

impl Config {
    /// Where health and metrics are read when the file does not say.
    pub const HEALTH: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

    /// Reads and checks the file at `path`; `tunnel_domain` stands before the one in the file.
    ///
    /// # Errors
    ///
    /// Exit code 78 with what is wrong and what to do next, for everything that can be known before
    /// traffic comes: the text, the files that it names, the certificate in them.
    pub fn load(path: &Path, tunnel_domain: Option<&str>) -> Result<Self, Failure> {
        Ok(Self::read(path, tunnel_domain, SystemClock.wall())?)
    }

    /// The same, for a caller that wants to know which error it was.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn read(
        path: &Path,
        tunnel_domain: Option<&str>,
        now: SystemTime,
    ) -> Result<Self, ConfigError> {
        let text = check::open(path)?;
        let config = build::build(parse(&text)?, tunnel_domain)?.named(path);
        check::files(&config, now)?;
        Ok(config)
    }

    /// The configuration at `path` alone, for a caller that asks only about the running proxy: the files
    /// that it names are not looked at.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or the first thing in it that makes no sense; exit code 78.
    pub fn load_text(path: &Path, tunnel_domain: Option<&str>) -> Result<Self, Failure> {
        Ok(Self::from_text(&check::open(path)?, tunnel_domain)?)
    }

    /// What `text` means; the files that it names are not looked at.
    ///
    /// # Errors
    ///
    /// The first thing in it that makes no sense.
    pub fn from_text(text: &str, tunnel_domain: Option<&str>) -> Result<Self, ConfigError> {
        Ok(build::build(parse(text)?, tunnel_domain)?.named(Path::new("")))
    }

    /// With the name of this instance, which the file at `path` may leave out.
    fn named(mut self, path: &Path) -> Self {
        let name = build::instance(&self, path);
        if let Some(source) = &mut self.control
            && source.replica.is_empty()
        {
            source.replica = name;
        }
        self
    }

    /// The configuration in force as YAML that reads back to the same, defaults written out. It holds
    /// no secret: keys are named by their paths, and an upstream cannot carry a password.
    pub fn effective(&self) -> String {
        effective::write(self)
    }

    /// What a firewall has to let through: direction, protocol, host, port and purpose, a line each, tabs
    /// between; host `*` is any.
    pub fn firewall(&self) -> String {
        firewall::write(self)
    }
}
