//! An edge, proxies that dial it, an upstream behind them, and what an agent needs to call.

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::digest;
use demo::stack::Programs;
use pki::{Algorithm, Authority, AuthorityProfile, PrivateKey, Serial};
use tokio::net::TcpStream;

pub(crate) use super::program::Program;
use crate::rig::credentials::{now, server};
use crate::rig::{DOMAIN, Hello, Issuer, Line, Upstream, until};

/// EDGE.
pub(crate) const EDGE: &str = "edge.example";
/// The one tunnel.
pub(crate) const TUNNEL: &str = "tnl_test";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// What `tunnels.yaml` says about the one tunnel.
#[derive(Clone)]
pub(crate) struct Tunnel {
    /// Edges that there are said to be.
    pub(crate) instances: u32,
    /// Name, value, further keys.
    pub(crate) secrets: Vec<(&'static str, String, &'static str)>,
    pub(crate) suspended: bool,
    /// Lines of `access`.
    pub(crate) access: String,
}

impl Tunnel {
    /// One with a single secret that may be called as the lines of `access` say.
    pub(crate) fn open_to(access: &str) -> Self {
        Self {
            instances: 1,
            secrets: vec![("a", "secret-a".to_owned(), "")],
            suspended: false,
            access: access.to_owned(),
        }
    }
}

/// Everything. Dropped, it ends.
pub(crate) struct Stand {
    pub(crate) issuer: Issuer,
    pub(crate) upstream: Upstream,
    pub(crate) edge: Program,
    pub(crate) proxies: Vec<Program>,
    pub(crate) address: SocketAddr,
    pub(crate) folder: tempfile::TempDir,
    health: SocketAddr,
}

/// Callers of loopback, without a certificate.
pub(crate) const OPEN: &str =
    "cidrs: ['127.0.0.0/8'], streams: 100000, connections_per_minute: 10000000";

impl Stand {
    /// An edge and `proxies` proxies, ready, with the secret `secret-a`; `access` as flow YAML.
    pub(crate) async fn start(proxies: usize, access: &str) -> Self {
        Self::with(proxies, access, "").await
    }

    /// The same with further lines for the edge's configuration.
    pub(crate) async fn with(proxies: usize, access: &str, more: &str) -> Self {
        let this = Self::at(ports(), Upstream::start().await, access, more).await;
        this.proxied(proxies).await
    }

    /// The same on these addresses, relay and health, without a proxy.
    pub(super) async fn at(
        (address, health): (SocketAddr, SocketAddr),
        upstream: Upstream,
        access: &str,
        more: &str,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = Issuer::new();
        credentials(folder.path(), &issuer);
        let at = folder.path().display();
        let config = format!(
            "log_level: info\nlisten_addr: '{address}'\nname: {EDGE}\nhealth: {{listen_addr: '{health}'}}\n\
             certificate: {{cert_file: {at}/front.crt, key_file: {at}/front.key}}\n\
             tunnels_file: {at}/tunnels.yaml\n{more}"
        );
        std::fs::write(folder.path().join("edge.yaml"), &config).unwrap();
        tell(folder.path(), &Tunnel::open_to(access));
        let edge = edge(folder.path(), health).await;
        Self {
            issuer,
            upstream,
            edge,
            proxies: Vec::new(),
            address,
            folder,
            health,
        }
    }

    async fn proxied(mut self, proxies: usize) -> Self {
        for number in 0..proxies {
            let name = format!("replica-{number}");
            let proxy = self.proxy(&name, "", "").await;
            proxy.ready().await;
            self.proxies.push(proxy);
        }
        self
    }

    /// A proxy that dials the edge; `carrier` stands among the keys of `carriers.edge`, `more` at the end.
    pub(crate) async fn proxy(&self, name: &str, carrier: &str, more: &str) -> Program {
        let (_, health) = ports();
        let text = self.config(name, carrier, more, health);
        self.run(name, &text, health).await
    }

