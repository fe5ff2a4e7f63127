//! `keyward run`: who may reach what, signals, restarts, and that no secret gets out.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Stdio;

use control::Role;
use rustix::process::Signal;
use tokio::io::AsyncReadExt;

use super::process::{KEYWARD, PROXY, Place, STRANGER, TOKEN};
use super::stage::LIMIT;
use crate::rig::hang_up;

#[tokio::test]
async fn the_proxys_user_reaches_the_control_channel_and_nothing_else() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let memory = format!("/proc/{}/mem", daemon.pid());
    let keys = secrets(place.directory.path());
    assert!(keys.len() > 2, "there is something to keep from them");
    for uid in [PROXY, STRANGER] {
        for path in [
            place.text("store/ca.key"),
            place.text("store/tunnel-token"),
            place.text("state"),
            memory.clone(),
        ] {
            let read = place.probe(uid, "head", &["-c", "1", &path]).await;
            assert!(
                read.stderr.contains("Permission denied"),
                "{uid} {path}: {read:?}"
            );
        }
        let status = place.keyward_as(uid, &["status"]).await;
        assert_eq!(status.code, Some(77), "{uid}: {status:?}");
    }
    // Not even the daemon's own user reads its memory.
    let read = place.probe(KEYWARD, "head", &["-c", "1", &memory]).await;
    assert!(read.stderr.contains("Permission denied"), "{read:?}");

    // What the channel answers to who is no subscriber, and to who is one and talks nonsense.
    for (uid, reason) in [
        (STRANGER, "permission"),
        (KEYWARD, "permission"),
        (PROXY, "malformed"),
    ] {
        let socket = place.text("run/control.sock");
        let arguments = ["-s", "--http0.9", "--unix-socket", &socket, "http://x/"];
        let answer = place.probe(uid, "curl", &arguments).await;
        let expected = format!("{{\"kind\":\"refused\",\"reason\":\"{reason}\"");
        assert!(answer.stdout.starts_with(&expected), "{uid}: {answer:?}");
    }
    let complaints = daemon
        .log()
        .matches("uid is not in control.subscribers")
        .count();
    assert_eq!(complaints, 2, "once for each uid:\n{}", daemon.log());

    let mode = |name: &str| std::fs::metadata(place.path(name)).unwrap().mode() & 0o777;
    assert_eq!(
        (
            mode("run"),
            mode("run/control.sock"),
            mode("run/operator.sock")
        ),
        (0o750, 0o660, 0o600)
    );
    assert_eq!((mode("state"), mode("store")), (0o700, 0o700));
}

#[tokio::test]
async fn a_listed_operator_may_order_and_nobody_else_of_the_group() {
    let place = Place::new(KEYWARD);
    let config = std::fs::read_to_string(place.path("keyward.yaml")).unwrap();
    let config = config.replace("operator.sock}", "operator.sock, operators: [65530]}");
    std::fs::write(place.path("keyward.yaml"), config).unwrap();
    let daemon = place.serve().await;
    let operator = place.keyward_as(STRANGER, &["status"]).await;
    assert_eq!(operator.code, Some(0), "{operator:?}");
    for _ in 0..3 {
        let proxy = place
            .keyward_as(PROXY, &["rotate", "server-certificate"])
            .await;
        assert_eq!(proxy.code, Some(77), "{proxy:?}");
        assert!(
            proxy
                .stderr
                .contains("uid 65532 may not use the operator socket")
        );
    }
    let told = daemon.log().matches("operator refused").count();
    assert_eq!(told, 1, "once a minute:\n{}", daemon.log());
}

#[tokio::test]
async fn a_subscriber_of_the_daemons_own_user_is_refused_unless_wanted() {
    let place = Place::new(KEYWARD);
    place.configure("subscribers: [65531]");
    let daemon = place.start(&[]);
    let log = daemon.log.clone();
    assert_eq!(daemon.end().await, Some(78));
    let log = std::fs::read_to_string(log).unwrap();
    for part in [
        "error: control.subscribers lists uid 65531, the daemon's own",
        "cause: a proxy of that user could read the CA key",
        "next: run the proxy as another user",
    ] {
        assert!(log.contains(part), "{log}");
    }
    let daemon = place.start(&["--single-user"]);
    place
        .until("it serves", async || {
            place.keyward(&["status"]).await.code == Some(0)
        })
        .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
}

/// F43, on one host.
#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let place = Place::new(KEYWARD);
    let first = place.serve().await;
    let second = place.start(&[]);
    assert_eq!(second.end().await, Some(78));
    assert!(first.log().contains("another process listens on"));
    assert_eq!(place.keyward(&["status"]).await.code, Some(0));
    assert_eq!(
        place
            .subscribe(Vec::new())
            .await
            .credential()
            .await
            .generation,
        1
    );
}

