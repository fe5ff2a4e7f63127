//! What Google, Azure and AWS give their machines buys access, each asked as it documents. The servers are doubles that
//! refuse everything else; that of AWS checks signatures with AWS's own library (`tests/tools/clouds.py`).

use serde_json::json;

use super::super::federation::AUDIENCE;
use super::beside::Beside;
use super::{Case, assert_silent};
use crate::cli::stage::{Ended, end, keyward};

/// Of the double: what opens its doors, and its secret keys.
const RIGHT: &str = "right-of-this-workload";
const SECRETS: [&str; 6] = [
    RIGHT,
    "own/secret+1",
    "role/secret",
    "agent/secret",
    "machine/secret",
    "-session",
];

struct Clouds {
    case: Case,
    url: String,
    issuer: String,
    _double: Beside,
}

impl Clouds {
    async fn start() -> Self {
        let (case, double) = tokio::join!(Case::start(), Beside::start("clouds.py", &[]));
        let jwks = &double.said["jwks"];
        let issuer = case.world.believe("clouds", "https://clouds.test", jwks);
        let issuer = issuer.await;
        Self {
            url: format!("http://127.0.0.1:{}", double.said["port"]),
            case,
            issuer,
            _double: double,
        }
    }

    async fn rule(&self, name: &str, audience: &str, subject: &str) -> String {
        let words = ["--audience", audience, "--subject", subject];
        self.case.world.rule(name, &self.issuer, &words).await
    }

    /// A variable's value: `{}` is where the double is, and what is no text of its own is in a file.
    fn value(&self, name: &str, value: &str) -> String {
        match name {
            "GCE_METADATA_HOST" => self.url.strip_prefix("http://").unwrap().to_owned(),
            "AZURE_FEDERATED_TOKEN_FILE" => {
                let audience = "api://AzureADTokenExchange";
                let claims = match value {
                    "expired" => json!({"aud": audience, "exp": 1000}),
                    value => json!({"aud": format!("{audience}{value}")}),
                };
                self.case
                    .world
                    .write("cluster-token", &self.case.token(&claims))
            }
            name if name.ends_with("_TOKEN_FILE") => self.case.world.write(name, value),
            _ => value.replace("{}", &self.url),
        }
    }

    async fn doctor(&self, source: &str, rule: &str, variables: &[(&str, &str)]) -> Ended {
        let config = self.case.configure(rule, source, "");
        let mut command = keyward(&[
            "doctor",
            "identity",
            "--exchange",
            "--json",
            "--config",
            &config,
        ]);
        for (name, value) in variables {
            command.env(name, self.value(name, value));
        }
        // Whatever goes by plain HTTP must not go there.
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env(name, "http://127.0.0.1:1");
        }
        command.env("HTTPS_PROXY", format!("http://{}", self.case.proxy.address));
        let ended = end(&mut command).await;
        for secret in SECRETS {
            assert!(!format!("{ended:?}").contains(secret), "{ended:?}");
        }
        ended
    }
}

/// Source, variables, exit code, part of what to do next.
type Fault<'a> = (&'a str, &'a [(&'a str, &'a str)], i32, &'a str);

/// Name, source, variables, subject, audience.
type Way = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    &'static str,
);

const AWS: &str = "{aws: {audiences: [keyward-edge, other], region: eu-central-1, algorithm: ES384, duration: 10m}}";
const ROLE: &str = "arn:aws:iam::1:role/r";
const STS: (&str, &str) = ("AWS_ENDPOINT_URL_STS", "{}");
const WAYS: [Way; 8] = [
    (
        "google",
        "{gcp: {audience: keyward-edge}}",
        &[("GCE_METADATA_HOST", "")],
        "113",
        AUDIENCE,
    ),
    (
        "azure-machine",
        "{azure: {resource: 'api://app'}}",
        &[("AZURE_POD_IDENTITY_AUTHORITY_HOST", "{}")],
        "machine",
        "api://app",
    ),
    (
        "azure-service",
        "{azure: {resource: 'api://app'}}",
        &[
            ("IDENTITY_ENDPOINT", "{}/msi/token"),
            ("IDENTITY_HEADER", RIGHT),
        ],
        "service",
        "api://app",
    ),
    (
        "azure-workload",
        "{azure: {resource: 'api://app'}}",
        &[
            ("AZURE_FEDERATED_TOKEN_FILE", ""),
            ("AZURE_AUTHORITY_HOST", "{}/"),
            ("AZURE_TENANT_ID", "tenant"),
            ("AZURE_CLIENT_ID", "client"),
        ],
        "workload",
        "api://app",
    ),
    (
        "aws-own",
        AWS,
        &[
            STS,
            ("AWS_ACCESS_KEY_ID", "AKIDOWN"),
            ("AWS_SECRET_ACCESS_KEY", "own/secret+1"),
        ],
        ROLE,
        AUDIENCE,
    ),
    (
        "aws-role",
        AWS,
        &[
            STS,
            ("AWS_WEB_IDENTITY_TOKEN_FILE", RIGHT),
            ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ],
        ROLE,
        AUDIENCE,
    ),
    (
        "aws-agent",
        AWS,
        &[
            STS,
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "{}/v1/credentials"),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", RIGHT),
        ],
        ROLE,
        AUDIENCE,
    ),
    (
        "aws-machine",
        AWS,
        &[STS, ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "{}")],
        ROLE,
        AUDIENCE,
    ),
];

