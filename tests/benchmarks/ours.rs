//! Our own proxy as it is measured: the build that is shipped, certificate from files, one route, `log_level: warn` into a file, as its
//! peers have their access logs off.

use std::net::SocketAddr;
use std::path::PathBuf;

use process::Failure;

use crate::machine::{MEASURED, free_port};
use crate::peers::{Server, Workshop, launch, text};

/// Our proxy, running.
#[derive(Debug)]
pub(crate) struct Ours {
    /// The carrier `tls`.
    pub server: Server,
    /// The carrier `websocket`.
    pub websocket: SocketAddr,
}

/// Starts our proxy in front of `upstream`.
pub(crate) async fn proxy(shop: &Workshop, upstream: SocketAddr) -> Result<Ours, Failure> {
    let (tls, websocket, health) = (free_port().await?, free_port().await?, free_port().await?);
    let configuration = shop.write(
        "keyward-proxy.yaml",
        &format!(
            "listen_addr: \"{websocket}\"\nlog_level: warn\ntunnel_domain: bench.example\ncarriers:\n  tls:\n    listen_addr: \"{tls}\"\n\
             tls:\n  cert_file: {}\n  key_file: {}\nroutes:\n  localhost: http://{upstream}\n\
             upstream:\n  allowed_ips: [\"127.0.0.0/8\"]\nhealth:\n  listen_addr: \"{health}\"\n",
            shop.path("cert.pem").display(),
            shop.path("key.pem").display(),
        ),
    )?;
    let program = shipped("keyward-proxy")?;
    let server = launch(
        shop,
        MEASURED,
        &[text(&program), "--config", text(&configuration)],
        tls,
    )
    .await?;
    Ok(Ours { server, websocket })
}

/// A program of the profile `dist`, whose folder is beside that of this program.
pub(crate) fn shipped(name: &str) -> Result<PathBuf, Failure> {
    let here = std::env::current_exe()
        .map_err(|error| Failure::internal("cannot find this program").caused_by(&error))?;
    let target = here.ancestors().nth(2).unwrap_or(&here);
    let path = target.join("dist").join(name);
    if path.exists() {
        return Ok(path);
    }
    Err(
        Failure::internal(format!("{} is not there", path.display()))
            .next("run it through tests/bench, which builds it"),
    )
}
