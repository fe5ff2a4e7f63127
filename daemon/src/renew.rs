//! `keyward renew-cert`: renews the server certificate of a store without a daemon, as the stock
//! `setup renew-cert` does, from the CA that lies beside it. No remote is called.

use std::path::Path;
use std::time::{Duration, SystemTime};

use pki::{
    Algorithm, Authority, Certificate, CertifiedKey, Expectation, Fingerprint, Linted, Origin,
    PrivateKey, Serial, ServerProfile, lint,
};
use process::Failure;

use crate::disk::Disk;
use crate::store::{Store, StoredCa};

/// What became of the server certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// It is good for longer than asked for.
    Kept {
        /// SHA-256 of the certificate.
        sha256: Fingerprint,
        /// Its last second.
        not_after: SystemTime,
    },
    /// There is a new one, with a new key.
    Replaced {
        /// SHA-256 of the certificate.
        sha256: Fingerprint,
        /// Its last second.
        not_after: SystemTime,
    },
}

/// Renews the server certificate in the store directory `store`, unless it can be used and lives
/// longer than `renew_before`; zero renews always. Names beyond the tunnel's own are kept, and so are
/// owner, group and mode of the files. Without `tunnel-domain` the old certificate says the domain.
///
/// # Errors
///
/// A daemon uses the store, it has no CA that can sign, or it cannot be written; exit code 78.
pub fn renew_cert(
    store: &Path,
    cert_duration: Duration,
    renew_before: Duration,
    now: SystemTime,
) -> Result<Renewed, Failure> {
    if !store.is_dir() {
        let failure = Failure::config(format!("there is no store at {}", store.display()));
        let failure = if store.exists() {
            failure.cause("it is no directory")
        } else {
            failure
        };
        return Err(failure.next("name the directory with --output dir:PATH"));
    }
    let (store_path, path) = (store, store.display());
    let store = Store::open_kept(store, &Disk::default())?;
    let contents = store.read()?;
    let old = contents.certificate.as_ref();
    let domain = contents.domain.or_else(|| old.and_then(domain_of));
    let domain = domain.ok_or_else(|| {
        Failure::config(format!(
            "{path} has no tunnel-domain, and no tls.crt that says it"
        ))
        .next("write the tunnel's domain into tunnel-domain, or fill the store by keyward run or the stock setup init")
    })?;
    let stored = contents.ca.ok_or_else(|| {
        Failure::config(format!("{path} has no ca.crt"))
            .next("fill the store first, by keyward run or the stock setup init")
    })?;
    let authority = authority(store_path, stored, now)?;
    let current = contents.leaf.as_ref();
    let kept = current.filter(|pair| {
        !renew_before.is_zero() && still_good(pair, &authority, &domain, renew_before, now)
    });
    if let Some(kept) = kept {
        return Ok(Renewed::Kept {
            sha256: kept.certificate().fingerprint(),
            not_after: kept.certificate().validity().not_after(),
        });
    }
    let issued = issue(&authority, &domain, old, cert_duration, now)?;
    store.write_leaf(&issued, None).map_err(|error| {
        Failure::config(format!("cannot write {path}"))
            .caused_by(&error)
            .next("run it as root, or as the owner of the files")
    })?;
    Ok(Renewed::Replaced {
        sha256: issued.certificate().fingerprint(),
        not_after: issued.certificate().validity().not_after(),
    })
}

/// What the one wildcard of a server certificate stands before: every tunnel's has `*.<tunnel-domain>`.
fn domain_of(certificate: &Certificate) -> Option<String> {
    let names = certificate.dns_names();
    let mut domains = names.iter().filter_map(|name| name.strip_prefix("*."));
    match (domains.next(), domains.next()) {
        (Some(only), None) => Some(only.to_owned()),
        _ => None,
    }
}

/// The CA of the store at `path`, ready to sign.
pub(crate) fn authority(
    path: &Path,
    stored: StoredCa,
    now: SystemTime,
) -> Result<Authority, Failure> {
    let path = path.display();
    let key = stored.key.ok_or_else(|| {
        Failure::config(format!("{path} has ca.crt and no ca.key"))
            .next("renew where the CA key is")
    })?;
    Authority::load(stored.certificate, key, now).map_err(|error| {
        Failure::config(format!("the CA in {path} cannot sign"))
            .caused_by(&error)
            .next("put the right pair there")
    })
}

/// Whether anybody may serve it, and for longer than `enough`.
pub(crate) fn still_good(
    pair: &CertifiedKey,
    authority: &Authority,
    domain: &str,
    enough: Duration,
    now: SystemTime,
) -> bool {
    let expectation = Expectation::new(domain);
    let ca = authority.certificate();
    let checked = lint(pair, ca, &expectation, now, Origin::Foreign);
    checked.is_ok() && pair.certificate().validity().remaining(now) > enough
}

