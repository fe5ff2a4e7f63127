//! What the edge's control plane reads from whoever calls it: assertions, bodies, paths.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use edge::assertion::{decode, system_resolver};
use edge::plane::{Plane, PlaneSettings, Rate, Rates};
use edge::state::{By, Grant, Issuer, KeySource, Matcher, Rule, Scope, Seal, Settings, State};
use http::Request;
use http_body_util::{BodyExt, Full};
use pki::{Authority, AuthorityProfile};
use process::{Clock, SystemClock, Tasks};

use super::drive;

const CALLER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

#[test]
fn assertions() {
    // {"alg":"ES256","kid":"k"} . {"iss":"https://i.test","exp":1.5,"aud":["a"]} . 64 zeros
    let good = format!(
        "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2kudGVzdCIsImV4cCI6MS41LCJhdWQiOlsiYSJdfQ.{}",
        "A".repeat(86)
    );
    let types = ["JWT".to_owned()];
    assert!(decode(&good, &types).is_ok());
    let seeds = [good.into_bytes(), b"..".to_vec(), b"a.b.c.d.e".to_vec()];
    drive("assertions", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        match decode(&text, &types) {
            Ok(decoded) => assert!(!decoded.kid.is_empty() && text.len() <= 16 * 1024),
            Err(refusal) => assert!(refusal.to_string().len() < 2048, "{refusal}"),
        }
    });
}

/// Each answer is one of the API, whatever was asked: never a fault of ours.
#[test]
fn requests_to_the_tunnels_api() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (plane, _) = runtime.block_on(plane(&directory));
    let seeds = [
        b"POST /v1/oauth/token\n{\"grant_type\":\"urn:ietf:params:oauth:grant-type:jwt-bearer\",\"assertion\":\"a.b.c\",\"federation_rule_id\":\"fdrl_0\"}".to_vec(),
        b"POST /v1/oauth/token\ngrant_type=a&assertion=%41&federation_rule_id=fdrl_0".to_vec(),
        b"GET /v1/tunnels?limit=1&page=page_AAAAAAAAAAE&include_archived=true\n".to_vec(),
        b"PUT /v1/tunnels/tnl_0/access\n{\"cidrs\":[\"::/0\"]}".to_vec(),
        b"GET /v1/tunnels/tnl_0/bundles?after=1\n".to_vec(),
        b"GET /v1/edge\n".to_vec(),
    ];
    drive("requests_to_the_tunnels_api", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (line, body) = text.split_once('\n').unwrap_or((&text, ""));
        let (method, uri) = line.split_once(' ').unwrap_or(("GET", line));
        for kind in ["application/json", "application/x-www-form-urlencoded"] {
            let request = Request::builder()
                .method(method)
                .uri(uri)
                .header("content-type", kind)
                .body(Full::new(Bytes::from(body.to_owned())));
            let Ok(request) = request else { return };
            let (status, body) = runtime.block_on(async {
                let answer = plane.answer(request, CALLER).await;
                let status = answer.status();
                (
                    status,
                    answer.into_body().collect().await.unwrap().to_bytes(),
                )
            });
            assert!(!status.is_server_error(), "{status}");
            assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
            assert!(body.len() < 4096);
        }
    });
}

