mod aws;
mod clouds;

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::assertion::tests::{at, token};
use crate::stub::{Server, http};
use crate::{FetchError, Fetcher};

fn none() -> Environment {
    Environment::of(&[])
}

/// F30.
#[tokio::test]
async fn a_file_is_read_again_at_each_use() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    let source = Source::File(path.clone());
    for jti in ["one", "two"] {
        std::fs::write(&path, format!("{}\n", token(&json!({"jti": jti})))).unwrap();
        let read = source.fetch(&http(), &none(), at(50)).await.unwrap();
        assert_eq!(read.claims().token_id(), Some(jti));
    }
    std::fs::write(&path, "\n").unwrap();
    let empty = source.fetch(&http(), &none(), at(50)).await.unwrap_err();
    assert!(matches!(
        empty,
        SourceError::Assertion(AssertionError::Empty)
    ));
    std::fs::write(&path, "A".repeat(LONGEST + 1)).unwrap();
    let long = source.fetch(&http(), &none(), at(50)).await.unwrap_err();
    assert!(matches!(
        long,
        SourceError::Assertion(AssertionError::TooLong(_))
    ));
    std::fs::remove_file(&path).unwrap();
    let gone = source.fetch(&http(), &none(), at(50)).await.unwrap_err();
    assert!(matches!(gone, SourceError::File { .. }));
}

#[tokio::test]
async fn a_token_with_a_jti_is_known_again_and_one_that_was_not_sent_is_not() {
    let (one, without) = (
        token(&json!({"jti": "1", "exp": 100})),
        token(&json!({"sub": "x"})),
    );
    let fetcher = |text: &str, single_use| {
        let source = Source::Environment("T".to_owned());
        Fetcher::new(source, http(), Environment::of(&[("T", text)]), single_use)
    };
    let used = fetcher(&one, true);
    let first = used.fetch(at(50)).await.unwrap();
    assert!(
        used.fetch(at(50)).await.is_ok(),
        "looking does not use it up"
    );
    used.sent(&first);
    assert!(matches!(
        used.fetch(at(50)).await,
        Err(FetchError::AlreadyUsed)
    ));
    used.not_sent(&first);
    assert!(used.fetch(at(50)).await.is_ok());
    assert!(matches!(
        used.fetch(at(200)).await,
        Err(FetchError::Time(_))
    ));
    for reusable in [fetcher(&without, true), fetcher(&one, false)] {
        let first = reusable.fetch(at(50)).await.unwrap();
        reusable.sent(&first);
        assert!(reusable.fetch(at(50)).await.is_ok());
    }
}

#[tokio::test]
async fn a_job_on_gitlab_has_one_token_which_is_read_again_is_used_once_and_ends() {
    let given =
        token(&json!({"sub": "project_path:g/p:ref_type:branch:ref:main", "jti": "1", "exp": 100}));
    let source = Source::GitLab {
        variable: "KEYWARD_TOKEN".to_owned(),
    };
    let environment = Environment::of(&[("KEYWARD_TOKEN", &given), ("CI_JOB_TOKEN", "canary")]);
    let fetcher = Fetcher::new(source.clone(), http(), environment, true);
    let first = fetcher.fetch(at(50)).await.unwrap();
    assert_eq!(first.expose(), given);
    assert!(matches!(
        fetcher.fetch(at(200)).await,
        Err(FetchError::Time(_))
    ));
    fetcher.sent(&first);
    assert!(matches!(
        fetcher.fetch(at(50)).await,
        Err(FetchError::AlreadyUsed)
    ));
    for environment in [none(), Environment::of(&[("KEYWARD_TOKEN", " ")])] {
        let nothing = source
            .fetch(&http(), &environment, at(50))
            .await
            .unwrap_err();
        assert!(matches!(nothing, SourceError::Variable(name) if name == "KEYWARD_TOKEN"));
    }
    // What else a job has is no identity token.
    let other = Environment::of(&[("KEYWARD_TOKEN", "glcbt-64_canary")]);
    let wrong = source.fetch(&http(), &other, at(50)).await.unwrap_err();
    assert!(!format!("{wrong:?}").contains("canary"));
}

#[tokio::test]
async fn a_program_is_bounded_in_time_and_output_and_has_to_end_well() {
    let folder = tempfile::tempdir().unwrap();
    let good = token(&json!({"sub": "exec"}));
    let run = async |script: &str, timeout: u64| {
        let program = folder.path().join("script");
        std::fs::write(&program, script).unwrap();
        let source = Source::Exec(Exec {
            program: "/bin/sh".into(),
            arguments: vec![program.display().to_string(), good.clone()],
            environment: vec!["GIVEN".to_owned()],
            timeout: Duration::from_millis(timeout),
        });
        let environment = Environment::of(&[("GIVEN", "g"), ("CANARY", "c")]);
        source.fetch(&http(), &environment, at(50)).await
    };
    let clean = "[ \"$GIVEN$CANARY\" = g ] || exit 7; echo \"$1\"";
    let read = run(clean, 20_000).await.unwrap();
    assert_eq!(read.claims().text("sub"), Some("exec"));
    for (script, timeout, why) in [
        ("echo \"$1\"; exit 3", 20_000, "exit status: 3"),
        (
            "while :; do echo canary-output; done",
            20_000,
            "it printed more than",
        ),
        ("exec sleep 100", 100, "it did not end within 0.1 s"),
    ] {
        let error = run(script, timeout).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
}

#[tokio::test]
async fn a_job_on_github_asks_its_runner_with_an_encoded_audience() {
    let given = token(&json!({"sub": "repo:o/r"}));
    let answer = json!({"value": given, "count": 1}).to_string();
    let server = Server::start(move |number| match number {
        0 => ("200 OK", "", answer.clone()),
        _ => (
            "403 Forbidden",
            "",
            json!({"message": "no\nright"}).to_string(),
        ),
    });
    let url = format!("{}/x?api-version=2", server.url);
    let environment = Environment::of(&[
        ("ACTIONS_ID_TOKEN_REQUEST_URL", &url),
        ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "canary"),
    ]);
    let source = Source::GitHubActions {
        audience: Some("https://a?b&c".to_owned()),
    };
    let read = source.fetch(&http(), &environment, at(50)).await.unwrap();
    assert_eq!(read.expose(), given);
    let asked = &server.requests()[0];
    assert_eq!(
        asked.head[0],
        "GET /x?api-version=2&audience=https%3A%2F%2Fa%3Fb%26c HTTP/1.1"
    );
    assert!(asked.has("authorization: Bearer canary"));
    let refused = source
        .fetch(&http(), &environment, at(50))
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "the source answered 403: noright");
    let nothing = source.fetch(&http(), &none(), at(50)).await.unwrap_err();
    assert!(matches!(nothing, SourceError::Variable(_)));
    assert!(!format!("{refused:?} {nothing:?}").contains("canary"));
}
