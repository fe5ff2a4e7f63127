//! `keyward init` against a real edge: from a tunnel's id to a store that serves it, once, however often it is run and
//! wherever it ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::managed::{Managed, token};
use super::toll::{Fate, Toll};
use super::world::{Signer, World};
use crate::cli::stage::{Ended, end, keyward};
use crate::rig::{Issuer, until};

/// An edge with a tunnel, the road to it, and a workload that may manage its tunnels.
struct Case {
    world: World,
    toll: Toll,
    signer: Signer,
    rule: String,
    tunnel: (String, String),
    store: PathBuf,
}

impl Case {
    async fn start() -> Self {
        let Managed {
            world,
            toll,
            signer,
            rule,
            tunnel,
        } = Managed::start().await;
        let store = world.folder.path().join("store");
        Self {
            world,
            toll,
            signer,
            rule,
            tunnel,
            store,
        }
    }

    /// With the stock variables and flags, and a fresh identity token.
    fn command(&self, more: &[&str]) -> Command {
        let token = self.world.write("identity", &token(&self.signer));
        let output = format!("--output=dir:{}", self.store.display());
        let mut command = keyward(&[&["init", "--json", &output][..], more].concat());
        command
            .env("API_URL", &self.toll.url)
            .env("TUNNEL_ID", &self.tunnel.0)
            .env("ANTHROPIC_FEDERATION_RULE_ID", &self.rule)
            .env("ANTHROPIC_IDENTITY_TOKEN_FILE", token);
        command
    }

    async fn init(&self, more: &[&str]) -> Ended {
        end(&mut self.command(more)).await
    }

