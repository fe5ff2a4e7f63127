//! What `check` passes is what `serve` takes: the same refusals, in the same words.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use pki::{Algorithm, Authority, AuthorityProfile, PrivateKey, Serial};
use serde_json::{Value, json};
use tokio::process::Command;

use super::stand::{EDGE, front, ports, program};
use super::world::World;
use crate::rig::credentials::{now, server};
use crate::rig::within;

const HOUR: Duration = Duration::from_secs(3600);

/// Files of an edge that `serve` would take.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        front(folder.path());
        let this = Self(folder);
        this.write("empty.pem", "");
        this.tunnels("cidrs: ['127.0.0.0/8']");
        this.edge("ca_files: [FOLDER/front-ca.pem]", "");
        this
    }

    fn at(&self) -> String {
        self.0.path().display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("FOLDER", &self.at());
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn tunnels(&self, access: &str) {
        let text = format!("tunnels: [{{id: tnl_1, domain: t.example, access: {{{access}}}}}]\n");
        self.write("tunnels.yaml", &text);
    }

    /// Further keys of `certificate`, and further lines.
    fn edge(&self, certificate: &str, more: &str) {
        let (address, health) = ports();
        let text = format!(
            "listen_addr: {address}\nname: {EDGE}\nhealth: {{listen_addr: '{health}'}}\n\
             certificate: {{cert_file: FOLDER/front.crt, key_file: FOLDER/front.key, {certificate}}}\n\
             tunnels_file: FOLDER/tunnels.yaml\n{more}"
        );
        self.write("edge.yaml", &text);
    }

    async fn run(&self, word: &str) -> Output {
        let config = self.0.path().join("edge.yaml");
        let mut command = Command::new(program());
        command.args([word, "--config"]).arg(config).env_clear();
        let ended = command.kill_on_drop(true).output();
        within("the end of a program", ended).await.unwrap()
    }

    /// What both say.
    async fn refused(&self, what: &str) {
        let mut said = Vec::new();
        for word in ["check", "serve"] {
            let ended = self.run(word).await;
            let text = String::from_utf8(ended.stderr).unwrap();
            assert_eq!(ended.status.code(), Some(78), "{word}, {what}: {text}");
            let last = text.find("error: ").map(|at| text[at..].to_owned());
            said.push(last.unwrap_or_default());
        }
        assert_eq!(said[0], said[1]);
        assert!(said[0].contains(what), "{} for {what}", said[0]);
        assert!(said[0].contains("\n  next: "), "{}", said[0]);
    }
}

/// A front certificate for `name` that is over `lifetime` after `since`.
fn other_front(folder: &Path, name: &str, since: std::time::SystemTime) {
    let ca = Authority::generate(&AuthorityProfile::server("edge CA"), since).unwrap();
    let key = PrivateKey::generate(Algorithm::default()).unwrap();
    let pair = ca.issue(&server(name, HOUR), key, Serial::random(), since);
    let pair = pair.unwrap();
    std::fs::write(folder.join("front.crt"), pair.chain_pem()).unwrap();
    std::fs::write(folder.join("front.key"), &*pair.key_pem()).unwrap();
}

#[tokio::test]
async fn check_and_serve_refuse_the_same_configurations_in_the_same_words() {
    let files = Files::new();
    for (certificate, more, what) in [
        ("", "log_level: verbose\n", "log_level is \"verbose\""),
        (
            "",
            "limits: {stall_timeout: 0s}\n",
            "limits.stall_timeout is 0",
        ),
        (
            "",
            "limits: {hello_timeout: 0s}\n",
            "limits.hello_timeout is 0",
        ),
        ("ca_files: [FOLDER/nonexist.crt]", "", "cannot read"),
        (
            "ca_files: [FOLDER/empty.pem]",
            "",
            "empty.pem holds no certificate",
        ),
        (
            "ca_files: [FOLDER/front-ca.pem, FOLDER/front-ca.pem, FOLDER/front-ca.pem]",
            "",
            "the files hold 3 certificates, at most two are taken",
        ),
        ("ca_files: [FOLDER/front.key]", "", "holds a private key"),
        ("ca_files: [FOLDER/front.crt]", "", "that is no CA's"),
    ] {
        files.edge(certificate, more);
        files.refused(what).await;
    }

    files.edge("", "");
    files.tunnels("client_ca_files: [FOLDER/empty.pem], cidrs: ['127.0.0.0/8']");
    files.refused("empty.pem holds no certificate").await;
    files.tunnels("cidrs: ['127.0.0.0/8'], asns: [64500]");
    files
        .refused("access.asns would let nobody in, because no caller's number is known")
        .await;
    files.tunnels("cidrs: ['127.0.0.0/8']");

    let folder = files.0.path();
    other_front(folder, "other.example", now());
    files
        .refused("does not cover api.edge.example, agents.edge.example")
        .await;
    other_front(folder, EDGE, now() - 48 * HOUR);
    files.refused("the certificate has expired").await;
}

