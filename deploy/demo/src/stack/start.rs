//! Starts each program of a stack and waits until it is ready.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Listeners, Operator, Paths, Pipes, Program, ROUTE, StackError, StackOptions, tunnel};

/// How long each program may take to be ready.
pub(super) const READY: Duration = Duration::from_secs(30);

/// The daemon, once it has a CA.
pub(super) async fn daemon(
    options: &StackOptions,
    paths: &Paths,
    operator: &Operator,
) -> Result<Program, StackError> {
    let mut daemon = begin_daemon(options, paths)?;
    wait_for_daemon(&mut daemon, operator).await?;
    Ok(daemon)
}

/// The daemon, which does nothing yet.
pub(super) fn begin_daemon(options: &StackOptions, paths: &Paths) -> Result<Program, StackError> {
    let arguments = ["run", "--single-user", "--config"].map(OsString::from);
    let arguments = with(&arguments, &paths.daemon_config);
    let path = &options.programs.daemon;
    Program::start("keyward", path, &arguments, &paths.logs, Pipes::None)
}

/// The sample server, and where it listens.
pub(super) async fn sample(
    options: &StackOptions,
    logs: &Path,
) -> Result<(Program, SocketAddr), StackError> {
    let arguments = ["sample".into()];
    let mut sample = Program::start(
        "sample",
        &options.programs.demo,
        &arguments,
        logs,
        Pipes::Own,
    )?;
    let address = sample.announced().await?.get("address").copied();
    match address {
        Some(address) => Ok((sample, address)),
        None => Err(sample.not_ready("it did not say where it listens").await),
    }
}

/// The connector double, where it takes far peers, and where it answers `/ready`.
pub(super) async fn connector(
    options: &StackOptions,
    origin: SocketAddr,
    logs: &Path,
) -> Result<(Program, SocketAddr, SocketAddr), StackError> {
    let grace = format!("{}ms", options.grace.as_millis());
    let origin = origin.to_string();
    let arguments = ["connector", "--origin", &origin, "--grace-period", &grace];
    let arguments = arguments.map(OsString::from);
    let mut connector = Program::start(
        "connector",
        &options.programs.demo,
        &arguments,
        logs,
        Pipes::Own,
    )?;
    let announced = connector.announced().await?;
    match (announced.get("address"), announced.get("metrics")) {
        (Some(address), Some(metrics)) => Ok((connector, *address, *metrics)),
        _ => Err(connector.not_ready("it did not say where it listens").await),
    }
}

async fn wait_for_daemon(daemon: &mut Program, operator: &Operator) -> Result<(), StackError> {
    let over = tokio::time::Instant::now() + READY;
    loop {
        if let Ok(status) = operator.status().await
            && tunnel(&status, "ca/pem").is_some()
        {
            return Ok(());
        }
        if let Some(ended) = daemon.ended() {
            return Err(StackError::Ended(ended));
        }
        if tokio::time::Instant::now() > over {
            return Err(daemon.not_ready("it has published nothing").await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The proxy, once it is ready, and where it listens.
///
/// Between picking a port and binding it somebody else may take it: then others are picked.
pub(super) async fn proxy(
    options: &StackOptions,
    paths: &Paths,
    upstream: &str,
    edge: &str,
) -> Result<(Program, Listeners), StackError> {
    let mut routes = vec![(ROUTE.to_owned(), upstream.to_owned())];
    routes.extend(options.routes.iter().cloned());
    if !routes.iter().any(|(name, _)| name == "localhost") {
        routes.push(("localhost".to_owned(), upstream.to_owned()));
    }
    let mut attempts = 0;
    loop {
        attempts += 1;
        let listeners = Listeners::pick()?;
        paths.write_proxy(options, listeners, &routes, edge)?;
        let arguments = with(&["--config".into()], &paths.proxy_config);
        let path = &options.programs.proxy;
        let mut proxy =
            Program::start("keyward-proxy", path, &arguments, &paths.logs, Pipes::None)?;
        match wait_until_ready(&mut proxy, listeners.health).await {
            Ok(()) => return Ok((proxy, listeners)),
            Err(StackError::Ended(ended)) if attempts < 4 && ended.tail.contains("in use") => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn wait_until_ready(
    proxy: &mut Program,
    health: SocketAddr,
) -> Result<(), StackError> {
    let over = tokio::time::Instant::now() + READY;
    let mut why = String::new();
    loop {
        match ready(health).await {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => return Ok(()),
            Ok(answer) => {
                let reasons = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
                why = reasons.lines().collect::<Vec<_>>().join(", ");
            }
            // Not listening yet.
            Err(_) => {}
        }
        if let Some(ended) = proxy.ended() {
            return Err(StackError::Ended(ended));
        }
        if tokio::time::Instant::now() > over {
            return Err(proxy.not_ready(&why).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The whole answer to `GET /readyz`.
async fn ready(health: SocketAddr) -> std::io::Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(health).await?;
        stream
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        stream.take(64 << 10).read_to_string(&mut answer).await?;
        Ok(answer)
    };
    let limited = tokio::time::timeout(Duration::from_secs(2), exchange).await;
    limited.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

pub(super) fn with(arguments: &[OsString], last: &Path) -> Vec<OsString> {
    let mut arguments = arguments.to_vec();
    arguments.push(last.as_os_str().to_owned());
    arguments
}
