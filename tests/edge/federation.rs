//! Tokens of real issuers buy access at a real edge: a Kubernetes API server's own, and ones with all the claims that
//! those of GitHub and SPIRE carry.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::world::{Signer, World};
use crate::rig::until;

/// What the API server takes for an administrator, on loopback and for a minute.
pub(super) const ADMINISTRATOR: &str = "administrator-of-a-test";
/// What the workload asks its token for.
pub(super) const AUDIENCE: &str = "keyward-edge";

/// A Kubernetes API server with its etcd. Dropped, both end.
pub(super) struct Cluster {
    pub(super) url: String,
    folder: tempfile::TempDir,
    _processes: [Child; 2],
}

impl Cluster {
    #[expect(clippy::too_many_lines, reason = "one stage, set up in one place")]
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let [kept, peer, secure] = ports();
        let etcd = format!("http://{kept}");
        let keeper = child(Path::new("etcd"))
            .args(["--data-dir", at.join("etcd").to_str().unwrap()])
            .args([
                "--listen-client-urls",
                &etcd,
                "--advertise-client-urls",
                &etcd,
            ])
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .stderr(std::fs::File::create(at.join("etcd.log")).unwrap())
            .spawn()
            .unwrap();
        let url = format!("https://{secure}");
        let key = at.join("sa.key");
        let words = [
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
        ];
        let made = Command::new("openssl").args(words).arg(&key).output().await;
        assert!(made.unwrap().status.success());
        let tokens = at.join("tokens.csv");
        std::fs::write(
            &tokens,
            format!("{ADMINISTRATOR},administrator,1,system:masters\n"),
        )
        .unwrap();
        let named = |name: &str, value: &dyn std::fmt::Display| format!("--{name}={value}");
        let server = child(&harness::tool("kube-apiserver"))
            .arg(named("etcd-servers", &etcd))
            .arg(named("bind-address", &secure.ip()))
            .arg(named("secure-port", &secure.port()))
            .arg(named("cert-dir", &at.display()))
            .arg(named("service-cluster-ip-range", &"10.96.0.0/24"))
            .arg(named("service-account-issuer", &url))
            .arg(named(
                "service-account-jwks-uri",
                &format!("{url}/openid/v1/jwks"),
            ))
            .arg(named("service-account-key-file", &key.display()))
            .arg(named("service-account-signing-key-file", &key.display()))
            .arg(named("api-audiences", &url))
            .arg(named("token-auth-file", &tokens.display()))
            .arg(named("authorization-mode", &"RBAC"))
            .stderr(std::fs::File::create(at.join("server.log")).unwrap())
            .spawn()
            .unwrap();
        let this = Self {
            url,
            folder,
            _processes: [keeper, server],
        };
        until("the Kubernetes API server", async || {
            (this.ask("/readyz", None).await.0 == 200).then_some(())
        })
        .await;
        this.authority();
        this
    }

    /// The CA of its HTTPS, which it made itself and put behind its certificate.
    pub(super) fn authority(&self) -> String {
        let chain = std::fs::read_to_string(self.folder.path().join("apiserver.crt")).unwrap();
        let last = chain.rfind("-----BEGIN CERTIFICATE-----").unwrap();
        let file = self.folder.path().join("ca.pem");
        std::fs::write(&file, &chain[last..]).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// As its administrator: status and answer.
    pub(super) async fn ask(&self, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut command = Command::new("curl");
        command
            .args(["-sSk", "--max-time", "20", "-w", "\n%{http_code}"])
            .args(["-H", &format!("authorization: Bearer {ADMINISTRATOR}")])
            .args(["-H", "content-type: application/json"]);
        if let Some(body) = body {
            command.args(["-d", &body.to_string()]);
        }
        let ended = command.arg(format!("{}{path}", self.url)).output().await;
        let text = String::from_utf8(ended.unwrap().stdout).unwrap();
        let (answer, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        let answer = serde_json::from_str(answer).unwrap_or_default();
        (status.parse().unwrap_or_default(), answer)
    }

    pub(super) async fn make(&self, path: &str, object: &Value) {
        // Namespaces come into being a moment after the server is ready.
        until("a new object", async || {
            (self.ask(path, Some(object)).await.0 == 201).then_some(())
        })
        .await;
    }

    /// What a workload gets by `TokenRequest`.
    async fn token(&self, account: &str, audience: &str) -> String {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
                           "spec": {"audiences": [audience], "expirationSeconds": 600}});
        let (status, answer) = self.ask(&path, Some(&asked)).await;
        assert_eq!(status, 201, "{answer}");
        answer["status"]["token"].as_str().unwrap().to_owned()
    }
}

