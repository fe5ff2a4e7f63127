//! Every command but `run`, `check`, `renew-cert` and `issue-client`.

use std::os::unix::process::CommandExt;
use std::sync::Arc;

use daemon::board::Order;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::stage::{self, Desk, LIMIT, NOBODY, command, end, keyward, open_directory, program};

#[tokio::test]
async fn the_status_is_one_object_or_one_screen() {
    let desk = Desk::new();
    let ended = desk.run(&["status", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["tunnels"]["main"]["domain"], "t.example");
    let ended = desk.run(&["status"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.contains("main    t.example"),
        "{}",
        ended.stdout
    );
}

#[tokio::test]
async fn watching_the_status_shows_each_change_and_ends_well_when_interrupted() {
    let desk = Desk::new();
    let mut child = desk
        .keyward(&["status", "--watch", "--json"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut generation = async || {
        let line = tokio::time::timeout(LIMIT, lines.next_line())
            .await
            .unwrap();
        let status: serde_json::Value = serde_json::from_str(&line.unwrap().unwrap()).unwrap();
        status["tunnels"]["main"]["generation"].as_u64().unwrap()
    };
    assert_eq!(generation().await, 1);
    desk.status.send_modify(|status| {
        Arc::make_mut(status)
            .tunnels
            .get_mut("main")
            .unwrap()
            .generation = 2;
    });
    assert_eq!(generation().await, 2);
    interrupt(child.id().unwrap());
    let status = tokio::time::timeout(LIMIT, child.wait()).await.unwrap();
    assert_eq!(status.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_rotation_is_followed_to_its_end() {
    let desk = Desk::new();
    let ended = desk.run(&["rotate", "server-certificate", "--json"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.json()["state"], "done");
    let ended = desk.run(&["rotate", "server-certificate"]).await;
    assert!(
        ended.stdout.contains("generation 2 is in force\ndone\n"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_rotation_that_failed_is_a_failure_of_the_command() {
    let desk = Desk::new();
    let ended = desk.run(&["rotate", "ca", "--trusted"]).await;
    assert_eq!(ended.code, Some(70), "{ended:?}");
    assert!(
        ended.stderr.contains("no replica acknowledged"),
        "{}",
        ended.stderr
    );
}

#[tokio::test]
async fn the_standby_that_the_verifiers_hold_can_be_named() {
    for (argument, standby) in [
        ("--trusted", None),
        ("--trusted=5f9e", Some("5f9e".to_owned())),
    ] {
        let desk = Desk::new();
        desk.run(&["rotate", "ca", argument]).await;
        let order = Order::RotateCa {
            tunnel: "main".to_owned(),
            trusted: true,
            standby,
            accept_unproven: false,
        };
        assert_eq!(*desk.orders.borrow(), vec![order]);
    }
}

#[tokio::test]
async fn a_ca_that_nobody_trusts_yet_is_shown_and_not_rotated_to() {
    let desk = Desk::new();
    let ended = desk.run(&["rotate", "ca"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for part in ["PEM of standby", "sha256 sha-of-standby", "t.example"] {
        assert!(ended.stdout.contains(part), "{}", ended.stdout);
    }
    assert!(
        ended
            .stderr
            .contains("next: carry it to them, then keyward rotate ca --trusted=sha-of-standby")
    );
    let json = desk.run(&["rotate", "ca", "--json"]).await.json();
    assert_eq!(json["standby_ca"]["pem"], "PEM of standby\n");
    assert_eq!(
        (&json["exit"], &json["tunnel"]),
        (&78.into(), &"main".into())
    );
    assert_eq!(
        *desk.orders.borrow(),
        Vec::<Order>::new(),
        "nothing was ordered"
    );
}

#[tokio::test]
async fn a_noun_that_cannot_be_rotated_is_refused_by_name_with_those_that_can() {
    for (noun, what) in [
        ("bundle-key", "this version cannot rotate bundle-key"),
        ("client-ca", "this version cannot rotate client-ca"),
        ("everything", "there is no \"everything\" to rotate"),
    ] {
        let ended = end(&mut keyward(&["rotate", noun])).await;
        let nouns = "server-certificate, ca, tunnel-token, shared-secret";
        let expected = format!("error: {what}\n  next: rotate one of {nouns}\n");
        assert_eq!((ended.code, ended.stderr), (Some(64), expected));
    }
    let ended = end(&mut keyward(&["rotate", "server-certificate", "--trusted"])).await;
    let expected = "error: --trusted is about the CA alone\n  next: leave it out: keyward rotate server-certificate\n";
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(64), expected));
}

#[tokio::test]
async fn without_a_daemon_a_command_says_where_it_looked_and_what_to_do() {
    let directory = open_directory();
    let socket = directory.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    let ended = end(&mut keyward(&["status", "--json", "--socket", socket])).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    let error = &ended.json()["error"];
    assert_eq!(error["what"], format!("no daemon answers on {socket}"));
    assert!(error["next"].as_str().unwrap().contains("keyward run"));
    assert!(ended.stderr.starts_with("error: no daemon answers on"));
}

#[tokio::test]
async fn another_user_is_kept_out_and_told_how_to_come_in() {
    let desk = Desk::new();
    let copy = desk.directory.path().join("keyward");
    stage::copy(&program("keyward"), &copy);
    let mut stranger = command(&copy, &["status", "--socket", &desk.socket]);
    stranger.as_std_mut().uid(NOBODY).gid(NOBODY);
    let ended = end(&mut stranger).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    let expected = format!(
        "error: this user may not open {}\n  next: run it as root or as the daemon's user, or join control.group and be named in operator.operators\n",
        desk.socket
    );
    assert_eq!(ended.stderr, expected);
}

#[tokio::test]
async fn wrong_words_end_with_64_and_help_and_version_with_0() {
    for wrong in [&["conquer"][..], &["status", "--colour"], &["rotate"], &[]] {
        let ended = end(&mut keyward(wrong)).await;
        assert_eq!(ended.code, Some(64), "{wrong:?}: {ended:?}");
        assert!(
            ended.stdout.is_empty() && !ended.stderr.is_empty(),
            "{ended:?}"
        );
    }
    let ended = end(&mut keyward(&["--version"])).await;
    let version = format!("keyward {}\n", process::BUILD);
    assert_eq!((ended.code, ended.stdout), (Some(0), version));
    let ended = end(&mut keyward(&["--help"])).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// A script that asked for JSON gets the documented object for wrong words as well.
#[tokio::test]
async fn wrong_words_are_said_as_json_where_that_was_asked_for() {
    for (wrong, what) in [
        (
            &[
                "renew-cert",
                "--json",
                "--output",
                "dir:/x",
                "--cert-duration",
                "0",
            ][..],
            "invalid value '0' for '--cert-duration <DURATION>': write something from 1m to 398d",
        ),
        (
            &[
                "renew-cert",
                "--json",
                "--output",
                "dir:/x",
                "--cert-duration",
                "399d",
            ],
            "invalid value '399d' for '--cert-duration <DURATION>': write something from 1m to 398d",
        ),
        (
            &["renew-cert", "--json", "--output=/data"],
            "invalid value '/data' for '--output <dir:PATH>': write dir: and the path of a directory; this version knows no other store",
        ),
        (
            &["renew-cert", "--json"],
            "the following required arguments were not provided: --output <dir:PATH>",
        ),
        (
            &["status", "--json", "--colour"],
            "unexpected argument '--colour' found",
        ),
    ] {
        let ended = end(&mut keyward(wrong)).await;
        let expected = serde_json::json!({
            "error": {"what": what, "why": null, "next": "keyward help, or --help behind the command"},
            "exit": 64,
        });
        assert_eq!(
            (ended.code, ended.json()),
            (Some(64), expected),
            "{wrong:?}"
        );
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
    }
    // Behind -- it is a name like any other.
    let ended = end(&mut keyward(&[
        "issue-client",
        "--lifetime",
        "x",
        "--",
        "--json",
    ]))
    .await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(64), ""));
}

/// As bash does it for the Tab key (bash(1), Programmable Completion): the last word is being typed.
const TAB: &str = r#"
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_keyward keyward "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

#[tokio::test]
async fn a_shell_completes_commands_nouns_and_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = end(&mut keyward(&["completions", shell])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("issue-client"), "{shell}");
    }
    let directory = open_directory();
    let script = directory.path().join("keyward.bash");
    let bash = end(&mut keyward(&["completions", "bash"])).await.stdout;
    std::fs::write(&script, bash).unwrap();
    let script = script.to_str().unwrap();
    for (words, offered) in [
        (
            &[""][..],
            &[
                "run",
                "check",
                "status",
                "rotate",
                "init",
                "connector",
                "renew-cert",
                "issue-client",
                "completions",
                "doctor",
                "help",
            ][..],
        ),
        (&["ro"], &["rotate"]),
        (
            &["rotate", ""],
            &["server-certificate", "ca", "tunnel-token", "shared-secret"],
        ),
        (&["rotate", "s"], &["server-certificate", "shared-secret"]),
        (&["rotate", "--tunnel", "main", "c"], &["ca"]),
        (&["rotate", "ca", "--t"], &["--trusted", "--tunnel"]),
        (
            &["completions", ""],
            &["bash", "elvish", "fish", "powershell", "zsh"],
        ),
        (&["check", "--f"], &["--firewall"]),
        (&["run", "--"], &["--config", "--single-user", "--help"]),
        (&["issue-client", "--l"], &["--lifetime"]),
        (&["renew-cert", "--o"], &["--output"]),
    ] {
        let arguments = [&["-c", TAB, "bash", script, "keyward"][..], words].concat();
        let ended = end(&mut command("/bin/bash".as_ref(), &arguments)).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        // Flags are offered with everything.
        let typed = words.last().unwrap();
        let mut shown: Vec<&str> = ended.stdout.split_whitespace().collect();
        shown.retain(|word| typed.starts_with('-') || !word.starts_with('-'));
        let mut offered = offered.to_vec();
        shown.sort_unstable();
        offered.sort_unstable();
        assert_eq!(shown, offered, "{words:?}");
    }
}

pub(super) fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
