//! The objects of the API: shapes, pages, limits, what is done to them.

use std::time::{Duration, UNIX_EPOCH};

use http::Method;
use pki::{Authority, AuthorityProfile};
use serde_json::{Value, json};

use super::http_client::Served;
use crate::base64url;
use crate::state::sha256;
use crate::tests::clock::START;
use crate::tests::issuer::Signer;
use crate::tests::on_both;
use crate::tests::stage::Stage;

on_both!(
    a_tunnel_has_the_documented_shape,
    lists_are_paged_by_cursor,
    a_tunnel_is_suspended_resumed_and_archived,
    a_token_is_revealed_and_rotated_once_for_a_key,
    two_ca_certificates_are_active_and_a_third_waits,
    each_rule_for_a_ca_certificate_is_refused_in_its_own_words,
    secrets_and_access_go_through_the_api,
    bundles_are_kept_in_order_and_by_their_keys,
    the_edge_says_who_it_is_to_anybody,
    what_was_done_is_in_the_audit_log_under_the_request,
);

async fn tunnel(served: &Served) -> String {
    let made = served
        .post("/v1/tunnels", &json!({"display_name": "test"}))
        .await;
    made.body["id"].as_str().unwrap().to_owned()
}

pub(super) fn ca(name: &str) -> String {
    ca_from(name, START)
}