/// A new pair for the names of `old` and the tunnel's own, checked.
pub(crate) fn issue(
    authority: &Authority,
    domain: &str,
    old: Option<&Certificate>,
    lifetime: Duration,
    now: SystemTime,
) -> Result<Linted, Failure> {
    let refused = |why: String| {
        Failure::config("the CA in the store cannot sign this certificate")
            .cause(why)
            .next("make a new CA, and give it to the verifiers")
    };
    let own = [domain.to_owned(), format!("*.{domain}")];
    let names = old.map_or(&[][..], Certificate::dns_names);
    let addresses = old.map_or(&[][..], Certificate::addresses);
    let profile = ServerProfile {
        tunnel_domain: domain.to_owned(),
        extra_names: names
            .iter()
            .filter(|name| !own.contains(name))
            .cloned()
            .chain(addresses.iter().map(ToString::to_string))
            .collect(),
        lifetime,
    };
    let algorithm = Algorithm::default();
    let key = PrivateKey::generate(algorithm).map_err(|error| refused(error.to_string()))?;
    let pair = authority
        .issue(&profile, key, Serial::random(), now)
        .map_err(|error| refused(error.to_string()))?;
    let expectation = Expectation {
        tunnel_domain: domain.to_owned(),
        lifetime,
        algorithm,
    };
    let ca = authority.certificate();
    lint(&pair, ca, &expectation, now, Origin::Ours).map_err(|findings| {
        let texts: Vec<String> = findings.iter().map(ToString::to_string).collect();
        refused(texts.join("; "))
    })
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::store::Wanted;

    const DAY: Duration = Duration::from_secs(86_400);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    /// A store as the stock setup leaves it: plain files.
    fn stock(directory: &Path, extra: &str) -> Authority {
        let profile = pki::AuthorityProfile::server("stock");
        let authority = Authority::generate(&profile, now()).unwrap();
        let profile = ServerProfile {
            extra_names: vec![extra.to_owned()],
            lifetime: 90 * DAY,
            ..ServerProfile::new("t.example.com")
        };
        let key = PrivateKey::generate(Algorithm::default()).unwrap();
        let pair = authority
            .issue(&profile, key, Serial::random(), now())
            .unwrap();
        for (name, content) in [
            ("tunnel-id", "tunnel_1"),
            ("tunnel-domain", "t.example.com\n"),
            ("tunnel-token", "secret"),
            ("ca.crt", authority.certificate().to_pem().as_str()),
            ("ca.key", authority.private_key().to_pem().as_str()),
            ("tls.crt", pair.chain_pem().as_str()),
            ("tls.key", pair.key_pem().as_str()),
        ] {
            std::fs::write(directory.join(name), content).unwrap();
        }
        authority
    }

    fn renew(directory: &Path, renew_before: Duration, now: SystemTime) -> Renewed {
        renew_cert(directory, 90 * DAY, renew_before, now).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_when_less_is_left_than_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let authority = stock(path, "localhost");
        let month = 30 * DAY;
        let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
        let before = read("tls.crt");
        assert!(matches!(
            renew(path, month, now() + 59 * DAY),
            Renewed::Kept { .. }
        ));
        assert_eq!(read("tls.crt"), before);
        let then = now() + 61 * DAY;
        let Renewed::Replaced { sha256, not_after } = renew(path, month, then) else {
            panic!("it is due");
        };
        assert_eq!(not_after, then + 90 * DAY);
        let pair = CertifiedKey::from_pem(&read("tls.crt"), &read("tls.key")).unwrap();
        assert_eq!(pair.certificate().fingerprint(), sha256);
        assert!(
            pair.certificate()
                .dns_names()
                .contains(&"localhost".to_owned())
        );
        let expectation = Expectation::new("t.example.com");
        lint(
            &pair,
            authority.certificate(),
            &expectation,
            then,
            Origin::Foreign,
        )
        .unwrap();
        assert_eq!(read("tunnel-token"), "secret");
        assert_eq!(read("tunnel-id"), "tunnel_1");
        // A second time there is nothing to do, unless it is asked for always.
        assert!(matches!(renew(path, month, then), Renewed::Kept { .. }));
        let always = Duration::ZERO;
        assert!(matches!(
            renew(path, always, then),
            Renewed::Replaced { .. }
        ));
    }

    /// F38: what is replaced may have expired.
    #[test]
    fn an_expired_or_mismatched_certificate_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        stock(path, "localhost");
        let then = now() + 200 * DAY;
        assert!(matches!(renew(path, DAY, then), Renewed::Replaced { .. }));
        let other = PrivateKey::generate(Algorithm::default()).unwrap();
        std::fs::write(path.join("tls.key"), other.to_pem().as_str()).unwrap();
        assert!(matches!(renew(path, DAY, then), Renewed::Replaced { .. }));
        // The names are the certificate's, whatever became of its key.
        let certificate = std::fs::read_to_string(path.join("tls.crt")).unwrap();
        let certificate = Certificate::from_pem(&certificate).unwrap();
        assert!(certificate.dns_names().contains(&"localhost".to_owned()));
    }

    /// The documented Compose setup: `chmod 644 data/tls.key`, and the proxy runs as another user.
    #[test]
    fn files_and_directory_keep_their_modes_and_a_new_file_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        stock(path, "localhost");
        let chmod = |name: &str, mode| {
            std::fs::set_permissions(path.join(name), Permissions::from_mode(mode)).unwrap();
        };
        let modes = || {
            [
                "",
                "..data",
                "tls.key",
                "tls.crt",
                "ca.key",
                "tunnel-domain",
            ]
            .map(|name| path.join(name).metadata().unwrap().mode() & 0o7777)
        };
        chmod("", 0o755);
        chmod("tls.key", 0o644);
        chmod("tls.crt", 0o640);
        chmod("ca.key", 0o600);
        chmod("tunnel-domain", 0o444);
        for _ in 0..2 {
            renew(path, Duration::ZERO, now());
            assert_eq!(modes(), [0o755, 0o755, 0o644, 0o640, 0o600, 0o444]);
        }
        // Somebody changes his mind.
        chmod("..data/tls.key", 0o640);
        renew(path, Duration::ZERO, now());
        assert_eq!(modes(), [0o755, 0o755, 0o640, 0o640, 0o600, 0o444]);
        std::fs::remove_file(path.join("..data/tls.key")).unwrap();
        renew(path, Duration::ZERO, now());
        assert_eq!(modes()[2], 0o600);
    }

    #[test]
    fn the_domain_is_the_old_certificates_where_the_store_does_not_say_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        stock(path, "localhost");
        std::fs::remove_file(path.join("tunnel-domain")).unwrap();
        renew(path, Duration::ZERO, now());
        let text = std::fs::read_to_string(path.join("tls.crt")).unwrap();
        let names = Certificate::from_pem(&text).unwrap().dns_names().to_vec();
        for name in ["t.example.com", "*.t.example.com", "localhost"] {
            assert!(names.contains(&name.to_owned()), "{names:?}");
        }
        // One that could mean either is not guessed at.
        stock(path, "*.u.example.com");
        std::fs::remove_file(path.join("tunnel-domain")).unwrap();
        let refused = renew_cert(path, DAY, Duration::ZERO, now()).unwrap_err();
        let what = format!(
            "{} has no tunnel-domain, and no tls.crt that says it",
            path.display()
        );
        assert!(refused.to_string().starts_with(&what), "{refused}");
    }

    #[test]
    fn a_store_that_cannot_be_renewed_says_why() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let refused = |path: &Path| {
            let failure = renew_cert(path, DAY, DAY, now()).unwrap_err();
            assert_eq!(failure.exit(), process::Exit::Config);
            failure.to_string()
        };
        assert!(refused(&path.join("none")).starts_with("there is no store at"));
        assert!(refused(path).contains("has no tunnel-domain"));
        stock(path, "localhost");
        let held = Store::open(path, &Disk::default()).unwrap();
        let text = refused(path);
        assert!(
            text.contains(&format!("is in use by pid {}", std::process::id())),
            "{text}"
        );
        drop(held);
        std::fs::remove_file(path.join("ca.key")).unwrap();
        assert!(refused(path).contains("ca.crt and no ca.key"));
        std::fs::write(path.join("ca.key"), "garbage").unwrap();
        assert!(refused(path).contains("ca.key cannot be used"));
    }

    #[test]
    fn what_the_daemon_wrote_is_renewed_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let authority = Authority::generate(&pki::AuthorityProfile::server("ours"), now()).unwrap();
        let leaf = issue(&authority, "t.example.com", None, DAY, now()).unwrap();
        let store = Store::open(&path, &Disk::default()).unwrap();
        let wanted = Wanted {
            domain: "t.example.com".to_owned(),
            ca: authority.certificate().to_pem(),
            ca_key: authority.private_key().to_pem(),
            next_ca: Some("next".to_owned()),
            client_ca: None,
            leaf: &leaf,
        };
        store.write(&wanted).unwrap();
        drop(store);
        assert!(matches!(
            renew(&path, 2 * DAY, now()),
            Renewed::Replaced { .. }
        ));
        assert_eq!(
            std::fs::read_to_string(path.join("ca-next.crt")).unwrap(),
            "next"
        );
    }
}
