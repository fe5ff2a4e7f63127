//! When a connection ends.

use super::*;
use crate::access::Access;
use crate::directory::CredentialEntry;

#[test]
fn a_connection_ends_with_its_credential_and_when_its_tunnel_is_not_active() {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let entry = |standing, cut_at| TunnelEntry {
        id: "tnl_a".to_owned(),
        domain: "t.example".to_owned(),
        standing,
        credentials: vec![CredentialEntry {
            id: "one".to_owned(),
            sha256: [0; 32],
            accepts: true,
            cut_at,
        }],
        access: Access::default(),
    };
    let active = |cut_at| entry(Standing::Active, cut_at);
    assert_eq!(judge(&active(None), "one", at(5)).unwrap(), None);
    let end = Some(at(9));
    assert_eq!(judge(&active(end), "one", at(8)).unwrap(), end);
    let cut = |result| matches!(result, Err(Ended::Cut));
    assert!(cut(judge(&active(end), "one", at(9))));
    assert!(cut(judge(&active(None), "two", at(5))));
    for standing in [Standing::Suspended, Standing::Archived] {
        let ended = judge(&entry(standing, None), "one", at(5));
        assert!(matches!(ended, Err(Ended::Standing)), "{standing:?}");
    }
}
