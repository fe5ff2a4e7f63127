//! The machine's side of a measurement: programs on one core, their CPU time and their memory.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use process::Failure;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

/// The core of what is measured.
pub(crate) const MEASURED: &str = "0";
/// The core of load, upstreams and the benchmark itself.
pub(crate) const LOAD: &str = "1";

/// Clock ticks a second in `/proc/PID/stat`: `USER_HZ`, 100 on every Linux that we build for.
const TICKS: f64 = 100.0;

/// A program pinned to one core. Dropping it ends it, by SIGTERM so that it ends its own children.
#[derive(Debug)]
pub(crate) struct Program {
    name: String,
    child: Child,
    pid: u32,
}

impl Program {
    /// Starts `command` on `core`, its output appended to `log`.
    pub(crate) fn start(core: &str, command: &[&str], log: &Path) -> Result<Self, Failure> {
        let name = command.first().copied().unwrap_or_default().to_owned();
        let cannot = |error: std::io::Error| {
            Failure::internal(format!("cannot start {name}")).caused_by(&error)
        };
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(cannot)?;
        let errors = output.try_clone().map_err(cannot)?;
        let child = Command::new("taskset")
            .args(["-c", core])
            .args(command)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(cannot)?;
        let pid = child
            .id()
            .expect("a child that nobody waited for has an id");
        Ok(Self { name, child, pid })
    }

    /// Waits until it listens on `address`, or has ended, or ten seconds have passed.
    pub(crate) async fn listening(&mut self, address: SocketAddr) -> Result<(), Failure> {
        let limit = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            if TcpStream::connect(address).await.is_ok() {
                return Ok(());
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || tokio::time::Instant::now() > limit {
                let why = ended.map_or_else(
                    || "it never listened".to_owned(),
                    |status| status.to_string(),
                );
                return Err(Failure::internal(format!("{} did not start", self.name)).cause(why));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU seconds used so far, its children's included.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let ticks: u64 = family(self.pid).into_iter().map(ticks).sum();
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let ticks = ticks as f64;
        ticks / TICKS
    }

    /// Resident memory in MiB, its children's included.
    pub(crate) fn resident_mib(&self) -> f64 {
        family(self.pid).into_iter().map(resident_mib).sum()
    }

    /// Proportional set size in KiB, its children's included: resident memory, what is shared counted in part.
    pub(crate) fn proportional_kib(&self) -> f64 {
        family(self.pid).into_iter().map(proportional_kib).sum()
    }

    /// Ends it and waits for that.
    pub(crate) async fn stop(mut self) {
        self.terminate();
        let _ = self.child.wait().await;
    }

    /// Ends it without asking it, and waits for that.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait().await;
    }

    fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its id is its own until somebody has waited for it.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}

/// A process and all below it.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children
            .split_whitespace()
            .filter_map(|child| child.parse().ok())
        {
            found.extend(family(child));
        }
    }
    found
}

/// User and system time, fields 14 and 15 of `/proc/PID/stat` (proc(5)); the name before them may hold anything.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields = after_name.split_whitespace().skip(11).take(2);
    fields.filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// Resident memory of one process in MiB; not a number when it is gone.
pub(crate) fn resident_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<f64>()
            .ok()
    });
    kib.map_or(f64::NAN, |kib| kib / 1024.0)
}

/// Proportional set size of one process in KiB; not a number when it is gone.
fn proportional_kib(pid: u32) -> f64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.unwrap_or(f64::NAN)
}

/// A port of loopback that was free a moment ago.
pub(crate) async fn free_port() -> Result<SocketAddr, Failure> {
    let cannot =
        |error: std::io::Error| Failure::internal("no free port on loopback").caused_by(&error);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(cannot)?;
    listener.local_addr().map_err(cannot)
}

/// Runs a command to its end and gives what it printed, or why it failed.
pub(crate) async fn output(command: &[&str]) -> Result<String, Failure> {
    let (program, arguments) = command.split_first().expect("a command has a name");
    let failed = || Failure::internal(format!("{program} failed"));
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| failed().caused_by(&error))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(failed().cause(format!(
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_ends_is_noticed_and_cpu_time_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut gone = Program::start(MEASURED, &["false"], &log).unwrap();
        let refused = gone
            .listening(free_port().await.unwrap())
            .await
            .unwrap_err();
        assert!(refused.to_string().contains("did not start"), "{refused}");

        // A shell with a child: the child's time counts.
        let busy = Program::start(
            MEASURED,
            &["sh", "-c", "sh -c 'while :; do :; done' & wait"],
            &log,
        )
        .unwrap();
        while busy.cpu_seconds() < 0.05 {
            tokio::task::yield_now().await;
        }
        assert!(family(busy.pid).len() > 1 && busy.resident_mib() > 0.1);
        assert!(busy.proportional_kib() > 10.0);
        for pid in family(busy.pid).into_iter().skip(1) {
            let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            kill_process(pid, Signal::TERM).unwrap();
        }
        busy.stop().await;
    }
}
