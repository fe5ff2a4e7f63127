//! What Google's and Azure's servers are asked, to the letter.

use serde_json::json;

use crate::assertion::tests::{at, token};
use crate::source::{Azure, Gcp, Source, SourceError};
use crate::stub::{Server, http};
use crate::{Environment, FetchError, Fetcher, HttpError};

const FLAVOR: &str = "metadata-flavor: Google\r\n";

fn azure(client_id: Option<&str>) -> Source {
    Source::Azure(Azure {
        resource: "api://app?x".to_owned(),
        client_id: client_id.map(str::to_owned),
    })
}

fn gcp(service_account: Option<&str>) -> Source {
    Source::Gcp(Gcp {
        audience: "https://a?b&c".to_owned(),
        service_account: service_account.map(str::to_owned),
    })
}

#[tokio::test]
async fn googles_metadata_server_is_known_by_its_flavor_in_both_directions() {
    let given = token(&json!({"sub": "1"}));
    let answer = given.clone();
    let server = Server::start(move |number| match number {
        0 => ("200 OK", FLAVOR, format!("{answer}\n")),
        1 => ("200 OK", "", answer.clone()),
        2 => ("404 Not Found", FLAVOR, "<html>no</html>".to_owned()),
        _ => ("200 OK", FLAVOR, "not a token".to_owned()),
    });
    let host = server.url.strip_prefix("http://").unwrap().to_owned();
    let environment = Environment::of(&[("GCE_METADATA_HOST", &host)]);
    let ask = async |account| gcp(account).fetch(&http(), &environment, at(50)).await;
    assert_eq!(ask(None).await.unwrap().expose(), given);
    let impostor = ask(Some("a@p.iam.gserviceaccount.com")).await.unwrap_err();
    assert!(matches!(impostor, SourceError::Impostor(_)), "{impostor}");
    let missing = ask(None).await.unwrap_err();
    assert_eq!(missing.to_string(), "the source answered 404");
    assert!(matches!(ask(None).await, Err(SourceError::Assertion(_))));
    let asked = server.requests();
    let path = "/computeMetadata/v1/instance/service-accounts";
    let query = "identity?audience=https%3A%2F%2Fa%3Fb%26c&format=full HTTP/1.1";
    assert_eq!(asked[0].head[0], format!("GET {path}/default/{query}"));
    assert_eq!(
        asked[1].head[0],
        format!("GET {path}/a@p.iam.gserviceaccount.com/{query}")
    );
    assert!(asked.iter().all(|one| one.has("metadata-flavor: Google")));
}

#[tokio::test]
async fn plain_http_goes_to_no_metadata_server_elsewhere() {
    for (source, variable, value) in [
        (gcp(None), "GCE_METADATA_HOST", "metadata.example.com"),
        (azure(None), "IDENTITY_ENDPOINT", "http://10.0.0.1/msi"),
        (
            azure(None),
            "AZURE_POD_IDENTITY_AUTHORITY_HOST",
            "http://10.0.0.1",
        ),
    ] {
        let variables = [(variable, value), ("IDENTITY_HEADER", "x")];
        let environment = Environment::of(&variables);
        let fetched = source.fetch(&http(), &environment, at(50)).await;
        let error = fetched.unwrap_err();
        assert!(
            matches!(&error, SourceError::Http(HttpError::Settings { why, .. }) if why.contains("link-local")),
            "{variable}: {error:?}"
        );
    }
}

#[tokio::test]
async fn a_redirect_away_from_the_metadata_server_is_not_followed() {
    let far = Server::start(|_| ("200 OK", FLAVOR, token(&json!({"sub": "far"}))));
    let place = Box::leak(format!("location: {}\r\n{FLAVOR}", far.url).into_boxed_str());
    let near = Server::start(|_| ("302 Found", place, String::new()));
    let host = near.url.strip_prefix("http://").unwrap().to_owned();
    let machine = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", near.url.as_str());
    for (source, variable) in [
        (gcp(None), ("GCE_METADATA_HOST", host.as_str())),
        (azure(None), machine),
    ] {
        let environment = Environment::of(&[variable]);
        let refused = source.fetch(&http(), &environment, at(50)).await;
        assert!(
            matches!(refused, Err(SourceError::Refused { status: 302, .. })),
            "{refused:?}"
        );
    }
    assert!(far.requests().is_empty());
}

#[tokio::test]
async fn a_virtual_machine_of_azure_gives_the_same_token_again_and_it_may_be_used_again() {
    let given = token(&json!({"uti": "one", "exp": 100}));
    let body = json!({"access_token": given, "expires_in": "86399"}).to_string();
    let server = Server::start(move |number| match number {
        0 | 1 => ("200 OK", "", body.clone()),
        _ => (
            "400 Bad Request",
            "",
            json!({"error": "invalid_request", "error_description": "Identity not found"})
                .to_string(),
        ),
    });
    let environment = Environment::of(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &server.url)]);
    let fetcher = Fetcher::new(azure(Some("c-1")), http(), environment, true);
    for _ in 0..2 {
        let assertion = fetcher.fetch(at(50)).await.unwrap();
        assert_eq!(assertion.expose(), given);
        fetcher.sent(&assertion);
    }
    let Err(FetchError::Source(refused)) = fetcher.fetch(at(50)).await else {
        panic!("it is refused");
    };
    assert_eq!(
        refused.to_string(),
        "the source answered 400 invalid_request: Identity not found"
    );
    let asked = server.requests();
    assert_eq!(
        asked[0].head[0],
        "GET /metadata/identity/oauth2/token?api-version=2018-02-01&resource=api%3A%2F%2Fapp%3Fx&client_id=c-1 HTTP/1.1"
    );
    assert!(asked[0].has("metadata: true"));
}

