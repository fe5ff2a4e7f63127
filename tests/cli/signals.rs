//! Signals in the first moments of a program (F49). Before it has taken them a process dies of a SIGHUP, and
//! nothing that it does can change that; whoever starts it can, and then there is no such moment.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

use super::process::{KEYWARD, Place};
use super::stage::{LIMIT, command, open_directory, program};
use crate::rig::{until, within};

/// Ignores SIGHUP, waits to be told, and becomes the program.
const STARTER: &str = "trap '' HUP; read -r go; exec \"$@\"";

/// Starts `program` so and hangs up on it without a pause, from before it begins until it is ready.
async fn hung_up_on(
    program: &Path,
    words: &[&str],
    user: impl FnOnce(&mut Command),
    mut ready: impl AsyncFnMut() -> bool,
) -> Child {
    let program = program.to_str().unwrap();
    let words = [&["-c", STARTER, "sh", program], words].concat();
    let mut starter = command("/bin/sh".as_ref(), &words);
    starter.stdin(std::process::Stdio::piped());
    user(&mut starter);
    let mut child = starter.spawn().unwrap();
    let pid = child.id().unwrap();
    until("the starter ignores SIGHUP", async || {
        ignores_hang_ups(pid).then_some(())
    })
    .await;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").await.unwrap();
    let process = Pid::from_raw(pid.cast_signed()).unwrap();
    let (over, mut hung_up) = (tokio::time::Instant::now() + LIMIT, 0_u32);
    loop {
        for _ in 0..100 {
            kill_process(process, Signal::HUP).unwrap();
            hung_up += 1;
        }
        tokio::task::yield_now().await;
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it ended with {status} after {hung_up} signals");
        }
        if hung_up % 1000 == 0 && ready().await {
            return child;
        }
        assert!(tokio::time::Instant::now() < over, "it is ready in time");
    }
}

fn ignores_hang_ups(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.unwrap().trim(), 16).unwrap();
    ignored & 1 == 1
}

async fn stop(mut child: Child) {
    let process = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    kill_process(process, Signal::TERM).unwrap();
    let status = within("the end", child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0), "it stops as ever");
}

#[tokio::test]
async fn a_proxy_whose_starter_ignores_hang_ups_outlives_one_in_its_first_moment() {
    let directory = open_directory();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = free.local_addr().unwrap();
    drop(free);
    let config = directory.path().join("proxy.yaml");
    let text = format!(
        "listen_addr: '127.0.0.1:0'\ncontrol: {{socket: /nonexistent/control.sock}}\nroutes: {{}}\n\
         health: {{listen_addr: '{health}'}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let words = ["--config", config.to_str().unwrap()];
    let child = hung_up_on(
        &program("keyward-proxy"),
        &words,
        |_| {},
        async || std::net::TcpStream::connect(health).is_ok(),
    )
    .await;
    stop(child).await;
}

#[tokio::test]
async fn a_daemon_whose_starter_ignores_hang_ups_outlives_one_in_its_first_moment() {
    let place = Place::new(KEYWARD);
    let (program, config) = (place.path("keyward"), place.text("keyward.yaml"));
    let user = |command: &mut Command| {
        command.uid(KEYWARD).gid(KEYWARD);
    };
    let child = hung_up_on(&program, &["run", "--config", &config], user, async || {
        std::os::unix::net::UnixStream::connect(place.path("run/operator.sock")).is_ok()
    })
    .await;
    stop(child).await;
}
