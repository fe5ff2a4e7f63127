//! The whole path: agent, edge, proxy, upstream.

use tokio::process::Command;

use super::stand::{EDGE, OPEN, Stand};
use crate::rig::{HOST, until};

const CLIENTS: &str = "client_ca_files: [FOLDER/client-ca.pem]";

#[tokio::test]
async fn a_call_goes_through_on_both_versions_of_http_and_nothing_of_it_is_ended_on_the_way() {
    let stand = Stand::start(1, OPEN).await;
    let mut line = stand.line().await.unwrap();
    for _ in 0..3 {
        assert_eq!(line.get("/hello").await.unwrap().status, 200);
    }
    let port = stand.address.port();
    let resolve = format!("{HOST}:{port}:{}", stand.address.ip());
    for version in ["--http1.1", "--http2"] {
        let output = Command::new("curl")
            .args(["-sS", version, "--resolve", &resolve, "--cacert"])
            .arg(stand.file("tunnel-ca.pem"))
            .arg(format!("https://{HOST}:{port}/curl"))
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.stdout, b"ok", "{version}: {said}");
    }
    assert_eq!(stand.upstream.seen(|line| line == "GET /curl").len(), 2);
}

#[tokio::test]
async fn openssl_sees_the_tunnels_certificate_through_the_edge_and_no_other() {
    let stand = Stand::start(1, OPEN).await;
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-brief",
            "-verify_return_error",
            "-servername",
            HOST,
        ])
        .args([
            "-verify_hostname",
            HOST,
            "-connect",
            &stand.address.to_string(),
        ])
        .args(["-CAfile", &stand.file("tunnel-ca.pem")])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdin.take());
    let output = child.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Verification: OK"), "{said}");
    assert!(said.contains("TLSv1.3"), "{said}");
}

/// `curl --proxy https://agents.EDGE`, with these further words.
async fn curl(stand: &Stand, words: &[&str]) -> (String, String) {
    let port = stand.address.port();
    let resolve = format!("agents.{EDGE}:{port}:{}", stand.address.ip());
    let output = Command::new("curl")
        .args([
            "-sS",
            "--resolve",
            &resolve,
            "--cacert",
            &stand.file("tunnel-ca.pem"),
        ])
        .args(["--proxy", &format!("https://agents.{EDGE}:{port}")])
        .args(["--proxy-cacert", &stand.file("front-ca.pem")])
        .args(words)
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn curl_calls_through_outer_and_inner_mutual_tls() {
    let mut stand = Stand::start(0, CLIENTS).await;
    let proxy = stand.proxy("mutual", "mutual", "").await;
    proxy.ready().await;
    stand.proxies.push(proxy);
    let (certificate, key) = (stand.file("agent.crt"), stand.file("agent.key"));
    let outer = ["--proxy-cert", &*certificate, "--proxy-key", &*key];
    let inner = ["--cert", &*certificate, "--key", &*key];
    let url = format!("https://{HOST}/both");
    let both = [&outer[..], &inner[..], &[&*url]].concat();
    let (answer, said) = curl(&stand, &both).await;
    assert_eq!(answer, "ok", "{said}");

    // Without the outer certificate the edge refuses, without the inner one the proxy.
    let (_, said) = curl(&stand, &[&inner[..], &[&*url]].concat()).await;
    assert!(said.contains("403"), "{said}");
    let (answer, said) = curl(&stand, &[&outer[..], &[&*url]].concat()).await;
    assert!(
        answer.is_empty() && said.contains("certificate required"),
        "{said}"
    );
    // Passthrough cannot show an outer certificate at all.
    assert!(stand.line().await.is_err());
    let name = "keyward_edge_refusals_total{reason=\"certificate_required\"}";
    assert_eq!(stand.edge.metric(name).await, 2);
    assert_eq!(stand.upstream.seen(|line| line == "GET /both").len(), 1);
}

#[tokio::test]
async fn a_proxy_on_this_carrier_serves_nobody_without_a_client_ca_unless_told_so() {
    let stand = Stand::start(1, OPEN).await;
    let warned = "callers need no client certificate";
    stand.proxies[0].logs(warned, 1).await;
    let config = std::fs::read_to_string(stand.file("replica-0.yaml")).unwrap();
    let config = config.replace("    allow_without_client_certificate: true\n", "");
    std::fs::write(stand.file("strict.yaml"), config).unwrap();
    let program = demo::stack::Programs::beside().unwrap().proxy;
    let output = Command::new(program)
        .args(["--config", &stand.file("strict.yaml"), "--check"])
        .output()
        .await
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("tls.client_ca"), "{said}");
}

#[tokio::test]
async fn calls_are_shared_among_proxies_and_go_on_when_one_stops() {
    let mut stand = Stand::start(2, OPEN).await;
    stand.links(4).await;
    let mut lines = Vec::new();
    for _ in 0..20 {
        lines.push(stand.line().await.unwrap());
    }
    for proxy in &stand.proxies {
        let held = proxy.metric("keyward_connections").await;
        assert_eq!(held, 10, "half of them");
    }
    let mut stopped = stand.proxies.remove(0);
    stopped.end(rustix::process::Signal::TERM).await;
    for _ in 0..20 {
        let mut line = stand.line().await.unwrap();
        assert_eq!(line.get("/after").await.unwrap().status, 200);
    }
    stand.links(2).await;
}

#[tokio::test]
async fn every_connection_is_back_within_three_seconds_of_an_edge_that_was_killed() {
    let mut stand = Stand::start(2, OPEN).await;
    stand.links(4).await;
    stand.edge.end(rustix::process::Signal::KILL).await;
    until("the proxies' notice", async || {
        let page = stand.proxies[0].page("/readyz").await?;
        page.contains("carrier edge: no connection").then_some(())
    })
    .await;
    stand.restart().await;
    let begun = tokio::time::Instant::now();
    stand.links(4).await;
    assert!(begun.elapsed().as_secs() < 3, "{:?}", begun.elapsed());
    let mut line = stand.line().await.unwrap();
    assert_eq!(line.get("/back").await.unwrap().status, 200);
}
