//! Who vouches for https upstreams: the system's certificate authorities where `include_system_cas` says so,
//! and nobody else's but those of `ca_file`. The real proxy; which CAs the system has is told by `SSL_CERT_FILE`,
//! as to OpenSSL.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki::ServerProfile;
use process::Tasks;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::rig::credentials::now;
use crate::rig::{Carrier, Hello, Issuer, Line, Proxy, Setup, Upstream};

#[tokio::test(flavor = "multi_thread")]
async fn the_systems_authorities_vouch_for_an_upstream_where_they_are_included_and_nowhere_else() {
    let (tunnel, company, other) = (Issuer::new(), Issuer::new(), Issuer::new());
    let upstream = Upstream::start().await;
    let front = Front::start(&company, upstream.address).await;
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let pair = tunnel.pair();
    let files = [
        write("tls.crt", &pair.chain_pem()),
        write("tls.key", &pair.key_pem()),
    ];
    let (knows, does_not) = (
        write("system.pem", &company.ca_pem()),
        write("other.pem", &other.ca_pem()),
    );
    let listed = format!("ca_file: {}", does_not.display());
    let both = format!("{listed}, include_system_cas: true");
    let neither = format!("{listed}, include_system_cas: false");
    for (keys, system, status) in [
        ("include_system_cas: true", &knows, 200),
        (&both, &knows, 200),
        (&listed, &knows, 503),
        (&neither, &knows, 503),
        // It is the system's word that counts, not the switch alone.
        ("include_system_cas: true", &does_not, 503),
    ] {
        let before = upstream.seen(|_| true).len();
        let answered = asked(&upstream, &front, &tunnel, &files, keys, system).await;
        assert_eq!(answered, status, "{keys} {}", system.display());
        let reached = upstream.seen(|_| true).len() - before;
        assert_eq!(reached, usize::from(status == 200), "{keys}");
    }
}

/// What a caller of a proxy gets whose system trusts `system`, and whose `upstream.tls` has `keys`.
async fn asked(
    upstream: &Upstream,
    front: &Front,
    tunnel: &Issuer,
    [certificate, key]: &[PathBuf; 2],
    keys: &str,
    system: &Path,
) -> u16 {
    let setup = Setup::new(upstream)
        .files(certificate.clone(), key.clone())
        .https(&format!("https://localhost:{}", front.0.port()), keys)
        .environment("SSL_CERT_FILE", system);
    let proxy = Proxy::start(&setup).await;
    proxy.ready().await;
    let hello = Hello::new(tunnel);
    let mut line = Line::open(&proxy, Carrier::Tls, &hello).await.unwrap();
    line.get("/").await.unwrap().status
}

/// TLS before an upstream, with a certificate for `localhost`.
struct Front(SocketAddr, Tasks);

impl Front {
    async fn start(issuer: &Issuer, upstream: SocketAddr) -> Self {
        let mut profile = ServerProfile::new("company.example");
        profile.extra_names = vec!["localhost".to_owned()];
        let pair = issuer.pair_of(&profile, now());
        let chain = CertificateDer::pem_slice_iter(pair.chain_pem().as_bytes())
            .map(Result::unwrap)
            .collect();
        let key = PrivateKeyDer::from_pem_slice(pair.key_pem().as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = Self(listener.local_addr().unwrap(), Tasks::new());
        let tasks = front.1.clone();
        front.1.spawn(async move {
            tokio::select! {
                () = serve(&listener, &acceptor, upstream, &tasks) => {}
                () = tasks.stopping() => {}
            }
        });
        front
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.1.stop();
    }
}

async fn serve(
    listener: &TcpListener,
    acceptor: &TlsAcceptor,
    upstream: SocketAddr,
    tasks: &Tasks,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, stop) = (acceptor.clone(), tasks.clone());
        let carried = async move {
            // Whoever does not trust the certificate goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut plain = TcpStream::connect(upstream).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
        };
        tasks.spawn(async move {
            tokio::select! {
                () = carried => {}
                () = stop.stopping() => {}
            }
        });
    }
}
