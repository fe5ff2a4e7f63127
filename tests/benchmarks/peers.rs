//! The peers and the upstream: nginx and haproxy, each with one worker, keep-alive to the upstream and no access log, as
//! somebody would write it who wants them fast. Their buffers are at their defaults, or at 64 KiB where it says so.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use process::Failure;

use crate::machine::{LOAD, MEASURED, Program, free_port, output};

/// Bytes of the file that the upstream serves as `/big`.
pub(crate) const BIG: usize = 16 << 20;

/// A folder with what all sides use alike: a P-256 certificate for localhost, its key, and room for logs.
#[derive(Debug)]
pub(crate) struct Workshop {
    folder: tempfile::TempDir,
}

impl Workshop {
    /// Makes the folder and the certificate.
    pub(crate) async fn new() -> Result<Self, Failure> {
        let folder = tempfile::tempdir()
            .map_err(|error| Failure::internal("no temporary folder").caused_by(&error))?;
        let shop = Self { folder };
        let (key, certificate) = (shop.path("key.pem"), shop.path("cert.pem"));
        let request: Vec<&str> = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
            -addext subjectAltName=DNS:localhost,DNS:*.bench.example,IP:127.0.0.1 -addext extendedKeyUsage=serverAuth -addext basicConstraints=critical,CA:FALSE"
            .split_whitespace()
            .chain(["-keyout", text(&key), "-out", text(&certificate)])
            .collect();
        output(&request).await?;
        let both = read(&certificate)? + &read(&key)?;
        shop.write("both.pem", &both)?;
        Ok(shop)
    }

    /// The path of a file here.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file here and gives its path.
    pub(crate) fn write(&self, name: &str, content: &str) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        fs::write(&path, content)
            .map_err(|error| Failure::internal(format!("cannot write {name}")).caused_by(&error))?;
        Ok(path)
    }

    fn nginx_configuration(&self, name: &str, http: &str) -> Result<PathBuf, Failure> {
        let folder = self.folder.path().display();
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds
            .map(|kind| format!("{kind}_temp_path {folder}/{name}-{kind}; "))
            .concat();
        self.write(
            &format!("{name}.conf"),
            &format!(
                "daemon off; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.err; \
                 events {{ worker_connections 4096; }} \
                 http {{ access_log off; keepalive_requests 100000000; {temporary}{http} }}"
            ),
        )
    }
}

/// A program that listens somewhere.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where.
    pub address: SocketAddr,
    /// What is measured.
    pub program: Program,
}

/// The upstream on the load's core: a small JSON-RPC answer at `/`, [`BIG`] bytes at `/big`, over plain HTTP/1.1.
pub(crate) async fn upstream(shop: &Workshop) -> Result<Server, Failure> {
    let address = free_port().await?;
    // Nobody compresses here: any bytes will do.
    let line = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde\n";
    shop.write("big", &line.repeat(BIG / line.len()))?;
    let body = format!(
        r#"{{"jsonrpc": "2.0", "id": 1, "result": {{"content": [{{"type": "text", "text": "{}"}}]}}}}"#,
        "x".repeat(120)
    );
    let folder = shop.folder.path().display();
    let http = format!(
        "server {{ listen {address} backlog=4096; location / {{ default_type application/json; return 200 '{body}'; }} \
         location /big {{ root {folder}; }} }}"
    );
    let configuration = shop.nginx_configuration("upstream", &http)?;
    launch(shop, LOAD, &["nginx", "-c", text(&configuration)], address).await
}

/// nginx ends TLS and passes on.
pub(crate) async fn nginx(
    shop: &Workshop,
    upstream: SocketAddr,
    buffers: Buffers,
) -> Result<Server, Failure> {
    let address = free_port().await?;
    let (name, size) = match buffers {
        Buffers::Default => ("nginx", ""),
        Buffers::Kib64 => (
            "nginx64",
            "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 64k; ",
        ),
    };
    let (certificate, key) = (shop.path("cert.pem"), shop.path("key.pem"));
    let http = format!(
        "upstream u {{ server {upstream}; keepalive 1024; keepalive_requests 100000000; }} \
         server {{ listen {address} ssl http2 backlog=4096; ssl_certificate {}; ssl_certificate_key {}; \
         location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off; {size}}} }}",
        certificate.display(),
        key.display(),
    );
    let configuration = shop.nginx_configuration(name, &http)?;
    launch(
        shop,
        MEASURED,
        &["nginx", "-c", text(&configuration)],
        address,
    )
    .await
}

/// haproxy ends TLS and passes on.
pub(crate) async fn haproxy(
    shop: &Workshop,
    upstream: SocketAddr,
    buffers: Buffers,
) -> Result<Server, Failure> {
    let address = free_port().await?;
    let (name, size) = match buffers {
        Buffers::Default => ("haproxy.cfg", ""),
        Buffers::Kib64 => ("haproxy64.cfg", " tune.bufsize 65536\n"),
    };
    let both = shop.path("both.pem");
    let configuration = shop.write(
        name,
        &format!(
            "global\n nbthread 1\n maxconn 4096\n{size}defaults\n mode http\n timeout connect 5s\n timeout client 60s\n \
             timeout server 60s\nfrontend f\n bind {address} ssl crt {} alpn h2,http/1.1\n default_backend b\nbackend b\n \
             http-reuse always\n server s {upstream}\n",
            both.display()
        ),
    )?;
    launch(
        shop,
        MEASURED,
        &["haproxy", "-db", "-f", text(&configuration)],
        address,
    )
    .await
}

/// How large a peer's buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Buffers {
    /// As the program has them.
    Default,
    /// 64 KiB each.
    Kib64,
}

/// Starts a program and waits for its listener.
pub(crate) async fn launch(
    shop: &Workshop,
    core: &str,
    command: &[&str],
    address: SocketAddr,
) -> Result<Server, Failure> {
    let mut program = Program::start(core, command, &shop.path("out.log"))?;
    match program.listening(address).await {
        Ok(()) => Ok(Server { address, program }),
        Err(failure) => Err(failure.next(read(&shop.path("out.log")).unwrap_or_default())),
    }
}

/// Paths here are ours and therefore UTF-8.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("temporary folders are UTF-8")
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| {
        Failure::internal(format!("cannot read {}", path.display())).caused_by(&error)
    })
}
