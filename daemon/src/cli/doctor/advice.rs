//! A source gave no token: whose turn it is, and what to do. Each source has its own usual faults.

use std::io::ErrorKind;

use identity::{HttpError, Source, SourceError};
use process::{Exit, Failure};

use crate::remote::unreachable_or_unusable;

type Advice = (Exit, &'static str);

pub(super) fn no_token(error: &SourceError, source: &Source) -> Failure {
    let (exit, next) = match error {
        SourceError::File { error, .. } if error.kind() == ErrorKind::PermissionDenied => {
            (Exit::Permission, "let this user read it")
        }
        SourceError::Http(HttpError::NotSent { host, .. } | HttpError::Unknown { host, .. })
            if is_metadata(host) =>
        {
            (
                Exit::Unavailable,
                "run it on a machine of that cloud, and let it reach its metadata address: network policies shut that off, \
                 and so does a hop limit of 1 in a container of EC2",
            )
        }
        SourceError::Http(error) => return unreachable_or_unusable(error),
        SourceError::Refused { status, code, .. } => {
            let known = code.as_deref().and_then(|code| coded(source, code));
            known.unwrap_or_else(|| refused(source, *status))
        }
        SourceError::Socket { .. } => (
            Exit::Unavailable,
            "start the SPIRE agent, let its socket into this container, and let this user open it",
        ),
        SourceError::Impostor(_) => (
            Exit::Unavailable,
            "look at what answers in its place: this is no machine of that cloud, or something stands between",
        ),
        SourceError::Exec { .. } => (
            Exit::Unavailable,
            "run it by hand, with no variable set but those that it is given",
        ),
        SourceError::Variable(name) => variable(source, name),
        _ => (Exit::Config, "look at what the source holds"),
    };
    let what = format!("the source {} gave no identity token", source.name());
    Failure::new(exit, what).caused_by(error).next(next)
}

fn is_metadata(host: &str) -> bool {
    ["169.254.", "[fd00:ec2:", "[fd20:ce:", "metadata."]
        .iter()
        .any(|begin| host.starts_with(begin))
}

fn variable(source: &Source, name: &str) -> Advice {
    let next = match (source, name) {
        (Source::Kubernetes(_), _) => {
            "run it in a pod, or write identity.source.kubernetes.url, namespace, ca_file and token_file"
        }
        (Source::GitHubActions { .. }, _) => "set it by permissions: id-token: write",
        (Source::GitLab { .. }, _) => {
            "declare it in the job that runs this: id_tokens: {NAME: {aud: URL}}, where URL is what the rule wants as aud; other jobs do not get it"
        }
        (Source::Azure(_), "IDENTITY_HEADER") => {
            "run it on App Service, or unset IDENTITY_ENDPOINT: without that header it is Azure Arc's, which is not served"
        }
        (Source::Spiffe(_), _) => {
            "set it to unix:///PATH of the agent's socket, or write identity.source.spiffe.socket"
        }
        (Source::Aws(_), "AWS_REGION") => {
            "write identity.source.aws.region: the global endpoint gives no such tokens"
        }
        (Source::Aws(_), _) => {
            "give this workload credentials of AWS: docs/config.md says in which ways, and in which order"
        }
        (Source::Azure(_), _) => {
            "let the webhook of AKS set it: label the pod azure.workload.identity/use: \"true\""
        }
        _ => "set it; in a job of GitLab take the source gitlab",
    };
    (Exit::Config, next)
}

/// What the source's own code says.
fn coded(source: &Source, code: &str) -> Option<Advice> {
    match source {
        Source::Azure(_) => azure(code),
        Source::Aws(_) => aws(code),
        _ => None,
    }
}

fn azure(code: &str) -> Option<Advice> {
    let (exit, next) = match code {
        "AADSTS700024" => (
            Exit::Permission,
            "look at why the file AZURE_FEDERATED_TOKEN_FILE is not replaced: the token in it is over, or this clock is wrong",
        ),
        "AADSTS50001" | "AADSTS500011" => (
            Exit::Config,
            "register an application in this tenant, expose it as api://ID, and write that into identity.source.azure.resource",
        ),
        "AADSTS700016" | "AADSTS90002" => (
            Exit::Config,
            "correct the annotations azure.workload.identity/client-id and tenant-id: there is no such identity, or no such tenant",
        ),
        "AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213" => (
            Exit::Permission,
            "give the identity a federated credential with this cluster's issuer, system:serviceaccount:NAMESPACE:NAME and the \
             audience api://AzureADTokenExchange",
        ),
        "invalid_request" => (
            Exit::Config,
            "assign a managed identity to this machine, and name it in identity.source.azure.client_id if there are several",
        ),
        _ => return None,
    };
    Some((exit, next))
}

fn aws(code: &str) -> Option<Advice> {
    let (exit, next) = match code.trim_end_matches("Exception") {
        "OutboundWebIdentityFederationDisabled" => (
            Exit::Permission,
            "switch outbound web identity federation on for the account: IAM, account settings",
        ),
        "AccessDenied" => (
            Exit::Permission,
            "allow the role sts:GetWebIdentityToken; with a token of EKS, let the role's trust policy name that account",
        ),
        "SessionDurationEscalation" => (
            Exit::Config,
            "shorten identity.source.aws.duration: the session that asks ends before",
        ),
        "ExpiredToken" | "InvalidIdentityToken" | "IDPRejectedClaim" => (
            Exit::Permission,
            "look at what gives the credentials: they, or the token in AWS_WEB_IDENTITY_TOKEN_FILE, are over or not known",
        ),
        "SignatureDoesNotMatch" | "RequestExpired" | "IncompleteSignature" => (
            Exit::Permission,
            "look at this machine's clock, which may be wrong by five minutes at most, then at AWS_SECRET_ACCESS_KEY",
        ),
        "InvalidClientTokenId" | "UnrecognizedClient" => (
            Exit::Permission,
            "look at the credentials: the key is unknown, switched off, or temporary without AWS_SESSION_TOKEN",
        ),
        "RegionDisabled" => (
            Exit::Config,
            "activate STS in that region, or write another one into identity.source.aws.region",
        ),
        "InvalidAction" => (
            Exit::Config,
            "unset AWS_ENDPOINT_URL_STS: only regional endpoints give such tokens",
        ),
        _ => return None,
    };
    Some((exit, next))
}

/// What the status says, where no code does.
fn refused(source: &Source, status: u16) -> Advice {
    match (source, status) {
        (Source::Spiffe(_), code) => spiffe(code),
        (Source::Vault(_), code) => vault(code),
        (_, 401) => (
            Exit::Permission,
            "look at the token that asks for it: it may be over",
        ),
        (Source::Kubernetes(_), 403) => (
            Exit::Permission,
            "allow it: create on serviceaccounts/token",
        ),
        (Source::GitHubActions { .. }, 403) => (
            Exit::Permission,
            "allow it: permissions: id-token: write, and no pull request of a fork",
        ),
        (Source::Gcp(_), 404) => (
            Exit::Config,
            "attach that service account to the machine; on GKE annotate the ServiceAccount with iam.gke.io/gcp-service-account",
        ),
        (_, 403) => (Exit::Permission, "allow this workload to have that token"),
        (_, 300..=399) => (
            Exit::Config,
            "write the address that it is moved to: a request with a secret is not carried on",
        ),
        (_, 400..=499) => (Exit::Config, "look at identity.source: names and audiences"),
        _ => (
            Exit::Unavailable,
            "try again, or look at the log of that server",
        ),
    }
}

/// gRPC's codes, as SPIRE's agent gives them.
fn spiffe(code: u16) -> Advice {
    match code {
        7 => (
            Exit::Permission,
            "register this workload: spire-server entry create with selectors that fit this process, and wait until the agent has it",
        ),
        3 => (
            Exit::Config,
            "look at identity.source.spiffe: audience and spiffe_id",
        ),
        12 => (
            Exit::Config,
            "look at identity.source.spiffe.socket: what listens there is not the Workload API",
        ),
        _ => (
            Exit::Unavailable,
            "wait until the agent has reached its server, or look at its log",
        ),
    }
}

fn vault(status: u16) -> Advice {
    match status {
        403 => (
            Exit::Permission,
            "look whether the login's token is over (vault token lookup), then whether its policy allows read on \
             identity/oidc/token/ROLE; Vault says the same of both",
        ),
        400 => (
            Exit::Config,
            "look at the login's role, id and secret, whether identity/oidc/role/ROLE exists, and whether the login has an \
             entity: a root token has none",
        ),
        404 => (
            Exit::Config,
            "look at the mount of the auth method, the namespace and the role: one of them is not there",
        ),
        300..=399 => (
            Exit::Config,
            "write the address of the active node, or of the balancer before all: a token is not carried on",
        ),
        503 => (
            Exit::Unavailable,
            "unseal it: vault status says how far it is",
        ),
        _ => (
            Exit::Unavailable,
            "wait, or look at the log of Vault: 429 is a quota or a standby node",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use identity::{Aws, AwsAlgorithm, Azure, Gcp, Spiffe, Vault, VaultAuth};

    use super::*;

    fn refusal(status: u16, code: Option<&str>) -> SourceError {
        SourceError::Refused {
            status,
            code: code.map(str::to_owned),
            message: None,
        }
    }

    fn azure() -> Source {
        Source::Azure(Azure {
            resource: "api://a".to_owned(),
            client_id: None,
        })
    }

    fn aws() -> Source {
        Source::Aws(Aws {
            audiences: vec!["a".to_owned()],
            region: None,
            algorithm: AwsAlgorithm::Rs256,
            duration: Duration::from_secs(300),
        })
    }

    fn vault() -> Source {
        Source::Vault(Vault {
            address: "https://v".to_owned(),
            ca_file: None,
            namespace: None,
            role: "r".to_owned(),
            auth: VaultAuth::TokenFile("/t".into()),
        })
    }

    fn spiffe() -> Source {
        Source::Spiffe(Spiffe {
            socket: None,
            audience: "a".to_owned(),
            spiffe_id: None,
        })
    }

    fn gcp() -> Source {
        Source::Gcp(Gcp {
            audience: "a".to_owned(),
            service_account: None,
        })
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "a table of cases")]
    fn each_usual_fault_has_its_own_next_step() {
        let missing = |name: &str| SourceError::Variable(name.to_owned());
        for (source, error, exit, next) in [
            (
                azure(),
                refusal(401, Some("AADSTS700024")),
                Exit::Permission,
                "AZURE_FEDERATED_TOKEN_FILE",
            ),
            (
                azure(),
                refusal(400, Some("AADSTS500011")),
                Exit::Config,
                "expose it as api://ID",
            ),
            (
                azure(),
                refusal(400, Some("AADSTS700213")),
                Exit::Permission,
                "federated credential",
            ),
            (
                azure(),
                refusal(400, Some("invalid_request")),
                Exit::Config,
                "client_id if there are several",
            ),
            (
                azure(),
                refusal(400, Some("AADSTS1")),
                Exit::Config,
                "names",
            ),
            (azure(), missing("IDENTITY_HEADER"), Exit::Config, "Arc"),
            (azure(), missing("AZURE_TENANT_ID"), Exit::Config, "webhook"),
            (
                aws(),
                refusal(403, Some("OutboundWebIdentityFederationDisabledException")),
                Exit::Permission,
                "switch outbound",
            ),
            (
                aws(),
                refusal(403, Some("AccessDenied")),
                Exit::Permission,
                "sts:GetWebIdentityToken",
            ),
            (
                aws(),
                refusal(403, Some("SessionDurationEscalation")),
                Exit::Config,
                "shorten",
            ),
            (
                aws(),
                refusal(403, Some("SignatureDoesNotMatch")),
                Exit::Permission,
                "clock",
            ),
            (aws(), missing("AWS_REGION"), Exit::Config, "aws.region"),
            (
                vault(),
                refusal(403, None),
                Exit::Permission,
                "token lookup",
            ),
            (vault(), refusal(400, None), Exit::Config, "entity"),
            (vault(), refusal(404, None), Exit::Config, "mount"),
            (vault(), refusal(307, None), Exit::Config, "active node"),
            (vault(), refusal(503, None), Exit::Unavailable, "unseal"),
            (
                spiffe(),
                refusal(7, Some("PermissionDenied")),
                Exit::Permission,
                "spire-server entry create",
            ),
            (spiffe(), refusal(12, None), Exit::Config, "Workload API"),
            (spiffe(), refusal(14, None), Exit::Unavailable, "agent"),
            (
                spiffe(),
                SourceError::Socket {
                    path: "/a".into(),
                    cause: "x".into(),
                },
                Exit::Unavailable,
                "start the SPIRE agent",
            ),
            (
                spiffe(),
                missing("SPIFFE_ENDPOINT_SOCKET"),
                Exit::Config,
                "unix:///PATH",
            ),
            (gcp(), refusal(404, None), Exit::Config, "iam.gke.io"),
            (
                gcp(),
                SourceError::Impostor("x"),
                Exit::Unavailable,
                "in its place",
            ),
            (gcp(), refusal(503, None), Exit::Unavailable, "try again"),
            (gcp(), refusal(302, None), Exit::Config, "moved to"),
        ] {
            let failure = no_token(&error, &source);
            let text = failure.to_string();
            assert_eq!(failure.exit(), exit, "{text}");
            assert!(text.contains(next), "{next}: {text}");
        }
        let silent = |host: &str| {
            SourceError::Http(HttpError::NotSent {
                host: host.to_owned(),
                cause: "x".into(),
            })
        };
        let text = no_token(&silent("169.254.169.254"), &gcp()).to_string();
        assert!(text.contains("hop limit"), "{text}");
        let text = no_token(&silent("login.microsoftonline.com"), &azure()).to_string();
        assert!(text.contains("HTTPS_PROXY"), "{text}");
    }
}
