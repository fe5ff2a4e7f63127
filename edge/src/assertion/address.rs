//! Which addresses the edge may dial because somebody's configuration or document said so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Whether `address` is one of the public Internet, or of a network that the operator listed. An IPv4
/// address inside an IPv6 one counts as what it is.
pub(super) fn may_dial(address: IpAddr, listed: &[IpNet]) -> bool {
    let address = address.to_canonical();
    listed.iter().any(|network| network.contains(&address))
        || match address {
            IpAddr::V4(address) => is_public_4(address),
            IpAddr::V6(address) => is_public_6(address),
        }
}

/// Not in the IANA registry of special-purpose addresses (RFC 6890), and not multicast.
fn is_public_4(address: Ipv4Addr) -> bool {
    const SPECIAL: [([u8; 4], u32); 15] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    let bits = address.to_bits();
    !SPECIAL.iter().any(|(network, length)| {
        let network = Ipv4Addr::from(*network).to_bits();
        (bits ^ network) >> (32 - length) == 0
    })
}

/// Global unicast (RFC 4291 §2.4), less what carries an IPv4 address or is set aside in it.
fn is_public_6(address: Ipv6Addr) -> bool {
    const SPECIAL: [(u128, u32); 4] = [
        (0x2001_0000 << 96, 23),
        (0x2001_0db8 << 96, 32),
        (0x2002_0000 << 96, 16),
        (0x3fff_0000 << 96, 20),
    ];
    let bits = address.to_bits();
    let global = bits >> 125 == 1;
    global
        && !SPECIAL
            .iter()
            .any(|(network, length)| (bits ^ network) >> (128 - length) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_dialled_unless_a_network_is_listed() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "2a00::1",
        ] {
            assert!(may_dial(public.parse().unwrap(), &[]), "{public}");
        }
        for private in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:0:1::1",
            "2001:db8::1",
            "fd00:ec2::254",
            "::7f00:1",
        ] {
            assert!(!may_dial(private.parse().unwrap(), &[]), "{private}");
        }
        let listed = ["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for listed_one in ["127.0.0.1", "::ffff:127.0.0.1", "fd12::1"] {
            assert!(
                may_dial(listed_one.parse().unwrap(), &listed),
                "{listed_one}"
            );
        }
        assert!(!may_dial("10.0.0.1".parse().unwrap(), &listed));
    }
}
