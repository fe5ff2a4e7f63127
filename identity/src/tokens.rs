//! The one place that exchanges, and keeps what it bought for a part of its life.
//!
//! | Left of the token's life | What a caller gets |
//! |---|---|
//! | more than a fifth | the token |
//! | more than a twentieth, and five seconds | the token; the first caller buys the next one first, and gets the old one if that fails; not again for 5 s |
//! | less | a new token, bought by one caller while the others wait; or why there is none |
//!
//! Fractions, because a life may be anything from a minute to a day: 600 s give the 120 s and 30 s of the published SDKs.
//! Measured on the clock that counts suspended time, from the moment the request was begun. The first caller instead of
//! a task in the background, so that nothing runs that nobody waits for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use process::{Chain, Clock};
use thiserror::Error;

use crate::{ExchangeError, Federation, FetchError, Fetcher, Minted, Secret, exchange};

/// Below this a token may end on its way.
const SHORTEST: Duration = Duration::from_secs(5);
/// After a failure in the second row of the table.
const BACK_OFF: Duration = Duration::from_secs(5);

/// Access tokens for one identity. One of these per identity and machine, or else two use the same assertion.
pub struct Tokens {
    way: Way,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held by the caller that buys.
    flight: tokio::sync::Mutex<()>,
}

/// Why there is no access token.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TokenError {
    /// No assertion to buy it with.
    #[error("there is nothing to buy an access token with")]
    Fetch(#[from] FetchError),
    /// Nothing was bought with it.
    #[error("no access token was bought")]
    Exchange(#[from] ExchangeError),
    /// The ready token was refused, and there is no other.
    #[error("the ready access token was refused, and there is no way to another one")]
    Invalid,
}

enum Way {
    Ready,
    Federated(Box<(Fetcher, Federation)>),
}

#[derive(Default)]
struct State {
    held: Option<Held>,
    failed: Option<Duration>,
}

#[derive(Clone)]
struct Held {
    minted: Arc<Minted>,
    /// When its request was begun.
    since: Duration,
}

enum Age {
    Fresh,
    Due,
    Over,
}

impl Tokens {
    /// Tokens that are bought.
    pub fn federated(fetcher: Fetcher, federation: Federation, clock: Arc<dyn Clock>) -> Self {
        let way = Way::Federated(Box::new((fetcher, federation)));
        Self::with(way, State::default(), clock)
    }

    /// A token that somebody else bought: `API_TOKEN`.
    pub fn ready(token: Secret, clock: Arc<dyn Clock>) -> Self {
        let held = Held {
            minted: Arc::new(Minted {
                token,
                life: None,
                scope: String::new(),
                request_id: None,
            }),
            since: clock.boot(),
        };
        let state = State {
            held: Some(held),
            failed: None,
        };
        Self::with(Way::Ready, state, clock)
    }

    fn with(way: Way, state: State, clock: Arc<dyn Clock>) -> Self {
        Self {
            way,
            clock,
            state: Mutex::new(state),
            flight: tokio::sync::Mutex::default(),
        }
    }

    /// A token that will live a while. Dropped while it buys, what it bought is lost, and the assertion counts as used.
    ///
    /// # Errors
    ///
    /// [`TokenError`], only where the one that is held is over.
    pub async fn token(&self) -> Result<Arc<Minted>, TokenError> {
        match self.held() {
            Some((minted, Age::Fresh)) => return Ok(minted),
            Some((minted, Age::Due)) => {
                let Ok(_flight) = self.flight.try_lock() else {
                    return Ok(minted);
                };
                if self.backs_off() {
                    return Ok(minted);
                }
                return Ok(self.buy().await.unwrap_or_else(|error| {
                    tracing::warn!(error = %Chain(&error), "access token not renewed yet");
                    minted
                }));
            }
            Some((_, Age::Over)) | None => {}
        }
        let _flight = self.flight.lock().await;
        match self.held() {
            // Whoever was before us in the queue bought it.
            Some((minted, Age::Fresh | Age::Due)) => Ok(minted),
            Some((_, Age::Over)) | None => self.buy().await,
        }
    }

    /// The API answered 401 to `refused`: it is dropped, if it is still the one that is held. Whoever asks next buys
    /// another; call once and try again once.
    pub fn invalidate(&self, refused: &Arc<Minted>) {
        let mut state = self.state();
        if state
            .held
            .as_ref()
            .is_some_and(|held| Arc::ptr_eq(&held.minted, refused))
        {
            state.held = None;
        }
    }

    async fn buy(&self) -> Result<Arc<Minted>, TokenError> {
        let begun = self.clock.boot();
        let bought = self.exchange().await;
        let mut state = self.state();
        match bought {
            Ok(minted) => {
                let minted = Arc::new(minted);
                state.failed = None;
                state.held = Some(Held {
                    minted: Arc::clone(&minted),
                    since: begun,
                });
                Ok(minted)
            }
            Err(error) => {
                state.failed = Some(self.clock.boot());
                Err(error)
            }
        }
    }

    async fn exchange(&self) -> Result<Minted, TokenError> {
        let Way::Federated(way) = &self.way else {
            return Err(TokenError::Invalid);
        };
        let (fetcher, federation) = way.as_ref();
        let assertion = fetcher.fetch(self.clock.wall()).await?;
        fetcher.sent(&assertion);
        let bought = exchange(fetcher.http(), federation, &assertion).await;
        if let Err(ExchangeError::NotSent(_)) = &bought {
            fetcher.not_sent(&assertion);
        }
        Ok(bought?)
    }

    fn held(&self) -> Option<(Arc<Minted>, Age)> {
        let held = self.state().held.clone()?;
        let passed = self.clock.boot().saturating_sub(held.since);
        let age = held
            .minted
            .life
            .map_or(Age::Fresh, |life| age(life, passed));
        Some((held.minted, age))
    }

    fn backs_off(&self) -> bool {
        let failed = self.state().failed;
        failed.is_some_and(|at| self.clock.boot().saturating_sub(at) < BACK_OFF)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table above.
fn age(life: Duration, passed: Duration) -> Age {
    let left = life.saturating_sub(passed);
    if left > life / 5 && left > SHORTEST {
        Age::Fresh
    } else if left > life / 20 && left > SHORTEST {
        Age::Due
    } else {
        Age::Over
    }
}

#[cfg(test)]
mod tests;
