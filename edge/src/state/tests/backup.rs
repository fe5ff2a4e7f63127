//! Backup and restore, from each database to each.

use std::io::Write;

use sqlx::Connection;

use crate::state::{Backup, BackupError, Grant, Mark, Restored, Rotation, Scope, sha256};
use crate::tests::issuer::{Signer, issuer, rule};
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_restore_brings_back_what_was_and_forgets_no_audit_row,
    a_restore_opens_nothing_again_that_is_ended_here_and_tells_what_else_it_opens,
    a_backup_goes_into_an_empty_database_of_either_kind,
    a_damaged_backup_changes_nothing,
    a_restore_ends_access_tokens_and_makes_no_used_assertion_good_again,
);

/// Takes each line as late as it likes: meanwhile the database ends every transaction that waits for it,
/// as it does by itself after ten seconds.
struct Pausing {
    url: String,
    taken: Vec<u8>,
}

impl Write for Pausing {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let url = self.url.clone();
        let pause = std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            runtime.block_on(async {
                let mut connection = sqlx::AnyConnection::connect(&url).await.unwrap();
                let end = "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE state LIKE 'idle in transaction%' AND datname = current_database()";
                let (ended,): (i64,) = sqlx::query_as(end)
                    .fetch_one(&mut connection)
                    .await
                    .unwrap();
                ended
            })
        });
        assert_eq!(
            pause.join().unwrap(),
            0,
            "a transaction waits for the reader"
        );
        self.taken.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_backup_waits_for_its_reader_in_no_transaction() {
    let given = Stage::postgres().await;
    let by = given.by();
    let id = given.state.create_tunnel(&by, None).await.unwrap().0.id;
    let url = given.url.clone();
    let taken = Vec::new();
    let mut reader = Pausing { url, taken };
    given.state.backup(&by, &mut reader).await.unwrap();
    let target = Stage::sqlite().await;
    let file = read(&reader.taken);
    target.state.restore(&by, &file).await.unwrap();
    assert!(target.state.tunnel(&id).await.unwrap().is_some());
}

async fn backup(given: &Stage) -> Vec<u8> {
    let mut file = Vec::new();
    given.state.backup(&given.by(), &mut file).await.unwrap();
    file
}

async fn a_restore_brings_back_what_was_and_forgets_no_audit_row(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = state.create_tunnel(&by, Some("kept")).await.unwrap().0.id;
    let token = state.reveal_token(&by, &id, None).await.unwrap();
    let file = backup(&given).await;
    assert!(!String::from_utf8_lossy(&file).contains(&token.tunnel_token));
    // Another edge goes on while it is restored.
    let other = given.another().await;
    state
        .rotate_token(
            &by,
            &id,
            Rotation {
                cut_old_after: Some(0),
                ..Rotation::default()
            },
        )
        .await
        .unwrap();
    let lost = state.create_tunnel(&by, None).await.unwrap().0.id;
    let before = other.last_change().await.unwrap();
    state.restore(&by, &read(&file)).await.unwrap();
    assert!(
        other.last_change().await.unwrap() > before,
        "edges act on it as on any change"
    );
    assert_eq!(other.tunnel(&lost).await.unwrap(), None);
    let ended = other.reveal_token(&by, &id, None).await;
    assert!(ended.is_err(), "it was rotated, and does not come back");
    let actions = given.actions(100).await;
    let wanted = [
        "tunnel_created",
        "tunnel_token_revealed",
        "state_backed_up",
        "tunnel_token_rotated",
        "tunnel_created",
        "state_restored",
    ];
    assert_eq!(actions, wanted);
    // Positions go on above all that were given.
    state.create_tunnel(&by, None).await.unwrap();
}

async fn a_restore_opens_nothing_again_that_is_ended_here_and_tells_what_else_it_opens(
    given: Stage,
) {
    let (state, by) = (&given.state, given.by());
    let id = state.create_tunnel(&by, None).await.unwrap().0.id;
    let secret = state.create_secret(&by, &id, &sha256("s")).await.unwrap().0;
    let token = state.reveal_token(&by, &id, None).await.unwrap();
    let issuer = issuer(vec![Signer::p256().jwk("k")]);
    let issuer = state.add_issuer(&by, &issuer).await.unwrap();
    let rule = state.add_rule(&by, &rule(&issuer.id)).await.unwrap();
    let network = |cidr: &str| api::Access {
        cidrs: vec![cidr.to_owned()],
        ..api::Access::default()
    };
    let wide = network("192.0.2.0/24");
    state.put_access(&by, &id, &wide, None).await.unwrap();
    let file = backup(&given).await;
    state.archive_secret(&by, &id, &secret.id).await.unwrap();
    state.archive_rule(&by, &rule.id).await.unwrap();
    let cut = Rotation {
        cut_old_after: Some(0),
        ..Rotation::default()
    };
    state.rotate_token(&by, &id, cut).await.unwrap();
    state.suspend_tunnel(&by, &id, None).await.unwrap();
    let narrow = network("192.0.2.7/32");
    state.put_access(&by, &id, &narrow, None).await.unwrap();
    let told = |restored: &Restored| -> Vec<(String, String)> {
        let opened = restored.opened.iter();
        opened.map(|o| (o.kind.clone(), o.id.clone())).collect()
    };
    let owned = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    // An edge whose clock is a minute behind says the same.
    given.clock.set(by.now - 60);
    let restored = state.restore(&given.by(), &read(&file)).await.unwrap();
    assert_eq!(
        told(&restored),
        [owned("tunnel", &id), owned("access", &id)]
    );
    assert_eq!(restored.without_token, [id.as_str()]);
    let snapshot = state.snapshot(by.now - 60).await.unwrap();
    let tunnel = &snapshot.tunnels[&id];
    assert!(!tunnel.suspended && tunnel.credentials.is_empty());
    assert!(state.rule(&rule.id).await.unwrap().is_none());
    state.rotate_token(&by, &id, cut).await.unwrap();
    // Where nothing is known everything opens, and is told.
    let empty = Stage::sqlite().await;
    let restored = empty.state.restore(&by, &read(&file)).await.unwrap();
    let wanted = [
        owned("tunnel", &id),
        owned("token", &token.id),
        owned("secret", &secret.id),
        owned("issuer", &issuer.id),
        owned("rule", &rule.id),
    ];
    assert_eq!(told(&restored), wanted);
    assert!(restored.without_token.is_empty());
}

