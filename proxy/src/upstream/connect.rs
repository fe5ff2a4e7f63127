//! From a target to a stream of bytes: resolve once, check every address, dial what passed.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{InvalidDnsNameError, ServerName};

use super::{NotAllowed, Rules, Stream, address};
use crate::config::value::Target;
use crate::socket;

/// The next address is tried when the one before has not answered for this long, RFC 8305 §5.
const STAGGER: Duration = Duration::from_millis(250);

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name could not be looked up.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The name has no addresses.
    #[error("{0} has no addresses")]
    NoAddress(String),
    /// None of its addresses may be dialled; the first of them.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// Nobody answers there; the last address that was tried.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// `connect_timeout` was over.
    #[error("cannot connect within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The upstream's host cannot be a TLS server name.
    #[error("no TLS server name")]
    ServerName(#[from] InvalidDnsNameError),
    /// The TLS handshake failed.
    #[error("tls handshake with upstream failed")]
    Tls(#[source] io::Error),
    /// HTTP could not begin.
    #[error("cannot begin HTTP")]
    Http(#[source] hyper::Error),
    /// An https upstream, and nothing to verify it with.
    #[error("no certificate authorities for upstreams")]
    NoTrust,
}

impl ConnectError {
    /// The next thing to do, on the proxy's side.
    pub fn next(&self) -> String {
        match self {
            Self::Resolve { .. } | Self::NoAddress(_) => {
                "look the name up where the proxy runs, and correct the route's upstream or the name service".to_owned()
            }
            Self::NotAllowed(refused) => {
                format!("if it is meant, write into the proxy's file: {}", refused.line())
            }
            Self::Connect { .. } => {
                "start the server, or correct host and port of the route's upstream".to_owned()
            }
            Self::Timeout(_) => {
                "look for a firewall between the proxy and the server, then at the server".to_owned()
            }
            Self::ServerName(_) => {
                "write a host name into the route's upstream, or http:// where there is no TLS".to_owned()
            }
            Self::Tls(_) => {
                "write the CA of the server into upstream.tls.ca_file, the name that its certificate has into the route's upstream, or http:// where there is no TLS".to_owned()
            }
            Self::Http(_) => "look at the server's log".to_owned(),
            Self::NoTrust => {
                "set upstream.tls.ca_file, or upstream.tls.include_system_cas: true".to_owned()
            }
        }
    }
}

/// Dropping the future abandons the attempt; a name look-up then ends on its own thread.
pub(super) async fn connect(target: &Target, rules: &Rules) -> Result<Stream, ConnectError> {
    let limit = rules.connect_timeout;
    timeout(limit, unlimited(target, rules))
        .await
        .unwrap_or(Err(ConnectError::Timeout(limit)))
}

async fn unlimited(target: &Target, rules: &Rules) -> Result<Stream, ConnectError> {
    let addresses = allowed(resolve(target).await?, target, rules)?;
    let stream = race(addresses, target).await?;
    // Small messages go at once; failing to say so costs latency and nothing else.
    let _ = stream.set_nodelay(true);
    socket::keep_alive(&stream);
    if !target.tls {
        return Ok(Stream::Plain(stream));
    }
    let trust = rules.trust.as_ref().ok_or(ConnectError::NoTrust)?;
    let name = ServerName::try_from(target.host.to_string())?;
    let connecting = TlsConnector::from(trust.0.clone()).connect(name, stream);
    let stream = connecting.await.map_err(ConnectError::Tls)?;
    Ok(Stream::Tls(Box::new(stream)))
}

async fn resolve(target: &Target) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(ip) = target.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, target.port)]);
    }
    match lookup_host((&*target.host, target.port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(source) => Err(ConnectError::Resolve {
            host: target.host.to_string(),
            source,
        }),
    }
}

