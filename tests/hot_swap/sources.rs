//! Where credentials come from: the channel, files, and what happens when one of them is away.

use std::path::Path;
use std::time::{Duration, SystemTime};

use control::{Credential, FromDaemon, Manifest, Policy, Refusal, Refused};

use crate::rig::{
    Answer, Canary, Carrier, Daemon, HOST, Hello, Issuer, Line, Proxy, Rig, Setup, TUNNEL,
    Upstream, credentials, hang_up, until,
};

const BOTH: &[Carrier] = &[Carrier::Tls, Carrier::WebSocket];

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_goes_and_comes_back_costs_no_call_and_no_stream() {
    let mut rig = Rig::start(|setup| setup).await;
    let hello = Hello::new(&rig.issuer);
    let canary = Canary::start(&rig.proxy, &hello, BOTH);
    let mut stream = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    stream.send(request.as_bytes()).await.unwrap();
    stream.read_to("\r\n\r\n").await.unwrap();
    until("the stream", async || {
        (rig.upstream.streams() == 1).then_some(())
    })
    .await;

    let mut last = rig
        .issuer
        .of(2, &rig.issuer.pair_for(Duration::from_secs(2 * 3600)));
    assert_eq!(rig.session.offer(&last).await, Answer::Ack);
    let end = format!("\"valid_until\":\"{}\"", end_of(&last));
    for generation in 3..=5 {
        // Gone.
        drop(rig.session);
        let kept = format!(
            "ready\ntunnel main: control channel lost, the certificate kept is valid until {}\n",
            end_of(&last)
        );
        let page = async || (rig.proxy.page("/readyz").await? == kept).then_some(());
        until("a word about the end", page).await;
        canary.more(10).await;
        // Back: it is told what is served, and nothing else is asked for.
        rig.session = rig.daemon.accept().await;
        let serving = &rig.session.hello.serving;
        assert_eq!(serving[0].generation, generation - 1);
        let page = async || (rig.proxy.page("/readyz").await? == "ready\n").then_some(());
        until("plain readiness", page).await;
        // Each ends at a time of its own.
        let lifetime = Duration::from_secs(generation * 3600);
        let next = rig.issuer.of(generation, &rig.issuer.pair_for(lifetime));
        assert_eq!(rig.session.offer(&next).await, Answer::Ack);
        let line = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
        assert!(line.is_on(&next));
        rig.upstream.say(generation);
        let event = format!("data: {generation}\n\n");
        stream.read_to(&event).await.unwrap();
        last = next;
    }
    rig.proxy.logs(&end, 1).await;
    canary.finish().await;
}

/// A daemon with a wrong configuration cuts no tunnel that works.
#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_that_the_daemon_has_no_longer_is_served_on_and_told_once() {
    let mut rig = Rig::start(|setup| setup).await;
    let hello = Hello::new(&rig.issuer);
    let canary = Canary::start(&rig.proxy, &hello, BOTH);
    let last = rig.issuer.credential(2);
    assert_eq!(rig.session.offer(&last).await, Answer::Ack);
    let kept = format!(
        "ready\ntunnel main: the daemon has it no longer, the certificate kept is valid until {}\n",
        end_of(&last)
    );
    for page in [kept.as_str(), &kept, "ready\n"] {
        drop(rig.session);
        let tunnels = if page == kept { "other" } else { "main" };
        rig.session = rig.daemon.accept_with(&[tunnels]).await;
        let told = async || (rig.proxy.page("/readyz").await? == page).then_some(());
        until("readiness with its note", told).await;
        canary.more(4).await;
    }
    rig.proxy
        .logs("the daemon has this tunnel no longer", 1)
        .await;
    canary.finish().await;
}

/// When the certificate of `credential` ends, as RFC 3339 writes it.
fn end_of(credential: &Credential) -> String {
    let since = Duration::from_secs(credential.leaf.not_after);
    process::rfc3339(SystemTime::UNIX_EPOCH + since)
}