#[tokio::test]
async fn what_a_cloud_gives_its_machines_buys_access_each_time_and_without_a_proxy() {
    let clouds = Clouds::start().await;
    for (name, source, variables, subject, audience) in WAYS {
        let rule = clouds.rule(name, audience, subject).await;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let ended = clouds.doctor(source, &rule, variables).await;
            assert_eq!(ended.code, Some(0), "{name}: {ended:?}");
            let said = ended.json();
            assert_eq!(said["claims"]["sub"], subject, "{name}");
            let row = clouds.case.world.newest_row().await;
            assert_eq!(row["actor"], format!("rule:{rule}:{subject}"), "{name}");
            seen.push(said["claims"].clone());
        }
        match name {
            "azure-machine" => assert_eq!(seen[0]["uti"], seen[1]["uti"], "kept, and used twice"),
            name if name.starts_with("aws") => assert_ne!(seen[0]["jti"], seen[1]["jti"]),
            "google" => assert!(seen[0]["email"].is_string(), "format=full"),
            _ => {}
        }
    }
    let asked = clouds.case.proxy.asked();
    assert!(
        asked
            .iter()
            .all(|head| head.starts_with("CONNECT api.edge.example:443 ")),
        "{asked:?}"
    );
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn each_usual_fault_of_a_cloud_is_told_with_the_next_thing_to_do() {
    let clouds = Clouds::start().await;
    let pod = ("AZURE_AUTHORITY_HOST", "{}");
    let tenant = ("AZURE_TENANT_ID", "tenant");
    let file = |claims| ("AZURE_FEDERATED_TOKEN_FILE", claims);
    let client = ("AZURE_CLIENT_ID", "client");
    let azure = "{azure: {resource: 'api://app'}}";
    let own = ("AWS_ACCESS_KEY_ID", "AKIDOWN");
    let secret = ("AWS_SECRET_ACCESS_KEY", "own/secret+1");
    let machine = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "{}");
    let faults: [Fault<'_>; 13] = [
        (
            "{gcp: {audience: a, service_account: nobody@p.iam.gserviceaccount.com}}",
            &[("GCE_METADATA_HOST", "")],
            78,
            "iam.gke.io/gcp-service-account",
        ),
        (
            "{azure: {resource: 'api://app', client_id: nobody}}",
            &[machine],
            78,
            "assign a managed identity",
        ),
        (
            azure,
            &[
                ("IDENTITY_ENDPOINT", "{}/msi/token"),
                ("IDENTITY_HEADER", "x"),
            ],
            77,
            "may be over",
        ),
        (
            azure,
            &[("IDENTITY_ENDPOINT", "{}/msi/token")],
            78,
            "Azure Arc's",
        ),
        (
            azure,
            &[pod, file("expired"), tenant, client],
            77,
            "is not replaced",
        ),
        (
            azure,
            &[pod, file("-other"), tenant, client],
            77,
            "federated credential",
        ),
        (
            "{azure: {resource: 'https://app'}}",
            &[pod, file(""), tenant, client],
            78,
            "expose it as api://ID",
        ),
        (
            azure,
            &[pod, file(""), ("AZURE_TENANT_ID", "other"), client],
            78,
            "tenant-id",
        ),
        (
            AWS,
            &[STS, own, ("AWS_SECRET_ACCESS_KEY", "other")],
            77,
            "this machine's clock",
        ),
        (
            AWS,
            &[STS, ("AWS_ACCESS_KEY_ID", "AKIDOTHER"), secret],
            77,
            "unknown, switched off",
        ),
        (
            "{aws: {audiences: [a], region: us-fault-1}}",
            &[STS, own, secret],
            77,
            "switch outbound web identity federation on",
        ),
        (
            AWS,
            &[
                STS,
                ("AWS_WEB_IDENTITY_TOKEN_FILE", "other"),
                ("AWS_ROLE_ARN", ROLE),
            ],
            77,
            "AWS_WEB_IDENTITY_TOKEN_FILE",
        ),
        (
            "{aws: {audiences: [a]}}",
            &[STS, own, secret],
            78,
            "identity.source.aws.region",
        ),
    ];
    for (source, variables, code, next) in faults {
        let ended = clouds.doctor(source, &clouds.case.rule, variables).await;
        assert_eq!(ended.code, Some(code), "{next}: {ended:?}");
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains(next), "{next}: {ended:?}");
    }
    assert!(clouds.case.proxy.asked().is_empty());
}