fn ca_from(name: &str, seconds: u64) -> String {
    let now = UNIX_EPOCH + Duration::from_secs(seconds);
    let authority = Authority::generate(&AuthorityProfile::server(name), now).unwrap();
    authority.certificate().to_pem()
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

async fn two_ca_certificates_are_active_and_a_third_waits(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}/certificates", tunnel(&served).await);
    let add = async |pem: &str| {
        served
            .post(&path, &json!({"ca_certificate_pem": pem}))
            .await
    };
    let (one, two, three) = (ca("one"), ca("two"), ca("three"));
    let first = add(&one).await;
    assert_eq!(first.status, 200, "{}", first.body);
    assert_eq!(first.body["type"], "tunnel_certificate");
    assert!(first.body["id"].as_str().unwrap().starts_with("tcrt_"));
    let fingerprint = pki::Certificate::from_pem(&one)
        .unwrap()
        .fingerprint()
        .to_string();
    assert_eq!(first.body["fingerprint"], fingerprint);
    assert!(first.body["expires_at"].is_string() && first.body.get("ca_certificate_pem").is_none());
    let same = add(&one).await;
    assert_eq!(same.status, 409);
    assert!(
        same.message().contains(first.body["id"].as_str().unwrap()),
        "{}",
        same.message()
    );
    assert_eq!(add(&two).await.status, 200);
    let third = add(&three).await;
    assert_eq!(third.status, 409);
    assert!(
        third
            .message()
            .starts_with("two certificates are active already"),
        "{}",
        third.message()
    );
    let one_path = format!("{path}/{}", first.body["id"].as_str().unwrap());
    let archived = served
        .post(&format!("{one_path}/archive"), &json!({}))
        .await;
    assert!(archived.body["archived_at"].is_string());
    assert_eq!(
        served.get(&one_path).await.body["archived_at"],
        archived.body["archived_at"]
    );
    assert_eq!(add(&three).await.status, 200);
    let count = async |query: &str| {
        served.get(&format!("{path}{query}")).await.body["data"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("").await, 2);
    assert_eq!(count("?include_archived=true").await, 3);
    assert_eq!(served.get(&format!("{path}/tcrt_0")).await.status, 404);
}

/// The texts are a contract: operators read them, and the daemon shows them.
async fn each_rule_for_a_ca_certificate_is_refused_in_its_own_words(stage: Stage) {
    let served = Served::new(stage).await;
    let path = format!("/v1/tunnels/{}/certificates", tunnel(&served).await);
    let good = ca("good");
    let key = good.replace("CERTIFICATE", "PRIVATE KEY");
    let damaged = good.replacen("MII", "NII", 1);
    for (pem, wanted) in [
        (
            format!("{good}{key}"),
            "there is a private key in the text: the key of a CA must not leave this machine",
        ),
        (
            format!("{}{good}", "x".repeat(8192)),
            "bytes: the upload takes at most 8 kB; leave out the text around the certificate",
        ),
        (
            format!("{good}{}", ca("other")),
            "there are 2 certificates in the text: the upload takes exactly one certificate",
        ),
        (String::new(), "there are 0 certificates in the text"),
        (damaged, "the certificate is damaged"),
        (
            ca_from("early", START + 864_000),
            "the CA certificate is not yet valid",
        ),
    ] {
        let refused = served
            .post(&path, &json!({"ca_certificate_pem": pem}))
            .await;
        assert_eq!(
            (refused.status.as_u16(), refused.kind()),
            (400, "invalid_request_error")
        );
        assert!(
            refused.message().starts_with("ca_certificate_pem: "),
            "{}",
            refused.message()
        );
        assert!(refused.message().contains(wanted), "{}", refused.message());
    }
    for (name, pem, wanted) in openssl_cases() {
        let refused = served
            .post(&path, &json!({"ca_certificate_pem": pem}))
            .await;
        assert_eq!(refused.status, 400, "{name}: {}", refused.body);
        assert!(
            refused.message().contains(wanted),
            "{name}: {}",
            refused.message()
        );
    }
    let got = served.get(&path).await;
    assert_eq!(got.body["data"].as_array().unwrap().len(), 0);
}

/// CA certificates that openssl makes and the rules of the upload refuse: name, PEM, words.
fn openssl_cases() -> Vec<(&'static str, String, &'static str)> {
    const CA: &str = "basicConstraints=critical,CA:TRUE";
    const SIGN: &str = "keyUsage=critical,keyCertSign,cRLSign";
    const SKI: &str = "subjectKeyIdentifier=hash";
    let p256 = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    let long = ["-days", "3650", "-sha256"];
    let make = |key: &[&str], dates: &[&str], extensions: &[&str]| openssl(key, dates, extensions);
    vec![
        (
            "no basic constraints",
            make(&p256, &long, &[SIGN, SKI]),
            "the certificate has no basic constraints",
        ),
        (
            "not a CA",
            make(
                &p256,
                &long,
                &["basicConstraints=critical,CA:FALSE", SIGN, SKI],
            ),
            "the certificate is no CA's",
        ),
        (
            "not critical",
            make(&p256, &long, &["basicConstraints=CA:TRUE", SIGN, SKI]),
            "are not critical",
        ),
        (
            "no key identifier",
            make(&p256, &long, &[CA, SIGN, "subjectKeyIdentifier=none"]),
            "has no subject key identifier",
        ),
        (
            "no key usage",
            make(&p256, &long, &[CA, SKI]),
            "lacks keyCertSign",
        ),
        (
            "wrong key usage",
            make(&p256, &long, &[CA, "keyUsage=critical,cRLSign", SKI]),
            "lacks keyCertSign",
        ),
        (
            "weak key",
            make(&["rsa:1024"], &long, &[CA, SIGN, SKI]),
            "the key of the CA is RSA",
        ),
        (
            "weak curve",
            make(
                &["ec", "-pkeyopt", "ec_paramgen_curve:prime192v1"],
                &long,
                &[CA, SIGN, SKI],
            ),
            "the key of the CA is",
        ),
        (
            "SHA-1",
            make(&["rsa:2048"], &["-days", "3650", "-sha1"], &[CA, SIGN, SKI]),
            "is signed with",
        ),
        (
            "expired",
            make(&p256, &["-days", "1", "-sha256"], &[CA, SIGN, SKI]),
            "has expired",
        ),
    ]
}

fn openssl(key: &[&str], dates: &[&str], extensions: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("openssl.cnf");
    std::fs::write(&config, "[req]\ndistinguished_name=dn\n[dn]\n").unwrap();
    let mut command = std::process::Command::new("openssl");
    command
        .args([
            "req", "-x509", "-nodes", "-subj", "/CN=case", "-keyout", "key.pem", "-config",
        ])
        .arg(&config)
        .arg("-newkey")
        .args(key)
        .args(dates)
        .current_dir(directory.path());
    for extension in extensions {
        command.args(["-addext", extension]);
    }
    let made = command.output().unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    String::from_utf8(made.stdout).unwrap()
}

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

pub(super) fn bundle(signer: &Signer, payload: &Value) -> String {
    let mut jwk = signer.jwk("x");
    for name in ["kid", "use"] {
        jwk.as_object_mut().unwrap().remove(name);
    }
    let header = json!({"alg": "ES256", "typ": "keyward-bundle+jwt", "jwk": jwk});
    signer.sign_text(&header.to_string(), &payload.to_string())
}

async fn bundles_are_kept_in_order_and_by_their_keys(stage: Stage) {
    let served = Served::new(stage).await;
    let id = tunnel(&served).await;
    let path = format!("/v1/tunnels/{id}/bundles");
    let (old, new) = (Signer::p256(), Signer::p256());
    let thumbprint = crate::assertion::Key::read(&new.jwk("x"))
        .unwrap()
        .thumbprint();
    let plain = |sequence: u64| json!({"tunnel": id, "sequence": sequence});
    let naming = |sequence: u64| json!({"tunnel": id, "sequence": sequence, "next_key_thumbprint": thumbprint});
    let put = async |sequence: u64, jws: &str| {
        let body = json!({"bundle": jws}).to_string();
        let answer = served
            .call(Method::PUT, &format!("{path}/{sequence}"), &[], &body)
            .await;
        answer.status.as_u16()
    };
    let kept = async |after: u64| -> Vec<u64> {
        // Anybody may ask.
        let answer = served
            .send(Method::GET, &format!("{path}?after={after}"), &[], "")
            .await;
        answer.body["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b["sequence"].as_u64().unwrap())
            .collect()
    };
    let first = bundle(&old, &plain(1));
    assert_eq!(put(1, &first).await, 200);
    assert_eq!(put(1, &first).await, 200, "the same again");
    assert_eq!(
        put(1, &bundle(&old, &plain(1))).await,
        409,
        "another under the same number"
    );
    assert_eq!(
        put(2, &bundle(&new, &plain(2))).await,
        409,
        "a key that nobody named"
    );
    assert_eq!(put(3, &bundle(&old, &naming(3))).await, 200);
    assert_eq!(put(4, &bundle(&old, &naming(4))).await, 200);
    assert_eq!(put(2, &bundle(&old, &plain(2))).await, 409, "rolled back");
    assert_eq!(put(5, &bundle(&new, &plain(5))).await, 200);
    assert_eq!(
        put(6, &bundle(&old, &plain(6))).await,
        409,
        "the old key is over"
    );
    assert_eq!(
        kept(0).await,
        [3, 5],
        "the latest, and the first that named its next key"
    );
    assert_eq!(kept(3).await, [5]);
    for bad in [
        "a.b.c".to_owned(),
        bundle(&new, &plain(8)),
        bundle(&new, &json!({"tunnel": "tnl_0", "sequence": 7})),
        new.sign_text(
            &json!({"alg": "ES256", "typ": "JWT"}).to_string(),
            &plain(7).to_string(),
        ),
        bundle(&Signer::p384(), &plain(7)),
        bundle(
            &new,
            &json!({"tunnel": id, "sequence": 7, "next_key_thumbprint": "\0"}),
        ),
        bundle(&new, &plain(7)).replacen('.', &format!("{}.", base64url::encode(b" ")), 1),
    ] {
        assert_eq!(put(7, &bad).await, 400, "{bad}");
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
