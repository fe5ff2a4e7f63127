//! What an edge's operator does, and a client of its Tunnels API: an issuer with one key, a rule that believes it, and an
//! access token that is bought with an assertion as any workload buys one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use process::{Clock as _, Failure, SystemClock, Tasks, base64};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::caller::{HERE, dial, trusting};
use crate::machine::output;
use crate::ours::shipped;
use crate::peers::{Workshop, text};
use crate::tunnel::{EDGE, certificate};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "https://api.edge.example";

/// Somebody who may work on the state.
pub(crate) struct Operator {
    program: PathBuf,
    words: Vec<String>,
}

impl Operator {
    /// `words` say where the state is.
    pub(crate) fn new(words: &[&str]) -> Result<Self, Failure> {
        Ok(Self {
            program: shipped("keyward-edge")?,
            words: words.iter().map(|&word| word.to_owned()).collect(),
        })
    }

    /// Runs a command and gives the object that it printed.
    pub(crate) async fn command(&self, words: &[&str]) -> Result<Value, Failure> {
        let state = self.words.iter().map(String::as_str);
        let command: Vec<&str> = [text(&self.program)]
            .into_iter()
            .chain(words.iter().copied())
            .chain(state)
            .collect();
        read(output(&command).await?.as_bytes())
    }
}

/// A client of the Tunnels API with an access token. Clones share it.
#[derive(Clone)]
pub(crate) struct Api {
    edge: SocketAddr,
    trust: Arc<ClientConfig>,
    token: String,
    tasks: Tasks,
}

/// An answer, and when it was asked for and had come.
pub(crate) struct Answered {
    /// The object.
    pub object: Value,
    /// The moment before the request was sent.
    pub asked: Instant,
}

impl Api {
    /// Makes an issuer and a rule, and buys access to `edge`.
    pub(crate) async fn enter(
        shop: &Workshop,
        operator: &Operator,
        edge: SocketAddr,
        tasks: &Tasks,
    ) -> Result<Self, Failure> {
        let failed = |_| Failure::internal("no key for the issuer");
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(failed)?;
        let keys = shop.write("jwks.json", &json!({"keys": [jwk(&key)]}).to_string())?;
        let add = [
            "issuer",
            "add",
            "--name",
            "bench",
            "--url",
            ISSUER,
            "--jwks-file",
            text(&keys),
        ];
        let issuer = member(&operator.command(&add).await?, "id")?;
        let rule = [
            "rule",
            "add",
            "--name",
            "bench",
            "--issuer",
            &issuer,
            "--audience",
            AUDIENCE,
        ];
        let rule = member(
            &operator
                .command(&[&rule[..], &["--subject", "bench"]].concat())
                .await?,
            "id",
        )?;
        let mut api = Self {
            edge,
            trust: trusting(&shop.path("front-ca.pem"))?,
            token: String::new(),
            tasks: tasks.clone(),
        };
        let since = SystemClock.wall().duration_since(UNIX_EPOCH);
        let body = json!({
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": assertion(&key, since.unwrap_or_default().as_secs())?,
            "federation_rule_id": rule,
        });
        let bought = api
            .call(Method::POST, "/v1/oauth/token", Some(&body))
            .await?;
        api.token = member(&bought.object, "access_token")?;
        Ok(api)
    }

    /// One request on a connection of its own, which is there before it is sent.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answered, Failure> {
        let failed = |error: &dyn std::error::Error| {
            Failure::internal(format!("{path} was not answered")).caused_by(error)
        };
        let host = format!("api.{EDGE}");
        let name = ServerName::try_from(host.clone()).map_err(|error| failed(&error))?;
        let socket = dial(self.edge, HERE)
            .await
            .map_err(|error| failed(&error))?;
        let connector = TlsConnector::from(Arc::clone(&self.trust));
        let stream = connector
            .connect(name, socket)
            .await
            .map_err(|error| failed(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(&error))?;
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        let bytes = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONTENT_TYPE, "application/json");
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        let request = request
            .body(Full::new(bytes))
            .map_err(|error| failed(&error))?;
        let asked = Instant::now();
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| failed(&error))?;
        let status = answer.status();
        let said = answer
            .into_body()
            .collect()
            .await
            .map_err(|error| failed(&error))?;
        let said = said.to_bytes();
        if status.is_success() {
            let object = read(&said)?;
            return Ok(Answered { object, asked });
        }
        let text = format!("{status}: {}", String::from_utf8_lossy(&said));
        Err(Failure::internal(format!("{path} was refused")).cause(text))
    }

    /// Makes a tunnel with a CA and callers from loopback: its id and its domain. Its certificate goes into `leaf.crt`.
    pub(crate) async fn tunnel(
        &self,
        shop: &Workshop,
        operator: &Operator,
    ) -> Result<(String, String), Failure> {
        let made = self
            .post("/v1/tunnels", &json!({"display_name": "bench"}))
            .await?;
        let (id, domain) = (member(&made.object, "id")?, member(&made.object, "domain")?);
        certificate(shop, "leaf", &domain)?;
        let ca = shop.path("leaf-ca.pem");
        operator
            .command(&["certificate", "add", &id, text(&ca)])
            .await?;
        let access = shop.write("access.json", r#"{"cidrs":["127.0.0.0/8"]}"#)?;
        operator
            .command(&["access", "set", &id, text(&access), "--if-version", "0"])
            .await?;
        Ok((id, domain))
    }

    /// A POST with what it answers.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answered, Failure> {
        self.call(Method::POST, path, Some(body)).await
    }
}

/// A member that is text.
pub(crate) fn member(object: &Value, name: &str) -> Result<String, Failure> {
    let text = object.get(name).and_then(Value::as_str);
    let missing = || Failure::internal(format!("no {name}")).cause(object.to_string());
    text.map(str::to_owned).ok_or_else(missing)
}

fn read(text: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(text).map_err(|error| Failure::internal("no object").caused_by(&error))
}

fn jwk(key: &EcdsaKeyPair) -> Value {
    // An uncompressed point (SEC 1 section 2.3.3): a byte, then both coordinates.
    let point = key.public_key().as_ref().get(1..).unwrap_or_default();
    let (x, y) = point.split_at(point.len() / 2);
    json!({"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": base64::encode_url(x), "y": base64::encode_url(y)})
}

fn assertion(key: &EcdsaKeyPair, now: u64) -> Result<String, Failure> {
    let part = |value: Value| base64::encode_url(value.to_string().as_bytes());
    let header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "bench", "jti": "once", "iat": now, "nbf": now, "exp": now + 600,
    });
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes());
    let signature = signature.map_err(|_| Failure::internal("no signature"))?;
    Ok(format!(
        "{signed}.{}",
        base64::encode_url(signature.as_ref())
    ))
}