/// F49.
#[tokio::test]
async fn a_hang_up_right_after_the_start_does_not_end_it() {
    let place = Place::new(KEYWARD);
    let daemon = place.start(&[]);
    let mut hung_up = false;
    place
        .until("its socket is there", async || {
            hung_up |= hang_up(daemon.pid());
            place.path("run/operator.sock").exists() && hung_up
        })
        .await;
    for _ in 0..20 {
        daemon.signal(Signal::HUP);
    }
    place
        .until("it serves", async || {
            place.keyward(&["status"]).await.code == Some(0)
        })
        .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
}

#[tokio::test]
async fn a_rotation_waits_for_the_proxy_that_is_connected() {
    let place = Place::new(KEYWARD);
    let _daemon = place.serve().await;
    let mut proxy = place.subscribe(Vec::new()).await;
    let first = proxy.credential().await;
    proxy.ack(first.generation).await;
    let rotation = place.keyward(&["rotate", "server-certificate", "--json"]);
    let answered = async {
        let next = proxy.credential().await;
        assert!(next.generation > first.generation && next.leaf.chain != first.leaf.chain);
        place
            .until("it is shown as running", async || {
                let status = place.keyward(&["status", "--json"]).await.json();
                status["operations"][0]["state"] == "running"
            })
            .await;
        proxy.ack(next.generation).await;
        next.generation
    };
    let (rotated, generation) = tokio::join!(rotation, answered);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let status = place.keyward(&["status", "--json"]).await.json();
    assert_eq!(status["replicas"]["double"]["acked"]["main"], generation);
}

/// What a subscriber says of itself is what everybody reads: however much it is, the operator's commands work.
#[tokio::test]
async fn the_longest_reports_of_as_many_replicas_as_may_be_leave_the_operator_his_commands() {
    const REPLICAS: usize = 64;
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let before = daemon.memory();
    // Nearly a MiB, in many small parts, which cost most.
    let report = control::Report {
        tunnels: vec![control::TunnelReport {
            tunnel: "main".to_owned(),
            handshakes: (0..100_000).map(|n| (format!("{n:x}"), 1)).collect(),
            ..control::TunnelReport::default()
        }],
        carriers: Vec::new(),
    };
    let mut grown = Vec::new();
    for wave in 0..2 {
        let mut crowd = Vec::new();
        for number in 0..REPLICAS {
            let name = format!("{wave}-{number}");
            let one = place.subscribe_as(Role::Connector, &name, Vec::new());
            crowd.push(one.await);
        }
        for one in &mut crowd {
            one.report(&report).await;
        }
        let last = format!("{wave}-{}", REPLICAS - 1);
        let status = async || place.keyward(&["status", "--json"]).await;
        place
            .until("the last report is there", async || {
                let replica = &status().await.json()["replicas"][&last];
                replica["report"]["tunnels"][0]["handshakes"]["0"] == 1
            })
            .await;
        let shown = status().await;
        assert!(shown.stdout.len() < 2 << 20, "{}", shown.stdout.len());
        let replicas = shown.json()["replicas"].as_object().unwrap().len();
        assert!(replicas <= REPLICAS, "{replicas} are remembered");
        assert_eq!(place.keyward(&["status"]).await.code, Some(0));
        let rotated = place.keyward(&["rotate", "server-certificate"]).await;
        assert_eq!(rotated.code, Some(0), "{rotated:?}");
        grown.push(daemon.memory().saturating_sub(before) >> 10);
        let told = daemon
            .log()
            .matches("report is longer than what is kept")
            .count();
        assert!(told <= 4, "{told} times");
        drop(crowd);
        place
            .until("they are gone", async || {
                let status = status().await.json();
                let replicas = status["replicas"].as_object().unwrap();
                replicas.values().all(|one| one["connected"] == false)
            })
            .await;
    }
    // Reading one such line takes some 30 MiB for its moment on each thread; what is kept, a tenth of it.
    assert!(grown.iter().all(|mib| *mib < 128), "{grown:?} MiB");
    assert!(
        grown[1] < grown[0] + 24,
        "it goes on growing: {grown:?} MiB"
    );
}

#[tokio::test]
async fn a_stop_is_clean_and_a_restart_publishes_nothing_anew() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let mut proxy = place.subscribe(Vec::new()).await;
    let before = proxy.credential().await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    for socket in ["run/control.sock", "run/operator.sock"] {
        assert!(!place.path(socket).exists(), "{socket} is taken away");
    }
    let daemon = place.serve().await;
    let after = place.subscribe(Vec::new()).await.credential().await;
    assert_eq!(after, before);
    // After a kill the sockets of the dead are in the way, and the state is the same.
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.end().await, None);
    assert!(place.path("run/control.sock").exists());
    std::fs::remove_file(place.path("log")).unwrap();
    let _daemon = place.serve().await;
    assert_eq!(place.subscribe(Vec::new()).await.credential().await, before);
}