#[tokio::test]
async fn check_prints_every_limit_and_every_file() {
    let files = Files::new();
    let ended = files.run("check").await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}");
    let page: Value = serde_json::from_slice(&ended.stdout).unwrap();
    let at = files.at();
    let certificate = &page["certificate"];
    assert_eq!(certificate["cert_file"], format!("{at}/front.crt"));
    assert_eq!(certificate["key_file"], format!("{at}/front.key"));
    assert_eq!(
        certificate["ca_files"],
        json!([format!("{at}/front-ca.pem")])
    );
    assert_eq!(certificate["ca_certificates"], 1);
    assert_eq!(
        page["tunnels"],
        json!({ "file": format!("{at}/tunnels.yaml") })
    );
    assert_eq!(
        page["limits"],
        json!({
            "hello_timeout_seconds": 5.0,
            "handshake_timeout_seconds": 10.0,
            "stall_timeout_seconds": 30.0,
            "pending": 4096,
            "sockets": 200_000,
            "handshakes_per_minute": 12_000,
        })
    );
}

#[tokio::test]
async fn check_warns_of_a_tunnel_that_nobody_may_call_and_of_one_that_anybody_may() {
    let files = Files::new();
    files.write("client-ca.pem", &crate::rig::Issuer::new().client_ca_pem());
    let clients = "client_ca_files: [FOLDER/client-ca.pem], cidrs: ['0.0.0.0/0']";
    for (access, what) in [
        ("", Some("tunnel \"tnl_1\": nobody may call")),
        (
            "cidrs: ['0.0.0.0/0']",
            Some("tunnel \"tnl_1\": anybody may call"),
        ),
        (
            "cidrs: ['192.0.2.0/24', '::/1', '8000::/1']",
            Some("allow_without_client_certificate"),
        ),
        ("cidrs: ['0.0.0.0/1', '192.0.2.0/24']", None),
        (clients, None),
    ] {
        files.tunnels(access);
        let ended = files.run("check").await;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{access}: {said}");
        let page: Value = serde_json::from_slice(&ended.stdout).unwrap();
        let warnings = page["warnings"].as_array().unwrap();
        assert_eq!(warnings.len(), usize::from(what.is_some()), "{warnings:?}");
        let found = warnings.first().map(|text| text.as_str().unwrap());
        let sound = found
            .zip(what)
            .is_none_or(|(found, what)| found.contains(what));
        assert!(sound, "{access}: {warnings:?}");
    }
}

#[tokio::test]
async fn a_ca_file_that_breaks_while_the_edge_serves_keeps_the_last_good_one() {
    let world = World::start().await;
    let told = async || world.api("/v1/edge", &[]).await.1["edge_ca_certificates"].clone();
    let good = told().await;
    assert_eq!(good.as_array().unwrap().len(), 1);
    let ca = std::fs::read_to_string(world.file("front-ca.pem")).unwrap();
    // What curl trusts is another file.
    world.write("kept.pem", &ca);
    world.write("front-ca.pem", "");
    world.edge.logs("ca_files not taken", 1).await;
    let host = format!("api.{EDGE}");
    let (status, body) = world.curl(&host, "/v1/edge", "kept.pem", &[]).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["edge_ca_certificates"]), (200, &good));
}
