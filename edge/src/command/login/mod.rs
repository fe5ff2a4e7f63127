//! `keyward-edge login`: a person signs in at their identity provider, and gets an access token of the edge.
//!
//! The authorization code flow with PKCE for a native program (RFC 8252, RFC 7636): the browser comes
//! back to a port on loopback that only this sign-in knows the state of. The ID token is exchanged at the
//! edge like any workload's, so a federation rule decides who may what, and whether one factor will do;
//! the audit log has the person's subject. Nothing of the provider is kept.
//!
//! What it does not do: it opens no browser, and it needs no state of an edge, because people work from
//! their own machines.

mod callback;
mod http;
mod provider;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use process::{Clock, Exit, Failure, Firewall, SystemClock};
use serde_json::json;
use tokio::net::TcpListener;

use super::output::{print, read, write};
use callback::Callback;
use http::Client;
use provider::{Provider, ProviderError, SignedIn};

/// How long somebody may take to sign in.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the edge's API is, `https://api.EDGE`
    #[arg(long, value_name = "URL")]
    edge: String,
    /// An address of the edge, in place of what its name resolves to
    #[arg(long, value_name = "IP:PORT")]
    edge_address: Option<SocketAddr>,
    /// CA certificates of the edge itself, PEM [default: those of this machine]
    #[arg(long, value_name = "PATH", alias = "edge-ca")]
    edge_ca_file: Option<PathBuf>,
    /// The identity provider, as its discovery document names it
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// CA certificates of the identity provider, PEM [default: those of this machine]
    #[arg(long, value_name = "PATH")]
    issuer_ca_file: Option<PathBuf>,
    /// What this program is called at the identity provider
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// A file with its secret, where the provider insists on one
    #[arg(long, value_name = "PATH")]
    client_secret_file: Option<PathBuf>,
    /// `fdrl_…`: the rule that the ID token buys access by
    #[arg(long, value_name = "RULE")]
    rule: String,
    /// A further scope to ask the provider for, beside openid; may be repeated
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// A class of sign-in to ask the provider for (`acr_values`), the rule says which will do; may be
    /// repeated
    #[arg(long, value_name = "CLASS")]
    acr: Vec<String>,
    /// The port on loopback that the browser comes back to [default: a free one]
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 0,
        hide_default_value = true
    )]
    port: u16,
    /// Where the access token is written, for its owner alone; `-`: into what is printed
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print what a firewall has to let through, and do nothing else: direction, protocol, host, port,
    /// purpose
    #[arg(long)]
    firewall: bool,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if arguments.firewall {
        return write(firewall(&arguments)?.as_bytes());
    }
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let tell = |url: &str| {
        let mut out = std::io::stderr().lock();
        // Whoever cannot see it cannot sign in, and the limit ends that.
        let _ = writeln!(out, "open this page to sign in:\n{url}");
    };
    let done = sign_in(&arguments, clock, tell).await?;
    print(&done)
}

/// What has to be let through from where somebody signs in. The browser's own way to the provider is as
/// it is.
fn firewall(arguments: &Arguments) -> Result<String, Failure> {
    let mut firewall = Firewall::default();
    let (host, port) = server("--edge", &arguments.edge)?;
    let exchange = "the edge: token exchange";
    match arguments.edge_address {
        Some(address) => firewall.dial(&address.ip().to_string(), address.port(), exchange),
        None => firewall.dial(&host, port, exchange),
    }
    let (host, port) = server("--issuer", &arguments.issuer)?;
    firewall.dial(&host, port, "the identity provider: discovery");
    let others = "the identity provider: tokens and keys, where discovery names another host";
    firewall.dial("*", 443, others);
    let back = "the browser comes back";
    firewall.listen(SocketAddr::from(([127, 0, 0, 1], arguments.port)), back);
    let text = firewall.to_string();
    // 0 is a free one.
    Ok(text.replace("in\ttcp\t127.0.0.1\t0\t", "in\ttcp\t127.0.0.1\t*\t"))
}