fn read(file: &[u8]) -> Backup {
    Backup::read(file)
        .map_err(|error| error.to_string())
        .unwrap()
}

async fn a_backup_goes_into_an_empty_database_of_either_kind(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let id = state.create_tunnel(&by, Some("moved")).await.unwrap().0.id;
    state.create_secret(&by, &id, &sha256("s")).await.unwrap();
    let access = api::Access {
        cidrs: vec!["192.0.2.0/24".to_owned()],
        ..api::Access::default()
    };
    state.put_access(&by, &id, &access, None).await.unwrap();
    let token = state.reveal_token(&by, &id, None).await.unwrap();
    let file = backup(&given).await;
    for target in [Stage::sqlite().await, Stage::postgres().await] {
        target.state.restore(&by, &read(&file)).await.unwrap();
        let (there, here) = (
            target.state.snapshot(by.now).await.unwrap(),
            state.snapshot(by.now).await.unwrap(),
        );
        assert_eq!(there.tunnels, here.tunnels);
        assert!(there.change > here.change);
        assert_eq!(
            target.state.reveal_token(&by, &id, None).await.unwrap(),
            token
        );
        let (made, number) = target.state.create_tunnel(&by, None).await.unwrap();
        assert!(number > there.change && made.id != id);
    }
}

async fn a_damaged_backup_changes_nothing(given: Stage) {
    let (state, by) = (&given.state, given.by());
    state.create_tunnel(&by, None).await.unwrap();
    let text = String::from_utf8(backup(&given).await).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let snapshot = state.snapshot(by.now).await.unwrap();
    let without_end = lines[..lines.len() - 1].join("\n");
    let without_row = [&lines[..1], &lines[2..]].concat().join("\n");
    for damaged in [
        String::new(),
        "{}".to_owned(),
        without_end,
        without_row,
        text.replace("\"table\":\"tunnel\"", "\"table\":\"sqlite_master\""),
        text.replace("\"position\":1", "\"position\":\"1\""),
        text.replace("\"schema\":3", "\"schema\":4"),
    ] {
        let refused = Backup::read(damaged.as_bytes());
        assert!(refused.is_err(), "{damaged}");
    }
    // What is only found out by the database rolls back.
    let orphan = text.replace("\"tunnel\":\"tnl_", "\"tunnel\":\"tnl_0");
    assert!(matches!(
        state.restore(&by, &read(orphan.as_bytes())).await,
        Err(BackupError::Refused(_))
    ));
    assert_eq!(state.snapshot(by.now).await.unwrap(), snapshot);
}

async fn a_restore_ends_access_tokens_and_makes_no_used_assertion_good_again(given: Stage) {
    let (state, by) = (&given.state, given.by());
    let issuer = issuer(vec![Signer::p256().jwk("k")]);
    let issuer = state.add_issuer(&by, &issuer).await.unwrap();
    let rule = state.add_rule(&by, &rule(&issuer.id)).await.unwrap();
    let file = backup(&given).await;
    let grant = Grant {
        rule: rule.id,
        subject: "system:serviceaccount:mcp:setup".to_owned(),
        scope: Scope::Manage,
        tunnel: None,
        expires_at: by.now + 600,
    };
    let mark = Mark {
        issuer: issuer.id,
        mark: sha256("jti"),
        expires_at: by.now + 600,
    };
    let bought = state
        .mint(&by, &grant, Some(&mark), None)
        .await
        .unwrap()
        .unwrap();
    state.restore(&by, &read(&file)).await.unwrap();
    assert_eq!(state.grant(bought.expose(), by.now).await.unwrap(), None);
    let again = state.mint(&by, &grant, Some(&mark), None).await.unwrap();
    assert!(again.is_none(), "it was used after the backup was made");
}
