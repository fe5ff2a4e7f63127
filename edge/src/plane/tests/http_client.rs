//! A server with the control plane, and a caller of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use process::Tasks;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

use crate::assertion::system_resolver;
use crate::plane::{Apply, Plane, PlaneSettings, Rates};
use crate::state::{Audited, Issuer, Rule};
use crate::tests::issuer::{Signer, claims_at, issuer, rule};
use crate::tests::stage::Stage;

/// The control plane behind a port.
pub(super) struct Served {
    pub(super) stage: Stage,
    pub(super) address: SocketAddr,
    pub(super) signer: Signer,
    pub(super) issuer: Issuer,
    pub(super) rule: Rule,
    /// An access token that was bought by the rule.
    pub(super) token: String,
    plane: Plane,
    tasks: Tasks,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn message(&self) -> &str {
        self.body["error"]["message"].as_str().unwrap_or_default()
    }

    pub(super) fn kind(&self) -> &str {
        self.body["error"]["type"].as_str().unwrap_or_default()
    }
}

impl Served {
    /// The newest row of the audit log.
    pub(super) async fn last_row(&self) -> Audited {
        let rows = self.stage.state.audit(u64::MAX, 1).await;
        rows.unwrap().remove(0)
    }

    pub(super) async fn new(stage: Stage) -> Self {
        Self::with_rates(stage, Rates::default()).await
    }

    pub(super) async fn with_rates(stage: Stage, rates: Rates) -> Self {
        let signer = Signer::p256();
        let by = stage.by();
        let issuer = issuer(vec![signer.jwk("k")]);
        let issuer = stage.state.add_issuer(&by, &issuer).await.unwrap();
        let rule = stage.state.add_rule(&by, &rule(&issuer.id)).await.unwrap();
        let plane = Plane::new(PlaneSettings {
            state: stage.state.clone(),
            clock: stage.clock.clone(),
            resolver: system_resolver(),
            apply: acting(&stage),
            edge_ca_certificates: Arc::new(|| vec!["PEM".to_owned()]),
            organization: Some("0d9e9b52-8f0e-4c6e-9a55-7f4b6e1c2a10".to_owned()),
            rates,
            tasks: Tasks::new(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut served = Self {
            address: listener.local_addr().unwrap(),
            stage,
            signer,
            issuer,
            rule,
            token: String::new(),
            plane: plane.clone(),
            tasks: Tasks::new(),
        };
        served
            .tasks
            .spawn(serve(listener, plane, served.tasks.clone()));
        let bought = served.buy(&served.assertion("first")).await;
        assert_eq!(bought.status, 200, "{}", bought.body);
        served.token = bought.body["access_token"].as_str().unwrap().to_owned();
        served
    }

    pub(super) fn assertion(&self, jti: &str) -> String {
        let mut claims = claims_at(self.stage.clock.seconds());
        claims["jti"] = jti.into();
        self.signer.sign("k", &claims)
    }

    pub(super) async fn buy(&self, assertion: &str) -> Answer {
        let body = self.exchange(assertion);
        self.send(Method::POST, "/v1/oauth/token", &[], &body).await
    }

    /// As if it came from this address.
    pub(super) async fn buy_from(&self, source: [u8; 4], assertion: &str) -> StatusCode {
        let request = Request::post("/v1/oauth/token")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(self.exchange(assertion))))
            .unwrap();
        let peer = SocketAddr::from((source, 5000));
        self.plane.answer(request, peer).await.status()
    }

    pub(super) fn exchange(&self, assertion: &str) -> String {
        let body = serde_json::json!({
            "grant_type": api::grant::JWT_BEARER,
            "assertion": assertion,
            "federation_rule_id": self.rule.id,
            "organization_id": "0d9e9b52-8f0e-4c6e-9a55-7f4b6e1c2a10",
        });
        body.to_string()
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &[], &body.to_string()).await
    }

    /// With the access token.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![
            ("authorization", bearer.as_str()),
            ("anthropic-version", "2023-06-01"),
        ];
        all.extend_from_slice(headers);
        self.send(method, path, &all, body).await
    }

    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "api.edge.test");
        if !headers.iter().any(|(name, _)| *name == "content-type") && !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            body: serde_json::from_slice(&body).unwrap(),
        }
    }
}

/// As an edge that has acted on whatever comes.
fn acting(stage: &Stage) -> Apply {
    let known = stage.state.clone();
    Arc::new(move || {
        let known = known.clone();
        Box::pin(async move {
            let all = u64::MAX >> 1;
            known.beat("one", all, true).await.unwrap();
        })
    })
}

async fn serve(listener: TcpListener, plane: Plane, tasks: Tasks) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = tasks.stopping() => return,
        };
        let (stream, peer) = accepted.unwrap();
        let plane = plane.clone();
        let service = service_fn(move |request| {
            let plane = plane.clone();
            async move { Ok::<_, Infallible>(plane.answer(request, peer).await) }
        });
        tasks.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
