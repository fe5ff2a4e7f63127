//! `keyward.yaml`, parsed to types that cannot be wrong.
//!
//! [`Config::load`] is the only way in; what it returns needs no further checks. This module opens
//! no other file and no socket, though it looks where links lead: whether a group exists or a
//! directory can be written is found out by whoever uses them.

mod convert;
mod duration;
mod effective;
mod identity;
mod places;
mod raw;
mod refusal;
mod remote;
mod rotate;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pki::Algorithm;
use process::Failure;

pub use duration::{DurationError, parse_duration, write_duration};
pub use rotate::{KEYS, RotateConfig, When};

/// Where the daemon's own state lies unless told otherwise: the place that FHS 5.8 gives it.
pub const DEFAULT_STATE: &str = "/var/lib/keyward";
/// The control socket unless told otherwise.
pub const DEFAULT_CONTROL_SOCKET: &str = "/run/keyward/control.sock";
/// The operator socket unless told otherwise.
pub const DEFAULT_OPERATOR_SOCKET: &str = "/run/keyward/operator.sock";
/// Health and metrics unless told otherwise: loopback, since nobody is asked who he is.
pub const DEFAULT_HEALTH: &str = "127.0.0.1:9463";
/// Who may subscribe unless told otherwise: the uids of proxy and connector in our images.
pub const DEFAULT_SUBSCRIBERS: [u32; 2] = [65_532, 65_533];
/// Life of a server certificate unless told otherwise. Renewed daily, it leaves six days of slack
/// for a daemon that died before a long weekend.
pub const DEFAULT_LEAF_LIFETIME: Duration = Duration::from_secs(7 * DAY);
/// Life of a CA unless told otherwise: a year, so that the switch is practised.
pub const DEFAULT_CA_LIFETIME: Duration = Duration::from_secs(365 * DAY);

/// How long an old shared secret has to be unused unless told otherwise.
pub const DEFAULT_QUIET: Duration = Duration::from_secs(3600);
/// Time for verifiers to learn a new CA unless told otherwise, as for JWKS.
pub const DEFAULT_SETTLE: Duration = Duration::from_secs(900);

/// Calls of the Tunnels API in a minute unless told otherwise.
pub const DEFAULT_CALLS_PER_MINUTE: u32 = 60;

/// Longest time for verifiers to learn a new CA: what does not sign within a day is rolled back.
pub(crate) const LONGEST_SETTLE: Duration = Duration::from_secs(DAY / 2);
/// Shortest life of a server certificate: below it the renewal itself would be the load.
pub(crate) const SHORTEST_LEAF: Duration = Duration::from_secs(60);
/// Longest life of a server certificate, as the web's own limit until 2026.
pub(crate) const LONGEST_LEAF: Duration = Duration::from_secs(398 * DAY);
/// Longest life of a CA: what the stock manual instructions write.
const LONGEST_CA: Duration = Duration::from_secs(3650 * DAY);
/// A leaf ends at least this long before its CA, unless the CA lives less than two days.
const CA_MARGIN: Duration = Duration::from_secs(DAY);
const DAY: u64 = 86_400;

/// Everything the daemon needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Journal and key custody, 0700.
    pub state: PathBuf,
    /// `debug`, `info`, `warn`, `error`.
    pub log_level: String,
    /// Where proxies and connectors subscribe.
    pub control: ControlListener,
    /// Where the command line asks.
    pub operator: OperatorListener,
    /// Where health and metrics are read.
    pub health: HealthListener,
    /// How the daemon proves who it is to a remote.
    pub identity: Option<::identity::Given>,
    /// The Tunnels API that is called for tunnels which have one.
    pub api: ApiConfig,
    /// By name; at least one.
    pub tunnels: BTreeMap<String, TunnelConfig>,
}

/// The control channel's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlListener {
    /// The socket; its directory gets mode 0750 of `group`.
    pub socket: PathBuf,
    /// The group that may open the socket and read served directories. `None`: the daemon's own.
    pub group: Option<Group>,
    /// The uids that may subscribe.
    pub subscribers: Vec<u32>,
}

/// A group, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Group {
    /// By number.
    Id(u32),
    /// By name, looked up in `/etc/group`.
    Name(String),
}

/// The operator channel's listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorListener {
    /// The socket.
    pub socket: PathBuf,
    /// The uids that may give orders, besides root and the daemon's own.
    pub operators: Vec<u32>,
}

/// The health listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthListener {
    /// Loopback unless told otherwise.
    pub addr: SocketAddr,
    /// Written in the file: failing to bind is fatal then, a warning otherwise.
    pub explicit: bool,
}

/// The Tunnels API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiConfig {
    /// `None`: where tokens are bought.
    pub url: Option<String>,
    /// Where its host is, whatever DNS says; empty: as DNS says.
    pub addresses: Vec<IpAddr>,
    /// The most calls of any kind in a minute, for all tunnels together.
    pub calls_per_minute: u32,
}

