//! `status --watch`: one table that is drawn over itself on a terminal, printed anew elsewhere, and ended by an interrupt.

use std::process::Stdio;
use std::sync::Arc;

use daemon::status::{CredentialStatus, Outage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdout};

use super::stage::{Desk, LIMIT, program};
use crate::rig::screen::states;

const COLUMNS: usize = 60;

impl Desk {
    fn generation(&self, generation: u64) {
        self.status.send_modify(|status| {
            let status = Arc::make_mut(status);
            status.first_outage = Some(Outage::new("main", "ca", None, 4_000_000_000, 0));
            let tunnel = status.tunnels.get_mut("main").unwrap();
            tunnel.credentials = vec![CredentialStatus {
                kind: "server-certificate".to_owned(),
                generation: Some(generation),
                journal: Some("a".repeat(64)),
                phase: "serving".to_owned(),
                ..CredentialStatus::default()
            }];
        });
    }
}

/// What was written so far, read until it has this part.
struct Written {
    stdout: ChildStdout,
    text: String,
}

impl Written {
    async fn until(&mut self, what: &str, reached: impl Fn(&str) -> bool) {
        let mut buffer = [0; 4096];
        while !reached(&self.text) {
            let read = tokio::time::timeout(LIMIT, self.stdout.read(&mut buffer));
            let count = read
                .await
                .unwrap_or_else(|_| panic!("{what}: {}", self.text));
            let count = count.unwrap();
            assert!(count > 0, "{what}: {}", self.text);
            self.text
                .push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        }
    }
}

async fn ended(mut child: Child) -> Option<i32> {
    let status = tokio::time::timeout(LIMIT, child.wait()).await;
    status.expect("it ends in time").unwrap().code()
}

fn draws(text: &str) -> usize {
    text.matches("keyward scripted").count()
}

#[tokio::test]
async fn on_a_terminal_it_is_drawn_over_itself_at_changes_and_without_and_ends_when_interrupted() {
    let desk = Desk::new();
    desk.generation(7);
    let line = format!(
        "stty rows 40 columns {COLUMNS}; exec {} status --watch",
        program("keyward").display()
    );
    // A terminal of its own (script(1)); what is written to it comes out here, what is typed goes in.
    let mut child = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("KEYWARD_OPERATOR_SOCKET", &desk.socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut written = Written {
        stdout: child.stdout.take().unwrap(),
        text: String::new(),
    };
    written.until("the first", |text| draws(text) == 1).await;
    desk.generation(8);
    // The one of the change, and two that nothing but time brings about.
    written.until("the others", |text| draws(text) >= 4).await;
    let mut typed = child.stdin.take().unwrap();
    typed.write_all(b"\x03").await.unwrap();
    typed.flush().await.unwrap();
    assert_eq!(ended(child).await, Some(0));

    let states = states(&written.text, rows);
    let count = |state: &[String], part: &str| {
        let lines = state.iter().filter(|line| line.contains(part));
        lines.count()
    };
    assert!(states.len() >= 4, "{states:#?}");
    for state in &states {
        for part in [
            "keyward scripted",
            "TUNNEL  DOMAIN",
            "TUNNEL  CREDENTIAL",
            "first outage",
        ] {
            assert_eq!(count(state, part), 1, "{part} in {state:#?}");
        }
    }
    assert_eq!(
        count(&states[0], "server-certificate  7 "),
        1,
        "{:#?}",
        states[0]
    );
    let last = &states[states.len() - 1];
    assert_eq!(count(last, "server-certificate  8 "), 1, "{last:#?}");
    assert_eq!(count(last, "server-certificate  7 "), 0, "{last:#?}");
}

#[tokio::test]
async fn into_a_pipe_it_is_printed_anew_at_changes_and_every_two_seconds() {
    let desk = Desk::new();
    desk.generation(7);
    let mut child = desk.keyward(&["status", "--watch"]).spawn().unwrap();
    let mut written = Written {
        stdout: child.stdout.take().unwrap(),
        text: String::new(),
    };
    written.until("the first", |text| draws(text) == 1).await;
    desk.generation(8);
    written.until("the others", |text| draws(text) >= 3).await;
    super::commands::interrupt(child.id().unwrap());
    assert_eq!(ended(child).await, Some(0));
    assert!(!written.text.contains('\x1b'), "{:?}", written.text);
    let tables: Vec<&str> = written.text.split("keyward scripted").skip(1).collect();
    assert!(
        tables[0].contains("server-certificate  7 "),
        "{}",
        tables[0]
    );
    assert!(
        tables[2].contains("server-certificate  8 "),
        "{}",
        tables[2]
    );
}

/// The rows of a terminal of [`COLUMNS`] columns, on which lines wrap.
fn rows(text: &str) -> Vec<String> {
    let mut rows = Vec::new();
    for line in text.split_inclusive('\n') {
        // What is typed is echoed at the end.
        let line = line.trim_end_matches("\r\n").trim_end_matches("^C");
        if line.is_empty() && !text.ends_with('\n') {
            continue;
        }
        let letters: Vec<char> = line.chars().collect();
        rows.extend(letters.chunks(COLUMNS).map(|row| row.iter().collect()));
        if letters.is_empty() {
            rows.push(String::new());
        }
    }
    rows
}
