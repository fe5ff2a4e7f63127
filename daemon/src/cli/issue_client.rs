//! `keyward issue-client`: a client certificate whose key is made here and goes nowhere.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueHint;
use pki::{Algorithm, Certificate, ClientProfile, PrivateKey};
use process::{Exit, Failure, Tasks};
use serde::Serialize;

use super::rotate::{follow, succeeded};
use super::table::span;
use super::{Target, output};
use crate::config::{parse_duration, write_duration};
use crate::operator::ClientOrder;
use crate::status::{Operation, Status};

/// Whose certificate, and where it goes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Common name and DNS name of the client; also the name of its files
    name: String,
    /// Of which tunnel's client CA; may be left out where there is only one tunnel
    #[arg(long, value_name = "NAME", value_hint = ValueHint::Other)]
    tunnel: Option<String>,
    /// Life of the certificate
    #[arg(long, default_value = "24h", value_name = "DURATION", value_hint = ValueHint::Other, value_parser = lifetime)]
    lifetime: Duration,
    /// Directory for NAME.key, NAME.crt and NAME-ca.crt
    #[arg(long, default_value = ".", value_name = "DIR", value_hint = ValueHint::DirPath)]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
    /// Print what was made as one JSON object, without the key
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    target: Target,
}

#[derive(Serialize)]
struct Issued<'a> {
    tunnel: &'a str,
    name: &'a str,
    key: &'a Path,
    certificate: &'a Path,
    ca: &'a Path,
    certificate_pem: &'a str,
    not_before: u64,
    not_after: u64,
    shortened: bool,
}

pub(super) async fn issue_client(arguments: &Arguments, tasks: &Tasks) -> Result<(), Failure> {
    let files = Files::new(arguments)?;
    let failed = |error: &dyn std::error::Error| {
        Failure::new(Exit::Usage, "the request cannot be made").caused_by(error)
    };
    let key = PrivateKey::generate(Algorithm::default()).map_err(|error| failed(&error))?;
    let csr = pki::request(&key, &arguments.name).map_err(|error| failed(&error))?;
    let client = arguments.target.client(tasks);
    let mut events = client.events().await?;
    let begun = client
        .issue_client(&ClientOrder {
            tunnel: arguments.tunnel.clone(),
            name: arguments.name.clone(),
            csr,
            lifetime_seconds: arguments.lifetime.as_secs(),
        })
        .await?;
    let ended = follow(&client, &mut events, begun, tasks, |_| Ok(())).await?;
    succeeded(&ended)?;
    let certificate = ended.certificate.as_deref().ok_or_else(|| {
        Failure::internal("the daemon ended the operation without a certificate")
            .next("run both from the same release")
    })?;
    let life = Life::of(certificate, &ended, arguments.lifetime)?;
    let bundle = bundle(&client.status().await?, &ended.tunnel);
    files.write(&files.key, 0o600, key.to_pem().as_bytes())?;
    files.write(&files.certificate, 0o644, certificate.as_bytes())?;
    files.write(&files.ca, 0o644, bundle.as_bytes())?;
    if life.shortened {
        output::note(&life.notice(arguments.lifetime, &ended.tunnel));
    }
    if arguments.json {
        return output::json(&Issued {
            tunnel: &ended.tunnel,
            name: &arguments.name,
            key: &files.key,
            certificate: &files.certificate,
            ca: &files.ca,
            certificate_pem: certificate,
            not_before: life.not_before,
            not_after: life.not_after,
            shortened: life.shortened,
        });
    }
    output::text(&format!(
        "key          {}\ncertificate  {}, for {}\nCA           {}\n",
        files.key.display(),
        files.certificate.display(),
        span(life.seconds),
        files.ca.display()
    ))
}

/// What was issued, against what was asked for.
struct Life {
    not_before: u64,
    not_after: u64,
    /// From the order to the last second.
    seconds: u64,
    /// Less than was asked for.
    shortened: bool,
}

