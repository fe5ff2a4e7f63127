//! The objects of the API: shapes, pages, limits, what is done to them.

use http::Method;
use serde_json::{Value, json};

use super::http_client::Served;
use crate::state::sha256;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_tunnel_has_the_documented_shape,
    lists_are_paged_by_cursor,
    a_tunnel_is_suspended_resumed_and_archived,
    a_token_is_revealed_and_rotated_once_for_a_key,
    secrets_and_access_go_through_the_api,
    the_edge_says_who_it_is_to_anybody,
    what_was_done_is_in_the_audit_log_under_the_request,
);

pub(super) async fn tunnel(served: &Served) -> String {
    let made = served
        .post("/v1/tunnels", &json!({"display_name": "test"}))
        .await;
    made.body["id"].as_str().unwrap().to_owned()
}

async fn a_tunnel_has_the_documented_shape(stage: Stage) {
    let served = Served::new(stage).await;
    let made = served
        .post("/v1/tunnels?beta=true", &json!({"display_name": null}))
        .await;
    assert_eq!(made.status, 200, "{}", made.body);
    let object = made.body.as_object().unwrap();
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    let wanted = [
        "archived_at",
        "created_at",
        "display_name",
        "domain",
        "enforced",
        "id",
        "type",
    ];
    assert_eq!(names, wanted);
    assert_eq!(object["type"], "tunnel");
    assert_eq!(object["display_name"], Value::Null);
    assert_eq!(object["archived_at"], Value::Null);
    assert_eq!(object["created_at"], "2027-01-15T08:00:00Z");
    assert!(object["id"].as_str().unwrap().starts_with("tnl_"));
    assert!(object["domain"].as_str().unwrap().ends_with(".edge.test"));
    assert!(
        made.headers["request-id"]
            .to_str()
            .unwrap()
            .starts_with("req_")
    );
    assert_eq!(made.headers["cache-control"], "no-store");
    assert_eq!(made.headers["content-type"], "application/json");
    let path = format!("/v1/tunnels/{}", object["id"].as_str().unwrap());
    let got = served.get(&path).await;
    assert_eq!(got.body["domain"], object["domain"]);
    assert_eq!(got.body.get("enforced"), None);
    let empty = served.call(Method::POST, "/v1/tunnels", &[], "").await;
    assert_eq!(empty.status, 200, "an empty body is an empty object");
}

async fn lists_are_paged_by_cursor(stage: Stage) {
    let served = Served::new(stage).await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.insert(0, tunnel(&served).await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/tunnels?limit=2".to_owned();
    for pages in 1.. {
        let page = served.get(&path).await;
        seen.extend(
            page.body["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["id"].as_str().unwrap().to_owned()),
        );
        let Some(cursor) = page.body["next_page"].as_str() else {
            assert_eq!(pages, 3);
            break;
        };
        path = format!("/v1/tunnels?limit=2&page={cursor}");
    }
    assert_eq!(seen, made);
    for bad in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "page=page_",
        "page=x",
        "include_archived=1",
        "limit=1&limit=2",
    ] {
        let refused = served.get(&format!("/v1/tunnels?{bad}")).await;
        assert_eq!(refused.status, 400, "{bad}");
        assert_eq!(refused.kind(), "invalid_request_error");
    }
}

async fn a_tunnel_is_suspended_resumed_and_archived(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}", tunnel(&served).await);
    let post = async |verb: &str| {
        served
            .post(&format!("{path}/{verb}"), &json!({"reason": "test"}))
            .await
    };
    assert!(post("suspend").await.body["suspended_at"].is_string());
    assert!(served.get(&path).await.body["suspended_at"].is_string());
    assert_eq!(post("resume").await.body.get("suspended_at"), None);
    assert!(post("archive").await.body["archived_at"].is_string());
    assert_eq!(
        post("archive").await.status,
        200,
        "twice is as good as once"
    );
    let late = post("suspend").await;
    assert_eq!((late.status.as_u16(), late.kind()), (409, "conflict_error"));
    let visible = |answer: &Value| answer["data"].as_array().unwrap().len();
    assert_eq!(visible(&served.get("/v1/tunnels").await.body), 0);
    assert_eq!(
        visible(&served.get("/v1/tunnels?include_archived=true").await.body),
        1
    );
}