fn child(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Three that are free.
fn ports() -> [SocketAddr; 3] {
    let bound = [(); 3].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    bound.map(|listener| listener.local_addr().unwrap())
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn tokens_of_a_kubernetes_api_server_buy_access_by_its_keys_and_by_its_discovery() {
    let (world, cluster) = tokio::join!(World::start(), Cluster::start());
    for account in ["workload", "other"] {
        let object =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        cluster
            .make("/api/v1/namespaces/default/serviceaccounts", &object)
            .await;
    }
    // As clusters do whose tokens are for others, too: everybody may read the issuer's keys.
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": "discovery"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                    "name": "system:service-account-issuer-discovery"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io",
                      "name": "system:unauthenticated"}]});
    cluster
        .make(
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            &binding,
        )
        .await;
    let (_, jwks) = cluster.ask("/openid/v1/jwks", None).await;
    let inline = world.believe("inline", &cluster.url, &jwks).await;
    let authority = cluster.authority();
    let words = [
        "issuer",
        "add",
        "--name",
        "discovered",
        "--url",
        &cluster.url,
    ];
    let trust = ["--ca-file", &authority, "--allow-network", "127.0.0.0/8"];
    let discovered = world.command(&[&words[..], &trust].concat()).await;
    let discovered = discovered["id"].as_str().unwrap();

    let subject = "system:serviceaccount:default:workload";
    for (name, issuer) in [("inline", inline.as_str()), ("discovered", discovered)] {
        let words = ["--audience", AUDIENCE, "--subject", subject];
        let rule = world.rule(name, issuer, &words).await;
        let exchange = async |token: &str| world.exchange_at(world.address, &rule, token).await;
        let token = cluster.token("workload", AUDIENCE).await;
        let (status, bought) = exchange(&token).await;
        assert_eq!(status, 200, "{name}: {:?}", world.newest_row().await);
        let access = bought["access_token"].as_str().unwrap();
        let bearer = format!("authorization: Bearer {access}");
        let (status, _) = world.api("/v1/tunnels", &["-H", &bearer]).await;
        assert_eq!(status, 200);
        let row = world.newest_row().await;
        assert_eq!(row["actor"], format!("rule:{rule}:{subject}"));
        for (token, reason) in [
            (token, "jti_reused"),
            (
                cluster.token("other", AUDIENCE).await,
                "match_subject_prefix: sub is",
            ),
            (
                cluster.token("workload", "another").await,
                "aud is \"another\"",
            ),
        ] {
            let (status, _) = exchange(&token).await;
            assert_eq!(status, 401, "{name}");
            let row = world.newest_row().await;
            assert!(row["reason"].as_str().unwrap().starts_with(reason), "{row}");
            // The same words by the operator's own command.
            let file = world.write("token", &token);
            let said = world.command(&["explain", &file, "--rule", &rule]).await;
            assert!(
                said["reasons"][0].as_str().unwrap().starts_with(reason),
                "{said}"
            );
        }
    }
}

/// What `token.actions.githubusercontent.com` says of a job, claim by claim.
fn github(subject: &str, event: &str) -> Value {
    json!({
        "jti": format!("{subject} {event}"), "sub": subject, "aud": "https://api.edge.example",
        "ref": "refs/heads/main", "sha": "5f5b8cdb01d7a3a1a6ba6f3c1aa5a8f7d10e2e5c", "repository": "acme/infra",
        "repository_owner": "acme", "repository_owner_id": "65", "run_id": "642", "run_number": "10",
        "run_attempt": "2", "repository_visibility": "private", "repository_id": "74", "actor_id": "12",
        "actor": "octocat", "workflow": "deploy", "head_ref": "", "base_ref": "", "event_name": event,
        "ref_protected": "true", "ref_type": "branch", "environment": "production",
        "workflow_ref": "acme/infra/.github/workflows/deploy.yml@refs/heads/main",
        "workflow_sha": "5f5b8cdb01d7a3a1a6ba6f3c1aa5a8f7d10e2e5c",
        "job_workflow_ref": "acme/infra/.github/workflows/deploy.yml@refs/heads/main",
        "job_workflow_sha": "5f5b8cdb01d7a3a1a6ba6f3c1aa5a8f7d10e2e5c", "runner_environment": "github-hosted",
        "iss": "https://token.actions.githubusercontent.com",
    })
}