    /// What such a proxy is told.
    pub(super) fn config(
        &self,
        name: &str,
        carrier: &str,
        more: &str,
        health: SocketAddr,
    ) -> String {
        let at = self.folder.path().display();
        let mutual = if carrier.contains("mutual") {
            format!("  client_ca: {at}/client-ca.pem\n")
        } else {
            String::new()
        };
        let switch = if mutual.is_empty() {
            "    allow_without_client_certificate: true\n"
        } else {
            ""
        };
        let keys = carrier.replace("mutual", "");
        format!(
            "log_level: info\ntunnel_domain: {DOMAIN}\nshutdown_timeout: 5s\nhealth: {{listen_addr: '{health}'}}\n\
             tls:\n  cert_file: {at}/leaf.crt\n  key_file: {at}/leaf.key\n{mutual}\
             carriers:\n  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: ['{address}']\n\
             {switch}    ca_file: {at}/front-ca.pem\n    tunnel: {TUNNEL}\n    secret_file: {at}/secret\n\
             \x20   replica: {name}\n{keys}\
             upstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes:\n  up: http://{upstream}\n{more}",
            address = self.address,
            port = self.address.port(),
            upstream = self.upstream.address,
        )
    }

    /// A proxy that dials these addresses in place of the edge's.
    pub(crate) async fn proxy_at(&self, name: &str, addresses: &str) -> Program {
        let (_, health) = ports();
        let text = self.config(name, "", "", health);
        let old = text
            .lines()
            .find(|line| line.contains("addresses:"))
            .unwrap();
        let text = text.replace(&format!("{old}\n"), addresses);
        self.run(name, &text, health).await
    }

    /// Another proxy with the configuration of one that runs.
    pub(crate) async fn with_config(&self, name: &str, text: &str) -> Program {
        let (_, health) = ports();
        let old = text
            .lines()
            .find(|line| line.starts_with("health:"))
            .unwrap();
        let text = text.replace(old, &format!("health: {{listen_addr: '{health}'}}"));
        self.run(name, &text, health).await
    }

    async fn run(&self, name: &str, text: &str, health: SocketAddr) -> Program {
        let config = self.folder.path().join(format!("{name}.yaml"));
        std::fs::write(&config, text).unwrap();
        let program = Programs::beside().unwrap().proxy;
        let log = self.folder.path().join(format!("{name}.log"));
        let config = config.to_str().unwrap();
        Program::start(&program, &["--config", config], health, log).await
    }

    /// Another edge with the same tunnels, on an address of its own.
    pub(crate) async fn second(&self) -> (Program, SocketAddr) {
        let (address, health) = ports();
        let config = std::fs::read_to_string(self.file("edge.yaml")).unwrap();
        let config = config
            .replace(&self.address.to_string(), &address.to_string())
            .replace(&self.health.to_string(), &health.to_string());
        let path = self.folder.path().join("second.yaml");
        std::fs::write(&path, config).unwrap();
        let program = Programs::beside()
            .unwrap()
            .proxy
            .with_file_name("keyward-edge");
        let words = ["serve", "--config", path.to_str().unwrap()];
        let log = self.folder.path().join("second.log");
        (Program::start(&program, &words, health, log).await, address)
    }

    /// Starts the edge anew, on the same address.
    pub(crate) async fn restart(&mut self) {
        self.edge = edge(self.folder.path(), self.health).await;
    }

    /// Replaces what the edge knows about the tunnel.
    pub(crate) fn tell(&self, tunnel: &Tunnel) {
        tell(self.folder.path(), tunnel);
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Replaces a file as a whole, as an operator's tool does.
    pub(crate) fn replace(&self, name: &str, text: &str) {
        replace(&self.folder.path().join(name), text);
    }

    /// An agent without a client certificate, through passthrough.
    pub(crate) async fn line(&self) -> std::io::Result<Line> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let mut line = Line::on(tcp, &Hello::new(&self.issuer))?;
        line.handshake().await?;
        Ok(line)
    }

