//! Fetching keys from issuers on loopback, and from where they must not be fetched.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use process::Tasks;
use serde_json::{Value, json};

use super::servers::{Holding, Server, ok};
use crate::assertion::{FetchError, KeyStore, Refusal, Resolver, system_resolver, verify};
use crate::state::{Issuer, KeySource};
use crate::tests::clock::{START, StandingClock};
use crate::tests::issuer::{Signer, claims, issuer, rule};

struct World {
    issuer: Issuer,
    clock: Arc<StandingClock>,
    keys: KeyStore,
}

impl World {
    fn new(url: &str, source: KeySource, resolver: Resolver) -> Self {
        let clock = Arc::new(StandingClock::new());
        let mut issuer = issuer(Vec::new());
        issuer.id = "fdis_1".to_owned();
        issuer.issuer_url = url.to_owned();
        issuer.keys = source;
        issuer.allowed_networks = vec!["127.0.0.0/8".parse().unwrap()];
        Self {
            issuer,
            keys: KeyStore::new(resolver, clock.clone(), Tasks::new()),
            clock,
        }
    }

    async fn check(&self, signer: &Signer, kid: &str) -> Result<(), Refusal> {
        let mut claims = claims();
        claims["iss"] = self.issuer.issuer_url.clone().into();
        let text = signer.sign(kid, &claims);
        let rule = rule("fdis_1");
        verify(&text, &rule, &self.issuer, &self.keys, START)
            .await
            .map(|_| ())
    }
}

fn discovery() -> KeySource {
    KeySource::Discovery {
        discovery_base: None,
    }
}

#[tokio::test]
async fn discovery_leads_to_the_keys_and_they_are_kept_for_five_minutes() {
    let signer = Signer::p256();
    let jwk = signer.jwk("a");
    let server = Server::start(move |base, path| match path {
        "/.well-known/openid-configuration" => {
            ok(&json!({"issuer": base, "jwks_uri": format!("{base}/jwks")}))
        }
        _ => ok(&json!({"keys": [jwk, {"kty": "future"}]})),
    })
    .await;
    let world = World::new(&server.url(), discovery(), system_resolver());
    for _ in 0..3 {
        world.check(&signer, "a").await.unwrap();
    }
    assert_eq!(server.asked(), 2);
    world.clock.advance(299);
    world.check(&signer, "a").await.unwrap();
    assert_eq!(server.asked(), 2);
    world.clock.advance(1);
    world.check(&signer, "a").await.unwrap();
    soon("the keys anew", || server.asked() == 4).await;
}

/// Waits until what goes on beside an answer has come so far.
async fn soon(what: &str, is: impl Fn() -> bool) {
    let waiting = async {
        while !is() {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "{what} did not happen");
}

impl Holding {
    fn world(&self) -> World {
        let source = KeySource::ExplicitUrl {
            url: self.url.clone(),
        };
        World::new("https://issuer.test", source, system_resolver())
    }
}

#[tokio::test]
async fn a_made_up_kid_delays_nobody_whose_key_is_known() {
    let (known, next) = (Signer::p256(), Signer::p256());
    let sets = [&known, &next].map(|signer| json!({"keys": [signer.jwk("k")]}));
    let [first, second] = sets;
    let issuer = Holding::start(first, second).await;
    let world = issuer.world();
    world.check(&known, "k").await.unwrap();
    world.clock.advance(15);
    let mut forged = std::pin::pin!(world.check(&next, "made-up"));
    tokio::select! {
        _ = &mut forged => panic!("nobody has answered yet"),
        () = soon("the request", || issuer.held() == 1) => {}
    }
    for _ in 0..10 {
        tokio::select! {
            biased;
            checked = world.check(&known, "k") => checked.unwrap(),
            _ = &mut forged => panic!("the valid one waited for the fetch of the forged one"),
        }
    }
    assert!(forged.as_mut().now_or_never().is_none(), "it waits");
    issuer.let_go();
    assert!(matches!(forged.await, Err(Refusal::UnknownKid { .. })));
    // The fetch was alive all that time: nothing else has asked.
    world.check(&next, "k").await.unwrap();
    assert_eq!(issuer.held(), 1);
}

#[tokio::test]
async fn keys_of_five_minutes_serve_while_those_that_follow_hang() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let first = json!({"keys": [old.jwk("old")]});
    let second = json!({"keys": [new.jwk("new")]});
    let issuer = Holding::start(first, second).await;
    let world = issuer.world();
    world.check(&old, "old").await.unwrap();
    world.clock.advance(300);
    for _ in 0..10 {
        world.check(&old, "old").await.unwrap();
    }
    soon("the request", || issuer.held() == 1).await;
    world.check(&old, "old").await.unwrap();
    issuer.let_go();
    // Only what was held until now can bring it: no other request is made so soon.
    world.check(&new, "new").await.unwrap();
    assert_eq!(issuer.held(), 1);
    assert!(world.check(&old, "old").await.is_err(), "it was withdrawn");
}

