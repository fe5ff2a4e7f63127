//! A real daemon in a place of its own.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use control::{Ack, FromDaemon, FromSubscriber, Hello, Reader, Resource, Role, Version, Writer};
use rustix::process::{Pid, Signal};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;

use super::stage::{Ended, LIMIT, command, copy, end, open_directory, program};

/// The uids of the daemon, of the proxy and of somebody else, as in our images and not.
pub(crate) const KEYWARD: u32 = 65_531;
pub(crate) const PROXY: u32 = 65_532;
pub(crate) const STRANGER: u32 = 65_530;
/// What the daemon carries for connectors and shows to nobody.
pub(crate) const TOKEN: &str = "canary-tunnel-token-91c7";

/// Where a daemon lives; it may be started there more than once.
pub(crate) struct Place {
    pub(crate) directory: tempfile::TempDir,
    uid: u32,
    keyward: PathBuf,
}

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    pub(crate) log: PathBuf,
}

impl Place {
    /// A daemon's place as `uid`, with subscribers `PROXY` and this test.
    pub(crate) fn new(uid: u32) -> Self {
        let directory = open_directory();
        let keyward = directory.path().join("keyward");
        copy(&program("keyward"), &keyward);
        chown(directory.path(), Some(uid), Some(uid)).unwrap();
        let place = Self {
            directory,
            uid,
            keyward,
        };
        place.configure("subscribers: [0, 65532]");
        std::fs::create_dir(place.path("store")).unwrap();
        std::fs::write(place.path("store/tunnel-token"), TOKEN).unwrap();
        for path in ["store", "store/tunnel-token"] {
            chown(place.path(path), Some(uid), Some(uid)).unwrap();
        }
        place
    }

