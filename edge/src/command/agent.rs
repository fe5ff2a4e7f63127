//! `keyward-edge agent`: what its words mean. What it does is in `agent/`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use process::{Exit, Failure, Firewall, Tasks};

use super::output;
use crate::agent::{self, CredentialFiles, Door, EdgeUrl, Reach, StdioTarget, TunnelDomain};

/// Where callers ask when nobody says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7777);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the edge is, `https://EDGE[:PORT]`; may be repeated, for each further edge of the tunnel
    #[arg(long, value_name = "URL", required = true)]
    edge: Vec<EdgeUrl>,
    /// An address of the edge, in place of what its name resolves to; may be repeated
    #[arg(long, value_name = "IP:PORT")]
    edge_address: Vec<SocketAddr>,
    /// CA certificates of the edge itself, PEM [default: those of this machine]
    #[arg(long, value_name = "PATH", alias = "edge-ca-file")]
    edge_ca: Option<PathBuf>,
    /// The domain of the tunnel: routes are names in front of it [default: the one that the tunnel's CA
    /// certificates are limited to]
    #[arg(long, value_name = "DOMAIN")]
    tunnel_domain: Option<TunnelDomain>,
    /// The client certificate, PEM, shown to the edge and to the proxy
    #[arg(long, value_name = "PATH")]
    cert: PathBuf,
    /// Its key, PEM
    #[arg(long, value_name = "PATH")]
    key: PathBuf,
    /// CA certificates of the tunnel, PEM
    #[arg(long, value_name = "PATH")]
    ca: PathBuf,
    /// Where MCP clients ask, on loopback
    #[arg(long, value_name = "IP:PORT", default_value_t = LISTEN)]
    listen: SocketAddr,
    /// Let `--listen` be an address that others can reach: whoever does has the certificate's access
    #[arg(long)]
    allow_remote: bool,
    /// A further name of this machine that clients may ask for; may be repeated
    #[arg(long, value_name = "NAME")]
    allow_host: Vec<String>,
    /// An origin of pages that may ask, besides those of this machine; may be repeated
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Listen on nothing, and speak MCP on standard input and output for one route; its path is /mcp
    /// unless it is said
    #[arg(long, value_name = "ROUTE[/PATH]", conflicts_with = "print_config")]
    stdio: Option<StdioTarget>,
    /// Print what to write into the configuration of the common MCP clients, and do nothing else
    #[arg(long, value_name = "ROUTE[/PATH]")]
    print_config: Option<StdioTarget>,
    /// Print what a firewall has to let through, and do nothing else: direction, protocol, host, port,
    /// purpose
    #[arg(long, conflicts_with = "print_config")]
    firewall: bool,
    /// The least that is logged, on standard error: `debug`, `info`, `warn`, `error`
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

pub(super) async fn run(arguments: Arguments, tasks: Tasks) -> Result<(), Failure> {
    if arguments.firewall {
        return output::write(arguments.firewall().to_string().as_bytes());
    }
    let domain = arguments.domain()?;
    if let Some(target) = &arguments.print_config {
        let program = std::env::current_exe().unwrap_or_else(|_| "keyward-edge".into());
        let program = program.display().to_string();
        let words = arguments.words(target, &domain);
        let printed = agent::snippets(target, arguments.listen, &program, &words);
        return output::print(&printed);
    }
    process::log::init(&arguments.log_level)?;
    match arguments.stdio.clone() {
        Some(target) => agent::bridge(arguments.reach(domain), target, tasks).await,
        None => agent::serve(arguments.reach(domain), arguments.door()?, tasks).await,
    }
}

impl Arguments {
    fn firewall(&self) -> Firewall {
        let mut firewall = Firewall::default();
        if self.stdio.is_none() {
            firewall.listen(self.listen, "MCP clients");
        }
        // Outer TLS, with everything that is called inside it.
        let why = "the edge";
        for address in &self.edge_address {
            firewall.dial(&address.ip().to_string(), address.port(), why);
        }
        if self.edge_address.is_empty() {
            for edge in &self.edge {
                firewall.dial(edge.host(), edge.port(), why);
            }
        }
        firewall
    }

    fn door(&self) -> Result<Door, Failure> {
        let listen = self.listen;
        if !listen.ip().to_canonical().is_loopback() && !self.allow_remote {
            let what = format!("{listen} is no address of loopback");
            return Err(Failure::new(Exit::Usage, what)
                .cause("whoever reaches it has the certificate's access")
                .next("listen on 127.0.0.1, or say --allow-remote"));
        }
        Ok(Door {
            listen,
            hosts: self.allow_host.clone(),
            origins: self.allow_origin.clone(),
        })
    }

    /// As it was said, else as the tunnel's CA says.
    fn domain(&self) -> Result<TunnelDomain, Failure> {
        let said = self.tunnel_domain.clone();
        said.or_else(|| TunnelDomain::of(&self.ca)).ok_or_else(|| {
            let file = self.ca.display();
            Failure::new(Exit::Usage, "the domain of the tunnel is not known")
                .cause(format!("the CA certificates in {file} are not limited to one domain, or cannot be read"))
                .next("say it with --tunnel-domain; whoever runs the tunnel sees it in keyward status or keyward-edge tunnel show")
        })
    }

    fn reach(&self, domain: TunnelDomain) -> Reach {
        Reach {
            edges: self.edge.clone(),
            addresses: self.edge_address.clone(),
            domain,
            files: CredentialFiles {
                certificate: self.cert.clone(),
                key: self.key.clone(),
                tunnel_ca: self.ca.clone(),
                edge_ca: self.edge_ca.clone(),
            },
        }
    }

