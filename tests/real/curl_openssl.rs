//! What an operator types: curl and openssl against both carriers.

use std::process::Stdio;

use demo::stack::Rotation;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::{Front, run, said, text};

#[tokio::test]
async fn curl_https_against_the_websocket_listener_fails_with_wrong_version_number() {
    let front = Front::start(None, |_| {}).await;
    let url = format!("https://{}/mcp", front.stack.listeners.websocket);
    let output = run(Command::new("curl").args(["-sS", "-k", &url])).await;
    let said = said(&output);
    assert!(
        !output.status.success() && said.contains("wrong version number"),
        "{said}"
    );
    front.stop().await;
}

#[tokio::test]
async fn curl_verifies_the_certificate_and_speaks_both_http_versions_over_both_carriers() {
    let front = Front::start(None, |_| {}).await;
    for (carrier, address) in front.carriers() {
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let url = format!("https://{}:{}/mcp", front.stack.host(), address.port());
            let resolve = format!("{}:{}:127.0.0.1", front.stack.host(), address.port());
            let ask = [
                "-sS",
                option,
                "--resolve",
                &resolve,
                "-w",
                "%{http_version} %{http_code} %{ssl_verify_result}",
                "-o",
                "/dev/null",
            ];
            // Whoever asks for no event stream is refused by the server, which shows that it was reached.
            let trusting =
                run(Command::new("curl")
                    .args(ask)
                    .args(["--cacert", text(front.trust()), &url]))
                .await;
            assert_eq!(
                said(&trusting),
                format!("{version} 406 0"),
                "over {carrier}"
            );
            let other = run(Command::new("curl").args(ask).arg(&url)).await;
            assert!(
                said(&other).contains("certificate"),
                "without the CA over {carrier}: {}",
                said(&other)
            );
        }
    }
    front.stop().await;
}

#[tokio::test]
async fn openssl_resumes_no_session_made_before_a_rotation() {
    let front = Front::start(None, |_| {}).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    for version in ["-tls1_2", "-tls1_3"] {
        let session = folder.path().join(version);
        let first = handshake(&front, version, &["-sess_out", text(&session)]).await;
        assert!(first.contains("New, TLSv1."), "{version}, first:\n{first}");
        // Without a rotation the same file does resume, or what follows would show nothing.
        let again = handshake(&front, version, &["-sess_in", text(&session)]).await;
        assert!(
            again.contains("Reused, TLSv1."),
            "{version}, before the rotation:\n{again}"
        );
        let before = leaf(&again);

        let session = folder.path().join(format!("{version}-rotated"));
        handshake(&front, version, &["-sess_out", text(&session)]).await;
        front
            .stack
            .rotate(Rotation::ServerCertificate)
            .await
            .expect("a rotation");
        let after = handshake(&front, version, &["-sess_in", text(&session)]).await;
        assert!(
            after.contains("New, TLSv1.") && !after.contains("Reused"),
            "{version}, after the rotation:\n{after}"
        );
        assert!(
            leaf(&after) != before,
            "{version}: the certificate is still the old one"
        );
    }
    front.stop().await;
}

/// One connection with one request through the carrier `tls`, certificate verified. Gives all that openssl said.
async fn handshake(front: &Front, version: &str, more: &[&str]) -> String {
    let (address, host) = (front.stack.listeners.tls.to_string(), front.stack.host());
    let mut child = Command::new("openssl")
        .args([
            "s_client",
            "-connect",
            &address,
            "-servername",
            &host,
            "-verify_hostname",
            &host,
            "-verify_return_error",
        ])
        .args(["-CAfile", text(front.trust()), "-ign_eof", version])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl starts");
    let mut input = child.stdin.take().expect("a pipe");
    let request = format!("GET /mcp HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    input.write_all(request.as_bytes()).await.expect("it reads");
    let output = tokio::time::timeout(super::LIMIT, child.wait_with_output())
        .await
        .expect("it ends")
        .expect("its output");
    drop(input);
    let said = said(&output);
    assert!(
        output.status.success() && said.contains("HTTP/1.1 406"),
        "{said}"
    );
    said
}

/// The server certificate in PEM.
fn leaf(said: &str) -> Option<String> {
    let from = said.find("-----BEGIN CERTIFICATE-----")?;
    let to = said.find("-----END CERTIFICATE-----")?;
    said.get(from..to).map(str::to_owned)
}
