//! Every command but `run`, `renew-cert` and `issue-client`.

use std::os::unix::process::CommandExt;
use std::sync::Arc;

use daemon::board::Order;
use tokio::io::{AsyncBufReadExt, BufReader};

use super::stage::{self, Desk, LIMIT, command, end, keyward, open_directory, program};

/// The uid of nobody, who owns nothing here.
const NOBODY: u32 = 65534;

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
            .contains("next: carry it to them, then keyward rotate ca --trusted")
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
        ("tunnel-token", "this version cannot rotate tunnel-token"),
        ("client-ca", "this version cannot rotate client-ca"),
        ("everything", "there is no \"everything\" to rotate"),
    ] {
        let ended = end(&mut keyward(&["rotate", noun])).await;
        let expected = format!("error: {what}\n  next: rotate one of server-certificate, ca\n");
        assert_eq!((ended.code, ended.stderr), (Some(64), expected));
    }
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
    assert!(
        ended.stderr.contains("operator.operators"),
        "{}",
        ended.stderr
    );
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

#[tokio::test]
async fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = end(&mut keyward(&["completions", shell])).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains("issue-client"), "{shell}");
    }
}

#[tokio::test]
async fn check_prints_a_configuration_that_means_the_same() {
    let directory = open_directory();
    let file = directory.path().join("keyward.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(
        &file,
        "tunnels: {main: {provider: static, domain: t.example, store: 'dir:/var/lib/t'}}\n",
    )
    .unwrap();
    let first = end(&mut keyward(&["check", "--config", path])).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert!(
        first
            .stdout
            .contains("socket: \"/run/keyward/operator.sock\"")
    );
    std::fs::write(&file, &first.stdout).unwrap();
    let second = end(&mut keyward(&["check", "--config", path])).await;
    assert_eq!(second.stdout, first.stdout);
    let json = end(&mut keyward(&["check", "--json", "--config", path]))
        .await
        .json();
    assert_eq!(json["effective"]["tunnels"]["main"]["domain"], "t.example");
    let count = json["warnings"].as_array().unwrap().len();
    let comments = first
        .stdout
        .lines()
        .filter(|line| line.starts_with("# warning: "));
    assert_eq!(comments.count(), count);
    let strict = end(&mut keyward(&["check", "--strict", "--config", path])).await;
    assert_eq!(
        strict.code,
        Some(if count == 0 { 0 } else { 78 }),
        "{strict:?}"
    );
}

#[tokio::test]
async fn check_refuses_an_unknown_key_with_its_place_and_the_nearest_known_one() {
    let directory = open_directory();
    let file = directory.path().join("keyward.yaml");
    std::fs::write(&file, "stat: /x\n").unwrap();
    let path = file.to_str().unwrap();
    let ended = end(&mut keyward(&["check", "--config", path])).await;
    let expected =
        format!("error: {path}:1:1: unknown key \"stat\"\n  next: did you mean \"state\"?\n");
    assert_eq!((ended.code, ended.stderr), (Some(78), expected));
}

fn interrupt(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
}
