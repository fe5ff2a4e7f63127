//! Who may call a tunnel: one document each, replaced as a whole.

use std::collections::BTreeSet;

use ipnet::{IpNet, Ipv4Net};

use super::instance::{self, SILENCE};
use super::{By, Change, ChangeError, DatabaseError, Entry, State, signed, unsigned};

/// Most entries of each list, so that the document stays one that is read at each change.
const MOST: usize = 256;

/// A document and the version that `If-Match` is compared with. Version 0: none was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versioned {
    /// Counts up by one.
    pub version: u64,
    /// As it was put.
    pub access: api::Access,
}

impl State {
    /// Who may call a tunnel now.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`] if the database does not answer.
    pub async fn access(&self, tunnel: &str) -> Result<Versioned, DatabaseError> {
        let row: Option<(i64, String)> =
            sqlx::query_as("SELECT version, document FROM access WHERE tunnel = $1")
                .bind(tunnel)
                .fetch_optional(&self.pool)
                .await?;
        Ok(row.map(versioned).unwrap_or_default())
    }

    /// Replaces who may call, provided that the version is still `expected`; `None`: whatever it is.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Invalid`] names the entry, also `asns` that an edge which serves cannot tell;
    /// [`ChangeError::Stale`] has the version now.
    ///
    /// # Panics
    ///
    /// Never: plain data has a JSON form.
    pub async fn put_access(
        &self,
        by: &By,
        tunnel: &str,
        access: &api::Access,
        expected: Option<u64>,
    ) -> Result<(Versioned, u64), ChangeError> {
        let mut access = access.clone();
        access.enforced = None;
        check(&access).map_err(ChangeError::Invalid)?;
        let document = serde_json::to_string(&access).expect("plain data has a JSON form");
        let mut change = self.change(by).await?;
        change.usable_tunnel(tunnel).await?;
        if !access.asns.is_empty() {
            change.tables_of_asns().await?;
        }
        let row: Option<(i64, String)> =
            sqlx::query_as("SELECT version, document FROM access WHERE tunnel = $1")
                .bind(tunnel)
                .fetch_optional(&mut *change.transaction)
                .await?;
        let current = row.map(versioned).unwrap_or_default().version;
        if expected.is_some_and(|expected| expected != current) {
            return Err(ChangeError::Stale { current });
        }
        let version = current + 1;
        sqlx::query(
            "INSERT INTO access (tunnel, version, document, changed_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (tunnel) DO UPDATE SET version = $2, document = $3, changed_at = $4",
        )
        .bind(tunnel)
        .bind(signed(version))
        .bind(&document)
        .bind(signed(by.now))
        .execute(&mut *change.transaction)
        .await?;
        let number = change
            .commit(Entry::of("tunnel_access_changed", tunnel, tunnel))
            .await?;
        Ok((Versioned { version, access }, number))
    }
}

impl Change<'_> {
    /// Whether every edge that serves knows who has which address: one that does not would let nobody in.
    async fn tables_of_asns(&mut self) -> Result<(), ChangeError> {
        let now = instance::clock(self.transaction.backend_name());
        let rows: Vec<(i64,)> = sqlx::query_as(&format!(
            "SELECT asns FROM instance WHERE seen_at > {now} - {SILENCE}"
        ))
        .fetch_all(&mut *self.transaction)
        .await?;
        let (of, without) = (rows.len(), rows.iter().filter(|(has,)| *has == 0).count());
        if without == 0 {
            return Ok(());
        }
        Err(ChangeError::Invalid(format!(
            "asns: {without} of {of} edges have no asn_file in their configuration, so that no caller's number is known and nobody would be let in there: set asn_file and start them again, or leave asns empty"
        )))
    }
}

pub(super) fn versioned((version, document): (i64, String)) -> Versioned {
    Versioned {
        version: unsigned(version),
        // Only checked documents are written. One that a later release wrote lets nobody in.
        access: serde_json::from_str(&document).unwrap_or_default(),
    }
}

/// Whether a list can be put: names the entry that cannot.
pub(crate) fn check(access: &api::Access) -> Result<(), String> {
    if access.client_ca_certificates.len() > 2 {
        return Err("client_ca_certificates: at most two".to_owned());
    }
    for (index, text) in access.client_ca_certificates.iter().enumerate() {
        client_ca(text).map_err(|why| format!("client_ca_certificates[{index}]: {why}"))?;
    }
    let lists = [
        ("clients", access.clients.len()),
        ("denied", access.denied.len()),
        ("cidrs", access.cidrs.len()),
        ("asns", access.asns.len()),
    ];
    if let Some((name, _)) = lists.iter().find(|(_, length)| *length > MOST) {
        return Err(format!("{name}: at most {MOST} entries"));
    }
    entries("clients", &access.clients, is_client)?;
    entries("denied", &access.denied, |text| {
        text.parse::<pki::Fingerprint>()
            .is_ok_and(|print| print.to_string() == text)
    })?;
    entries("cidrs", &access.cidrs, is_network)?;
    for (index, text) in access.cidrs.iter().enumerate() {
        if let Some(meant) = mapped(text) {
            return Err(format!(
                "cidrs[{index}]: {text} matches nobody, since a caller over IPv4 counts by its IPv4 address: write {meant}"
            ));
        }
    }
    let certificates = !access.client_ca_certificates.is_empty();
    for (name, list) in [("clients", &access.clients), ("denied", &access.denied)] {
        if !certificates && !list.is_empty() {
            return Err(format!(
                "{name}: means nothing without client_ca_certificates, since no caller is then asked for a certificate: add the CA, or leave {name} empty"
            ));
        }
    }
    if !certificates && access.cidrs.is_empty() && !access.asns.is_empty() {
        let text = "asns: lets nobody in alone, since it only narrows who else may call: add client_ca_certificates or cidrs";
        return Err(text.to_owned());
    }
    if access.asns.contains(&0) {
        return Err("asns: 0 is nobody's number".to_owned());
    }
    if access.limits.streams == Some(0) || access.limits.connections_per_minute == Some(0) {
        return Err("limits: at least 1".to_owned());
    }
    Ok(())
}

