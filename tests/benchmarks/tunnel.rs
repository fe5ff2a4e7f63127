//! Our tunnel as it is measured: edge and proxy of the build that is shipped, tunnels and credentials from files, one
//! route, `log_level: warn` into a file. Where a limit is raised, the line that raises it is here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use pki::{
    Algorithm, Authority, AuthorityProfile, ClientProfile, Fingerprint, PrivateKey, Serial,
    ServerProfile,
};
use process::{Clock as _, Failure, SystemClock};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::machine::{MEASURED, Program, free_port};
use crate::ours::shipped;
use crate::peers::{Workshop, text};

/// EDGE.
pub(crate) const EDGE: &str = "edge.example";
/// The first tunnel.
pub(crate) const TUNNEL: &str = "tnl_bench";
/// Its domain.
pub(crate) const DOMAIN: &str = "bench.example";
/// The public name of its one route.
pub(crate) const HOST: &str = "up.bench.example";
/// What its proxy presents.
pub(crate) const SECRET: &str = "secret";

/// How many connections a caller may open is not what is measured: there is one source address for all of them.
pub(crate) const UNLIMITED: &str =
    "cidrs: ['127.0.0.0/8'], streams: 100000, connections_per_minute: 100000000";

/// Of every certificate.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// What is waited for comes within this.
const LIMIT: Duration = Duration::from_secs(60);

/// An edge, running.
#[derive(Debug)]
pub(crate) struct Edge {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where its metrics are read.
    pub health: SocketAddr,
    /// What is measured.
    pub program: Program,
    command: Vec<String>,
    log: PathBuf,
}

impl Edge {
    /// Starts it anew at the same address, after it was killed. Gives the moment before the start.
    pub(crate) async fn again(&mut self) -> Result<Instant, Failure> {
        let began = Instant::now();
        let command: Vec<&str> = self.command.iter().map(String::as_str).collect();
        self.program = Program::start(MEASURED, &command, &self.log)?;
        self.program.listening(self.address).await?;
        Ok(began)
    }
}

/// Writes `NAME-ca.pem`, `NAME.crt` and `NAME.key`: a CA, and a certificate for everything below `domain`.
pub(crate) fn certificate(shop: &Workshop, name: &str, domain: &str) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::internal(format!("no certificate for {domain}")).caused_by(error)
    };
    let now = SystemClock.wall();
    let authority = Authority::generate(&AuthorityProfile::server("bench CA"), now)
        .map_err(|error| failed(&error))?;
    let key = PrivateKey::generate(Algorithm::default()).map_err(|error| failed(&error))?;
    let profile = ServerProfile {
        lifetime: LIFE,
        ..ServerProfile::new(domain)
    };
    let pair = authority
        .issue(&profile, key, Serial::random(), now)
        .map_err(|error| failed(&error))?;
    let ca = authority.certificate().to_pem();
    shop.write(&format!("{name}-ca.pem"), &ca)?;
    shop.write(&format!("{name}.crt"), &(pair.chain_pem() + &ca))?;
    shop.write(&format!("{name}.key"), &pair.key_pem())?;
    Ok(())
}

/// Writes `client-ca.pem`, `client.crt` and `client.key`: an agent's certificate and the CA of it.
pub(crate) fn client_certificate(shop: &Workshop) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| {
        Failure::internal("no certificate for the agent").caused_by(error)
    };
    let now = SystemClock.wall();
    let authority = Authority::generate(&AuthorityProfile::client("bench client CA"), now)
        .map_err(|error| failed(&error))?;
    let key = PrivateKey::generate(Algorithm::default()).map_err(|error| failed(&error))?;
    let profile = ClientProfile {
        name: "agent.example".to_owned(),
        lifetime: LIFE,
    };
    let request = pki::request(&key, &profile.name).map_err(|error| failed(&error))?;
    let certificate = authority
        .issue_client(&profile, &request, Serial::random(), now)
        .map_err(|error| failed(&error))?;
    shop.write("client-ca.pem", &authority.certificate().to_pem())?;
    shop.write("client.crt", &certificate.to_pem())?;
    shop.write("client.key", &key.to_pem())?;
    Ok(())
}

/// A tunnel as `tunnels_file` says it; `access` as flow YAML.
pub(crate) fn entry(id: &str, domain: &str, access: &str) -> String {
    format!(
        "- id: {id}\n  domain: {domain}\n  access: {{{access}}}\n  secrets: [{{id: s, sha256: '{}'}}]\n",
        Fingerprint::of(SECRET.as_bytes())
    )
}

/// Starts an edge that serves `tunnels`, entries as [`entry`] makes them; `more` stands at the end of its configuration.
pub(crate) async fn edge(shop: &Workshop, tunnels: &str, more: &str) -> Result<Edge, Failure> {
    certificate(shop, "front", EDGE)?;
    let file = shop.write("tunnels.yaml", &format!("tunnels:\n{tunnels}"))?;
    let more = format!("tunnels_file: {}\n{more}", file.display());
    start_edge(shop, "edge", &more, &[]).await
}

/// The same with `name` in its files' names, and with further words on its command line. Its front certificate is there.
pub(crate) async fn start_edge(
    shop: &Workshop,
    name: &str,
    more: &str,
    words: &[&str],
) -> Result<Edge, Failure> {
    let (address, health) = (free_port().await?, free_port().await?);
    start_edge_at(shop, (name, address, health), more, words).await
}

