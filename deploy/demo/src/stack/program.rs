//! One program of the stack as a process of its own.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::StackError;

/// How long a program may take to say where it listens.
const ANNOUNCE: Duration = Duration::from_secs(20);
/// How much of the end of a log is shown.
const SHOWN: u64 = 2 << 10;

/// Where the programs are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `keyward`.
    pub daemon: PathBuf,
    /// `keyward-proxy`.
    pub proxy: PathBuf,
    /// `keyward-demo`, which is the sample server and the connector double too.
    pub demo: PathBuf,
    /// `keyward-edge`: needed only where there is an edge.
    pub edge: PathBuf,
}

impl Programs {
    /// Beside the program that runs, or above it when that is a test in cargo's `deps`.
    ///
    /// # Errors
    ///
    /// One of them is not there: which one, and how it is built.
    pub fn beside() -> Result<Self, StackError> {
        let own = std::env::current_exe().map_err(|error| StackError::Io {
            what: "find this program".into(),
            error,
        })?;
        let mut folder = own.parent().unwrap_or(Path::new("/"));
        if folder.file_name().is_some_and(|name| name == "deps") {
            folder = folder.parent().unwrap_or(folder);
        }
        let find = |name: &'static str| {
            let path = folder.join(name);
            if path.is_file() {
                Ok(path)
            } else {
                Err(StackError::Missing {
                    program: name,
                    path,
                })
            }
        };
        Ok(Self {
            daemon: find("keyward")?,
            proxy: find("keyward-proxy")?,
            demo: find("keyward-demo")?,
            edge: folder.join("keyward-edge"),
        })
    }

    /// `keyward-edge`, if it is there.
    pub(super) fn edge(&self) -> Result<PathBuf, StackError> {
        let path = self.edge.clone();
        if path.is_file() {
            return Ok(path);
        }
        Err(StackError::Missing {
            program: "keyward-edge",
            path,
        })
    }
}

/// A program that was started. Dropped, it is killed.
#[derive(Debug)]
pub struct Program {
    /// What it is called in messages.
    pub name: &'static str,
    /// Where its standard error goes.
    pub log: PathBuf,
    child: Mutex<Child>,
    pid: Option<Pid>,
}

/// What joins a program to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipes {
    /// Nothing: it runs as under a service manager.
    None,
    /// It says on standard output where it listens, and ends when standard input does. So it does
    /// not outlive this program, not even its SIGKILL.
    Own,
}

/// Why a program is not running any more.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Which one.
    pub program: &'static str,
    /// How it ended.
    pub status: ExitStatus,
    /// The end of its log.
    pub tail: String,
    /// The whole log.
    pub log: PathBuf,
}

impl Program {
    /// Starts `path` with nothing of our environment, its log in `logs`.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn start(
        name: &'static str,
        path: &Path,
        arguments: &[OsString],
        logs: &Path,
        pipes: Pipes,
    ) -> Result<Self, StackError> {
        let failed = |error| StackError::Io {
            what: format!("start {}", path.display()),
            error,
        };
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let pipe = || match pipes {
            Pipes::None => Stdio::null(),
            Pipes::Own => Stdio::piped(),
        };
        let child = Command::new(path)
            .args(arguments)
            .env_clear()
            .stdin(pipe())
            .stdout(pipe())
            .stderr(file.map_err(failed)?)
            // Control-C at a terminal is for this program alone, which then stops the others.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            name,
            log,
            child: Mutex::new(child),
            pid: pid.and_then(Pid::from_raw),
        })
    }

    /// Process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child().id()
    }

    /// The first line on standard output: addresses by name, as JSON.
    ///
    /// # Errors
    ///
    /// It ended, or said nothing that can be read.
    pub async fn announced(
        &mut self,
    ) -> Result<BTreeMap<String, std::net::SocketAddr>, StackError> {
        let mut line = String::new();
        let output = self.child_mut().stdout.take();
        if let Some(output) = output {
            let mut output = BufReader::new(output);
            let read = tokio::time::timeout(ANNOUNCE, output.read_line(&mut line)).await;
            if !matches!(read, Ok(Ok(1..))) {
                line.clear();
            }
        }
        match serde_json::from_str(&line) {
            Ok(addresses) => Ok(addresses),
            Err(_) => Err(self.not_ready("it did not say where it listens").await),
        }
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<Ended> {
        let status = self.child().try_wait().ok()??;
        Some(self.obituary(status))
    }

    /// The error of a program that is not what it should be: ended, or alive and silent.
    pub(super) async fn not_ready(&mut self, why: &str) -> StackError {
        // A program that is about to end gets the time to do so: its own words are better.
        let ending =
            tokio::time::timeout(Duration::from_millis(500), self.child_mut().wait()).await;
        match ending {
            Ok(Ok(status)) => StackError::Ended(self.obituary(status)),
            Ok(Err(_)) | Err(_) => StackError::NotReady {
                program: self.name,
                why: why.to_owned(),
                tail: tail(&self.log),
                log: self.log.clone(),
            },
        }
    }

    /// SIGTERM, and SIGKILL after `limit`. `None`: it had to be killed.
    pub async fn stop(&mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        if let Ok(status) = tokio::time::timeout(limit, self.child_mut().wait()).await {
            return status.ok();
        }
        self.kill().await;
        None
    }

    /// SIGKILL, as a crash.
    pub async fn kill(&mut self) {
        let _ = self.child_mut().kill().await;
    }

    /// SIGKILL, and a short wait for its end without a runtime, for a [`Drop`].
    pub(super) fn end(&mut self) {
        let child = self.child_mut();
        let _ = child.start_kill();
        // A killed process ends within milliseconds; one that does not is not waited for.
        for _ in 0..200 {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends `signal` while it runs.
    pub fn signal(&self, signal: Signal) {
        // Not yet waited for, so the number still is this child's.
        if self.id().is_some()
            && let Some(pid) = self.pid
        {
            let _ = kill_process(pid, signal);
        }
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn child_mut(&mut self) -> &mut Child {
        self.child.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    fn obituary(&self, status: ExitStatus) -> Ended {
        Ended {
            program: self.name,
            status,
            tail: tail(&self.log),
            log: self.log.clone(),
        }
    }
}

/// The last whole lines of a log.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SHOWN)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if length > SHOWN {
            return Ok(text
                .split_once('\n')
                .map_or(String::new(), |(_, rest)| rest.to_owned()));
        }
        Ok(text)
    };
    match read() {
        Ok(text) if text.trim().is_empty() => "(its log is empty)".to_owned(),
        Ok(text) => text.trim_end().to_owned(),
        Err(error) => format!("(its log cannot be read: {error})"),
    }
}
