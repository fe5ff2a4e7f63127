//! What the edge's control plane reads from whoever calls it: assertions, bodies, paths.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use edge::assertion::{decode, system_resolver};
use edge::plane::{Plane, PlaneSettings, Rate, Rates};
use edge::state::{Seal, Settings, State};
use http::Request;
use http_body_util::{BodyExt, Full};
use process::SystemClock;

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
    let plane = runtime.block_on(plane(&directory));
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

async fn plane(directory: &tempfile::TempDir) -> Plane {
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
    Plane::new(PlaneSettings {
        state,
        clock: Arc::new(SystemClock),
        resolver: system_resolver(),
        apply: Arc::new(|| Box::pin(async {})),
        edge_ca_certificates: Arc::new(Vec::new),
        organization: None,
        rates: Rates {
            requests: endless,
            exchanges: endless,
            rule: endless,
            failures: endless,
            ..Rates::default()
        },
    })
}
