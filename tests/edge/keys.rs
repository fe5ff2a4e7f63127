//! With every key of an edge in hand – front key, CA of the front certificate, state, sealing key – no inner
//! handshake succeeds, in neither direction: nobody can be the tunnel to an agent, nor an agent to a proxy that
//! asks for client certificates (`edge.md` section 4).

use std::io;
use std::path::Path;
use std::sync::Arc;

use process::Tasks;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::evidence::{files, holds};
use super::hostile::Hostile;
use super::world::{World, sha256};
use crate::rig::{Hello, within};

/// A chain and a key, which need not belong together.
struct Pair {
    what: &'static str,
    chain: String,
    key: String,
}

impl Pair {
    fn certified(&self) -> Arc<SingleCertAndKey> {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(Result::unwrap);
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(
            chain.collect(),
            key,
        )))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Whoever has everything that the edge has.
struct Thief<'a> {
    world: &'a World,
}

impl Thief<'_> {
    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.world.file(name)).unwrap()
    }

    /// A certificate under the CA of these two files; its chain is `behind` as well.
    async fn sign(
        &self,
        name: &str,
        subject: &str,
        extensions: &str,
        ca: [&str; 2],
    ) -> [String; 2] {
        let file = |kind: &str| self.world.file(&format!("{name}.{kind}"));
        let request = [
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        let request = request.into_iter().chain(["-subj", subject]);
        openssl(request.chain(["-keyout", &file("key"), "-out", &file("csr")])).await;
        std::fs::write(file("ext"), extensions).unwrap();
        let [ca, key] = ca.map(|name| self.world.file(name));
        openssl([
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-days",
            "2",
            "-extfile",
            &file("ext"),
            "-CA",
            &ca,
            "-CAkey",
            &key,
            "-out",
            &file("crt"),
        ])
        .await;
        [format!("{name}.crt"), format!("{name}.key")]
    }

    /// Everything that can be made for `purpose` out of the edge's keys, beside what the other side shows of itself:
    /// the CA in `real_ca`, and the certificate in `real`.
    async fn pairs(&self, names: &str, purpose: &str, real_ca: &str, real: &str) -> Vec<Pair> {
        let leaf = format!(
            "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage={purpose}\nsubjectAltName={names}\n"
        );
        let ca = ["front-ca.pem", "front-ca.key"];
        let [signed, signed_key] = self.sign("signed", "/CN=signed", &leaf, ca).await;
        // A CA of the same name under the edge's, and a certificate under that.
        let subject = openssl([
            "x509",
            "-in",
            &self.world.file(real_ca),
            "-noout",
            "-subject",
            "-nameopt",
            "compat",
        ])
        .await;
        let subject = subject.trim().trim_start_matches("subject=").to_owned();
        let authority = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";
        let [twin, twin_key] = self.sign("twin", &subject, authority, ca).await;
        let [under, under_key] = self
            .sign("under", "/CN=under", &leaf, [&twin, &twin_key])
            .await;
        let pair = |what, chain: &[&str], key: &str| Pair {
            what,
            chain: chain.iter().map(|name| self.read(name)).collect(),
            key: self.read(key),
        };
        vec![
            pair(
                "signed by the edge's CA",
                &[&signed, "front-ca.pem"],
                &signed_key,
            ),
            pair("the edge's own", &["front.crt"], "front.key"),
            pair(
                "under a CA of the same name",
                &[&under, &twin, "front-ca.pem"],
                &under_key,
            ),
            pair(
                "the same with the real CA shown",
                &[&under, real_ca],
                &under_key,
            ),
            pair(
                "the real certificate with a key of the edge",
                &[real],
                "front.key",
            ),
        ]
    }
}

pub(super) async fn openssl<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let output = Command::new("openssl").args(words).output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Nothing that the edge keeps is a private key, but for the one of its front.
fn no_key_is_kept(folder: &Path) {
    let kept = files(&folder.join("state"));
    assert!(kept.len() >= 2, "database and sealing key");
    for (file, bytes) in kept {
        assert!(!holds(&bytes, b"PRIVATE KEY"), "{}", file.display());
    }
}

/// What an agent that trusts the tunnel's CA says to whoever shows `pair` in the tunnel's place.
async fn shown_to_an_agent(world: &World, host: &str, pair: &Pair) -> io::Result<()> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(pair.certified());
    let (near, far) = tokio::io::duplex(64 << 10);
    let agent = Hello::new(&world.issuer);
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let connecting = TlsConnector::from(Arc::new(agent.0)).connect(name, near);
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(far);
    let both = async { tokio::join!(connecting, accepting) };
    within("the handshake", both).await.0.map(drop)
}

