//! What the demo looks like: a table that is drawn over itself on a terminal, a line a second elsewhere.

use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;

use super::{Demo, program};
use crate::rig::screen::states;

#[tokio::test]
async fn on_a_terminal_one_table_is_drawn_over_itself_and_ends_as_the_verdict() {
    let folder = TempDir::new().unwrap();
    let line = format!("{} --seconds 3", program().display());
    // A terminal of its own (script(1)); what is written to it comes out here.
    let terminal = tokio::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(180), terminal).await;
    let output = output.unwrap().unwrap();
    let written = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{written}");

    let states = states(&written, rows);
    let count = |state: &[String], part: &str| {
        let lines = state.iter().filter(|line| line.contains(part));
        lines.count()
    };
    let drawn: Vec<&Vec<String>> = states
        .iter()
        .filter(|state| count(state, " s of 3 s") > 0)
        .collect();
    assert!(drawn.len() > 5, "it is drawn again and again: {written}");
    for state in &drawn {
        // Nothing of an earlier table is left, and nothing above it is lost.
        for part in [
            " s of 3 s",
            "latency of calls",
            "everything runs in",
            "ways through the stack",
        ] {
            assert_eq!(count(state, part), 1, "{part:?} in {state:#?}");
        }
    }
    let made = |state: &[String]| -> u64 {
        let calls = state.iter().find_map(|line| line.strip_prefix("  calls "));
        calls
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(made(drawn[0]) < made(drawn[drawn.len() - 1]), "it lives");

    let last = states.last().unwrap();
    assert_eq!(count(last, " s of 3 s"), 0, "{last:#?}");
    for part in [
        "everything runs in",
        "latency of calls",
        "every answer checked",
    ] {
        assert_eq!(count(last, part), 1, "{part:?} in {last:#?}");
    }
    assert_eq!(last.last().map(String::as_str), Some("nothing was lost"));
}

#[tokio::test]
async fn into_a_pipe_go_plain_lines_one_a_second_and_the_table_once() {
    let ended = Demo::start(&["--seconds", "2"]).end().await;
    let output = &ended.output;
    assert_eq!(ended.status.code(), Some(0), "{output}{}", ended.errors);
    assert!(!output.contains('\x1b'), "{output:?}");
    assert!(!output.contains('\r'), "{output:?}");
    let seconds: Vec<u64> = output
        .lines()
        .filter_map(|line| line.split_once(" s  calls "))
        .map(|(second, _)| second.trim().parse().unwrap())
        .collect();
    assert_eq!(seconds.first(), Some(&1), "{output}");
    assert!(seconds.is_sorted_by(|one, next| one < next), "{output}");
    assert_eq!(output.matches("latency of calls").count(), 1, "{output}");
    assert!(output.ends_with("\nnothing was lost\n"), "{output}");
}

/// The rows of a terminal without an end.
fn rows(text: &str) -> Vec<String> {
    let whole = |line: &str| {
        let line = line.strip_suffix("\r\n");
        line.expect("whole lines, as a terminal ends them")
            .to_owned()
    };
    text.split_inclusive('\n').map(whole).collect()
}
