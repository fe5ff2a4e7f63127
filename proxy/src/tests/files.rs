//! Certificate files, replaced in every way that people replace them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::{Credential, Leaf, Manifest, Policy};
use process::Clock;
use tempfile::TempDir;

use super::world::{Ca, Caller, Client, Proxy, TLS12, leaf_sha256, shown, until, within};
use crate::config::{Config, CredentialFiles};
use crate::credential::Source;
use crate::files::Files;
use crate::watched::{Watch, Watched};

/// A proxy whose `tls.crt` and `tls.key` are in `current/` of a directory.
struct Stand {
    proxy: Proxy,
    files: Option<Watch<Files>>,
    directory: TempDir,
}

impl Stand {
    async fn new() -> Self {
        Self::with(None).await
    }

    /// The same with a file of client CAs of this name.
    async fn with(client_ca: Option<&str>) -> Self {
        Self::of("control: {socket: none, tunnels: [main]}", client_ca).await
    }

    /// The same of a proxy that is not told what its tunnel is called.
    async fn unnamed() -> Self {
        Self::of("control: {socket: none}", None).await
    }

    async fn of(control: &str, client_ca: Option<&str>) -> Self {
        let (proxy, directory) = (Proxy::start().await, tempfile::tempdir().unwrap());
        let text = format!("listen_addr: ':0'\n{control}\nroutes: {{}}\n");
        let config = Config::from_text(&text, Some(super::world::DOMAIN)).unwrap();
        let paths = CredentialFiles {
            certificate: directory.path().join("current/tls.crt"),
            key: directory.path().join("current/tls.key"),
            client_ca: client_ca.map(|name| directory.path().join(name)),
        };
        let forwarder = Some(proxy.forwarder.clone());
        let files = Files::new(paths, &config, proxy.credentials.clone(), forwarder);
        Self {
            proxy,
            files: Some(Watch::new(files)),
            directory,
        }
    }

    /// The files are watched from here on.
    fn watch(&mut self) {
        let files = self.files.take().expect("once");
        let watching = files.run(self.proxy.tasks.clone());
        self.proxy.tasks.essential("files", watching);
    }

    /// The files are looked at once; then this generation is served.
    async fn look(&mut self) -> u64 {
        self.files.as_mut().expect("not watched").look().await;
        self.generation()
    }

    /// Why what the files say now is not taken up, and what to do; their directory is written `DIR`.
    async fn refusal(&mut self) -> String {
        let files = self.files.as_mut().expect("not watched").watched();
        let read = files.read().await;
        let refused = read.and_then(|(_, read)| files.take(read)).unwrap_err();
        let text = format!("{refused}; {}", refused.next());
        text.replace(self.directory.path().to_str().unwrap(), "DIR")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory `name` with a pair in it.
    fn directory(&self, name: &str, leaf: &Leaf) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("tls.crt"), &leaf.chain).unwrap();
        fs::write(path.join("tls.key"), leaf.key.expose()).unwrap();
        path
    }

    /// The same with what the daemon writes beside the pair.
    fn served_directory(&self, name: &str, credential: &Credential) -> PathBuf {
        let path = self.directory(name, &credential.leaf);
        fs::write(path.join("manifest.json"), manifest(credential, &[])).unwrap();
        path
    }

    /// Points `current` at a directory, in one step.
    fn point(&self, to: &Path) {
        let link = self.path("next");
        std::os::unix::fs::symlink(to, &link).unwrap();
        fs::rename(link, self.path("current")).unwrap();
    }

    /// Replaces one file by a rename within its directory.
    fn rename(&self, name: &str, text: &str) {
        let path = self.path("current").join(name);
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }

    fn served(&self) -> Option<String> {
        let current = self.proxy.credentials.current();
        current.first().map(|serving| serving.leaf.sha256.clone())
    }

    async fn serves(&self, leaf: &Leaf) {
        let wanted = leaf_sha256(leaf);
        until("the new pair is served", || {
            self.served().as_ref() == Some(&wanted)
        })
        .await;
    }

    fn generation(&self) -> u64 {
        self.proxy.credentials.current()[0].generation
    }
}

