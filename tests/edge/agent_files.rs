//! The agent's certificate, key and CAs, replaced while it serves.

use tokio::io::AsyncReadExt;

use super::agent::{Agent, CLIENTS, mutual};
use super::stand::Tunnel;
use crate::rig::{Issuer, until};

/// F12.
#[tokio::test]
async fn every_file_is_taken_up_while_calls_go_through_and_a_bad_one_is_not() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    agent.works().await;
    // Half of a pair is no pair.
    let (certificate, key) = stand.issuer.client("renewed.example");
    stand.replace("agent.crt", &certificate);
    agent.logs("files not taken", 1).await;
    agent.works().await;
    // The whole one is shown from there on.
    stand.replace("agent.key", &key);
    agent.logs("files taken", 2).await;
    stand.tell(&Tunnel::open_to(&format!(
        "{CLIENTS}, clients: ['renewed.*']"
    )));
    stand.edge.logs("tunnels taken", 2).await;
    agent.works().await;
    // The tunnel's CA, and back.
    let good = std::fs::read_to_string(stand.file("tunnel-ca.pem")).unwrap();
    let foreign = Issuer::new().ca_pem();
    stand.replace("tunnel-ca.pem", &foreign);
    agent.logs("files taken", 3).await;
    agent.fails("tunnel certificate", "is not trusted").await;
    stand.replace("tunnel-ca.pem", &format!("{foreign}{good}"));
    agent.logs("files taken", 4).await;
    agent.works().await;
    // The edge's.
    let front = std::fs::read_to_string(stand.file("front-ca.pem")).unwrap();
    stand.replace("front-ca.pem", &foreign);
    agent.logs("files taken", 5).await;
    agent.fails("edge certificate", "is not trusted").await;
    stand.replace("front-ca.pem", &front);
    agent.logs("files taken", 6).await;
    agent.works().await;
    for (file, bad) in [
        ("tunnel-ca.pem", "no PEM"),
        ("agent.key", ""),
        ("front-ca.pem", "x"),
    ] {
        let before = std::fs::read_to_string(stand.file(file)).unwrap();
        let times = agent.log().matches("files not taken").count();
        stand.replace(file, bad);
        agent.logs("files not taken", times + 1).await;
        agent.works().await;
        stand.replace(file, &before);
        until("the same file again", async || {
            (std::fs::read_to_string(stand.file(file)).ok()? == before).then_some(())
        })
        .await;
    }
    let log = agent.log();
    assert!(!log.contains("PRIVATE") && !log.contains("BEGIN"), "{log}");
}

#[tokio::test]
async fn a_stream_that_runs_goes_on_when_the_files_change() {
    let stand = mutual("").await;
    let agent = Agent::start(&stand, &[]).await;
    let mut stream = agent.events(&stand).await;
    let (certificate, key) = stand.issuer.client("renewed.example");
    stand.replace("agent.key", &key);
    stand.replace("agent.crt", &certificate);
    agent.logs("files taken", 2).await;
    agent.works().await;
    stand.upstream.say(7);
    let mut seen = String::new();
    let mut piece = [0; 4096];
    while !seen.contains("data: 7") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(std::str::from_utf8(&piece[..read]).unwrap());
    }
}
