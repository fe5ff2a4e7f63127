//! The edge: a state of its own, in which its operator makes a tunnel and lets the daemon manage it.
//!
//! From then on the daemon registers CAs there and rotates token and shared secret, by the Tunnels API. The edge's own CA is
//! made here, and nobody but proxy, agent and daemon trusts it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pki::{Algorithm, Authority, AuthorityProfile, PrivateKey, Serial, ServerProfile};
use process::{Clock, SystemClock};
use serde_json::{Value, json};
use tokio::process::Command;

use super::files::{Remote, quoted, write};
use super::state::{EdgeState, text};
use super::{Paths, Pipes, Program, StackError, StackOptions, start, tunnel, workload};
use crate::trust::Trust;

/// EDGE.
pub(super) const EDGE: &str = "edge.demo.example";
/// Name of the agent's certificate.
pub(super) const AGENT: &str = "agent.demo.example";
/// The edge's certificate outlives every demo.
const LIFE: Duration = Duration::from_secs(2 * 24 * 3600);

/// Of the edge, in its folder.
const STATE: &str = "state";
/// More calls than the daemon makes: no rotation waits for the next minute.
const CALLS_PER_MINUTE: u32 = 6000;

/// The edge, which runs before the daemon does.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) program: Program,
    pub(super) folder: PathBuf,
    pub(super) state: EdgeState,
    domain: String,
    rule: String,
}

impl Edge {
    /// Starts an edge with an empty state, and makes in it a tunnel, and a rule by which the daemon may manage it.
    pub(super) async fn start(options: &StackOptions, paths: &Paths) -> Result<Self, StackError> {
        let path = options.programs.edge()?;
        let folder = paths.root.join("edge");
        std::fs::create_dir_all(&folder).map_err(|error| StackError::Io {
            what: format!("make {}", folder.display()),
            error,
        })?;
        certify(&folder)?;
        workload::make(&folder)?;
        let (program, address) = serve(options, paths, &path, &folder).await?;
        let mut state = EdgeState::new(&path, &folder.join(STATE), address);
        let words = ["tunnel", "create", "--name", "demo"];
        let made = state.command(&words).await?;
        state.tunnel = text(&made, "id");
        let rule = rule(&state, &folder).await?;
        Ok(Self {
            program,
            folder,
            domain: text(&made, "domain"),
            rule,
            state,
        })
    }

    /// `<tunnel-domain>`.
    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// What the daemon's file says of the other side.
    pub(super) fn remote(&self, options: &StackOptions) -> Remote {
        let file = |name: &str| quoted(&self.folder.join(name).display().to_string());
        let url = format!("https://api.{EDGE}:{}", self.state.address.port());
        let api = format!(
            "api:\n  url: {url}\n  addresses: ['{ip}']\n  calls_per_minute: {CALLS_PER_MINUTE}\nidentity:\n  \
             url: {url}\n  ca_file: {ca}\n  federation_rule: {rule}\n  source: {{file: {token}}}\n",
            ip = self.state.address.ip(),
            ca = file("edge-ca.crt"),
            rule = self.rule,
            token = file(workload::TOKEN),
        );
        // All who verify are given the next CA ahead, and nobody but the one proxy dials. Nothing rotates by the clock.
        let tunnel = format!(
            "    provider: tunnels_api\n    tunnel_id: {id}\n    connector: builtin\n    \
             shared_secret: {{quiet: 0s}}\n    rotate: {{ca: 'off', token: 'off', secret: 'off'}}\n",
            id = self.state.tunnel,
        );
        Remote {
            api,
            tunnel,
            settle: options.settle,
        }
    }

    /// Lets the agent in: with a client certificate from the daemon.
    pub(super) async fn admit(
        &self,
        options: &StackOptions,
        paths: &Paths,
        status: &Value,
        trust: &Trust,
    ) -> Result<(), StackError> {
        issue(options, paths, &self.folder).await?;
        trust.show(
            &read(&self.folder.join(format!("{AGENT}.crt")))?,
            &read(&self.folder.join(format!("{AGENT}.key")))?,
        )?;
        let client_ca = tunnel(status, "client_ca/pem").and_then(Value::as_str);
        let access = self.folder.join("access.json");
        let rules = json!({"client_ca_certificates": [client_ca.unwrap_or_default()]});
        write(&access, &rules.to_string())?;
        let (id, access) = (&*self.state.tunnel, access.display().to_string());
        let words = ["access", "set", id, &access, "--if-version", "0"];
        self.state.command(&words).await?;
        Ok(())
    }

    /// What stands under `carriers` in the proxy's file; the shared secret comes from the daemon.
    pub(super) fn carrier(&self) -> String {
        let ca = self.folder.join("edge-ca.crt").display().to_string();
        format!(
            "  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: ['{address}']\n    ca_file: {ca}\n    \
             tunnel: {id}\n    replica: demo\n",
            port = self.state.address.port(),
            address = self.state.address,
            ca = quoted(&ca),
            id = self.state.tunnel,
        )
    }
}