#[tokio::test]
async fn five_swaps_in_a_row_are_seen_by_symlink_by_rename_and_in_place() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    stand.watch();
    for n in 0..5 {
        let leaf = ca.leaf();
        stand.point(&stand.directory(&format!("gen-{n}"), &leaf));
        stand.serves(&leaf).await;
    }
    for _ in 0..5 {
        let leaf = ca.leaf();
        stand.rename("tls.crt", &leaf.chain);
        stand.rename("tls.key", leaf.key.expose());
        stand.serves(&leaf).await;
    }
    for _ in 0..5 {
        let leaf = ca.leaf();
        fs::write(stand.path("current/tls.key"), leaf.key.expose()).unwrap();
        fs::write(stand.path("current/tls.crt"), &leaf.chain).unwrap();
        stand.serves(&leaf).await;
    }
    assert_eq!(stand.generation(), 15, "each pair once, and no mixture");
}

/// F19: nothing but what a file holds says whether it changed.
#[tokio::test]
async fn a_pair_is_seen_whose_files_have_the_dates_and_lengths_of_the_ones_before() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    let first = ca.leaf();
    stand.point(&stand.directory("gen", &first));
    let files = ["current/tls.crt", "current/tls.key"].map(|name| stand.path(name));
    let stamp = || {
        files.each_ref().map(|file| {
            let seen = fs::metadata(file).unwrap();
            (seen.modified().unwrap(), seen.len())
        })
    };
    let before = stamp();
    stand.watch();
    stand.serves(&first).await;
    let alike = |leaf: &Leaf| {
        leaf.chain.len() == first.chain.len() && leaf.key.expose().len() == first.key.expose().len()
    };
    let leaf = std::iter::repeat_with(|| ca.leaf()).find(alike).unwrap();
    for (file, text) in files.iter().zip([leaf.chain.as_str(), leaf.key.expose()]) {
        fs::write(file, text).unwrap();
        let date = before[0].0;
        fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_modified(date)
            .unwrap();
    }
    fs::File::options()
        .write(true)
        .open(&files[1])
        .unwrap()
        .set_modified(before[1].0)
        .unwrap();
    assert_eq!(stamp(), before);
    stand.serves(&leaf).await;
}

/// Whenever in the interval between two looks it comes; the time is tokio's, so that the machine's speed
/// decides nothing.
#[tokio::test]
async fn a_pair_is_taken_up_within_a_second_of_the_second_files_rename() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    let first = ca.leaf();
    stand.point(&stand.directory("gen", &first));
    stand.watch();
    stand.serves(&first).await;
    tokio::time::pause();
    for moment in 0..10 {
        tokio::time::sleep(Duration::from_millis(moment * 31)).await;
        let leaf = ca.leaf();
        stand.rename("tls.crt", &leaf.chain);
        // Long enough for half of it to be seen, and decided to be no good.
        tokio::time::sleep(Duration::from_millis(600)).await;
        stand.rename("tls.key", leaf.key.expose());
        let renamed = tokio::time::Instant::now();
        stand.serves(&leaf).await;
        let took = renamed.elapsed();
        assert!(took <= Duration::from_secs(1), "{took:?}");
    }
}

