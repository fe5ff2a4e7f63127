//! The real `keyward-proxy` as a process of its own, and what can be seen of it from outside.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use demo::stack::Programs;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::{DOMAIN, Upstream, until, within};
use crate::cli::stage::copy;

/// What the proxy is started with.
pub(crate) struct Setup {
    upstream: SocketAddr,
    socket: Option<PathBuf>,
    daemon_uid: Option<u32>,
    files: Option<(PathBuf, PathBuf)>,
    proxy_protocol: bool,
    daemon_routes: bool,
    limits: String,
    shutdown: &'static str,
    level: &'static str,
    user: Option<(u32, u32)>,
    /// The route, where it is not to the plain upstream.
    route: Option<String>,
    upstream_tls: String,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Setup {
    pub(crate) fn new(upstream: &Upstream) -> Self {
        Self {
            upstream: upstream.address,
            socket: None,
            daemon_uid: None,
            files: None,
            proxy_protocol: false,
            daemon_routes: false,
            limits: String::new(),
            shutdown: "1s",
            level: "info",
            user: None,
            route: None,
            upstream_tls: String::new(),
            environment: Vec::new(),
        }
    }

    /// The one route leads to an https upstream, and `upstream.tls` is these keys.
    pub(crate) fn https(mut self, origin: &str, upstream_tls: &str) -> Self {
        self.route = Some(origin.to_owned());
        self.upstream_tls = format!("  tls: {{{upstream_tls}}}\n");
        self
    }

    /// A variable that it finds; there is no other.
    pub(crate) fn environment(mut self, name: &'static str, value: &Path) -> Self {
        self.environment.push((name, value.to_owned()));
        self
    }

    pub(crate) fn subscribed(mut self, socket: &Path) -> Self {
        self.socket = Some(socket.to_owned());
        self
    }

    pub(crate) fn expecting_uid(mut self, uid: u32) -> Self {
        self.daemon_uid = Some(uid);
        self
    }

    /// Certificate and key files.
    pub(crate) fn files(mut self, certificate: PathBuf, key: PathBuf) -> Self {
        self.files = Some((certificate, key));
        self
    }

    pub(crate) fn proxy_protocol(mut self) -> Self {
        self.proxy_protocol = true;
        self
    }

    pub(crate) fn daemon_routes(mut self) -> Self {
        self.daemon_routes = true;
        self
    }

    pub(crate) fn log_level(mut self, level: &'static str) -> Self {
        self.level = level;
        self
    }

    /// What is in flight gets this long at the stop.
    pub(crate) fn shutdown_timeout(mut self, limit: &'static str) -> Self {
        self.shutdown = limit;
        self
    }

    /// Runs as this uid and gid.
    pub(crate) fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// One line of `limits:`.
    pub(crate) fn limit(mut self, key: &str, value: &str) -> Self {
        let _ = writeln!(self.limits, "  {key}: {value}");
        self
    }

    fn yaml(&self, ports: Ports) -> String {
        let Ports { web, tls, health } = ports;
        let mut text = format!(
            "log_level: {}\nlisten_addr: {web}\ntunnel_domain: {DOMAIN}\ncarriers:\n  tls:\n    listen_addr: {tls}\n    \
             proxy_protocol: {}\nhealth:\n  listen_addr: {health}\nupstream:\n  \
             allowed_ips: [127.0.0.0/8]\n{}shutdown_timeout: {}\n",
            self.level, self.proxy_protocol, self.upstream_tls, self.shutdown
        );
        if let Some(socket) = &self.socket {
            let _ = writeln!(
                text,
                "control:\n  socket: {}\n  replica: rig",
                socket.display()
            );
            if let Some(uid) = self.daemon_uid {
                let _ = writeln!(text, "  daemon_uid: {uid}");
            }
        }
        if let Some((certificate, key)) = &self.files {
            let (certificate, key) = (certificate.display(), key.display());
            let _ = writeln!(text, "tls:\n  cert_file: {certificate}\n  key_file: {key}");
        }
        if self.daemon_routes {
            text.push_str("routes: daemon\n");
        } else {
            let plain = format!("http://{}", self.upstream);
            let route = self.route.as_ref().unwrap_or(&plain);
            let _ = writeln!(text, "routes:\n  up: {route}");
        }
        if !self.limits.is_empty() {
            let _ = write!(text, "limits:\n{}", self.limits);
        }
        text
    }
}

#[derive(Clone, Copy, Debug)]
struct Ports {
    web: SocketAddr,
    tls: SocketAddr,
    health: SocketAddr,
}

impl Ports {
    /// Ports that nobody has, on an address that no other proxy of these tests has: the programs take
    /// their ports from a file, so they cannot be asked which ones they got.
    fn pick() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let [.., high, low] = std::process::id().to_be_bytes();
        let number = u8::try_from(number % 250 + 1).unwrap();
        let address = IpAddr::from(Ipv4Addr::new(127, high | 0x80, low, number));
        let bind = || std::net::TcpListener::bind((address, 0)).unwrap();
        let held = [bind(), bind(), bind()];
        let [web, tls, health] = held.each_ref().map(|one| one.local_addr().unwrap());
        Self { web, tls, health }
    }
}