#[tokio::test]
async fn a_key_that_was_withdrawn_while_nobody_used_it_does_not_serve_once_more() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let first = json!({"keys": [old.jwk("old")]});
    let second = json!({"keys": [new.jwk("new")]});
    let issuer = Holding::start(first, second).await;
    let world = issuer.world();
    world.check(&old, "old").await.unwrap();
    world.clock.advance(600);
    issuer.let_go();
    assert!(matches!(
        world.check(&old, "old").await,
        Err(Refusal::UnknownKid { .. })
    ));
}

#[tokio::test]
async fn an_issuer_that_failed_once_delays_nobody_whose_key_is_less_than_a_day_old() {
    let signer = Signer::p256();
    let (failing, set) = (
        Arc::new(AtomicUsize::new(0)),
        json!({"keys": [signer.jwk("a")]}),
    );
    let fails = failing.clone();
    let server = Server::start(move |_, _| match fails.load(Ordering::SeqCst) {
        0 => ok(&set),
        _ => "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
    })
    .await;
    let source = KeySource::ExplicitUrl { url: server.url() };
    let world = World::new("https://issuer.test", source, system_resolver());
    world.check(&signer, "a").await.unwrap();
    failing.store(1, Ordering::SeqCst);
    world.clock.advance(3600);
    world.check(&signer, "a").await.unwrap();
    world.clock.advance(3600);
    // It is not even asked before that is answered.
    let checked = world.check(&signer, "a").now_or_never();
    checked.expect("nothing to wait for").unwrap();
    soon("the next try", || server.asked() == 3).await;
}

#[tokio::test]
async fn a_caller_who_leaves_does_not_take_the_fetch_with_him() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let first = json!({"keys": [old.jwk("old")]});
    let second = json!({"keys": [new.jwk("new")]});
    let issuer = Holding::start(first, second).await;
    let world = issuer.world();
    world.check(&old, "old").await.unwrap();
    world.clock.advance(15);
    {
        let leaving = std::pin::pin!(world.check(&old, "made-up"));
        tokio::select! {
            _ = leaving => panic!("nobody has answered yet"),
            () = soon("the request", || issuer.held() == 1) => {}
        }
    }
    issuer.let_go();
    world.check(&new, "new").await.unwrap();
    assert_eq!(issuer.held(), 1);
}

/// F31.
#[tokio::test]
async fn an_unknown_kid_fetches_once_and_then_not_for_fifteen_seconds() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let sets = Arc::new(Mutex::new(json!({"keys": [old.jwk("old")]})));
    let shown = sets.clone();
    let server = Server::start(move |_, _| ok(&shown.lock().unwrap())).await;
    let source = KeySource::ExplicitUrl { url: server.url() };
    let world = World::new("https://issuer.test", source, system_resolver());
    world.check(&old, "old").await.unwrap();
    *sets.lock().unwrap() = json!({"keys": [new.jwk("new")]});
    for made_up in 0..100 {
        assert!(world.check(&new, &format!("k{made_up}")).await.is_err());
    }
    assert_eq!(
        server.asked(),
        1,
        "a flood of made-up ids costs the issuer nothing"
    );
    world.clock.advance(15);
    world.check(&new, "new").await.unwrap();
    assert_eq!(server.asked(), 2);
    assert!(
        world.check(&old, "old").await.is_err(),
        "a withdrawn key is gone"
    );
}

