//! An edge with a state, alone or one of several on a database, and what operators, proxies and callers of it need.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use demo::stack::Programs;
use process::base64;
use serde_json::{Value, json};
use tokio::process::Command;

use super::postgres;
use super::stand::{EDGE, Program, front, ports};
use crate::rig::credentials::{now, server};
use crate::rig::{Issuer, Upstream};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Which database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sqlite,
    Postgres,
}

/// An edge with an empty state, and what proxies and callers of it need.
pub(super) struct World {
    pub(super) folder: tempfile::TempDir,
    pub(super) address: SocketAddr,
    pub(super) edge: Program,
    pub(super) issuer: Issuer,
    pub(super) upstream: Upstream,
    /// How this state is named on every command line.
    pub(super) state: Vec<String>,
    health: SocketAddr,
    more: String,
}

impl World {
    pub(super) async fn start() -> Self {
        Self::with(Kind::Sqlite, "").await
    }

    /// With further lines for the edge's configuration.
    pub(super) async fn with(kind: Kind, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        front(folder.path());
        let at = folder.path().display();
        let mut state = vec!["--state".to_owned(), format!("{at}/state")];
        if kind == Kind::Postgres {
            let url = postgres::database().await;
            std::fs::write(folder.path().join("url"), url).unwrap();
            state.extend(["--database-url-file".to_owned(), format!("{at}/url")]);
        }
        let (address, health) = ports();
        let edge = serve(folder.path(), "edge", (address, health), &state, more).await;
        let (issuer, upstream) = (Issuer::new(), Upstream::start().await);
        std::fs::write(folder.path().join("tunnel-ca.pem"), issuer.ca_pem()).unwrap();
        Self {
            folder,
            address,
            edge,
            issuer,
            upstream,
            state,
            health,
            more: more.to_owned(),
        }
    }

    /// Another edge on the same database.
    pub(super) async fn another(&self) -> (Program, SocketAddr) {
        let (address, health) = ports();
        let at = (address, health);
        let edge = serve(self.folder.path(), "another", at, &self.state, &self.more).await;
        (edge, address)
    }

    /// Starts the edge anew, on the same address.
    pub(super) async fn restart(&mut self) {
        let at = (self.address, self.health);
        self.edge = serve(self.folder.path(), "edge", at, &self.state, &self.more).await;
    }

    /// The same with these lines in its configuration instead.
    pub(super) async fn restart_with(&mut self, more: &str) {
        let at = (self.address, self.health);
        self.edge = serve(self.folder.path(), "edge", at, &self.state, more).await;
    }

