//! The command line, read by hand: the stock proxy's one-dash flags have to work, and a parser would
//! be a tenth of the binary.

use std::ffi::OsString;
use std::fmt::Display;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use process::{Exit, Failure};
use proxy::Options;
use proxy::config::{Config, DEFAULT_PATHS, value};

/// What `--help` prints.
pub(crate) const HELP: &str = "\
keyward-proxy: ends inner TLS of an MCP tunnel and routes calls to upstream MCP servers

usage: keyward-proxy [health] [flags]

  health                 ask the running proxy whether it is ready; exit code 0 or 69
  --config PATH          the configuration file; without it the first that is there of
                         /etc/mcp-gateway/config.yaml, /etc/mcp-proxy/config.yaml
                         and /etc/keyward/proxy.yaml
  --tunnel-domain NAME   stands before tunnel_domain in the file
  --check                print the configuration in force and exit
  --firewall             with --check: print what a firewall has to let through
  --version              print version, commit and target
  --help                 print this

Flags may be written with one dash, and with = before their value.
";

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
        let told = |word: OsString| usage(&word.display(), "is not UTF-8", "every word must be");
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
            return Err(usage(&word, "is not known", "health is the only word"));
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let mut value = || match inline.clone() {
            Some(value) => Ok(value),
            None => words
                .next()
                .transpose()?
                .ok_or_else(|| usage(&word, "wants a value", "it is the last word")),
        };
        match name {
            "config" => config = Some(PathBuf::from(value()?)),
            "tunnel-domain" => tunnel_domain = Some(domain(value()?)?),
            _ if inline.is_some() => {
                return Err(usage(&word, "is not known", "no such flag has a value"));
            }
            "check" => check = true,
            "firewall" => firewall = true,
            "version" => return Ok(Command::Version),
            "help" | "h" => return Ok(Command::Help),
            _ => return Err(usage(&word, "is not known", "no flag has this name")),
        }
    }
    let command = chosen(health, check, firewall)?;
    Ok(command(Options {
        config: config.map_or_else(|| found(&DEFAULT_PATHS), Ok)?,
        tunnel_domain,
    }))
}

fn chosen(health: bool, check: bool, firewall: bool) -> Result<fn(Options) -> Command, Failure> {
    Ok(match (health, check, firewall) {
        (false, false, false) => Command::Run,
        (true, false, false) => Command::Health,
        (false, true, false) => Command::Check,
        (false, true, true) => Command::Firewall,
        (true, ..) => return Err(usage(&"health", "goes alone", "--check is another command")),
        (false, false, true) => {
            return Err(usage(
                &"--firewall",
                "wants --check",
                "it changes what that prints",
            ));
        }
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

/// The first of `places` where there is something, be it good or not.
fn found(places: &[&str]) -> Result<PathBuf, Failure> {
    // What cannot be looked at may be there: opening it will say why it cannot.
    let there = |place: &&&str| Path::new(place).try_exists().unwrap_or(true);
    if let Some(place) = places.iter().find(there) {
        return Ok(PathBuf::from(place));
    }
    let first = places.first().unwrap_or(&"config.yaml");
    let failure = Failure::config(format!("open {first}: no such file or directory"));
    Err(failure
        .cause(format!(
            "--config is not given, and none of these is there: {}",
            places.join(", ")
        ))
        .next("write one of them, or say with --config where the file is"))
}

/// The flag's value, which may be empty for none. Wrong, it is the command line's fault and not the file's.
fn domain(text: String) -> Result<String, Failure> {
    if text.is_empty() || value::domain(&text).is_some() {
        return Ok(text);
    }
    Err(usage(
        &text,
        "is no domain name",
        "it follows --tunnel-domain",
    ))
}

fn usage(word: &dyn Display, what: &str, cause: &str) -> Failure {
    Failure::new(Exit::Usage, format!("{word} {what}"))
        .cause(cause)
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
    fn each_wrong_word_has_its_own_cause_and_says_what_to_do() {
        for (bad, what, cause) in [
            (
                &["--confg", "/x"][..],
                "--confg is not known",
                "no flag has this name",
            ),
            (&["run"][..], "run is not known", "health is the only word"),
            (
                &["health", "health"][..],
                "health is not known",
                "health is the only word",
            ),
            (
                &["-config"][..],
                "-config wants a value",
                "it is the last word",
            ),
            (
                &["--check=no"][..],
                "--check=no is not known",
                "no such flag has a value",
            ),
            (
                &["--firewall"][..],
                "--firewall wants --check",
                "it changes what that prints",
            ),
            (
                &["health", "--check"][..],
                "health goes alone",
                "--check is another command",
            ),
            (
                &["-tunnel-domain=https://x"][..],
                "https://x is no domain name",
                "it follows --tunnel-domain",
            ),
        ] {
            let failure = words(bad).expect_err(what);
            assert_eq!(failure.exit(), Exit::Usage);
            let text = format!(
                "{what}\n  cause: {cause}\n  next: keyward-proxy --help lists what it knows"
            );
            assert_eq!(failure.to_string(), text);
        }
        let foreign = std::os::unix::ffi::OsStringExt::from_vec(vec![b'\xff']);
        let failure = parse([foreign].into_iter()).expect_err("no UTF-8");
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(
            failure
                .to_string()
                .contains("is not UTF-8\n  cause: every word must be")
        );
        // The chart passes the flag even where it has no domain.
        assert!(matches!(
            words(&["-config=/x", "-tunnel-domain", ""]),
            Ok(Command::Run(_))
        ));
    }

    #[test]
    fn without_the_flag_the_first_file_that_is_there_counts_and_none_is_told_with_all_places() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let places = ["a/config.yaml", "b/config.yaml", "own.yaml"].map(path);
        let places = places.each_ref().map(String::as_str);
        let none = found(&places).expect_err("none is there");
        assert_eq!(none.exit(), Exit::Config);
        assert_eq!(
            none.to_string(),
            format!(
                "open {}: no such file or directory\n  cause: --config is not given, and none of these \
                 is there: {}\n  next: write one of them, or say with --config where the file is",
                places[0],
                places.join(", ")
            )
        );
        for (at, place) in places.iter().enumerate().rev() {
            std::fs::create_dir_all(Path::new(place).parent().unwrap()).unwrap();
            std::fs::write(place, "").unwrap();
            assert_eq!(
                found(&places).unwrap(),
                Path::new(places[at]),
                "before those behind it"
            );
        }
        assert!(DEFAULT_PATHS.iter().all(|place| HELP.contains(place)));
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