/// Host and port of a URL.
fn server(word: &str, url: &str) -> Result<(String, u16), Failure> {
    let no_url = || {
        Failure::new(Exit::Usage, format!("{word} is no URL"))
            .next("write https:// and a name, for instance https://api.edge.example.com")
    };
    let uri: ::http::Uri = url.parse().map_err(|_| no_url())?;
    let host = uri.host().ok_or_else(no_url)?.trim_matches(['[', ']']);
    let default = match uri.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        _ => return Err(no_url()),
    };
    Ok((host.to_owned(), uri.port_u16().unwrap_or(default)))
}

/// Signs in, exchanges, keeps the token; what is to be printed. `tell` is given the page to open.
pub(crate) async fn sign_in(
    arguments: &Arguments,
    clock: Arc<dyn Clock>,
    tell: impl FnOnce(&str) + Send,
) -> Result<serde_json::Value, Failure> {
    let ca = arguments.issuer_ca_file.as_deref().map(read).transpose()?;
    let secret = arguments.client_secret_file.as_deref();
    let secret = secret.map(read).transpose()?;
    let listener = TcpListener::bind(("127.0.0.1", arguments.port))
        .await
        .map_err(|error| {
            let what = format!("cannot listen on port {} of loopback", arguments.port);
            Failure::new(Exit::Unavailable, what).caused_by(&error)
        })?;
    let redirect = callback::url(&listener)
        .map_err(|error| Failure::internal("the listener has no address").caused_by(&error))?;
    let provider = Provider::discover(&arguments.issuer, Client::new(ca, None))
        .await
        .map_err(|error| refused_by_provider(&error))?;
    let pending = provider
        .begin(
            &arguments.client_id,
            secret.as_deref().map(str::trim),
            redirect,
            (&arguments.scope, &arguments.acr),
        )
        .map_err(|error| refused_by_provider(&error))?;
    tell(pending.page());
    let callback = Callback {
        state: pending.state().to_owned(),
        issuer: arguments.issuer.clone(),
    };
    let code = tokio::time::timeout(PATIENCE, callback.wait(&listener))
        .await
        .map_err(|_| Failure::new(Exit::Unavailable, "nobody signed in within five minutes"))?
        .map_err(|error| {
            Failure::new(Exit::Permission, "the sign-in was refused").caused_by(&error)
        })?;
    let signed_in = pending
        .finish(code, clock.clone())
        .await
        .map_err(|error| refused_by_provider(&error))?;
    let bought = exchange(arguments, &signed_in).await?;
    kept(arguments, &signed_in, &bought, &*clock)
}

fn refused_by_provider(error: &ProviderError) -> Failure {
    let exit = match error {
        ProviderError::Discovery(_) => Exit::Unavailable,
        ProviderError::Setting(_) => Exit::Usage,
        _ => Exit::Permission,
    };
    Failure::new(exit, "the sign-in at the identity provider failed").caused_by(error)
}