    /// The same tunnel with the same files, as a command for `target`; it is started elsewhere, so paths
    /// are whole.
    fn words(&self, target: &StdioTarget, domain: &TunnelDomain) -> Vec<String> {
        let whole = |path: &Path| {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            whole.display().to_string()
        };
        let mut words = vec!["agent".to_owned()];
        let mut say = |word: &str, value: String| words.extend([word.to_owned(), value]);
        for edge in &self.edge {
            say("--edge", edge.to_string());
        }
        for address in &self.edge_address {
            say("--edge-address", address.to_string());
        }
        if let Some(path) = &self.edge_ca {
            say("--edge-ca", whole(path));
        }
        say("--tunnel-domain", domain.to_string());
        say("--cert", whole(&self.cert));
        say("--key", whole(&self.key));
        say("--ca", whole(&self.ca));
        say("--stdio", target.to_string());
        words
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments as Line, Command};
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, clap::Error> {
        let known = [
            "keyward-edge",
            "agent",
            "--edge",
            "https://edge.example",
            "--tunnel-domain",
            "t.example",
            "--cert",
            "/c",
            "--key",
            "/k",
            "--ca",
            "/ca",
        ];
        let line = Line::try_parse_from(known.iter().chain(words))?;
        match line.command {
            Command::Agent(arguments) => Ok(*arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_printed_command_says_the_same_again() {
        let arguments = parse(&["--edge-address", "[::1]:443", "--edge-ca", "/e"]).unwrap();
        let target = "docs/other/mcp".parse().unwrap();
        let domain = || "t.example".parse::<TunnelDomain>().unwrap();
        let words = arguments.words(&target, &domain());
        let line = ["keyward-edge".to_owned()].into_iter().chain(words);
        let Command::Agent(again) = Line::try_parse_from(line).unwrap().command else {
            panic!("another command");
        };
        assert_eq!(
            format!("{:?}", again.reach(again.domain().unwrap())),
            format!("{:?}", arguments.reach(domain()))
        );
        assert_eq!(again.stdio, Some(target));
    }

    #[test]
    fn the_domain_is_the_one_that_the_tunnels_ca_is_limited_to() {
        use pki::{Authority, AuthorityProfile};
        use process::{Clock, SystemClock};

        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.crt");
        let pem = |domain: Option<&str>| {
            let profile = AuthorityProfile {
                constrained_to: domain.map(str::to_owned),
                ..AuthorityProfile::server("tunnel CA")
            };
            let ca = Authority::generate(&profile, SystemClock.wall()).unwrap();
            ca.certificate().to_pem()
        };
        let of = |text: &str| {
            std::fs::write(&file, text).unwrap();
            let words = ["keyward-edge", "agent", "--edge", "https://edge.example"];
            let words = words
                .into_iter()
                .chain(["--cert", "/c", "--key", "/k", "--ca"]);
            let line = Line::try_parse_from(words.chain([file.to_str().unwrap()])).unwrap();
            let Command::Agent(arguments) = line.command else {
                panic!("another command");
            };
            arguments.domain()
        };
        let one = pem(Some("abcd.edge.example"));
        let other = pem(Some("other.example"));
        assert_eq!(of(&one).unwrap().to_string(), "abcd.edge.example");
        let twice = format!("{one}{}", pem(Some("abcd.edge.example")));
        assert_eq!(of(&twice).unwrap().to_string(), "abcd.edge.example");
        let free = pem(None);
        for unsaid in ["", &free, &format!("{one}{other}"), &format!("{one}{free}")] {
            let failure = of(unsaid).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(failure.to_string().contains("--tunnel-domain"), "{failure}");
        }
    }

    #[test]
    fn a_firewall_is_told_of_every_edge_and_of_the_callers() {
        let lines = |words: &[&str]| {
            let words = [&["--firewall"][..], words].concat();
            parse(&words).unwrap().firewall().to_string()
        };
        let names = "out\ttcp\t*\t53\tname resolution, by the system's resolvers\n";
        let udp = names.replace("tcp", "udp");
        assert_eq!(
            lines(&["--edge", "https://other.example:8443"]),
            format!(
                "in\ttcp\t127.0.0.1\t7777\tMCP clients, this machine alone\n\
                 {names}\
                 out\ttcp\tagents.edge.example\t443\tthe edge\n\
                 out\ttcp\tagents.other.example\t8443\tthe edge\n\
                 {udp}"
            )
        );
        assert_eq!(
            lines(&["--edge-address", "[2001:db8::7]:443", "--stdio", "docs"]),
            "out\ttcp\t2001:db8::7\t443\tthe edge\n"
        );
        assert!(parse(&["--firewall", "--print-config", "docs"]).is_err());
    }

    #[test]
    fn the_documented_command_is_accepted() {
        let page = include_str!("../../../docs/edge.md");
        let begin = page.find("keyward-edge agent --edge").unwrap();
        let (line, _) = page[begin..].split_once("```").unwrap();
        let words = line.split_whitespace().filter(|word| *word != "\\");
        assert!(Line::try_parse_from(words).is_ok());
    }

    #[test]
    fn an_address_that_others_reach_wants_a_word_of_its_own() {
        let open = parse(&["--listen", "0.0.0.0:7777"]).unwrap();
        assert_eq!(open.door().unwrap_err().exit(), Exit::Usage);
        let said = parse(&["--listen", "0.0.0.0:7777", "--allow-remote"]).unwrap();
        assert!(said.door().is_ok());
        for loopback in ["127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(
                parse(&["--listen", loopback]).unwrap().door().is_ok(),
                "{loopback}"
            );
        }
        assert!(parse(&["--stdio", "a.b"]).is_err());
        assert!(parse(&["--stdio", "docs", "--print-config", "docs"]).is_err());
    }
}
