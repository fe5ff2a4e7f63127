//! People sign in at a certified OIDC provider and get an access token of the edge, or do not.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use clap::Parser;
use http::Method;
use process::{Clock, Exit, Failure, SystemClock};
use serde_json::Value;
use tokio::sync::oneshot;

use super::http_client::Served;
use super::real::Provider;
use crate::command::login::{Arguments, sign_in};
use crate::state::{Issuer, Matcher, Rule, Scope, WithoutJti};
use crate::tests::clock::StandingClock;
use crate::tests::stage::Stage;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    login: Arguments,
}

/// An edge with a rule for people, and the provider that they sign in at.
struct Desk {
    served: Served,
    provider: Provider,
    directory: tempfile::TempDir,
}

type Done = Result<Value, Failure>;

impl Desk {
    async fn new() -> Self {
        let stage = Stage::sqlite().await;
        stage.clock.set(today());
        let mut served = Served::new(stage).await;
        let provider = tokio::task::spawn_blocking(Provider::start).await.unwrap();
        let (kept, by) = (&served.stage.state, served.stage.by());
        let issuer = Issuer {
            name: "people".to_owned(),
            accepted_types: vec!["JWT".to_owned()],
            without_jti: WithoutJti::Once,
            ..provider.issuer()
        };
        let issuer = kept.add_issuer(&by, &issuer).await.unwrap();
        let rule = Rule {
            id: String::new(),
            name: "people".to_owned(),
            issuer_id: issuer.id,
            r#match: Matcher {
                audience: "operator".to_owned(),
                subject_prefix: Some("ada".to_owned()),
                amr: vec!["mfa".to_owned()],
                acr: vec!["urn:two".to_owned(), "urn:three".to_owned()],
                ..Matcher::default()
            },
            scope: Scope::Read,
            tunnel_id: None,
            token_lifetime_seconds: 600,
        };
        served.rule = kept.add_rule(&by, &rule).await.unwrap();
        Self {
            served,
            provider,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    fn arguments(&self) -> Arguments {
        let (edge, file) = (format!("http://{}/", self.served.address), self.file());
        let words = [
            "login",
            "--edge",
            &edge,
            "--issuer",
            &self.provider.url,
            "--client-id",
            "operator",
            "--rule",
            &self.served.rule.id,
            "--out",
            file.to_str().unwrap(),
        ];
        Line::try_parse_from(words).unwrap().login
    }

    /// Signs in while `browser` does what a browser does with the page that it is given.
    async fn sign_in<F: Future<Output = ()>>(
        &self,
        clock: Arc<dyn Clock>,
        browser: impl FnOnce(String) -> F,
    ) -> Done {
        let (tell, page) = oneshot::channel();
        let arguments = self.arguments();
        let signing_in = Box::pin(sign_in(&arguments, clock, move |page| {
            tell.send(page.to_owned()).unwrap();
        }));
        let browsing = async {
            if let Ok(page) = page.await {
                browser(page).await;
            }
        };
        tokio::join!(signing_in, browsing).0
    }

    /// As somebody who signs in with what the provider is told: `name|ways|class`.
    async fn sign_in_as(&self, who: &str) -> Done {
        self.sign_in(Arc::new(SystemClock), async |page| {
            let back = self.back(&page, who).await;
            assert_eq!(visit(&back).await.0, 200);
        })
        .await
    }

    /// Signs in at the provider, as far as the address that it sends the browser back to.
    async fn back(&self, page: &str, who: &str) -> String {
        let who = who.replace('|', "%7C");
        let mut at = format!("{page}&login_hint={who}");
        for _ in 0..10 {
            let (status, next) = self.get(&at).await;
            assert!(!next.is_empty(), "{status} at {at}");
            at = next;
            if at.contains("/callback?") {
                return at;
            }
        }
        panic!("the provider goes round in circles: {at}");
    }

    async fn get(&self, url: &str) -> (u16, String) {
        let jar = self.directory.path().join("jar");
        let jar = jar.to_str().unwrap();
        curl(&["-b", jar, "-c", jar, url]).await
    }

    /// The next one signs in anew.
    fn forget(&self) {
        let _ = std::fs::remove_file(self.directory.path().join("jar"));
    }

    async fn refusal(&self) -> String {
        let rows = self.served.stage.state.audit(u64::MAX, 1).await.unwrap();
        assert_eq!(rows[0].action, "tunnel_access_token_refused");
        rows[0].reason.clone().unwrap()
    }
}

async fn visit(url: &str) -> (u16, String) {
    curl(&[url]).await
}

/// Status, and where it sends to.
async fn curl(words: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    let format = "%{http_code} %{redirect_url}";
    command.args(["-sS", "--max-time", "20", "-o", "/dev/null", "-w", format]);
    command.args(words);
    let ended = tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap();
    let text = String::from_utf8(ended.stdout).unwrap();
    let (status, next) = text.split_once(' ').unwrap();
    (status.parse().unwrap(), next.to_owned())
}

fn today() -> u64 {
    let since = SystemClock.wall().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs()
}

fn why(failed: &Failure) -> String {
    let (what, cause, _) = failed.parts();
    format!("{what}: {}", cause.unwrap_or_default())
}

#[tokio::test]
async fn somebody_who_signed_in_with_two_factors_gets_a_token_of_the_rules_scope() {
    use std::os::unix::fs::PermissionsExt;
    let mut desk = Desk::new().await;
    let done = desk.sign_in_as("ada|pwd,mfa|urn:two").await.unwrap();
    assert_eq!(done["subject"], "ada");
    assert_eq!(done["scope"], "workspace:read_tunnels");
    assert_eq!(
        done.get("access_token"),
        None,
        "it is in the file, and nowhere else"
    );
    let permissions = std::fs::metadata(desk.file()).unwrap().permissions();
    assert_eq!(permissions.mode() & 0o777, 0o600);
    let rows = desk.served.stage.state.audit(u64::MAX, 1).await.unwrap();
    assert_eq!(rows[0].action, "tunnel_access_token_minted");
    assert_eq!(rows[0].actor, format!("rule:{}:ada", desk.served.rule.id));
    desk.served.token = std::fs::read_to_string(desk.file()).unwrap();
    assert_eq!(desk.served.get("/v1/tunnels").await.status, 200);
    let made = desk
        .served
        .call(Method::POST, "/v1/tunnels", &[], "{}")
        .await;
    assert_eq!(made.status, 403, "least scope");
}

#[tokio::test]
async fn one_factor_another_class_and_another_person_are_refused_by_the_rule() {
    let desk = Desk::new().await;
    for (who, reason) in [
        ("ada|pwd|urn:two", "match_multi_factor: amr is \"pwd\""),
        ("ada", "match_multi_factor: amr is \"\""),
        ("ada|mfa|urn:one", "match_multi_factor: acr is \"urn:one\""),
        ("ada|mfa", "match_multi_factor: acr is \"\""),
        ("eve|mfa|urn:two", "match_subject_prefix: sub is \"eve\""),
    ] {
        desk.forget();
        let failed = desk.sign_in_as(who).await.unwrap_err();
        assert_eq!(failed.exit(), Exit::Permission);
        assert!(why(&failed).contains("Authentication failed, request req_"));
        let written = desk.refusal().await;
        assert!(written.starts_with(reason), "{written} for {who}");
        assert!(!desk.file().exists());
    }
}

#[tokio::test]
async fn an_answer_with_another_state_changes_nothing_and_one_from_elsewhere_ends_it() {
    let desk = Desk::new().await;
    let done = desk
        .sign_in(Arc::new(SystemClock), async |page| {
            let back = desk.back(&page, "ada|mfa|urn:two").await;
            let (at, _) = back.split_once('?').unwrap();
            for foreign in [
                back.replace("&state=", "&state=x"),
                back.replace("state=", "other="),
                format!("{back}&state=x"),
                format!("{at}?error=access_denied"),
            ] {
                assert_eq!(visit(&foreign).await.0, 400, "{foreign}");
            }
            let origin = at.strip_suffix("/callback").unwrap();
            assert_eq!(visit(&format!("{origin}/favicon.ico")).await.0, 404);
            let posted = curl(&["-d", "", &back]).await;
            assert_eq!(posted.0, 404);
            assert_eq!(visit(&back).await.0, 200);
        })
        .await;
    assert_eq!(done.unwrap()["subject"], "ada");
    // RFC 9207: the right state, and another provider's answer mixed in.
    let mixed = desk
        .sign_in(Arc::new(SystemClock), async |page| {
            let back = desk.back(&page, "ada|mfa|urn:two").await;
            let (start, _) = back.split_once("&iss=").unwrap();
            visit(&format!("{start}&iss=https%3A%2F%2Fevil.test")).await;
        })
        .await;
    assert!(why(&mixed.unwrap_err()).contains("the answer is from \"https://evil.test\""));
    // What the provider refuses is said as it says it.
    let denied = desk
        .sign_in(Arc::new(SystemClock), async |page| {
            let page = page.replace("scope=openid", "scope=openid&prompt=none");
            desk.forget();
            let back = desk.back(&page, "ada").await;
            assert_eq!(visit(&back).await.0, 200);
        })
        .await;
    let denied = denied.unwrap_err();
    assert_eq!(denied.exit(), Exit::Permission);
    assert!(why(&denied).contains("login_required"), "{}", why(&denied));
}

#[tokio::test]
async fn another_nonce_a_code_that_was_used_and_a_token_that_is_over_are_refused() {
    let desk = Desk::new().await;
    let clock = || -> Arc<dyn Clock> { Arc::new(SystemClock) };
    // Somebody else's sign-in is slipped in: its code comes with this state, its token has its nonce.
    let other = desk
        .sign_in(clock(), async |page| {
            let (start, rest) = page.split_once("nonce=").unwrap();
            let end = rest.find('&').unwrap_or(rest.len());
            let page = format!("{start}nonce=another{}", &rest[end..]);
            let back = desk.back(&page, "ada|mfa|urn:two").await;
            visit(&back).await;
        })
        .await;
    let other = why(&other.unwrap_err());
    assert!(
        other.contains("ID token") && other.contains("nonce"),
        "{other}"
    );

    let mut code = String::new();
    let first = desk
        .sign_in(clock(), async |page| {
            let back = desk.back(&page, "ada|mfa|urn:two").await;
            let (_, rest) = back.split_once("code=").unwrap();
            rest.split('&').next().unwrap().clone_into(&mut code);
            visit(&back).await;
        })
        .await;
    first.unwrap();
    std::fs::remove_file(desk.file()).unwrap();
    let again = desk
        .sign_in(clock(), async |page| {
            let back = desk.back(&page, "ada|mfa|urn:two").await;
            let (start, rest) = back.split_once("code=").unwrap();
            let end = rest.find('&').unwrap();
            visit(&format!("{start}code={code}{}", &rest[end..])).await;
        })
        .await;
    let again = why(&again.unwrap_err());
    assert!(again.contains("invalid_grant"), "{again}");

    // Over for the person's own machine, and over for the edge alone.
    let late = Arc::new(StandingClock::new());
    late.set(today() + 7200);
    let browser = async |page: String| {
        let back = desk.back(&page, "ada|mfa|urn:two").await;
        visit(&back).await;
    };
    let expired = why(&desk.sign_in(late, browser).await.unwrap_err());
    assert!(expired.contains("expired"), "{expired}");
    desk.served.stage.clock.set(today() + 7200);
    let expired = desk.sign_in(clock(), browser).await.unwrap_err();
    assert_eq!(expired.exit(), Exit::Permission);
    let written = desk.refusal().await;
    assert!(written.starts_with("expired 3"), "{written}");
    assert!(!desk.file().exists());
}
