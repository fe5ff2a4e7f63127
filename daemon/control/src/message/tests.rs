use super::*;

#[test]
fn an_unknown_kind_and_an_unknown_field_are_ignored() {
    let kind = serde_json::from_str::<FromDaemon>(r#"{"kind":"signer","x":[1,{"y":2}]}"#);
    assert_eq!(kind.expect("an unknown kind parses"), FromDaemon::Unknown);
    let field = r#"{"kind":"bye","why":"restart","until":"tomorrow"}"#;
    let bye = FromSubscriber::Bye(Bye {
        why: "restart".to_owned(),
    });
    assert_eq!(
        serde_json::from_str::<FromSubscriber>(field).expect("it parses"),
        bye
    );
}

#[test]
fn a_newer_minor_version_is_accepted_and_a_newer_major_one_is_not() {
    let newer = |text: &str| serde_json::from_str::<Version>(text).expect("a version");
    assert!(Version::CURRENT.accepts(newer("\"1.9\"")));
    assert!(!Version::CURRENT.accepts(newer("\"2.0\"")));
    assert!(serde_json::from_str::<Version>("\"1\"").is_err());
}

#[test]
fn a_report_reads_back() {
    let mut report = Report::default();
    report.tunnels.push(TunnelReport {
        connections: BTreeMap::from([(7, 3), (12, 1)]),
        ..TunnelReport::default()
    });
    let sent = FromSubscriber::Report(report);
    let text = serde_json::to_string(&sent).expect("it is written");
    let read: FromSubscriber = serde_json::from_str(&text).expect("it is read");
    assert_eq!(read, sent);
    let bad = text.replace("\"7\"", "\"seven\"");
    assert!(serde_json::from_str::<FromSubscriber>(&bad).is_err());
}

#[test]
fn a_hello_of_before_dials_nothing_and_one_that_dials_nothing_reads_as_before() {
    let text = r#"{"kind":"hello","protocol":"1.0","role":"proxy","tunnels":[],"replica":"r","build":"b","serving":[]}"#;
    let read: FromSubscriber = serde_json::from_str(text).expect("it is read");
    assert!(matches!(&read, FromSubscriber::Hello(hello) if hello.dials.is_empty()));
    assert_eq!(serde_json::to_string(&read).expect("it is written"), text);
}

#[test]
fn no_key_shows_in_debug() {
    let leaf = Leaf {
        chain: String::new(),
        key: Secret::new("canary".into()),
        not_after: 0,
    };
    assert!(!format!("{leaf:?}").contains("canary"));
}

#[test]
fn a_word_is_what_the_wire_has() {
    let words = [
        word(&Role::Proxy),
        word(&Resource::Credential),
        word(&Reason::KeyMismatch),
        word(&Refusal::UnknownTunnel),
        word(&Refusal::Replaced),
    ];
    let wanted = [
        "proxy",
        "credential",
        "key_mismatch",
        "unknown_tunnel",
        "replaced",
    ];
    assert_eq!(words, wanted);
}
