//! Routes change while requests run.

use std::collections::BTreeMap;

use process::Tasks;

use super::streams::{EVENTS, chunk, streaming};
use super::{GET, OK, Proxy, Upstream, within};

fn routes(list: &[(&str, String)]) -> BTreeMap<String, control::Route> {
    let route = |upstream: &String| control::Route {
        upstream: upstream.clone(),
        preserve_host: false,
    };
    list.iter()
        .map(|(name, upstream)| ((*name).to_owned(), route(upstream)))
        .collect()
}

async fn is_denied(proxy: &Proxy, host: &str) -> bool {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    proxy.say(&request).await.starts_with("HTTP/1.1 502 ")
}

#[tokio::test]
async fn new_routes_replace_the_old_ones_and_streams_go_on() {
    let (proxy, mut caller, mut peer) = streaming("", EVENTS).await;
    let second = Upstream::bind().await;
    let new = routes(&[("Wiki", format!("http://{}", second.addr()))]);
    proxy.forwarder.set_routes(None, new).unwrap();
    assert_eq!(proxy.forwarder.route_names(), ["wiki"]);
    assert!(is_denied(&proxy, "docs").await);
    let mut other = proxy.caller().await;
    other
        .write("GET / HTTP/1.1\r\nHost: wiki.t.example\r\n\r\n")
        .await;
    second.accept().await.answer(OK).await;
    other.until("ok").await;
    peer.write(&chunk("data: 1\n\n")).await;
    assert_eq!(caller.until("\n\n\r\n").await, chunk("data: 1\n\n"));
}

#[tokio::test]
async fn routes_of_which_one_is_bad_change_nothing() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let bad = routes(&[
        ("wiki", "http://a:80".to_owned()),
        ("bad", "http://b".to_owned()),
    ]);
    proxy.forwarder.set_routes(None, bad).unwrap_err();
    assert_eq!(proxy.forwarder.route_names(), ["docs"]);
    let https = routes(&[("wiki", "https://a:443".to_owned())]);
    proxy.forwarder.set_routes(None, https).unwrap_err();
    assert!(is_denied(&proxy, "wiki").await);
}

#[tokio::test]
async fn a_tunnel_with_routes_of_its_own_uses_no_others() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let own = routes(&[("wiki", format!("http://{}", upstream.addr()))]);
    proxy
        .forwarder
        .set_routes(Some("other"), own.clone())
        .unwrap();
    assert!(is_denied(&proxy, "wiki").await);
    proxy.forwarder.set_routes(Some("main"), own).unwrap();
    assert!(is_denied(&proxy, "docs").await);
    assert_eq!(proxy.forwarder.route_names(), ["docs", "wiki"]);
}

#[tokio::test]
async fn a_route_that_did_not_change_keeps_its_connections() {
    let upstream = Upstream::bind().await;
    let proxy = Proxy::to(upstream.addr(), "").await;
    let mut caller = proxy.caller().await;
    caller.write(GET).await;
    let mut peer = upstream.accept().await;
    peer.answer(OK).await;
    caller.until("ok").await;
    let same = format!("http://{}", upstream.addr());
    let more = routes(&[("docs", same.clone()), ("wiki", same)]);
    proxy.forwarder.set_routes(None, more).unwrap();
    caller.write("GET / HTTP/1.1\r\nHost: wiki\r\n\r\n").await;
    peer.answer(OK).await;
    caller.until("ok").await;
    assert!(upstream.is_untouched().await);
}

#[tokio::test]
async fn the_file_changes_the_routes_and_a_bad_file_does_not() {
    let proxy = Proxy::configured("routes: {docs: 'http://10.0.0.1:80'}\n").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let write = |routes: &str| {
        let head = "listen_addr: ':0'\ncontrol: {socket: none}\n";
        std::fs::write(&path, format!("{head}routes: {routes}\n")).unwrap();
    };
    let tasks = Tasks::new();
    write("{docs: 'http://10.0.0.1:80'}");
    let options = crate::Options {
        config: path.clone(),
        ..Default::default()
    };
    crate::reload::watch(options, proxy.forwarder.clone(), &tasks);
    let names = async |expected: &[&str]| {
        within("the routes", async {
            while proxy.forwarder.route_names() != expected {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        })
        .await;
    };
    for (text, expected) in [
        ("{wiki: 'http://10.0.0.1:80'}", ["wiki"]),
        ("[wiki]", ["wiki"]),
        ("{bad: 'http://10.0.0.1'}", ["wiki"]),
        ("{a: 'http://10.0.0.1:80'}", ["a"]),
    ] {
        write(text);
        names(&expected).await;
    }
    std::fs::remove_file(&path).unwrap();
    names(&["a"]).await;
    write("{b: 'http://10.0.0.1:80'}");
    names(&["b"]).await;
    assert_eq!(tasks.drain(super::SOON).await, process::Drained::Clean);
}
