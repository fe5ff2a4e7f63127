//! `keyward-demo` as a person or a script meets it: nothing is lost, and when something is, it says
//! so with exit code 1.

mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use harness::client::{HttpVersion, Revision};
use harness::stack::{Programs, Rotation};
use harness::{Running, until};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Child;

/// A demo with a temporary folder of its own.
struct Demo {
    child: Child,
    folder: TempDir,
}

/// How a demo ended.
struct Ended {
    status: ExitStatus,
    output: String,
    errors: String,
    folder: TempDir,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let child = tokio::process::Command::new(program())
            .args(arguments)
            .env("TMPDIR", folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    async fn end(mut self) -> Ended {
        let (mut output, mut errors) = (String::new(), String::new());
        let mut out = self.child.stdout.take().unwrap();
        let mut err = self.child.stderr.take().unwrap();
        let ended = async {
            let (output, errors) = tokio::join!(
                out.read_to_string(&mut output),
                err.read_to_string(&mut errors)
            );
            output.and(errors).unwrap();
            self.child.wait().await.unwrap()
        };
        let limit = Duration::from_secs(180);
        let status = tokio::time::timeout(limit, ended).await.unwrap();
        Ended {
            status,
            output,
            errors,
            folder: self.folder,
        }
    }

    /// Pids of the programs that it started, by name.
    fn programs(&self, name: &str) -> Vec<u32> {
        let own = self.child.id().unwrap();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // proc(5): pid (name) state ppid …
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let Some((front, back)) = stat.rsplit_once(')') else {
                continue;
            };
            let is_ours = back.split_whitespace().nth(1) == Some(&own.to_string());
            if is_ours
                && front
                    .split_once('(')
                    .is_some_and(|(_, known)| known == name)
            {
                found.push(pid);
            }
        }
        found
    }

