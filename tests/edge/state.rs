//! The edge with a state: tunnels are made, credentials archived and access is given by command line and by API while
//! proxies are connected and calls go through.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::Instant;

use super::stand::EDGE;
use super::world::{Signer, URL, World, program, sha256};
use crate::rig::until;

#[tokio::test]
async fn a_tunnel_made_by_the_command_line_carries_calls_until_its_secret_is_archived() {
    let world = World::start().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let (a, b) = (sha256("secret-a"), sha256("secret-b"));
    let first = world.command(&["secret", "add", id, &a]).await;
    assert_eq!(first["enforced"], json!({"instances": 1, "of": 1}));
    let proxy = world.proxy("one", &tunnel, "secret-a").await;
    proxy.ready().await;
    assert_eq!(world.call(domain).await, 200);
    let live = async || {
        let listed = world.command(&["secret", "list", id]).await;
        listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|secret| secret["live"].as_array().unwrap().len())
            .sum::<usize>()
    };
    until("both connections in the list", async || {
        (live().await == 2).then_some(())
    })
    .await;

    // Verifiers first, users second, verifiers last: no call fails.
    world.command(&["secret", "add", id, &b]).await;
    let thief = world.proxy("thief", &tunnel, "secret-a").await;
    thief.ready().await;
    world.write("one.secret", "secret-b");
    world.edge.logs("bound to another", 2).await;
    let archive = ["secret", "archive", id, first["id"].as_str().unwrap()];
    let begun = Instant::now();
    let archived = world.command(&archive).await;
    assert_eq!(archived["enforced"], json!({"instances": 1, "of": 1}));
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        world.edge.metric("keyward_edge_links").await,
        2,
        "the thief's are gone when it is answered"
    );
    assert_eq!(world.call(domain).await, 200);

    let suspended = world.command(&["tunnel", "suspend", id]).await;
    assert_eq!(suspended["enforced"], json!({"instances": 1, "of": 1}));
    assert_eq!(world.call(domain).await, 0);
    world.command(&["tunnel", "resume", id]).await;
    until("calls again", async || {
        (world.call(domain).await == 200).then_some(())
    })
    .await;
    world.command(&["tunnel", "archive", id]).await;
    assert_eq!(world.call(domain).await, 0);
    assert_eq!(world.edge.metric("keyward_edge_links").await, 0);
}

#[tokio::test]
async fn the_tunnels_api_is_served_beside_the_tunnels_and_the_state_outlives_the_edge() {
    let world = World::start().await;
    let (status, edge) = world.api("/v1/edge", &[]).await;
    assert_eq!((status, &edge["name"]), (200, &json!(EDGE)));
    let ca = std::fs::read_to_string(world.file("front-ca.pem")).unwrap();
    assert_eq!(edge["edge_ca_certificates"], json!([ca]));
    let (status, refused) = world.api("/v1/tunnels", &["--http1.1"]).await;
    assert_eq!(
        (status, &refused["error"]["type"]),
        (401, &json!("authentication_error"))
    );
    let body = r#"{"grant_type":"urn:ietf:params:oauth:grant-type:jwt-bearer","assertion":"x","federation_rule_id":"fdrl_0"}"#;
    let json_body = [
        "--http2",
        "-H",
        "content-type: application/json",
        "-d",
        body,
    ];
    let (status, _) = world.api("/v1/oauth/token", &json_body).await;
    assert_eq!(status, 401);
    let audit = world.command(&["audit"]).await;
    assert_eq!(audit["data"][0]["action"], "tunnel_access_token_refused");
    assert_eq!(
        audit["data"][0]["actor"],
        format!("source:{}", std::net::Ipv4Addr::LOCALHOST)
    );

    let (id, domain) = world.tunnel().await;
    let World { folder, edge, .. } = world;
    drop(edge);
    let listed = Command::new(program())
        .args(["tunnel", "list", "--state"])
        .arg(folder.path().join("state"))
        .output()
        .await
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(
        (&listed["data"][0]["id"], &listed["data"][0]["domain"]),
        (&json!(id), &json!(domain))
    );
}

