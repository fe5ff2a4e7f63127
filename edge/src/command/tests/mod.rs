//! The command line works on a state as an operator would: each command, its effect, its exit code.

mod copy;
mod help;

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Parser;
use process::{Exit, Failure};
use tempfile::TempDir;

use super::{Arguments, open, operate};
use crate::state::Scope;
use crate::tests::clock::START;
use crate::tests::issuer::{Signer, claims_at};

struct Desk {
    directory: TempDir,
    /// The file with the URL, if it is not `SQLite`.
    database: Option<String>,
}

impl Desk {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            database: None,
        }
    }

    /// How its state is named on a command line.
    fn named(&self) -> impl Iterator<Item = OsString> {
        let state = ["--state".into(), self.state().into()];
        let database = self.database.iter();
        let database = database.flat_map(|file| ["--database-url-file".into(), file.into()]);
        state.into_iter().chain(database)
    }

    fn state(&self) -> std::path::PathBuf {
        self.directory.path().join("state")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    async fn run(&self, words: &[&str]) -> Result<(), Failure> {
        let words = words.iter().map(OsString::from);
        let all = [OsString::from("keyward-edge")].into_iter().chain(words);
        let all = all.chain(self.named());
        let arguments = Arguments::try_parse_from(all).unwrap_or_else(|error| panic!("{error}"));
        Box::pin(operate(arguments.command, arguments.state)).await
    }

    async fn session(&self) -> open::Session {
        let words = ["keyward-edge", "audit"].map(OsString::from);
        let words = words.into_iter().chain(self.named());
        let arguments = Arguments::try_parse_from(words).unwrap();
        open::open(&arguments.state).await.unwrap()
    }

    async fn actions(&self) -> Vec<String> {
        let session = self.session().await;
        let rows = session.state.audit(u64::MAX, 100).await.unwrap();
        rows.into_iter().rev().map(|row| row.action).collect()
    }

    async fn tunnel(&self) -> String {
        let page = crate::state::Page {
            before: None,
            limit: 1,
            include_archived: true,
        };
        self.session()
            .await
            .state
            .tunnels(page, None)
            .await
            .unwrap()
            .0
            .remove(0)
            .id
    }
}

