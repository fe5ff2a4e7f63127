//! A program of ours as a process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::rig::{page, status, until};

/// A program that runs, with its configuration and its log. Dropped, it is killed.
pub(crate) struct Program {
    child: Child,
    health: SocketAddr,
    log: PathBuf,
}

impl Program {
    pub(super) async fn start(
        program: &Path,
        words: &[&str],
        health: SocketAddr,
        log: PathBuf,
    ) -> Self {
        let mut command = Command::new(program);
        command.args(words).env_clear();
        Self::run(command, health, log).await
    }

    /// The same for a command that somebody else has put together.
    pub(super) async fn run(mut command: Command, health: SocketAddr, log: PathBuf) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut this = Self { child, health, log };
        until("the health listener", async || {
            if let Some(status) = this.child.try_wait().unwrap() {
                panic!("{command:?} ended with {status}: {}", this.log());
            }
            this.page("/healthz").await.map(drop)
        })
        .await;
        this
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until `part` was logged at least `times` times.
    pub(crate) async fn logs(&self, part: &str, times: usize) {
        until(part, async || {
            let lines = self.log();
            let found = lines.lines().filter(|line| line.contains(part)).count();
            (found >= times).then_some(())
        })
        .await;
    }

    pub(crate) async fn page(&self, path: &str) -> Option<String> {
        page(self.health, path).await
    }

    /// A metric without labels, or with those that `name` ends in.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let page = self.page("/metrics").await.unwrap();
        let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
        let value = lines.find_map(|rest| rest.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    pub(crate) async fn ready(&self) {
        let ready = async || {
            self.page("/readyz")
                .await?
                .starts_with("ready")
                .then_some(())
        };
        until("readiness", ready).await;
    }

    /// Resident memory, KiB.
    pub(crate) fn memory(&self) -> u64 {
        status(self.id(), "VmRSS")
    }

    /// The most that it ever was, KiB.
    pub(crate) fn peak(&self) -> u64 {
        status(self.id(), "VmHWM")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Ends it as `signal` does, and waits for that.
    pub(crate) async fn end(&mut self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
        self.child.wait().await.unwrap();
    }

    /// Local addresses on which it listens, by TCP of either version.
    pub(crate) fn listeners(&self) -> Vec<String> {
        let at = format!("/proc/{}", self.id());
        let sockets: Vec<_> = std::fs::read_dir(format!("{at}/fd"))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .map(|link| link.display().to_string())
            .collect();
        let mut found = Vec::new();
        for table in ["tcp", "tcp6"] {
            let text = std::fs::read_to_string(format!("{at}/net/{table}")).unwrap_or_default();
            for line in text.lines().skip(1) {
                let columns: Vec<_> = line.split_whitespace().collect();
                let own = sockets.contains(&format!("socket:[{}]", columns[9]));
                if own && columns[3] == "0A" {
                    found.push(columns[1].to_owned());
                }
            }
        }
        found
    }
}
