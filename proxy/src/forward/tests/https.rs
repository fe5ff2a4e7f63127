//! Upstreams behind TLS: verified, by the address's or the host's own name, and by nobody else's.

use std::sync::Arc;

use pki::{Algorithm, Authority, AuthorityProfile, PrivateKey, Serial, ServerProfile};
use process::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{OK, Proxy, Upstream, within};

const CLOSING: &str = "GET / HTTP/1.1\r\nHost: docs\r\nConnection: close\r\n\r\n";

fn authority(name: &str) -> Authority {
    Authority::generate(&AuthorityProfile::server(name), SystemClock.wall()).unwrap()
}

fn acceptor(authority: &Authority, name: &str) -> TlsAcceptor {
    let mut profile = ServerProfile::new("t.example");
    profile.extra_names = vec![name.to_owned()];
    let key = PrivateKey::generate(Algorithm::default()).unwrap();
    let pair = authority
        .issue(&profile, key, Serial::random(), SystemClock.wall())
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(pair.chain_pem().as_bytes())
        .map(Result::unwrap)
        .collect();
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem().as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// What a caller gets from an upstream `host` whose certificate is by `signer` for `name`, where
/// `trusted` is trusted.
async fn asked(host: &str, name: &str, signer: &Authority, trusted: &Authority) -> String {
    let directory = tempfile::tempdir().unwrap();
    let bundle = directory.path().join("ca.pem");
    std::fs::write(&bundle, trusted.certificate().to_pem()).unwrap();
    let upstream = Upstream::bind().await;
    let routes = format!(
        "routes: {{docs: 'https://{host}:{}'}}\nupstream:\n  allowed_ips: [127.0.0.0/8, '::1']\n  tls: {{ca_file: {}}}\n",
        upstream.addr().port(),
        bundle.display(),
    );
    let proxy = Proxy::configured(&routes).await;
    let served = async {
        let stream = upstream.accept().await.0;
        let Ok(mut stream) = acceptor(signer, name).accept(stream).await else {
            return;
        };
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).await.unwrap();
            head.push(byte[0]);
        }
        stream.write_all(OK.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // Open until the caller has read it.
        let _ = stream.read(&mut byte).await;
    };
    tokio::select! {
        answer = proxy.say(CLOSING) => answer,
        answer = async { within("the upstream", served).await; proxy.say(CLOSING).await } => answer,
    }
}

#[tokio::test]
async fn an_upstream_is_verified_by_the_configured_authorities() {
    let authority = authority("right");
    for (host, name) in [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost")] {
        let answer = asked(host, name, &authority, &authority).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{host}: {answer}");
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_be_verified_gets_no_request() {
    let (right, wrong) = (authority("right"), authority("wrong"));
    for (signer, name) in [(&wrong, "127.0.0.1"), (&right, "localhost")] {
        let answer = asked("127.0.0.1", name, signer, &right).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("upstream_unreachable"), "{answer}");
    }
}