async fn exchange(arguments: &Arguments, who: &SignedIn) -> Result<api::AccessToken, Failure> {
    let ca = arguments.edge_ca_file.as_deref().map(read).transpose()?;
    let asked = api::Exchange {
        grant_type: api::grant::JWT_BEARER.to_owned(),
        assertion: Some(who.id_token.to_string()),
        federation_rule_id: Some(arguments.rule.clone()),
        ..api::Exchange::default()
    };
    let body = serde_json::to_vec(&asked).expect("plain data has a JSON form");
    let url = format!("{}/v1/oauth/token", arguments.edge.trim_end_matches('/'));
    let request = ::http::Request::post(url)
        .header(::http::header::CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(|error| Failure::new(Exit::Usage, "--edge is no URL").caused_by(&error))?;
    let client = Client::new(ca, arguments.edge_address);
    let answer = client.send(request).await.map_err(|error| {
        Failure::new(Exit::Unavailable, "the edge does not answer").caused_by(&error)
    })?;
    let id = answer.headers().get(api::REQUEST_ID_HEADER);
    let id = id.and_then(|id| id.to_str().ok()).unwrap_or("-").to_owned();
    let refused = |why: &str| {
        Failure::new(Exit::Permission, "the edge does not take this sign-in")
            .cause(format!("{why}, request {id}"))
            .next("its operator finds the reason under that request with keyward-edge audit")
    };
    if answer.status() != ::http::StatusCode::OK {
        let body: Option<api::ErrorBody> = serde_json::from_slice(answer.body()).ok();
        let message = body.map_or_else(|| answer.status().to_string(), |body| body.error.message);
        return Err(refused(&message));
    }
    serde_json::from_slice(answer.body()).map_err(|_| refused("its answer cannot be read"))
}

fn kept(
    arguments: &Arguments,
    who: &SignedIn,
    bought: &api::AccessToken,
    clock: &dyn Clock,
) -> Result<serde_json::Value, Failure> {
    let now = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let end = now.as_secs().saturating_add(bought.expires_in);
    let done = |name: &str, value: serde_json::Value| {
        json!({
            "subject": who.subject,
            "scope": bought.scope,
            "expires_at": api::Timestamp::from_seconds(end),
            name: value,
        })
    };
    if arguments.out == Path::new("-") {
        return Ok(done("access_token", json!(bought.access_token)));
    }
    write_private(&arguments.out, &bought.access_token).map_err(|error| {
        let what = format!("cannot write {}", arguments.out.display());
        Failure::new(Exit::Usage, what).caused_by(&error)
    })?;
    Ok(done("file", json!(arguments.out)))
}

/// A file of its owner's alone from its first byte on; what had the name is replaced as a whole.
fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut draft = file.as_os_str().to_owned();
    draft.push(".part");
    let draft = PathBuf::from(draft);
    let _ = std::fs::remove_file(&draft);
    let mut out = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    std::fs::rename(&draft, file)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments as Line, Command};
    use super::*;

    fn lines(words: &[&str]) -> Result<String, Failure> {
        let known = ["keyward-edge", "login", "--firewall", "--client-id", "c"];
        let rest = ["--rule", "fdrl_1", "--out", "-"];
        let line = Line::try_parse_from(known.iter().chain(&rest).chain(words)).unwrap();
        match line.command {
            Command::Login(arguments) => firewall(&arguments),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_firewall_is_told_of_edge_provider_and_browser() {
        let others = "the identity provider: tokens and keys, where discovery names another host";
        let names = "out\ttcp\t*\t53\tname resolution, by the system's resolvers\n";
        let udp = names.replace("tcp", "udp");
        let edge = ["--edge", "https://api.edge.example"];
        let issuer = ["--issuer", "https://id.example:8443/realm"];
        assert_eq!(
            lines(&[edge, issuer].concat()).unwrap(),
            format!(
                "in\ttcp\t127.0.0.1\t*\tthe browser comes back, this machine alone\n\
                 out\ttcp\t*\t443\t{others}\n\
                 {names}\
                 out\ttcp\tapi.edge.example\t443\tthe edge: token exchange\n\
                 out\ttcp\tid.example\t8443\tthe identity provider: discovery\n\
                 {udp}"
            )
        );
        let more = ["--edge-address", "192.0.2.7:4443", "--port", "8400"];
        let text = lines(&[&edge[..], &issuer, &more].concat()).unwrap();
        assert!(text.contains("out\ttcp\t192.0.2.7\t4443\tthe edge: token exchange\n"));
        assert!(text.contains("in\ttcp\t127.0.0.1\t8400\t") && !text.contains("api.edge"));
        for bad in ["edge.example", "ftp://edge.example", "https://"] {
            let failure = lines(&[&["--edge", bad][..], &issuer].concat()).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            assert!(
                failure.to_string().starts_with("--edge is no URL"),
                "{failure}"
            );
        }
    }
}