/// F31.
#[tokio::test]
async fn the_last_keys_serve_for_a_day_while_the_issuer_does_not_answer() {
    let signer = Signer::p256();
    let up = Arc::new(Mutex::new(true));
    let (jwk, is_up) = (signer.jwk("a"), up.clone());
    let server = Server::start(move |_, _| {
        if *is_up.lock().unwrap() {
            ok(&json!({"keys": [jwk]}))
        } else {
            "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned()
        }
    })
    .await;
    let source = KeySource::ExplicitUrl { url: server.url() };
    let world = World::new("https://issuer.test", source, system_resolver());
    world.check(&signer, "a").await.unwrap();
    *up.lock().unwrap() = false;
    world.clock.advance(23 * 3600);
    world.check(&signer, "a").await.unwrap();
    world.clock.advance(3600);
    assert!(matches!(
        world.check(&signer, "a").await,
        Err(Refusal::Keys(_))
    ));
}

#[tokio::test]
async fn what_is_not_plainly_the_document_is_refused() {
    let signer = Signer::p256();
    let jwk = signer.jwk("a");
    let body = json!({"keys": [jwk]}).to_string();
    let length = body.len();
    let plain = format!("content-length: {length}\r\n\r\n{body}");
    let cases = [
        (
            format!("HTTP/1.1 302 Found\r\nlocation: /other\r\n{plain}"),
            "no redirect",
        ),
        (
            format!(
                "HTTP/1.1 307 Go\r\nlocation: /other\r\ncontent-type: application/json\r\n{plain}"
            ),
            "no redirect",
        ),
        (
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n{plain}"),
            "not JSON",
        ),
        (format!("HTTP/1.1 200 OK\r\n{plain}"), "not JSON"),
        (ok(&json!({"keys": "x"})), "no list of keys"),
        (ok(&json!({"keys": []})), "no key that can be used"),
        (ok(&json!(["x"])), "another kind"),
        (
            ok(&json!({"keys": [], "padding": "x".repeat(2 << 20)})),
            "length limit",
        ),
        ("nonsense\r\n\r\n".to_owned(), "127.0.0.1"),
        (String::new(), "127.0.0.1"),
    ];
    for (answer, reason) in cases {
        let server = Server::start(move |_, _| answer.clone()).await;
        let source = KeySource::ExplicitUrl { url: server.url() };
        let world = World::new("https://issuer.test", source, system_resolver());
        let Err(Refusal::Keys(error)) = world.check(&signer, "a").await else {
            panic!("{reason}")
        };
        assert!(error.to_string().contains(reason), "{error} for {reason}");
        assert_eq!(server.asked(), 1, "{reason}");
    }
}

#[tokio::test]
async fn a_discovery_document_of_somebody_else_is_refused() {
    let signer = Signer::p256();
    for (issuer, uri) in [
        (json!("https://other.test"), json!("/jwks")),
        (Value::Null, json!("/jwks")),
        (json!("same"), Value::Null),
        // Where the key set lies is checked like every address.
        (json!("same"), json!("https://10.0.0.1/jwks")),
        (json!("same"), json!("https://user@issuer.test/jwks")),
        (json!("same"), json!("file:///etc/passwd")),
    ] {
        let (said, uri_said) = (issuer.clone(), uri.clone());
        let server = Server::start(move |base, _| {
            let said = if said == "same" {
                json!(base)
            } else {
                said.clone()
            };
            ok(&json!({"issuer": said, "jwks_uri": uri_said}))
        })
        .await;
        let world = World::new(&server.url(), discovery(), system_resolver());
        assert!(
            matches!(world.check(&signer, "a").await, Err(Refusal::Keys(_))),
            "{issuer} {uri}"
        );
        assert_eq!(server.asked(), 1, "{issuer} {uri}");
    }
}

