//! What AWS is asked, and with whose credentials. That the signature is right is for AWS's own library to say
//! (`tests/identity`), and for the published examples beside it.

use std::time::Duration;

use serde_json::json;

use crate::assertion::tests::{at, token};
use crate::source::{Aws, AwsAlgorithm, Source, SourceError};
use crate::stub::{Request, Server, http};
use crate::{Assertion, Environment, HttpError};

const REFUSED: &str = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
    <Code>AccessDenied</Code><Message>User: arn:aws:sts::1:x is not authorized</Message></Error></ErrorResponse>";

fn source() -> Source {
    Source::Aws(Aws {
        audiences: vec!["https://a".to_owned(), "b".to_owned()],
        region: None,
        algorithm: AwsAlgorithm::Es384,
        duration: Duration::from_secs(300),
    })
}

/// STS, the agent of a container and the metadata service in one, each at the paths that it is known by.
fn amazon(given: String) -> Server {
    Server::judge(move |_, request| {
        let keys = |id: &str| {
            json!({"Code": "Success", "AccessKeyId": id, "SecretAccessKey": "s", "Token": "session"}).to_string()
        };
        let right = |line: &str, body: String| {
            if request.has(line) {
                ("200 OK", "", body)
            } else {
                ("401 Unauthorized", "", String::new())
            }
        };
        match request.head[0].as_str() {
            "POST / HTTP/1.1" => sts(request, &given),
            "GET /agent HTTP/1.1" => right("authorization: of-the-agent", keys("AGENT")),
            "PUT /latest/api/token HTTP/1.1" => right(
                "x-aws-ec2-metadata-token-ttl-seconds: 60",
                "of-the-machine".to_owned(),
            ),
            "GET /latest/meta-data/iam/security-credentials/ HTTP/1.1" => right(
                "x-aws-ec2-metadata-token: of-the-machine",
                "a-role".to_owned(),
            ),
            "GET /latest/meta-data/iam/security-credentials/a-role HTTP/1.1" => {
                right("x-aws-ec2-metadata-token: of-the-machine", keys("MACHINE"))
            }
            _ => ("404 Not Found", "", String::new()),
        }
    })
}

fn sts(request: &Request, given: &str) -> (&'static str, &'static str, String) {
    let signed = request
        .head
        .iter()
        .any(|line| line.starts_with("authorization: AWS4-HMAC-SHA256 Credential="));
    let has = |field: &str| request.body.split('&').any(|one| one == field);
    if has("Action=AssumeRoleWithWebIdentity") && !signed {
        let answer = "<Credentials><AccessKeyId>ROLE</AccessKeyId><SecretAccessKey>s/+=</SecretAccessKey>\
            <SessionToken>session</SessionToken></Credentials>";
        return ("200 OK", "", answer.to_owned());
    }
    if has("Action=GetWebIdentityToken") && signed {
        let answer = format!("<WebIdentityToken>{given}</WebIdentityToken>");
        return ("200 OK", "", answer);
    }
    ("403 Forbidden", "", REFUSED.to_owned())
}

async fn ask(server: &Server, more: &[(&str, &str)]) -> Result<Assertion, SourceError> {
    let mut variables = vec![
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ENDPOINT_URL_STS", server.url.as_str()),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url.as_str()),
    ];
    variables.extend(more);
    let environment = Environment::of(&variables);
    source()
        .fetch(&http(), &environment, at(1_440_938_160))
        .await
}

/// By whom the last request was signed.
fn signer(server: &Server) -> String {
    let requests = server.requests();
    let mut head = requests.last().unwrap().head.iter();
    let line =
        head.find_map(|line| line.strip_prefix("authorization: AWS4-HMAC-SHA256 Credential="));
    line.unwrap().split('/').next().unwrap().to_owned()
}

