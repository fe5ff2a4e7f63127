//! Files that the program's user may not read, and places that something else is in: refused with the exact
//! words and the exit code. The programs run as a user who is not root, who may read everything.

use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::process::{KEYWARD, Place};
use super::stage::{self, command, end, open_directory, program};
use crate::rig::Issuer;

#[tokio::test]
async fn a_file_that_the_proxys_user_may_not_read_is_refused_by_its_path() {
    let directory = open_directory();
    let path = |name: &str| directory.path().join(name);
    let copy = path("keyward-proxy");
    stage::copy(&program("keyward-proxy"), &copy);
    let (issuer, root) = (Issuer::new(), directory.path().display());
    let pair = issuer.pair();
    let config = format!(
        "listen_addr: '127.0.0.1:0'\nhealth: {{listen_addr: '127.0.0.1:0'}}\n\
         tls: {{cert_file: {root}/tls.crt, key_file: {root}/tls.key, client_ca: {root}/clients.pem}}\n\
         carriers: {{edge: {{url: 'https://localhost:1', tunnel: tnl_1, secret_file: {root}/secret}}}}\n\
         upstream: {{tls: {{ca_file: {root}/authorities.pem}}}}\nroutes: {{docs.example: 'https://localhost:1'}}\n"
    );
    for (name, text) in [
        ("config.yaml", config.as_str()),
        ("tls.crt", &pair.chain_pem()),
        ("tls.key", &pair.key_pem()),
        ("clients.pem", &issuer.client_ca_pem()),
        ("authorities.pem", &issuer.ca_pem()),
        ("secret", "kwe_0123456789\n"),
    ] {
        std::fs::write(path(name), text).unwrap();
        stage::reopen(&path(name));
    }
    let config = path("config.yaml");
    let run = async |words: &[&str]| {
        let words = [&["--config", config.to_str().unwrap()], words].concat();
        let mut proxy = command(&copy, &words);
        stage::unprivileged(&mut proxy);
        end(&mut proxy).await
    };
    let good = run(&["--check"]).await;
    assert_eq!(good.code, Some(0), "{good:?}");
    // The secret is looked at when the edge is to be dialled.
    let (check, start) = (&["--check"][..], &[][..]);
    for (name, words) in [
        ("config.yaml", check),
        ("config.yaml", start),
        ("tls.crt", check),
        ("tls.key", check),
        ("tls.key", start),
        ("clients.pem", check),
        ("authorities.pem", check),
        ("secret", start),
    ] {
        stage::close(&path(name));
        let refused = run(words).await;
        stage::reopen(&path(name));
        let closed = path(name).display().to_string();
        let expected = format!(
            "error: open {closed}: permission denied\n  next: let the user of this process read {closed}\n"
        );
        assert_eq!(refused.code, Some(78), "{name} {words:?}: {refused:?}");
        assert!(
            refused.stderr.ends_with(&expected),
            "{name} {words:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_configuration_that_the_daemons_user_may_not_read_is_refused_by_its_path() {
    let directory = open_directory();
    let copy = directory.path().join("keyward");
    stage::copy(&program("keyward"), &copy);
    let file = directory.path().join("keyward.yaml");
    std::fs::write(&file, "tunnels: {}\n").unwrap();
    stage::close(&file);
    let path = file.to_str().unwrap();
    for word in ["run", "check"] {
        let mut daemon = command(&copy, &[word, "--config", path]);
        stage::unprivileged(&mut daemon);
        let refused = end(&mut daemon).await;
        let expected = format!(
            "error: cannot read {path}\n  cause: Permission denied (os error 13)\n  next: let the user of this process read it\n"
        );
        assert_eq!((refused.code, refused.stderr), (Some(78), expected));
    }
}

/// What `run` says when it refuses to start.
async fn refused(place: &Place) -> String {
    let _ = std::fs::remove_file(place.path("log"));
    let daemon = place.start(&[]);
    let log = daemon.log.clone();
    assert_eq!(daemon.end().await, Some(78));
    let log = std::fs::read_to_string(log).unwrap();
    let error = log.find("error: ").unwrap_or_else(|| panic!("{log}"));
    log[error..].to_owned()
}

#[tokio::test]
async fn a_ca_key_in_the_store_that_may_not_be_read_is_refused_by_its_path() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    // A store that another tool has filled.
    let names = ["ca.crt", "ca.key", "tls.crt", "tls.key", "tunnel-domain"];
    let stock = place.stock(&names);
    for name in names {
        chown(stock.join(name), Some(KEYWARD), Some(KEYWARD)).unwrap();
    }
    chown(&stock, Some(KEYWARD), Some(KEYWARD)).unwrap();
    let config = std::fs::read_to_string(place.path("keyward.yaml")).unwrap();
    let config = config
        .replace("/store\n", "/stock\n")
        .replace("/state\n", "/other\n");
    std::fs::write(place.path("keyward.yaml"), config).unwrap();
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    chown(&other, Some(KEYWARD), Some(KEYWARD)).unwrap();

    let key = stock.join("ca.key");
    chown(&key, Some(0), Some(0)).unwrap();
    let path = key.display();
    let denied = format!(
        "error: cannot open the store\n  cause: the store cannot be opened: cannot read {path}: Permission denied (os error 13)\n  \
         next: let the user of this process read {path}\n"
    );
    assert_eq!(refused(&place).await, denied);
    let output = format!("dir:{}", stock.display());
    let renewed = place
        .keyward_as(KEYWARD, &["renew-cert", "--output", &output])
        .await;
    assert_eq!((renewed.code, renewed.stderr), (Some(78), denied));

    chown(&key, Some(KEYWARD), Some(KEYWARD)).unwrap();
    let _daemon = place.serve().await;
}

/// Nor is it taken for lost: what cannot be read now is there to be read later.
#[tokio::test]
async fn a_ca_key_in_custody_that_may_not_be_read_is_refused_and_goes_on_once_it_may() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let authorities = async || {
        let status = place.keyward(&["status", "--json"]).await.json();
        let tunnel = &status["tunnels"]["main"];
        ["ca", "standby_ca"].map(|key| tunnel[key]["sha256"].clone())
    };
    place
        .until("a standby CA", async || authorities().await[1].is_string())
        .await;
    let before = authorities().await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.end().await, Some(0));
    let keys = ca_keys(&place.path("state/custody/main"));
    assert!(keys.len() >= 2, "{keys:?}");
    for key in &keys {
        chown(key, Some(0), Some(0)).unwrap();
        let path = key.display();
        let expected = format!(
            "error: cannot open tunnel main\n  cause: cannot read {path}: Permission denied (os error 13)\n  \
             next: let the user of this process read {path}\n"
        );
        assert_eq!(refused(&place).await, expected);
        chown(key, Some(KEYWARD), Some(KEYWARD)).unwrap();
    }
    let _daemon = place.serve().await;
    assert_eq!(authorities().await, before, "no CA was taken for lost");
}