/// `keyward issue-client`, as an operator runs it.
async fn issue(options: &StackOptions, paths: &Paths, folder: &Path) -> Result<(), StackError> {
    let failed = |error| StackError::Io {
        what: "issue a client certificate".into(),
        error,
    };
    let ended = Command::new(&options.programs.daemon)
        .args(["issue-client", AGENT, "--socket"])
        .arg(&paths.operator_socket)
        .arg("--out")
        .arg(folder)
        .env_clear()
        .kill_on_drop(true)
        .output()
        .await
        .map_err(failed)?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    Err(failed(std::io::Error::other(said)))
}

/// A CA of the edge's own, and its certificate.
fn certify(folder: &Path) -> Result<(), StackError> {
    let failed = |error: &dyn std::error::Error| StackError::Io {
        what: "make the edge's certificate".into(),
        error: std::io::Error::other(crate::client::chain(error)),
    };
    let now = SystemClock.wall();
    let authority = Authority::generate(&AuthorityProfile::server("demo edge CA"), now);
    let authority = authority.map_err(|error| failed(&error))?;
    let key = PrivateKey::generate(Algorithm::default()).map_err(|error| failed(&error))?;
    let profile = ServerProfile {
        lifetime: LIFE,
        ..ServerProfile::new(EDGE)
    };
    let pair = authority.issue(&profile, key, Serial::random(), now);
    let pair = pair.map_err(|error| failed(&error))?;
    write(
        &folder.join("edge-ca.crt"),
        &authority.certificate().to_pem(),
    )?;
    write(&folder.join("edge.crt"), &pair.chain_pem())?;
    write(&folder.join("edge.key"), &pair.key_pem())
}

/// Has the edge believe the daemon's identity, and let it manage the one tunnel: the id of the rule.
async fn rule(state: &EdgeState, folder: &Path) -> Result<String, StackError> {
    let key_set = folder.join(workload::KEY_SET).display().to_string();
    let life = workload::LIFE.as_secs().to_string();
    let words = ["issuer", "add", "--name", "demo", "--url", workload::ISSUER];
    let more = ["--jwks-file", &key_set, "--max-jwt-lifetime", &life];
    let issuer = state.text(&[&words[..], &more].concat(), "id").await?;
    let words = ["rule", "add", "--name", "demo", "--issuer", &issuer];
    let more = [
        "--audience",
        workload::AUDIENCE,
        "--subject",
        workload::SUBJECT,
        "--tunnel",
        &state.tunnel,
    ];
    state.text(&[&words[..], &more].concat(), "id").await
}

/// The edge, once it is ready, and where it serves.
///
/// Between picking a port and binding it somebody else may take it: then others are picked.
async fn serve(
    options: &StackOptions,
    paths: &Paths,
    path: &Path,
    folder: &Path,
) -> Result<(Program, SocketAddr), StackError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (address, health) = ports()?;
        let config = folder.join("edge.yaml");
        write(&config, &configuration(options, folder, address, health))?;
        let words = ["serve", "--config"].map(OsString::from);
        let mut words = start::with(&words, &config);
        words.extend(["--state".into(), folder.join(STATE).into_os_string()]);
        let mut program = Program::start("keyward-edge", path, &words, &paths.logs, Pipes::None)?;
        match start::wait_until_ready(&mut program, health).await {
            Ok(()) => return Ok((program, address)),
            Err(StackError::Ended(ended)) if attempts < 4 && ended.tail.contains("in use") => {}
            Err(error) => return Err(error),
        }
    }
}

fn configuration(
    options: &StackOptions,
    folder: &Path,
    address: SocketAddr,
    health: SocketAddr,
) -> String {
    let file = |name: &str| quoted(&folder.join(name).display().to_string());
    format!(
        "log_level: {level}\nlisten_addr: {address}\nname: {EDGE}\nhealth: {{listen_addr: '{health}'}}\n\
         certificate: {{cert_file: {chain}, key_file: {key}}}\nshutdown_timeout: 5s\n",
        level = options.log_level,
        chain = file("edge.crt"),
        key = file("edge.key"),
    )
}

/// Two ports that nobody has at this moment: the edge takes its ports from a file.
fn ports() -> Result<(SocketAddr, SocketAddr), StackError> {
    let bind = || std::net::TcpListener::bind(("127.0.0.1", 0));
    let picked = || {
        let (one, other) = (bind()?, bind()?);
        Ok((one.local_addr()?, other.local_addr()?))
    };
    picked().map_err(|error| StackError::Io {
        what: "find free ports on 127.0.0.1".into(),
        error,
    })
}

fn read(path: &Path) -> Result<String, StackError> {
    std::fs::read_to_string(path).map_err(|error| StackError::Io {
        what: format!("read {}", path.display()),
        error,
    })
}