/// The same at an address that the caller chose.
pub(crate) async fn start_edge_at(
    shop: &Workshop,
    (name, address, health): (&str, SocketAddr, SocketAddr),
    more: &str,
    words: &[&str],
) -> Result<Edge, Failure> {
    let at = shop.path("");
    let configuration = shop.write(
        &format!("{name}.yaml"),
        &format!(
            "log_level: warn\nlisten_addr: {address}\nname: {EDGE}\nhealth: {{listen_addr: '{health}'}}\nshutdown_timeout: 1s\n\
             certificate: {{cert_file: {at}front.crt, key_file: {at}front.key}}\n{more}",
            at = at.display(),
        ),
    )?;
    let program = shipped("keyward-edge")?;
    let command = [text(&program), "serve", "--config", text(&configuration)];
    let command = [&command, words].concat();
    let log = shop.path(&format!("{name}.log"));
    let mut started = Program::start(MEASURED, &command, &log)?;
    let listening = started.listening(address).await;
    listening.map_err(|failure| failure.next(std::fs::read_to_string(&log).unwrap_or_default()))?;
    Ok(Edge {
        address,
        health,
        program: started,
        command: command.into_iter().map(str::to_owned).collect(),
        log,
    })
}

/// What a proxy of ours is told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyOptions<'a> {
    /// Its replica, and its files' names.
    pub name: &'a str,
    /// The edges' addresses.
    pub edges: &'a [SocketAddr],
    /// Where its route leads.
    pub upstream: SocketAddr,
    /// Tunnel id and domain.
    pub tunnel: (&'a str, &'a str),
    /// The file with its secret.
    pub secret: &'a str,
    /// The files with its certificate and key.
    pub pair: (&'a str, &'a str),
    /// The file with the CA of its callers' certificates; none: it asks for none.
    pub client_ca: Option<&'a str>,
    /// `info` where its log is read.
    pub log_level: &'a str,
    /// Stands at the end of its configuration.
    pub more: &'a str,
}

impl<'a> ProxyOptions<'a> {
    /// For the first tunnel through `edges`, with the secret that is in the file `secret`.
    pub(crate) fn new(edges: &'a [SocketAddr], upstream: SocketAddr) -> Self {
        Self {
            name: "replica",
            edges,
            upstream,
            tunnel: (TUNNEL, DOMAIN),
            secret: "secret",
            pair: ("cert.pem", "key.pem"),
            client_ca: None,
            log_level: "warn",
            more: "",
        }
    }
}

/// Starts a proxy that dials and waits until it is connected.
pub(crate) async fn proxy(shop: &Workshop, options: ProxyOptions<'_>) -> Result<Program, Failure> {
    let health = free_port().await?;
    let addresses: Vec<String> = options
        .edges
        .iter()
        .map(|address| format!("'{address}'"))
        .collect();
    let port = options.edges.first().map_or(443, SocketAddr::port);
    let (tunnel, domain) = options.tunnel;
    let configuration = shop.write(
        &format!("{}.yaml", options.name),
        &format!(
            "log_level: {level}\ntunnel_domain: {domain}\nshutdown_timeout: 1s\nhealth: {{listen_addr: '{health}'}}\n\
             tls: {{cert_file: {at}{certificate}, key_file: {at}{key}{callers}}}\n\
             carriers:\n  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: [{addresses}]\n    ca_file: {at}front-ca.pem\n\
             \x20   allow_without_client_certificate: {open}\n    tunnel: {tunnel}\n    secret_file: {at}{secret}\n    replica: {name}\n\
             upstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes:\n  up: http://{upstream}\n{more}",
            level = options.log_level,
            certificate = options.pair.0,
            key = options.pair.1,
            callers = options
                .client_ca
                .map(|file| format!(", client_ca: {}", shop.path(file).display()))
                .unwrap_or_default(),
            open = options.client_ca.is_none(),
            at = shop.path("").display(),
            addresses = addresses.join(", "),
            secret = options.secret,
            name = options.name,
            upstream = options.upstream,
            more = options.more,
        ),
    )?;
    let program = shipped("keyward-proxy")?;
    let log = shop.path(&format!("{}.log", options.name));
    let mut program = Program::start(
        MEASURED,
        &[text(&program), "--config", text(&configuration)],
        &log,
    )?;
    let said = |failure: Failure| failure.next(std::fs::read_to_string(&log).unwrap_or_default());
    program.listening(health).await.map_err(said)?;
    until("the proxy is connected", async || {
        page(health, "/readyz")
            .await
            .is_some_and(|page| page.starts_with("ready"))
    })
    .await
    .map_err(said)?;
    Ok(program)
}

/// A page of a health listener.
pub(crate) async fn page(health: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(health).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

/// A metric without labels.
pub(crate) async fn metric(health: SocketAddr, name: &str) -> Option<f64> {
    sample(&page(health, "/metrics").await?, name)
}

fn sample(page: &str, name: &str) -> Option<f64> {
    let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
    lines.find_map(|rest| rest.strip_prefix(' '))?.parse().ok()
}

/// Waits until `holds`, at most a minute.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), Failure> {
    let over = Instant::now() + LIMIT;
    while !holds().await {
        if Instant::now() > over {
            return Err(Failure::internal(format!("{what}: not within {LIMIT:?}")));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let page = "# TYPE a gauge\na_total 7\na{b=\"c\"} 3\na 12\n";
        assert_eq!(sample(page, "a"), Some(12.0));
        assert_eq!(sample(page, "a_total"), Some(7.0));
        assert_eq!(sample(page, "b"), None);
    }
}
