//! One process of cloudflared, from its start to its end.
//!
//! | Observed of 2026.8.x | Therefore |
//! |---|---|
//! | a token that is refused does not end the process: it says so once and stays, `/ready` 503 | log and `/ready` are watched, not the exit |
//! | in a container its metrics, with pprof, are on every address | they are bound to loopback, on a port that is free |
//! | remote diagnostics are on | they are switched off |
//! | without its edge it tries again at once, and logs 30,000 lines a second | each message is passed on once a minute |
//! | streams may outlive the grace by some seconds, then end raw | it is killed only well after that |

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use control::Secret;
use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Settings, ready};

/// How often it is asked whether it is registered.
const EVERY: Duration = Duration::from_millis(200);
/// What streams take beyond the grace, and what is left before it is killed.
const BEYOND_GRACE: Duration = Duration::from_secs(30);
/// Longest line of its log, bytes; the rest is dropped.
const LONGEST_LINE: u64 = 64 << 10;
/// The same message is passed on this often: without its edge it says the same thousands of times a second.
const SAME_EVERY: Duration = Duration::from_secs(60);
/// Messages that are told apart.
const TOLD_APART: usize = 64;
/// How it says where its metrics are.
const METRICS: &str = "Starting metrics server on ";
/// How it says that the token is not in force.
const REFUSED: &str = "Invalid tunnel secret";

/// What is seen of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It has registered connections, or has none any more.
    Registered(bool),
    /// Its edge does not take its token.
    Refused,
    /// It is gone.
    Ended,
}

/// A process that runs.
#[derive(Debug)]
pub(super) struct Instance {
    id: u64,
    child: Child,
    log: BufReader<ChildStderr>,
    grace: Duration,
    /// Message, when it was passed on, and how often it came since.
    said: BTreeMap<String, (Instant, u64)>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Line {
    level: String,
    message: String,
    error: String,
}

impl Instance {
    /// Starts one. Called for one at a time, since each child inherits what is not closed at that moment.
    ///
    /// # Errors
    ///
    /// The system's: no such program, no memory.
    pub(super) fn start(id: u64, settings: &Settings, token: &Secret) -> std::io::Result<Self> {
        let token = inherited(token)?;
        let grace = format!("{}s", settings.grace.as_secs());
        let mut command = Command::new(&settings.program);
        command
            .args(["tunnel", "--no-autoupdate", "--output", "json"])
            .args(["--metrics", "127.0.0.1:0", "--management-diagnostics=false"])
            .args(["--grace-period", &grace, "--url", &settings.url])
            .args(&settings.options)
            .arg("run")
            .arg("--token-file")
            .arg(format!("/proc/self/fd/{}", token.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Of its own: an interrupt from the terminal is for us, who end it with grace.
            .process_group(0)
            .kill_on_drop(true);
        for name in &settings.environment {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn()?;
        // The child has it, and nobody else shall.
        drop(token);
        let log = child.stderr.take().expect("it was asked for");
        let pid = child.id();
        tracing::info!(instance = id, pid, "cloudflared started");
        Ok(Self {
            id,
            child,
            log: BufReader::new(log),
            grace: settings.grace,
            said: BTreeMap::new(),
        })
    }

    /// Watches it to its end. Once `end` is true it is told to end.
    pub(super) async fn watch(
        mut self,
        mut end: watch::Receiver<bool>,
        events: mpsc::UnboundedSender<(u64, Event)>,
    ) {
        let id = self.id;
        let tell = |event| {
            // If nobody listens the supervisor is gone, and with it this task soon.
            let _ = events.send((id, event));
        };
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut metrics, mut registered, mut refused) = (None, false, false);
        loop {
            tokio::select! {
                line = line(&mut self.log) => {
                    let Some(line) = line else { break };
                    self.relay(&line);
                    metrics = metrics.or_else(|| address(&line.message));
                    if !refused && (line.message.contains(REFUSED) || line.error.contains(REFUSED)) {
                        refused = true;
                        tell(Event::Refused);
                    }
                }
                _ = tick.tick(), if metrics.is_some() => {
                    let Some(addr) = metrics else { continue };
                    let now = ready::connections(addr).await > 0;
                    if now != registered {
                        registered = now;
                        tell(Event::Registered(now));
                    }
                }
                changed = end.changed() => {
                    if changed.is_err() || *end.borrow() {
                        break;
                    }
                }
            }
        }
        self.finish().await;
        tell(Event::Ended);
    }

    /// Tells it to end, unless it has, and sees to it that it does. Its log is read on meanwhile, or it would stop at a
    /// full pipe.
    async fn finish(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // It may have ended by itself a moment ago; it is a zombie of ours then, and nobody else has its number.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let limit = self.grace + BEYOND_GRACE;
        let ended = timeout(limit, async {
            while let Some(line) = line(&mut self.log).await {
                self.relay(&line);
            }
            self.child.wait().await
        });
        let status = if let Ok(status) = ended.await {
            status
        } else {
            tracing::warn!(instance = self.id, "cloudflared did not end, and is killed");
            let _ = self.child.start_kill();
            self.child.wait().await
        };
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        tracing::info!(instance = self.id, status, "cloudflared ended");
    }

    fn relay(&mut self, line: &Line) {
        let now = Instant::now();
        if let Some((at, times)) = self.said.get_mut(&line.message)
            && now.saturating_duration_since(*at) < SAME_EVERY
        {
            *times += 1;
            return;
        }
        if self.said.len() >= TOLD_APART {
            self.said.clear();
        }
        let before = self.said.insert(line.message.clone(), (now, 0));
        let unsaid = before.map_or(0, |(_, times)| times);
        let (instance, message, error) = (self.id, &line.message, &line.error);
        match line.level.as_str() {
            "error" | "fatal" | "panic" | "warn" => {
                tracing::warn!(instance, message, error, unsaid, "cloudflared says");
            }
            "info" => tracing::info!(instance, message, unsaid, "cloudflared says"),
            _ => tracing::debug!(instance, message, unsaid, "cloudflared says"),
        }
    }
}

/// The token in memory that a child inherits, and that has no name anywhere.
fn inherited(token: &Secret) -> std::io::Result<OwnedFd> {
    let descriptor = memfd_create("tunnel-token", MemfdFlags::empty())?;
    let mut file = std::fs::File::from(descriptor);
    file.write_all(token.expose().as_bytes())?;
    Ok(file.into())
}

/// The next line of the log; `None`: there will be no more. A line that is not JSON is kept as a message.
async fn line(log: &mut BufReader<ChildStderr>) -> Option<Line> {
    let mut text = Vec::new();
    let read = log.take(LONGEST_LINE).read_until(b'\n', &mut text).await;
    if read.unwrap_or(0) == 0 {
        return None;
    }
    Some(serde_json::from_slice(&text).unwrap_or_else(|_| Line {
        level: "info".to_owned(),
        message: String::from_utf8_lossy(&text).trim_end().to_owned(),
        error: String::new(),
    }))
}

fn address(message: &str) -> Option<SocketAddr> {
    let (_, rest) = message.split_once(METRICS)?;
    let address = rest.split(['/', ' ']).next()?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_metrics_is_read_from_the_log() {
        let said = "Starting metrics server on 127.0.0.1:41873/metrics";
        assert_eq!(address(said), "127.0.0.1:41873".parse().ok());
        assert_eq!(
            address("Starting metrics server on [::1]:1/metrics"),
            "[::1]:1".parse().ok()
        );
        assert_eq!(address("Registered tunnel connection"), None);
    }
}