/// In a network of its own, where the double has the addresses that clouds have.
const LINK_LOCAL: &str = r#"
set -e
ip link set lo up
for address in 169.254.169.254 169.254.170.2; do ip address add "$address/32" dev lo; done
python=$1 double=$2 keyward=$3 ready=$4
shift 4
mkfifo "$ready.stdin"
"$python" "$double" 0.0.0.0 80 <"$ready.stdin" >"$ready" &
exec 9>"$ready.stdin"
for _ in $(seq 200); do [ -s "$ready" ] && break || sleep 0.1; done
"$keyward" doctor identity --json --config "$1"
"$keyward" doctor identity --json --config "$2"
export AWS_ENDPOINT_URL_STS=http://127.0.0.1
"$keyward" doctor identity --json --config "$3"
export AWS_CONTAINER_CREDENTIALS_RELATIVE_URI=/v1/credentials AWS_CONTAINER_AUTHORIZATION_TOKEN=right-of-this-workload
"$keyward" doctor identity --json --config "$3"
"#;

#[tokio::test]
async fn metadata_servers_are_asked_at_the_addresses_that_clouds_document() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut command = crate::cli::stage::command(
        std::path::Path::new("unshare"),
        &["--net", "sh", "-c", LINK_LOCAL, "sh"],
    );
    command
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .arg(harness::tool("../python/bin/python"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tools/clouds.py"))
        .arg(crate::cli::stage::program("keyward"))
        .arg(file("ready"));
    let sources = [
        "{gcp: {audience: a}}",
        "{azure: {resource: 'api://app'}}",
        "{aws: {audiences: [a], region: eu-central-1}}",
    ];
    for (number, source) in sources.into_iter().enumerate() {
        let path = file(&format!("{number}.yaml"));
        let text = format!(
            "tunnels: {{main: {{provider: static, domain: t.example, store: 'dir:/s'}}}}\nidentity: {{source: {source}}}\n"
        );
        std::fs::write(&path, text).unwrap();
        command.arg(path);
    }
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let said = serde_json::Deserializer::from_str(&ended.stdout).into_iter::<serde_json::Value>();
    let subjects: Vec<String> = said
        .map(|one| one.unwrap()["claims"]["sub"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(subjects, ["113", "machine", ROLE, ROLE]);
}

#[tokio::test]
async fn a_firewall_is_told_where_a_source_calls() {
    let case = Case::start().await;
    let source = "{aws: {audiences: [a], region: eu-central-1}}";
    let config = case.configure(&case.rule, source, "");
    let mut command = keyward(&["check", "--firewall", "--config", &config]);
    command.env("HTTPS_PROXY", "http://user:canary@proxy.example:3128");
    let ended = end(&mut command).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [
        "out\ttcp\tapi.edge.example\t443\ttoken exchange\n",
        "out\ttcp\tsts.eu-central-1.amazonaws.com\t443\tidentity token, STS\n",
        "out\ttcp\t169.254.169.254\t80\tcredentials for STS\n",
        "out\ttcp\tproxy.example\t3128\tHTTPS_PROXY, for what is called by https\n",
        "out\tudp\t*\t53\t",
    ] {
        assert!(ended.stdout.contains(line), "{line}: {ended:?}");
    }
    assert_silent(&ended, "canary");
}