#[tokio::test]
async fn half_a_pair_and_rubbish_keep_the_last_good_one() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    let first = ca.leaf();
    stand.point(&stand.directory("gen", &first));
    assert_eq!(stand.look().await, 1);
    let torn = ca.leaf();
    let third = ca.leaf();
    let second = Duration::from_secs(1);
    let expired = ca.leaf_for(super::world::DOMAIN, early(), second);
    let key = |leaf: &Leaf| leaf.key.expose().to_owned();
    for (chain, key) in [
        (ca.leaf().chain, key(&ca.leaf())),
        (torn.chain[..torn.chain.len() / 2].to_owned(), key(&torn)),
        (String::new(), key(&torn)),
        (torn.chain.clone(), String::new()),
        (expired.chain.clone(), key(&expired)),
    ] {
        for (name, text) in [("tls.key", &key), ("tls.crt", &chain)] {
            stand.rename(name, text);
            assert_eq!(stand.look().await, 1);
            assert_eq!(stand.served(), Some(leaf_sha256(&first)));
        }
    }
    fs::remove_file(stand.path("current/tls.key")).unwrap();
    assert_eq!(stand.look().await, 1);
    stand.rename("tls.crt", &third.chain);
    assert_eq!(stand.look().await, 1);
    stand.rename("tls.key", third.key.expose());
    assert_eq!(stand.look().await, 2);
    assert_eq!(stand.served(), Some(leaf_sha256(&third)));
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
async fn what_is_not_taken_up_is_told_with_the_path_of_its_file_and_the_next_step() {
    let (ca, client, mut stand) = (Ca::new(), Client::new(), Stand::with(Some("clients")).await);
    let good = ca.credential(7);
    let path = stand.directory("gen", &good.leaf);
    stand.point(&path);
    fs::write(stand.path("clients"), &client.ca).unwrap();
    assert_eq!(stand.look().await, 1);
    let expired = ca.leaf_for(super::world::DOMAIN, early(), Duration::from_secs(1));
    let pem = "write the private key there as unencrypted PEM";
    let chain = "write the PEM certificate chain there, the server certificate first";
    let bundle = "write the certificates of the authorities to trust there, as PEM";
    let other = ca.leaf();
    let other = other.key.expose();
    for (name, text, what, next) in [
        (
            "current/tls.crt",
            "",
            "DIR/current/tls.crt holds no certificate",
            chain,
        ),
        (
            "current/tls.crt",
            &*expired.chain,
            "DIR/current/tls.key is not the key of the certificate in DIR/current/tls.crt",
            "put certificate and key of the same issuance there, or let keyward renew-cert write both",
        ),
        (
            "current/tls.key",
            "",
            "DIR/current/tls.key holds no private key",
            pem,
        ),
        (
            "current/tls.key",
            other,
            "DIR/current/tls.key is not the key of the certificate in DIR/current/tls.crt",
            "put certificate and key of the same issuance there, or let keyward renew-cert write both",
        ),
        ("clients", "", "DIR/clients holds no certificate", bundle),
        (
            "current/manifest.json",
            "{",
            "DIR/current/manifest.json is malformed at line 1",
            "let tls.cert_file be in a serve_dir of the daemon, or remove the file",
        ),
        (
            "current/manifest.json",
            &*manifest(&ca.credential(8), &[]),
            "DIR/current/manifest.json belongs to another certificate",
            "replace the other files too, with those of the same issuance",
        ),
        (
            "current/manifest.json",
            &*manifest(
                &Credential {
                    lowest: 9,
                    ..good.clone()
                },
                &[],
            ),
            "DIR/current/manifest.json: its generation is below the lowest allowed",
            "put the files of a later issuance there, as keyward writes them",
        ),
    ] {
        let before = fs::read(stand.path(name)).ok();
        fs::write(stand.path(name), text).unwrap();
        assert_eq!(stand.refusal().await, format!("{what}; {next}"));
        match before {
            Some(before) => fs::write(stand.path(name), before).unwrap(),
            None => fs::remove_file(stand.path(name)).unwrap(),
        }
    }
    fs::remove_file(stand.path("clients")).unwrap();
    assert_eq!(
        stand.refusal().await,
        "open DIR/clients: no such file or directory; create DIR/clients, or correct the path"
    );
}

#[tokio::test]
async fn a_pair_that_begins_later_is_taken_when_it_begins() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    let (first, day) = (ca.leaf(), Duration::from_secs(86_400));
    stand.point(&stand.directory("now", &first));
    assert_eq!(stand.look().await, 1);
    let tomorrow = process::SystemClock.wall() + day;
    let next = ca.leaf_for(super::world::DOMAIN, tomorrow, day);
    stand.point(&stand.directory("later", &next));
    assert_eq!(stand.look().await, 1, "F33");
    stand.proxy.clock.advance(day);
    assert_eq!(stand.look().await, 2, "although no file has changed");
}