/// One tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    /// Who holds the other side.
    pub provider: Provider,
    /// Who carries its bytes.
    pub connector: Connector,
    /// What makes somebody else's connector read its token again: a program by its absolute path, and its arguments.
    pub restart: Option<Vec<String>>,
    /// `<tunnel-domain>`, lower case.
    pub domain: String,
    /// The store directory (`dir:PATH`).
    pub store: PathBuf,
    /// A directory for proxies that read files. Never holds a CA key.
    pub serve_dir: Option<PathBuf>,
    /// What proxies serve.
    pub server_certificate: ServerCertificateConfig,
    /// What signs it.
    pub ca: AuthorityConfig,
    /// What signs client certificates. Present: mutual inner TLS is required.
    pub client_ca: Option<AuthorityConfig>,
    /// What proxies dial a `keyward-edge` with.
    pub shared_secret: SharedSecretConfig,
    /// Policy for proxies with `routes: daemon`. Absent: the proxy's own file has the routes.
    pub routes: Option<BTreeMap<String, control::Route>>,
    /// What rotates without an order.
    pub rotate: RotateConfig,
}

/// The shared secret of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedSecretConfig {
    /// How long nobody of ours may have used the old one before it is archived; whole seconds, 0 to 30 days.
    pub quiet: Duration,
}

/// Who holds the other side of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Token and CA are carried to the provider by hand.
    Static,
    /// The daemon calls the Tunnels API.
    TunnelsApi {
        /// `tnl_…`.
        tunnel_id: String,
    },
}

/// Who carries a tunnel's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connector {
    /// The proxy dials `keyward-edge` itself.
    Builtin,
    /// `keyward connector` runs cloudflared.
    Cloudflared,
    /// Somebody else's; it is given files.
    External,
}

impl Connector {
    /// Every one, as a file has it.
    pub const ALL: [(Self, &'static str); 3] = [
        (Self::Builtin, "builtin"),
        (Self::Cloudflared, "cloudflared"),
        (Self::External, "external"),
    ];

    /// As a file has it.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(one, _)| *one == self);
        found.map_or("external", |(_, name)| name)
    }
}

impl TunnelConfig {
    /// Its id at the other side, if that can be asked.
    pub fn remote(&self) -> Option<&str> {
        match &self.provider {
            Provider::Static => None,
            Provider::TunnelsApi { tunnel_id } => Some(tunnel_id),
        }
    }
}

/// The server certificate of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificateConfig {
    /// From issue to expiry.
    pub lifetime: Duration,
    /// Kind of key.
    pub algorithm: Algorithm,
    /// DNS names or addresses besides `<tunnel-domain>` and `*.<tunnel-domain>`, lower case.
    pub extra_names: Vec<String>,
}

/// A CA of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuthorityConfig {
    /// How long it is meant to sign.
    pub lifetime: Duration,
    /// Kind of key.
    pub algorithm: Algorithm,
    /// With name constraints and path length 0: less for a thief, if the verifier accepts them.
    pub constrained: bool,
    /// Until every verifier knows a CA that the remote lists; of tunnels of `tunnels_api` only.
    pub settle: Duration,
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    ///
    /// It cannot be read or used; exit code 78. The message names the line or the key and what to
    /// write instead.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            let failure = Failure::config(format!("cannot read {}", path.display()));
            match error.kind() {
                ErrorKind::InvalidData => failure
                    .cause("it is not text in UTF-8")
                    .next("name the right file with --config, or save it as UTF-8"),
                ErrorKind::PermissionDenied => failure
                    .caused_by(&error)
                    .next("let the user of this process read it"),
                _ => failure
                    .caused_by(&error)
                    .next("name the file with --config, or write one"),
            }
        })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads the text of a file; `path` is for messages alone.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn parse(text: &str, path: &str) -> Result<Self, Failure> {
        convert::config(raw::parse(text, path)?)
    }

    /// The configuration with every default filled in, as a file that means the same. It holds no
    /// secret, because the file may hold none.
    pub fn effective(&self) -> String {
        effective::yaml(self)
    }

    /// What has to be known and cannot be configured otherwise, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        effective::notes(self)
    }

    /// What is allowed and still deserves a thought, one sentence each.
    pub fn warnings(&self) -> Vec<String> {
        effective::warnings(self)
    }
}

impl Group {
    /// The number of the group.
    ///
    /// # Errors
    ///
    /// The host has no group of this name.
    pub fn resolve(&self) -> Result<u32, Failure> {
        let name = match self {
            Self::Id(id) => return Ok(*id),
            Self::Name(name) => name,
        };
        let groups = std::fs::read_to_string("/etc/group").map_err(|error| {
            Failure::config(format!("cannot look up control.group {name:?}"))
                .caused_by(&error)
                .next("write the number of the group")
        })?;
        group_id(&groups, name).ok_or_else(|| {
            Failure::config(format!(
                "control.group is {name:?}, which this host does not have"
            ))
            .next(format!(
                "groupadd --system {name}, or write the number of a group"
            ))
        })
    }
}

/// Finds a group in the text of `/etc/group` (group(5): `name:password:number:members`).
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups
        .lines()
        .map(|line| line.split(':'))
        .find_map(|mut fields| (fields.next() == Some(name)).then(|| fields.nth(1))?)
        .and_then(|id| id.parse().ok())
}

#[cfg(test)]
mod tests;
