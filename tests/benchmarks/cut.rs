//! `bench cut`: how long a connection outlives its credential.
//!
//! Two edges on one database. In each run a shared secret is archived, or the token rotated with
//! `cut_old_after_seconds: 0`; two connections to each edge are bound to it. A proxy that runs all along takes every new
//! secret in band, and one agent calls through it on one connection: both must live to the end. After the answer of the
//! API the old credential must open nothing on either edge.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pki::Fingerprint;
use process::{Failure, Tasks};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_rustls::rustls::ClientConfig;

use crate::caller::{Caller, HERE, get, trusting};
use crate::command::say;
use crate::far::Far;
use crate::figure::Findings;
use crate::operator::{Answered, Api, Operator, member};
use crate::peers::{Workshop, text, upstream};
use crate::postgres::Postgres;
use crate::tunnel::{self, EDGE, Edge, ProxyOptions, certificate, until};

/// Half of them with a secret, half with the token.
const RUNS: u32 = 100;
/// Connections to each edge, as a proxy holds them.
const LINKS: usize = 2;
/// A connection that is still there then was not cut.
const LIMIT: Duration = Duration::from_secs(10);
/// What the proxy that renews writes at each renewal.
const RENEWED: &str = "connection bound anew";
/// What it would write if one of its connections ended.
const ENDED: &str = "connection to the edge ended";

/// Everything that runs.
struct World {
    shop: Workshop,
    api: Api,
    edges: [Edge; 2],
    trust: Arc<ClientConfig>,
    tasks: Tasks,
    tunnel: String,
}

/// A shared secret.
struct Secret {
    id: String,
    value: String,
}

/// Measures it.
pub(crate) async fn run(findings: &mut Findings, tasks: &Tasks) -> Result<(), Failure> {
    let shop = Workshop::new().await?;
    let origin = upstream(&shop).await?;
    let database = Postgres::start().await?;
    let (world, domain) = World::start(shop, &database, tasks).await?;
    let (mut secret, mut token) = (world.secret(0).await?, world.token().await?);
    world.shop.write("renewing.secret", &secret.value)?;
    let addresses = world.edges.each_ref().map(|edge| edge.address);
    let options = ProxyOptions {
        name: "renewing",
        secret: "renewing.secret",
        tunnel: (&world.tunnel, &domain),
        pair: ("leaf.crt", "leaf.key"),
        log_level: "info",
        ..ProxyOptions::new(&addresses, origin.address)
    };
    let _proxy = tunnel::proxy(&world.shop, options).await?;
    world.connected(LINKS).await?;
    let host = format!("up.{domain}");
    let trust = trusting(&world.shop.path("leaf-ca.pem"))?;
    let caller = Caller::named(&host, &trust, addresses[0], HERE).await;
    let mut caller = caller.map_err(|error| failed("no agent's connection", &error))?;

    let (mut seconds, mut renewals) = (Vec::new(), 0);
    for run in 0..RUNS {
        let by_secret = run % 2 == 0;
        let longest = if by_secret {
            renewals += 2 * LINKS;
            world.archive(run, &mut secret, renewals).await?
        } else {
            world.rotate(run, &mut token).await?
        };
        let answered = caller.call(&get(&host, "/")).await;
        answered
            .map_err(|error| failed("a call through the renewed connections failed", &error))?;
        if world.logged(ENDED) > 0 {
            return Err(Failure::internal(
                "a connection that was renewed in band ended",
            ));
        }
        let what = if by_secret {
            "secret archived"
        } else {
            "token rotated"
        };
        say(&format!("cut {run} {what}: gone after {longest:.3} s"));
        seconds.push(longest);
    }
    if let Some(p99) = percentile(&mut seconds, 99) {
        findings.absolute("cut.p99", p99);
    }
    Ok(())
}

impl World {
    async fn start(
        shop: Workshop,
        database: &Postgres,
        tasks: &Tasks,
    ) -> Result<(Self, String), Failure> {
        certificate(&shop, "front", EDGE)?;
        let (state, url) = (
            shop.path("state"),
            shop.write("database-url", &database.url)?,
        );
        let words = ["--state", text(&state), "--database-url-file", text(&url)];
        let first = tunnel::start_edge(&shop, "first", "", &words).await?;
        let second = tunnel::start_edge(&shop, "second", "", &words).await?;
        let operator = Operator::new(&words)?;
        let api = Api::enter(&shop, &operator, first.address, tasks).await?;
        let (id, domain) = api.tunnel(&shop, &operator).await?;
        let trust = trusting(&shop.path("front-ca.pem"))?;
        let world = Self {
            shop,
            api,
            edges: [first, second],
            trust,
            tasks: tasks.clone(),
            tunnel: id,
        };
        Ok((world, domain))
    }

