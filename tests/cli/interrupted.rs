//! A daemon that takes the connection and never answers: whoever asks it can always leave.

use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixListener;

use super::stage::{LIMIT, keyward, open_directory, wait};

#[tokio::test]
async fn a_command_that_a_mute_daemon_keeps_waiting_ends_at_a_signal_and_says_what_is_open() {
    let directory = open_directory();
    let out = directory.path().to_str().unwrap();
    let socket = directory.path().join("operator.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let ordered = "keyward status shows whether it took the order";
    let asked = "look at the daemon's log";
    for (words, next) in [
        (&["status"][..], asked),
        (&["status", "--watch"], asked),
        (&["status", "--json"], asked),
        (&["rotate", "server-certificate"], ordered),
        (&["rotate", "ca"], ordered),
        (&["rotate", "ca", "--trusted", "--json"], ordered),
        (&["issue-client", "agent.example", "--out", out], ordered),
    ] {
        for signal in [Signal::TERM, Signal::INT] {
            let child = keyward(words).arg("--socket").arg(&socket).spawn().unwrap();
            let accepted = tokio::time::timeout(LIMIT, listener.accept()).await;
            let _mute = accepted.expect("it asks").unwrap();
            let process = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
            kill_process(process, signal).unwrap();
            let ended = wait(child).await;
            let expected = format!(
                "error: stopped waiting\n  cause: this command was interrupted before the daemon had answered\n  \
                 next: {next}\n"
            );
            assert_eq!(
                (ended.code, ended.stderr.as_str()),
                (Some(69), expected.as_str()),
                "{words:?}"
            );
            if words.contains(&"--json") {
                let error = &ended.json()["error"];
                assert_eq!(
                    (&error["what"], &error["next"]),
                    (&"stopped waiting".into(), &next.into())
                );
            }
        }
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "no key of a client is left behind: {left:?}");
}
