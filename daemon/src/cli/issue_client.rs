//! `keyward issue-client`: a client certificate whose key is made here and goes nowhere.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pki::{Algorithm, PrivateKey};
use process::{Exit, Failure, Tasks};
use serde::Serialize;

use super::rotate::{follow, succeeded};
use super::{Target, output};
use crate::config::parse_duration;
use crate::operator::ClientOrder;
use crate::status::Status;

/// Whose certificate, and where it goes.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Common name and DNS name of the client; also the name of its files
    name: String,
    /// Of which tunnel's client CA; may be left out where there is only one tunnel
    #[arg(long, value_name = "NAME")]
    tunnel: Option<String>,
    /// Life of the certificate
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = parse_duration)]
    lifetime: Duration,
    /// Directory for NAME.key, NAME.crt and NAME-ca.crt
    #[arg(long, default_value = ".", value_name = "DIR")]
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
    let bundle = bundle(&client.status().await?, &ended.tunnel);
    files.write(&files.key, 0o600, key.to_pem().as_bytes())?;
    files.write(&files.certificate, 0o644, certificate.as_bytes())?;
    files.write(&files.ca, 0o644, bundle.as_bytes())?;
    if arguments.json {
        return output::json(&Issued {
            tunnel: &ended.tunnel,
            name: &arguments.name,
            key: &files.key,
            certificate: &files.certificate,
            ca: &files.ca,
            certificate_pem: certificate,
        });
    }
    output::text(&format!(
        "key          {}\ncertificate  {}\nCA           {}\n",
        files.key.display(),
        files.certificate.display(),
        files.ca.display()
    ))
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
        if name.is_empty() || name.starts_with(['.', '-']) || name.contains(['/', '\0']) {
            return Err(Failure::new(
                Exit::Usage,
                format!("{name:?} cannot be the name of a client"),
            )
            .next("write a DNS name, such as agent.example"));
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
