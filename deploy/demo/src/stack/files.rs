//! The files that the programs are started with, and the folder that they live in.

use std::fmt::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{StackError, StackOptions};

/// Paths of one stack.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Everything.
    pub root: PathBuf,
    /// One log a program.
    pub logs: PathBuf,
    /// `keyward.yaml`.
    pub daemon_config: PathBuf,
    /// `config.yaml` of the proxy.
    pub proxy_config: PathBuf,
    /// The control socket.
    pub control_socket: PathBuf,
    /// The operator socket.
    pub operator_socket: PathBuf,
    /// The store of the tunnel.
    pub store: PathBuf,
    /// The CA certificates in force, for clients that read a file.
    pub trust: PathBuf,
}

impl Paths {
    pub(super) fn make(root: &Path) -> Result<Self, StackError> {
        for folder in ["logs", "state", "store", "control", "operator"] {
            std::fs::DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(root.join(folder))
                .map_err(|error| StackError::Io {
                    what: format!("make {}", root.join(folder).display()),
                    error,
                })?;
        }
        Ok(Self {
            logs: root.join("logs"),
            daemon_config: root.join("keyward.yaml"),
            proxy_config: root.join("config.yaml"),
            control_socket: root.join("control/control.sock"),
            operator_socket: root.join("operator/operator.sock"),
            store: root.join("store"),
            trust: root.join("trust.pem"),
            root: root.to_owned(),
        })
    }

    pub(super) fn write_daemon(
        &self,
        options: &StackOptions,
        remote: Option<&Remote>,
    ) -> Result<(), StackError> {
        let names: Vec<String> = options
            .extra_names
            .iter()
            .map(|name| quoted(name))
            .collect();
        let settle = remote.map(|remote| format!("settle: {}s", remote.settle.as_secs()));
        // Nothing but this path sees the CA, and it understands name constraints.
        let constrained = options.extra_names.is_empty();
        let ca = constrained.then(|| "constrained: true".to_owned());
        let ca: Vec<String> = ca.into_iter().chain(settle).collect();
        let ca = if ca.is_empty() {
            String::new()
        } else {
            format!("    ca: {{{}}}\n", ca.join(", "))
        };
        let text = format!(
            "state: {state}\nlog_level: {level}\ncontrol:\n  socket: {control}\n  subscribers: [{uid}]\noperator:\n  socket: {operator}\n\
             health:\n  listen_addr: 127.0.0.1:0\n{api}tunnels:\n  {tunnel}:\n{provider}    \
             domain: {domain}\n    store: {store}\n    server_certificate:\n      lifetime: 1h\n      \
             extra_names: [{names}]\n{ca}{client_ca}{more}",
            state = quoted(&self.root.join("state").display().to_string()),
            level = options.log_level,
            control = quoted(&self.control_socket.display().to_string()),
            // All run as whoever started this one, hence `--single-user`.
            uid = rustix::process::geteuid().as_raw(),
            operator = quoted(&self.operator_socket.display().to_string()),
            api = remote.map_or("", |remote| &remote.api),
            tunnel = super::TUNNEL,
            provider = remote.map_or("    provider: static\n", |remote| &remote.tunnel),
            domain = options.domain,
            store = quoted(&format!("dir:{}", self.store.display())),
            names = names.join(", "),
            client_ca = if options.edge {
                "    client_ca: {lifetime: 30d}\n"
            } else {
                ""
            },
            more = options.daemon_yaml,
        );
        write(&self.daemon_config, &text)
    }

    pub(super) fn write_proxy(
        &self,
        options: &StackOptions,
        listeners: Listeners,
        routes: &[(String, String)],
        edge: &str,
    ) -> Result<(), StackError> {
        let mut text = format!(
            "listen_addr: {websocket}\nlog_level: {level}\ntunnel_domain: {domain}\ncarriers:\n  tls:\n    \
             listen_addr: {tls}\n{edge}control:\n  socket: {control}\n  replica: demo\n{dialled}health:\n  listen_addr: {health}\n\
             upstream:\n  allowed_ips: [{allowed}]\n",
            websocket = listeners.websocket,
            tls = listeners.tls,
            // Of the one tunnel the daemon sends what the edge is dialled with.
            dialled = if edge.is_empty() {
                String::new()
            } else {
                format!("  tunnels: [{}]\n", super::TUNNEL)
            },
            health = listeners.health,
            level = options.log_level,
            domain = options.domain,
            control = quoted(&self.control_socket.display().to_string()),
            allowed = options
                .allowed_ips
                .iter()
                .map(|ip| quoted(ip))
                .collect::<Vec<_>>()
                .join(", "),
        );
        if options.system_cas {
            text.push_str("  tls:\n    include_system_cas: true\n");
        }
        text.push_str("routes:\n");
        for (name, upstream) in routes {
            let _ = writeln!(text, "  {}: {}", quoted(name), quoted(upstream));
        }
        text.push_str(&options.proxy_yaml);
        write(&self.proxy_config, &text)
    }

    pub(super) fn write_trust(&self, pem: &str) -> Result<(), StackError> {
        // Whole or not at all: another program may read it at any moment.
        let new = self.trust.with_extension("new");
        write(&new, pem)?;
        std::fs::rename(&new, &self.trust).map_err(|error| StackError::Io {
            what: format!("write {}", self.trust.display()),
            error,
        })
    }
}

/// What the daemon's file says of a remote that can be asked.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    /// Of all tunnels: where it is, and who the daemon is to it.
    pub(super) api: String,
    /// Of the one tunnel.
    pub(super) tunnel: String,
    /// `ca.settle`.
    pub(super) settle: Duration,
}

/// Where the proxy listens.
#[derive(Clone, Copy, Debug)]
pub struct Listeners {
    /// Carrier `websocket`.
    pub websocket: SocketAddr,
    /// Carrier `tls`.
    pub tls: SocketAddr,
    /// Health and metrics.
    pub health: SocketAddr,
}

impl Listeners {
    /// Ports that nobody has at this moment: the proxy takes its ports from a file, so it cannot
    /// be asked afterwards which ones it got. Held together while they are picked.
    pub(super) fn pick() -> Result<Self, StackError> {
        let bind = || std::net::TcpListener::bind(("127.0.0.1", 0));
        let picked = || -> std::io::Result<Self> {
            let (websocket, tls, health) = (bind()?, bind()?, bind()?);
            Ok(Self {
                websocket: websocket.local_addr()?,
                tls: tls.local_addr()?,
                health: health.local_addr()?,
            })
        };
        picked().map_err(|error| StackError::Io {
            what: "find free ports on 127.0.0.1".into(),
            error,
        })
    }
}

/// A YAML scalar that is a text whatever is in it: YAML 1.2 takes every JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn write(path: &Path, text: &str) -> Result<(), StackError> {
    use std::io::Write as _;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|error| StackError::Io {
        what: format!("write {}", path.display()),
        error,
    })
}