#[tokio::test(flavor = "multi_thread")]
async fn why_there_is_no_channel_is_said_with_its_path_and_anew_when_it_changes() {
    let cold = Cold::new().await;
    serve(cold.directory.path(), &cold.issuer.credential(1), None);
    let proxy = cold.proxy().await;
    let socket = Daemon::socket_in(cold.control.path());
    let causes = [
        "No such file or directory (os error 2)",
        "Connection refused (os error 111)",
    ];
    proxy.logs(causes[0], 1).await;
    assert!(proxy.logged(&socket.display().to_string()) >= 1);
    // Its file stays when a listener goes.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    proxy.logs(causes[1], 1).await;
    assert_eq!(causes.map(|cause| proxy.logged(cause)), [1, 1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_whose_name_another_one_takes_says_so_once_however_often_it_happens() {
    let mut rig = Rig::start(|setup| setup).await;
    for _ in 0..3 {
        let replaced = FromDaemon::Refused(Refused {
            reason: Refusal::Replaced,
            detail: "a newer subscription stands".to_owned(),
        });
        rig.session.send(&replaced).await;
        rig.session.left().await;
        rig.session = rig.daemon.accept().await;
    }
    let what = "another subscriber uses the name of this replica";
    rig.proxy.logs(what, 1).await;
    assert_eq!(rig.proxy.logged("control.replica"), 1, "what to do");
}

/// F49: SIGHUP from the first moment at which the program can do anything about it, then in a crowd.
#[tokio::test(flavor = "multi_thread")]
async fn a_hang_up_right_after_the_start_does_not_end_the_proxy() {
    let (issuer, upstream, daemon) = (Issuer::new(), Upstream::start().await, Daemon::bind());
    let setup = Setup::new(&upstream).subscribed(daemon.socket());
    let mut hung_up = false;
    let proxy = Proxy::start_while(&setup, |process| hung_up |= hang_up(process)).await;
    assert!(hung_up);
    let mut session = daemon.accept().await;
    for _ in 0..20 {
        assert!(hang_up(proxy.id()));
    }
    assert_eq!(session.offer(&issuer.credential(1)).await, Answer::Ack);
    proxy.ready().await;
}

/// Writes what the daemon's `serve_dir` holds.
fn serve(directory: &Path, credential: &Credential, policy: Option<Policy>) {
    let manifest = Manifest {
        tunnel: credential.tunnel.clone(),
        tunnel_domain: credential.tunnel_domain.clone(),
        generation: credential.generation,
        lowest: credential.lowest,
        leaf_sha256: credentials::fingerprint(credential),
        ca_certificates: credential.ca_certificates.clone(),
        client_ca_certificates: credential.client_ca_certificates.clone(),
        policy,
    };
    let write = |name: &str, text: &str| {
        let new = directory.join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, directory.join(name)).unwrap();
    };
    write("tls.crt", &credential.leaf.chain);
    write("tls.key", credential.leaf.key.expose());
    write("manifest.json", &serde_json::to_string(&manifest).unwrap());
}

struct Cold {
    issuer: Issuer,
    upstream: Upstream,
    directory: tempfile::TempDir,
    /// Where a daemon may listen, later.
    control: tempfile::TempDir,
}

impl Cold {
    async fn new() -> Self {
        Self {
            issuer: Issuer::new(),
            upstream: Upstream::start().await,
            directory: tempfile::tempdir().unwrap(),
            control: tempfile::tempdir().unwrap(),
        }
    }

    /// A proxy with both sources.
    async fn proxy(&self) -> Proxy {
        let path = |name: &str| self.directory.path().join(name);
        let setup = Setup::new(&self.upstream)
            .subscribed(&Daemon::socket_in(self.control.path()))
            .files(path("tls.crt"), path("tls.key"));
        Proxy::start(&setup).await
    }

    async fn line(&self, proxy: &Proxy) -> Line {
        let hello = Hello::new(&self.issuer);
        Line::open(proxy, Carrier::Tls, &hello).await.unwrap()
    }

    async fn serves(&self, proxy: &Proxy, credential: &Credential) {
        let served = async || self.line(proxy).await.is_on(credential).then_some(());
        until("the new files", served).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_start_needs_no_daemon_and_then_the_channel_wins() {
    let cold = Cold::new().await;
    let stranger = cold.issuer.client("stranger");
    let denied = pki::Certificate::from_pem(&stranger.0).unwrap();
    let policy = Policy {
        tunnel: TUNNEL.to_owned(),
        generation: 1,
        routes: None,
        denied: vec![denied.fingerprint().to_string()],
    };
    let mut first = cold.issuer.credential(7);
    first.lowest = 7;
    first.client_ca_certificates = vec![cold.issuer.client_ca_pem()];
    serve(cold.directory.path(), &first, Some(policy));
    let proxy = cold.proxy().await;
    proxy.ready().await;
    // Nobody listens to the subscription, and still it serves, with the denials of the directory.
    let guest = Hello::with_client(&cold.issuer, &cold.issuer.client("guest"));
    let mut line = Line::open(&proxy, Carrier::Tls, &guest).await.unwrap();
    assert!(line.is_on(&first));
    assert_eq!(line.get("/").await.unwrap().status, 200);
    let stranger = Hello::with_client(&cold.issuer, &stranger);
    let mut line = Line::open(&proxy, Carrier::Tls, &stranger).await.unwrap();
    assert!(line.get("/stolen").await.is_err());

    // A set below the lowest is no set.
    serve(cold.directory.path(), &cold.issuer.credential(6), None);
    proxy
        .logs("its generation is below the lowest allowed", 1)
        .await;
    // The next one is, whether it was written at once or not.
    let second = cold.issuer.credential(8);
    serve(cold.directory.path(), &second, None);
    cold.serves(&proxy, &second).await;

    // The channel: from its first credential on the files count for nothing, even if newer.
    let hello = Hello::new(&cold.issuer);
    let serves = async |credential: &Credential| {
        let line = Line::open(&proxy, Carrier::Tls, &hello).await.unwrap();
        assert!(line.is_on(credential));
    };
    let daemon = Daemon::bind_in(cold.control);
    let mut session = daemon.accept().await;
    assert_eq!(session.hello.serving[0].generation, 8);
    let third = cold.issuer.credential(9);
    assert_eq!(session.offer(&third).await, Answer::Ack);
    proxy.logs("the control channel has taken over", 1).await;
    serve(cold.directory.path(), &cold.issuer.credential(20), None);
    // Swaps by the channel go on, from a number that the files have passed.
    for generation in 10..13 {
        let next = cold.issuer.credential(generation);
        assert_eq!(session.offer(&next).await, Answer::Ack);
        serves(&next).await;
    }
    // Also when the daemon is gone again.
    drop(session);
    proxy.logs_at_least("control channel ended", 1).await;
    let session = daemon.accept().await;
    assert_eq!(session.hello.serving[0].generation, 12);
}

/// F18: certificate and key one after the other, and never a mixture in force.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_replacement_of_files_changes_nothing() {
    let cold = Cold::new().await;
    let first = cold.issuer.credential(1);
    serve(cold.directory.path(), &first, None);
    let proxy = cold.proxy().await;
    proxy.ready().await;
    let second = cold.issuer.credential(2);
    let write = |name: &str, text: &str| {
        std::fs::write(cold.directory.path().join(name), text).unwrap();
    };
    write("tls.crt", &second.leaf.chain);
    proxy.logs("credential files are half replaced", 1).await;
    assert!(cold.line(&proxy).await.is_on(&first));
    write("tls.key", second.leaf.key.expose());
    // The manifest still speaks of the first: the same complaint is not repeated.
    assert!(cold.line(&proxy).await.is_on(&first));
    serve(cold.directory.path(), &second, None);
    cold.serves(&proxy, &second).await;
    proxy
        .logs("manifest.json belongs to another certificate", 1)
        .await;
}
