//! A program of `tests/tools` that stands beside a workload, such as an agent or a cloud's metadata server.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// Ends with its standard input, and so with this.
pub(super) struct Beside {
    /// What it printed when it was ready.
    pub(super) said: Value,
    _child: Child,
    _stdin: ChildStdin,
}

impl Beside {
    pub(super) async fn start(script: &str, words: &[&str]) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tools");
        let mut child = Command::new(harness::tool("../python/bin/python"))
            .arg(format!("{folder}/{script}"))
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let line = BufReader::new(stdout).lines().next_line().await.unwrap();
        let line = line.unwrap_or_else(|| panic!("{script} is never ready"));
        Self {
            said: serde_json::from_str(&line).unwrap(),
            _child: child,
            _stdin: stdin,
        }
    }
}
