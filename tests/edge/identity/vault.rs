//! An identity token of a real Vault buys access, by each login.

use std::net::TcpListener;
use std::process::Stdio;

use process::base64;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::super::federation::AUDIENCE;
use super::{Case, assert_silent};
use crate::cli::stage::Ended;
use crate::rig::until;

/// What the server takes for an operator, on loopback and for a minute.
const ROOT: &str = "root-of-a-test";
/// `SubjectPublicKeyInfo` of a key on P-256, up to its point (RFC 5480).
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];

/// A Vault on loopback with TLS of its own making. Dropped, it ends.
struct Server {
    url: String,
    folder: tempfile::TempDir,
    _process: Child,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = held.local_addr().unwrap();
        drop(held);
        let process = Command::new(harness::tool("vault"))
            .args(["server", "-dev-tls", "-dev-no-store-token"])
            .arg(format!("-dev-tls-cert-dir={}", at.display()))
            .arg(format!("-dev-listen-address={address}"))
            .arg(format!("-dev-root-token-id={ROOT}"))
            .env_clear()
            .env("HOME", at)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(at.join("log")).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let this = Self {
            url: format!("https://{address}"),
            folder,
            _process: process,
        };
        until("Vault", async || {
            let (status, _) = this.ask("GET", "sys/health", &json!({})).await;
            (status == 200).then_some(())
        })
        .await;
        this
    }

    fn authority(&self) -> String {
        self.folder
            .path()
            .join("vault-ca.pem")
            .display()
            .to_string()
    }

    /// As its operator: status and answer.
    async fn ask(&self, verb: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut command = Command::new("curl");
        command
            .args([
                "-sS",
                "--max-time",
                "20",
                "-w",
                "\n%{http_code}",
                "-X",
                verb,
            ])
            .args(["--cacert", &self.authority()])
            .args(["-H", &format!("x-vault-token: {ROOT}")]);
        if verb == "POST" {
            command.args(["-d", &body.to_string()]);
        }
        let ended = command
            .arg(format!("{}/v1/{path}", self.url))
            .output()
            .await;
        let text = String::from_utf8(ended.unwrap().stdout).unwrap();
        let (answer, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        let answer = serde_json::from_str(answer).unwrap_or_default();
        (status.parse().unwrap_or_default(), answer)
    }

    async fn write(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask("POST", path, body).await;
        assert!(matches!(status, 200 | 204), "{path}: {status} {answer}");
        answer
    }

    async fn read(&self, path: &str) -> Value {
        self.ask("GET", path, &json!({})).await.1
    }

    /// A role for identity tokens, and two ways to log in of which each may read them.
    async fn prepare(&self, case: &Case) {
        self.write(
            "identity/oidc/config",
            &json!({"issuer": "https://vault.test"}),
        )
        .await;
        let key = json!({"algorithm": "ES256", "allowed_client_ids": "*"});
        self.write("identity/oidc/key/keyward", &key).await;
        let role = json!({"key": "keyward", "ttl": "10m", "client_id": AUDIENCE});
        self.write("identity/oidc/role/keyward", &role).await;
        let policy = "path \"identity/oidc/token/keyward\" { capabilities = [\"read\"] }";
        self.write("sys/policies/acl/identity", &json!({"policy": policy}))
            .await;
        self.write("sys/auth/approle", &json!({"type": "approle"}))
            .await;
        for (name, policy) in [("keyward", "identity"), ("nobody", "default")] {
            let path = format!("auth/approle/role/{name}");
            self.write(&path, &json!({"token_policies": policy})).await;
        }
        // The method kubernetes is not in this build; jwt takes the very same login.
        self.write("sys/auth/kubernetes", &json!({"type": "jwt"}))
            .await;
        let key = &case.signer.jwks()["keys"][0];
        let part = |name: &str| base64::decode_url(key[name].as_str().unwrap()).unwrap();
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        base64::encode(&[&P256[..], &part("x"), &part("y")].concat(), &mut pem);
        pem.push_str("\n-----END PUBLIC KEY-----\n");
        self.write(
            "auth/kubernetes/config",
            &json!({"jwt_validation_pubkeys": [pem]}),
        )
        .await;
        let role = json!({"role_type": "jwt", "bound_audiences": ["vault"], "user_claim": "sub",
                          "token_policies": "identity"});
        self.write("auth/kubernetes/role/keyward", &role).await;
    }

    /// Id and secret of a role of `approle`.
    async fn approle(&self, role: &str) -> (String, String) {
        let path = format!("auth/approle/role/{role}");
        let id = self.read(&format!("{path}/role-id")).await;
        let secret = self.write(&format!("{path}/secret-id"), &json!({})).await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            text(&id["data"]["role_id"]),
            text(&secret["data"]["secret_id"]),
        )
    }

    /// How many logins have not ended.
    async fn logins(&self) -> usize {
        let listed = self.read("auth/token/accessors?list=true").await;
        listed["data"]["keys"].as_array().unwrap().len()
    }
}

