//! Where the programs look for their configuration when nobody says: in an /etc that holds nothing else.

use std::path::Path;
use std::process::Stdio;

use super::stage::{Ended, end, program};

/// The stock proxy's two places, and ours.
const PROXY: [&str; 3] = [
    "/etc/mcp-gateway/config.yaml",
    "/etc/mcp-proxy/config.yaml",
    "/etc/keyward/proxy.yaml",
];

#[tokio::test]
async fn without_a_flag_the_proxy_runs_on_the_first_of_its_three_places() {
    let taken = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let files: Vec<(&str, String)> = PROXY
        .into_iter()
        .zip(&taken)
        .map(|(place, listener)| {
            let text = format!(
                "listen_addr: '{}'\ncontrol: {{socket: /nonexistent/control.sock}}\nroutes: {{}}\n",
                listener.local_addr().unwrap()
            );
            (place, text)
        })
        .collect();
    for (at, (place, _)) in files.iter().enumerate() {
        // This one and those behind it.
        let etc = Etc::with(&files[at..]);
        let address = taken[at].local_addr().unwrap().to_string();
        let checked = etc.run("keyward-proxy", &["--check"]).await;
        assert_eq!(checked.code, Some(0), "{place}: {checked:?}");
        let first = format!("listen_addr: \"{address}\"");
        assert!(checked.stdout.contains(&first), "{place}: {checked:?}");
        // It runs on that file, too: what it wants to listen on is taken, and the file says what it is.
        let started = etc.run("keyward-proxy", &[]).await;
        assert_eq!(started.code, Some(69), "{place}: {started:?}");
        let told = format!("error: carrier websocket cannot listen on {address}\n");
        assert!(started.stderr.contains(&told), "{place}: {started:?}");
    }
    let nothing = Etc::with(&[]);
    for words in [&[][..], &["--check"], &["health"]] {
        let refused = nothing.run("keyward-proxy", words).await;
        let expected = format!(
            "error: open {}: no such file or directory\n  cause: --config is not given, and none of these is there: {}\n  \
             next: write one of them, or say with --config where the file is\n",
            PROXY[0],
            PROXY.join(", ")
        );
        assert_eq!((refused.code, refused.stderr), (Some(78), expected));
    }
}

#[tokio::test]
async fn without_a_flag_the_daemons_configuration_is_in_its_one_place() {
    let text = "state: /somewhere\ntunnels: {main: {provider: static, domain: t.example, store: 'dir:/t'}}\n";
    let place = "/etc/keyward/keyward.yaml";
    let there = Etc::with(&[(place, text.to_owned())]);
    let checked = there.run("keyward", &["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.starts_with("state: \"/somewhere\"\n"));
    let nothing = Etc::with(&[]);
    for words in [&["check"][..], &["run"]] {
        let refused = nothing.run("keyward", words).await;
        let expected = format!(
            "error: cannot read {place}\n  cause: No such file or directory (os error 2)\n  \
             next: name the file with --config, or write one\n"
        );
        assert_eq!((refused.code, refused.stderr), (Some(78), expected));
    }
}

/// What a program finds in the place of /etc, in a mount namespace of its own.
struct Etc(tempfile::TempDir);

impl Etc {
    fn with(files: &[(&str, String)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (place, text) in files {
            let path = directory.path().join(place.strip_prefix("/etc/").unwrap());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self(directory)
    }

    async fn run(&self, name: &str, words: &[&str]) -> Ended {
        const SCRIPT: &str = "mount --bind \"$1\" /etc && shift && exec \"$@\"";
        let mut command = tokio::process::Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command
            .args(["--mount", "sh", "-c", SCRIPT, "sh"])
            .args([self.0.path(), Path::new(&program(name))])
            .args(words)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        end(&mut command).await
    }
}
