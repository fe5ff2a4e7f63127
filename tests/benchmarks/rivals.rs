//! The tunnels of others that ours is compared with, each in front of the same nginx: rathole with a plain hop and with
//! Noise, configured as its README does; OpenSSH's `-R` and bore, which are reported.
//!
//! They are built or installed by `tests/install.sh peers`.

use std::net::SocketAddr;
use std::path::PathBuf;

use process::Failure;

use crate::machine::{MEASURED, Program, free_port, output};
use crate::peers::{Server, Workshop, launch, text};

/// Both ends of a tunnel.
#[derive(Debug)]
pub(crate) struct Rival {
    /// Where callers come in.
    pub address: SocketAddr,
    /// Both ends.
    pub ends: [Program; 2],
}

/// What is between the two ends of rathole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hop {
    /// TCP.
    Plain,
    /// The Noise protocol.
    Noise,
}

/// rathole, whose client leads to `behind`.
pub(crate) async fn rathole(
    shop: &Workshop,
    hop: Hop,
    behind: SocketAddr,
) -> Result<Rival, Failure> {
    let program = harness::tool("rathole");
    let (bind, service) = (free_port().await?, free_port().await?);
    let (name, [server, client]) = match hop {
        Hop::Plain => ("plain", [String::new(), String::new()]),
        Hop::Noise => (
            "noise",
            noise(&output(&[text(&program), "--genkey"]).await?)?,
        ),
    };
    let server = shop.write(
        &format!("rathole-{name}-server.toml"),
        &format!(
            "[server]\nbind_addr = \"{bind}\"\ndefault_token = \"t\"\n{server}[server.services.a]\nbind_addr = \"{service}\"\n"
        ),
    )?;
    let client = shop.write(
        &format!("rathole-{name}-client.toml"),
        &format!(
            "[client]\nremote_addr = \"{bind}\"\ndefault_token = \"t\"\n{client}[client.services.a]\nlocal_addr = \"{behind}\"\n"
        ),
    )?;
    let near = launch(
        shop,
        MEASURED,
        &[text(&program), "--server", text(&server)],
        bind,
    )
    .await?;
    let far = launch(
        shop,
        MEASURED,
        &[text(&program), "--client", text(&client)],
        service,
    )
    .await?;
    Ok(rival(near, far))
}

/// The transports of server and client, out of what `rathole --genkey` prints.
fn noise(printed: &str) -> Result<[String; 2], Failure> {
    let after = |mark: &str| {
        let mut lines = printed.lines().skip_while(|line| !line.starts_with(mark));
        lines.nth(1).map(str::trim).filter(|key| !key.is_empty())
    };
    let keys = after("Private Key").zip(after("Public Key"));
    let (private, public) = keys.ok_or_else(|| {
        Failure::internal("rathole --genkey printed no keys").cause(printed.to_owned())
    })?;
    Ok([
        format!(
            "[server.transport]\ntype = \"noise\"\n[server.transport.noise]\nlocal_private_key = \"{private}\"\n"
        ),
        format!(
            "[client.transport]\ntype = \"noise\"\n[client.transport.noise]\nremote_public_key = \"{public}\"\n"
        ),
    ])
}

/// `ssh -R`, which leads to `behind`; its server runs as whoever runs this.
pub(crate) async fn ssh(shop: &Workshop, behind: SocketAddr) -> Result<Rival, Failure> {
    let (bind, service) = (free_port().await?, free_port().await?);
    for name in ["ssh-host", "ssh-user"] {
        let key = shop.path(name);
        output(&[
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            text(&key),
        ])
        .await?;
    }
    let (host, user) = (shop.path("ssh-host"), shop.path("ssh-user"));
    let server = shop.write(
        "sshd_config",
        &format!(
            "ListenAddress {bind}\nHostKey {}\nAuthorizedKeysFile {}.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nAllowTcpForwarding yes\n",
            host.display(),
            user.display(),
        ),
    )?;
    // Debian's unit makes it when it starts the service; without it nothing starts.
    let _ = std::fs::create_dir_all("/run/sshd");
    let who = output(&["id", "-un"]).await?;
    let near = launch(
        shop,
        MEASURED,
        &["/usr/sbin/sshd", "-D", "-e", "-f", text(&server)],
        bind,
    )
    .await?;
    let (forward, port) = (format!("{service}:{behind}"), bind.port().to_string());
    let to = format!("{}@{}", who.trim(), bind.ip());
    let words = "ssh -N -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ExitOnForwardFailure=yes -o LogLevel=ERROR";
    let more = ["-i", text(&user), "-p", &port, "-R", &forward, &to];
    let command: Vec<&str> = words.split(' ').chain(more).collect();
    let far = launch(shop, MEASURED, &command, service).await?;
    Ok(rival(near, far))
}

/// bore, which leads to `behind`. The port of its control connection cannot be chosen.
pub(crate) async fn bore(shop: &Workshop, behind: SocketAddr) -> Result<Rival, Failure> {
    let program: PathBuf = harness::tool("bore");
    let service = free_port().await?;
    let control = SocketAddr::new(service.ip(), 7835);
    let (ip, port) = (service.ip().to_string(), service.port().to_string());
    let server = [
        "server",
        "--bind-addr",
        &ip,
        "--bind-tunnels",
        &ip,
        "--min-port",
        &port,
        "--max-port",
        &port,
    ];
    let near = launch(
        shop,
        MEASURED,
        &[&[text(&program)], &server[..]].concat(),
        control,
    )
    .await?;
    let local = behind.port().to_string();
    let client = [
        "local",
        &local,
        "--local-host",
        &ip,
        "--to",
        &ip,
        "--port",
        &port,
    ];
    let far = launch(
        shop,
        MEASURED,
        &[&[text(&program)], &client[..]].concat(),
        service,
    )
    .await?;
    Ok(rival(near, far))
}

fn rival(near: Server, far: Server) -> Rival {
    Rival {
        address: far.address,
        ends: [near.program, far.program],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_rathole_prints_are_read() {
        let printed = "Private Key:\ncQ/vwIqNPJZmuM/OikglzBo/+jlYGrOt9i0k5h5vn1Q=\n\nPublic Key:\nGQYTKSbWLBUSZiGfdWPSgek9yoOuaiwGD/GIX8Z1kns=\n";
        let [server, client] = noise(printed).unwrap();
        assert!(
            server.contains("local_private_key = \"cQ/vwIqNPJZmuM/OikglzBo/+jlYGrOt9i0k5h5vn1Q=\"")
        );
        assert!(
            client.contains("remote_public_key = \"GQYTKSbWLBUSZiGfdWPSgek9yoOuaiwGD/GIX8Z1kns=\"")
        );
        assert!(noise("Private Key:\n\n").is_err());
    }
}
