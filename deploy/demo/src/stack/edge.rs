//! The edge, and the agent that calls through it: outer and inner TLS, both mutual.
//!
//! The edge's own CA is made here and trusted by proxy and agent alone. The agent's certificate comes
//! from the daemon's client CA, as an operator asks for it, and its CA file is the stack's trust file,
//! which it takes up by itself when the tunnel's CA rotates.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pki::{Algorithm, Authority, AuthorityProfile, Fingerprint, PrivateKey, Serial, ServerProfile};
use process::{Clock, SystemClock};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::Instant;

use super::files::{quoted, write};
use super::{Paths, Pipes, Program, ROUTE, StackError, StackOptions, start, tunnel};
use crate::client::Target;
use crate::trust::Trust;

/// EDGE.
const EDGE: &str = "edge.demo.example";
/// The tunnel's id at the edge.
const ID: &str = "tnl_demo";
/// Name of the agent's certificate.
const AGENT: &str = "agent.demo.example";
/// The edge's certificate outlives every demo.
const LIFE: Duration = Duration::from_secs(2 * 24 * 3600);
/// Between two looks at a log.
const PACE: Duration = Duration::from_millis(5);

/// The edge, which runs before the proxy does.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) program: Program,
    address: SocketAddr,
    folder: PathBuf,
    path: PathBuf,
}

/// The agent, which runs when everything else does.
#[derive(Debug)]
pub struct Agent {
    /// The program.
    pub program: Program,
    address: SocketAddr,
}

