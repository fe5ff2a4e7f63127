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
        "gitlab: {variable: KEYWARD_TOKEN}",
        "gcp: {audience: a}",
        "gcp: {audience: a, service_account: k@p.iam.gserviceaccount.com}",
        "azure: {resource: 'api://a'}",
        "azure: {resource: 'api://a', client_id: c}",
        "vault: {address: 'https://v:8200', role: r, auth: {token_file: /t}}",
        "vault: {address: 'https://v:8200', ca_file: /ca, namespace: n, role: r, auth: {kubernetes: {role: k}}}",
        "vault: {address: 'http://127.0.0.1:8200', role: r, auth: {kubernetes: {role: k, mount: k8s/one, token_file: /t}}}",
        "vault: {address: 'https://v:8200', role: r, auth: {approle: {role_id: i, secret_id_file: /s, mount: m}}}",
        "spiffe: {audience: a}",
        "spiffe: {socket: 'unix:///run/spire/agent.sock', audience: a, spiffe_id: 'spiffe://td/keyward'}",
        "aws: {audiences: [a]}",
        "aws: {audiences: [a, b], region: eu-central-1, algorithm: ES384, duration: 15m}",
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
#[expect(clippy::too_many_lines, reason = "a table of cases")]
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
        (
            "  source: {gitlab: {}}\n",
            "identity.source.gitlab.variable is missing",
            "write the name under id_tokens of the job",
        ),
        (
            "  source: {gitlab: {variable: A=B}}\n",
            "identity.source.gitlab.variable is \"A=B\"",
            "not its value",
        ),
        (
            "  source: {gcp: {}}\n",
            "identity.source.gcp.audience is missing",
            "write what the rule wants as aud, such as https://api.anthropic.com",
        ),
        (
            "  source: {gcp: {audience: ' '}}\n",
            "identity.source.gcp.audience is \" \"",
            "write what the rule wants as aud",
        ),
        (
            "  source: {gcp: {audience: a, service_account: a/b@c}}\n",
            "identity.source.gcp.service_account is \"a/b@c\"",
            "write its mail address, such as keyward@PROJECT.iam.gserviceaccount.com",
        ),
        (
            "  source: {azure: {client_id: c}}\n",
            "identity.source.azure.resource is missing",
            "write the application that the token is for, api://ID",
        ),
        (
            "  source: {azure: {resource: 'api://a/.default'}}\n",
            "identity.source.azure.resource is \"api://a/.default\"",
            "write it without /.default, which is added where Entra wants it",
        ),
        (
            "  source: {vault: {role: r, auth: {token_file: /t}}}\n",
            "identity.source.vault.address is missing",
            "write where Vault is, such as https://vault.example.com:8200",
        ),
        (
            "  source: {vault: {address: 'http://v:8200', role: r, auth: {token_file: /t}}}\n",
            "identity.source.vault.address cannot be used",
            "a token would be sent in plain text; write https",
        ),
        (
            "  source: {vault: {address: 'https://v', auth: {token_file: /t}}}\n",
            "identity.source.vault.role is missing",
            "write the name of a role of identity/oidc/role/",
        ),
        (
            "  source: {vault: {address: 'https://v', role: ../sys, auth: {token_file: /t}}}\n",
            "identity.source.vault.role is \"../sys\"",
            "write the name as Vault has it, without a slash at either end",
        ),
        (
            "  source: {vault: {address: 'https://v', role: r}}\n",
            "identity.source.vault.auth names not exactly one login",
            "write one of kubernetes, approle, token_file",
        ),
        (
            "  source: {vault: {address: 'https://v', role: r, auth: {token_file: t}}}\n",
            "identity.source.vault.auth.token_file is \"t\"",
            "write an absolute path",
        ),
        (
            "  source: {vault: {address: 'https://v', role: r, auth: {kubernetes: {}}}}\n",
            "identity.source.vault.auth.kubernetes.role is missing",
            "write the name of a role of the auth method",
        ),
        (
            "  source: {vault: {address: 'https://v', role: r, auth: {kubernetes: {role: r, mount: /k}}}}\n",
            "identity.source.vault.auth.kubernetes.mount is \"/k\"",
            "write the name as Vault has it",
        ),
        (
            "  source: {vault: {address: 'https://v', role: r, auth: {approle: {secret_id_file: /s}}}}\n",
            "identity.source.vault.auth.approle.role_id is missing",
            "write what vault read auth/approle/role/NAME/role-id prints",
        ),
        (
            "  source: {vault: {address: 'https://v', role: r, auth: {approle: {role_id: i}}}}\n",
            "identity.source.vault.auth.approle.secret_id_file is missing",
            "write the path of a file with the secret, which is read at each login",
        ),
        (
            "  source: {spiffe: {}}\n",
            "identity.source.spiffe.audience is missing",
            "write what the rule wants as aud",
        ),
        (
            "  source: {spiffe: {audience: a, socket: 'tcp://127.0.0.1:1'}}\n",
            "identity.source.spiffe.socket is \"tcp://127.0.0.1:1\"",
            "write unix:///PATH: by another way the agent would not know who asks",
        ),
        (
            "  source: {spiffe: {audience: a, socket: run/a.sock}}\n",
            "identity.source.spiffe.socket is \"run/a.sock\"",
            "write an absolute path, or unix:// and one",
        ),
        (
            "  source: {spiffe: {audience: a, spiffe_id: keyward}}\n",
            "identity.source.spiffe.spiffe_id is \"keyward\"",
            "write the whole id, spiffe://TRUST-DOMAIN/PATH",
        ),
        (
            "  source: {aws: {}}\n",
            "identity.source.aws.audiences has 0 entries",
            "write one to ten: the first is what the rule wants as aud",
        ),
        (
            "  source: {aws: {audiences: ['']}}\n",
            "an entry of identity.source.aws.audiences is empty or too long",
            "write 1 to 1000 characters",
        ),
        (
            "  source: {aws: {audiences: [a], region: global}}\n",
            "identity.source.aws.region is \"global\"",
            "write the code of a region, such as eu-central-1",
        ),
        (
            "  source: {aws: {audiences: [a], algorithm: ES256}}\n",
            "identity.source.aws.algorithm is \"ES256\"",
            "write one of RS256, ES384",
        ),
        (
            "  source: {aws: {audiences: [a], duration: 30s}}\n",
            "identity.source.aws.duration is \"30s\"",
            "write at least 1m",
        ),
        (
            "  source: {aws: {audiences: [a], duration: 2h}}\n",
            "identity.source.aws.duration is 2h",
            "write at most 1h",
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