#[tokio::test]
async fn an_expired_pair_is_taken_when_the_clock_is_set_back() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    stand.point(&stand.directory("first", &ca.leaf()));
    assert_eq!(stand.look().await, 1);
    let day = Duration::from_secs(86_400);
    stand.proxy.clock.advance(3 * day);
    stand.point(&stand.directory("second", &ca.leaf()));
    assert_eq!(stand.look().await, 1, "over, as the clock says");
    stand.proxy.clock.set_back();
    assert_eq!(stand.look().await, 2, "F35, although no file has changed");
}

/// A time at which a leaf of one second was over long ago.
fn early() -> std::time::SystemTime {
    process::SystemClock.wall() - Duration::from_secs(100)
}

fn manifest(credential: &Credential, denied: &[&str]) -> String {
    let manifest = Manifest {
        tunnel: credential.tunnel.clone(),
        tunnel_domain: credential.tunnel_domain.clone(),
        generation: credential.generation,
        lowest: credential.lowest,
        leaf_sha256: leaf_sha256(&credential.leaf),
        ca_certificates: credential.ca_certificates.clone(),
        client_ca_certificates: credential.client_ca_certificates.clone(),
        policy: Some(Policy {
            tunnel: credential.tunnel.clone(),
            generation: credential.generation,
            routes: None,
            denied: denied.iter().map(|&text| text.to_owned()).collect(),
        }),
    };
    serde_json::to_string(&manifest).unwrap()
}

#[tokio::test]
async fn a_manifest_gives_the_generation_the_clients_and_the_denials() {
    let (ca, client, mut stand) = (Ca::new(), Client::new(), Stand::new().await);
    let credential = Credential {
        client_ca_certificates: vec![client.ca.clone()],
        ..ca.credential(41)
    };
    let path = stand.directory("gen-41", &credential.leaf);
    let text = manifest(&credential, &[&client.fingerprint]);
    fs::write(path.join("manifest.json"), text).unwrap();
    stand.point(&path);
    assert_eq!(stand.look().await, 41);
    let tunnel = stand.proxy.credentials.current()[0].tunnel.clone();
    assert!(tunnel.denied.borrow().contains(&client.fingerprint));

    // One of an earlier generation, and one that belongs to another pair, are not taken.
    let earlier = ca.credential(40);
    let path = stand.directory("gen-40", &earlier.leaf);
    fs::write(path.join("manifest.json"), manifest(&earlier, &[])).unwrap();
    stand.point(&path);
    assert_eq!(stand.look().await, 41);
    let mixed = ca.credential(42);
    let path = stand.directory("gen-42", &ca.leaf());
    fs::write(path.join("manifest.json"), manifest(&mixed, &[])).unwrap();
    stand.point(&path);
    assert_eq!(stand.look().await, 41);
    assert_eq!(stand.served(), Some(leaf_sha256(&credential.leaf)));
}

#[tokio::test]
async fn the_channel_wins_over_files_for_good() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    let first = ca.leaf();
    stand.point(&stand.directory("gen", &first));
    assert_eq!(stand.look().await, 1);
    // Counted here, so a lower number from the daemon is not an older one.
    let pushed = ca.credential(1);
    stand.proxy.offer(&pushed).settled().await;
    assert_eq!(stand.served(), Some(leaf_sha256(&pushed.leaf)));
    let files = Credential {
        leaf: ca.leaf(),
        ..ca.credential(7)
    };
    for source in [Source::Files, Source::Directory] {
        assert!(stand.proxy.credentials.offer(&files, source).is_err());
    }
    assert_eq!(stand.proxy.credentials.current().len(), 1);
}

/// A proxy whose file names no tunnel gives plain files a name of its own; the domain is what they share.
#[tokio::test]
async fn what_comes_after_files_takes_their_place_whatever_its_domain_is() {
    const OTHER: &str = "other.example";
    for source in [Source::Channel, Source::Directory] {
        let (ca, mut stand) = (Ca::new(), Stand::new().await);
        stand.point(&stand.directory("gen", &ca.leaf()));
        assert_eq!(stand.look().await, 1);
        let day = Duration::from_secs(24 * 3600);
        let other = Credential {
            tunnel: "other".to_owned(),
            tunnel_domain: OTHER.to_owned(),
            leaf: ca.leaf_for(OTHER, stand.proxy.clock.wall(), day),
            ..ca.credential(3)
        };
        let published = stand.proxy.credentials.offer(&other, source);
        published.unwrap_or_else(|refused| panic!("{refused}"));
        let current = stand.proxy.credentials.current();
        let names: Vec<_> = current.iter().map(|one| &*one.tunnel.name).collect();
        assert_eq!(names, ["other"]);
    }
}

