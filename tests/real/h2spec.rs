//! h2spec against the carrier `tls`, and beside it against nginx in the same place, before the same upstream: we pass at
//! least what it passes, and every failure of ours is explained in `docs/h2spec.md`. And against the edge, at both names
//! where it ends TLS itself.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::{Front, installed, listening, run, said, text};
use crate::edge::{EDGE, OPEN, Stand};

/// Where each failure of ours is explained, by section and case: those of the proxy, then those of the edge.
const EXPLAINED: &str = include_str!("../../docs/h2spec.md");
/// Between these two.
const EDGE_BEGINS: &str = "\n## The edge\n";

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
    let (explained, _) = EXPLAINED.split_once(EDGE_BEGINS).expect("a heading");
    let unexplained: Vec<_> = failed()
        .filter(|case| !explained.contains(case.as_str()))
        .collect();
    assert!(
        unexplained.is_empty(),
        "not in docs/h2spec.md: {unexplained:#?}"
    );
    front.stop().await;
}

#[tokio::test]
async fn the_edge_passes_all_but_what_is_explained_at_both_of_its_names() {
    let (_, explained) = EXPLAINED.split_once(EDGE_BEGINS).expect("a heading");
    let stand = Stand::start(0, OPEN).await;
    for name in [format!("api.{EDGE}"), format!("agents.{EDGE}")] {
        let (hosts, report) = (stand.file("hosts"), stand.file("report.xml"));
        let (hosts, report) = (Path::new(&hosts), Path::new(&report));
        let mut outcome = Outcome::new();
        let unexplained = |outcome: &Outcome| {
            let failed = outcome.iter().filter(|(_, passed)| !**passed);
            let failed = failed.map(|(case, _)| case.clone());
            let unexplained = failed.filter(|case| !explained.contains(case.as_str()));
            unexplained.collect::<Vec<_>>()
        };
        // An answer that overtakes a fault does so now and then, and a fault that is not noticed is never noticed.
        for _ in 0..4 {
            for (case, passed) in h2spec_of(&name, stand.address, hosts, report).await {
                *outcome.entry(case).or_default() |= passed;
            }
            if unexplained(&outcome).is_empty() {
                break;
            }
        }
        assert!(
            outcome.len() >= 140,
            "only {} cases: {outcome:#?}",
            outcome.len()
        );
        let left = unexplained(&outcome);
        assert!(left.is_empty(), "{name}, not in docs/h2spec.md: {left:#?}");
    }
}

/// Runs all of it.
async fn h2spec(address: SocketAddr, report: &Path) -> Outcome {
    let command = Command::new(installed("bin/h2spec"));
    run_at(command, "localhost", address.port(), report).await
}

/// The same for a name that has to be resolved as `hosts` says: in a mount namespace of its own, because nothing
/// tells h2spec another server name than the one that it connects to.
async fn h2spec_of(name: &str, address: SocketAddr, hosts: &Path, report: &Path) -> Outcome {
    fs::write(hosts, format!("{} {name}\n", address.ip())).expect("a file");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /etc/hosts && exec \"$@\"");
    command.arg(hosts).arg(installed("bin/h2spec"));
    run_at(command, name, address.port(), report).await
}

async fn run_at(mut command: Command, host: &str, port: u16, report: &Path) -> Outcome {
    // Two seconds for each answer; it verifies nothing, which is what -k means.
    let (port, report_name) = (port.to_string(), text(report));
    let words = [
        "-h",
        host,
        "-p",
        &port,
        "-t",
        "-k",
        "-o",
        "2",
        "-j",
        report_name,
    ];
    let output = run(command.args(words)).await;
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
