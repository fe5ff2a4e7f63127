//! Which addresses may be dialled. Pure; asked about the very address that is dialled.
//!
//! The default is the private ranges: RFC 1918 as in the stock proxy, and for IPv6 the unique local
//! addresses of RFC 4193, which are their counterpart. `allowed_ips` replaces it.
//!
//! Some addresses mean something else than the network that they appear in: an IPv4 address in IPv6
//! clothes, a neighbour on the link, the machine's own metadata service. A wide network never lets
//! them through; only a listed network that lies within the special range does, so `0.0.0.0/0` does
//! not open `169.254.169.254` and `::/0` opens no `::ffff:10.0.0.1`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

use crate::config::UpstreamPolicy;

/// RFC 1918 §3 and RFC 4193 §3.1.
pub const PRIVATE: [IpNet; 4] = [
    v4([10, 0, 0, 0], 8),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v6(0xfc00 << 112, 7),
];

/// What only a listing of its own opens.
const SPECIAL: [IpNet; 16] = [
    v4([0, 0, 0, 0], 8),      // "this network", RFC 6890; Linux dials itself there
    v4([169, 254, 0, 0], 16), // link-local, RFC 3927; metadata of most clouds
    v4([100, 100, 100, 200], 32), // Alibaba's metadata
    v4([168, 63, 129, 16], 32), // Azure's wire server
    v4([192, 0, 0, 192], 32), // Oracle's metadata
    v4([224, 0, 0, 0], 3),    // multicast, reserved and broadcast
    v6(0xfe80 << 112, 10),    // link-local, RFC 4291 §2.5.6
    v6(0xff00 << 112, 8),     // multicast
    v6(0xffff << 32, 96),     // IPv4-mapped, RFC 4291 §2.5.5.2
    v6(0xffff << 48, 96),     // IPv4-translated, RFC 2765
    v6((0x64 << 112) | (0xff9b << 96), 96), // NAT64, RFC 6052
    v6((0x64 << 112) | (0xff9b << 96) | (1 << 80), 48), // local NAT64, RFC 8215
    v6(0x2002 << 112, 16),    // 6to4, RFC 3056
    v6(0x2001 << 112, 32),    // Teredo, RFC 4380
    v6((0xfd00 << 112) | (0xec2 << 96) | 0x254, 128), // AWS's metadata
    v6((0xfd20 << 112) | (0xce << 96) | 0x254, 128), // Google's metadata
];

/// IPv4-compatible, RFC 4291 §2.5.5.1; apart, because `::1` lies in it and is not one.
const COMPATIBLE: IpNet = v6(0, 96);

const fn v4(octets: [u8; 4], prefix: u8) -> IpNet {
    let [a, b, c, d] = octets;
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix))
}

const fn v6(bits: u128, prefix: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), prefix))
}

/// An address that may not be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("IP validation failed: {ip} is not a private address")]
pub struct NotAllowed {
    ip: IpAddr,
    /// The list in force.
    listed: Vec<IpNet>,
}

impl NotAllowed {
    /// The line of the configuration that would let it through, and all that passes now: the key
    /// replaces the list in force, be it the default or the file's.
    pub fn line(&self) -> String {
        let listed = self.listed.iter().copied().chain([IpNet::from(self.ip)]);
        let listed: Vec<String> = listed.map(|network| format!("\"{network}\"")).collect();
        format!("upstream: {{allowed_ips: [{}]}}", listed.join(", "))
    }
}

/// Whether `policy` lets `ip` be dialled.
///
/// # Errors
///
/// It does not.
pub fn check(policy: &UpstreamPolicy, ip: IpAddr) -> Result<(), NotAllowed> {
    let listed = policy.allowed_ips.as_deref().unwrap_or(&PRIVATE);
    let mut around = listed.iter().filter(|network| network.contains(&ip));
    let allowed = !policy.validate
        || match special(ip) {
            Some(range) => around.any(|network| range.contains(network)),
            None => around.next().is_some(),
        };
    if allowed {
        return Ok(());
    }
    Err(NotAllowed {
        ip,
        listed: listed.to_vec(),
    })
}

