//! Several edges on one database, an edge that is killed or loses its database, a backup while it works.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use sqlx::{Connection, Executor};
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use super::world::{Kind, Signer, URL, World, sha256};
use crate::rig::until;

/// Answers before the edge is killed, or the backup made.
const ENOUGH: usize = 40;

#[tokio::test]
async fn what_is_revoked_on_one_edge_is_enforced_on_the_other_before_it_is_answered() {
    let world = World::with(Kind::Postgres, "").await;
    let (second, address) = world.another().await;
    let token = world.operator().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let added = world
        .command(&["secret", "add", id, &sha256("secret-a")])
        .await;
    let both = [world.address, address];
    let proxy = world.proxy_at("one", &tunnel, "secret-a", &both).await;
    proxy.ready().await;
    for edge in [&world.edge, &second] {
        until("two connections to each edge", async || {
            (edge.metric("keyward_edge_links").await == 2).then_some(())
        })
        .await;
    }
    let call = async |at| {
        let host = format!("up.{domain}");
        let (status, _) = world.curl_at(at, &host, "/x", "tunnel-ca.pem", &[]).await;
        status
    };
    assert_eq!((call(both[0]).await, call(both[1]).await), (200, 200));

    let secret = added["id"].as_str().unwrap();
    let bearer = format!("authorization: Bearer {token}");
    let path = format!("/v1/tunnels/{id}/secrets/{secret}/archive");
    let (status, archived) = world
        .api_at(both[0], &path, &["-X", "POST", "-H", &bearer])
        .await;
    assert_eq!(status, 200, "{archived}");
    // An answer waits for the others at most a second.
    assert_eq!(archived["enforced"], json!({"instances": 2, "of": 2}));
    for edge in [&world.edge, &second] {
        assert_eq!(edge.metric("keyward_edge_links").await, 0);
    }
    assert_ne!(call(both[1]).await, 200);
}

#[tokio::test]
async fn an_assertion_that_was_used_on_one_edge_is_refused_on_the_other() {
    let world = World::with(Kind::Postgres, "").await;
    let (_second, address) = world.another().await;
    let signer = Signer::new();
    let issuer = world.believe("ci", URL, &signer.jwks()).await;
    let words = ["--audience", "edge", "--subject", "me"];
    let rule = world.rule("ci", &issuer, &words).await;
    let at = [world.address, address];
    for round in 0..4 {
        let claims = json!({"iss": URL, "aud": "edge", "sub": "me", "jti": format!("j{round}")});
        let assertion = signer.sign(&claims);
        let answers = if round == 0 {
            let first = world.exchange_at(at[0], &rule, &assertion).await;
            [first, world.exchange_at(at[1], &rule, &assertion).await]
        } else {
            let both = tokio::join!(
                world.exchange_at(at[0], &rule, &assertion),
                world.exchange_at(at[1], &rule, &assertion)
            );
            [both.0, both.1]
        };
        let mut status = [answers[0].0, answers[1].0];
        status.sort_unstable();
        assert_eq!(status, [200, 401]);
    }
    let rows = world.command(&["audit", "--limit", "100"]).await;
    let refused = rows["data"].as_array().unwrap().iter().filter(|row| {
        let reason = row["reason"].as_str().unwrap_or_default();
        row["outcome"] == "refused" && reason.starts_with("jti_reused")
    });
    assert_eq!(refused.count(), 4);
}

