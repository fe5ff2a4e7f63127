//! A JWT-SVID buys access. The Workload API is a gRPC server made of the published protocol definition, with which the
//! published client is content (`tests/tools/workload_api.py`).

use super::super::federation::AUDIENCE;
use super::Case;
use super::beside::Beside;
use crate::cli::stage::{Ended, end, keyward};

const ISSUER: &str = "https://spire.test";

async fn doctor(case: &Case, rule: &str, source: &str, socket: Option<&str>) -> Ended {
    let config = case.configure(rule, source, "");
    let words = [
        "doctor",
        "identity",
        "--exchange",
        "--json",
        "--config",
        &config,
    ];
    let mut command = keyward(&words);
    command.env("HTTPS_PROXY", format!("http://{}", case.proxy.address));
    if let Some(socket) = socket {
        command.env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{socket}"));
    }
    end(&mut command).await
}

#[tokio::test]
async fn a_svid_of_the_workload_api_buys_access_and_each_fault_has_its_next_step() {
    let case = Case::start().await;
    let socket = case.world.file("agent.sock");
    let agent = Beside::start("workload_api.py", &[&socket, ISSUER]).await;
    let issuer = case.world.believe("spire", ISSUER, &agent.said).await;
    let other = "spiffe://example.org/other";
    for (name, id, source) in [
        (
            "first",
            "spiffe://example.org/keyward",
            format!("{{spiffe: {{audience: {AUDIENCE}}}}}"),
        ),
        (
            "chosen",
            other,
            format!(
                "{{spiffe: {{socket: 'unix://{socket}', audience: {AUDIENCE}, spiffe_id: '{other}'}}}}"
            ),
        ),
    ] {
        let words = ["--audience", AUDIENCE, "--subject", id];
        let rule = case.world.rule(name, &issuer, &words).await;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let ended = doctor(&case, &rule, &source, Some(&socket)).await;
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert_eq!(ended.json()["claims"]["sub"], id);
            assert_eq!(ended.json()["notes"], serde_json::json!([]));
            seen.push(ended.json()["claims"]["jti"].clone());
        }
        assert_ne!(seen[0], seen[1], "asked anew");
    }
    let unknown = "{spiffe: {audience: a, spiffe_id: 'spiffe://example.org/nobody'}}";
    let plain = "{spiffe: {audience: a}}";
    for (source, at, code, next) in [
        (
            unknown,
            Some(socket.as_str()),
            77,
            "spire-server entry create",
        ),
        (
            plain,
            Some("/nonexistent.sock"),
            69,
            "start the SPIRE agent",
        ),
        (plain, None, 78, "set it to unix:///PATH"),
    ] {
        let ended = doctor(&case, &case.rule, source, at).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(format!("{ended:?}").contains(next), "{next}: {ended:?}");
    }
}

#[tokio::test]
async fn a_svid_of_a_server_without_an_issuer_is_not_sent_and_the_setting_is_named() {
    let case = Case::start().await;
    let plain = "{spiffe: {audience: a}}";
    let without = case.world.file("without.sock");
    let _agent = Beside::start("workload_api.py", &[&without, "none"]).await;
    let ended = doctor(&case, &case.rule, plain, Some(&without)).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for part in [
        "set jwt_issuer in SPIRE's server configuration",
        "iss: it is missing",
    ] {
        assert!(format!("{ended:?}").contains(part), "{part}: {ended:?}");
    }
}
