//! Makes somebody else's connector read its token again: runs the command of `restart:` when another value lies in the
//! store.
//!
//! To the rotator it is a connector like any other: it stands on the board as a replica, acknowledges a generation when the
//! command has ended well, and refuses it when it has not. So a rotation is over when the connector was restarted, the next
//! one is not begun before, and the status tells of both. Which generation was the last is kept in the state directory.
//!
//! The command gets no variable, nothing on its standard input, and no token: it is in the store. What it prints is dropped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use control::{Reason, Report, Resource, Role};
use process::{Clock, Tasks};
use thiserror::Error;
use tokio::process::Command;

use crate::board::{Board, Publications, Replica};
use crate::config::Config;
use crate::disk::{Access, Disk, DiskError};

/// From start to exit; killed then.
const LIMIT: Duration = Duration::from_secs(60);
/// Pause after the first failure; doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// As the board calls it.
pub(crate) const NAME: &str = "restart:";

/// Why the connector was not restarted.
#[derive(Debug, Error)]
enum RestartError {
    #[error("the command cannot be started")]
    Start(#[source] std::io::Error),
    #[error("the command ended badly: {0}")]
    Status(std::process::ExitStatus),
    #[error("the command did not end within {} s", LIMIT.as_secs())]
    Timeout,
}

/// Restarts the connector of one tunnel.
pub(crate) struct Restarter {
    tunnel: String,
    command: Vec<String>,
    /// Holds the last generation that the connector was restarted for.
    file: PathBuf,
    disk: Disk,
    board: Board,
    clock: Arc<dyn Clock>,
}

impl Restarter {
    /// One for each tunnel that has a command.
    pub(crate) fn all(config: &Config, board: &Board, clock: &Arc<dyn Clock>) -> Vec<Self> {
        let tunnels = config.tunnels.iter();
        let each = tunnels.filter_map(|(name, tunnel)| {
            Some(Self {
                tunnel: name.clone(),
                command: tunnel.restart.clone()?,
                file: config.state.join(format!("restarted-{name}")),
                disk: Disk::default(),
                board: board.clone(),
                clock: clock.clone(),
            })
        });
        each.collect()
    }

    /// Follows the token until the stop.
    pub(crate) async fn run(self, tasks: Tasks) {
        tokio::select! {
            () = self.follow() => {}
            () = tasks.stopping() => {}
        }
    }