#[tokio::test]
async fn nothing_is_done_before_the_state_has_an_edge_and_none_takes_another_ones() {
    let desk = Desk::new();
    assert_eq!(
        desk.run(&["tunnel", "list"]).await.unwrap_err().exit(),
        Exit::Config
    );
    assert_eq!(
        desk.run(&["init", "--name", "Edge"])
            .await
            .unwrap_err()
            .exit(),
        Exit::Usage
    );
    desk.run(&["init", "--name", "edge.test"]).await.unwrap();
    desk.run(&["init", "--name", "edge.test"]).await.unwrap();
    assert_eq!(
        desk.run(&["init", "--name", "other.test"])
            .await
            .unwrap_err()
            .exit(),
        Exit::Usage
    );
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&desk.state()), 0o700);
    assert_eq!(mode(&desk.state().join("seal.key")), 0o600);
    assert_eq!(desk.actions().await, ["edge_initialised"]);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn every_command_does_what_it_says_and_is_written_down() {
    let desk = Desk::new();
    desk.run(&["init", "--name", "edge.test"]).await.unwrap();
    desk.run(&["tunnel", "create", "--name", "one"])
        .await
        .unwrap();
    let id = desk.tunnel().await;
    desk.run(&["tunnel", "list", "--archived"]).await.unwrap();
    desk.run(&["tunnel", "show", &id]).await.unwrap();
    desk.run(&["tunnel", "suspend", &id, "--reason", "a test"])
        .await
        .unwrap();
    desk.run(&["tunnel", "resume", &id]).await.unwrap();
    desk.run(&["token", "reveal", &id]).await.unwrap();
    desk.run(&["token", "rotate", &id, "--cut-old-after-seconds", "0"])
        .await
        .unwrap();
    let digest = "0".repeat(64);
    desk.run(&["secret", "add", &id, &digest]).await.unwrap();
    desk.run(&["secret", "list", &id]).await.unwrap();
    let access = desk.file("access.json", r#"{"cidrs":["192.0.2.0/24"]}"#);
    desk.run(&["access", "set", &id, &access, "--if-version", "0"])
        .await
        .unwrap();
    let stale = desk
        .run(&["access", "set", &id, &access, "--if-version", "0"])
        .await
        .unwrap_err();
    assert_eq!(stale.exit(), Exit::Usage);
    desk.run(&["access", "show", &id]).await.unwrap();
    let nobody = desk.file("nobody.json", r#"{"asns":[64512]}"#);
    let refused = desk.run(&["access", "set", &id, &nobody]).await;
    let refused = refused.unwrap_err();
    assert!(refused.to_string().contains("asns: "), "{refused}");
    let none = desk.file("none.pem", "nothing");
    let refused = desk
        .run(&["certificate", "add", &id, &none])
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("there are 0 certificates"),
        "{refused}"
    );
    desk.run(&["tunnel", "archive", &id]).await.unwrap();
    assert_eq!(
        desk.run(&["token", "rotate", &id])
            .await
            .unwrap_err()
            .exit(),
        Exit::Usage
    );
    assert_eq!(
        desk.run(&["tunnel", "show", "tnl_0"])
            .await
            .unwrap_err()
            .exit(),
        Exit::Usage
    );
    desk.run(&["audit", "--limit", "5"]).await.unwrap();
    assert_eq!(
        desk.actions().await,
        [
            "edge_initialised",
            "tunnel_created",
            "tunnel_suspended",
            "tunnel_resumed",
            "tunnel_token_revealed",
            "tunnel_token_rotated",
            "tunnel_secret_added",
            "tunnel_access_changed",
            "tunnel_archived",
        ]
    );
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn issuers_and_rules_are_made_and_a_token_is_explained_against_them() {
    let desk = Desk::new();
    desk.run(&["init", "--name", "edge.test"]).await.unwrap();
    let signer = Signer::p256();
    let keys = serde_json::json!({"keys": [signer.jwk("k")]}).to_string();
    let keys = desk.file("jwks.json", &keys);
    let url = "https://issuer.test";
    desk.run(&[
        "issuer",
        "add",
        "--name",
        "ci",
        "--url",
        url,
        "--jwks-file",
        &keys,
    ])
    .await
    .unwrap();
    for (more, field) in [
        (&["--url", "http://id.example"][..], "issuer_url: "),
        (
            &["--url", url, "--jwks-url", "https://127.0.0.1/k"],
            "keys.url: ",
        ),
        (
            &["--url", url, "--allow-network", "0.0.0.0/0"],
            "allowed_networks[0]: ",
        ),
    ] {
        let words = [&["issuer", "add", "--name", "never"][..], more].concat();
        let refused = desk.run(&words).await.unwrap_err();
        assert_eq!(refused.exit(), Exit::Usage);
        assert!(refused.to_string().contains(field), "{refused}");
    }
    desk.run(&["issuer", "list"]).await.unwrap();
    let issuer = desk
        .session()
        .await
        .state
        .issuers()
        .await
        .unwrap()
        .remove(0);
    let refresh = ["issuer", "refresh", &*issuer.id];
    let nothing = desk.run(&refresh).await.unwrap_err();
    let why = "keys: are in the issuer itself";
    assert!(nothing.to_string().contains(why), "{nothing}");
    let far = ["--name", "far", "--url", "https://far.test"];
    let keys = ["--jwks-url", "https://far.test/keys"];
    let algorithm = ["--accept-algorithm", "ES384"];
    desk.run(&[&["issuer", "add"], &far[..], &keys, &algorithm].concat())
        .await
        .unwrap();
    let far = async || {
        let issuers = desk.session().await.state.issuers().await.unwrap();
        let mut issuers = issuers.into_iter();
        issuers.find(|issuer| issuer.name == "far").unwrap()
    };
    let before = far().await;
    assert_eq!(before.accepted_algorithms, ["ES384"]);
    desk.run(&["issuer", "refresh", &before.id]).await.unwrap();
    assert!(far().await.keys_number > before.keys_number);
    let words = [
        "rule",
        "add",
        "--name",
        "ci",
        "--issuer",
        &issuer.id,
        "--audience",
        "keyward",
    ];
    let anybody = desk.run(&words).await.unwrap_err();
    assert_eq!(anybody.exit(), Exit::Usage);
    let subject = [
        "--subject",
        "repo:a/b:*",
        "--claim",
        "event_name=push",
        "--scope",
        "workspace:read_tunnels",
    ];
    desk.run(&[&words[..], &subject[..]].concat())
        .await
        .unwrap();
    let (rule, _) = desk.session().await.state.rules().await.unwrap().remove(0);
    assert_eq!(rule.scope, Scope::Read);
    assert_eq!(rule.r#match.claims["event_name"], "push");
    desk.run(&["rule", "list"]).await.unwrap();
    let token = desk.file("token", &signer.sign("k", &claims_at(START)));
    desk.run(&["explain", &token]).await.unwrap();
    desk.run(&["explain", &token, "--rule", &rule.id])
        .await
        .unwrap();
    assert!(
        desk.run(&["explain", &token, "--rule", "fdrl_0"])
            .await
            .is_err()
    );
    desk.run(&["rule", "archive", &rule.id]).await.unwrap();
    desk.run(&["issuer", "archive", &issuer.id]).await.unwrap();
    assert!(desk.run(&["issuer", "archive", &issuer.id]).await.is_err());
    let stored = format!(
        "{:?}",
        desk.session()
            .await
            .state
            .audit(u64::MAX, 100)
            .await
            .unwrap()
    );
    assert!(
        !stored.contains("eyJ"),
        "a token that is explained goes nowhere"
    );
}
