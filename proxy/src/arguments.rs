//! The command line, read by hand: the stock proxy's one-dash flags have to work, and a parser would
//! be a tenth of the binary.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use process::{Exit, Failure};
use proxy::Options;
use proxy::config::{Config, DEFAULT_PATHS};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
keyward-proxy: ends inner TLS of an MCP tunnel and routes calls to upstream MCP servers

usage: keyward-proxy [health] [flags]

  health                 ask the running proxy whether it is ready; exit code 0 or 69
  --config PATH          the configuration file
  --tunnel-domain NAME   stands before tunnel_domain in the file
  --check                print the configuration in force and exit
  --firewall             with --check: print what a firewall has to let through
  --version              print version, commit and target
  --help                 print this

Flags may be written with one dash, and with = before their value.
";

/// Our own place for the file, after the stock proxy's two.
const OWN_PATH: &str = "/etc/keyward/proxy.yaml";

/// What the program is to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Carry traffic.
    Run(Options),
    /// Ask the running proxy.
    Health(Options),
    /// Print the effective configuration.
    Check(Options),
    /// Print what a firewall has to let through.
    Firewall(Options),
    /// Print the build.
    Version,
    /// Print the usage.
    Help,
}

/// Reads the words after the program's name.
pub(crate) fn parse(words: impl Iterator<Item = OsString>) -> Result<Command, Failure> {
    let mut words = words.map(|word| {
        let told = |word: OsString| usage(format!("{} is not UTF-8", word.display()));
        word.into_string().map_err(told)
    });
    let mut config = None;
    let mut tunnel_domain = None;
    let (mut check, mut health, mut firewall) = (false, false, false);
    while let Some(word) = words.next().transpose()? {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            if word == "health" && !health {
                health = true;
                continue;
            }
            return Err(usage(format!("unknown word {word:?}")));
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || match &inline {
            Some(value) => Ok(value.clone()),
            None => words
                .next()
                .transpose()?
                .ok_or_else(|| usage(format!("--{name} wants a value"))),
        };
        match name {
            "config" => config = Some(PathBuf::from(value()?)),
            "tunnel-domain" => tunnel_domain = Some(value()?),
            "check" => check = true,
            "firewall" => firewall = true,
            "version" => return Ok(Command::Version),
            "help" | "h" => return Ok(Command::Help),
            _ => return Err(usage(format!("unknown flag {word:?}"))),
        }
    }
    let options = Options {
        config: config.unwrap_or_else(default_path),
        tunnel_domain,
    };
    Ok(match (health, check) {
        (true, _) => Command::Health(options),
        (_, true) if firewall => Command::Firewall(options),
        (_, true) => Command::Check(options),
        _ if firewall => return Err(usage("--firewall wants --check".to_owned())),
        _ => Command::Run(options),
    })
}

/// The effective configuration, as `--check` prints it.
pub(crate) fn check(options: &Options) -> Result<String, Failure> {
    Ok(load(options)?.effective())
}

/// What a firewall has to let through, as `--check --firewall` prints it.
pub(crate) fn firewall(options: &Options) -> Result<String, Failure> {
    Ok(load(options)?.firewall())
}

/// Asks the proxy that runs with the same configuration whether it is ready.
pub(crate) async fn health(options: Options) -> Result<(), Failure> {
    proxy::health::probe(health_address(&options)?).await
}

/// Where the running proxy is asked. The files that the configuration names are not looked at: it may
/// well serve on its last good certificate when they are bad.
fn health_address(options: &Options) -> Result<SocketAddr, Failure> {
    let domain = options.tunnel_domain.as_deref();
    Ok(Config::load_text(&options.config, domain)?.health.addr)
}

/// Prints `text` to standard output, or why there is none to standard error.
pub(crate) fn say(text: Result<String, Failure>) -> ExitCode {
    let written = text.and_then(|text| {
        std::io::stdout()
            .write_all(text.as_bytes())
            .map_err(|error| Failure::internal("cannot write to standard output").caused_by(&error))
    });
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn load(options: &Options) -> Result<Config, Failure> {
    Config::load(&options.config, options.tunnel_domain.as_deref())
}

/// The first of the known places that has a file; the first of all when none has, for the error.
fn default_path() -> PathBuf {
    let places = || DEFAULT_PATHS.into_iter().chain([OWN_PATH]).map(Path::new);
    let found = places().find(|path| path.exists());
    found
        .or_else(|| places().next())
        .unwrap_or(Path::new(OWN_PATH))
        .to_owned()
}

fn usage(what: String) -> Failure {
    Failure::new(Exit::Usage, what)
        .cause("the command line has a word that keyward-proxy does not know")
        .next("keyward-proxy --help lists what it knows")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Result<Command, Failure> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_stock_proxys_flags_work_with_one_dash_and_with_two() {
        for flags in [
            ["-config", "/x", "-tunnel-domain", "d.example"],
            ["--config", "/x", "--tunnel-domain", "d.example"],
        ] {
            let Ok(Command::Run(options)) = words(&flags) else {
                panic!("{flags:?} runs");
            };
            assert_eq!(options.config, Path::new("/x"));
            assert_eq!(options.tunnel_domain.as_deref(), Some("d.example"));
        }
        assert!(matches!(
            words(&["-config=/x", "--check"]),
            Ok(Command::Check(_))
        ));
        assert!(matches!(
            words(&["health", "-config=/x"]),
            Ok(Command::Health(_))
        ));
    }

    #[test]
    fn an_unknown_flag_is_a_usage_error_that_says_what_to_do() {
        for bad in [
            &["--confg", "/x"][..],
            &["run"],
            &["--config"],
            &["--firewall"],
        ] {
            let failure = words(bad).expect_err("unknown");
            assert_eq!(failure.exit(), Exit::Usage);
            let text = failure.to_string();
            assert!(text.contains("cause:") && text.contains("next:"), "{text}");
        }
    }

    #[test]
    fn the_health_command_needs_no_certificate_files() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            config: directory.path().join("proxy.yaml"),
            tunnel_domain: None,
        };
        let text = "listen_addr: ':0'\ntls: {cert_file: /none/tls.crt, key_file: /none/tls.key}\n\
             routes: {}\nhealth: {listen_addr: '127.0.0.1:1'}\n";
        std::fs::write(&options.config, text).unwrap();
        let address = health_address(&options).unwrap();
        assert_eq!(address, ([127, 0, 0, 1], 1).into());
        let failure = load(&options).expect_err("a start looks at them");
        assert_eq!(failure.exit(), Exit::Config);
    }
}
