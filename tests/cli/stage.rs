//! What the tests of the command line stand on: the program, and a daemon that is only an operator
//! socket, so that each answer can be chosen.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use daemon::board::{Board, Fault, Order, Refusal, Request};
use daemon::operator::{Operator, Settings};
use daemon::status::{CertificateStatus, Operation, OperationState, Status, TunnelStatus};
use pki::{Authority, AuthorityProfile, ClientProfile, Serial};
use process::{Clock, SystemClock, Tasks};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// Everything a command does is done within this time on the slowest machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// The uid of nobody, who owns nothing here.
pub(crate) const NOBODY: u32 = 65_534;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ended {
    /// Standard output as the one JSON object that it has to be.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The program under test: built by the runner, beside the test program's own directory.
pub(crate) fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let path = tests.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.exists(),
        "{} is not built: cargo build --bins",
        path.display()
    );
    path
}

/// `keyward` with `arguments`, in an environment of its own.
pub(crate) fn keyward(arguments: &[&str]) -> Command {
    command(&program("keyward"), arguments)
}

pub(crate) fn command(program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Runs `command` to its end.
pub(crate) async fn end(command: &mut Command) -> Ended {
    wait(command.spawn().unwrap()).await
}

pub(crate) async fn wait(child: Child) -> Ended {
    let output = tokio::time::timeout(LIMIT, child.wait_with_output())
        .await
        .expect("it ends in time")
        .unwrap();
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Copies a program to where every uid may run it: the build directory may be closed to others. By
/// another process, since a file that is open for writing in a fork of this one cannot be run.
pub(crate) fn copy(program: &Path, to: &Path) {
    let mut copy = std::process::Command::new("cp");
    assert!(copy.arg(program).arg(to).status().unwrap().success());
}

/// Runs `command` as a user from whom files can be closed, which root is not. Whoever runs the tests as
/// somebody else is such a user.
pub(crate) fn unprivileged(command: &mut Command) {
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
}

/// Closes a file to that user: root has it alone, or nobody at all.
pub(crate) fn close(path: &Path) {
    let mode = if rustix::process::geteuid().is_root() {
        0o600
    } else {
        0
    };
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Opens it to everybody again.
pub(crate) fn reopen(path: &Path) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
}

/// A directory that every uid may enter.
pub(crate) fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    directory
}

/// A daemon with an operator socket and nothing behind it but a script.
pub(crate) struct Desk {
    pub(crate) status: watch::Sender<Arc<Status>>,
    pub(crate) orders: watch::Receiver<Vec<Order>>,
    pub(crate) socket: String,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) client_ca: String,
    tasks: Tasks,
}

