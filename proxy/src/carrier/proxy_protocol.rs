//! PROXY protocol version 2, as load balancers speak it.
//!
//! Source: "The PROXY protocol, versions 1 & 2", section 2.2. Version 1 is refused, because a
//! listener that takes either can be told either by whoever reaches it. TLVs are skipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Section 2.2: the signature, then version and command, family and transport, length.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED: usize = 16;
/// Longer than every address and the TLVs that clouds add; the format would allow 64 KiB.
const LONGEST: usize = 1024;

/// Why a header was refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// The bytes are not a header of version 2.
    #[error("no PROXY protocol v2 header")]
    Absent,
    /// A version, command, family or length that does not exist or is too long.
    #[error("malformed PROXY protocol v2 header")]
    Malformed,
}

/// Reads a header, and not a byte more, off `stream`. `None` for LOCAL and for families without an
/// IP address: the peer of the connection is the caller then.
pub(crate) async fn read<R: AsyncRead + Unpin>(
    stream: &mut R,
) -> Result<Option<SocketAddr>, super::CarrierError> {
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    let mut rest = vec![0; rest_length(&fixed)?];
    stream.read_exact(&mut rest).await?;
    Ok(parse(&fixed, &rest)?)
}

/// Section 2.2: bytes 14 and 15, in network order, count what follows.
fn rest_length(fixed: &[u8; FIXED]) -> Result<usize, HeaderError> {
    if !fixed.starts_with(&SIGNATURE) {
        return Err(HeaderError::Absent);
    }
    let [.., high, low] = *fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(HeaderError::Malformed);
    }
    Ok(length)
}

/// What a header says, once it is there as a whole.
fn parse(fixed: &[u8; FIXED], rest: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    let [.., version_command, family, _, _] = *fixed;
    match version_command {
        0x20 => return Ok(None), // LOCAL: the family is to be ignored
        0x21 => {}
        _ => return Err(HeaderError::Malformed),
    }
    match family {
        // AF_INET, STREAM: source, destination, source port, destination port.
        0x11 => source::<4>(rest, 12, |octets| Ipv4Addr::from(octets).into()).map(Some),
        0x21 => source::<16>(rest, 36, |octets| Ipv6Addr::from(octets).into()).map(Some),
        // UNSPEC and AF_UNIX, STREAM: "the receiver should ignore" what it has no use for.
        0x00 | 0x31 => Ok(None),
        _ => Err(HeaderError::Malformed),
    }
}

fn source<const N: usize>(
    rest: &[u8],
    length: usize,
    address: impl Fn([u8; N]) -> IpAddr,
) -> Result<SocketAddr, HeaderError> {
    let addresses = rest.get(..length).ok_or(HeaderError::Malformed)?;
    let octets = addresses.first_chunk::<N>().ok_or(HeaderError::Malformed)?;
    let ports = addresses.get(2 * N..).ok_or(HeaderError::Malformed)?;
    let port = ports.first_chunk::<2>().ok_or(HeaderError::Malformed)?;
    Ok(SocketAddr::new(address(*octets), u16::from_be_bytes(*port)))
}

/// Reads a header out of `bytes`, for the tests that throw anything at it. `None`: refused or cut.
pub fn probe(bytes: &[u8]) -> Option<Option<SocketAddr>> {
    let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
    let length = rest_length(fixed).ok()?;
    parse(fixed, rest.get(..length)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([version_command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x1f, 0x90, 0x01, 0xbb];

    #[tokio::test]
    async fn a_header_is_read_and_not_a_byte_more() {
        let mut bytes = header(0x21, 0x11, &V4);
        bytes.extend(b"\x16\x03\x01");
        let mut stream = bytes.as_slice();
        let peer = read(&mut stream).await.unwrap();
        assert_eq!(peer, Some("192.0.2.7:8080".parse().unwrap()));
        assert_eq!(stream, b"\x16\x03\x01");
    }

    #[test]
    fn ipv6_and_tlvs_are_understood() {
        let mut rest = Vec::from(Ipv6Addr::LOCALHOST.octets());
        rest.extend(Ipv6Addr::UNSPECIFIED.octets());
        rest.extend([0, 80, 1, 187, 0x04, 0, 1, 0]);
        let peer = probe(&header(0x21, 0x21, &rest));
        assert_eq!(peer, Some(Some("[::1]:80".parse().unwrap())));
    }

    #[test]
    fn local_and_unspecified_name_nobody() {
        assert_eq!(probe(&header(0x20, 0x11, &V4)), Some(None));
        assert_eq!(probe(&header(0x21, 0x00, &[])), Some(None));
    }

    #[test]
    fn version_one_and_garbage_are_refused() {
        assert_eq!(
            probe(b"PROXY TCP4 192.0.2.7 198.51.100.1 8080 443\r\n"),
            None
        );
        assert_eq!(
            probe(&header(0x11, 0x11, &V4)),
            None,
            "version 1 in a version 2 header"
        );
        assert_eq!(probe(&header(0x22, 0x11, &V4)), None, "an unknown command");
        assert_eq!(probe(&header(0x21, 0x12, &V4)), None, "datagrams");
        assert_eq!(probe(&header(0x21, 0x11, &V4[..11])), None, "a cut address");
        assert_eq!(
            probe(&header(0x21, 0x11, &[0; LONGEST + 1])),
            None,
            "too long"
        );
    }
}
