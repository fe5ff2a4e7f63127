use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde_json::json;

use super::*;
use crate::assertion::tests::{at, token};
use crate::stub::{Server, http};
use crate::{Environment, Source};

/// Seconds that passed.
#[derive(Default)]
struct Passed(AtomicU64);

impl Clock for Passed {
    fn wall(&self) -> SystemTime {
        at(1000 + self.0.load(Ordering::Relaxed))
    }

    fn boot(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// A server that sells tokens of 600 s, `t0`, `t1`, …, except to those of `failing`.
struct Shop {
    server: Server,
    clock: Arc<Passed>,
    tokens: Tokens,
}

impl Shop {
    fn new(claims: &serde_json::Value, failing: &'static [usize]) -> Self {
        Self::at_address(claims, failing, None)
    }

    /// `address`: where tokens are bought, if it is not the shop.
    fn at_address(
        claims: &serde_json::Value,
        failing: &'static [usize],
        address: Option<String>,
    ) -> Self {
        let server = Server::start(move |number| {
            let answer = json!({"access_token": format!("t{number}"), "token_type": "Bearer", "expires_in": 600});
            if failing.contains(&number) {
                ("503 Service Unavailable", "", String::new())
            } else {
                ("200 OK", "", answer.to_string())
            }
        });
        let clock = Arc::new(Passed::default());
        let environment = Environment::of(&[("T", &token(claims))]);
        let fetcher = Fetcher::new(
            Source::Environment("T".to_owned()),
            http(),
            environment,
            true,
        );
        let federation = Federation {
            url: address.unwrap_or_else(|| server.url.clone()),
            rule: "fdrl_1".to_owned(),
            organization: None,
            service_account: None,
            workspace: None,
        };
        let tokens = Tokens::federated(fetcher, federation, Arc::clone(&clock) as Arc<dyn Clock>);
        Self {
            server,
            clock,
            tokens,
        }
    }

    async fn at(&self, seconds: u64) -> Result<String, TokenError> {
        self.clock.0.store(seconds, Ordering::Relaxed);
        let minted = self.tokens.token().await?;
        Ok(minted.token.expose().to_owned())
    }
}

#[tokio::test]
async fn a_token_is_kept_for_four_fifths_of_its_life() {
    let shop = Shop::new(&json!({}), &[]);
    for (seconds, wanted) in [
        (0, "t0"),
        (479, "t0"),
        (480, "t1"),
        (959, "t1"),
        (5000, "t2"),
    ] {
        assert_eq!(shop.at(seconds).await.unwrap(), wanted, "{seconds}");
    }
    assert_eq!(shop.server.requests().len(), 3);
}

/// F01, F02.
#[tokio::test]
async fn a_failed_renewal_keeps_the_token_until_it_is_over_and_is_paced() {
    let shop = Shop::new(&json!({}), &[1, 2, 3]);
    for (seconds, bought) in [(0, 1), (480, 2), (484, 2), (485, 3)] {
        assert_eq!(shop.at(seconds).await.unwrap(), "t0");
        assert_eq!(shop.server.requests().len(), bought, "{seconds}");
    }
    let over = shop.at(570).await.unwrap_err();
    assert!(matches!(
        over,
        TokenError::Exchange(ExchangeError::Refused(_))
    ));
    assert_eq!(shop.at(571).await.unwrap(), "t4", "the next one asks again");
}

#[tokio::test]
async fn many_callers_buy_once() {
    let shop = Shop::new(&json!({}), &[]);
    let [a, b, c] = [0; 3].map(|_| shop.tokens.token());
    let (a, b, c) = tokio::join!(a, b, c);
    assert!(Arc::ptr_eq(&a.unwrap(), &b.unwrap()));
    assert_eq!(c.unwrap().token.expose(), "t0");
    assert_eq!(shop.server.requests().len(), 1);
}

#[tokio::test]
async fn of_many_callers_one_renews_and_the_others_go_on_with_what_there_is() {
    let shop = Shop::new(&json!({}), &[]);
    assert_eq!(shop.at(0).await.unwrap(), "t0");
    let [a, b, c] = [480; 3].map(|seconds| shop.at(seconds));
    let (a, b, c) = tokio::join!(a, b, c);
    let mut got = [a, b, c].map(Result::unwrap);
    got.sort();
    assert_eq!(got, ["t0", "t0", "t1"]);
    assert_eq!(shop.server.requests().len(), 2);
}

#[tokio::test]
async fn an_assertion_that_never_left_is_as_good_as_before() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let shop = Shop::at_address(&json!({"jti": "1"}), &[], Some(closed));
    for seconds in 0..2 {
        let error = shop.at(seconds).await.unwrap_err();
        assert!(
            matches!(error, TokenError::Exchange(ExchangeError::NotSent(_))),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_token_that_was_refused_is_dropped_once() {
    let shop = Shop::new(&json!({}), &[]);
    let first = shop.tokens.token().await.unwrap();
    shop.tokens.invalidate(&first);
    let second = shop.tokens.token().await.unwrap();
    assert_eq!(second.token.expose(), "t1");
    shop.tokens.invalidate(&first);
    assert_eq!(
        shop.at(1).await.unwrap(),
        "t1",
        "a late 401 drops nothing newer"
    );
}

#[tokio::test]
async fn an_assertion_that_was_sent_is_not_sent_again() {
    let shop = Shop::new(&json!({"jti": "1"}), &[0]);
    let lost = shop.at(0).await.unwrap_err();
    assert!(matches!(lost, TokenError::Exchange(_)));
    let again = shop.at(1).await.unwrap_err();
    assert!(
        matches!(again, TokenError::Fetch(FetchError::AlreadyUsed)),
        "{again:?}"
    );
    assert_eq!(shop.server.requests().len(), 1);
}

#[tokio::test]
async fn a_ready_token_lives_until_it_is_refused() {
    let clock = Arc::new(Passed::default());
    let ready = Secret::new("ready".to_owned());
    let tokens = Tokens::ready(ready, Arc::clone(&clock) as Arc<dyn Clock>);
    clock.0.store(1_000_000, Ordering::Relaxed);
    let held = tokens.token().await.unwrap();
    assert_eq!(held.token.expose(), "ready");
    tokens.invalidate(&held);
    assert!(matches!(tokens.token().await, Err(TokenError::Invalid)));
}