impl Life {
    fn of(certificate: &str, operation: &Operation, asked: Duration) -> Result<Self, Failure> {
        let certificate = Certificate::from_pem(certificate).map_err(|error| {
            Failure::internal("the daemon answered with what is no certificate").caused_by(&error)
        })?;
        let validity = certificate.validity();
        let not_after = validity.not_after_unix();
        let seconds = not_after.saturating_sub(operation.began);
        Ok(Self {
            not_before: validity.not_before_unix(),
            not_after,
            seconds,
            shortened: seconds < asked.as_secs(),
        })
    }

    fn notice(&self, asked: Duration, tunnel: &str) -> String {
        format!(
            "the certificate lives {}, less than --lifetime {}\n  \
             cause: the client CA of {tunnel} ends, and no certificate of it lives longer\n  \
             next: see in keyward status when it ends, and have another certificate issued before this one does",
            span(self.seconds),
            write_duration(asked)
        )
    }
}

/// X.509 knows whole seconds only.
fn lifetime(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    match duration.as_secs() {
        0 => Err("write 1s or more".to_owned()),
        seconds => Ok(Duration::from_secs(seconds)),
    }
}

/// The CAs under which the tunnel's server certificates are signed, now and after the next switch.
fn bundle(status: &Status, tunnel: &str) -> String {
    let tunnel = status.tunnels.get(tunnel);
    let authorities = tunnel.map(|tunnel| [tunnel.ca.as_ref(), tunnel.standby_ca.as_ref()]);
    let authorities = authorities.into_iter().flatten().flatten();
    authorities.map(|one| one.pem.as_str()).collect()
}

struct Files {
    key: PathBuf,
    certificate: PathBuf,
    ca: PathBuf,
    force: bool,
}

impl Files {
    /// Names them, and refuses before anything is asked of the daemon if one is there already.
    fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let name = &arguments.name;
        // Such a name is also a name of a file, and of none but in the directory.
        if !ClientProfile::can_be_called(name) {
            return Err(Failure::new(
                Exit::Usage,
                format!("{name:?} cannot be the name of a client"),
            )
            .next("write a DNS name of at most 64 characters, such as agent.example"));
        }
        let file = |suffix: &str| arguments.out.join(format!("{name}{suffix}"));
        let files = Self {
            key: file(".key"),
            certificate: file(".crt"),
            ca: file("-ca.crt"),
            force: arguments.force,
        };
        let there = [&files.key, &files.certificate, &files.ca]
            .into_iter()
            .find(|path| path.symlink_metadata().is_ok());
        match there {
            Some(path) if !arguments.force => Err(occupied(path)),
            _ => Ok(files),
        }
    }

    fn write(&self, path: &Path, mode: u32, content: &[u8]) -> Result<(), Failure> {
        let fail = |error: &std::io::Error| {
            let exit = match error.kind() {
                ErrorKind::PermissionDenied => Exit::Permission,
                _ => Exit::Usage,
            };
            Failure::new(exit, format!("cannot write {}", path.display()))
                .caused_by(error)
                .next("name a directory of yours with --out")
        };
        // Never in place: a reader sees the old file or the new one.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let _ = std::fs::remove_file(&fresh);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&fresh)
            .map_err(|error| fail(&error))?;
        let written = file.write_all(content).and_then(|()| file.sync_all());
        let placed = written.and_then(|()| self.place(&fresh, path));
        placed.map_err(|error| {
            let _ = std::fs::remove_file(&fresh);
            match error.kind() {
                ErrorKind::AlreadyExists => occupied(path),
                _ => fail(&error),
            }
        })?;
        let directory = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        // Some file systems cannot sync a directory; the file itself is safe.
        let _ = File::open(directory.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
        Ok(())
    }

    /// `link` refuses where something is; `rename` replaces it.
    fn place(&self, fresh: &Path, path: &Path) -> std::io::Result<()> {
        if self.force {
            return std::fs::rename(fresh, path);
        }
        std::fs::hard_link(fresh, path)?;
        std::fs::remove_file(fresh)
    }
}

fn occupied(path: &Path) -> Failure {
    Failure::new(Exit::Usage, format!("{} is there already", path.display()))
        .next("name another directory with --out, or replace it with --force")
}
