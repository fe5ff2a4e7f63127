//! `keyward-proxy` as a script meets it.

use super::stage::{command, end, open_directory, program};

/// The codes of docs/config.md; 70 has its test where a second SIGINT has.
#[tokio::test]
async fn the_proxy_ends_with_the_exit_code_that_is_documented_and_says_why() {
    let directory = open_directory();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let [occupied, free] = [&taken, &nobody].map(|one| one.local_addr().unwrap());
    drop(nobody);
    let write = |name: &str, listen: std::net::SocketAddr| {
        let path = directory.path().join(name);
        let text = format!(
            "listen_addr: '{listen}'\ncontrol: {{socket: /nonexistent/control.sock}}\nroutes: {{}}\n\
             health: {{listen_addr: '{free}'}}\n"
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = write("good.yaml", free);
    let crowded = write("crowded.yaml", occupied);
    std::fs::write(directory.path().join("bad.yaml"), "routes: {}\n").unwrap();
    let bad = good.replace("good.yaml", "bad.yaml");
    for (words, code, told) in [
        (&["--version"][..], 0, ""),
        (&["--config", &good, "--check"][..], 0, ""),
        (
            &["--confg", &good][..],
            64,
            "error: --confg is not known\n  cause: no flag has this name",
        ),
        (
            &["-config", &good, "-tunnel-domain", "https://x"][..],
            64,
            "error: https://x is no domain name",
        ),
        (&["health", "-config", &good][..], 69, "does not answer"),
        (
            &["--config", &crowded][..],
            69,
            "error: carrier websocket cannot listen on",
        ),
        (
            &["--config", &bad][..],
            78,
            "error: no carrier is configured",
        ),
        (
            &["--config", "/nonexistent/proxy.yaml", "--check"][..],
            78,
            "error: open /nonexistent/proxy.yaml: no such file or directory",
        ),
    ] {
        let ended = end(&mut command(&program("keyward-proxy"), words)).await;
        assert_eq!(ended.code, Some(code), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(told), "{words:?}: {ended:?}");
    }
}