async fn a_token_is_revealed_and_rotated_once_for_a_key(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}", tunnel(&served).await);
    let first = served
        .post(&format!("{path}/reveal_token"), &json!({}))
        .await;
    assert_eq!(first.body["type"], "tunnel_token");
    assert!(first.body["id"].as_str().unwrap().starts_with("ttok_"));
    let rotate = async |key: &str, body: &Value| {
        let headers = [("idempotency-key", key)];
        let path = format!("{path}/rotate_token");
        served
            .call(Method::POST, &path, &headers, &body.to_string())
            .await
    };
    let order = json!({"reason": "scheduled", "cut_old_after_seconds": 3600});
    let second = rotate("rotation-1", &order).await;
    let again = rotate("rotation-1", &order).await;
    assert_ne!(first.body["id"], second.body["id"]);
    assert_eq!(again.body["tunnel_token"], second.body["tunnel_token"]);
    let other = rotate("rotation-1", &json!({"cut_old_after_seconds": 0})).await;
    assert_eq!(other.status, 409);
    let misspelt = rotate("rotation-2", &json!({"cut_old_after_second": 0})).await;
    assert_eq!(misspelt.status, 400);
    assert!(
        misspelt.message().contains("cut_old_after_second"),
        "{}",
        misspelt.message()
    );
    let revealed = served
        .post(&format!("{path}/reveal_token"), &json!({}))
        .await;
    assert_eq!(revealed.body["tunnel_token"], second.body["tunnel_token"]);
}

#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn secrets_and_access_go_through_the_api(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}", tunnel(&served).await);
    let secrets = format!("{path}/secrets");
    let added = served.post(&secrets, &json!({"sha256": sha256("a")})).await;
    assert_eq!(added.body["type"], "tunnel_secret");
    assert_eq!(added.body["live"], json!([]));
    let again = served.post(&secrets, &json!({"sha256": sha256("a")})).await;
    assert_eq!(again.body["id"], added.body["id"]);
    let value = served
        .post(&secrets, &json!({"sha256": "A".repeat(64)}))
        .await;
    assert_eq!(value.status, 400);
    let archive = format!("{secrets}/{}/archive", added.body["id"].as_str().unwrap());
    assert!(served.post(&archive, &json!({})).await.body["archived_at"].is_string());

    let access = format!("{path}/access");
    let before = served.get(&access).await;
    assert_eq!(before.headers["etag"], "\"0\"");
    let body = json!({"cidrs": ["192.0.2.0/24"], "limits": {"streams": 64}}).to_string();
    let without = served.call(Method::PUT, &access, &[], &body).await;
    assert_eq!(without.status, 400);
    assert!(without.message().starts_with("if-match: required"));
    let put = served
        .call(Method::PUT, &access, &[("if-match", "\"0\"")], &body)
        .await;
    assert_eq!(
        (put.status.as_u16(), &put.headers["etag"]),
        (200, &"\"1\"".parse().unwrap())
    );
    let late = served
        .call(Method::PUT, &access, &[("if-match", "\"0\"")], &body)
        .await;
    assert_eq!(late.status, 412);
    assert!(
        late.message().contains("its version is 1"),
        "{}",
        late.message()
    );
    let got = served.get(&access).await;
    assert_eq!(got.body["cidrs"], json!(["192.0.2.0/24"]));
    assert_eq!(got.body["limits"], json!({"streams": 64}));
    let slip = served
        .call(
            Method::PUT,
            &access,
            &[("if-match", "*")],
            &json!({"cidr": []}).to_string(),
        )
        .await;
    assert_eq!(slip.status, 400);
    for (body, field) in [
        (json!({"asns": [64_512]}), "asns: "),
        (json!({"clients": ["x"]}), "clients: "),
    ] {
        let nobody = served
            .call(
                Method::PUT,
                &access,
                &[("if-match", "*")],
                &body.to_string(),
            )
            .await;
        assert_eq!(nobody.status, 400);
        assert!(nobody.message().starts_with(field), "{}", nobody.message());
    }
}

async fn the_edge_says_who_it_is_to_anybody(stage: Stage) {
    let served = Served::new(stage).await;
    let edge = served.send(Method::GET, "/v1/edge", &[], "").await;
    assert_eq!(edge.body["name"], "edge.test");
    assert_eq!(edge.body["edge_ca_certificates"], json!(["PEM"]));
    assert_eq!(edge.body["instances"], 1);
}

async fn what_was_done_is_in_the_audit_log_under_the_request(stage: Stage) {
    let served = Served::new(stage).await;
    let made = served.post("/v1/tunnels", &json!({})).await;
    let row = served.last_row().await;
    assert_eq!(row.action, "tunnel_created");
    assert_eq!(row.request_id, made.headers["request-id"].to_str().unwrap());
    assert_eq!(row.target.as_deref(), made.body["id"].as_str());
    assert_eq!(
        row.actor,
        format!("rule:{}:system:serviceaccount:mcp:setup", served.rule.id)
    );
}