fn ca_keys(custody: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(custody).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_key = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.starts_with("ca-") && path.extension() == Some("key".as_ref())
    };
    paths.filter(is_key).collect()
}

#[tokio::test]
async fn a_file_in_the_place_of_a_directory_is_named_with_what_to_do_about_it() {
    for (place_of, what) in [
        (
            "store",
            "cannot open the store\n  cause: the store cannot be opened",
        ),
        (
            "state",
            "cannot open the state\n  cause: the journal cannot be opened",
        ),
    ] {
        let place = Place::new(KEYWARD);
        let path = place.path(place_of);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::write(&path, "").unwrap();
        let path = path.display();
        let expected = format!(
            "error: {what}: cannot make the directory {path}: File exists (os error 17)\n  \
             next: a directory belongs at {path}, and something else is in its place: move that away, or name another path\n"
        );
        assert_eq!(refused(&place).await, expected);
        if place_of == "store" {
            let output = format!("dir:{path}");
            let renewed = place.keyward(&["renew-cert", "--output", &output]).await;
            let expected = format!(
                "error: there is no store at {path}\n  cause: it is no directory\n  next: name the directory with --output dir:PATH\n"
            );
            assert_eq!((renewed.code, renewed.stderr), (Some(78), expected));
        }
    }
}