#[tokio::test]
async fn with_every_key_of_an_edge_nobody_can_be_the_tunnel_to_an_agent() {
    let world = World::start().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let host = format!("up.{domain}");
    no_key_is_kept(world.folder.path());
    let thief = Thief { world: &world };
    let names = format!("DNS:{host},DNS:*.{domain}");
    let real = Pair {
        what: "the real one",
        chain: thief.read("leaf.crt"),
        key: thief.read("leaf.key"),
    };
    shown_to_an_agent(&world, &host, &real).await.unwrap();
    let pairs = thief
        .pairs(&names, "serverAuth", "tunnel-ca.pem", "leaf.crt")
        .await;
    for pair in &pairs {
        let refused = shown_to_an_agent(&world, &host, pair).await.unwrap_err();
        let certificate = refused.to_string().contains("invalid peer certificate");
        assert!(certificate, "{}: {refused}", pair.what);
    }

    // The state and the sealing key together hold the tunnel token: with it a proxy can be connected, and be
    // asked for, and nobody speaks to it.
    let token = world.command(&["token", "reveal", id]).await;
    let token = token["tunnel_token"].as_str().unwrap();
    let genuine = world.proxy("genuine", &tunnel, token).await;
    genuine.ready().await;
    let (status, _) = world.curl(&host, "/genuine", "tunnel-ca.pem", &[]).await;
    assert_eq!(status, 200);
    drop(genuine);
    world.write("thief.crt", &pairs[0].chain);
    world.write("thief.key", &pairs[0].key);
    let config = world.proxy_config("thief", &tunnel, token, &[world.address]);
    let config = config.replace("/leaf.", "/thief.");
    let stolen = world.proxy_with("thief", &config).await;
    stolen.ready().await;
    let (status, _) = world.curl(&host, "/stolen", "tunnel-ca.pem", &[]).await;
    assert_eq!(status, 0);
    let (status, _) = world.curl(&host, "/stolen", "front-ca.pem", &[]).await;
    assert_eq!(status, 200, "it is there for those who trust the edge");
    let seen = world.upstream.seen(|line| line.contains("/stolen"));
    assert_eq!(seen.len(), 1);
}

/// What comes of a call over `stream` by a caller with `pair`.
async fn call<S>(world: &World, stream: S, host: &str, pair: Option<&Pair>) -> io::Result<String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(world.issuer.ca_pem().as_bytes()) {
        roots.add(ca.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match pair {
        Some(pair) => builder.with_client_cert_resolver(pair.certified()),
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(host.to_owned()).unwrap();
    let calling = async {
        let mut tls = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let ask = format!("GET /thief HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        // Whoever is refused may find the stream closed already, and the reason in what is left to read.
        let _ = tls.write_all(ask.as_bytes()).await;
        let mut said = String::new();
        tls.read_to_string(&mut said).await?;
        Ok(said)
    };
    within("the call", calling).await
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "a story, told in the order in which it happens"
)]
async fn with_every_key_of_an_edge_nobody_can_be_an_agent_to_a_proxy() {
    let world = World::start().await;
    let tunnel = world.tunnel().await;
    let (id, domain) = &tunnel;
    let host = format!("up.{domain}");
    world
        .command(&["secret", "add", id, &sha256("secret-a")])
        .await;
    world.write("client-ca.pem", &world.issuer.client_ca_pem());
    let (certificate, key) = world.issuer.client("agent.example");
    world.write("agent.crt", &certificate);
    let real = Pair {
        what: "the real one",
        chain: certificate,
        key,
    };
    let thief = Thief { world: &world };
    let pairs = thief
        .pairs(
            "DNS:agent.example",
            "clientAuth",
            "client-ca.pem",
            "agent.crt",
        )
        .await;
    let hostile = Hostile::bind(&thief.read("front.crt"), &thief.read("front.key")).await;

    let mutual = |name: &str| {
        let config = world.proxy_config(name, &tunnel, "secret-a", &[world.address]);
        let config = config.replace("    allow_without_client_certificate: true\n", "");
        let ca = format!("client_ca: {}, cert_file", world.file("client-ca.pem"));
        config.replace("cert_file", &ca)
    };
    // One at the real edge, one that was led to the thief.
    let proxy = world.proxy_with("one", &mutual("one")).await;
    proxy.ready().await;
    let edge = world.address.to_string();
    let led = mutual("led").replace(&format!("['{edge}']"), &format!("['{}']", hostile.address));
    let _led = world.proxy_with("led", &led).await;
    let tasks = Tasks::new();
    let mut taken = within("the proxy", hostile.take(&tasks)).await;

    let leaf = pki::Certificate::from_pem(&real.chain).unwrap();
    let mut shown = ":".to_owned();
    process::base64::encode(leaf.der(), &mut shown);
    shown.push(':');
    for pair in [None].into_iter().chain(pairs.iter().map(Some)) {
        let what = pair.map_or("no certificate", |pair| pair.what);
        // Each is opened when it is used: whoever says nothing for long is closed, by the edge or by the proxy. That may
        // happen on a machine which is busy, and says nothing of certificates: then it is tried again.
        for by_thief in [false, true] {
            let mut error = String::new();
            for _ in 0..3 {
                let refused = if by_thief {
                    let opened = taken.open(&host, Some(&shown)).await;
                    call(&world, opened, &host, pair).await
                } else {
                    let passed = TcpStream::connect(world.address).await.unwrap();
                    call(&world, passed, &host, pair).await
                };
                error = refused.expect_err(what).to_string();
                if !error.contains("handshake eof") {
                    break;
                }
            }
            assert!(error.contains("received fatal alert"), "{what}: {error}");
        }
    }
    assert!(
        world.upstream.seen(|_| true).is_empty(),
        "nothing came through"
    );
    let passed = TcpStream::connect(world.address).await.unwrap();
    let passed = call(&world, passed, &host, Some(&real)).await;
    let opened = taken.open(&host, None).await;
    let opened = call(&world, opened, &host, Some(&real)).await;
    for served in [passed, opened] {
        assert!(
            served.unwrap().starts_with("HTTP/1.1 200"),
            "the real one is served"
        );
    }
    tasks.stop();
}
