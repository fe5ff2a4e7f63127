use process::Failure;

use crate::config::Config;

const TUNNEL: &str = "tunnels: {main: {provider: static, domain: t.example, store: 'dir:/s'}}\n";

fn parse(section: &str) -> Result<Config, Failure> {
    Config::parse(&format!("{TUNNEL}identity:\n{section}"), "keyward.yaml")
}

#[test]
fn every_source_is_understood_and_written_back() {
    for source in [
        "file: /token",
        "environment: ID_TOKEN",
        "exec: {command: [/bin/cat, /token], environment: [HOME], timeout: 5s}",
        "kubernetes: {service_account: keyward, audiences: [a], expiration: 1h, bound_object: {kind: Pod, name: p}}",
        "kubernetes: {url: 'https://k:6443', ca_file: /ca, token_file: /t, namespace: n, service_account: s}",
        "github_actions: {audience: a}",
    ] {
        let text = format!(
            "  url: https://api.edge.example\n  ca_file: /ca.pem\n  federation_rule: fdrl_1\n  organization: o\n  \
             service_account: svac_1\n  workspace: default\n  reusable: true\n  source: {{{source}}}\n  \
             expect: {{issuer: i, subject: 's*', audience: a, claims: {{x: y}}}}\n"
        );
        let mut config = parse(&text).unwrap();
        assert!(config.identity.as_ref().unwrap().source.is_some());
        let effective = config.effective();
        config.health.explicit = true;
        let again = Config::parse(&effective, "again").unwrap();
        assert_eq!(again, config, "{effective}");
    }
}

#[test]
fn what_cannot_be_used_is_refused_with_what_to_write() {
    for (section, what, next) in [
        (
            "  sourc: {}\n",
            "unknown key \"sourc\"",
            "did you mean \"source\"?",
        ),
        (
            "  source: {file: /a, environment: B}\n",
            "not exactly one",
            "write one of",
        ),
        ("  source: {}\n", "not exactly one", "write one of"),
        (
            "  source: {exec: {command: [cat]}}\n",
            "absolute path",
            "no shell",
        ),
        (
            "  source: {file: token}\n",
            "identity.source.file",
            "absolute",
        ),
        ("  url: http://api.example\n", "identity.url", "https"),
        (
            "  source: {kubernetes: {service_account: '../x'}}\n",
            "service_account is \"../x\"",
            "as the cluster has it",
        ),
        (
            "  source: {kubernetes: {service_account: x, expiration: 1m}}\n",
            "expiration is \"1m\"",
            "at least 10m",
        ),
    ] {
        let failure = parse(section).unwrap_err();
        assert_eq!(failure.exit(), process::Exit::Config);
        let text = failure.to_string();
        assert!(text.contains(what) && text.contains(next), "{text}");
    }
    let failure = parse("  url: 'https://u:canary@h'\n").unwrap_err();
    assert!(!failure.to_string().contains("canary"));
}