#[tokio::test]
async fn health_is_ready_once_a_certificate_is_published_and_shows_metrics_and_status() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let mut proxy = place.subscribe(Vec::new()).await;
    let credential = proxy.credential().await;
    proxy.ack(credential.generation).await;
    let health = daemon.health();
    let get = async |path: &str| {
        let url = format!("http://{health}{path}");
        place.probe(STRANGER, "curl", &["-s", &url]).await.stdout
    };
    assert_eq!(get("/healthz").await, "ok\n");
    assert_eq!(get("/readyz").await, "ready\n");
    place
        .until("the ack is counted", async || {
            get("/metrics")
                .await
                .contains("keyward_replica_generation{replica=\"double\",tunnel=\"main\"} 1\n")
        })
        .await;
    let metrics = get("/metrics").await;
    for line in [
        "keyward_cred_generation{tunnel=\"main\",kind=\"server-certificate\",where=\"journal\"} 1\n",
        "keyward_cred_expiry_seconds{tunnel=\"main\",kind=\"server-certificate\",where=\"journal\"} ",
        "keyward_cred_expiry_seconds{tunnel=\"main\",kind=\"client-ca\",where=\"journal\"} ",
        "keyward_rotation_phase{tunnel=\"main\",kind=\"server-certificate\",phase=\"serving\"} 1\n",
        "keyward_issuance_total{tunnel=\"main\",kind=\"server-certificate\"} ",
        "keyward_time_suspect 0\n",
        "keyward_replicas{role=\"proxy\",state=\"connected\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
    let status: serde_json::Value = serde_json::from_str(&get("/v1/status").await).unwrap();
    assert_eq!(status["tunnels"]["main"]["domain"], "t.example");
}

/// F51.
#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn no_secret_gets_out() {
    let place = Place::new(KEYWARD);
    let config = std::fs::read_to_string(place.path("keyward.yaml")).unwrap();
    std::fs::write(
        place.path("keyward.yaml"),
        format!("log_level: debug\n{config}"),
    )
    .unwrap();
    let daemon = place.serve().await;
    let mut events = tokio::process::Command::new("curl")
        .args([
            "-sN",
            "--unix-socket",
            &place.text("run/operator.sock"),
            "http://x/v1/events",
        ])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut proxy = place.subscribe(Vec::new()).await;
    let sent = proxy.credential().await;
    proxy.ack(sent.generation).await;
    let mut shown = String::new();
    let out = place.text("agent");
    std::fs::create_dir(&out).unwrap();
    let config = place.text("keyward.yaml");
    for arguments in [
        &["rotate", "ca"][..],
        &["rotate", "ca", "--json"],
        &["issue-client", "agent.example", "--out", &out, "--json"],
        &["check", "--config", &config],
        &["status"],
        &["status", "--json"],
    ] {
        let ended = place.keyward(arguments).await;
        shown.push_str(&ended.stdout);
        shown.push_str(&ended.stderr);
    }
    let rotated = place.keyward(&["rotate", "ca", "--trusted"]);
    let answered = async {
        let next = proxy.credential().await;
        proxy.ack(next.generation).await;
    };
    let (rotated, ()) = tokio::join!(rotated, answered);
    assert_eq!(rotated.code, Some(0), "{rotated:?}");
    let health = daemon.health();
    for path in ["metrics", "v1/status", "readyz"] {
        let url = format!("http://{health}/{path}");
        shown.push_str(&place.probe(STRANGER, "curl", &["-s", &url]).await.stdout);
    }
    let command_line = std::fs::read(format!("/proc/{}/cmdline", daemon.pid())).unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", daemon.pid())).unwrap();
    shown.push_str(&String::from_utf8_lossy(&command_line));
    shown.push_str(&String::from_utf8_lossy(&environment));
    daemon.signal(Signal::TERM);
    let log = daemon.log.clone();
    assert_eq!(daemon.end().await, Some(0));
    let mut streamed = String::new();
    let reading = events
        .stdout
        .as_mut()
        .unwrap()
        .read_to_string(&mut streamed);
    tokio::time::timeout(LIMIT, reading).await.unwrap().unwrap();
    assert!(
        streamed.contains("event: operation"),
        "the stream was listened to"
    );
    shown.push_str(&streamed);
    shown.push_str(&std::fs::read_to_string(log).unwrap());
    for journal in files(&place.path("state")) {
        if !is_key(&journal) {
            shown.push_str(&std::fs::read_to_string(&journal).unwrap());
        }
    }

    let mut secrets = secrets(place.directory.path());
    secrets.push(TOKEN.to_owned());
    secrets.extend(key_lines(sent.leaf.key.expose()));
    assert!(secrets.len() > 4);
    for secret in secrets {
        assert!(!shown.contains(secret.as_str()), "a secret is shown");
    }
}