/// A proxy that runs. Dropped, it is killed.
pub(crate) struct Proxy {
    pub(crate) web: SocketAddr,
    pub(crate) tls: SocketAddr,
    health: SocketAddr,
    child: Child,
    log: PathBuf,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// Starts it and waits until its health listener answers; it need not be ready.
    pub(crate) async fn start(setup: &Setup) -> Self {
        Self::start_while(setup, |_| {}).await
    }

    /// As [`start`](Self::start), and calls `meanwhile` with its process id again and again until then.
    pub(crate) async fn start_while(setup: &Setup, mut meanwhile: impl FnMut(u32)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).unwrap();
        let ports = Ports::pick();
        let config = directory.path().join("config.yaml");
        std::fs::write(&config, setup.yaml(ports)).unwrap();
        let log = directory.path().join("log");
        let mut program = Programs::beside().unwrap().proxy;
        if setup.user.is_some() {
            // Another user may not reach where programs are built.
            let reachable = directory.path().join("keyward-proxy");
            copy(&program, &reachable);
            program = reachable;
        }
        let mut command = Command::new(program);
        command
            .arg("--config")
            .arg(&config)
            .env_clear()
            .envs(setup.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true);
        if let Some((uid, gid)) = setup.user {
            command.uid(uid).gid(gid);
        }
        let mut this = Self {
            web: ports.web,
            tls: ports.tls,
            health: ports.health,
            child: command.spawn().unwrap(),
            log,
            directory,
        };
        until("the health listener", async || {
            if let Some(status) = this.child.try_wait().unwrap() {
                panic!("the proxy ended with {status}: {}", this.log());
            }
            meanwhile(this.id());
            this.page("/healthz").await.map(drop)
        })
        .await;
        this
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) {
        let ready = async || self.page("/readyz").await?.starts_with('r').then_some(());
        until("readiness", ready).await;
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Its configuration file.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let process = Pid::from_raw(self.id().try_into().unwrap()).unwrap();
        kill_process(process, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        within("the end", self.child.wait()).await.unwrap()
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// The last line with this message, once there is one.
    pub(crate) async fn told(&self, message: &str) -> serde_json::Value {
        until(&format!("logging {message:?}"), async || {
            let lines = self.log();
            let lines = lines.lines().rev();
            lines
                .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
                .find(|line| line["message"] == message)
        })
        .await
    }

    /// How many lines of the log have `part` in them.
    pub(crate) fn logged(&self, part: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(part))
            .count()
    }

    /// Waits until `part` was logged `times` times, and checks that it was not more.
    pub(crate) async fn logs(&self, part: &str, times: usize) {
        self.logs_at_least(part, times).await;
        assert_eq!(self.logged(part), times, "{part}");
    }

    /// Waits until `part` was logged `times` times.
    pub(crate) async fn logs_at_least(&self, part: &str, times: usize) {
        let enough = async || (self.logged(part) >= times).then_some(());
        until(&format!("logging {part:?}"), enough).await;
    }

    /// The sum of all samples of `metric`.
    pub(crate) async fn metric(&self, metric: &str) -> u64 {
        let page = self.page("/metrics").await.expect("the metrics page");
        let value = |line: &str| -> Option<u64> {
            let rest = line.strip_prefix(metric)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            line.rsplit(' ').next()?.parse().ok()
        };
        page.lines().filter_map(value).sum()
    }

    /// Resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS")
    }

    pub(crate) fn threads(&self) -> u64 {
        self.status("Threads")
    }

    /// Open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.id());
        std::fs::read_dir(path).unwrap().count()
    }

    fn status(&self, key: &str) -> u64 {
        status(self.id(), key)
    }

    /// A page of the health listener; `None`: it does not answer.
    pub(crate) async fn page(&self, path: &str) -> Option<String> {
        page(self.health, path).await
    }
}

/// A page of the health listener at `health`; `None`: it does not answer.
pub(crate) async fn page(health: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(health).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some(body.to_owned())
}

/// A number in `/proc/PID/status`; memory is in KiB.
pub(crate) fn status(pid: u32, key: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let value = line.unwrap().trim_start_matches(':').trim();
    value.split(' ').next().unwrap().parse().unwrap()
}