    /// Waits until the edge holds `count` connections of proxies.
    pub(crate) async fn links(&self, count: u64) {
        until("the proxies' connections", async || {
            (self.edge.metric("keyward_edge_links").await == count).then_some(())
        })
        .await;
    }
}

/// The edge's program.
pub(super) fn program() -> PathBuf {
    let programs = Programs::beside().unwrap();
    programs.proxy.with_file_name("keyward-edge")
}

async fn edge(folder: &Path, health: SocketAddr) -> Program {
    let program = program();
    let config = folder.join("edge.yaml");
    let words = ["serve", "--config", config.to_str().unwrap()];
    Program::start(&program, &words, health, folder.join("edge.log")).await
}

/// What edge, proxy and agent read: their certificates and keys, CAs, and the secret.
pub(super) fn credentials(folder: &Path, issuer: &Issuer) {
    front(folder);
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write("client-ca.pem", &issuer.client_ca_pem());
    write("tunnel-ca.pem", &issuer.ca_pem());
    let (certificate, key) = issuer.client("agent.example");
    write("agent.crt", &certificate);
    write("agent.key", &key);
    let pair = issuer.pair();
    write("leaf.crt", &pair.chain_pem());
    write("leaf.key", &pair.key_pem());
    write("secret", "secret-a\n");
}

/// The edge's own CA and certificate.
pub(super) fn front(folder: &Path) {
    let authority = Authority::generate(&AuthorityProfile::server("edge CA"), now()).unwrap();
    let key = PrivateKey::generate(Algorithm::default()).unwrap();
    let pair = authority
        .issue(&server(EDGE, DAY), key, Serial::random(), now())
        .unwrap();
    let chain = format!("{}{}", pair.chain_pem(), authority.certificate().to_pem());
    std::fs::write(
        folder.join("front-ca.pem"),
        authority.certificate().to_pem(),
    )
    .unwrap();
    // An edge whose CA is its own has this, too.
    let key = authority.private_key().to_pem();
    std::fs::write(folder.join("front-ca.key"), &*key).unwrap();
    std::fs::write(folder.join("front.crt"), chain).unwrap();
    std::fs::write(folder.join("front.key"), &*pair.key_pem()).unwrap();
}

fn tell(folder: &Path, tunnel: &Tunnel) {
    let mut text = format!(
        "instances: {}\ntunnels:\n- id: {TUNNEL}\n  domain: {DOMAIN}\n  suspended: {}\n  access: {{{}}}\n  secrets:\n",
        tunnel.instances,
        tunnel.suspended,
        tunnel
            .access
            .replace("FOLDER", &folder.display().to_string()),
    );
    if tunnel.secrets.is_empty() {
        text.truncate(text.len() - "  secrets:\n".len());
    }
    for (id, value, more) in &tunnel.secrets {
        let digest = digest::digest(&digest::SHA256, value.as_bytes());
        let digits = digest
            .as_ref()
            .iter()
            .fold(String::new(), |mut text, octet| {
                let _ = write!(text, "{octet:02x}");
                text
            });
        let _ = writeln!(text, "  - {{id: {id}, sha256: '{digits}'{more}}}");
    }
    replace(&folder.join("tunnels.yaml"), &text);
}

fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, path).unwrap();
}

/// Two ports that nobody has, on an address that nothing else of these tests has: the programs take their
/// ports from a file, so they cannot be asked which ones they got.
pub(super) fn ports() -> (SocketAddr, SocketAddr) {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = u8::try_from(number % 250 + 1).unwrap();
    let address = Ipv4Addr::new(127, high & 0x7f | 0x40, low, number);
    let bind = || std::net::TcpListener::bind((address, 0)).unwrap();
    let held = [bind(), bind()];
    let [one, two] = held.each_ref().map(|one| one.local_addr().unwrap());
    (one, two)
}