#[tokio::test]
async fn an_app_service_is_asked_with_its_header_and_not_without() {
    let given = token(&json!({"sub": "s"}));
    let body = json!({"access_token": given}).to_string();
    let server = Server::start(move |_| ("200 OK", "", body.clone()));
    let url = format!("{}/msi/token", server.url);
    let endpoint = ("IDENTITY_ENDPOINT", url.as_str());
    let without = Environment::of(&[endpoint]);
    let error = azure(None)
        .fetch(&http(), &without, at(50))
        .await
        .unwrap_err();
    assert!(matches!(error, SourceError::Variable(name) if name == "IDENTITY_HEADER"));
    let with = Environment::of(&[endpoint, ("IDENTITY_HEADER", "canary")]);
    let read = azure(None).fetch(&http(), &with, at(50)).await.unwrap();
    assert_eq!(read.expose(), given);
    let asked = server.requests();
    assert_eq!(
        asked[0].head[0],
        "GET /msi/token?api-version=2019-08-01&resource=api%3A%2F%2Fapp%3Fx HTTP/1.1"
    );
    assert!(asked[0].has("x-identity-header: canary"));
    assert!(!asked[0].has("metadata: true"));
}

#[tokio::test]
async fn a_pod_of_aks_sends_the_clusters_token_as_it_is_now() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let given = token(&json!({"sub": "s"}));
    let (body, clusters) = (
        json!({"access_token": given}).to_string(),
        token(&json!({"aud": "api://AzureADTokenExchange"})),
    );
    let echo = clusters.clone();
    let server = Server::start(move |number| {
        match number {
        0 => ("200 OK", "", body.clone()),
        _ => (
            "401 Unauthorized",
            "",
            json!({"error": "invalid_client", "error_description": format!("AADSTS700024: {echo} is late")}).to_string(),
        ),
    }
    });
    let authority = format!("{}/", server.url);
    let variables = [
        ("AZURE_FEDERATED_TOKEN_FILE", path.to_str().unwrap()),
        ("AZURE_AUTHORITY_HOST", &authority),
        ("AZURE_TENANT_ID", "tenant"),
        ("AZURE_CLIENT_ID", "client"),
        // Of the node, and not for this pod.
        ("IDENTITY_ENDPOINT", "http://10.0.0.1"),
    ];
    let environment = Environment::of(&variables);
    std::fs::write(&path, format!("{clusters}\n")).unwrap();
    let read = azure(None)
        .fetch(&http(), &environment, at(50))
        .await
        .unwrap();
    assert_eq!(read.expose(), given);
    let refused = azure(Some("own"))
        .fetch(&http(), &environment, at(50))
        .await;
    let said = refused.unwrap_err().to_string();
    assert_eq!(
        said,
        "the source answered 401 AADSTS700024: [of the token] is late"
    );
    let asked = server.requests();
    assert_eq!(asked[0].head[0], "POST /tenant/oauth2/v2.0/token HTTP/1.1");
    assert!(asked[0].has("content-type: application/x-www-form-urlencoded"));
    let mut fields: Vec<&str> = asked[0].body.split('&').collect();
    fields.sort_unstable();
    let assertion = format!("client_assertion={clusters}");
    assert_eq!(
        fields,
        [
            assertion.as_str(),
            "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer",
            "client_id=client",
            "grant_type=client_credentials",
            "scope=api%3A%2F%2Fapp%3Fx%2F.default",
        ]
    );
    assert!(asked[1].body.contains("client_id=own"));
}

#[tokio::test]
async fn a_pod_of_aks_without_its_file_or_its_identity_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let file = ("AZURE_FEDERATED_TOKEN_FILE", path.to_str().unwrap());
    let environment = Environment::of(&[file, ("AZURE_CLIENT_ID", "client")]);
    let gone = azure(None).fetch(&http(), &environment, at(50)).await;
    assert!(matches!(gone, Err(SourceError::File { .. })));
    std::fs::write(&path, "a.b.c").unwrap();
    let tenant = azure(None).fetch(&http(), &environment, at(50)).await;
    assert!(matches!(tenant, Err(SourceError::Variable(name)) if name == "AZURE_TENANT_ID"));
    let nobody = Environment::of(&[file]);
    let nobody = azure(None).fetch(&http(), &nobody, at(50)).await;
    assert!(matches!(nobody, Err(SourceError::Variable(name)) if name == "AZURE_CLIENT_ID"));
}