#[tokio::test]
async fn a_list_of_autonomous_systems_is_refused_where_an_edge_has_no_table_of_them() {
    let mut world = World::start().await;
    let token = world.operator().await;
    let (id, _) = world.tunnel().await;
    let access = r#"{"cidrs":["127.0.0.0/8"],"asns":[64500]}"#;
    let file = world.write("asns.json", access);
    let refused = "asns: 1 of 1 edges have no asn_file in their configuration";
    let set = ["access", "set", &*id, &*file];
    let ended = world.run(&set).await;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(64), "{said}");
    assert!(said.contains(refused), "{said}");
    let (path, bearer) = (
        format!("/v1/tunnels/{id}/access"),
        format!("authorization: Bearer {token}"),
    );
    let put = ["-X", "PUT", "-H", &bearer, "-H", "if-match: *"];
    let json = ["-H", "content-type: application/json", "-d", access];
    let put = [&put[..], &json[..]].concat();
    let (status, body) = world.api(&path, &put).await;
    assert_eq!(status, 400, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.starts_with(refused), "{message}");
    let shown = world.command(&["access", "show", &id]).await;
    assert_eq!(shown["access"]["cidrs"], json!(["127.0.0.0/8"]));
    assert_eq!(shown["version"], 1);

    // With a table it is taken; an edge that lost its table says so at its start.
    let table = world.write("asn.tsv", "127.0.0.0\t127.255.255.255\t64500\n");
    world.edge.end(rustix::process::Signal::TERM).await;
    world.restart_with(&format!("asn_file: {table}\n")).await;
    let (status, body) = world.api(&path, &put).await;
    assert_eq!(status, 200, "{body}");
    assert!(!world.edge.log().contains("lets nobody in here"));
    world.edge.end(rustix::process::Signal::TERM).await;
    world.restart().await;
    world
        .edge
        .logs("access by asns lets nobody in here", 1)
        .await;
    assert!(world.edge.log().contains(&id));
}

#[tokio::test]
async fn an_issuer_takes_the_algorithms_that_are_named_and_a_wide_rule_is_warned_of() {
    let world = World::start().await;
    let signer = Signer::new();
    let keys = world.write("ci.jwks", &signer.jwks().to_string());
    for (name, algorithm, status) in [("good", "ES256", 200), ("bad", "RS256", 401)] {
        let words = ["issuer", "add", "--name", name, "--url", URL];
        let more = ["--jwks-file", &keys, "--accept-algorithm", algorithm];
        let issuer = world.command(&[&words[..], &more].concat()).await;
        let issuer = issuer["id"].as_str().unwrap();
        let words = ["rule", "add", "--name", name, "--issuer", issuer];
        let more = ["--audience", "edge", "--subject", "repo:acme/*"];
        let rule = world.command(&[&words[..], &more].concat()).await;
        let warning = rule["warnings"][0].as_str().unwrap();
        assert!(
            warning.contains("takes everybody under repo:acme/"),
            "{warning}"
        );
        let claims = json!({"iss": URL, "aud": "edge", "sub": "repo:acme/x", "jti": algorithm});
        let (rule, token) = (rule["id"].as_str().unwrap(), signer.sign(&claims));
        let (answered, said) = world.exchange_at(world.address, rule, &token).await;
        assert_eq!(answered, status, "{algorithm}: {said}");
    }
    // Whatever came of it, the audit log has what tells the tokens apart, and not what is in them.
    let rows = world.command(&["audit", "--limit", "20"]).await.to_string();
    for used in ["ES256", "RS256"] {
        assert!(
            rows.contains(&format!("jti {}", sha256(used))),
            "{used}: {rows}"
        );
    }
    assert!(
        rows.contains("alg is ES256, this issuer's may be RS256"),
        "{rows}"
    );
}
