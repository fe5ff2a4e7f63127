//! Faults of a host that are real: a disk that is full or fails, a clock that is a year off. What is served goes on, what is
//! wrong is said, nothing is lost, and what was held up happens when the fault is over.

use std::fs::File;
use std::path::Path;

use rustix::process::{Pid, Signal};

use super::process::{Daemon, KEYWARD, Place};
use super::stage::command;

const ROTATE: [&str; 2] = ["rotate", "server-certificate"];

async fn whole(place: &Place) -> serde_json::Value {
    place.keyward(&["status", "--json"]).await.json()
}

fn alarms(main: &serde_json::Value) -> String {
    main["alarms"].to_string()
}

/// The state in a file system of its own, which only the daemon sees.
fn small(place: &Place) -> Daemon {
    const MOUNT: &str = "mkdir -p \"$0\" && mount -t tmpfs -o size=1m,mode=700,uid=65531,gid=65531 tmpfs \"$0\" && exec \"$@\"";
    let state = place.text("state");
    place.start_by(&["unshare", "--mount", "sh", "-c", MOUNT, &state])
}

/// Runs a shell's words where the daemon sees them.
async fn within(place: &Place, daemon: &Daemon, words: &str) {
    let pid = daemon.pid().to_string();
    let ran = place
        .probe(
            0,
            "nsenter",
            &["--target", &pid, "--mount", "sh", "-c", words],
        )
        .await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test]
async fn a_full_disk_holds_up_what_would_be_lost_and_nothing_that_is_served() {
    let place = Place::new(KEYWARD);
    let daemon = small(&place);
    place.served().await;
    let before = place.main().await;
    let filler = place.text("state/filler");
    let fill = format!("dd if=/dev/zero of={filler} bs=4096 2>/dev/null; test -s {filler}");
    within(&place, &daemon, &fill).await;
    let refused = place.keyward(&ROTATE).await;
    assert_eq!(refused.code, Some(70), "{refused:?}");
    for part in ["No space left on device", "next: "] {
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
    let during = place.main().await;
    assert_eq!(during["generation"], before["generation"]);
    let subscribed = place.subscribe(Vec::new()).await.credential().await;
    assert_eq!(before["generation"], subscribed.generation);
    within(&place, &daemon, &format!("rm {filler}")).await;
    place
        .until("it rotates", async || {
            place.keyward(&ROTATE).await.code == Some(0)
        })
        .await;
    let after = place.main().await;
    assert!(after["generation"].as_u64() > before["generation"].as_u64());
    assert_eq!(alarms(&after), "[]");
}

#[tokio::test]
async fn a_disk_that_does_not_sync_promises_nothing_and_serves_what_there_is() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let before = place.main().await;
    let (trace, pid) = (place.path("trace"), daemon.pid().to_string());
    let mut fault = command(
        Path::new("/usr/bin/strace"),
        &["-f", "-p", &pid, "-e", "inject=fsync,fdatasync:error=EIO"],
    );
    let fault = fault.stderr(File::create(&trace).unwrap()).spawn();
    let mut fault = fault.unwrap();
    let traced = || std::fs::read_to_string(&trace).unwrap();
    place
        .until("the fault is there", async || traced().contains("attached"))
        .await;
    for _ in 0..2 {
        let refused = place.keyward(&ROTATE).await;
        assert_eq!(refused.code, Some(70), "{refused:?}");
        assert!(refused.stderr.contains("Input/output error"), "{refused:?}");
    }
    let main = place.main().await;
    assert_eq!(main["generation"], before["generation"]);
    assert!(alarms(&main).contains("Input/output error"), "{main}");
    assert!(traced().contains("EIO"), "{}", traced());
    let subscribed = place.subscribe(Vec::new()).await.credential().await;
    assert_eq!(before["generation"], subscribed.generation);
    let strace = Pid::from_raw(fault.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(strace, Signal::INT).unwrap();
    fault.wait().await.unwrap();
    place
        .until("it rotates", async || {
            place.keyward(&ROTATE).await.code == Some(0)
        })
        .await;
    let after = place.main().await;
    assert_eq!(after["ca"], before["ca"]);
    assert!(after["generation"].as_u64() > before["generation"].as_u64());
    assert_eq!(alarms(&after), "[]");
}

/// What was issued before is kept, nothing is destroyed, and the way back is open.
#[tokio::test]
async fn a_clock_that_is_a_year_off_is_said_and_destroys_nothing() {
    let place = Place::new(KEYWARD);
    drop(place.serve().await);
    let keys = || {
        let all = std::fs::read_dir(place.path("state/custody/main")).unwrap();
        let names = all.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<std::collections::BTreeSet<_>>()
    };
    let before = keys();
    let daemon = place.start_by(&["faketime", "-f", "+400d"]);
    place.served().await;
    let mut ahead = serde_json::Value::Null;
    place
        .until("the jump is noticed", async || {
            ahead = place.main().await;
            alarms(&ahead).contains("the wall clock jumped")
        })
        .await;
    assert!(before.is_subset(&keys()), "nothing is destroyed");
    drop(daemon);
    let daemon = place.serve().await;
    let mut subscriber = place.subscribe(Vec::new()).await;
    let credential = subscriber.credential().await;
    let pem = place.path("leaf.pem");
    std::fs::write(&pem, &credential.leaf.chain).unwrap();
    let checked = place
        .probe(
            0,
            "openssl",
            &[
                "x509",
                "-in",
                pem.to_str().unwrap(),
                "-noout",
                "-checkend",
                "0",
                "-startdate",
            ],
        )
        .await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let main = place.main().await;
    let starts = main["server_certificate"]["not_before"].as_u64().unwrap();
    assert!(
        starts <= whole(&place).await["at"].as_u64().unwrap(),
        "valid by the right clock: {main}"
    );
    assert!(before.is_subset(&keys()), "{}", daemon.log());
}