/// The same by somebody who may do everything, so that bodies are read as well.
#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn bodies_of_the_tunnels_api() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (plane, state) = runtime.block_on(plane(&directory));
    let token = runtime.block_on(access_token(&state));
    let ask = |line: &str, body: &str| {
        let (method, path) = line.split_once(' ').unwrap_or(("POST", line));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {token}"))
            .header("if-match", "\"0\"")
            .body(Full::new(Bytes::from(body.to_owned())));
        let request = request.ok()?;
        Some(runtime.block_on(async {
            let answer = plane.answer(request, CALLER).await;
            let status = answer.status();
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            (status, body)
        }))
    };
    let (status, made) = ask("POST /v1/tunnels", r#"{"display_name":"a"}"#).unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made).unwrap();
    assert!(status.is_success(), "{made}");
    let at = format!("/v1/tunnels/{}", made["id"].as_str().unwrap());
    let ca = Authority::generate(&AuthorityProfile::server("CA"), SystemClock.wall()).unwrap();
    let ca = serde_json::Value::from(ca.certificate().to_pem());
    let digest = "ab".repeat(32);
    let seeds = [
        "POST /v1/tunnels\n{\"display_name\":\"b\"}".to_owned(),
        format!("POST {at}/rotate_token\n{{\"reason\":\"r\",\"cut_old_after_seconds\":3600}}"),
        format!("POST {at}/reveal_token\n{{\"reason\":\"r\"}}"),
        format!("POST {at}/secrets\n{{\"sha256\":\"{digest}\"}}"),
        format!("POST {at}/certificates\n{{\"ca_certificate_pem\":{ca}}}"),
        format!(
            "PUT {at}/access\n{{\"client_ca_certificates\":[{ca}],\"clients\":[\"a.*\"],\"denied\":[\"{digest}\"],\"cidrs\":[\"::/0\",\"192.0.2.0/24\"],\"asns\":[64500],\"limits\":{{\"streams\":7}}}}"
        ),
        format!("PUT {at}/bundles/1\n{{\"bundle\":\"e30.e30.AAAA\"}}"),
        format!("GET {at}/secrets\n"),
    ];
    let seeds: Vec<_> = seeds.into_iter().map(String::into_bytes).collect();
    let mut accepted = 0;
    drive("bodies_of_the_tunnels_api", &seeds, |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (line, body) = text.split_once('\n').unwrap_or((&text, ""));
        let Some((status, said)) = ask(line, body) else {
            return;
        };
        assert!(!status.is_server_error(), "{status}");
        let said = serde_json::from_slice::<serde_json::Value>(&said).unwrap();
        if status.is_success() {
            accepted += 1;
        } else {
            let message = said["error"]["message"].as_str().unwrap_or_default();
            assert!(message.len() < 2048, "{message}");
        }
    });
    assert!(accepted > 5, "seeds are read: {accepted}");
}

/// Of a rule without bounds, as an exchange would mint it.
async fn access_token(state: &State) -> String {
    let now = SystemClock.wall().duration_since(UNIX_EPOCH).unwrap();
    let by = By {
        actor: "operator:0".to_owned(),
        request_id: "req_fuzz".to_owned(),
        now: now.as_secs(),
    };
    let issuer = serde_json::json!({
        "name": "i", "issuer_url": "https://i.test", "keys": KeySource::ExplicitUrl { url: "https://i.test/keys".to_owned() },
    });
    let issuer: Issuer = serde_json::from_value(issuer).unwrap();
    let issuer = state.add_issuer(&by, &issuer).await.unwrap();
    let rule = Rule {
        id: String::new(),
        name: "r".to_owned(),
        issuer_id: issuer.id,
        r#match: Matcher {
            audience: "a".to_owned(),
            subject_prefix: Some("s".to_owned()),
            ..Matcher::default()
        },
        scope: Scope::Manage,
        tunnel_id: None,
        token_lifetime_seconds: 3600,
    };
    let rule = state.add_rule(&by, &rule).await.unwrap();
    let grant = Grant {
        rule: rule.id,
        subject: "s".to_owned(),
        scope: Scope::Manage,
        tunnel: None,
        expires_at: by.now + 3600,
    };
    let minted = state.mint(&by, &grant, None, None).await.unwrap();
    minted.unwrap().expose().to_owned()
}

async fn plane(directory: &tempfile::TempDir) -> (Plane, State) {
    let url = State::file_url(&directory.path().join("edge.db"));
    let settings = Settings {
        edge: "edge.test".to_owned(),
        reveal: true,
    };
    let state = State::open(&url, Seal::new(&[7; 32]).unwrap(), settings)
        .await
        .unwrap();
    let endless = Rate {
        burst: u32::MAX,
        per_minute: u32::MAX,
    };
    let acting = state.clone();
    let plane = Plane::new(PlaneSettings {
        state: state.clone(),
        clock: Arc::new(SystemClock),
        resolver: system_resolver(),
        apply: Arc::new(move || {
            let acting = acting.clone();
            Box::pin(async move {
                let all = u64::MAX >> 1;
                acting.beat("one", all, true).await.unwrap();
            })
        }),
        edge_ca_certificates: Arc::new(Vec::new),
        organization: None,
        rates: Rates {
            requests: endless,
            exchanges: endless,
            rule: endless,
            failures: endless,
            ..Rates::default()
        },
        tasks: Tasks::new(),
    });
    (plane, state)
}
