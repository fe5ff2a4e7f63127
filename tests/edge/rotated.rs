//! The tunnel token rotated by its key (`Idempotency-Key`): by an edge that is killed meanwhile, and on one edge while
//! the other is asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::world::{Kind, World};
use crate::rig::until;

/// Tunnels whose tokens are rotated at the same time: the edge is killed while some of them are.
const TUNNELS: usize = 4;

/// Cuts whatever the old token has opened. Status and answer.
async fn rotate(
    world: &World,
    at: SocketAddr,
    (token, tunnel, key): (&str, &str, &str),
) -> (u16, Value) {
    let words = [
        "-X".to_owned(),
        "POST".to_owned(),
        "-H".to_owned(),
        format!("authorization: Bearer {token}"),
        "-H".to_owned(),
        format!("idempotency-key: {key}"),
        "-H".to_owned(),
        "content-type: application/json".to_owned(),
        "-d".to_owned(),
        r#"{"cut_old_after_seconds":0}"#.to_owned(),
    ];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let path = format!("/v1/tunnels/{tunnel}/rotate_token");
    world.api_at(at, &path, &words).await
}

fn value(answer: &Value) -> String {
    answer["tunnel_token"].as_str().unwrap().to_owned()
}

/// How often the token of a tunnel was rotated, by the audit log.
async fn rotations(world: &World) -> BTreeMap<String, usize> {
    let rows = world.command(&["audit", "--limit", "100000"]).await;
    let mut count = BTreeMap::new();
    for row in rows["data"].as_array().unwrap() {
        if row["action"] == "tunnel_token_rotated" && row["outcome"] == "done" {
            *count
                .entry(row["tunnel"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
    }
    count
}

async fn killed_while_it_rotates(kind: Kind) {
    let world = World::with(kind, "").await;
    let token = Arc::new(world.operator().await);
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS {
        let made = world.command(&["tunnel", "create"]).await;
        tunnels.push(made["id"].as_str().unwrap().to_owned());
    }
    let mut world = Arc::new(world);
    for round in 1..=3 {
        let mut asking = JoinSet::new();
        for tunnel in &tunnels {
            let (world, tunnel) = (Arc::clone(&world), tunnel.clone());
            let token = Arc::clone(&token);
            asking.spawn(async move {
                let key = format!("rotation-{round}");
                let answer = rotate(&world, world.address, (&token, &tunnel, &key)).await;
                (tunnel, answer)
            });
        }
        // The first one is answered, the others are anywhere.
        let first = asking.join_next().await.unwrap().unwrap();
        let id = rustix::process::Pid::from_raw(world.edge.id().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, Signal::KILL).unwrap();
        let mut answered = vec![first];
        while let Some(ended) = asking.join_next().await {
            answered.push(ended.unwrap());
        }
        let alone = Arc::get_mut(&mut world).expect("nobody asks any more");
        alone.edge.end(Signal::KILL).await;
        alone.restart().await;

        let key = format!("rotation-{round}");
        for (tunnel, (status, answer)) in &answered {
            let asked = (&**token, &**tunnel, &*key);
            let (again, said) = rotate(&world, world.address, asked).await;
            assert_eq!(again, 200, "{said}");
            if *status == 200 {
                assert_eq!(value(&said), value(answer), "whoever was answered");
            }
            let revealed = world.command(&["token", "reveal", tunnel]).await;
            assert_eq!(value(&revealed), value(&said), "it is the one in force");
        }
        let count = rotations(&world).await;
        assert_eq!(count.len(), TUNNELS);
        assert!(count.values().all(|times| *times == round), "{count:?}");
    }
}

#[tokio::test]
async fn an_edge_that_is_killed_while_it_rotates_gives_the_same_token_for_the_same_key() {
    killed_while_it_rotates(Kind::Sqlite).await;
}

#[tokio::test]
async fn on_postgres_too_an_edge_that_is_killed_gives_the_same_token_for_the_same_key() {
    killed_while_it_rotates(Kind::Postgres).await;
}

#[tokio::test]
async fn a_token_that_is_rotated_on_one_edge_is_in_force_on_the_other_before_it_is_answered() {
    let world = World::with(Kind::Postgres, "").await;
    let (second, address) = world.another().await;
    let token = world.operator().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let both = [world.address, address];
    let old = value(&world.command(&["token", "reveal", id]).await);
    let proxy = world.proxy_at("old", &tunnel, &old, &both).await;
    proxy.ready().await;
    for edge in [&world.edge, &second] {
        until("two connections to each edge", async || {
            (edge.metric("keyward_edge_links").await == 2).then_some(())
        })
        .await;
    }

    let asked = (&*token, &**id, "the-rotation");
    let (status, answer) = rotate(&world, both[0], asked).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["enforced"], json!({"instances": 2, "of": 2}));
    for edge in [&world.edge, &second] {
        assert_eq!(edge.metric("keyward_edge_links").await, 0, "cut on both");
    }
    // The key is known there as well: whoever lost the answer may ask either edge.
    let (status, again) = rotate(&world, both[1], asked).await;
    assert_eq!((status, value(&again)), (200, value(&answer)));
    assert_eq!(rotations(&world).await[id], 1);
    until("the old one is told why", async || {
        let page = proxy.page("/readyz").await?;
        page.contains("status 401").then_some(())
    })
    .await;
    let new = value(&answer);
    assert_ne!(new, old);
    let other = world.proxy_at("new", &tunnel, &new, &both[1..]).await;
    other.ready().await;
    let host = format!("up.{domain}");
    let call = world.curl_at(both[1], &host, "/x", "tunnel-ca.pem", &[]);
    assert_eq!(call.await.0, 200);
}