#[tokio::test]
async fn no_private_address_is_dialled_by_whatever_name() {
    let signer = Signer::p256();
    let server = Server::start(|_, _| panic!("it must not be asked")).await;
    let port = server.address.port();
    for url in [
        format!("https://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}/"),
        format!("https://localhost:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://[::ffff:127.0.0.1]:{port}/"),
        "https://169.254.169.254/latest".to_owned(),
        "https://10.1.2.3/".to_owned(),
        "https://0.0.0.0/".to_owned(),
        format!("https://2130706433:{port}/"),
    ] {
        let source = KeySource::ExplicitUrl { url: url.clone() };
        let mut world = World::new("https://issuer.test", source, system_resolver());
        world.issuer.allowed_networks.clear();
        is_private(&world.check(&signer, "a").await, &url);
    }
    assert_eq!(server.asked(), 0);
    // Of a name with HTTPS on port 443 everything else is as it should be.
    for address in [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "::1",
        "fd00:ec2::254",
        "fe80::1",
        "::ffff:10.1.2.3",
        "2002:7f00:1::1",
    ] {
        let found = SocketAddr::new(address.parse().unwrap(), 443);
        let resolver: Resolver = Arc::new(move |_, _| Box::pin(async move { Ok(vec![found]) }));
        let source = KeySource::ExplicitUrl {
            url: "https://issuer.test/keys".to_owned(),
        };
        let mut world = World::new("https://issuer.test", source, resolver);
        world.issuer.allowed_networks.clear();
        is_private(&world.check(&signer, "a").await, address);
    }
}

fn is_private(checked: &Result<(), Refusal>, whose: &str) {
    let Err(Refusal::Keys(error)) = checked else {
        panic!("{whose}: {checked:?}")
    };
    let private = matches!(**error, FetchError::Private { .. });
    assert!(private, "{whose}: {error}");
}

#[tokio::test]
async fn a_name_that_is_bound_anew_is_asked_for_once_and_what_was_checked_is_dialled() {
    let signer = Signer::p256();
    let jwk = signer.jwk("a");
    let checked = Server::start_on("127.0.0.2:0", move |_, _| ok(&json!({"keys": [jwk]}))).await;
    let other = Server::start(|_, _| panic!("it must not be asked")).await;
    let asked = Arc::new(AtomicUsize::new(0));
    // One address for whoever checks, another for whoever asks again to dial.
    let addresses = [checked.address, other.address];
    let count = asked.clone();
    let resolver: Resolver = Arc::new(move |_, _| {
        let address = addresses[count.fetch_add(1, Ordering::SeqCst).min(1)];
        Box::pin(async move { Ok(vec![address]) })
    });
    let source = KeySource::ExplicitUrl {
        url: "http://issuer.test/jwks".to_owned(),
    };
    let mut world = World::new("https://issuer.test", source, resolver);
    world.issuer.allowed_networks = vec!["127.0.0.2/32".parse().unwrap()];
    world.check(&signer, "a").await.unwrap();
    assert_eq!(
        (asked.load(Ordering::SeqCst), checked.asked(), other.asked()),
        (1, 1, 0)
    );
    // The other way round: what is not listed is not dialled, whatever the name says next.
    world.clock.advance(300);
    sets_no_further(&world, &signer).await;
    assert_eq!((checked.asked(), other.asked()), (1, 0));
}

/// The kept keys still serve; the fetch in between was refused.
async fn sets_no_further(world: &World, signer: &Signer) {
    world.check(signer, "a").await.unwrap();
    assert!(world.check(signer, "unknown").await.is_err());
}