#[tokio::test]
async fn renew_cert_renews_what_no_daemon_holds() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let store = format!("dir:{}", place.text("store"));
    let held = place.keyward(&["renew-cert", "--output", &store]).await;
    assert_eq!(held.code, Some(78), "{held:?}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    let fingerprint = || std::fs::read_to_string(place.path("store/tls.crt")).unwrap();
    let before = fingerprint();
    // The daemon's certificate lives a week: more than a day, less than the stock month.
    let kept = place
        .keyward(&[
            "renew-cert",
            "--output",
            &store,
            "--renew-before",
            "24h",
            "--json",
        ])
        .await;
    assert_eq!(
        (kept.code, &kept.json()["renewed"]),
        (Some(0), &false.into())
    );
    assert_eq!(fingerprint(), before);
    let renewed = place
        .keyward(&["renew-cert", "--output", &store, "--json"])
        .await;
    assert_eq!(
        (renewed.code, &renewed.json()["renewed"]),
        (Some(0), &true.into())
    );
    assert_ne!(fingerprint(), before);
    for wrong in [&["--output", "/data"][..], &["--output", "dir:"], &[]] {
        let arguments: Vec<&str> = ["renew-cert"].iter().chain(wrong).copied().collect();
        assert_eq!(place.keyward(&arguments).await.code, Some(64), "{wrong:?}");
    }
}

/// As the stock Compose setup has it: root renews, and a proxy of another user reads.
#[tokio::test]
async fn renew_cert_leaves_owner_group_and_mode_of_what_it_replaces() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    // Plain files again.
    let stock = place.stock(&["ca.crt", "ca.key", "tls.crt", "tls.key"]);
    let rights = |name: &str, uid, gid, mode| {
        chown(stock.join(name), Some(uid), Some(gid)).unwrap();
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(stock.join(name), mode).unwrap();
    };
    rights("", PROXY, STRANGER, 0o751);
    rights("tls.key", PROXY, STRANGER, 0o440);
    rights("tls.crt", STRANGER, PROXY, 0o644);
    let output = format!("dir:{}", stock.display());
    for _ in 0..2 {
        // Without tunnel-domain, too.
        let ended = place
            .keyward(&["renew-cert", "--output", &output, "--renew-before", "0"])
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let found = |name: &str| {
            let found = std::fs::metadata(stock.join(name)).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(found(""), (PROXY, STRANGER, 0o751));
        assert_eq!(found("..data"), (PROXY, STRANGER, 0o751));
        assert_eq!(found("tls.key"), (PROXY, STRANGER, 0o440));
        assert_eq!(found("tls.crt"), (STRANGER, PROXY, 0o644));
        assert_eq!(found("ca.key"), (0, 0, 0o600));
        assert_eq!(found(".keyward.lock"), (PROXY, STRANGER, 0o600));
        let key = place.path("stock/tls.key");
        let read = place
            .probe(PROXY, "head", &["-c", "10", key.to_str().unwrap()])
            .await;
        assert_eq!(read.stdout, "-----BEGIN", "{read:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_read_is_said_with_its_path() {
    let place = Place::new(KEYWARD);
    std::fs::remove_file(place.path("keyward.yaml")).unwrap();
    let daemon = place.start(&[]);
    let log = daemon.log.clone();
    assert_eq!(daemon.end().await, Some(78));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(
        log.starts_with("error: cannot read") && log.contains("keyward.yaml"),
        "{log}"
    );
}

/// Every line of key material under `directory`.
fn secrets(directory: &Path) -> Vec<String> {
    let keys = files(directory).into_iter().filter(|path| is_key(path));
    keys.flat_map(|path| key_lines(&std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn key_lines(pem: &str) -> Vec<String> {
    let material = |line: &&str| line.len() > 20 && !line.starts_with("-----");
    pem.lines().filter(material).map(str::to_owned).collect()
}

fn is_key(path: &Path) -> bool {
    std::fs::read(path).is_ok_and(|bytes| bytes.windows(11).any(|part| part == b"PRIVATE KEY"))
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let kind = std::fs::symlink_metadata(&path).unwrap();
            if kind.is_dir() {
                left.push(path);
            } else if kind.is_file() && path.file_name() != Some("keyward".as_ref()) {
                found.push(path);
            }
        }
    }
    found
}
