//! What the file says about the other side of tunnels.

use std::time::Duration;

use process::Failure;

use super::convert::missing;
use super::raw::RawApi;
use super::{
    ApiConfig, Connector, DEFAULT_CALLS_PER_MINUTE, DEFAULT_QUIET, Provider, SharedSecretConfig,
    parse_duration,
};

/// An old shared secret that stays for longer than this is not rotated.
const LONGEST_QUIET: Duration = Duration::from_secs(30 * 86_400);

pub(super) fn api(raw: RawApi) -> Result<ApiConfig, Failure> {
    if let Some(url) = &raw.url {
        ::identity::check_url(url).map_err(|why| {
            Failure::config(format!("api.url is {url:?}"))
                .cause(why)
                .next("write it as https://api.example.com")
        })?;
    }
    let calls_per_minute = raw.calls_per_minute.unwrap_or(DEFAULT_CALLS_PER_MINUTE);
    if calls_per_minute == 0 {
        return Err(Failure::config("api.calls_per_minute is 0")
            .next("write 1 or more: without calls nothing can be registered or rotated"));
    }
    let addresses = raw.addresses.into_iter().map(|text| {
        text.parse().map_err(|_| {
            Failure::config(format!("api.addresses has {text:?}")).next(
                "write addresses without a port, such as 192.0.2.1; the port is that of api.url",
            )
        })
    });
    Ok(ApiConfig {
        url: raw.url,
        addresses: addresses.collect::<Result<_, _>>()?,
        calls_per_minute,
    })
}

pub(super) fn provider(
    key: &impl Fn(&str) -> String,
    text: Option<&str>,
    tunnel_id: Option<String>,
) -> Result<Provider, Failure> {
    let id_key = key("tunnel_id");
    match (text, tunnel_id) {
        (Some("static"), None) => Ok(Provider::Static),
        (Some("static"), Some(_)) => Err(Failure::config(format!(
            "{id_key} is written, and the provider is static"
        ))
        .cause("with static nobody is called, so there is nothing that it could name")
        .next("write provider: tunnels_api, or leave tunnel_id out")),
        (Some("tunnels_api"), Some(tunnel_id)) => {
            let plain = |letter: u8| letter.is_ascii_alphanumeric() || b"_-".contains(&letter);
            if tunnel_id.is_empty() || tunnel_id.len() > 128 || !tunnel_id.bytes().all(plain) {
                return Err(Failure::config(format!("{id_key} is {tunnel_id:?}"))
                    .next("write the tunnel's id, tnl_…, as the Console and keyward-edge tunnel list show it"));
            }
            Ok(Provider::TunnelsApi { tunnel_id })
        }
        (Some("tunnels_api"), None) => Err(missing(&id_key).next(
            "write the tunnel's id, tnl_…, as the Console and keyward-edge tunnel list show it",
        )),
        (None, _) => Err(missing(&key("provider"))
            .next("write provider: tunnels_api, or static if token and CA are carried by hand")),
        (Some(other), _) => Err(Failure::config(format!("{} is {other:?}", key("provider")))
            .next("write tunnels_api or static; this build knows no other")),
    }
}

/// What restarts somebody else's connector.
pub(super) fn restart(
    key: &str,
    command: Vec<String>,
    (provider, connector): (&Provider, Connector),
) -> Result<Vec<String>, Failure> {
    let asked = matches!(provider, Provider::TunnelsApi { .. });
    if !asked || connector != Connector::External {
        return Err(Failure::config(format!("{key} is written, and nothing is restarted"))
            .cause("only with provider: tunnels_api and connector: external another token is waited for by somebody else's connector")
            .next(format!("leave {key} out")));
    }
    let absolute = |program: &String| std::path::Path::new(program).is_absolute();
    if !command.first().is_some_and(absolute) || command.iter().any(|word| word.contains('\0')) {
        return Err(
            Failure::config(format!("{key} does not begin with an absolute path"))
                .next("write a list: the program's path, then its arguments; no shell reads it"),
        );
    }
    Ok(command)
}

pub(super) fn connector(key: &str, text: Option<&str>) -> Result<Connector, Failure> {
    let Some(text) = text else {
        return Ok(Connector::External);
    };
    let found = Connector::ALL.iter().find(|(_, name)| *name == text);
    found.map(|(connector, _)| *connector).ok_or_else(|| {
        let names = Connector::ALL.map(|(_, name)| name);
        Failure::config(format!("{key} is {text:?}"))
            .next(format!("write one of {}", names.join(", ")))
    })
}

pub(super) fn shared_secret(key: &str, text: Option<&str>) -> Result<SharedSecretConfig, Failure> {
    let Some(text) = text else {
        return Ok(SharedSecretConfig {
            quiet: DEFAULT_QUIET,
        });
    };
    let wrong = || Failure::config(format!("{key} is {text:?}"));
    let quiet = parse_duration(text).map_err(|error| wrong().next(error.to_string()))?;
    if quiet > LONGEST_QUIET || quiet.subsec_nanos() != 0 {
        return Err(wrong().next("write whole seconds, from 0s to 30d"));
    }
    Ok(SharedSecretConfig { quiet })
}