/// The addresses that pass, in the resolver's order (RFC 6724). What is checked here is what is
/// dialled: the name is not looked up again.
fn allowed(
    resolved: Vec<SocketAddr>,
    target: &Target,
    rules: &Rules,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let mut refused = None;
    let mut addresses = resolved;
    addresses.retain(
        |address| match address::check(&rules.policy, address.ip()) {
            Ok(()) => true,
            Err(error) => {
                refused.get_or_insert(error);
                false
            }
        },
    );
    match refused {
        _ if !addresses.is_empty() => Ok(addresses),
        Some(error) => Err(error.into()),
        None => Err(ConnectError::NoAddress(target.host.to_string())),
    }
}

type Attempt = Pin<Box<dyn Future<Output = (SocketAddr, io::Result<TcpStream>)> + Send>>;

/// Dials one address after the other without waiting long for any; the first that answers wins.
async fn race(addresses: Vec<SocketAddr>, target: &Target) -> Result<TcpStream, ConnectError> {
    let mut waiting = addresses.into_iter();
    let mut running: Vec<Attempt> = Vec::new();
    let mut stagger: Option<Pin<Box<Sleep>>> = None;
    let mut last = None;
    std::future::poll_fn(|cx| {
        loop {
            let mut index = 0;
            while let Some(attempt) = running.get_mut(index) {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready((_, Ok(stream))) => return Poll::Ready(Ok(stream)),
                    Poll::Ready((address, Err(source))) => {
                        last = Some(ConnectError::Connect { address, source });
                        drop(running.swap_remove(index));
                        stagger = None;
                    }
                    Poll::Pending => index += 1,
                }
            }
            if let Some(stagger) = &mut stagger
                && stagger.as_mut().poll(cx).is_pending()
            {
                return Poll::Pending;
            }
            match waiting.next() {
                Some(address) => {
                    running.push(Box::pin(async move {
                        (address, TcpStream::connect(address).await)
                    }));
                    stagger = (waiting.len() > 0).then(|| Box::pin(sleep(STAGGER)));
                }
                None if running.is_empty() => {
                    let none = || ConnectError::NoAddress(target.host.to_string());
                    return Poll::Ready(Err(last.take().unwrap_or_else(none)));
                }
                None => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::UpstreamPolicy;

    /// Everything may be dialled, or what is in `listed`.
    fn rules(listed: Option<&str>) -> Rules {
        Rules {
            policy: UpstreamPolicy {
                allowed_ips: listed.map(|network| vec![network.parse().unwrap()]),
                validate: listed.is_some(),
                ca_file: None,
                include_system_cas: false,
            },
            trust: None,
            connect_timeout: Duration::from_secs(20),
            idle_connections: 0,
        }
    }

    #[tokio::test]
    async fn a_dialled_connection_is_kept_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = format!("http://{}", listener.local_addr().unwrap());
        let stream = connect(&Target::parse(&upstream).unwrap(), &rules(None)).await;
        let Ok(Stream::Plain(stream)) = stream else {
            panic!("{stream:?}");
        };
        assert!(sockopt::socket_keepalive(&stream).unwrap());
    }

    #[test]
    fn of_the_addresses_of_a_name_each_is_checked_and_only_those_that_pass_are_dialled() {
        let target = Target::parse("http://docs:80").unwrap();
        let (good, other) = ("192.0.2.1:80", "[2001:db8::1]:80");
        let checked = |resolved: &[&str]| {
            let resolved = resolved.iter().map(|address| address.parse().unwrap());
            allowed(resolved.collect(), &target, &rules(Some("192.0.2.0/24")))
        };
        for resolved in [
            &[good, "127.0.0.1:80", other][..],
            &["127.0.0.1:80", good],
            &[other, good, "169.254.169.254:80"],
            &[good],
        ] {
            let passed = checked(resolved).unwrap();
            assert_eq!(
                passed,
                [good.parse::<SocketAddr>().unwrap()],
                "{resolved:?}"
            );
        }
        // The first one is told, and the line that would let it through.
        let refused = checked(&["198.51.100.1:80", other]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "IP validation failed: 198.51.100.1 is not a private address"
        );
        assert!(matches!(checked(&[]), Err(ConnectError::NoAddress(_))));
    }
}