#[tokio::test]
async fn a_job_on_github_buys_access_and_a_fork_or_another_event_does_not() {
    let world = World::start().await;
    let signer = Signer::new();
    let url = "https://token.actions.githubusercontent.com";
    let issuer = world.believe("github", url, &signer.jwks()).await;
    // It signs for everybody in the world.
    for subject in ["repo:acme*", "repo:*"] {
        let words = ["rule", "add", "--name", "wide", "--issuer", &issuer];
        let more = [
            "--audience",
            "https://api.edge.example",
            "--subject",
            subject,
        ];
        let ended = world.run(&[&words[..], &more].concat()).await;
        assert_eq!(ended.status.code(), Some(64), "{subject}");
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(said.contains("signs for everybody"), "{said}");
    }
    let words = [
        "--audience",
        "https://api.edge.example",
        "--subject",
        "repo:acme/infra:*",
        "--claim",
        "event_name=push",
        "--claim",
        "repository_owner_id=65",
    ];
    let rule = world.rule("github", &issuer, &words).await;
    let environment = "repo:acme/infra:environment:production";
    for (subject, event, reason) in [
        (environment, "push", None),
        ("repo:acme/infra:ref:refs/heads/main", "push", None),
        (
            "repo:acme/infra:pull_request",
            "pull_request",
            Some("match_claims: event_name"),
        ),
        (
            "repo:acme/infrastructure:ref:refs/heads/main",
            "push",
            Some("match_subject_prefix"),
        ),
        (
            "repo:ACME/infra:ref:refs/heads/main",
            "push",
            Some("match_subject_prefix"),
        ),
    ] {
        let token = signer.sign(&github(subject, event));
        let (status, _) = world.exchange_at(world.address, &rule, &token).await;
        assert_eq!(status == 200, reason.is_none(), "{subject}");
        if let Some(reason) = reason {
            let row = world.newest_row().await;
            assert!(row["reason"].as_str().unwrap().starts_with(reason), "{row}");
        }
    }
}

#[tokio::test]
async fn a_jwt_svid_buys_access_though_its_audience_is_a_list_and_it_has_no_jti() {
    let world = World::start().await;
    let signer = Signer::new();
    // SPIRE: jwt_issuer set, so that iss is there; a cached SVID is presented many times.
    let url = "https://oidc.prod.example";
    let issuer = world.believe("spire", url, &signer.jwks()).await;
    let words = [
        "--audience",
        AUDIENCE,
        "--subject",
        "spiffe://prod.example/ns/mcp/sa/*",
    ];
    let rule = world.rule("spire", &issuer, &words).await;
    let svid = |subject: &str, audience: Value| {
        signer.sign(&json!({"iss": url, "sub": subject, "aud": audience}))
    };
    let good = svid(
        "spiffe://prod.example/ns/mcp/sa/keyward",
        json!([AUDIENCE, "vault"]),
    );
    for _ in 0..2 {
        let (status, answer) = world.exchange_at(world.address, &rule, &good).await;
        assert_eq!(status, 200, "{answer}");
    }
    let row = world.newest_row().await;
    let actor = format!("rule:{rule}:spiffe://prod.example/ns/mcp/sa/keyward");
    assert_eq!(row["actor"], actor);
    for (token, reason) in [
        (
            svid(
                "spiffe://prod.example/ns/other/sa/keyward",
                json!([AUDIENCE]),
            ),
            "match_subject_prefix",
        ),
        (
            svid("spiffe://prod.example.evil/ns/mcp/sa/x", json!([AUDIENCE])),
            "match_subject_prefix",
        ),
        (
            svid("spiffe://prod.example/ns/mcp/sa/keyward", json!(["vault"])),
            "aud is \"vault\"",
        ),
        (
            svid(
                "spiffe://prod.example/ns/mcp/sa/keyward",
                json!([AUDIENCE, 1]),
            ),
            "aud is missing or not",
        ),
    ] {
        let (status, _) = world.exchange_at(world.address, &rule, &token).await;
        assert_eq!(status, 401);
        let row = world.newest_row().await;
        assert!(row["reason"].as_str().unwrap().starts_with(reason), "{row}");
    }
}
