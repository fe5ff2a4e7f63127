//! Load generators on their own core, and what they printed.

use std::net::SocketAddr;
use std::path::Path;

use process::Failure;

use crate::machine::{LOAD, output};
use crate::peers::text;

/// What a load generator saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    /// Requests that were answered with 2xx.
    pub requests: f64,
    /// Requests a second.
    pub rate: f64,
    /// Microseconds; absent where the program does not say.
    pub p50: Option<f64>,
    /// Microseconds; absent where the program does not say.
    pub p99: Option<f64>,
}

/// For wrk's `-s`: whatever the name in the URL, which goes into the `ClientHello`, loopback is loaded.
pub(crate) const ON_LOOPBACK: &str =
    "function wrk.resolve(_, service) wrk.addrs = wrk.lookup('127.0.0.1', service) end\n";

/// wrk: HTTP/1.1 with keep-alive over `connections` to `localhost`.
pub(crate) async fn wrk(
    address: SocketAddr,
    connections: u32,
    seconds: u32,
) -> Result<Seen, Failure> {
    let url = format!("https://localhost:{}/", address.port());
    run_wrk(&[&url], connections, seconds).await
}

/// The same under the name `host`; `script` is a file with [`ON_LOOPBACK`].
pub(crate) async fn wrk_named(
    (host, script): (&str, &Path),
    address: SocketAddr,
    connections: u32,
    seconds: u32,
) -> Result<Seen, Failure> {
    let url = format!("https://{host}:{}/", address.port());
    run_wrk(&["-s", text(script), &url], connections, seconds).await
}

async fn run_wrk(more: &[&str], connections: u32, seconds: u32) -> Result<Seen, Failure> {
    let (connections, duration) = (format!("-c{connections}"), format!("-d{seconds}s"));
    let words = [
        "taskset",
        "-c",
        LOAD,
        "wrk",
        "-t1",
        &connections,
        &duration,
        "--latency",
    ];
    let said = output(&[&words, more].concat()).await?;
    read_wrk(&said).ok_or_else(|| Failure::internal("wrk had failures").cause(said))
}

/// h2load: HTTP/2, 8 connections with 32 streams each.
pub(crate) async fn h2load(address: SocketAddr, seconds: u32) -> Result<Seen, Failure> {
    let (connect, duration) = (format!("--connect-to={address}"), seconds.to_string());
    let url = format!("https://localhost:{}/", address.port());
    let text = output(&[
        "taskset", "-c", LOAD, "h2load", "-t1", "-c8", "-m32", "-D", &duration, &connect, &url,
    ])
    .await?;
    read_h2load(&text).ok_or_else(|| Failure::internal("h2load had failures").cause(text))
}

/// curl: `times` downloads of `path` of `host` over one HTTP/1.1 connection. Gives the bytes that came.
pub(crate) async fn download(
    host: &str,
    address: SocketAddr,
    path: &str,
    times: u32,
) -> Result<f64, Failure> {
    let url = format!("https://{host}:{}{path}?[1-{times}]", address.port());
    let resolve = format!("{host}:{}:{}", address.port(), address.ip());
    let text = output(&[
        "taskset",
        "-c",
        LOAD,
        "curl",
        "-sSfk",
        "--http1.1",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}\n",
        "--resolve",
        &resolve,
        &url,
    ])
    .await?;
    Ok(text
        .lines()
        .filter_map(|line| line.parse::<f64>().ok())
        .sum())
}

fn read_wrk(text: &str) -> Option<Seen> {
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        return None;
    }
    let line = |mark: &str| text.lines().find(|line| line.contains(mark));
    let after = |mark: &str| line(mark)?.split_whitespace().last().map(str::to_owned);
    Some(Seen {
        requests: line(" requests in ")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()?,
        rate: after("Requests/sec:")?.parse().ok()?,
        p50: after(" 50% ").as_deref().and_then(microseconds),
        p99: after(" 99% ").as_deref().and_then(microseconds),
    })
}

fn read_h2load(text: &str) -> Option<Seen> {
    let numbers = |mark: &str| {
        let line = text.lines().find(|line| line.starts_with(mark))?;
        Some(
            line.split([' ', ',', ':'])
                .filter_map(|word| word.parse::<f64>().ok())
                .collect::<Vec<_>>(),
        )
    };
    // requests: N total, N started, N done, N succeeded, N failed, N errored, N timeout
    let requests = numbers("requests:")?;
    let (succeeded, bad) = (*requests.get(3)?, requests.get(4..)?);
    let status = numbers("status codes:")?;
    let other: f64 = status.iter().skip(1).sum();
    if bad.iter().sum::<f64>() > 0.0 || other > 0.0 || succeeded == 0.0 {
        return None;
    }
    let finished = text.lines().find(|line| line.starts_with("finished in"))?;
    let rate = finished
        .split_whitespace()
        .find_map(|word| word.parse::<f64>().ok())?;
    Some(Seen {
        requests: succeeded,
        rate,
        p50: None,
        p99: None,
    })
}

/// `12.34us`, `1.20ms`, `1.5s` in microseconds.
fn microseconds(text: &str) -> Option<f64> {
    let (number, factor) = if let Some(number) = text.strip_suffix("us") {
        (number, 1.0)
    } else if let Some(number) = text.strip_suffix("ms") {
        (number, 1e3)
    } else {
        (text.strip_suffix('s')?, 1e6)
    };
    number.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 1s test @ https://localhost:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.13ms  200.00us   9.00ms   90.00%
  Latency Distribution
     50%    1.10ms
     75%    1.20ms
     90%    1.30ms
     99%  950.00us
  56789 requests in 1.00s, 10.00MB read
Requests/sec:  56780.12
Transfer/sec:     10.00MB
";

    #[test]
    fn what_wrk_prints_is_read() {
        let seen = Seen {
            requests: 56789.0,
            rate: 56780.12,
            p50: Some(1100.0),
            p99: Some(950.0),
        };
        assert_eq!(read_wrk(WRK), Some(seen));
        assert_eq!(
            read_wrk(&format!("{WRK}  Non-2xx or 3xx responses: 3\n")),
            None
        );
        assert_eq!(
            read_wrk(&format!(
                "{WRK}  Socket errors: connect 0, read 1, write 0, timeout 0\n"
            )),
            None
        );
    }

    const H2LOAD: &str = "finished in 2.00s, 61234.50 req/s, 9.80MB/s
requests: 122469 total, 122725 started, 122469 done, 122469 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 122725 2xx, 0 3xx, 0 4xx, 0 5xx
";

    #[test]
    fn what_h2load_prints_is_read() {
        let seen = read_h2load(H2LOAD).unwrap();
        assert!(
            (seen.requests - 122_469.0).abs() < 0.1 && (seen.rate - 61_234.5).abs() < 0.1,
            "{seen:?}"
        );
        assert_eq!(read_h2load(&H2LOAD.replace("0 failed", "1 failed")), None);
        assert_eq!(read_h2load(&H2LOAD.replace("0 5xx", "7 5xx")), None);
    }
}