    async fn follow(&self) {
        let mut publications = self.board.publications.subscribe();
        let mut done = last(&self.file);
        let mut pause = FIRST_PAUSE;
        if let Some(generation) = done {
            self.stand(generation, None);
        }
        loop {
            let wanted = generation(&publications.borrow_and_update(), &self.tunnel);
            let failed = match (wanted, done) {
                // Whoever wrote the command down has started the connector himself.
                (Some(wanted), None) => self.keep(wanted, &mut done).err().map(|_| wanted),
                (Some(wanted), Some(last)) if wanted != last => {
                    match self.restart(wanted, &mut done).await {
                        Ok(()) => None,
                        Err(()) => Some(wanted),
                    }
                }
                _ => None,
            };
            let Some(refused) = failed else {
                pause = FIRST_PAUSE;
                if publications.changed().await.is_err() {
                    return;
                }
                continue;
            };
            self.stand(done.unwrap_or_default(), Some(refused));
            let another = |all: &Publications| generation(all, &self.tunnel) != Some(refused);
            tokio::select! {
                changed = publications.wait_for(another) => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    async fn restart(&self, wanted: u64, done: &mut Option<u64>) -> Result<(), ()> {
        match run(&self.command).await {
            Ok(()) => {
                tracing::info!(
                    tunnel = self.tunnel,
                    generation = wanted,
                    "connector restarted"
                );
                self.keep(wanted, done).map_err(drop)
            }
            Err(error) => {
                let error = process::Chain(&error).to_string();
                tracing::error!(
                    tunnel = self.tunnel,
                    generation = wanted,
                    error,
                    "connector not restarted"
                );
                Err(())
            }
        }
    }

    /// Remembers that the connector has this one.
    fn keep(&self, generation: u64, done: &mut Option<u64>) -> Result<(), DiskError> {
        let text = generation.to_string();
        let kept = self
            .disk
            .replace(&self.file, text.as_bytes(), Access::PRIVATE);
        if let Err(error) = &kept {
            let error = process::Chain(error).to_string();
            tracing::error!(tunnel = self.tunnel, error, "restart not noted");
        }
        kept?;
        *done = Some(generation);
        self.stand(generation, None);
        Ok(())
    }

    /// Says on the board which generation the connector has, and which one it could not be given.
    fn stand(&self, acked: u64, refused: Option<u64>) {
        let key = (self.tunnel.clone(), Resource::Tunnel);
        let refused = refused.map(|generation| (key.clone(), (generation, Reason::Unknown)));
        let replica = Replica {
            role: Role::Connector,
            uid: rustix::process::geteuid().as_raw(),
            build: process::BUILD.to_owned(),
            tunnels: vec![self.tunnel.clone()],
            dials: Vec::new(),
            connected: true,
            left: false,
            last_heard: self.clock.wall(),
            acks: [(key, acked)].into(),
            nacks: refused.into_iter().collect(),
            report: Report::default(),
        };
        self.board.replicas.send_modify(|replicas| {
            replicas.insert(format!("{NAME}{}", self.tunnel), replica);
        });
    }
}

/// Number of the value that connectors of a tunnel are given.
fn generation(all: &Publications, tunnel: &str) -> Option<u64> {
    let token = all.get(tunnel)?.token.as_ref()?;
    Some(token.generation)
}

/// What was noted; `None`: nothing yet.
fn last(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

async fn run(command: &[String]) -> Result<(), RestartError> {
    let Some((program, arguments)) = command.split_first() else {
        return Ok(());
    };
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.map_err(RestartError::Start)?;
    match tokio::time::timeout(LIMIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(RestartError::Status(status)),
        Ok(Err(error)) => Err(RestartError::Start(error)),
        Err(_) => Err(RestartError::Timeout),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use process::SystemClock;
    use tokio::sync::{mpsc, watch};

    use super::*;
    use crate::board::{Publication, Replicas};

    struct Case {
        folder: tempfile::TempDir,
        board: Board,
        replicas: watch::Receiver<Replicas>,
        tasks: Tasks,
    }

    impl Case {
        /// The command is a script that is told where the case lies.
        fn new(script: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("script"), script).unwrap();
            let board = Board {
                publications: watch::Sender::default(),
                replicas: watch::Sender::default(),
                status: watch::Sender::default(),
                requests: mpsc::channel(1).0,
            };
            let replicas = board.replicas.subscribe();
            Self {
                folder,
                board,
                replicas,
                tasks: Tasks::new(),
            }
        }

        /// As after a start of the daemon.
        fn start(&mut self) {
            self.tasks.stop();
            self.tasks = Tasks::new();
            self.board.replicas.send_replace(Replicas::new());
            let path = |name: &str| self.folder.path().join(name).display().to_string();
            let restarter = Restarter {
                tunnel: "main".to_owned(),
                command: vec!["/bin/sh".to_owned(), path("script"), path("")],
                file: self.folder.path().join("restarted-main"),
                disk: Disk::default(),
                board: self.board.clone(),
                clock: Arc::new(SystemClock),
            };
            self.tasks.spawn(restarter.run(self.tasks.clone()));
        }

        fn publish(&self, generation: u64) {
            let token = control::Tunnel {
                tunnel: "main".to_owned(),
                generation,
                token: control::Secret::new("canary".to_owned()),
            };
            let publication = Publication {
                token: Some(Arc::new(token)),
                ..Publication::default()
            };
            let all = BTreeMap::from([("main".to_owned(), publication)]);
            self.board.publications.send_replace(all);
        }

        /// Waits until the board says that the connector has this one, and has not taken that one.
        async fn stands(&mut self, acked: u64, refused: Option<u64>) {
            let key = ("main".to_owned(), Resource::Tunnel);
            let so = |replicas: &Replicas| {
                let replica = replicas.get("restart:main");
                replica.is_some_and(|replica| {
                    let nack = replica.nacks.get(&key).map(|(generation, _)| *generation);
                    replica.acks.get(&key) == Some(&acked) && nack == refused
                })
            };
            let waiting = self.replicas.wait_for(so);
            let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
            waited.expect("it comes about").unwrap();
        }

        fn runs(&self) -> usize {
            let runs = std::fs::read_to_string(self.folder.path().join("runs"));
            runs.unwrap_or_default().lines().count()
        }
    }

    #[tokio::test]
    async fn another_token_restarts_the_connector_once_also_over_a_restart_of_the_daemon() {
        let mut case = Case::new("env > \"$1/environment\"; echo run >> \"$1/runs\"");
        case.start();
        case.publish(7);
        case.stands(7, None).await;
        assert_eq!(
            case.runs(),
            0,
            "the first one is in the store before anybody starts"
        );
        case.publish(8);
        case.stands(8, None).await;
        assert_eq!(case.runs(), 1);
        // The shell sets its own; none of ours is among them.
        let environment = std::fs::read_to_string(case.folder.path().join("environment")).unwrap();
        let own = |line: &&str| {
            ["PWD=", "OLDPWD=", "SHLVL=", "_="]
                .iter()
                .any(|one| line.starts_with(one))
        };
        let given: Vec<&str> = environment.lines().filter(|line| !own(line)).collect();
        assert_eq!(given, [""; 0]);
        case.start();
        case.stands(8, None).await;
        assert_eq!(case.runs(), 1, "the same one needs nothing");
        case.board.publications.send_replace(BTreeMap::new());
        case.start();
        case.publish(9);
        case.stands(9, None).await;
        assert_eq!(case.runs(), 2, "what came while it was away");
        case.tasks.stop();
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_of_and_tried_again() {
        let mut case = Case::new("echo run >> \"$1/runs\"; [ -e \"$1/good\" ]");
        case.start();
        case.publish(7);
        case.stands(7, None).await;
        case.publish(8);
        case.stands(7, Some(8)).await;
        std::fs::write(case.folder.path().join("good"), "").unwrap();
        case.stands(8, None).await;
        assert!(case.runs() >= 2);
        assert_eq!(last(&case.folder.path().join("restarted-main")), Some(8));
        case.tasks.stop();
    }
}
