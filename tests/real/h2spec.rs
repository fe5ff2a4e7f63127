//! h2spec against the carrier `tls`, and beside it against nginx in the same place, before the same upstream: we pass at
//! least what it passes, and every failure of ours is explained in `docs/h2spec.md`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::{Front, installed, listening, run, said, text};

/// Where each failure of ours is explained, by section and case.
const EXPLAINED: &str = include_str!("../../docs/h2spec.md");

/// Section and case, and whether it passed.
type Outcome = BTreeMap<String, bool>;

#[tokio::test]
async fn we_pass_at_least_what_nginx_passes_and_every_failure_is_explained() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let nginx = Nginx::start(folder.path()).await;
    let front = Front::start(Some(format!("http://{}", nginx.upstream)), |_| {}).await;
    let (our_report, their_report) = (
        folder.path().join("ours.xml"),
        folder.path().join("nginx.xml"),
    );
    let (ours, theirs) = tokio::join!(
        h2spec(front.stack.listeners.tls, &our_report),
        h2spec(nginx.front, &their_report)
    );
    assert!(ours.len() >= 140, "only {} cases: {ours:#?}", ours.len());
    let failed = || {
        ours.iter()
            .filter(|(_, passed)| !**passed)
            .map(|(case, _)| case)
    };
    let worse: Vec<_> = failed()
        .filter(|case| theirs.get(*case) == Some(&true))
        .collect();
    assert!(worse.is_empty(), "nginx passes these: {worse:#?}");
    let unexplained: Vec<_> = failed()
        .filter(|case| !EXPLAINED.contains(case.as_str()))
        .collect();
    assert!(
        unexplained.is_empty(),
        "not in docs/h2spec.md: {unexplained:#?}"
    );
    front.stop().await;
}

/// Runs all of it.
async fn h2spec(address: SocketAddr, report: &Path) -> Outcome {
    let port = address.port().to_string();
    let mut command = Command::new(installed("bin/h2spec"));
    // Two seconds for each answer; it verifies nothing, which is what -k means.
    let output = run(command.args([
        "-h",
        "localhost",
        "-p",
        &port,
        "-t",
        "-k",
        "-o",
        "2",
        "-j",
        text(report),
    ]))
    .await;
    let xml =
        fs::read_to_string(report).unwrap_or_else(|_| panic!("no report:\n{}", said(&output)));
    read(&xml)
}

/// The report: `<testcase package="http2/5.1" classname="idle: …">`, with an `<error>` or `<failure>` inside or not.
fn read(xml: &str) -> Outcome {
    let mut outcome = Outcome::new();
    for case in xml.split("<testcase ").skip(1) {
        let case = case.split("</testcase>").next().unwrap_or_default();
        let attribute = |name: &str| {
            let value = case
                .split_once(&format!("{name}=\""))
                .and_then(|(_, rest)| rest.split_once('"'));
            value
                .map_or("", |(value, _)| value)
                .replace("&#34;", "\"")
                .replace("&#39;", "'")
                .replace("&amp;", "&")
        };
        let passed =
            !case.contains("<error") && !case.contains("<failure") && !case.contains("<skipped");
        outcome.insert(
            format!("{} {}", attribute("package"), attribute("classname")),
            passed,
        );
    }
    outcome
}

/// nginx as what is behind both – it answers when it has the whole request, so that no answer overtakes a fault in one –
/// and as what ends TLS before it as we do.
struct Nginx {
    upstream: SocketAddr,
    front: SocketAddr,
    _child: Child,
}

impl Nginx {
    async fn start(folder: &Path) -> Self {
        let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost";
        let (key, certificate) = (folder.join("key.pem"), folder.join("cert.pem"));
        let mut command = Command::new("openssl");
        let output = run(command.args(request.split(' ')).args([
            "-keyout",
            text(&key),
            "-out",
            text(&certificate),
        ]))
        .await;
        assert!(output.status.success(), "{}", said(&output));

        let free = || {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr())
        };
        let [inner, upstream, front] = [(); 3].map(|()| free().expect("a port"));
        let path = text(folder);
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {path}/{kind};"));
        let configuration = format!(
            "daemon off; master_process off; pid {path}/pid; error_log {path}/error; events {{}}\n\
             http {{ access_log off; {}\n\
             server {{ listen {inner}; location / {{ return 200 'abcdefgh'; }} }}\n\
             server {{ listen {upstream}; location / {{ proxy_pass http://{inner}; }} }}\n\
             server {{ listen {front} ssl http2; ssl_certificate {path}/cert.pem; ssl_certificate_key {path}/key.pem;\n\
             location / {{ proxy_pass http://{upstream}; }} }} }}\n",
            temporary.concat()
        );
        fs::write(folder.join("conf"), configuration).expect("its configuration");
        let child = Command::new("nginx")
            .args(["-c", &format!("{path}/conf")])
            .env(
                "PATH",
                format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default()),
            )
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("nginx is installed: tests/install.sh");
        listening(upstream).await;
        listening(front).await;
        Self {
            upstream,
            front,
            _child: child,
        }
    }
}