#[tokio::test]
async fn an_identity_token_of_vault_buys_access_by_each_login_and_no_login_is_left() {
    let (case, vault) = tokio::join!(Case::start(), Server::start());
    vault.prepare(&case).await;
    let jwks = vault.read("identity/oidc/.well-known/keys").await;
    let url = "https://vault.test/v1/identity/oidc";
    let issuer = case.world.believe("vault", url, &jwks).await;
    let (id, secret) = vault.approle("keyward").await;
    let file = |name: &str, text: &str| case.world.write(name, text);
    let secret_file = file("secret-id", &format!("{secret}\n"));
    let account = case.token(&json!({"aud": "vault", "sub": "system:serviceaccount:n:s"}));
    let account_file = file("account-token", &account);
    let login = json!({"role_id": id, "secret_id": secret});
    let login = vault.write("auth/approle/login", &login).await;
    let token_file = file(
        "agent-token",
        login["auth"]["client_token"].as_str().unwrap(),
    );
    let before = vault.logins().await;
    let approle = format!("approle: {{role_id: '{id}', secret_id_file: '{secret_file}'}}");
    for (name, auth) in [
        ("approle", approle),
        (
            "kubernetes",
            format!("kubernetes: {{role: keyward, token_file: '{account_file}'}}"),
        ),
        ("token", format!("token_file: '{token_file}'")),
    ] {
        let entity = |ended: &Ended| ended.json()["claims"]["sub"].as_str().unwrap().to_owned();
        let source = source(&vault, "keyward", &auth);
        let looked = case
            .doctor(&case.configure(&case.rule, &source, ""), &["--json"])
            .await;
        assert_eq!(looked.code, Some(0), "{name}: {looked:?}");
        let entity = entity(&looked);
        let words = ["--audience", AUDIENCE, "--subject", &entity];
        let rule = case.world.rule(name, &issuer, &words).await;
        let config = case.configure(&rule, &source, "");
        let ended = case.doctor(&config, &["--exchange", "--json"]).await;
        assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
        assert_eq!(ended.json()["claims"]["iss"], url);
        let row = case.world.newest_row().await;
        assert_eq!(row["actor"], format!("rule:{rule}:{entity}"));
        assert_silent(&ended, &account);
        assert!(!format!("{ended:?}").contains(&secret), "{ended:?}");
    }
    assert_eq!(vault.logins().await, before, "each login was ended");
}

#[tokio::test]
async fn each_usual_fault_of_vault_is_told_with_the_next_thing_to_do() {
    let (case, vault) = tokio::join!(Case::start(), Server::start());
    vault.prepare(&case).await;
    let (id, secret) = vault.approle("keyward").await;
    let (other, others) = vault.approle("nobody").await;
    let file = |name: &str, text: &str| case.world.write(name, text);
    let login = |id: &str, name: &str, secret: &str, more: &str| {
        let secret = file(name, secret);
        format!("approle: {{role_id: '{id}', secret_id_file: '{secret}'{more}}}")
    };
    let root = format!("token_file: '{}'", file("root", ROOT));
    let over = format!("token_file: '{}'", file("over", "hvs.nobody"));
    let good = login(&id, "good", &secret, "");
    for (role, auth, code, next) in [
        (
            "keyward",
            login(&id, "wrong", "x", ""),
            78,
            "the login's role, id and secret",
        ),
        (
            "keyward",
            login(&other, "others", &others, ""),
            77,
            "its policy allows read",
        ),
        ("keyward", over, 77, "vault token lookup"),
        ("keyward", root, 78, "a root token has none"),
        ("nobody", good.clone(), 77, "its policy allows read"),
    ] {
        let config = case.configure(&case.rule, &source(&vault, role, &auth), "");
        let ended = case.doctor(&config, &[]).await;
        assert_eq!(ended.code, Some(code), "{next}: {ended:?}");
        assert!(ended.stderr.contains(next), "{next}: {ended:?}");
        assert!(!format!("{ended:?}").contains(&secret), "{ended:?}");
    }
    // Nobody but the named CA vouches for it.
    let config = case.configure(&case.rule, &source(&vault, "keyward", &good), "");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace(&vault.authority(), &case.world.file("front-ca.pem"));
    std::fs::write(&config, text).unwrap();
    let ended = case.doctor(&config, &[]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    vault.write("sys/seal", &json!({})).await;
    let config = case.configure(&case.rule, &source(&vault, "keyward", &good), "");
    let ended = case.doctor(&config, &[]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(ended.stderr.contains("unseal it"), "{ended:?}");
}

fn source(vault: &Server, role: &str, auth: &str) -> String {
    format!(
        "{{vault: {{address: '{}', ca_file: '{}', role: {role}, auth: {{{auth}}}}}}}",
        vault.url,
        vault.authority()
    )
}
