//! The command line works on a state as an operator would: each command, its effect, its exit code.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use clap::Parser;
use process::{Exit, Failure};
use sqlx::Connection;
use tempfile::TempDir;

use super::{Arguments, command_line, open, operate};
use crate::state::{Rotation, Scope};
use crate::tests::clock::START;
use crate::tests::issuer::{Signer, claims_at};
use crate::tests::postgres;

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

#[test]
fn the_command_line_is_one_that_clap_can_parse() {
    command_line().debug_assert();
}

#[test]
fn a_command_without_use_for_the_state_does_not_speak_of_it() {
    let help = |command: &str| {
        let words = ["keyward-edge", command, "--help"].map(OsString::from);
        Arguments::read(words).unwrap_err().to_string()
    };
    for command in ["agent", "login"] {
        let help = help(command);
        assert!(help.contains("--edge"), "{help}");
        for word in ["--state", "--database-url-file", "--no-reveal"] {
            assert!(!help.contains(word), "{word} for {command}");
        }
    }
    assert!(!help("explain").contains("--no-reveal"));
    for command in ["serve", "explain", "audit"] {
        assert!(help(command).contains("--state"), "{command}");
    }
    for words in [
        &["--state", "/s", "explain", "f"][..],
        &["explain", "f", "--state", "/s"],
    ] {
        let words = ["keyward-edge"].iter().chain(words).map(OsString::from);
        let read = Arguments::read(words).unwrap();
        assert_eq!(read.state.state, Path::new("/s"));
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

/// Every command, with its name from the program's on.
fn commands(name: &str, command: &clap::Command, found: &mut Vec<(String, clap::Command)>) {
    found.push((name.to_owned(), command.clone()));
    for inner in command.get_subcommands() {
        commands(&format!("{name} {}", inner.get_name()), inner, found);
    }
}

#[test]
fn the_help_of_every_command_is_whole_and_alike() {
    let mut found = Vec::new();
    commands("keyward-edge", &command_line(), &mut found);
    assert!(found.len() > 30, "{}", found.len());
    for (name, command) in found {
        let about = command.get_about().map(ToString::to_string);
        let about = about.unwrap_or_else(|| panic!("{name}: says nothing"));
        assert!(
            !about.ends_with('.') && about.starts_with(char::is_uppercase),
            "{name}: {about}"
        );
        for word in command.get_arguments() {
            let id = word.get_id();
            let help = word.get_help().map(ToString::to_string);
            let help = help.unwrap_or_else(|| panic!("{name} {id}: says nothing"));
            let begin = help.starts_with(|letter: char| letter.is_uppercase() || letter == '`');
            assert!(begin && !help.ends_with('.'), "{name} {id}: {help}");
            assert!(
                !help.contains("SQLite`") && !help.contains("without:"),
                "{name} {id}: {help}"
            );
            let many = matches!(word.get_action(), clap::ArgAction::Append);
            assert_eq!(
                help.contains("may be repeated"),
                many,
                "{name} {id}: {help}"
            );
            let defaults = help.matches("[default:").count();
            let shown = !word.get_default_values().is_empty() && !word.is_hide_default_value_set();
            let takes = word.get_action().takes_values();
            assert!(
                defaults + usize::from(shown && takes) <= 1,
                "{name} {id}: {help}"
            );
        }
    }
}

#[test]
fn every_word_of_the_agent_is_documented() {
    let page = include_str!("../../../../docs/edge.md");
    let (_, table) = page.split_once("| Word | Default | Effect |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let line = command_line();
    let agent = line.find_subcommand("agent").unwrap();
    for word in agent.get_arguments().filter(|word| !word.is_hide_set()) {
        let Some(word) = word.get_long() else {
            continue;
        };
        let listed = [' ', '`']
            .iter()
            .any(|end| table.contains(&format!("`--{word}{end}")));
        assert!(listed, "--{word}");
    }
}

#[tokio::test]
async fn a_backup_is_private_never_overwritten_and_brings_everything_back() {
    let desk = Desk::new();
    desk.run(&["init", "--name", "edge.test"]).await.unwrap();
    desk.run(&["tunnel", "create"]).await.unwrap();
    let id = desk.tunnel().await;
    let file = desk.directory.path().join("backup.jsonl");
    let name = file.to_str().unwrap();
    desk.run(&["backup", name]).await.unwrap();
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(desk.run(&["backup", name]).await.is_err());
    let session = desk.session().await;
    let before = session
        .state
        .reveal_token(&session.by, &id, None)
        .await
        .unwrap();
    session
        .state
        .rotate_token(&session.by, &id, Rotation::default())
        .await
        .unwrap();
    desk.run(&["restore", name]).await.unwrap();
    let after = session
        .state
        .reveal_token(&session.by, &id, None)
        .await
        .unwrap();
    assert_eq!(after, before);
    let broken = desk.file("broken", "{}");
    assert_eq!(
        desk.run(&["restore", &broken]).await.unwrap_err().exit(),
        Exit::Usage
    );
    assert_eq!(
        desk.run(&["restore", "/nowhere"]).await.unwrap_err().exit(),
        Exit::Usage
    );
}

#[tokio::test]
async fn a_restore_of_what_is_no_backup_leaves_nothing_that_an_edge_could_start_on() {
    let desk = Desk::new();
    let broken = desk.file("broken", "{}");
    for (file, why) in [
        ("/nowhere", "cannot write or read the backup"),
        (&*broken, "line 1: this is no backup of an edge"),
        (
            desk.directory.path().to_str().unwrap(),
            "cannot write or read",
        ),
    ] {
        let failure = desk.run(&["restore", file]).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage, "{file}");
        let said = failure.to_string();
        assert!(said.contains(why) && said.contains("\n  next: "), "{said}");
        assert!(!desk.state().exists(), "{file}");
    }
}

#[tokio::test]
async fn a_restore_that_only_the_database_refuses_leaves_either_database_as_it_was() {
    let old = Desk::new();
    old.run(&["init", "--name", "edge.test"]).await.unwrap();
    old.run(&["tunnel", "create"]).await.unwrap();
    let file = old.directory.path().join("backup.jsonl");
    old.run(&["backup", file.to_str().unwrap()]).await.unwrap();
    // A token of a tunnel that is not there: whole as a file, and refused as a row.
    let text = std::fs::read_to_string(&file).unwrap();
    let orphan = text.replace("\"tunnel\":\"tnl_", "\"tunnel\":\"tnl_0");
    assert_ne!(orphan, text);
    for url in [None, Some(postgres::database().await)] {
        let mut new = Desk::new();
        let broken = new.file("broken", &orphan);
        new.database = url.as_deref().map(|url| new.file("url", url));
        let failure = new.run(&["restore", &broken]).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Usage);
        let said = failure.to_string();
        let cause = "the database refuses what the backup holds";
        assert!(
            said.contains(cause) && said.contains("\n  next: "),
            "{said}"
        );
        assert!(!new.state().exists(), "nothing was left");
        if let Some(url) = url {
            assert_eq!(tables(&url).await, 0);
        }
        // The whole one goes there all the same.
        new.run(&["restore", file.to_str().unwrap()]).await.unwrap();
        assert_eq!(new.tunnel().await, old.tunnel().await);
        // And one that is refused leaves what is there.
        new.run(&["tunnel", "create"]).await.unwrap();
        let made = new.tunnel().await;
        new.run(&["restore", &broken]).await.unwrap_err();
        assert_eq!(new.tunnel().await, made);
    }
}

/// Of a `PostgreSQL` database.
async fn tables(url: &str) -> i64 {
    let mut connection = sqlx::AnyConnection::connect(url).await.unwrap();
    let asked = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'";
    let (count,) = sqlx::query_as(asked)
        .fetch_one(&mut connection)
        .await
        .unwrap();
    count
}

#[tokio::test]
async fn a_backup_is_restored_into_a_directory_that_is_not_there_yet() {
    let old = Desk::new();
    old.run(&["init", "--name", "edge.test"]).await.unwrap();
    old.run(&["tunnel", "create"]).await.unwrap();
    let id = old.tunnel().await;
    let file = old.directory.path().join("backup.jsonl");
    let name = file.to_str().unwrap();
    old.run(&["backup", name]).await.unwrap();

    let new = Desk::new();
    new.run(&["restore", name]).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&new.state()), 0o700);
    assert_eq!(new.tunnel().await, id);
    let closed = async |desk: &Desk| desk.session().await.state.closed_tokens().await.unwrap();
    assert_eq!(closed(&new).await, 1, "its key file is a new one");
    assert!(new.run(&["token", "reveal", &id]).await.is_err());
    std::fs::copy(old.state().join("seal.key"), new.state().join("seal.key")).unwrap();
    assert_eq!(closed(&new).await, 0);
    new.run(&["token", "reveal", &id]).await.unwrap();
}
