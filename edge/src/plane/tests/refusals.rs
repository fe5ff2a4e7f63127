//! Who is not let in, and what a broken request is told.

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::http_client::Served;
use crate::plane::Rates;
use crate::plane::limit::Rate;
use crate::state::Scope;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    only_a_valid_access_token_opens_anything_and_nobody_is_told_why_not,
    a_token_reaches_no_further_than_its_rule,
    a_source_that_guesses_too_often_is_stopped_before_the_database,
    a_broken_request_is_told_what_is_wrong,
    whoever_is_refused_may_send_all_of_the_body_and_ask_again,
);

async fn whoever_is_refused_may_send_all_of_the_body_and_ask_again(stage: Stage) {
    let served = Served::new(stage).await;
    let body = " ".repeat(200_000);
    for (path, more, status) in [
        ("/v1/tunnels", "", "401"),
        ("/v1/nowhere", "", "404"),
        ("/v1/tunnels", "Transfer-Encoding: chunked\r\n", "401"),
    ] {
        let (length, body) = match more {
            "" => (format!("Content-Length: {}\r\n", body.len()), body.clone()),
            _ => (
                String::new(),
                format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()),
            ),
        };
        let asked = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\n{length}{more}\r\n{body}\
             GET /v1/edge HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        );
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        stream.write_all(asked.as_bytes()).await.unwrap();
        let mut answers = String::new();
        stream.read_to_string(&mut answers).await.unwrap();
        let found: Vec<_> = answers
            .split("HTTP/1.1 ")
            .skip(1)
            .map(|answer| &answer[..3])
            .collect();
        assert_eq!(found, [status, "200"]);
    }
    let waiting =
        "POST /v1/tunnels HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n";
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(waiting.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(
        &answer, b"HTTP/1.1 401",
        "nobody is asked to send what is not wanted"
    );
}

async fn only_a_valid_access_token_opens_anything_and_nobody_is_told_why_not(stage: Stage) {
    let served = Served::new(stage).await;
    let bearer = format!("Bearer {}", served.token);
    let twice = [
        ("authorization", bearer.as_str()),
        ("authorization", bearer.as_str()),
    ];
    let mut bodies = Vec::new();
    for headers in [
        &[][..],
        &[("authorization", "Bearer kwa-x")][..],
        &[("authorization", served.token.as_str())][..],
        &[("authorization", "Basic eDp4")][..],
        &[("authorization", "Bearer ")][..],
        &[("x-api-key", served.token.as_str())][..],
        &twice[..],
    ] {
        let refused = served.send(Method::GET, "/v1/tunnels", headers, "").await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.headers["www-authenticate"], "Bearer");
        let mut body = refused.body;
        assert!(body["request_id"].as_str().unwrap().starts_with("req_"));
        body["request_id"] = "".into();
        bodies.push(body);
    }
    let wanted = json!({"type": "error", "request_id": "",
        "error": {"type": "authentication_error", "message": "Authentication failed"}});
    assert!(bodies.iter().all(|body| *body == wanted));
    // Not with its time, and not without its rule.
    assert_eq!(served.get("/v1/tunnels").await.status, 200);
    served
        .stage
        .state
        .archive_rule(&served.stage.by(), &served.rule.id)
        .await
        .unwrap();
    assert_eq!(served.get("/v1/tunnels").await.status, 401);
}

async fn a_token_reaches_no_further_than_its_rule(stage: Stage) {
    let mut served = Served::new(stage).await;
    let (mine, theirs) = (
        served.post("/v1/tunnels", &json!({})).await.body["id"]
            .as_str()
            .unwrap()
            .to_owned(),
        served.post("/v1/tunnels", &json!({})).await.body["id"]
            .as_str()
            .unwrap()
            .to_owned(),
    );
    let by = served.stage.by();
    let mut rule = served.rule.clone();
    rule.name = "one".to_owned();
    rule.tunnel_id = Some(mine.clone());
    served.rule = served.stage.state.add_rule(&by, &rule).await.unwrap();
    let bought = served.buy(&served.assertion("one")).await;
    served.token = bought.body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(served.get(&format!("/v1/tunnels/{mine}")).await.status, 200);
    for path in ["", "/certificates", "/secrets", "/access"] {
        let hidden = served.get(&format!("/v1/tunnels/{theirs}{path}")).await;
        assert_eq!(hidden.status, 404);
        let absent = served.get(&format!("/v1/tunnels/tnl_0{path}")).await;
        assert_eq!(hidden.message(), absent.message(), "{path}");
    }
    let revealed = served
        .post(&format!("/v1/tunnels/{theirs}/reveal_token"), &json!({}))
        .await;
    assert_eq!(revealed.status, 404);
    assert_eq!(served.post("/v1/tunnels", &json!({})).await.status, 403);
    let listed = served.get("/v1/tunnels").await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 1);

    rule.name = "reader".to_owned();
    rule.scope = Scope::Read;
    rule.tunnel_id = None;
    served.rule = served.stage.state.add_rule(&by, &rule).await.unwrap();
    let bought = served.buy(&served.assertion("reader")).await;
    assert_eq!(bought.body["scope"], "workspace:read_tunnels");
    served.token = bought.body["access_token"].as_str().unwrap().to_owned();
    assert_eq!(served.get("/v1/tunnels").await.status, 200);
    for verb in [
        "archive",
        "suspend",
        "reveal_token",
        "rotate_token",
        "certificates",
        "secrets",
    ] {
        let refused = served
            .post(&format!("/v1/tunnels/{mine}/{verb}"), &json!({}))
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.kind()),
            (403, "permission_error"),
            "{verb}"
        );
    }
}