#[tokio::test]
async fn sts_is_asked_for_what_is_configured_in_a_signed_form() {
    let given = token(&json!({"sub": "arn:aws:iam::1:role/r"}));
    let server = amazon(given.clone());
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "canary"),
        ("AWS_SESSION_TOKEN", "session"),
    ];
    assert_eq!(ask(&server, &keys).await.unwrap().expose(), given);
    let asked = &server.requests()[0];
    assert_eq!(
        asked.body,
        "Action=GetWebIdentityToken&Version=2011-06-15&Audience.member.1=https%3A%2F%2Fa&Audience.member.2=b\
         &SigningAlgorithm=ES384&DurationSeconds=300"
    );
    assert!(asked.has("x-amz-date: 20150830T123600Z"));
    assert!(asked.has("x-amz-security-token: session"));
    let scope = "AKID/20150830/eu-central-1/sts/aws4_request, \
        SignedHeaders=content-type;host;x-amz-date;x-amz-security-token, Signature=";
    assert!(
        asked.head.iter().any(|line| line.contains(scope)),
        "{:?}",
        asked.head
    );
    let half = ask(&server, &keys[..1]).await.unwrap_err();
    assert!(matches!(half, SourceError::Variable(name) if name == "AWS_SECRET_ACCESS_KEY"));
}

#[tokio::test]
async fn credentials_are_found_in_the_order_of_the_published_libraries() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (web, right) = (file("web", "a.b.c\n"), file("right", "of-the-agent\n"));
    let server = amazon(token(&json!({"sub": "s"})));
    let agent = format!("{}/agent", server.url);
    let all = [
        ("AWS_ACCESS_KEY_ID", "OWN"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", &web),
        ("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &agent),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "stale"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &right),
    ];
    for (from, who) in [(0, "OWN"), (2, "ROLE"), (4, "AGENT"), (7, "MACHINE")] {
        ask(&server, &all[from..]).await.unwrap();
        assert_eq!(signer(&server), who);
    }
    let requests = server.requests();
    let role = requests
        .iter()
        .find(|request| request.body.contains("AssumeRole"))
        .unwrap();
    assert_eq!(
        role.body,
        "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A1%3Arole%2Fr\
         &RoleSessionName=keyward&WebIdentityToken=a.b.c"
    );
    let disabled = ask(&server, &[("AWS_EC2_METADATA_DISABLED", "true")]).await;
    assert!(matches!(disabled, Err(SourceError::Variable(_))));
    let elsewhere = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://10.0.0.1/x")];
    let elsewhere = ask(&server, &elsewhere).await;
    assert!(
        matches!(
            elsewhere,
            Err(SourceError::Http(HttpError::Settings { .. }))
        ),
        "{elsewhere:?}"
    );
}

#[tokio::test]
async fn a_refusal_of_aws_is_told_without_any_key() {
    let server = Server::start(|number| match number {
        0 => ("403 Forbidden", "", REFUSED.to_owned()),
        _ => ("200 OK", "", json!({"Code": "Failed"}).to_string()),
    });
    let keys = [
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "canary"),
    ];
    let refused = ask(&server, &keys).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the source answered 403 AccessDenied: User: arn:aws:sts::1:x is not authorized"
    );
    assert!(!format!("{refused:?}").contains("canary"));
    let agent = [("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.url.as_str())];
    let failed = ask(&server, &agent).await.unwrap_err();
    assert!(failed.to_string().contains("Failed") || matches!(failed, SourceError::Refused { .. }));
}

#[tokio::test]
async fn a_region_has_an_endpoint_of_its_own() {
    let source = |region: &str| {
        Source::Aws(Aws {
            audiences: vec!["a".to_owned()],
            region: Some(region.to_owned()),
            algorithm: AwsAlgorithm::Rs256,
            duration: Duration::from_secs(300),
        })
    };
    for (region, url) in [
        ("eu-central-1", "https://sts.eu-central-1.amazonaws.com"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn"),
        ("eusc-de-east-1", "https://sts.eusc-de-east-1.amazonaws.eu"),
    ] {
        let relative = [("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/x")];
        let servers = source(region).servers(&Environment::of(&relative));
        assert_eq!(servers[0].0, url);
        assert_eq!(servers[1].0, "http://169.254.170.2/v2/x");
    }
    let bad = Environment::of(&[
        ("AWS_REGION", "evil.example.com/?"),
        ("AWS_ACCESS_KEY_ID", "x"),
    ]);
    let mut without = source("x");
    if let Source::Aws(aws) = &mut without {
        aws.region = None;
    }
    let refused = without.fetch(&http(), &bad, at(0)).await;
    assert!(matches!(
        refused,
        Err(SourceError::Http(HttpError::Settings { .. }))
    ));
}