    /// Where the database is.
    pub(super) fn url(&self) -> String {
        std::fs::read_to_string(self.file("url"))
            .unwrap_or_else(|_| format!("sqlite://{}/edge.db", self.file("state")))
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    pub(super) fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.folder.path().join(name), text).unwrap();
        self.file(name)
    }

    /// As an operator on the same machine.
    pub(super) async fn command(&self, words: &[&str]) -> Value {
        let ended = self.run(words).await;
        assert!(
            ended.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&ended.stderr)
        );
        serde_json::from_slice(&ended.stdout).unwrap()
    }

    /// The same, however it ends.
    pub(super) async fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(program());
        command.args(words).args(&self.state);
        command.output().await.unwrap()
    }

    /// A tunnel with its CA, its proxy's certificate and callers from loopback: id and domain.
    pub(super) async fn tunnel(&self) -> (String, String) {
        let tunnel = self.command(&["tunnel", "create", "--name", "test"]).await;
        let id = tunnel["id"].as_str().unwrap().to_owned();
        let domain = tunnel["domain"].as_str().unwrap().to_owned();
        let pair = self.issuer.pair_of(&server(&domain, DAY), now());
        self.write("leaf.crt", &pair.chain_pem());
        self.write("leaf.key", &pair.key_pem());
        let ca = self.file("tunnel-ca.pem");
        self.command(&["certificate", "add", &id, &ca]).await;
        let access = self.write("access.json", r#"{"cidrs":["127.0.0.0/8"]}"#);
        self.command(&["access", "set", &id, &access, "--if-version", "0"])
            .await;
        (id, domain)
    }

    pub(super) async fn proxy(
        &self,
        name: &str,
        tunnel: &(String, String),
        secret: &str,
    ) -> Program {
        self.proxy_at(name, tunnel, secret, &[self.address]).await
    }

    /// One that dials these addresses.
    pub(super) async fn proxy_at(
        &self,
        name: &str,
        tunnel: &(String, String),
        secret: &str,
        addresses: &[SocketAddr],
    ) -> Program {
        let text = self.proxy_config(name, tunnel, secret, addresses);
        self.proxy_with(name, &text).await
    }

    /// What such a proxy is told.
    pub(super) fn proxy_config(
        &self,
        name: &str,
        (id, domain): &(String, String),
        secret: &str,
        addresses: &[SocketAddr],
    ) -> String {
        let (_, health) = ports();
        let addresses: Vec<String> = addresses.iter().map(|a| format!("'{a}'")).collect();
        let secret = self.write(&format!("{name}.secret"), secret);
        let at = self.folder.path().display();
        format!(
            "tunnel_domain: {domain}\nhealth: {{listen_addr: '{health}'}}\n\
             tls: {{cert_file: {at}/leaf.crt, key_file: {at}/leaf.key}}\n\
             carriers:\n  edge:\n    url: https://api.{EDGE}:{port}\n    addresses: [{addresses}]\n\
             \x20   allow_without_client_certificate: true\n    ca_file: {at}/front-ca.pem\n\
             \x20   tunnel: {id}\n    secret_file: {secret}\n    replica: {name}\n\
             upstream: {{allowed_ips: ['127.0.0.0/8']}}\nroutes:\n  up: http://{upstream}\n",
            addresses = addresses.join(", "),
            port = self.address.port(),
            upstream = self.upstream.address,
        )
    }

    /// One that is told this.
    pub(super) async fn proxy_with(&self, name: &str, text: &str) -> Program {
        let mut lines = text.lines();
        let health = lines.find_map(|line| line.strip_prefix("health: {listen_addr: '"));
        let health = health.and_then(|rest| rest.strip_suffix("'}")).unwrap();
        let config = self.write(&format!("{name}.yaml"), text);
        let log = self.folder.path().join(format!("{name}.log"));
        let proxy = Programs::beside().unwrap().proxy;
        Program::start(&proxy, &["--config", &config], health.parse().unwrap(), log).await
    }

    /// Status and body of what curl gets.
    pub(super) async fn curl(
        &self,
        host: &str,
        path: &str,
        ca: &str,
        more: &[&str],
    ) -> (u16, String) {
        self.curl_at(self.address, host, path, ca, more).await
    }

    /// The same at another edge.
    pub(super) async fn curl_at(
        &self,
        address: SocketAddr,
        host: &str,
        path: &str,
        ca: &str,
        more: &[&str],
    ) -> (u16, String) {
        let ended = Command::new("curl")
            .args([
                "-sS",
                "--max-time",
                "20",
                "-w",
                "\n%{http_code}",
                "--cacert",
                &self.file(ca),
            ])
            .args(["--connect-to", &format!("{host}:443:{address}")])
            .args(more)
            .arg(format!("https://{host}{path}"))
            .output()
            .await
            .unwrap();
        let text = String::from_utf8(ended.stdout).unwrap();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or_default(), body.to_owned())
    }

    pub(super) async fn api(&self, path: &str, more: &[&str]) -> (u16, Value) {
        self.api_at(self.address, path, more).await
    }

    pub(super) async fn api_at(
        &self,
        address: SocketAddr,
        path: &str,
        more: &[&str],
    ) -> (u16, Value) {
        let (host, ca) = (format!("api.{EDGE}"), "front-ca.pem");
        let (status, body) = self.curl_at(address, &host, path, ca, more).await;
        (status, serde_json::from_str(&body).unwrap_or_default())
    }

    /// Believes an issuer whose key set is `jwks`, with a rule for `audience` and `subject`: the rule's id.
    pub(super) async fn believe(&self, name: &str, url: &str, jwks: &Value) -> String {
        let file = self.write(&format!("{name}.jwks"), &jwks.to_string());
        let words = ["issuer", "add", "--name", name, "--url", url, "--jwks-file"];
        let issuer = self.command(&[&words[..], &[&file]].concat()).await;
        issuer["id"].as_str().unwrap().to_owned()
    }

    /// A rule of an issuer: its id.
    pub(super) async fn rule(&self, name: &str, issuer: &str, more: &[&str]) -> String {
        let words = ["rule", "add", "--name", name, "--issuer", issuer];
        let rule = self.command(&[&words[..], more].concat()).await;
        rule["id"].as_str().unwrap().to_owned()
    }

    /// What the token exchange of the edge at `address` answers.
    pub(super) async fn exchange_at(
        &self,
        address: SocketAddr,
        rule: &str,
        assertion: &str,
    ) -> (u16, Value) {
        let body = json!({
            "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "assertion": assertion,
            "federation_rule_id": rule,
        });
        let body = body.to_string();
        let words = ["-H", "content-type: application/json", "-d", &body];
        self.api_at(address, "/v1/oauth/token", &words).await
    }

    /// An access token that may do everything, bought with a key of the test's own.
    pub(super) async fn operator(&self) -> String {
        let signer = Signer::new();
        let issuer = self.believe("operator", URL, &signer.jwks()).await;
        let words = ["--audience", "edge", "--subject", "operator"];
        let rule = self.rule("operator", &issuer, &words).await;
        let claims = json!({"iss": URL, "aud": "edge", "sub": "operator"});
        let (status, bought) = self
            .exchange_at(self.address, &rule, &signer.sign(&claims))
            .await;
        assert_eq!(status, 200, "{bought}");
        bought["access_token"].as_str().unwrap().to_owned()
    }

    /// The newest audit row.
    pub(super) async fn newest_row(&self) -> Value {
        let rows = self.command(&["audit", "--limit", "1"]).await;
        rows["data"][0].clone()
    }

    pub(super) async fn call(&self, domain: &str) -> u16 {
        self.curl(&format!("up.{domain}"), "/call", "tunnel-ca.pem", &[])
            .await
            .0
    }
}