    /// Archives the secret, after the proxy has taken a new one in band, for the `renewals`th time.
    async fn archive(
        &self,
        run: u32,
        secret: &mut Secret,
        renewals: usize,
    ) -> Result<f64, Failure> {
        let next = self.secret(run + 1).await?;
        let bound = self.bind(&secret.value).await?;
        self.shop.write("renewing.secret", &next.value)?;
        let renewed = async || self.logged(RENEWED) >= renewals;
        until("every connection of the proxy renewed in band", renewed).await?;
        let path = format!("/v1/tunnels/{}/secrets/{}/archive", self.tunnel, secret.id);
        let cut = self.api.post(&path, &json!({})).await?;
        let old = std::mem::replace(secret, next).value;
        self.gone(run, bound, &cut, &old).await
    }

    /// Rotates the token.
    async fn rotate(&self, run: u32, token: &mut String) -> Result<f64, Failure> {
        let bound = self.bind(token).await?;
        let path = format!("/v1/tunnels/{}/rotate_token", self.tunnel);
        let asked = json!({"reason": "bench", "cut_old_after_seconds": 0});
        let cut = self.api.post(&path, &asked).await?;
        let old = std::mem::replace(token, member(&cut.object, "tunnel_token")?);
        self.gone(run, bound, &cut, &old).await
    }

    /// A secret that did not exist before.
    async fn secret(&self, number: u32) -> Result<Secret, Failure> {
        let value = format!("secret-{number}");
        let path = format!("/v1/tunnels/{}/secrets", self.tunnel);
        let sha256 = Fingerprint::of(value.as_bytes()).to_string();
        let made = self.api.post(&path, &json!({"sha256": sha256})).await?;
        let id = member(&made.object, "id")?;
        Ok(Secret { id, value })
    }

    async fn token(&self) -> Result<String, Failure> {
        let path = format!("/v1/tunnels/{}/reveal_token", self.tunnel);
        member(
            &self.api.post(&path, &json!({})).await?.object,
            "tunnel_token",
        )
    }

    /// Connections to both edges that stand on `credential`.
    async fn bind(&self, credential: &str) -> Result<Vec<Far>, Failure> {
        let mut bound = Vec::new();
        for edge in &self.edges {
            for _ in 0..LINKS {
                let far = self.attach((edge.address, HERE), credential).await?;
                let refused =
                    |status| Failure::internal(format!("a good credential was refused: {status}"));
                let mut far = far.map_err(refused)?;
                far.bound().await?;
                bound.push(far);
            }
        }
        Ok(bound)
    }

    /// Seconds from the request to the end of the last of them; that nothing new comes about is tried first.
    async fn gone(
        &self,
        run: u32,
        bound: Vec<Far>,
        cut: &Answered,
        credential: &str,
    ) -> Result<f64, Failure> {
        if cut.object.get("enforced") != Some(&json!({"instances": 2, "of": 2})) {
            say(&format!(
                "cut {run}: {}",
                cut.object.get("enforced").unwrap_or(&Value::Null)
            ));
        }
        // A source of its own each time: who guesses thirty times a minute is not listened to any more.
        let [.., low] = run.to_be_bytes();
        let from = Ipv4Addr::new(127, 0, 9, low);
        for edge in &self.edges {
            match self.attach((edge.address, from), credential).await? {
                Err(http::StatusCode::UNAUTHORIZED) => {}
                Err(status) => {
                    return Err(Failure::internal(format!("refused with {status}, not 401")));
                }
                Ok(_) => {
                    return Err(Failure::internal(
                        "a connection came about after the answer",
                    ));
                }
            }
        }
        let mut longest = Duration::ZERO;
        for mut far in bound {
            let ended = timeout(LIMIT, far.end()).await;
            let ended = ended.map_err(|_| Failure::internal("a connection was not cut"))?;
            longest = longest.max(ended.duration_since(cut.asked));
        }
        Ok(longest.as_secs_f64())
    }

    async fn attach(
        &self,
        to: (SocketAddr, Ipv4Addr),
        credential: &str,
    ) -> Result<Result<Far, http::StatusCode>, Failure> {
        let credential = (&*self.tunnel, credential);
        Far::attach(to, &self.trust, credential, &self.tasks).await
    }

    /// Waits until each edge holds `count` connections.
    async fn connected(&self, count: usize) -> Result<(), Failure> {
        let wanted = Some(f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
        for edge in &self.edges {
            let holds = async || tunnel::metric(edge.health, "keyward_edge_links").await == wanted;
            until("the proxy is connected to each edge", holds).await?;
        }
        Ok(())
    }

    /// How often the proxy that renews has written `part`.
    fn logged(&self, part: &str) -> usize {
        let log = std::fs::read_to_string(self.shop.path("renewing.log")).unwrap_or_default();
        log.lines().filter(|line| line.contains(part)).count()
    }
}

fn failed(what: &'static str, error: &std::io::Error) -> Failure {
    Failure::internal(what).caused_by(error)
}

/// The smallest value that `percent` of them do not exceed (nearest rank); none of none.
pub(crate) fn percentile(values: &mut [f64], percent: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_value_of_the_nearest_rank() {
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut hundred, 99), Some(99.0));
        assert_eq!(percentile(&mut hundred, 50), Some(50.0));
        assert_eq!(percentile(&mut [7.0], 99), Some(7.0));
        assert_eq!(percentile(&mut [], 99), None);
    }
}
