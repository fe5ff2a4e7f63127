//! How the database is reached: over a network only with TLS and a certificate that is checked, unless
//! the operator wrote that it need not be.
//!
//! sqlx takes whatever a server offers (`prefer`): whoever stands in between answers that there is no
//! TLS, and gets digests, sealed tokens and the password. So nothing but `verify-full` and a written
//! `disable` goes beyond this machine. `verify-ca` does not: sqlx adds `sslrootcert` to the public CAs
//! instead of taking it alone, and without the name in it anybody's public certificate would do.

use std::net::IpAddr;

use sqlx::any::AnyConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use super::OpenError;

/// What `url` says, safe to connect with.
///
/// # Errors
///
/// [`OpenError::Url`], [`OpenError::Unprotected`], and [`OpenError::Connect`] for what cannot be read.
pub(super) fn options(url: &str) -> Result<AnyConnectOptions, OpenError> {
    let mut options: AnyConnectOptions = url.parse().map_err(|error| known(url, error))?;
    if url.starts_with("sqlite:") {
        return Ok(options);
    }
    if !url.starts_with("postgres:") && !url.starts_with("postgresql:") {
        return Err(OpenError::Url);
    }
    let read: PgConnectOptions = url.parse().map_err(OpenError::Connect)?;
    let beyond = read.get_socket().is_none() && !is_here(read.get_host());
    let mode = match read.get_ssl_mode() {
        PgSslMode::VerifyFull | PgSslMode::Disable => return Ok(options),
        PgSslMode::Prefer if !beyond => {
            // On this machine TLS that checks nothing proves nothing and costs every statement.
            let mut query = options.database_url.query_pairs_mut();
            query.append_pair("sslmode", "disable");
            drop(query);
            return Ok(options);
        }
        PgSslMode::Prefer => "prefer, or not said",
        PgSslMode::Allow => "allow",
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
    };
    if beyond {
        let host = read.get_host().to_owned();
        return Err(OpenError::Unprotected { host, mode });
    }
    Ok(options)
}

/// Where the server of `url` is, without whom it is asked as; `None`: there is none.
pub(super) fn address(url: &str) -> Option<String> {
    let read: PgConnectOptions = (!url.starts_with("sqlite:")).then(|| url.parse().ok())??;
    let socket = read.get_socket().map(|path| path.display().to_string());
    Some(socket.unwrap_or_else(|| format!("{}:{}", read.get_host(), read.get_port())))
}

/// Whether a word is the URL of a database at all is told before what is wrong with it.
fn known(url: &str, error: sqlx::Error) -> OpenError {
    let schemes = ["sqlite:", "postgres:", "postgresql:"];
    if schemes.iter().any(|scheme| url.starts_with(scheme)) {
        OpenError::Connect(error)
    } else {
        OpenError::Url
    }
}

/// A directory of sockets, or this machine by name or address.
fn is_here(host: &str) -> bool {
    let bare = host.trim_matches(['[', ']']);
    let address = bare.parse::<IpAddr>().map(|address| address.to_canonical());
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> Option<String> {
        match options(url) {
            Ok(_) => None,
            Err(OpenError::Unprotected { mode, .. }) => Some(mode.to_owned()),
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn beyond_this_machine_a_certificate_is_checked_or_the_operator_wrote_that_none_is() {
        for host in [
            "db.example",
            "10.0.0.7:6432",
            "[2001:db8::7]",
            "localhost.example",
        ] {
            let url = |mode: &str| format!("postgres://edge:s3cret@{host}/edge{mode}");
            for (mode, named) in [
                ("", "prefer, or not said"),
                ("?sslmode=prefer", "prefer, or not said"),
                ("?sslmode=allow", "allow"),
                ("?sslmode=require", "require"),
                ("?sslmode=verify-ca&sslrootcert=/ca.pem", "verify-ca"),
            ] {
                assert_eq!(refused(&url(mode)).as_deref(), Some(named), "{host}{mode}");
            }
            for mode in [
                "?sslmode=verify-full&sslrootcert=/ca.pem",
                "?sslmode=disable",
            ] {
                assert_eq!(refused(&url(mode)), None, "{host}{mode}");
            }
        }
        // A host in the query takes the place of the one before it.
        let url = "postgres://edge@localhost/edge?host=db.example";
        assert!(refused(url).is_some());
    }

    #[test]
    fn on_this_machine_nothing_has_to_be_said() {
        for host in [
            "localhost",
            "127.0.0.1:5433",
            "[::1]",
            "%2Frun%2Fpostgresql",
        ] {
            for mode in ["", "?sslmode=require", "?sslmode=verify-full"] {
                let url = format!("postgresql://edge@{host}/edge{mode}");
                assert_eq!(refused(&url), None, "{url}");
            }
            let taken = options(&format!("postgres://edge@{host}/edge")).unwrap();
            let query = taken.database_url.query();
            assert_eq!(query, Some("sslmode=disable"), "no server decides it");
        }
    }

    #[test]
    fn what_names_no_database_is_refused_as_such() {
        for url in ["", "/var/lib/edge.db", "mysql://x/y"] {
            assert!(matches!(options(url), Err(OpenError::Url)), "{url}");
        }
    }
}
