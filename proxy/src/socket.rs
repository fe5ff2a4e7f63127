//! TCP sockets as the system does not make them by itself: a peer that vanished is noticed, and
//! "every address" means both families.
//!
//! Knows nothing of what runs on a socket. What is set here cannot be configured: the defaults are
//! those of `docs/config.md`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket};

/// Silence after which the peer is asked whether it is still there: below the 60 s after which common
/// load balancers forget a connection.
const IDLE: Duration = Duration::from_secs(30);
/// Between two askings of a peer that does not answer ...
const INTERVAL: Duration = Duration::from_secs(10);
/// ... and after this many it is gone: within a minute.
const PROBES: u32 = 3;
/// Connections that the system holds until they are accepted; as many as the standard library lets wait.
const BACKLOG: u32 = 1024;

/// Listens on `addr`. `[::]` takes IPv4 too, whatever `net.ipv6.bindv6only` says, and is `0.0.0.0` on a
/// machine without IPv6. Accepted connections are kept alive as [`keep_alive`] says.
///
/// # Errors
///
/// The port is taken, or may not be had.
pub(crate) fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    listen_on(addr, open)
}

/// Lets the system ask a silent peer whether it is still there (RFC 9293 section 3.8.4), so that a
/// connection whose other end vanished does not stay for ever. On Linux, what is set on a listener is
/// inherited by what it accepts.
pub(crate) fn keep_alive(socket: impl AsFd) {
    let socket = socket.as_fd();
    // A socket that refuses lives as sockets do without it.
    let _ = sockopt::set_tcp_keepidle(socket, IDLE);
    let _ = sockopt::set_tcp_keepintvl(socket, INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(socket, PROBES);
    let _ = sockopt::set_socket_keepalive(socket, true);
}

fn listen_on(
    addr: SocketAddr,
    open: impl Fn(SocketAddr) -> io::Result<TcpSocket>,
) -> io::Result<TcpListener> {
    let everywhere = addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match bind(addr, &open) {
        Err(error) if everywhere && is_without_ipv6(&error) => {
            let addr = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port());
            bind(addr, &open)
        }
        bound => bound,
    }
}

fn open(addr: SocketAddr) -> io::Result<TcpSocket> {
    if addr.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
}

fn bind(
    addr: SocketAddr,
    open: impl Fn(SocketAddr) -> io::Result<TcpSocket>,
) -> io::Result<TcpListener> {
    let socket = open(addr)?;
    // A restart does not wait for connections of the process before to be forgotten.
    socket.set_reuseaddr(true)?;
    if addr.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    keep_alive(&socket);
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}

/// The kernel has no IPv6, or no IPv6 address to bind.
fn is_without_ipv6(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    const EVERYWHERE: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);

    async fn is_reached(listener: &TcpListener, ip: IpAddr) -> bool {
        let addr = SocketAddr::new(ip, listener.local_addr().unwrap().port());
        TcpStream::connect(addr).await.is_ok()
    }

    #[tokio::test]
    async fn every_address_is_both_families_whatever_the_machine_prefers() {
        // As on a machine with net.ipv6.bindv6only = 1.
        let apart = |addr| {
            let socket = open(addr)?;
            sockopt::set_ipv6_v6only(&socket, true)?;
            Ok(socket)
        };
        let listener = listen_on(EVERYWHERE, apart).unwrap();
        assert!(is_reached(&listener, Ipv4Addr::LOCALHOST.into()).await);
        assert!(is_reached(&listener, Ipv6Addr::LOCALHOST.into()).await);
    }

    #[tokio::test]
    async fn a_machine_without_ipv6_listens_on_every_ipv4_address() {
        for missing in [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL] {
            let without = |addr: SocketAddr| match addr {
                SocketAddr::V4(_) => open(addr),
                SocketAddr::V6(_) => Err(missing.into()),
            };
            let listener = listen_on(EVERYWHERE, without).unwrap();
            assert!(is_reached(&listener, Ipv4Addr::LOCALHOST.into()).await);
            // One address that was asked for by name is not replaced by another.
            let loopback = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
            listen_on(loopback, without).unwrap_err();
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_no_reason_to_take_another_family() {
        let first = listen(EVERYWHERE).unwrap();
        let taken = listen(first.local_addr().unwrap()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn what_a_listener_accepts_is_kept_alive() {
        let listener = listen(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap());
        let (near, accepted) = tokio::join!(near, listener.accept());
        let (near, accepted) = (near.unwrap(), accepted.unwrap().0);
        assert!(!sockopt::socket_keepalive(&near).unwrap(), "the system's");
        keep_alive(&near);
        for socket in [&near, &accepted] {
            assert!(sockopt::socket_keepalive(socket).unwrap());
            assert_eq!(sockopt::tcp_keepidle(socket).unwrap(), IDLE);
            assert_eq!(sockopt::tcp_keepintvl(socket).unwrap(), INTERVAL);
            assert_eq!(sockopt::tcp_keepcnt(socket).unwrap(), PROBES);
        }
    }
}