fn entries(name: &str, list: &[String], fits: impl Fn(&str) -> bool) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for (index, entry) in list.iter().enumerate() {
        if !fits(entry) {
            let wanted = match name {
                "clients" => {
                    "a DNS name or a URI of printable characters, at most one * at its end"
                }
                "denied" => "64 lower-case hexadecimal digits, the SHA-256 of a certificate",
                _ => {
                    "a network such as 192.0.2.0/24 or 2001:db8::/32 with no bit set behind its length"
                }
            };
            return Err(format!("{name}[{index}]: must be {wanted}"));
        }
        if !seen.insert(entry) {
            return Err(format!("{name}[{index}]: is there twice"));
        }
    }
    Ok(())
}

fn client_ca(text: &str) -> Result<(), &'static str> {
    if text.len() > 8 * 1024 {
        return Err("at most 8 kB");
    }
    let ca = pki::Certificate::from_pem(text)
        .map_err(|_| "must be exactly one certificate in PEM, with no key beside it")?;
    if ca.is_authority() && ca.may_sign_certificates() {
        Ok(())
    } else {
        Err("must be a CA certificate whose key usage has keyCertSign")
    }
}

fn is_client(text: &str) -> bool {
    let name = text.strip_suffix('*').unwrap_or(text);
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'*';
    text.len() <= 255 && !name.is_empty() && name.bytes().all(plain)
}

/// Bits behind the length are mostly a slip: 192.0.2.17/24 may mean the host or the network.
fn is_network(text: &str) -> bool {
    text.parse::<IpNet>()
        .is_ok_and(|network| network.trunc() == network)
}

/// The network of IPv4 that `text` writes as one of IPv6 (RFC 4291 section 2.5.5.2).
fn mapped(text: &str) -> Option<Ipv4Net> {
    let IpNet::V6(network) = text.parse().ok()? else {
        return None;
    };
    let address = network.addr().to_ipv4_mapped()?;
    Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
}

#[cfg(test)]
mod tests {
    use process::Clock;

    use super::*;

    type Change<'a> = &'a dyn Fn(&mut api::Access);

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn a_slip_in_the_access_list_is_named_by_its_place() {
        let ca = authority();
        let with = |change: Change<'_>| {
            let mut access = api::Access {
                client_ca_certificates: vec![ca.clone()],
                cidrs: vec!["192.0.2.0/24".to_owned(), "2001:db8::/32".to_owned()],
                clients: vec![
                    "agent-1".to_owned(),
                    "spiffe://example.org/agent/*".to_owned(),
                ],
                asns: vec![64_496],
                ..api::Access::default()
            };
            change(&mut access);
            check(&access)
        };
        assert_eq!(with(&|_| ()), Ok(()));
        let cases: [(Change<'_>, &str); 14] = [
            (&|a| a.cidrs.push("192.0.2.17/24".to_owned()), "cidrs[2]"),
            (&|a| a.cidrs.push("192.0.2.0/33".to_owned()), "cidrs[2]"),
            (
                &|a| a.cidrs.push("::ffff:127.0.0.0/104".to_owned()),
                "cidrs[2]: ::ffff:127.0.0.0/104 matches nobody, since a caller over IPv4 counts by its IPv4 address: write 127.0.0.0/8",
            ),
            (
                &|a| a.cidrs.push("::ffff:192.0.2.7/128".to_owned()),
                "cidrs[2]: ::ffff:192.0.2.7/128 matches nobody, since a caller over IPv4 counts by its IPv4 address: write 192.0.2.7/32",
            ),
            (
                &|a| a.cidrs.push("192.0.2.0/24".to_owned()),
                "cidrs[2]: is there twice",
            ),
            (&|a| a.clients.push("*".to_owned()), "clients[2]"),
            (&|a| a.clients.push("a*b".to_owned()), "clients[2]"),
            (&|a| a.denied.push("AB".repeat(32)), "denied[0]"),
            (&|a| a.asns.push(0), "asns"),
            (
                &|a| a.client_ca_certificates = vec!["x".to_owned()],
                "client_ca_certificates[0]",
            ),
            (
                &|a| a.client_ca_certificates.clear(),
                "clients: means nothing without client_ca_certificates",
            ),
            (
                &|a| {
                    *a = api::Access {
                        denied: vec!["ab".repeat(32)],
                        cidrs: a.cidrs.clone(),
                        ..api::Access::default()
                    }
                },
                "denied: means nothing without client_ca_certificates",
            ),
            (
                &|a| {
                    *a = api::Access {
                        clients: vec!["x".to_owned()],
                        ..api::Access::default()
                    }
                },
                "clients: means nothing",
            ),
            (
                &|a| {
                    *a = api::Access {
                        asns: vec![64_512],
                        ..api::Access::default()
                    }
                },
                "asns: lets nobody in alone",
            ),
        ];
        for (change, names) in cases {
            let error = with(change).unwrap_err();
            assert!(error.starts_with(names), "{error} for {names}");
        }
        // Closing a tunnel is no slip.
        assert_eq!(check(&api::Access::default()), Ok(()));
    }

    fn authority() -> String {
        let profile = pki::AuthorityProfile::client("client CA");
        let ca = pki::Authority::generate(&profile, process::SystemClock.wall()).unwrap();
        ca.certificate().to_pem()
    }
}