/// Takes a database away from whoever uses it, or gives it back.
async fn allow(url: &str, allowed: bool) {
    let (server, name) = url.rsplit_once('/').unwrap();
    sqlx::any::install_default_drivers();
    let mut connection = sqlx::AnyConnection::connect(&format!("{server}/postgres"))
        .await
        .unwrap();
    let alter = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {allowed}");
    connection.execute(alter.as_str()).await.unwrap();
    if !allowed {
        let end = format!(
            "SELECT COUNT(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        connection.execute(end.as_str()).await.unwrap();
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn without_its_database_an_edge_keeps_what_runs_and_soon_refuses_what_is_new() {
    let world = World::with(Kind::Postgres, "stale_limit: 3s\n").await;
    let token = world.operator().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    world
        .command(&["secret", "add", id, &sha256("secret-a")])
        .await;
    let proxy = world.proxy("one", &tunnel, "secret-a").await;
    proxy.ready().await;
    assert_eq!(world.call(domain).await, 200);
    // A stream of events that was open before.
    let host = format!("up.{domain}");
    let mut open = tokio::process::Command::new("curl")
        .args(["-sSN", "--cacert", &world.file("tunnel-ca.pem")])
        .args(["--connect-to", &format!("{host}:443:{}", world.address)])
        .arg(format!("https://{host}/events"))
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    until("the event stream", async || {
        (world.upstream.streams() == 1).then_some(())
    })
    .await;

    allow(&world.url(), false).await;
    until("no new caller is let in", async || {
        (world.call(domain).await == 0).then_some(())
    })
    .await;
    let page = world.edge.page("/readyz").await.unwrap();
    assert!(page.starts_with("not ready\nstale: "), "{page}");
    let bearer = format!("authorization: Bearer {token}");
    let (status, _) = world.api("/v1/tunnels", &["-H", &bearer]).await;
    assert_eq!(status, 503);
    assert_eq!(
        world.edge.metric("keyward_edge_links").await,
        2,
        "they stay"
    );
    world.upstream.say(7);
    let mut lines = tokio::io::BufReader::new(open.stdout.take().unwrap());
    let mut said = String::new();
    while !said.contains("data: 7") {
        said.clear();
        let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut said);
        assert_ne!(crate::rig::within("an event", read).await.unwrap(), 0);
    }

    allow(&world.url(), true).await;
    until("callers are let in again", async || {
        (world.call(domain).await == 200).then_some(())
    })
    .await;
    assert_eq!(world.edge.metric("keyward_edge_links").await, 2);
    world.edge.ready().await;

    // The stream of events is still open, so it drains.
    let id = rustix::process::Pid::from_raw(world.edge.id().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    until("that it stops on its page", async || {
        let page = world.edge.page("/readyz").await?;
        page.starts_with("not ready\nstopping: ").then_some(())
    })
    .await;
}

/// Makes tunnels as fast as the edge answers: what it answered.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Vec<String>>>,
    makers: JoinSet<()>,
}

impl Load {
    fn start(world: &Arc<World>, token: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(Mutex::new(Vec::new()));
        let mut makers = JoinSet::new();
        for _ in 0..4 {
            let (world, stop) = (Arc::clone(world), Arc::clone(&stop));
            let answered = Arc::clone(&answered);
            let bearer = format!("authorization: Bearer {token}");
            let words = ["-X", "POST", "-H", &bearer].map(str::to_owned);
            makers.spawn(async move {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                while !stop.load(Ordering::Relaxed) {
                    let (status, made) = world.api("/v1/tunnels", &words).await;
                    if status == 200 {
                        let id = made["id"].as_str().unwrap().to_owned();
                        answered.lock().await.push(id);
                    }
                }
            });
        }
        Self {
            stop,
            answered,
            makers,
        }
    }

    /// Waits until so many more were answered: all that were before.
    async fn more(&self, count: usize) -> Vec<String> {
        let before = self.answered.lock().await.clone();
        until("more answers", async || {
            (self.answered.lock().await.len() >= before.len() + count).then_some(())
        })
        .await;
        before
    }

    async fn end(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.makers.join_next().await {
            ended.unwrap();
        }
        self.answered.lock().await.clone()
    }
}

/// The ids of all tunnels, after it was seen that each has its one audit row and its token.
async fn whole(world: &World) -> BTreeSet<String> {
    let ids = |rows: &Value, name: &str| -> Vec<String> {
        let rows = rows["data"].as_array().unwrap().iter();
        rows.filter_map(|row| row[name].as_str().map(str::to_owned))
            .collect()
    };
    let list = ["tunnel", "list", "--archived"];
    let tunnels = ids(&world.command(&list).await, "id");
    let audit = world.command(&["audit", "--limit", "100000"]).await;
    let made = audit["data"].as_array().unwrap().iter();
    let made: Vec<Value> = made
        .filter(|row| row["action"] == "tunnel_created")
        .cloned()
        .collect();
    let mut noted = ids(&json!({ "data": made }), "target");
    noted.sort_unstable();
    let mut sorted = tunnels.clone();
    sorted.sort_unstable();
    assert_eq!(noted, sorted, "one row for each, and each for one");
    let numbers = audit["data"].as_array().unwrap().iter();
    let numbers: Vec<u64> = numbers.map(|row| row["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers.len() as u64, numbers[0], "none is missing");
    for id in tunnels.iter().take(3).chain(tunnels.last()) {
        let token = world.command(&["token", "reveal", id]).await;
        assert!(token["tunnel_token"].as_str().unwrap().starts_with("kwt-"));
    }
    tunnels.into_iter().collect()
}

async fn killed_in_the_middle_of_changes(kind: Kind) {
    let world = World::with(kind, "").await;
    let token = world.operator().await;
    let mut world = Arc::new(world);
    let mut answered = Vec::new();
    for _ in 0..3 {
        let load = Load::start(&world, &token);
        load.more(ENOUGH).await;
        let id = rustix::process::Pid::from_raw(world.edge.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, Signal::KILL).unwrap();
        answered.extend(load.end().await);
        let world = Arc::get_mut(&mut world).expect("its makers are gone");
        world.edge.end(Signal::KILL).await;
        world.restart().await;
        let there = whole(world).await;
        for id in &answered {
            assert!(there.contains(id), "{id} was answered and is not there");
        }
    }
}

#[tokio::test]
async fn an_edge_that_is_killed_in_the_middle_of_changes_has_lost_none_that_it_answered() {
    killed_in_the_middle_of_changes(Kind::Sqlite).await;
}

#[tokio::test]
async fn the_same_on_postgres() {
    killed_in_the_middle_of_changes(Kind::Postgres).await;
}

async fn backed_up_while_it_changes(kind: Kind) {
    let world = Arc::new(World::with(kind, "").await);
    let token = world.operator().await;
    let load = Load::start(&world, &token);
    let before = load.more(ENOUGH).await;
    let file = world.file("backup");
    let made = world.command(&["backup", &file]).await;
    assert!(made["rows"].as_u64().unwrap() > 0);
    load.more(ENOUGH).await;
    let after = load.end().await;

    // Into an empty state of the same edge, whose tokens are sealed by the same key file.
    let other = World::start().await;
    let seal = |world: &World| format!("{}/seal.key", world.file("state"));
    std::fs::copy(seal(&world), seal(&other)).unwrap();
    other.command(&["restore", &file]).await;
    let there = whole_but_for_restoring(&other).await;
    for id in &before {
        assert!(there.contains(id), "{id} was there when the backup began");
    }
    assert!(there.len() < after.len(), "it was made in the middle");
}

/// Rows that were written by the backup's own edge before are not overwritten by it.
async fn whole_but_for_restoring(world: &World) -> BTreeSet<String> {
    let list = world.command(&["tunnel", "list"]).await;
    let audit = world.command(&["audit", "--limit", "100000"]).await;
    let noted: BTreeSet<String> = audit["data"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["action"] == "tunnel_created")
        .map(|row| row["target"].as_str().unwrap().to_owned())
        .collect();
    let there: BTreeSet<String> = list["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tunnel| tunnel["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(noted, there);
    for id in there.iter().take(3) {
        let token = world.command(&["token", "reveal", id]).await;
        assert!(token["tunnel_token"].as_str().unwrap().starts_with("kwt-"));
    }
    there
}

#[tokio::test]
async fn a_backup_that_is_made_while_it_changes_is_of_one_moment() {
    backed_up_while_it_changes(Kind::Sqlite).await;
}

#[tokio::test]
async fn a_backup_of_postgres_is_of_one_moment_and_goes_into_sqlite() {
    backed_up_while_it_changes(Kind::Postgres).await;
}

#[tokio::test]
async fn a_program_that_is_older_than_the_schema_touches_nothing() {
    for kind in [Kind::Sqlite, Kind::Postgres] {
        let mut world = World::with(kind, "").await;
        world.edge.end(Signal::TERM).await;
        sqlx::any::install_default_drivers();
        let mut connection = sqlx::AnyConnection::connect(&world.url()).await.unwrap();
        let newer = "UPDATE schema_version SET number = number + 1";
        connection.execute(newer).await.unwrap();
        let file = world.file("edge.yaml");
        for words in [
            &["tunnel", "create"][..],
            &["backup", "-"],
            &["serve", "--config", &file],
        ] {
            let ended = world.run(words).await;
            assert_eq!(ended.status.code(), Some(78), "{words:?}");
            let said = String::from_utf8_lossy(&ended.stderr).into_owned();
            assert!(said.contains("this program knows up to 3"), "{said}");
        }
        let again = "UPDATE schema_version SET number = number - 1";
        connection.execute(again).await.unwrap();
        connection.close().await.unwrap();
        world.restart().await;
        let listed = world.command(&["tunnel", "list"]).await;
        assert_eq!(listed["data"], json!([]));
    }
}