    pub(crate) fn configure(&self, control: &str) {
        let root = self.directory.path().display();
        let text = format!(
            "state: {root}/state\n\
             control:\n  socket: {root}/run/control.sock\n  {control}\n\
             operator: {{socket: {root}/run/operator.sock}}\n\
             health: {{listen_addr: '127.0.0.1:0'}}\n\
             tunnels:\n  main:\n    provider: static\n    domain: t.example\n    store: dir:{root}/store\n    client_ca: {{}}\n"
        );
        std::fs::write(self.path("keyward.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Plain copies of files of the store in a folder of their own, as another tool leaves them.
    pub(crate) fn stock(&self, names: &[&str]) -> PathBuf {
        let stock = self.path("stock");
        std::fs::create_dir(&stock).unwrap();
        for name in names {
            std::fs::copy(self.path("store").join(name), stock.join(name)).unwrap();
        }
        stock
    }

    /// Starts the daemon and waits for nothing.
    pub(crate) fn start(&self, arguments: &[&str]) -> Daemon {
        let mut run = command(&self.keyward, &["run", "--config"]);
        run.arg(self.path("keyward.yaml")).args(arguments);
        run.as_std_mut().uid(self.uid).gid(self.uid);
        self.spawn(run)
    }

    /// Starts it by `words`, programs that become it in the end, as root begins.
    pub(crate) fn start_by(&self, words: &[&str]) -> Daemon {
        let mut run = command(Path::new(words[0]), &words[1..]);
        let uid = self.uid.to_string();
        run.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .args([
                "setpriv",
                "--reuid",
                &uid,
                "--regid",
                &uid,
                "--clear-groups",
            ])
            .arg(&self.keyward)
            .args(["run", "--config"])
            .arg(self.path("keyward.yaml"));
        self.spawn(run)
    }

    fn spawn(&self, mut run: tokio::process::Command) -> Daemon {
        let log = self.path("log");
        run.stderr(
            File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap(),
        );
        Daemon {
            child: run.spawn().unwrap(),
            log,
        }
    }

    /// Starts the daemon and waits until its first certificate is published.
    pub(crate) async fn serve(&self) -> Daemon {
        let daemon = self.start(&[]);
        self.served().await;
        daemon
    }

    /// Waits until a certificate is published.
    pub(crate) async fn served(&self) {
        self.until("a server certificate is in force", async || {
            self.main().await["generation"].as_u64().unwrap_or(0) > 0
        })
        .await;
    }

    /// The status of the tunnel; null: there is none.
    pub(crate) async fn main(&self) -> serde_json::Value {
        let ended = self.keyward(&["status", "--json"]).await;
        match ended.code {
            Some(0) => ended.json()["tunnels"]["main"].clone(),
            _ => serde_json::Value::Null,
        }
    }

    /// Waits for a state, with a limit.
    pub(crate) async fn until(&self, what: &str, mut reached: impl AsyncFnMut() -> bool) {
        let limit = tokio::time::Instant::now() + LIMIT;
        while !reached().await {
            let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(
                tokio::time::Instant::now() < limit,
                "{what} in time; log:\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A command of root to this daemon.
    pub(crate) async fn keyward(&self, arguments: &[&str]) -> Ended {
        self.keyward_as(0, arguments).await
    }

    pub(crate) async fn keyward_as(&self, uid: u32, arguments: &[&str]) -> Ended {
        let mut one = command(&self.keyward, arguments);
        one.env("KEYWARD_OPERATOR_SOCKET", self.path("run/operator.sock"));
        one.as_std_mut().uid(uid).gid(self.uid);
        end(&mut one).await
    }

    /// Runs a program of the system as `uid`, a member of the group that the daemon shares.
    pub(crate) async fn probe(&self, uid: u32, program: &str, arguments: &[&str]) -> Ended {
        let mut probe = tokio::process::Command::new(program);
        probe
            .args(arguments)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        probe.as_std_mut().uid(uid).gid(self.uid);
        end(&mut probe).await
    }

    /// Subscribes as a proxy of this test.
    pub(crate) async fn subscribe(&self, serving: Vec<control::Serving>) -> Subscriber {
        self.subscribe_as(Role::Proxy, "double", serving).await
    }

    /// Subscribes as a replica of this test.
    pub(crate) async fn subscribe_as(
        &self,
        role: Role,
        replica: &str,
        serving: Vec<control::Serving>,
    ) -> Subscriber {
        let stream = UnixStream::connect(self.path("run/control.sock"))
            .await
            .unwrap();
        let (read, write) = stream.into_split();
        let mut subscriber = Subscriber {
            reader: Reader::new(read),
            writer: Writer::new(write),
        };
        let hello = FromSubscriber::Hello(Hello {
            protocol: Version::CURRENT,
            role,
            tunnels: Vec::new(),
            replica: replica.to_owned(),
            build: "test".to_owned(),
            serving,
            dials: Vec::new(),
        });
        subscriber.writer.send(&hello).await.unwrap();
        let welcome = subscriber.next().await;
        assert!(matches!(welcome, FromDaemon::Welcome(_)), "{welcome:?}");
        subscriber
    }
}

impl Daemon {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Resident memory in KiB.
    pub(crate) fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let words = line.unwrap().split_whitespace();
        words.into_iter().next().unwrap().parse().unwrap()
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Option<i32> {
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await;
        status.expect("it ends in time").unwrap().code()
    }

    /// Where its health listener is.
    pub(crate) fn health(&self) -> String {
        let log = self.log();
        let line = log
            .lines()
            .find(|line| line.contains("health listener bound"));
        let line: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
        line["addr"].as_str().unwrap().to_owned()
    }
}

/// A proxy of this test.
pub(crate) struct Subscriber {
    reader: Reader<OwnedReadHalf>,
    writer: Writer<OwnedWriteHalf>,
}

impl Subscriber {
    pub(crate) async fn next(&mut self) -> FromDaemon {
        tokio::time::timeout(LIMIT, self.some())
            .await
            .expect("it comes in time")
    }

    /// The same, however long it takes. Cancel safe.
    pub(crate) async fn some(&mut self) -> FromDaemon {
        let read = self.reader.next().await;
        read.unwrap().expect("the subscription stands")
    }

    /// The next credential.
    pub(crate) async fn credential(&mut self) -> control::Credential {
        loop {
            if let FromDaemon::Credential(credential) = self.next().await {
                return credential;
            }
        }
    }

    pub(crate) async fn send(&mut self, message: FromSubscriber) {
        self.writer.send(&message).await.unwrap();
    }

    pub(crate) async fn report(&mut self, report: &control::Report) {
        let report = FromSubscriber::Report(report.clone());
        self.writer.send(&report).await.unwrap();
    }

    pub(crate) async fn ack(&mut self, generation: u64) {
        let ack = FromSubscriber::Ack(Ack {
            resource: Resource::Credential,
            tunnel: "main".to_owned(),
            generation,
            leaf_sha256: None,
        });
        self.writer.send(&ack).await.unwrap();
    }
}
