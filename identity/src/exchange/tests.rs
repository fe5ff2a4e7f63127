use serde_json::json;

use super::*;
use crate::assertion::tests::token;
use crate::stub::{Server, http};

fn assertion() -> Assertion {
    Assertion::read(&token(
        &json!({"sub": "canary-subject-of-the-token", "jti": "1"}),
    ))
    .unwrap()
}

fn federation(url: &str) -> Federation {
    Federation {
        url: url.to_owned(),
        rule: "fdrl_1".to_owned(),
        organization: Some("o".to_owned()),
        service_account: None,
        workspace: Some("default".to_owned()),
    }
}

#[tokio::test]
async fn the_request_is_the_one_that_the_published_sdks_send() {
    let answer = json!({"access_token": "sk-ant-oat01-x", "token_type": "Bearer", "expires_in": 600,
                        "scope": "workspace:manage_tunnels"});
    let server = Server::start(move |_| ("200 OK", "Request-Id: req_1\r\n", answer.to_string()));
    let assertion = assertion();
    let minted = exchange(&http(), &federation(&server.url), &assertion)
        .await
        .unwrap();
    assert_eq!(minted.token.expose(), "sk-ant-oat01-x");
    assert_eq!(minted.life, Some(Duration::from_secs(600)));
    assert_eq!(minted.request_id.as_deref(), Some("req_1"));
    assert!(!format!("{minted:?}").contains("oat01"));
    let asked = &server.requests()[0];
    assert_eq!(asked.head[0], "POST /v1/oauth/token HTTP/1.1");
    assert!(asked.has("content-type: application/json"));
    assert!(asked.has("anthropic-beta: oauth-2025-04-20,oidc-federation-2026-04-01"));
    assert!(
        !asked
            .head
            .iter()
            .any(|line| line.starts_with("authorization:"))
    );
    assert_eq!(
        asked.json(),
        json!({"grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer", "assertion": assertion.expose(),
               "federation_rule_id": "fdrl_1", "organization_id": "o", "workspace_id": "default"})
    );
}

#[tokio::test]
async fn a_refusal_is_read_in_every_dialect_and_repeats_nothing_of_the_assertion() {
    let assertion = assertion();
    let echo = assertion.expose().to_owned();
    let bodies = [
        json!({"type": "error", "error": {"type": "authentication_error", "message": "Authentication failed"}, "request_id": "req_2"})
            .to_string(),
        json!({"error": {"type": "authentication_error", "message": "Authentication failed"}}).to_string(),
        json!({"error": "invalid_grant", "error_description": "denied"}).to_string(),
        json!({"error": "invalid_grant", "error_description": format!("bad {echo}, {}\n", &echo[30..70])}).to_string(),
        "<html>".to_owned(),
    ];
    let count = bodies.len();
    let server = Server::start(move |number| match number {
        2 | 3 => ("400 Bad Request", "", bodies[number].clone()),
        4 => (
            "503 Service Unavailable",
            "Retry-After: 7\r\n",
            bodies[number].clone(),
        ),
        _ => ("401 Unauthorized", "", bodies[number].clone()),
    });
    let mut said = Vec::new();
    for _ in 0..count {
        let error = exchange(&http(), &federation(&server.url), &assertion).await;
        let Err(ExchangeError::Refused(refused)) = error else {
            panic!("it is refused");
        };
        said.push(refused);
    }
    assert_eq!(
        said[0].to_string(),
        "401 authentication_error: Authentication failed, request req_2"
    );
    assert_eq!(said[1].error.as_deref(), Some("authentication_error"));
    assert_eq!(said[2].to_string(), "400 invalid_grant: denied");
    assert_eq!(
        said[3].message.as_deref(),
        Some("bad [of the token], [of the token]")
    );
    assert_eq!((said[4].status, said[4].retry_after), (503, Some(7)));
    assert_eq!(said[4].error, None);
}

#[tokio::test]
async fn what_was_not_sent_and_what_nobody_knows_are_two_things() {
    let assertion = assertion();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = exchange(&http(), &federation(&closed), &assertion).await;
    assert!(matches!(error, Err(ExchangeError::NotSent(_))), "{error:?}");
    let plain = exchange(&http(), &federation("http://192.0.2.1"), &assertion).await;
    assert!(matches!(plain, Err(ExchangeError::NotSent(_))), "{plain:?}");
    let cut = Server::start(|_| ("", "", String::new()));
    let error = exchange(&http(), &federation(&cut.url), &assertion).await;
    assert!(matches!(error, Err(ExchangeError::Unknown(_))), "{error:?}");
    assert_eq!(cut.requests().len(), 1, "it is tried once");
    assert!(!format!("{error:?} {plain:?}").contains(assertion.expose()));
}

#[tokio::test]
async fn a_redirect_a_flood_and_a_token_without_a_life_are_refused() {
    let assertion = assertion();
    let far = Server::start(|_| ("200 OK", "", String::new()));
    let to: &'static str = Box::leak(format!("Location: {}/far\r\n", far.url).into_boxed_str());
    let server = Server::start(move |number| match number {
        0 => ("307 Temporary Redirect", to, String::new()),
        1 => ("200 OK", "", " ".repeat(1024 * 1024 + 1)),
        2 => (
            "200 OK",
            "",
            json!({"access_token": "a", "token_type": "Bearer"}).to_string(),
        ),
        3 => (
            "200 OK",
            "",
            json!({"access_token": "a\n", "token_type": "Bearer", "expires_in": 1}).to_string(),
        ),
        4 => (
            "200 OK",
            "",
            json!({"access_token": "a", "token_type": "mac", "expires_in": 1}).to_string(),
        ),
        _ => ("200 OK", "", "not JSON".to_owned()),
    });
    let next = async || exchange(&http(), &federation(&server.url), &assertion).await;
    let Err(ExchangeError::Refused(redirect)) = next().await else {
        panic!("it is not followed");
    };
    assert_eq!(redirect.status, 307);
    assert!(far.requests().is_empty());
    assert!(matches!(
        next().await,
        Err(ExchangeError::Unknown(HttpError::TooLong { .. }))
    ));
    for _ in 2..6 {
        let error = next().await;
        assert!(
            matches!(error, Err(ExchangeError::Unusable { .. })),
            "{error:?}"
        );
    }
}
