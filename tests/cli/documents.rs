//! What the documentation says about the command line and the daemon's configuration is true.

use super::process::{KEYWARD, Place, STRANGER};
use super::stage::{command, end, keyward, open_directory, program};

/// A page of the documentation.
fn page(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/").to_owned() + name;
    std::fs::read_to_string(path).unwrap()
}

/// What is on a page of metrics and not in that page of the documentation.
pub(crate) fn undocumented<'a>(metrics: &'a str, document: &str) -> Vec<&'a str> {
    let document = page(document);
    let families = metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "));
    let names: Vec<&str> = families
        .filter_map(|family| family.split(' ').next())
        .collect();
    assert!(names.len() > 5, "metrics are found");
    names
        .into_iter()
        .filter(|name| !document.contains(&format!("`{name}`")))
        .collect()
}

/// The fenced blocks of `language`.
fn blocks<'a>(text: &'a str, language: &'a str) -> impl Iterator<Item = &'a str> {
    text.split("\n```")
        .filter_map(move |part| part.strip_prefix(language))
        .filter_map(|part| part.strip_prefix('\n'))
}

/// The group of our images is one that the host of a test need not have.
fn with_a_group_of_this_host(text: &str) -> String {
    assert!(text.contains("group: keyward"));
    text.replace("group: keyward", "group: root")
}

#[tokio::test]
async fn every_shipped_and_every_printed_configuration_of_the_daemon_is_accepted() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/keyward.yaml");
    let mut texts = vec![with_a_group_of_this_host(
        &std::fs::read_to_string(shipped).unwrap(),
    )];
    let config = page("config.md");
    let (daemon, _) = config.split_once("\n## The proxy\n").unwrap();
    texts.extend(blocks(daemon, "yaml").map(str::to_owned));
    assert!(texts.len() > 1, "blocks are found");
    let directory = open_directory();
    let file = directory.path().join("keyward.yaml");
    for text in texts {
        std::fs::write(&file, &text).unwrap();
        let ended = end(&mut keyward(&["check", "--config", file.to_str().unwrap()])).await;
        assert_eq!(ended.code, Some(0), "{text}\n{ended:?}");
    }
}

#[tokio::test]
async fn the_shipped_configuration_of_the_proxy_is_accepted() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/proxy.yaml");
    let ended = end(&mut command(
        &program("keyward-proxy"),
        &["--config", shipped, "--check"],
    ))
    .await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test]
async fn every_key_of_the_configuration_is_documented() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/config/keyward.yaml");
    let directory = open_directory();
    let file = directory.path().join("keyward.yaml");
    let text = with_a_group_of_this_host(&std::fs::read_to_string(shipped).unwrap());
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let json = end(&mut keyward(&["check", "--json", "--config", file]))
        .await
        .json();
    let config = page("config.md");
    for key in keys(&json["effective"]) {
        // Names of tunnels are the operator's.
        assert!(
            key == "main" || config.contains(&key),
            "{key} is not in docs/config.md"
        );
    }
}

#[tokio::test]
async fn every_key_of_the_status_and_every_metric_is_documented() {
    let place = Place::new(KEYWARD);
    let daemon = place.serve().await;
    let mut proxy = place.subscribe(Vec::new()).await;
    proxy.credential().await;
    let cli = page("cli.md");
    let status = place.keyward(&["status", "--json"]).await.json();
    for key in keys(&status) {
        let ours = ["main", "double"].contains(&key.as_str());
        let written = [format!(".{key}`"), format!("`{key}`"), format!("`{key}.")];
        let documented = written.iter().any(|form| cli.contains(form));
        // A report is the subscriber's and is described where the subscriber is.
        let reported = page("control.md").contains(&format!("`{key}`"));
        assert!(
            ours || documented || reported,
            "{key} is not in docs/cli.md"
        );
    }
    let url = format!("http://{}/metrics", daemon.health());
    let metrics = place.probe(STRANGER, "curl", &["-s", &url]).await.stdout;
    assert_eq!(undocumented(&metrics, "cli.md"), Vec::<&str>::new());
}

#[tokio::test]
async fn every_object_that_is_printed_is_json_and_every_command_and_flag_is_documented() {
    let cli = page("cli.md");
    let mut objects = 0;
    for block in blocks(&cli, "json") {
        serde_json::from_str::<serde_json::Value>(block).unwrap();
        objects += 1;
    }
    assert!(objects > 3, "blocks are found");
    let help = end(&mut keyward(&["--help"])).await.stdout;
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    for line in commands.lines() {
        let name = line.trim().split(' ').next().unwrap();
        if name == "help" {
            continue;
        }
        assert!(
            cli.contains(&format!("`{name}")),
            "{name} is not in docs/cli.md"
        );
        let help = end(&mut keyward(&[name, "--help"])).await.stdout;
        let flags = help
            .split_whitespace()
            .filter(|word| word.starts_with("--"));
        for flag in flags.filter(|flag| *flag != "--help") {
            let (flag, _) = flag.split_once("[=").unwrap_or((flag, ""));
            let flag = flag.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            assert!(cli.contains(flag), "{name} {flag} is not in docs/cli.md");
        }
    }
}

/// Every key of every object in `value`.
fn keys(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| [vec![key.clone()], keys(value)].concat())
            .collect(),
        serde_json::Value::Array(list) => list.iter().flat_map(keys).collect(),
        _ => Vec::new(),
    }
}