impl Edge {
    /// Gets a client certificate from the daemon, makes the edge's own, and starts the edge.
    pub(super) async fn start(
        options: &StackOptions,
        paths: &Paths,
        status: &Value,
        trust: &Trust,
    ) -> Result<Self, StackError> {
        let path = options.programs.edge()?;
        let folder = paths.root.join("edge");
        std::fs::create_dir_all(&folder).map_err(|error| StackError::Io {
            what: format!("make {}", folder.display()),
            error,
        })?;
        issue(options, paths, &folder).await?;
        trust.show(
            &read(&folder.join(format!("{AGENT}.crt")))?,
            &read(&folder.join(format!("{AGENT}.key")))?,
        )?;
        let client_ca = tunnel(status, "client_ca/pem").and_then(Value::as_str);
        write(&folder.join("client-ca.crt"), client_ca.unwrap_or_default())?;
        certify(&folder)?;
        let secret = secret()?;
        write(&folder.join("secret"), &secret)?;
        write(
            &folder.join("tunnels.yaml"),
            &tunnels(options, &folder, &secret),
        )?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let (address, health) = ports()?;
            let config = folder.join("edge.yaml");
            write(&config, &configuration(options, &folder, address, health))?;
            let words = ["serve", "--config"].map(OsString::from);
            let words = start::with(&words, &config);
            let mut program =
                Program::start("keyward-edge", &path, &words, &paths.logs, Pipes::None)?;
            match start::wait_until_ready(&mut program, health).await {
                Ok(()) => {
                    return Ok(Self {
                        program,
                        address,
                        folder,
                        path,
                    });
                }
                Err(StackError::Ended(ended)) if attempts < 4 && ended.tail.contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// What stands under `carriers` in the proxy's file.
    pub(super) fn carrier(&self) -> String {
        let file = |name: &str| quoted(&self.folder.join(name).display().to_string());
        format!(
            "  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: ['{address}']\n    ca_file: {ca}\n    \
             tunnel: {ID}\n    secret_file: {secret}\n    replica: demo\n",
            port = self.address.port(),
            address = self.address,
            ca = file("edge-ca.crt"),
            secret = file("secret"),
        )
    }

    /// Starts the agent, as a user of this machine does.
    pub(super) async fn agent(
        &self,
        options: &StackOptions,
        paths: &Paths,
    ) -> Result<Agent, StackError> {
        let file = |name: &str| self.folder.join(name).into_os_string();
        let words: [OsString; 17] = [
            "agent".into(),
            "--edge".into(),
            format!("https://{EDGE}:{}", self.address.port()).into(),
            "--edge-address".into(),
            self.address.to_string().into(),
            "--edge-ca".into(),
            file("edge-ca.crt"),
            "--tunnel-domain".into(),
            options.domain.clone().into(),
            "--cert".into(),
            file(&format!("{AGENT}.crt")),
            "--key".into(),
            file(&format!("{AGENT}.key")),
            "--ca".into(),
            paths.trust.clone().into_os_string(),
            "--listen".into(),
            "127.0.0.1:0".into(),
        ];
        let mut program = Program::start("agent", &self.path, &words, &paths.logs, Pipes::None)?;
        let over = Instant::now() + start::READY;
        loop {
            let line = last(&program.log, "agent serves");
            let listen = line.as_ref().and_then(|line| line.get("listen")?.as_str());
            if let Some(address) = listen.and_then(|listen| listen.parse().ok()) {
                return Ok(Agent { program, address });
            }
            if let Some(ended) = program.ended() {
                return Err(StackError::Ended(ended));
            }
            if Instant::now() > over {
                return Err(program.not_ready("it does not serve").await);
            }
            tokio::time::sleep(PACE).await;
        }
    }
}

impl Agent {
    /// The route, by the name that it has on this machine.
    pub(super) fn target(&self) -> Target {
        Target {
            address: self.address,
            host: format!("{ROUTE}.localhost:{}", self.address.port()),
        }
    }

    /// Waits until new connections are verified against `trust`, the text of its CA file.
    pub(super) async fn holds(&self, trust: &str, limit: Duration) -> Result<(), StackError> {
        let wanted = Fingerprint::of(trust.as_bytes()).to_string();
        let over = Instant::now() + limit;
        loop {
            let line = last(&self.program.log, "files taken");
            let held = line
                .as_ref()
                .and_then(|line| line.get("tunnel_ca_file")?.as_str());
            if held == Some(&*wanted) {
                return Ok(());
            }
            if let Some(ended) = self.program.ended() {
                return Err(StackError::Ended(ended));
            }
            if Instant::now() > over {
                return Err(StackError::NotReady {
                    program: self.program.name,
                    why: "it does not take up the tunnel's CA".into(),
                    tail: super::program::tail(&self.program.log),
                    log: self.program.log.clone(),
                });
            }
            tokio::time::sleep(PACE).await;
        }
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

/// 256 bits that nobody can guess: what a new key's text hashes to.
fn secret() -> Result<String, StackError> {
    let key = PrivateKey::generate(Algorithm::default()).map_err(|error| StackError::Io {
        what: "make a shared secret".into(),
        error: std::io::Error::other(error.to_string()),
    })?;
    Ok(Fingerprint::of(key.to_pem().as_bytes()).to_string())
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
         certificate: {{cert_file: {chain}, key_file: {key}}}\ntunnels_file: {tunnels}\nshutdown_timeout: 5s\n",
        level = options.log_level,
        chain = file("edge.crt"),
        key = file("edge.key"),
        tunnels = file("tunnels.yaml"),
    )
}

/// One tunnel: the digest of its secret, and that callers need a certificate of the client CA.
fn tunnels(options: &StackOptions, folder: &Path, secret: &str) -> String {
    format!(
        "tunnels:\n- id: {ID}\n  domain: {domain}\n  secrets: [{{id: demo, sha256: '{digest}'}}]\n  \
         access: {{client_ca_files: [{ca}]}}\n",
        domain = options.domain,
        digest = Fingerprint::of(secret.as_bytes()),
        ca = quoted(&folder.join("client-ca.crt").display().to_string()),
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

/// The last line with this message.
fn last(log: &Path, message: &str) -> Option<Value> {
    let text = std::fs::read_to_string(log).ok()?;
    let line = text.lines().rev().find(|line| line.contains(message))?;
    serde_json::from_str(line).ok()
}
