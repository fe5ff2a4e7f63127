//! What the real proxy says about the files that it follows: what is in force, why something is not, with its
//! path and the next step, and that it is over.

use std::path::Path;

use crate::rig::{Carrier, Hello, Issuer, Line, Proxy, Rig, Setup, Upstream};

/// Replaces a file as a whole.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_told_with_their_ports_and_a_bad_file_with_its_path_and_what_to_do() {
    let rig = Rig::start(|setup| setup).await;
    let config = rig.proxy.config();
    let good = std::fs::read_to_string(&config).unwrap();
    let route = format!("  up: http://{}\n", rig.upstream.address);
    let line = rig.proxy.told("route configured").await;
    let upstream = format!("http://{}", rig.upstream.address);
    assert_eq!(
        (&line["route"], &line["upstream"]),
        (&"up".into(), &upstream.into())
    );
    // A default port is told as it is dialled.
    let more = format!("{route}  plain: http://plain.example:80\n");
    replace(&config, &good.replace(&route, &more));
    rig.proxy
        .logs("\"upstream\":\"http://plain.example:80\"", 1)
        .await;

    replace(&config, &good.replace(&route, "  up: http://nowhere\n"));
    let line = rig
        .proxy
        .told("configuration not taken, last good routes kept")
        .await;
    assert_eq!(line["path"], config.to_str().unwrap());
    assert_eq!(
        line["error"],
        "route \"up\": invalid upstream (must be scheme://host:port): \"http://nowhere\""
    );
    let next = "write scheme, host and port and nothing else, for instance http://docs:8000";
    assert_eq!(line["next"], next);
    let hello = Hello::new(&rig.issuer);
    let mut caller = Line::open(&rig.proxy, Carrier::Tls, &hello).await.unwrap();
    assert_eq!(caller.get("/kept").await.unwrap().status, 200);
    replace(&config, &good);
    let line = rig
        .proxy
        .told("configuration taken again, its routes are in force")
        .await;
    assert_eq!(
        (&line["level"], &line["path"]),
        (&"INFO".into(), &config.to_str().unwrap().into())
    );
    // Gone, and there again as it was.
    std::fs::remove_file(&config).unwrap();
    rig.proxy.logs("configuration not taken", 2).await;
    let line = rig
        .proxy
        .told("configuration not taken, last good routes kept")
        .await;
    let path = config.display();
    assert_eq!(
        line["error"],
        format!("open {path}: no such file or directory")
    );
    replace(&config, &good);
    rig.proxy.logs("configuration taken again", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn credential_files_that_cannot_be_used_are_told_with_their_path_and_what_to_do() {
    let (issuer, upstream) = (Issuer::new(), Upstream::start().await);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let pair = issuer.pair();
    replace(&path("tls.crt"), &pair.chain_pem());
    replace(&path("tls.key"), &pair.key_pem());
    let setup = Setup::new(&upstream).files(path("tls.crt"), path("tls.key"));
    let proxy = Proxy::start(&setup).await;
    proxy.ready().await;
    let certificate = path("tls.crt");
    for times in 1..=2 {
        replace(&certificate, "");
        proxy.logs("credential files not taken", times).await;
        let line = proxy
            .told("credential files not taken, last good ones kept")
            .await;
        let error = format!("{} holds no certificate", certificate.display());
        assert_eq!(
            (&line["level"], &line["error"]),
            (&"ERROR".into(), &error.into())
        );
        let next = "write the PEM certificate chain there, the server certificate first";
        assert_eq!(line["next"], next);
        replace(&certificate, &pair.chain_pem());
        proxy.logs("credential files taken again", times).await;
    }
    let line = proxy.told("credential files taken again").await;
    let certificate = certificate.to_str().unwrap();
    assert_eq!(
        (&line["level"], &line["path"]),
        (&"INFO".into(), &certificate.into())
    );
}
