//! `keyward check`: what it prints, what it warns of and what it refuses.

use super::stage::{NOBODY, end, keyward, open_directory};

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
