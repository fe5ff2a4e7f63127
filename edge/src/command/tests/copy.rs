//! Backups: private, whole, and put back whole or not at all.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use process::Exit;
use sqlx::Connection;

use super::Desk;
use crate::state::Rotation;
use crate::tests::postgres;

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
    let (state, by) = (&session.state, &session.by);
    let later = state.create_tunnel(by, None).await.unwrap().0.id;
    let rotation = Rotation::default();
    state.rotate_token(by, &id, rotation).await.unwrap();
    desk.run(&["restore", name]).await.unwrap();
    assert!(state.tunnel(&later).await.unwrap().is_none());
    let ended = state.reveal_token(by, &id, None).await;
    assert!(ended.is_err(), "it was rotated, and stays so");
    desk.run(&["token", "rotate", &id]).await.unwrap();
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