impl Desk {
    pub(crate) fn new() -> Self {
        let directory = open_directory();
        let socket = directory.path().join("operator.sock");
        let (requests, received) = mpsc::channel(4);
        let board = Board {
            publications: watch::Sender::default(),
            replicas: watch::Sender::default(),
            status: watch::Sender::new(Arc::new(status())),
            requests,
        };
        let status = board.status.clone();
        let settings = Settings {
            socket: socket.clone(),
            group: None,
            operators: BTreeSet::new(),
            tunnels: ["main".to_owned()].into(),
        };
        let tasks = Tasks::new();
        let operator = Operator::bind(settings, board.clone()).unwrap();
        tasks.essential("operator", operator.run(tasks.clone()));
        let now = SystemClock.wall();
        let authority = Authority::generate(&AuthorityProfile::client("test client CA"), now);
        let authority = authority.unwrap();
        let client_ca = authority.certificate().to_pem();
        let notes = watch::Sender::new(Vec::new());
        let orders = notes.subscribe();
        let script = Script {
            status: status.clone(),
            notes,
            authority,
            now,
        };
        let stopping = tasks.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = script.play(received) => {}
                () = stopping.stopping() => {}
            }
        });
        Self {
            status,
            orders,
            socket: socket.display().to_string(),
            directory,
            client_ca,
            tasks,
        }
    }

    /// `keyward` with `arguments`, told where this daemon is.
    pub(crate) fn keyward(&self, arguments: &[&str]) -> Command {
        let mut command = keyward(arguments);
        command.env("KEYWARD_OPERATOR_SOCKET", &self.socket);
        command
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        end(&mut self.keyward(arguments)).await
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

struct Script {
    status: watch::Sender<Arc<Status>>,
    notes: watch::Sender<Vec<Order>>,
    authority: Authority,
    now: SystemTime,
}

impl Script {
    /// The server certificate's rotation ends well, the CA's badly, a client gets its certificate.
    async fn play(self, mut received: mpsc::Receiver<Request>) {
        while let Some(request) = received.recv().await {
            self.notes
                .send_modify(|notes| notes.push(request.order.clone()));
            let begun = Operation {
                id: format!("op-{}", self.notes.borrow().len()),
                what: "rotate something".to_owned(),
                tunnel: "main".to_owned(),
                actor: request.actor,
                state: OperationState::Running,
                detail: String::new(),
                began: unix(self.now),
                ended: None,
                certificate: None,
            };
            let answer = match &request.order {
                Order::IssueClient { name, .. } if name == "refused.example" => Err(Refusal {
                    fault: Fault::State,
                    what: "main has no client CA".to_owned(),
                    next: "configure client_ca".to_owned(),
                }),
                Order::IssueClient { name, .. } if name == "wrong.example" => Err(Refusal {
                    fault: Fault::Words,
                    what: "no such name".to_owned(),
                    next: "name another".to_owned(),
                }),
                _ => Ok(begun.clone()),
            };
            if answer.is_ok() {
                self.set(|status| status.operations.push(begun));
            }
            let _ = request.answer.send(answer);
            self.set(|status| {
                if let Some(last) = status.operations.last_mut() {
                    self.finish(last, &request.order);
                }
            });
        }
    }

    fn finish(&self, operation: &mut Operation, order: &Order) {
        operation.ended = Some(unix(self.now));
        operation.state = OperationState::Done;
        match order {
            Order::RotateTunnelToken { .. } => {
                operation.detail = "the tunnel token ttok_2 is in force".to_owned();
            }
            Order::RotateServerCertificate { .. } | Order::RotateSharedSecret { .. } => {
                operation.detail = "generation 2 is in force".to_owned();
            }
            Order::RotateCa { .. } => {
                operation.state = OperationState::Failed;
                operation.detail = "no replica acknowledged".to_owned();
            }
            Order::IssueClient {
                name,
                csr,
                lifetime_seconds,
                ..
            } => {
                let profile = ClientProfile {
                    name: name.clone(),
                    lifetime: Duration::from_secs(*lifetime_seconds),
                };
                let certificate =
                    self.authority
                        .issue_client(&profile, csr, Serial::random(), self.now);
                operation.certificate = certificate.ok().map(|one| one.to_pem());
            }
        }
    }

    fn set(&self, change: impl FnOnce(&mut Status)) {
        self.status
            .send_modify(|status| change(Arc::make_mut(status)));
    }
}

fn unix(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap().as_secs()
}

fn status() -> Status {
    let tunnel = TunnelStatus {
        domain: "t.example".to_owned(),
        provider: "static".to_owned(),
        generation: 1,
        phase: "serving".to_owned(),
        ca: Some(certificate("present")),
        standby_ca: Some(certificate("standby")),
        ..TunnelStatus::default()
    };
    Status {
        build: "scripted".to_owned(),
        at: 1,
        tunnels: [("main".to_owned(), tunnel)].into(),
        ..Status::default()
    }
}

fn certificate(name: &str) -> CertificateStatus {
    CertificateStatus {
        sha256: format!("sha-of-{name}"),
        pem: format!("PEM of {name}\n"),
        ..CertificateStatus::default()
    }
}