#[tokio::test]
async fn a_listed_network_opens_itself_alone_and_no_plain_http_beyond_loopback() {
    let signer = Signer::p256();
    let resolver: Resolver = Arc::new(|_, port| {
        Box::pin(async move { Ok(vec![SocketAddr::from(([10, 255, 255, 1], port))]) })
    });
    for (network, url, reason) in [
        ("192.168.0.0/16", "https://issuer.test/", "not public"),
        ("10.0.0.0/8", "http://issuer.test/", "must begin with https"),
    ] {
        let source = KeySource::ExplicitUrl {
            url: url.to_owned(),
        };
        let mut world = World::new("https://issuer.test", source, resolver.clone());
        world.issuer.allowed_networks = vec![network.parse().unwrap()];
        let Err(Refusal::Keys(error)) = world.check(&signer, "a").await else {
            panic!("{url}")
        };
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn keys_are_kept_as_long_as_the_issuer_says_from_five_minutes_to_fifteen() {
    for (headers, kept) in [
        ("cache-control: max-age=0, no-store", 300),
        ("cache-control: public, Max-Age=\"600\"", 600),
        ("cache-control: max-age=800\r\nage: 100", 700),
        ("cache-control: max-age=86400", 900),
        ("cache-control: max-age=x", 300),
    ] {
        let signer = Signer::p256();
        let jwk = signer.jwk("a");
        let server = Server::start(move |_, _| {
            let plain = ok(&json!({"keys": [jwk]}));
            plain.replacen(
                "connection: close",
                &format!("{headers}\r\nconnection: close"),
                1,
            )
        })
        .await;
        let source = KeySource::ExplicitUrl { url: server.url() };
        let world = World::new("https://issuer.test", source, system_resolver());
        world.check(&signer, "a").await.unwrap();
        world.clock.advance(kept - 1);
        world.check(&signer, "a").await.unwrap();
        assert_eq!(server.asked(), 1, "{headers}");
        world.clock.advance(1);
        world.check(&signer, "a").await.unwrap();
        soon("the keys anew", || server.asked() == 2).await;
    }
}

#[tokio::test]
async fn what_was_fetched_before_the_operator_asked_for_new_keys_serves_no_more() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let answer = Arc::new(Mutex::new(ok(&json!({"keys": [old.jwk("old")]}))));
    let shown = answer.clone();
    let server = Server::start(move |_, _| shown.lock().unwrap().clone()).await;
    let source = KeySource::ExplicitUrl { url: server.url() };
    let mut world = World::new("https://issuer.test", source, system_resolver());
    world.check(&old, "old").await.unwrap();
    "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".clone_into(&mut answer.lock().unwrap());
    world.issuer.keys_number = 7;
    for _ in 0..3 {
        let refused = world.check(&old, "old").await;
        assert!(matches!(refused, Err(Refusal::Keys(_))), "{refused:?}");
    }
    assert_eq!(server.asked(), 2, "at once, and then not so soon again");
    *answer.lock().unwrap() = ok(&json!({"keys": [new.jwk("new")]}));
    world.clock.advance(15);
    world.check(&new, "new").await.unwrap();
    let gone = world.check(&old, "old").await;
    assert!(matches!(gone, Err(Refusal::UnknownKid { .. })), "{gone:?}");
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn a_fetch_that_began_before_new_keys_were_asked_for_is_not_the_one_that_brings_them() {
    let (old, new) = (Signer::p256(), Signer::p256());
    let first = json!({"keys": [old.jwk("first")]});
    let second = json!({"keys": [new.jwk("k")]});
    let issuer = Holding::start(first, second).await;
    let mut world = issuer.world();
    world.check(&old, "first").await.unwrap();
    world.clock.advance(300);
    world.check(&old, "first").await.unwrap();
    soon("the request", || issuer.held() == 1).await;
    world.issuer.keys_number = 1;
    let mut checked = std::pin::pin!(world.check(&new, "k"));
    assert!(checked.as_mut().now_or_never().is_none(), "it waits");
    issuer.let_go();
    tokio::select! {
        _ = &mut checked => panic!("what was asked for before is not enough"),
        () = soon("another request", || issuer.held() == 2) => {}
    }
    issuer.let_go();
    checked.await.unwrap();
}