/// `iss` of the test's own issuer.
pub(super) const URL: &str = "https://issuer.test";

/// An issuer that signs whatever it is told to.
pub(super) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(super) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(super) fn jwks(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig",
                         "x": base64::encode_url(x), "y": base64::encode_url(y)}]})
    }

    /// A token with these claims, of now and for ten minutes unless they say otherwise.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let at = now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut all = json!({"iat": at, "exp": at + 600});
        let more = claims.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(more);
        let header = json!({"alg": "ES256", "kid": "k", "typ": "JWT"});
        self.signed(&header, &all)
    }

    /// A trust bundle with this payload.
    pub(super) fn bundle(&self, payload: &Value) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "crv": "P-256",
                         "x": base64::encode_url(x), "y": base64::encode_url(y)});
        let header = json!({"alg": "ES256", "typ": "keyward-bundle+jwt", "jwk": jwk});
        self.signed(&header, payload)
    }

    fn signed(&self, header: &Value, payload: &Value) -> String {
        let [header, payload] =
            [header, payload].map(|part| base64::encode_url(part.to_string().as_bytes()));
        let signed = format!("{header}.{payload}");
        let signature = self
            .0
            .sign(&SystemRandom::new(), signed.as_bytes())
            .unwrap();
        format!("{signed}.{}", base64::encode_url(signature.as_ref()))
    }
}

async fn serve(
    folder: &std::path::Path,
    name: &str,
    (address, health): (SocketAddr, SocketAddr),
    state: &[String],
    more: &str,
) -> Program {
    let at = folder.display();
    let config = format!(
        "listen_addr: '{address}'\nname: {EDGE}\nhealth: {{listen_addr: '{health}'}}\n\
         certificate: {{cert_file: {at}/front.crt, key_file: {at}/front.key, ca_files: [{at}/front-ca.pem]}}\n{more}"
    );
    let file = folder.join(format!("{name}.yaml"));
    std::fs::write(&file, config).unwrap();
    let mut words = vec!["serve", "--config", file.to_str().unwrap()];
    words.extend(state.iter().map(String::as_str));
    Program::start(
        &program(),
        &words,
        health,
        folder.join(format!("{name}.log")),
    )
    .await
}

pub(super) fn program() -> PathBuf {
    Programs::beside()
        .unwrap()
        .proxy
        .with_file_name("keyward-edge")
}

pub(super) fn sha256(value: &str) -> String {
    pki::Fingerprint::of(value.as_bytes()).to_string()
}