    async fn kill(&self, name: &str) {
        until("the program runs", async || !self.programs(name).is_empty())
            .await
            .unwrap();
        let pid = self.programs(name)[0];
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

impl Ended {
    /// The one object of `--json`.
    fn summary(&self) -> Value {
        let mut lines = self.output.lines();
        let summary = lines
            .next()
            .unwrap_or_else(|| panic!("no output: {}", self.errors));
        assert_eq!(lines.next(), None, "one line of output: {}", self.output);
        serde_json::from_str(summary).unwrap()
    }

    fn left_behind(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn program() -> PathBuf {
    Programs::beside().unwrap().demo
}

fn number(summary: &Value, pointer: &str) -> u64 {
    let number = summary.pointer(pointer).and_then(Value::as_u64);
    number.unwrap_or_else(|| panic!("no {pointer} in {summary}"))
}

/// Kinds of rotations in the object.
const KINDS: [&str; 4] = ["server_certificate", "ca", "tunnel_token", "shared_secret"];

/// How many of a kind a run of so many seconds makes.
fn times(kind: &str, seconds: u64) -> u64 {
    match kind {
        "server_certificate" => seconds,
        _ => seconds.div_ceil(2),
    }
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_left_behind() {
    let ended = Demo::start(&["--seconds", "3", "--json"]).end().await;
    let summary = ended.summary();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert_eq!(number(&summary, "/calls/failed"), 0, "{}", ended.errors);
    assert_eq!(number(&summary, "/streams/broken"), 0, "{}", ended.errors);
    assert!(number(&summary, "/calls/made") > 100, "{summary}");
    assert!(number(&summary, "/streams/opened") >= 16, "{summary}");
    let rotations = summary["rotations"].as_object().unwrap();
    assert_eq!(rotations.len(), KINDS.len(), "{summary}");
    for kind in KINDS {
        assert_eq!(rotations[kind], times(kind, 3), "{summary}");
        // What the default of 20 seconds promises.
        assert!(times(kind, 20) >= 10);
    }
    let (front, _) = ended
        .errors
        .split_once(" server certificates seen")
        .unwrap();
    let seen: u64 = front.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(seen > 3, "the clients saw only {seen} certificates");
    let latency = summary.get("latency_us").unwrap().as_object().unwrap();
    let names: Vec<&str> = latency.keys().map(String::as_str).collect();
    assert_eq!(names, ["p50", "p50_rotating", "p99", "p99_rotating"]);
    for name in names {
        assert!(latency[name].as_u64().unwrap() > 0, "{summary}");
    }
    assert_eq!(ended.left_behind(), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn what_it_says_of_rotations_is_what_the_edge_has_in_its_audit_log() {
    let ended = Demo::start(&["--seconds", "3", "--json", "--keep"])
        .end()
        .await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    let summary = ended.summary();
    let root = ended.left_behind().remove(0);
    let audit = Command::new(program().with_file_name("keyward-edge"))
        .args(["audit", "--limit", "1000", "--state"])
        .arg(root.join("edge/state"))
        .output()
        .unwrap();
    assert!(audit.status.success(), "{audit:?}");
    let rows: Value = serde_json::from_slice(&audit.stdout).unwrap();
    let rows = rows["data"].as_array().unwrap();
    for (kind, action) in [
        ("ca", "tunnel_certificate_revoked"),
        ("tunnel_token", "tunnel_token_rotated"),
        ("shared_secret", "tunnel_secret_archived"),
    ] {
        let by_daemon = |row: &&Value| {
            let actor = row["actor"].as_str().unwrap_or_default();
            row["action"] == action && row["outcome"] == "done" && actor.starts_with("rule:")
        };
        let count = rows.iter().filter(by_daemon).count();
        let said = usize::try_from(number(&summary, &format!("/rotations/{kind}"))).unwrap();
        assert_eq!((kind, count), (kind, said), "{rows:#?}");
    }
}

#[tokio::test]
async fn a_proxy_that_dies_costs_calls_and_that_is_exit_code_1() {
    a_program_that_dies_costs_calls("keyward-proxy", "").await;
}

#[tokio::test]
async fn an_edge_that_dies_costs_the_calls_that_went_through_it() {
    a_program_that_dies_costs_calls("keyward-edge", "edge, ").await;
}

#[tokio::test]
async fn a_daemon_that_dies_costs_no_call_and_is_told_of_all_the_same() {
    let demo = Demo::start(&["--seconds", "120", "--json"]);
    let folder = demo.folder.path().to_owned();
    until("calls are made", async || calls_are_made(&folder))
        .await
        .unwrap();
    demo.kill("keyward").await;
    let ended = demo.end().await;
    let summary = ended.summary();
    assert_eq!(ended.status.code(), Some(70), "{}", ended.errors);
    assert_eq!(number(&summary, "/calls/failed"), 0, "{}", ended.errors);
    assert_eq!(number(&summary, "/streams/broken"), 0, "{}", ended.errors);
    for words in ["keyward ended with signal: 9", "logs are kept in "] {
        assert!(
            ended.errors.contains(words),
            "{words:?} in {}",
            ended.errors
        );
    }
    assert_eq!(ended.left_behind().len(), 1);
}

/// The first failure is one of a way that `lost` begins the name of.
async fn a_program_that_dies_costs_calls(program: &str, lost: &str) {
    let demo = Demo::start(&["--seconds", "120"]);
    let folder = demo.folder.path().to_owned();
    until("calls are made", async || calls_are_made(&folder))
        .await
        .unwrap();
    demo.kill(program).await;
    let ended = demo.end().await;
    let shown = format!("{}{}", ended.output, ended.errors);
    assert_eq!(ended.status.code(), Some(1), "{shown}");
    let died = format!("{program} ended with signal: 9");
    for words in [
        "LOST: ",
        "first failure after ",
        lost,
        &died,
        "logs are kept in ",
    ] {
        assert!(ended.output.contains(words), "{words:?} in {shown}");
    }
    assert_eq!(ended.left_behind().len(), 1);
}

/// The daemon writes down the end of each rotation, and the first one begins with the calls.
fn calls_are_made(folder: &Path) -> bool {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let mut logs = entries
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("logs/keyward.log")).ok());
    // Others end before: a client certificate is issued at the start.
    let of_rotation = |line: &str| line.contains("operation ended") && line.contains("\"rotate ");
    logs.any(|log| log.lines().any(of_rotation))
}

#[tokio::test]
async fn a_server_that_is_down_is_named_before_anything_starts() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", free.local_addr().unwrap());
    drop(free);
    let ended = Demo::start(&["--upstream", &url]).end().await;
    assert_eq!(ended.status.code(), Some(69), "{}", ended.errors);
    assert!(
        ended.errors.contains("nothing answers at"),
        "{}",
        ended.errors
    );
    assert!(
        ended.errors.contains("next: start the server"),
        "{}",
        ended.errors
    );
}

#[tokio::test]
async fn somebodys_own_server_is_called_and_not_harmed() {
    let tasks = process::Tasks::new();
    let server = harness::sample::Sample::start(harness::ANY, &tasks)
        .await
        .unwrap();
    let url = format!("http://{}/mcp", server.address);
    let ended = Demo::start(&["--seconds", "2", "--json", "--upstream", &url])
        .end()
        .await;
    assert_eq!(ended.status.code(), Some(0), "{}", ended.errors);
    assert!(
        number(&ended.summary(), "/calls/made") > 50,
        "{}",
        ended.output
    );
    let wrong = format!("http://{}/wrong", server.address);
    let ended = Demo::start(&["--upstream", &wrong]).end().await;
    assert_eq!(ended.status.code(), Some(69), "{}", ended.errors);
    assert!(
        ended.errors.contains("most servers use /mcp"),
        "{}",
        ended.errors
    );
    tasks.stop();
}

#[tokio::test]
async fn a_client_of_its_own_making_goes_through_the_bridge_by_the_name_localhost() {
    let mut running = Running::start(harness::options().unwrap()).await.unwrap();
    running.stack.rotate(Rotation::Ca).await.unwrap();
    for url in [running.websocket_url(), running.tls_url()] {
        let output = tokio::process::Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--include",
                "--noproxy",
                "*",
                "--cacert",
            ])
            .arg(&running.stack.paths.trust)
            .args(["--header", "Accept: application/json, text/event-stream"])
            .args([
                "--json",
                r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
                &url,
            ])
            .output()
            .await
            .unwrap();
        let answer = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{url}: {errors}");
        assert!(answer.starts_with("HTTP/2 "), "{url}: {answer}");
    }
    // Without the CA the path is no one's to trust.
    let output = Command::new("curl")
        .args(["--silent", &running.tls_url()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(60));
    running.stack.proxy.kill().await;
    let target = running.websocket();
    let refused = running
        .session(target, HttpVersion::Two, Revision::Stateless)
        .await;
    assert!(refused.is_err());
}

#[test]
fn a_missing_program_is_named_with_the_way_to_build_it() {
    let folder = TempDir::new().unwrap();
    let alone = folder.path().join("keyward-demo");
    crate::cli::stage::copy(&program(), &alone);
    let output = Command::new(&alone).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{errors}");
    assert!(errors.contains("keyward is not at"), "{errors}");
    assert!(errors.contains("next: cargo build --bins"), "{errors}");
}
