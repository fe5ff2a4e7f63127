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
        ("tunnel-token", "this version cannot rotate tunnel-token"),
        ("client-ca", "this version cannot rotate client-ca"),
        ("everything", "there is no \"everything\" to rotate"),
    ] {
        let ended = end(&mut keyward(&["rotate", noun])).await;
        let expected = format!("error: {what}\n  next: rotate one of server-certificate, ca\n");
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
                "renew-cert",
                "issue-client",
                "completions",
                "doctor",
                "help",
            ][..],
        ),
        (&["ro"], &["rotate"]),
        (&["rotate", ""], &["server-certificate", "ca"]),
        (&["rotate", "s"], &["server-certificate"]),
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
    assert_eq!(json["warnings"], serde_json::json!([]));
    let note = "tunnels.main: the CA key is unsealed on the disk that holds /var/lib/t";
    assert_eq!(json["notes"], serde_json::json!([note]));
    assert!(first.stdout.ends_with(&format!("\n# note: {note}\n")));
    let firewall = end(&mut keyward(&["check", "--firewall", "--config", path])).await;
    assert_eq!(
        (firewall.code, firewall.stdout.as_str()),
        (
            Some(0),
            "in\ttcp\t127.0.0.1\t9463\thealth and metrics, this machine alone\n"
        )
    );
}

#[tokio::test]
async fn a_strict_check_passes_what_can_be_and_fails_what_should_be_otherwise() {
    let directory = open_directory();
    let file = directory.path().join("keyward.yaml");
    let path = file.to_str().unwrap();
    let tunnels =
        "tunnels: {main: {provider: static, domain: t.example, store: 'dir:/var/lib/t'}}\n";
    let strict = ["check", "--strict", "--config", path];
    std::fs::write(&file, tunnels).unwrap();
    let good = end(&mut keyward(&strict)).await;
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    std::fs::write(
        &file,
        format!("health: {{listen_addr: '0.0.0.0:9463'}}\n{tunnels}"),
    )
    .unwrap();
    let warned = end(&mut keyward(&["check", "--config", path])).await;
    let warning = "health.listen_addr 0.0.0.0:9463 is not loopback: everybody who reaches it may read metrics and status";
    assert_eq!(warned.code, Some(0));
    assert!(
        warned
            .stdout
            .ends_with(&format!("\n# warning: {warning}\n"))
    );
    let bad = end(&mut keyward(&strict)).await;
    let expected = format!(
        "error: {path} has 1 warning\n  cause: {warning}\n  next: change what they name, or check without --strict\n"
    );
    assert_eq!((bad.code, bad.stderr), (Some(78), expected));
}

/// Whoever owns the state runs the daemon.
#[tokio::test]
async fn check_warns_of_a_subscriber_that_is_the_daemons_own_user() {
    let directory = open_directory();
    let (file, state) = (directory.path().join("keyward.yaml"), directory.path());
    std::os::unix::fs::chown(state, Some(NOBODY), None).unwrap();
    let path = file.to_str().unwrap();
    let text = |subscribers: u32| {
        let state = state.display();
        format!(
            "state: {state}\ncontrol: {{subscribers: [{subscribers}]}}\ntunnels: {{main: {{provider: static, domain: t.example, store: 'dir:{state}/t'}}}}\n"
        )
    };
    std::fs::write(&file, text(NOBODY + 1)).unwrap();
    let strict = ["check", "--strict", "--config", path];
    let good = end(&mut keyward(&strict)).await;
    assert_eq!((good.code, good.stderr.as_str()), (Some(0), ""));
    std::fs::write(&file, text(NOBODY)).unwrap();
    let warning = "control.subscribers lists uid 65534, the daemon's own: run refuses it without --single-user, since a proxy of that user could read the CA key";
    let warned = end(&mut keyward(&["check", "--config", path])).await;
    assert_eq!(warned.code, Some(0), "{warned:?}");
    assert!(
        warned
            .stdout
            .ends_with(&format!("\n# warning: {warning}\n"))
    );
    let bad = end(&mut keyward(&strict)).await;
    assert_eq!(bad.code, Some(78), "{bad:?}");
    assert!(bad.stderr.contains(&format!("\n  cause: {warning}\n")));
}

#[tokio::test]
async fn check_refuses_a_group_that_this_host_does_not_have() {
    let directory = open_directory();
    let file = directory.path().join("keyward.yaml");
    let path = file.to_str().unwrap();
    let tunnels =
        "tunnels: {main: {provider: static, domain: t.example, store: 'dir:/var/lib/t'}}\n";
    std::fs::write(&file, format!("control: {{group: nobody-s}}\n{tunnels}")).unwrap();
    let expected = "error: control.group is \"nobody-s\", which this host does not have\n  next: groupadd --system nobody-s, or write the number of a group\n";
    for form in [&[][..], &["--json"], &["--firewall"], &["--strict"]] {
        let arguments = [&["check", "--config", path][..], form].concat();
        let ended = end(&mut keyward(&arguments)).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(78), expected));
    }
    std::fs::write(&file, format!("control: {{group: root}}\n{tunnels}")).unwrap();
    let ended = end(&mut keyward(&["check", "--config", path])).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// What would be two things in one place, however it is spelled.
#[tokio::test]
async fn check_refuses_places_that_are_in_each_others_way() {
    let directory = open_directory();
    let root = directory.path().display();
    let file = directory.path().join("keyward.yaml");
    let path = file.to_str().unwrap();
    std::fs::create_dir(directory.path().join("run")).unwrap();
    std::os::unix::fs::symlink("run", directory.path().join("link")).unwrap();
    for (operator, store, what) in [
        (
            "link/x",
            "state/t",
            "control.socket and operator.socket are the same place",
        ),
        (
            "none/../run/x",
            "state/t",
            "control.socket and operator.socket are the same place",
        ),
        (
            "run/y",
            "state/custody/t",
            "tunnels.main.store is inside the custody under state",
        ),
        ("run/y", ".", "state is inside tunnels.main.store"),
        (
            "run/y",
            "run/../state",
            "tunnels.main.store and state are the same place",
        ),
    ] {
        let text = format!(
            "state: {root}/state\ncontrol: {{socket: {root}/run/x}}\noperator: {{socket: {root}/{operator}}}\ntunnels: {{main: {{provider: static, domain: t.example, store: 'dir:{root}/{store}'}}}}\n"
        );
        std::fs::write(&file, text).unwrap();
        let ended = end(&mut keyward(&["check", "--config", path])).await;
        assert_eq!(ended.code, Some(78), "{what}: {ended:?}");
        assert!(
            ended.stderr.starts_with(&format!("error: {what}"))
                && ended.stderr.contains("\n  next: "),
            "{what}: {ended:?}"
        );
    }
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