#[tokio::test]
async fn files_replace_those_of_another_writer_whatever_the_tunnel_is_called() {
    let (ca, mut stand) = (Ca::new(), Stand::unnamed().await);
    let caller = Caller::new(&[&ca]);
    let served = Credential {
        lowest: 0,
        ..ca.credential(41)
    };
    let (before, after) = (ca.leaf(), ca.leaf());
    let sets = [
        (stand.directory("before", &before), &before, 1),
        (stand.served_directory("served", &served), &served.leaf, 41),
        (stand.directory("after", &after), &after, 1),
    ];
    let mut held: Option<crate::credential::Begun> = None;
    for (path, leaf, generation) in sets {
        stand.point(&path);
        assert_eq!(stand.look().await, generation);
        let current = stand.proxy.credentials.current();
        assert_eq!(current.len(), 1, "one set of files, one tunnel");
        if let Some(held) = held.take() {
            let mut settled = std::pin::pin!(current[0].settled());
            assert!(futures_util::poll!(&mut settled).is_pending());
            drop(held);
        }
        within("the handshakes of the set before", current[0].settled()).await;
        let stream = stand.proxy.call(&caller).await;
        assert_eq!(shown(&stream), leaf_sha256(leaf));
        held = Some(stand.proxy.credentials.begin(None).unwrap());
    }
}

#[tokio::test]
async fn a_connection_outlives_the_files_that_it_came_in_under() {
    let (ca, mut stand) = (Ca::new(), Stand::new().await);
    stand.point(&stand.directory("first", &ca.leaf()));
    assert_eq!(stand.look().await, 1);
    let mut stream = stand.proxy.call(&Caller::new(&[&ca])).await;
    for generation in 2..4 {
        stand.proxy.ask(&mut stream).await;
        stand.point(&stand.directory(&format!("gen-{generation}"), &ca.leaf()));
        assert_eq!(stand.look().await, generation);
    }
    stand.proxy.ask(&mut stream).await;
}

#[tokio::test]
async fn another_client_ca_beside_a_manifest_is_taken_up_although_the_pair_is_the_same() {
    let (ca, mut stand) = (Ca::new(), Stand::with(Some("clients")).await);
    let (old, new) = (Client::new(), Client::new());
    let path = stand.served_directory("gen-7", &ca.credential(7));
    stand.point(&path);
    // Over TLS 1.2 a caller knows at the end of its handshake whether it is let in.
    let callers = [&old, &new].map(|client| Caller::speaking(&[&ca], TLS12, Some(client)));
    let mut open = Vec::new();
    for (client, admitted) in [(&old, [true, false]), (&new, [false, true])] {
        fs::write(stand.path("clients"), &client.ca).unwrap();
        assert_eq!(stand.look().await, 7);
        let current = stand.proxy.credentials.current();
        within("the handshakes of before", current[0].settled()).await;
        for (caller, admitted) in callers.iter().zip(admitted) {
            // Twice: whoever was let in brings a session, which must not outlive its client CA.
            for _ in 0..2 {
                let stream = tokio::net::TcpStream::connect(stand.proxy.tls).await;
                let stream = within("a handshake", caller.connect(stream.unwrap())).await;
                assert_eq!(stream.is_ok(), admitted, "{stream:?}");
                open.extend(stream.ok());
            }
        }
    }
    // The generation has been published twice, and what came in under either is open.
    until("all connections are counted", || {
        let report = stand.proxy.credentials.report(&[]);
        report[0].connections == std::collections::BTreeMap::from([(7, 4)])
    })
    .await;
}