async fn a_source_that_guesses_too_often_is_stopped_before_the_database(stage: Stage) {
    let rates = Rates {
        failures: Rate {
            burst: 3,
            per_minute: 6,
        },
        ..Rates::default()
    };
    let served = Served::with_rates(stage, rates).await;
    let guess = async || {
        served
            .send(
                Method::GET,
                "/v1/tunnels",
                &[("authorization", "Bearer kwa-x")],
                "",
            )
            .await
    };
    for _ in 0..3 {
        assert_eq!(guess().await.status, 401);
    }
    // The database is not asked any more: it is not even there.
    served.stage.state.close().await;
    let stopped = guess().await;
    assert_eq!(
        (stopped.status.as_u16(), stopped.kind()),
        (429, "rate_limit_error")
    );
    assert_eq!(stopped.headers["retry-after"], "10");
    served.stage.clock.advance(10);
    let unavailable = guess().await;
    assert_eq!(
        (unavailable.status.as_u16(), unavailable.kind()),
        (503, "overloaded_error")
    );
    assert_eq!(unavailable.headers["retry-after"], "1");
}

async fn a_broken_request_is_told_what_is_wrong(stage: Stage) {
    let served = Served::new(stage).await;
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        let answer = served.call(method, path, headers, body).await;
        (answer.status.as_u16(), answer.message().to_owned())
    };
    let post = async |body: &str| send(Method::POST, "/v1/tunnels", &[], body).await;
    assert_eq!(post("{").await.0, 400);
    assert_eq!(post("[]").await.0, 400);
    let (status, message) = post(r#"{"display_name":"a","display_name":"b"}"#).await;
    assert_eq!(status, 400);
    assert!(message.contains("a name is there twice"), "{message}");
    let (status, message) = post(r#"{"displayname":"a"}"#).await;
    assert!(
        status == 400 && message.contains("displayname"),
        "{message}"
    );
    let (status, message) = post(&json!({"display_name": "x".repeat(256)}).to_string()).await;
    assert!(
        status == 400 && message.starts_with("display_name:"),
        "{message}"
    );
    // PostgreSQL has no NUL in a text.
    assert_eq!(post(r#"{"display_name":"a\u0000b"}"#).await.0, 400);
    let (status, _) = post(&json!({"display_name": "x".repeat(70_000)}).to_string()).await;
    assert_eq!(status, 413);
    let plain = [("content-type", "text/plain")];
    assert_eq!(send(Method::POST, "/v1/tunnels", &plain, "{}").await.0, 400);
    let old = [("anthropic-version", "latest")];
    let bearer = format!("Bearer {}", served.token);
    let headers = [("authorization", bearer.as_str()), old[0]];
    let answer = served.send(Method::GET, "/v1/tunnels", &headers, "").await;
    assert!(answer.status == 400 && answer.message().starts_with("anthropic-version"));
    assert_eq!(send(Method::GET, "/v1/nothing", &[], "").await.0, 404);
    assert_eq!(send(Method::DELETE, "/v1/tunnels", &[], "").await.0, 405);
    let other = served.call(Method::PATCH, "/v1/tunnels", &[], "").await;
    assert_eq!(other.headers["allow"], "POST, GET");
    assert_eq!(send(Method::GET, "/v1/tunnels/tnl_0", &[], "").await.0, 404);
    let (status, message) = send(
        Method::POST,
        "/v1/tunnels/tnl_0/archive",
        &[],
        &json!({"reason": "x".repeat(1001)}).to_string(),
    )
    .await;
    assert!(status == 400 && message.starts_with("reason:"), "{message}");
}