    async fn good(&self, more: &[&str]) -> Value {
        let ended = self.init(more).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        ended.json()
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.store.join(name)).unwrap()
    }

    /// Fingerprints of the CA certificates that are registered.
    async fn registered(&self) -> Vec<String> {
        let listed = self
            .world
            .command(&["certificate", "list", &self.tunnel.0])
            .await;
        let all = listed["data"].as_array().unwrap();
        let active = all.iter().filter(|one| one["archived_at"].is_null());
        active
            .map(|one| one["fingerprint"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The token in force, as an operator sees it.
    async fn revealed(&self) -> Value {
        self.world
            .command(&["token", "reveal", &self.tunnel.0])
            .await
    }

    /// The end of what every run is for: the store is that of the tunnel, and the edge knows all of it.
    async fn assert_settled(&self) {
        assert_eq!(self.read("tunnel-id"), self.tunnel.0);
        assert_eq!(self.read("tunnel-domain"), self.tunnel.1);
        let ca = pki::Certificate::from_pem(&self.read("ca.crt")).unwrap();
        assert_eq!(self.registered().await, [ca.fingerprint().to_string()]);
        let token = self.revealed().await;
        assert_eq!(
            self.read("tunnel-token"),
            token["tunnel_token"].as_str().unwrap()
        );
        let names = ["ca.crt", "tls.crt"].map(|name| self.store.join(name));
        let verified = std::process::Command::new("openssl")
            .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
            .args(names)
            .output()
            .unwrap();
        assert!(verified.status.success(), "{verified:?}");
    }

    /// Calls `up` through the edge, with a proxy that has the store and nothing else.
    async fn call(&self) -> u16 {
        let world = &self.world;
        for (name, of) in [("leaf.crt", "tls.crt"), ("leaf.key", "tls.key")] {
            world.write(name, &self.read(of));
        }
        world.write("tunnel-ca.pem", &self.read("ca.crt"));
        let access = world.write("access.json", r#"{"cidrs":["127.0.0.0/8"]}"#);
        let id = &self.tunnel.0;
        world
            .command(&["access", "set", id, &access, "--if-version", "0"])
            .await;
        let token = self.read("tunnel-token");
        let _proxy = world.proxy("one", &self.tunnel, &token).await;
        // The edge reads who may call a moment after it was told.
        let called = async || (world.call(&self.tunnel.1).await == 200).then_some(200);
        until("a call", called).await
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn an_id_becomes_a_store_that_serves_its_tunnel_and_a_second_run_changes_nothing() {
    let case = Case::start().await;
    let first = case.good(&["--token-version", "1"]).await;
    case.assert_settled().await;
    assert_eq!(first["ca"]["made"], true);
    assert_eq!(first["ca"]["registered"], true);
    assert_eq!(first["server_certificate"]["issued"], true);
    assert_eq!(first["tunnel_token"]["rotated"], false);
    assert_eq!(mode(&case.store), 0o700);
    for name in ["ca.key", "tls.key", "tunnel-token"] {
        assert_eq!(mode(&case.store.join(name)), 0o600, "{name}");
    }
    assert_eq!(case.call().await, 200);

    let files = ["ca.crt", "ca.key", "tls.crt", "tls.key", "tunnel-token"];
    let before = files.map(|name| case.read(name));
    let second = case.good(&["--token-version", "1"]).await;
    assert_eq!(files.map(|name| case.read(name)), before);
    for (what, how) in [
        ("ca", "made"),
        ("ca", "registered"),
        ("server_certificate", "issued"),
        ("tunnel_token", "rotated"),
    ] {
        assert_eq!(second[what][how], false, "{what} {how}");
    }
    assert_eq!(
        case.toll.passed("/certificates HTTP").len(),
        1,
        "one was posted"
    );
    assert_eq!(case.toll.passed("rotate_token").len(), 0);
    let sent = case.toll.passed("reveal_token")[0].head.clone();
    assert!(
        sent.contains("anthropic-beta: mcp-tunnels-2026-06-22,oauth-2025-04-20\r\n"),
        "{sent}"
    );
    assert!(sent.contains("anthropic-version: 2023-06-01\r\n"), "{sent}");
}

#[tokio::test]
async fn another_token_version_rotates_the_token_exactly_once() {
    let case = Case::start().await;
    case.good(&["--token-version", "1"]).await;
    let old = case.read("tunnel-token");
    let rotated = case.good(&["--token-version", "2"]).await;
    assert_eq!(rotated["tunnel_token"]["rotated"], true);
    case.assert_settled().await;
    assert_ne!(case.read("tunnel-token"), old);
    assert_eq!(
        case.good(&["--token-version", "2"]).await["tunnel_token"]["rotated"],
        false
    );
    assert_eq!(case.good(&[]).await["tunnel_token"]["rotated"], false);
    assert_eq!(case.toll.passed("rotate_token").len(), 1);
}

/// Finding 2 of the design: a rotation that is repeated kills the value that the first one made.
#[tokio::test]
async fn a_rotation_whose_answer_was_lost_is_found_and_not_repeated() {
    for fate in [Fate::AnswerLost, Fate::AnsweredBy("502 Bad Gateway")] {
        let case = Case::start().await;
        case.good(&["--token-version", "1"]).await;
        case.toll.next("rotate_token", fate);
        let ended = case.init(&["--token-version", "2"]).await;
        assert_eq!(ended.code, Some(69), "{ended:?}");
        assert!(
            ended.stderr.contains("run this again: it finds out"),
            "{ended:?}"
        );
        let found = case.good(&["--token-version", "2"]).await;
        assert_eq!(found["tunnel_token"]["rotated"], true);
        case.assert_settled().await;
        assert_eq!(case.toll.passed("rotate_token").len(), 1, "{fate:?}");
    }
}

#[tokio::test]
async fn a_run_that_is_killed_while_it_rotates_is_finished_without_another_rotation() {
    let case = Case::start().await;
    case.good(&["--token-version", "1"]).await;
    let old = case.read("tunnel-token");
    case.toll.next("rotate_token", Fate::Unanswered);
    let mut run = case.command(&["--token-version", "2"]).spawn().unwrap();
    until("the rotation", async || {
        (case.revealed().await["tunnel_token"] != old.as_str()).then_some(())
    })
    .await;
    run.kill().await.unwrap();
    assert_eq!(case.read("tunnel-token"), old);
    // Whoever runs it next need not know that a token was asked for.
    let found = case.good(&[]).await;
    assert_eq!(found["tunnel_token"]["rotated"], true);
    case.assert_settled().await;
    let again = case.good(&["--token-version", "2"]).await;
    assert_eq!(again["tunnel_token"]["rotated"], false);
    assert_eq!(case.toll.passed("rotate_token").len(), 1);
}

#[tokio::test]
async fn a_rotation_that_never_arrived_is_made_once_it_cannot_be_on_its_way_any_more() {
    let case = Case::start().await;
    case.good(&["--token-version", "1"]).await;
    case.toll.next("rotate_token", Fate::RequestLost);
    let ended = case.init(&["--token-version", "2"]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    // It waits; whoever stops it loses nothing.
    let mut waiting = case.command(&["--token-version", "2"]).spawn().unwrap();
    let reveals = case.toll.passed("reveal_token").len();
    until("it looks", async || {
        (case.toll.passed("reveal_token").len() > reveals).then_some(())
    })
    .await;
    let ended = tokio::time::timeout(Duration::from_secs(3), waiting.wait()).await;
    assert!(ended.is_err(), "it waits for a minute: {ended:?}");
    waiting.kill().await.unwrap();
    assert_eq!(case.toll.passed("rotate_token").len(), 1);
    // Two minutes later.
    let note = case.store.join(".keyward-init.json");
    let mut noted: Value = serde_json::from_str(&case.read(".keyward-init.json")).unwrap();
    let since = noted["rotating"]["since"].as_u64().unwrap();
    noted["rotating"]["since"] = (since - 120).into();
    std::fs::write(&note, noted.to_string()).unwrap();
    let made = case.good(&["--token-version", "2"]).await;
    assert_eq!(made["tunnel_token"]["rotated"], true);
    case.assert_settled().await;
    assert_eq!(case.toll.passed("rotate_token").len(), 2);
}

#[tokio::test]
async fn a_ca_whose_registration_was_not_answered_takes_one_slot() {
    for fate in [Fate::AnswerLost, Fate::AnsweredBy("504 Gateway Timeout")] {
        let case = Case::start().await;
        case.toll.next("certificates HTTP", fate);
        let done = case.good(&[]).await;
        assert_eq!(done["ca"]["registered"], true);
        case.assert_settled().await;
    }
    let case = Case::start().await;
    // The list comes first, then what registers.
    case.toll.next("POST /v1/tunnels", Fate::RequestLost);
    let ended = case.init(&[]).await;
    assert_eq!(ended.code, Some(69), "{ended:?}");
    assert!(case.registered().await.is_empty());
    case.good(&[]).await;
    case.assert_settled().await;
}

/// Killed at each of its calls, before and after the edge acted on it: the next run ends where one would have.
#[tokio::test]
async fn a_run_that_is_killed_at_any_call_is_finished_by_the_next_one() {
    const CALLS: [&str; 5] = [
        "oauth/token",
        "GET /v1/tunnels/tnl_",
        "certificates?limit",
        "certificates HTTP",
        "reveal_token",
    ];
    for part in CALLS {
        for fate in [Fate::RequestLost, Fate::AnswerLost] {
            let case = Case::start().await;
            case.toll.next(part, fate);
            let mut run = case.command(&["--token-version", "1"]).spawn().unwrap();
            until("the call", async || {
                (!case.toll.passed(part).is_empty()).then_some(())
            })
            .await;
            run.kill().await.unwrap();
            case.good(&["--token-version", "1"]).await;
            case.assert_settled().await;
            assert_eq!(case.toll.passed("rotate_token").len(), 0);
        }
    }
}

#[tokio::test]
async fn a_remote_that_asks_for_quiet_gets_it() {
    let case = Case::start().await;
    case.toll.next(
        "reveal_token",
        Fate::Refused("429 Too Many Requests\r\nretry-after: 2"),
    );
    case.toll
        .next("certificates", Fate::Refused("503 Service Unavailable"));
    case.good(&[]).await;
    case.assert_settled().await;
    let asked = case.toll.passed("reveal_token");
    assert!(asked[1].at - asked[0].at >= Duration::from_secs(2));
}

#[tokio::test]
async fn an_access_token_that_is_refused_is_bought_anew_once() {
    let case = Case::start().await;
    case.toll
        .next("reveal_token", Fate::Refused("401 Unauthorized"));
    case.good(&[]).await;
    assert_eq!(case.toll.passed("oauth/token").len(), 2);
    for _ in 0..2 {
        case.toll
            .next("reveal_token", Fate::Refused("401 Unauthorized"));
    }
    let ended = case.init(&[]).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert!(
        ended.stderr.contains("cannot reveal the tunnel's token"),
        "{ended:?}"
    );
    // What must happen once is not tried again even then.
    case.good(&["--token-version", "1"]).await;
    case.toll
        .next("rotate_token", Fate::Refused("401 Unauthorized"));
    let ended = case.init(&["--token-version", "2"]).await;
    assert_eq!(ended.code, Some(77), "{ended:?}");
    assert_eq!(case.toll.passed("rotate_token").len(), 1);
    // It was refused, so that nothing has to be found out.
    let note: Value = serde_json::from_str(&case.read(".keyward-init.json")).unwrap();
    assert!(note["rotating"].is_null(), "{note}");
    assert_eq!(
        case.good(&["--token-version", "2"]).await["tunnel_token"]["rotated"],
        true
    );
}

#[tokio::test]
async fn both_slots_taken_by_others_is_said_and_nobody_s_certificate_is_archived() {
    let case = Case::start().await;
    for name in ["a.pem", "b.pem"] {
        let issuer = Issuer::new();
        let file = case.world.write(name, &issuer.ca_pem());
        case.world
            .command(&["certificate", "add", &case.tunnel.0, &file])
            .await;
    }
    let before = case.registered().await;
    let ended = case.init(&[]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("both slots of the tunnel for CA certificates are taken"),
        "{ended:?}"
    );
    for fingerprint in &before {
        assert!(ended.stderr.contains(fingerprint), "{ended:?}");
    }
    assert_eq!(case.registered().await, before);
    assert_eq!(case.toll.passed("archive").len(), 0);
}

#[tokio::test]
async fn a_list_of_several_pages_is_read_to_its_end() {
    let case = Case::start().await;
    case.good(&[]).await;
    let file = case.world.write("a.pem", &Issuer::new().ca_pem());
    let add = ["certificate", "add", &case.tunnel.0, &file];
    case.world.command(&add).await;
    case.toll.is_stingy();
    let again = case.good(&[]).await;
    assert_eq!(again["ca"]["registered"], false, "the newest comes first");
    assert_eq!(case.toll.passed("&page=").len(), 1);
}

#[tokio::test]
async fn a_store_of_another_tunnel_is_begun_anew_and_a_ca_of_its_own_is_kept() {
    let case = Case::start().await;
    case.good(&[]).await;
    let old = case.read("ca.crt");
    let made = case
        .world
        .command(&["tunnel", "create", "--name", "other"])
        .await;
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    let case = Case {
        tunnel: (text("id"), text("domain")),
        ..case
    };
    let moved = case.good(&[]).await;
    assert_eq!(moved["ca"]["made"], true);
    assert_ne!(case.read("ca.crt"), old);
    case.assert_settled().await;
}

#[tokio::test]
async fn a_server_certificate_that_nobody_would_take_is_replaced_and_all_else_stays() {
    let case = Case::start().await;
    case.good(&[]).await;
    let ca = case.read("ca.crt");
    std::fs::write(case.store.join("client-ca.crt"), &ca).unwrap();
    let short = case.good(&["--cert-duration", "90m"]).await;
    assert_eq!(
        short["server_certificate"]["issued"], false,
        "it lasts for longer than that"
    );
    std::fs::remove_file(case.store.join("tls.key")).unwrap();
    std::fs::remove_file(case.store.join("tunnel-domain")).unwrap();
    let again = case.good(&["--cert-duration", "90m"]).await;
    assert_eq!(again["server_certificate"]["issued"], true);
    assert_eq!(again["ca"]["made"], false);
    assert_eq!(case.read("ca.crt"), ca);
    assert_eq!(case.read("client-ca.crt"), ca);
    case.assert_settled().await;
}

#[tokio::test]
async fn the_older_generation_of_the_api_is_spoken_where_the_scope_is_the_older_one() {
    let case = Case::start().await;
    case.toll.is_older();
    case.good(&[]).await;
    case.assert_settled().await;
    let sent = case.toll.passed("/v1/organizations/tunnels")[0]
        .head
        .clone();
    assert!(
        sent.contains("anthropic-beta: mcp-tunnels-2026-05-19,oauth-2025-04-20\r\n"),
        "{sent}"
    );
}

#[tokio::test]
async fn what_is_wrong_is_said_and_no_secret_is() {
    let case = Case::start().await;
    case.good(&[]).await;
    let token = case.read("tunnel-token");
    let unknown = case
        .init(&["--tunnel-id", "tnl_00000000000000000000000000"])
        .await;
    assert_eq!(unknown.code, Some(78), "{unknown:?}");
    assert!(
        unknown.stderr.contains("next: look at --tunnel-id"),
        "{unknown:?}"
    );
    let foreign = case.init(&["--tunnel-id", "../organizations"]).await;
    assert_eq!(foreign.code, Some(78), "{foreign:?}");
    assert!(
        foreign
            .stderr
            .contains("is no identifier of the Tunnels API"),
        "{foreign:?}"
    );
    let plain = case.init(&["--api-url", "http://api.example.com"]).await;
    assert_eq!(plain.code, Some(64), "{plain:?}");
    let nobody = case.init(&["--api-url", "http://127.0.0.1:1"]).await;
    assert_eq!(nobody.code, Some(69), "{nobody:?}");
    case.toll.next("reveal_token", Fate::Echoed);
    let echoed = case.init(&[]).await;
    assert_eq!(echoed.code, Some(78), "{echoed:?}");
    assert!(
        echoed.stderr.contains("Bearer [of the token]"),
        "{echoed:?}"
    );
    case.world
        .command(&["tunnel", "archive", &case.tunnel.0])
        .await;
    let archived = case.init(&[]).await;
    assert_eq!(archived.code, Some(78), "{archived:?}");
    assert!(archived.stderr.contains("is archived"), "{archived:?}");
    for ended in [unknown, foreign, plain, nobody, echoed, archived] {
        let printed = format!("{}{}", ended.stdout, ended.stderr);
        for secret in [token.as_str(), "sk-ant-oat", "PRIVATE KEY"] {
            assert!(!printed.contains(secret), "{printed}");
        }
    }
}