fn special(ip: IpAddr) -> Option<IpNet> {
    if ip == IpAddr::V6(Ipv6Addr::LOCALHOST) {
        return None;
    }
    // In IPv6 clothes it is no less the machine's metadata.
    if let IpAddr::V6(clothes) = ip
        && let Some(bare) = clothes.to_ipv4_mapped()
        && let Some(IpNet::V4(range)) = special(bare.into())
    {
        let network = range.network().to_ipv6_mapped();
        return Ipv6Net::new(network, 96 + range.prefix_len())
            .ok()
            .map(IpNet::V6);
    }
    let mut all = SPECIAL.into_iter().chain([COMPATIBLE]);
    all.find(|range| range.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn policy(list: &[&str]) -> UpstreamPolicy {
        UpstreamPolicy {
            allowed_ips: (!list.is_empty())
                .then(|| list.iter().map(|text| text.parse().unwrap()).collect()),
            validate: true,
            ca_file: None,
            include_system_cas: false,
        }
    }

    fn allowed(list: &[&str], ip: &str) -> bool {
        check(&policy(list), ip.parse().unwrap()).is_ok()
    }

    #[test]
    fn without_a_list_private_addresses_pass_and_no_others() {
        for ip in [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "fd12::1",
            "fc00::1",
        ] {
            assert!(allowed(&[], ip), "{ip}");
        }
        for ip in [
            "127.0.0.1",
            "::1",
            "172.32.0.1",
            "8.8.8.8",
            "2001:db8::1",
            "100.64.0.1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "fd00:ec2::254",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::1",
        ] {
            assert!(!allowed(&[], ip), "{ip}");
        }
    }

    #[test]
    fn a_list_replaces_the_private_ranges() {
        assert!(allowed(&["127.0.0.0/8"], "127.0.0.1"));
        assert!(!allowed(&["127.0.0.0/8"], "10.0.0.1"));
        assert!(allowed(&["::1/128"], "::1"));
        assert!(allowed(&["2001:db8::/32"], "2001:db8::5"));
        assert!(!allowed(&["192.0.2.7/32"], "192.0.2.8"));
    }

    #[test]
    fn a_wide_list_does_not_open_what_is_special() {
        for ip in ["169.254.169.254", "0.0.0.0", "168.63.129.16"] {
            assert!(!allowed(&["0.0.0.0/0"], ip), "{ip}");
        }
        for ip in [
            "::ffff:10.0.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "::10.0.0.1",
            "64:ff9b::808:808",
            "::",
        ] {
            assert!(!allowed(&["::/0", "0.0.0.0/0"], ip), "{ip}");
        }
        assert!(!allowed(&["10.0.0.0/8"], "::ffff:10.0.0.1"));
        assert!(allowed(&["::ffff:0:0/96"], "::ffff:10.0.0.1"));
        assert!(!allowed(&["::ffff:0:0/96"], "::ffff:169.254.169.254"));
        assert!(allowed(
            &["::ffff:169.254.0.0/112"],
            "::ffff:169.254.169.254"
        ));
    }

    #[test]
    fn what_is_special_opens_by_a_listing_of_its_own() {
        for (listed, ip) in [
            ("169.254.0.0/16", "169.254.1.1"),
            ("169.254.169.254/32", "169.254.169.254"),
            ("::ffff:10.0.0.0/104", "::ffff:10.0.0.1"),
            ("fe80::/10", "fe80::1"),
            ("64:ff9b::/96", "64:ff9b::a00:1"),
            ("fd00:ec2::254/128", "fd00:ec2::254"),
        ] {
            assert!(allowed(&[listed], ip), "{ip}");
        }
    }

    /// The policy of a configuration file in which `line` stands.
    fn configured(line: &str) -> UpstreamPolicy {
        let text = format!("listen_addr: ':0'\ncontrol: {{socket: s}}\nroutes: {{}}\n{line}\n");
        Config::from_text(&text, None).unwrap().upstream
    }

    #[test]
    fn a_refusal_names_the_line_that_lets_it_through_and_all_that_passed_before() {
        let refused = |list: &[&str], ip: &str| check(&policy(list), ip.parse().unwrap());
        let error = refused(&[], "8.8.8.8").unwrap_err();
        assert_eq!(
            error.to_string(),
            "IP validation failed: 8.8.8.8 is not a private address"
        );
        assert_eq!(
            error.line(),
            "upstream: {allowed_ips: [\"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\", \
             \"fc00::/7\", \"8.8.8.8/32\"]}"
        );
        assert_eq!(
            refused(&["192.0.2.0/24"], "fe80::1").unwrap_err().line(),
            "upstream: {allowed_ips: [\"192.0.2.0/24\", \"fe80::1/128\"]}"
        );
        for (list, before) in [(&[][..], "10.1.2.3"), (&["192.0.2.0/24"][..], "192.0.2.1")] {
            for ip in [
                "8.8.8.8",
                "::1",
                "fe80::1",
                "::ffff:10.0.0.1",
                "169.254.169.254",
                "fd20:ce::254",
                "0.0.0.0",
            ] {
                let line = refused(list, ip).unwrap_err().line();
                for ip in [before, ip] {
                    let allowed = check(&configured(&line), ip.parse().unwrap());
                    assert_eq!(allowed, Ok(()), "{line}");
                }
            }
        }
    }

    #[test]
    fn validation_that_is_switched_off_lets_everything_through() {
        let off = UpstreamPolicy {
            validate: false,
            ..policy(&[])
        };
        assert_eq!(check(&off, "169.254.169.254".parse().unwrap()), Ok(()));
    }
}
