//! TLS to `PostgreSQL`: the real server with a certificate, and one that says it has none.

use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::state::{OpenError, Seal, Settings, State};
use crate::tests::stage::Stage;

async fn open(url: &str) -> Result<State, OpenError> {
    let settings = Settings {
        edge: "edge.test".to_owned(),
        reveal: true,
    };
    State::open(url, Seal::new(&[7; 32]).unwrap(), settings).await
}

/// Whether each connection of `state` is encrypted, as the server sees it.
async fn encrypted(state: &State) -> bool {
    let (found,): (String,) =
        sqlx::query_as("SELECT CAST(ssl AS TEXT) FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            .fetch_one(&state.pool)
            .await
            .unwrap();
    found == "true"
}

/// The CA of the server's certificate, beside its data.
async fn ca(state: &State) -> String {
    let (data,): (String,) = sqlx::query_as("SELECT current_setting('data_directory')")
        .fetch_one(&state.pool)
        .await
        .unwrap();
    format!("{data}/../ca.pem")
}

#[tokio::test]
async fn a_checked_certificate_is_required_and_enough() {
    let stage = Stage::postgres().await;
    assert!(
        !encrypted(&stage.state).await,
        "on loopback as it always was"
    );
    let ca = ca(&stage.state).await;
    let checked = format!("?sslmode=verify-full&sslrootcert={ca}");
    let named = stage.url.replace("127.0.0.1", "localhost");
    let opened = open(&format!("{named}{checked}")).await.unwrap();
    assert!(encrypted(&opened).await);
    opened.close().await;

    let directory = tempfile::tempdir().unwrap();
    let profile = pki::AuthorityProfile::server("another CA");
    let now: SystemTime = process::Clock::wall(&process::SystemClock);
    let other = pki::Authority::generate(&profile, now).unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, other.certificate().to_pem()).unwrap();
    let other = format!("?sslmode=verify-full&sslrootcert={}", file.display());
    for (url, query, wrong) in [
        (&named, &*other, "UnknownIssuer"),
        // No public CA signed it either.
        (&named, "?sslmode=verify-full", "UnknownIssuer"),
        // The same server by a name that is not in its certificate.
        (&stage.url, &*checked, "not valid for name"),
    ] {
        let refused = open(&format!("{url}{query}")).await.unwrap_err();
        let OpenError::Connect(error) = refused else {
            panic!("{url}{query}: {refused}")
        };
        assert!(error.to_string().contains(wrong), "{error} for {wrong}");
    }
}

#[tokio::test]
async fn a_server_without_tls_gets_no_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let url = format!("postgres://edge:s3cret@127.0.0.1:{port}/edge?sslmode=verify-full");
    let server = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await.unwrap();
        // SSLRequest, whose answer is one letter (PostgreSQL, "Message Formats").
        assert_eq!(asked, [0, 0, 0, 8, 4, 210, 22, 47]);
        stream.write_all(b"N").await.unwrap();
        let mut more = Vec::new();
        let _ = stream.read_to_end(&mut more).await;
        more
    };
    let (opened, more) = tokio::join!(open(&url), server);
    assert!(matches!(opened, Err(OpenError::Connect(_))));
    assert!(more.is_empty(), "not a word after that");
}
