//! An issuer that takes every connection and answers no more: whoever has a key that is known buys access as before.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::wellmeant::unharmed;
use super::world::{Signer, URL, World};
use crate::rig::until;

/// Exchanges that make a median, and the fewest that do, since the fetch hangs for a limited time.
const EXCHANGES: usize = 12;
const FEWEST: usize = 3;
/// Who is believed besides.
const OTHER: &str = "https://other.test";

/// Answers the first request with a key set, and no other.
struct Issuer {
    url: String,
    /// Requests that wait, and those among them whose sender has gone.
    waiting: Arc<AtomicUsize>,
    gone: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

impl Issuer {
    async fn start(jwks: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (waiting, gone) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (waits, goes) = (waiting.clone(), gone.clone());
        let body = jwks.to_string();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let (mut first, _) = listener.accept().await.unwrap();
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut piece = [0; 4096];
            let _ = first.read(&mut piece).await.unwrap();
            first.write_all(answer.as_bytes()).await.unwrap();
            drop(first);
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut piece).await.unwrap();
                waits.fetch_add(1, Ordering::SeqCst);
                while stream.read(&mut piece).await.is_ok_and(|read| read > 0) {}
                goes.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self {
            url,
            waiting,
            gone,
            _serving: serving,
        }
    }
}

/// An exchange from an address of its own, since each has a limit.
async fn exchange(world: &World, from: &str, rule: &str, assertion: &str) -> u16 {
    let body = json!({
        "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "assertion": assertion,
        "federation_rule_id": rule,
    });
    let body = body.to_string();
    let words = [
        "--interface",
        from,
        "-H",
        "content-type: application/json",
        "-d",
        &body,
    ];
    world
        .api_at(world.address, "/v1/oauth/token", &words)
        .await
        .0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_token_beside_an_issuer_that_hangs_delays_nobody_whose_key_is_known() {
    let world = Arc::new(World::start().await);
    let signer = Signer::new();
    let issuer = Issuer::start(&signer.jwks()).await;
    let words = [
        "issuer",
        "add",
        "--name",
        "ci",
        "--url",
        URL,
        "--jwks-url",
        &issuer.url,
    ];
    let added = world
        .command(&[&words[..], &["--allow-network", "127.0.0.0/8"]].concat())
        .await;
    let id = added["id"].as_str().unwrap();
    let rule = async |name: &str| {
        let words = ["--audience", "edge", "--subject", "me"];
        world.rule(name, id, &words).await
    };
    let (well, ill) = (rule("well").await, rule("ill").await);
    // Another issuer, whose keys nobody fetches: how long an exchange takes on this machine at this moment.
    let other = world.believe("other", OTHER, &signer.jwks()).await;
    let words = ["--audience", "edge", "--subject", "me"];
    let other = world.rule("other", &other, &words).await;
    let sign = |url: &str| signer.sign(&json!({"iss": url, "aud": "edge", "sub": "me"}));
    let (valid, others) = (sign(URL), sign(OTHER));
    let bought = async |rule: &str, token: &str| {
        let began = Instant::now();
        let status = exchange(&world, "127.0.0.7", rule, token).await;
        assert_eq!(status, 200);
        began.elapsed()
    };
    // The key of the one is known from now on.
    bought(&well, &valid).await;

    // The same token with a key that its issuer does not have. One of them makes the edge ask again, once fifteen
    // seconds have gone by since it asked last.
    let (_, rest) = valid.split_once('.').unwrap();
    let header = json!({"alg": "ES256", "kid": "made-up", "typ": "JWT"}).to_string();
    let header = process::base64::encode_url(header.as_bytes());
    let forged = format!("{header}.{rest}");
    let mut forging = JoinSet::new();
    until("a fetch that hangs", async || {
        if forging.is_empty() {
            let (world, ill, forged) = (world.clone(), ill.clone(), forged.clone());
            forging.spawn(async move { exchange(&world, "127.0.0.66", &ill, &forged).await });
        }
        while forging.try_join_next().is_some() {}
        (issuer.waiting.load(Ordering::SeqCst) == 1).then_some(())
    })
    .await;
    let (mut beside, mut without) = (Vec::new(), Vec::new());
    while beside.len() < EXCHANGES && issuer.gone.load(Ordering::SeqCst) == 0 {
        beside.push(bought(&well, &valid).await);
        without.push(bought(&other, &others).await);
    }
    assert!(beside.len() >= FEWEST, "all of them waited: {beside:?}");
    unharmed("an issuer that hangs", beside, without);
    while let Some(status) = forging.join_next().await {
        assert_eq!(status.unwrap(), 401);
    }
}
